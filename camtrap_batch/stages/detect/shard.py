"""What a worker does with a shard of images: find the boxes in each."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa

from camtrap_batch import phases
from camtrap_batch.detection.base import Finder, Found, PictureDetector, Tally
from camtrap_batch.detection.library import load_finder
from camtrap_batch.detection.stored import to_lists, to_tables
from camtrap_batch.engine.base import Requirement, WorkerContext
from camtrap_batch.images import ImageRoot
from camtrap_batch.images.pictures import read_pictures
from camtrap_batch.pipeline.rows import unpack
from camtrap_batch.runtime import Device, Precision
from camtrap_batch.store.folder import Folder
from camtrap_batch.store.shards import Receipt, Shard
from camtrap_batch.store.tables import finish_shard

NOTHING = "nothing"
"""The key under which images without a box that counts are reported to whoever watches."""


@dataclass(frozen=True)
class DetectShard:
    """Finds animals in the images of a shard, on a worker.

    Attributes
    ----------
    kept : folder with the detector's files
    animal : the category whose boxes are animals
    precision : the precision to compute in
    threshold : minimum confidence of boxes that count, only for whoever watches: no row depends on it
    """

    folder: Folder
    plan: tuple[str, str]
    root: ImageRoot
    kept: Folder
    detector: PictureDetector
    animal: str
    batch: int
    use_thumbnails: bool
    timeout_s: float
    threshold: float
    device: Device = "cpu"
    precision: Precision = "float32"
    divisible: ClassVar[bool] = True

    @property
    def image_root(self) -> ImageRoot | None:
        return None if self.use_thumbnails else self.root

    @property
    def requirement(self) -> Requirement | None:
        """What the detector requires of a worker; a detector from another package may require nothing."""
        requires = getattr(self.detector, "requires", None)
        return None if requires is None else requires(self.device, self.precision)

    def run(self, shard: Shard, payload: bytes, here: WorkerContext) -> Receipt:
        started = time.monotonic()
        rows = unpack(payload)
        finder = self.finder(here.threads, self.precision)
        loaded_s = time.monotonic() - started
        phases.enter("read and forward")  # at the same time
        tally = Tally()
        found: list[Found | None] = [None] * rows.num_rows
        order: list[int] = []
        for number, answer in enumerate(finder.find(self.pictures(rows, order), tally)):
            if isinstance(answer, Found):
                found[order[number]] = answer
        seconds = {"load": loaded_s, "read": tally.read_s, "forward": tally.forward_s}
        return self._finish(shard, rows, found, started, worker=here.name, seconds=seconds)

    def crashed(self, shard: Shard, payload: bytes) -> Receipt:
        rows = unpack(payload)
        return self._finish(shard, rows, [None] * rows.num_rows, time.monotonic(), without="crashed")

    def finder(self, threads: int, precision: Precision) -> Finder:
        """The detector, loaded on this worker."""
        return load_finder(self.detector, self.kept, self.device, threads, self.batch, precision)

    def pictures(self, rows: pa.Table, order: list[int]) -> Iterator[bytes]:
        """Contents of the image files that can be read; the row of each is added to `order`.

        Images of one size follow one another: the network is prepared for each new shape.
        """
        sizes = [rows[name].fill_null(0).to_numpy() for name in ("width", "height")]
        by_size = np.lexsort(sizes)
        move = phases.progress()
        for at, data, _ in read_pictures(
            self.folder,
            self.root,
            rows.take(pa.array(by_size)),
            use_thumbnails=self.use_thumbnails,
            timeout_s=self.timeout_s,
        ):
            move()
            if data is not None:
                order.append(int(by_size[at]))
                yield data

    def _finish(
        self,
        shard: Shard,
        rows: pa.Table,
        found: Sequence[Found | None],
        started: float,
        *,
        worker: str = "driver",
        seconds: Mapping[str, float] | None = None,
        without: str = "unreadable",
    ) -> Receipt:
        status = ["ok" if one is not None else without for one in found]
        tables = to_tables(
            rows["image_id"],
            to_lists(found),
            pa.array(status, pa.string()),
            categories=self.detector.categories,
            detector_id=self.detector.detector_id,
            animal=self.animal,
        )
        return finish_shard(
            self.folder,
            self.plan,
            shard,
            tables,
            counts=dict(Counter(status)),
            seconds=dict(seconds or {}),
            started=started,
            worker=worker,
            result={
                "boxes": tables["boxes"].num_rows,
                "failed": sum(one is None for one in found),
                "labels": self._seen(found),
            },
        )

    def _seen(self, found: Sequence[Found | None]) -> dict[str, int]:
        """Images by what counts in them; one may show several."""
        seen: Counter[str] = Counter()
        for one in found:
            if one is not None:
                here = np.unique(one.category[one.confidence >= self.threshold]).tolist()
                seen.update([self.detector.categories[number] for number in here] or [NOTHING])
        return dict(seen)
