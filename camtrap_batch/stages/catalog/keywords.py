"""People's labels from the keywords that they gave their photos in camtrapR, digiKam, Lightroom, Windows.

Keywords are in the photos, which the driver does not open: the part `keywords` fans out over them, a worker
reads what precedes the picture in each JPEG, and the table `keywords` keeps what it finds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.catalog.keywords import labels_of_keywords
from camtrap_batch.errors import InputError
from camtrap_batch.images.decode import JPEG, one_line
from camtrap_batch.images.keywords import Keywords, read_keywords
from camtrap_batch.images.sources.base import is_unsafe
from camtrap_batch.job import Label
from camtrap_batch.pipeline.context import Context
from camtrap_batch.pipeline.rows import texts
from camtrap_batch.pipeline.stage import Made, Part, TableSpec
from camtrap_batch.stages.catalog.asking import ENTRY, AskShard, ask_files
from camtrap_batch.store.schemas import CATALOG
from camtrap_batch.vocabulary import IMAGE_ENDINGS, counted, ending_of

PART = Part("keywords", 1, (TableSpec("keywords", "each photo, where keywords are labels (dataset.label)"),))

_BEFORE_THE_PICTURE = 2**18  # bytes: three segments of 64 kB, and those of the EXIF block
_MOST = 2**28
_SIDECAR, _SIDECAR_MODIFIED = "sidecar", "sidecar_modified"


def ask_keywords(context: Context, of: str, read: Callable[[], pa.Table]) -> tuple[str | None, list[str]]:
    """Bring the table `keywords` up to date with the photos in the metadata, using `ask_files`.

    `read`: the rows of the metadata.
    """

    def photos() -> pa.Table:
        rows = read().select(["image_id", "file_name"])
        is_photo = [ending_of(name or "") in IMAGE_ENDINGS for name in texts(rows["file_name"])]
        return rows.filter(pa.array(is_photo))

    return ask_files(
        context,
        of,
        photos,
        lambda folder, root, timeout_s: AskKeywords(folder, (PART.name, ""), root, timeout_s),
    )


def with_keywords(made: Made, keywords: pa.Table, how: Label, where: str) -> Made:
    """The catalog with the labels that its photos' keywords give, their categories, and notes.

    Raises
    ------
    InputError
        The metadata also have labels; or no photo has a keyword that is a label.
    """
    catalog = made.tables["catalog"]
    if pc.any(pc.greater(pc.list_value_length(catalog["labels"]), 0)).as_py():
        raise InputError(f"{where}: has labels of its own: leave out dataset.label, or those")
    row = pc.index_in(catalog["image_id"], value_set=keywords["image_id"].combine_chunks())
    notes: Counter[str] = Counter()
    labels, categories = labels_of_keywords(keywords.take(row.combine_chunks()), how, notes)
    table = catalog.set_column(CATALOG.names.index("labels"), CATALOG.field("labels"), labels)
    kept = {text: count for text, count in {**made.meta["notes"], **notes}.items() if count}
    meta = {"categories": categories, "notes": kept}
    return Made({"catalog": table}, meta, [counted(n, text) for text, n in kept.items()])


class AskKeywords(AskShard):
    """Reads the keywords of the photos of a shard, on a worker."""

    part: ClassVar[Part] = PART
    shard_size: ClassVar[int] = 1000

    @property
    def settings(self) -> list[Any]:
        return []

    def with_others(self, rows: pa.Table) -> pa.Table:
        """The .xmp file beside each photo, if there is one, and its version."""
        names = texts(rows["file_name"])
        # digiKam and darktable keep the photo's ending, Lightroom does not.
        candidates = [*(f"{name}.xmp" for name in names), *(f"{_stem(name)}.xmp" for name in names)]
        listing = self.root.listing(candidates)
        there = (listing.sizes >= 0).reshape(2, -1)
        sidecar = np.full(len(names), None, object)
        modified = np.full(len(names), None, object)
        for row in np.flatnonzero(there.any(axis=0)).tolist():
            at = row if there[0, row] else len(names) + row
            sidecar[row], modified[row] = candidates[at], listing.modified[at]
        rows = rows.append_column(_SIDECAR, pa.array(sidecar, pa.string()))
        return rows.append_column(_SIDECAR_MODIFIED, pa.array(modified, pa.string()))

    def ask(self, rows: pa.Table) -> Iterator[dict[str, Any]]:
        columns = ["file_name", _SIDECAR, *([ENTRY] if ENTRY in rows.column_names else [])]
        with ThreadPoolExecutor(self.root.reads_at_once) as pool:
            yield from pool.map(self._keywords, rows.select(columns).to_pylist())

    def _keywords(self, row: dict[str, Any]) -> dict[str, Any]:
        if is_unsafe(row["file_name"]):
            return {"status": "unsafe_path"}
        try:
            data = self.root.read(row["file_name"], _BEFORE_THE_PICTURE, row.get(ENTRY))
            if not data.startswith(JPEG) and len(data) > _BEFORE_THE_PICTURE:  # it may be at the end
                data = self.root.read(row["file_name"], _MOST, row.get(ENTRY))
            sidecar = b"" if row[_SIDECAR] is None else self.root.read(row[_SIDECAR], _MOST)
        except (FileNotFoundError, NotADirectoryError):
            return {"status": "missing"}
        except OSError as problem:
            return {"status": "unreadable", "detail": problem.strerror or one_line(problem)}
        found: Keywords = read_keywords(data, sidecar)
        return {
            "status": "ok",
            "keywords": list(found.flat),
            "paths": ["|".join(path) for path in found.paths],
        }


def _stem(name: str) -> str:
    ending = ending_of(name)
    return name[: -len(ending)] if ending else name
