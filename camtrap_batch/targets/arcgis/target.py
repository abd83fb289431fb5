"""Layers of ArcGIS as the target of a push: a job's layers together, their photos, and making them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Self

import pyarrow as pa

from camtrap_batch.errors import InputError, StageError
from camtrap_batch.portal import Portal, Service, connect
from camtrap_batch.store.run import Run
from camtrap_batch.targets.arcgis.attach import Attacher
from camtrap_batch.targets.arcgis.create import create_layers
from camtrap_batch.targets.arcgis.push import LayerPush
from camtrap_batch.targets.arcgis.section import PublishArcGIS
from camtrap_batch.targets.base import EDITS, LOCATION, LayerRows, Photo, Push, Wanted


@dataclass(frozen=True)
class ArcGISTarget:
    """Layers of one portal that a job's rows go to.

    Attributes
    ----------
    urls : layer (cameras, events, photos) -> URL; layers without one are not pushed
    names : layer -> column -> name of its field there, where it has another
    append : add and update rows by append jobs
    wants_photos : the job asks for the best photos to be attached
    portal : where the service is signed in
    utc_offset : of the cameras' clocks, such as "+02:00", where the job says it
    """

    service: Service
    job: str
    urls: Mapping[str, str]
    names: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    wanted: Wanted = field(default_factory=Wanted)
    append: bool = False
    wants_photos: bool = False
    portal: str = ""
    utc_offset: str | None = None

    section: ClassVar[type[PublishArcGIS]] = PublishArcGIS
    help: ClassVar[str] = "layers of a portal of ArcGIS"

    @classmethod
    def of(cls, run: Run, wanted: Wanted) -> Self:
        """The job's layers, signed in to their portal. Raises as `connect` does."""
        publish = run.job.publish
        assert isinstance(publish, PublishArcGIS)  # noqa: S101 - `target_of` goes by the section
        return cls(
            Service(connect(Portal.of(publish, "publish"), *publish.urls.values())),
            run.job.name,
            publish.urls,
            publish.fields,
            wanted,
            append=publish.append,
            wants_photos=publish.best_photos,
            portal=publish.portal,
            utc_offset=run.job.dataset.utc_offset,
        )

    def describe(self) -> str:
        """What it is, and where."""
        return f"{self.section.title} {self.portal}"

    def check(self, layers: Sequence[LayerRows]) -> None:
        """Raise InputError where no layer is named, or one can't take such rows; nothing is changed."""
        self._look(layers)

    def push(self, layers: Sequence[LayerRows], *, dry_run: bool = False) -> Push:
        """Bring the layers up to date. All are looked at before any is changed.

        Edits that failed have the server's reason as their `result`; those that were not sent, because of
        `stop` or of what `Push.stopped` says, have none.

        Raises
        ------
        InputError
            No layer is named; one is not there, lacks a right or a field that can't be added, takes no append
            jobs where they are asked for, or holds a key of another job.
        StageError
            More of a layer would be deleted than may be; nothing was sent.
        """
        works = self._look(layers)
        refused = [reason for work in works if (reason := work.plan())]
        notes = [f"a push stops here: {reason}" for reason in refused]
        stopped: StageError | None = None
        if not dry_run:
            if refused:
                raise StageError(f"publish: {refused[0]}")
            for work in works:
                work.prepare()
            stopped = self._send(works)
        return Push(
            pa.concat_tables([EDITS.empty_table(), *(work.table() for work in works)]),
            {work.remote.url: work.unchanged for work in works},
            [*(note for work in works for note in work.notes), *notes],
            stopped,
        )

    def attach(self, photos: Mapping[str, Sequence[Photo]], ours: re.Pattern[str]) -> list[str]:
        """See `TakesPhotos.attach`."""
        location = self.names.get("cameras", {}).get(LOCATION, LOCATION)
        attacher = Attacher(
            self.service,
            self.urls["cameras"],
            location_field=location,
            one_feature=True,
            stop=self.wanted.stop,
        )
        done = attacher.attach(photos) if photos else None
        gone = attacher.prune(ours, {photo.name for some in photos.values() for photo in some})
        if done is not None and done.failed:
            photo, why = next(iter(done.failed.items()))
            raise StageError(f"publish: {len(done.failed):,} best photos are not attached: {photo}: {why}")
        attached = done.attached if done is not None else 0
        return [f"{attached:,} best photos attached, {gone:,} taken away"] if attached or gone else []

    def create(self, layers: Sequence[LayerRows], labels: Sequence[str]) -> tuple[dict[str, str], list[str]]:
        """See `MakesLayers.create`; raises as `create_layers` does."""
        made, done = create_layers(
            self.service, self.job, layers, labels, self.urls, self.names, self.utc_offset
        )
        if made == self.urls:
            return {}, done
        return {"target": "arcgis", "portal": self.portal, **made}, done

    def _look(self, layers: Sequence[LayerRows]) -> list[LayerPush]:
        if not self.urls:
            raise InputError(
                "publish: no layer to push to: give publish.cameras, publish.events or publish.photos; "
                "`camtrap layer create JOB` makes them and prints their URLs"
            )
        return [
            LayerPush(
                self.service,
                self.job,
                rows,
                self.urls[rows.layer],
                self.names.get(rows.layer, {}),
                by_append=self.append,
                wanted=self.wanted,
            )
            for rows in layers
            if rows.layer in self.urls
        ]

    def _send(self, works: Sequence[LayerPush]) -> StageError | None:
        """Send what the layers lack; why the rest was not sent, or None."""
        for work in works:
            try:
                work.send()
            except StageError as problem:
                return problem
        return None
