"""What people say about images, from metadata and corrections: one row for each image and label.

`SAID` is the table with which `events.human` replaces what the machine says.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.codes import one_chunk
from camtrap_batch.errors import BrokenPromise
from camtrap_batch.events.sequences import TRAIT_TYPES

SAID = pa.schema([("row", pa.int64()), ("label", pa.string()), ("count", pa.int32()), *TRAIT_TYPES.items()])
"""`row`: number of the image among the usable ones."""


class Names:
    """The spelling of people's labels: that of the class they name, whatever their case.

    Parameters
    ----------
    empty : label that means that there is no animal
    known : classes of the model, and categories of the data set; the first spelling counts

    >>> names = Names("empty", ["Lion", "lion"])
    >>> names.of(pa.array(["LION", "oryx", "Empty"])).to_pylist()
    ['Lion', 'oryx', 'empty']
    """

    def __init__(self, empty: str, known: Iterable[str]) -> None:
        self._known: dict[str, str] = {}
        for name in (empty, *known):
            self._known.setdefault(name.casefold(), name)

    def of(self, labels: pa.Array) -> pa.Array:
        coded = labels.dictionary_encode()
        names = [self._known.get(name.casefold(), name) for name in coded.dictionary.to_pylist()]
        return pa.array(names, pa.string()).take(coded.indices)


def of_metadata(catalog: pa.Table, usable: pa.ChunkedArray, names: Names) -> pa.Table:
    """The labels that the metadata give usable images (`SAID`), without those of machines.

    Parameters
    ----------
    catalog : image_id, labels and labelled_by, of each image
    usable : ids of the usable images, in the catalog's order
    """
    ids = one_chunk(catalog["image_id"])
    row_of = one_chunk(pc.index_in(ids, one_chunk(usable))).fill_null(-1).to_numpy().astype(np.int64)
    if np.count_nonzero(row_of >= 0) != len(usable):
        raise BrokenPromise("merge: the catalog does not have the manifest's images; run validate again")
    row_of[one_chunk(catalog["labelled_by"]).is_valid().to_numpy(zero_copy_only=False)] = -1
    labels = one_chunk(catalog["labels"])
    row = row_of[pc.list_parent_indices(labels).to_numpy()]
    found = pc.list_flatten(labels)
    counts = found.field("count")
    told = pa.table({"row": row, "label": names.of(found.field("name")), "count": counts.cast(pa.int32())})
    told = told.filter(pc.and_(pc.greater_equal(told["row"], 0), pc.is_valid(told["label"])))
    # Two categories with one name are the same.
    together = told.group_by(["row", "label"], use_threads=False).aggregate([("count", "sum")])
    return _whole(together.rename_columns({"count_sum": "count"}))


def of_corrections(standing: pa.Table) -> pa.Table:
    """Corrections as returned by `store.corrections.standing` (`SAID`).

    Each box of an image with some label counts as one animal of it.
    """
    told = _whole(standing.rename_columns({"who": "classified_by", "when": "classified_at"}))
    of_box = pc.equal(standing["scope"], "box")
    told = told.set_column(2, "count", pc.if_else(of_box, pc.fill_null(told["count"], 1), told["count"]))
    first = [(name, "first") for name in TRAIT_TYPES]
    together = told.group_by(["row", "label"], use_threads=False).aggregate([("count", "sum"), *first])
    return _whole(
        together.rename_columns({"count_sum": "count", **{f"{name}_first": name for name in TRAIT_TYPES}})
    )


def one_of_each(metadata: pa.Table, corrections: pa.Table | None) -> pa.Table:
    """What was said last about each image: corrections replace what the metadata say about it."""
    if corrections is None:
        return metadata
    is_corrected = pc.is_in(metadata["row"], one_chunk(corrections["row"]))
    return pa.concat_tables([metadata.filter(pc.invert(is_corrected)), corrections])


def _whole(told: pa.Table) -> pa.Table:
    n = told.num_rows
    return pa.table(
        [
            told[field.name].cast(field.type) if field.name in told.column_names else pa.nulls(n, field.type)
            for field in SAID
        ],
        schema=SAID,
    )
