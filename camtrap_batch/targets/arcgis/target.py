"""ArcGIS layers as the target of a push: all layers of a job, their photos, and their creation."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import pyarrow as pa

from camtrap_batch.errors import InputError, StageError
from camtrap_batch.job.publish import KEY
from camtrap_batch.portal import Portal, Service, connect
from camtrap_batch.store.run import Run
from camtrap_batch.targets.arcgis.attach import Attacher
from camtrap_batch.targets.arcgis.create import create_layers
from camtrap_batch.targets.arcgis.items import ItemText, item_of, publish_map, resolve_layers
from camtrap_batch.targets.arcgis.push import LayerPush
from camtrap_batch.targets.arcgis.section import ITEM, PublishArcGIS
from camtrap_batch.targets.base import EDITS, LOCATION, LayerRows, Photo, Push, Wanted
from camtrap_batch.vocabulary import plural


@dataclass(frozen=True)
class ArcGISTarget:
    """Layers of one portal that a job's rows go to.

    Attributes
    ----------
    urls : layer (cameras, events, photos) -> URL; layers without one are not pushed
    names : layer -> column -> name of its field there, if that differs
    append : whether to add and update rows by append jobs
    wants_photos, wants_event_photos : whether the job asks for the best photos to be attached
    about : `dataset.about`, for new items
    hides : what must not be seen by everyone on these layers, and what would be right; None: all may
    key : their section of the job file
    portal : the portal where the service is signed in
    utc_offset : offset of the cameras' clocks, such as "+02:00", if the job gives it
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
    wants_event_photos: bool = False
    about: str | Mapping[str, Any] | None = None
    hides: str | None = None
    key: str = KEY

    section: ClassVar[type[PublishArcGIS]] = PublishArcGIS
    help: ClassVar[str] = "layers of a portal of ArcGIS"

    @classmethod
    def of(cls, run: Run, wanted: Wanted) -> Self:
        """The job's layers, signed in to their portal. Raises like `connect`."""
        publish = run.job.publish
        assert isinstance(publish, PublishArcGIS)  # noqa: S101 - `target_of` goes by the section
        known = [url for url in publish.urls.values() if not ITEM.fullmatch(url)]
        service = Service(connect(Portal.of(publish, publish.key), *known))
        urls = resolve_layers(service, publish.urls, publish.key)
        source = run.job.dataset.metadata
        for layer, url in urls.items():
            if source is not None and url.rstrip("/") == source.rstrip("/"):
                raise InputError(
                    f"{publish.key}.{layer}: {url} is the layer that the job reads, and never edits"
                )
        return cls(
            service,
            run.job.name,
            urls,
            publish.fields,
            # What people may no longer see is not left there for somebody to ask for `--prune`.
            replace(wanted, prune=wanted.prune or publish.is_public),
            append=publish.append,
            wants_photos=publish.best_photos,
            portal=publish.portal,
            utc_offset=run.job.dataset.utc_offset,
            wants_event_photos=publish.event_photos,
            about=run.job.dataset.about,
            hides=_hidden(publish),
            key=publish.key,
        )

    def describe(self) -> str:
        """What it is, and where."""
        return f"{self.section.title} {self.portal}"

    def identities(self) -> dict[str, str]:
        """See `HasIdentity.identities`: layers named by their items are known by their URLs."""
        return {url.rstrip("/").lower(): f"{layer}: {url}" for layer, url in self.urls.items()}

    def check(self, layers: Sequence[LayerRows]) -> None:
        """Raise InputError if no layer is named, or one can't take such rows, or shows them to everyone;
        nothing is changed."""
        self._look(layers)
        self._require_not_for_everyone()

    def push(self, layers: Sequence[LayerRows], *, dry_run: bool = False) -> Push:
        """Bring the layers up to date. All are examined before any is changed.

        Failed edits have the server's reason as their `result`; those that were not sent, because of `stop`
        or for the reason in `Push.stopped`, have none.

        Raises
        ------
        InputError
            No layer is named; one is missing, lacks a right or a field that can't be added, does not take
            append jobs although they are asked for, or holds a key of another job.
        StageError
            More of a layer would be deleted than is allowed; nothing was sent.
        """
        works = self._look(layers)
        self._require_not_for_everyone()
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
        return self._attach("cameras", LOCATION, [photos] if photos else [], ours)

    def attach_to_events(
        self, photos: Iterable[Mapping[str, Sequence[Photo]]], ours: re.Pattern[str]
    ) -> list[str]:
        """See `TakesEventPhotos.attach_to_events`."""
        return self._attach("events", "event_id", photos, ours)

    def _attach(
        self, layer: str, key: str, parts: Iterable[Mapping[str, Sequence[Photo]]], ours: re.Pattern[str]
    ) -> list[str]:
        attacher = Attacher(
            self.service,
            self.urls[layer],
            location_field=self.names.get(layer, {}).get(key, key),
            one_feature=True,
            stop=self.wanted.stop,
        )
        attached, wanted = 0, set[str]()
        for photos in parts:
            if self.wanted.stop.is_set():
                return [f"{attached:,} best photos attached to {layer}; the same command goes on"]
            done = attacher.attach(photos)
            if done.failed:
                photo, why = next(iter(done.failed.items()))
                raise StageError(
                    f"publish: {plural(len(done.failed), 'best photo is', 'best photos are')} not attached: "
                    f"{photo}: {why}"
                )
            attached += done.attached
            wanted |= {photo.name for some in photos.values() for photo in some}
        gone = attacher.prune(ours, wanted)
        to = "" if layer == "cameras" else f" to {layer}"
        return [f"{attached:,} best photos attached{to}, {gone:,} removed"] if attached or gone else []

    def create(self, layers: Sequence[LayerRows], labels: Sequence[str]) -> tuple[dict[str, str], list[str]]:
        """See `MakesLayers.create`; raises as `create_layers` does."""
        text = ItemText.of(self.job, self.about)
        made, done = create_layers(
            self.service, self.job, layers, labels, self.urls, self.names, self.utc_offset, text, self.key
        )
        if made == self.urls:
            return {}, done
        return {"target": "arcgis", "portal": self.portal, **made}, done

    def make_map(self, labels: Sequence[str]) -> list[str]:
        """See `MakesMaps.make_map`."""
        if not self.urls:
            raise InputError(f"layer map: no layer to draw: give {_named(self.key)}")
        text = ItemText.of(self.job, self.about)
        if self.key != KEY:  # beside the map of the full layers
            text = replace(text, title=f"{text.title} (public)")
        done = publish_map(self.service, self.job, self.urls, labels, text, self.key)
        return [f"item {done.item_id} {'added' if done.added else 'updated'}: {done.url}"]

    def _look(self, layers: Sequence[LayerRows]) -> list[LayerPush]:
        if not self.urls:
            raise InputError(
                f"publish: no layer to push to: give {_named(self.key)}; "
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

    def _require_not_for_everyone(self) -> None:
        """Raise InputError if a layer shows to everyone what is not for everyone."""
        for layer, url in self.urls.items() if self.hides is not None else ():
            item = item_of(self.service, url)
            if getattr(item, "access", None) == "public":
                raise InputError(
                    f"{self.key}.{layer}: {url} is shared with everyone, and would hold {self.hides}, or "
                    "share it with fewer"
                )

    def _send(self, works: Sequence[LayerPush]) -> StageError | None:
        """Send what the layers lack; returns why the rest was not sent, or None."""
        for work in works:
            try:
                work.send()
            except StageError as problem:
                return problem
        return None


def _hidden(publish: PublishArcGIS) -> str | None:
    """What a job's layers hold that is not for everyone, and where that should go instead."""
    if publish.is_public:
        return None
    if publish.second is not None:
        return "exact positions and people; name the layer for everyone in publish.public"
    if publish.sensitive is not None:
        return "exact positions of publish.sensitive; set publish.public: true"
    return None


def _named(key: str) -> str:
    return f"{key}.cameras, {key}.events or {key}.photos"
