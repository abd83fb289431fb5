"""Results of a detector that ran elsewhere, as a detector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.detection.base import Answer, Known
from camtrap_batch.detection.boxes import Boxes
from camtrap_batch.detection.results import (
    Detections,
    below_root,
    match_detections,
    match_frames,
    read_detections,
)
from camtrap_batch.detection.species import answers
from camtrap_batch.remote import redacted
from camtrap_batch.vocabulary import plural


@dataclass(frozen=True)
class ResultsDetector:
    """The results of a detector run elsewhere."""

    path: str
    detections: Detections
    images: str | None
    key: str

    help: ClassVar[str] = "results of MegaDetector (1.0 to 1.6) or SpeciesNet, as .json, .json.gz or .zip"

    @property
    def detector_id(self) -> str:
        return self.detections.hash

    @property
    def categories(self) -> tuple[str, ...]:
        return self.detections.categories

    @property
    def classified_by(self) -> str | None:
        """The classifier, as the results name it, otherwise the file; None: none was used."""
        if not self.detections.species:
            return None
        return self.detections.made_by or redacted(self.path).rpartition("/")[2]

    @classmethod
    def open(cls, path: str, *, images: str | None, key: str = "detect.results") -> ResultsDetector:
        """Read the results.

        Parameters
        ----------
        images : the image root

        Raises
        ------
        InputError
            As for `read_detections`.
        """
        return cls(path, read_detections(path, key), images, key)

    def match(self, rows: pa.Table) -> Known:
        found = self.detections
        names = rows["file_name"]
        whole = match_detections(found, names, self.path, images=self.images, key=self.key)
        listed = below_root(found.images["file_name"].combine_chunks(), self.images)
        row = pc.index_in(names, value_set=listed)
        lists = match_frames(found, whole, found.images["file_name"].take(row), rows["video_s"])
        # Nothing is known about an unexamined frame of an examined video.
        is_failed = pc.and_(row.is_valid(), whole.is_null())
        others = len(listed) - pc.sum(pc.is_in(listed, value_set=names.combine_chunks())).as_py()
        n, n_known = len(lists), len(lists) - lists.null_count
        notes = [f"{self.key}: boxes of {n_known:,} of {n:,} images"]
        if lists.null_count:
            notes[0] += f"; nothing is known of the other {lists.null_count:,}"
        if others:
            notes.append(f"{self.key}: {plural(others, 'entry matches', 'entries match')} no usable image")
        n_repeated = found.n_repeated + len(listed) - pc.count_distinct(listed).as_py()
        if n_repeated:
            notes.append(
                f"{self.key}: {plural(n_repeated, 'entry names', 'entries name')} a file again, left out"
            )
        if found.unlisted:
            ids = ", ".join(repr(id_) for id_ in list(found.unlisted)[:5])
            count = sum(found.unlisted.values())
            notes.append(
                f"{self.key}: {plural(count, 'box', 'boxes')} of categories not listed ({ids}), left out"
            )
        meta = {
            "file": redacted(self.path),
            "images": n_known,
            "without": lists.null_count,
            "entries_of_other_images": others,
            "entries_twice": n_repeated,
            "unlisted": dict(found.unlisted),
            **({"detector": found.detector} if found.detector else {}),
        }
        why = pc.if_else(is_failed, "unreadable", "no_result")
        why = pc.if_else(
            lists.is_valid(), "ok", why.combine_chunks() if isinstance(why, pa.ChunkedArray) else why
        )
        return Known(lists, why, meta, notes)

    def answers(self, rows: pa.Table, boxes: Boxes, empty: str) -> Answer:
        return answers(self.detections, self.images, rows, boxes, empty)
