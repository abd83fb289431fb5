"""What a detector found, written as rows of the tables `detected`, `boxes` and `detections`, and read
back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.detection.base import Found, meaning
from camtrap_batch.detection.results import BOX

SIDES = ("x", "y", "w", "h")
REPEATABLE = pa.struct([*BOX, pa.field("repeat", pa.int32())])
"""`BOX`, and the number of the spot where a camera repeats it; null if it is not a repeat."""


def to_lists(found: Sequence[Found | None]) -> pa.ListArray:
    """Lists of `BOX`, one per picture; null for None."""
    some = [one if one is not None else Found.nothing() for one in found]
    lengths = [len(one) for one in some]
    boxes = np.concatenate([np.empty((0, 4), np.float32), *(one.boxes for one in some)])
    confidence = np.concatenate([np.empty(0, np.float32), *(one.confidence for one in some)])
    category = np.concatenate([np.empty(0, np.int16), *(one.category for one in some)])
    values = pa.StructArray.from_arrays(
        [*(pa.array(boxes[:, side]) for side in range(4)), pa.array(confidence), pa.array(category)],
        fields=list(BOX),
    )
    offsets = pa.array(np.cumsum([0, *lengths]), pa.int32())
    return pa.ListArray.from_arrays(
        offsets, values, mask=pa.array([one is None for one in found], pa.bool_())
    )


def to_tables(
    image_ids: pa.ChunkedArray,
    lists: pa.ListArray,
    status: pa.Array,
    *,
    categories: Sequence[str],
    detector_id: str,
    animal: str,
    labels: pa.Array | None = None,
) -> dict[str, pa.Table]:
    """Rows of `detected`, one for each image, and of `boxes`.

    Parameters
    ----------
    lists : lists of `BOX`, null if nothing is known about the image
    status : the reason for these; ok for the others
    animal : the category whose boxes are animals
    labels : label of each box, if people drew it
    """
    n = len(lists)
    values = lists.flatten()
    lengths = pc.list_value_length(lists)
    row_of = np.repeat(np.arange(n), lengths.fill_null(0).to_numpy())
    kinds = [meaning(name, animal) for name in categories]
    category = values.field("category").to_numpy()
    unknown = lists.is_null()
    counts = {}
    for column, kind in (("n_animals", "animal"), ("n_people", "person"), ("n_vehicles", "vehicle")):
        mine = np.isin(category, [number for number, one in enumerate(kinds) if one == kind])
        number = np.bincount(row_of[mine], minlength=n).astype(np.int32)
        counts[column] = pc.if_else(unknown, pa.scalar(None, pa.int32()), pa.array(number))
    surest = np.zeros(n, np.float32)
    np.maximum.at(surest, row_of, values.field("confidence").to_numpy())
    none = pc.less_equal(lengths.fill_null(0), 0)
    detected = pa.table(
        {
            "image_id": image_ids,
            "status": status,
            "n_boxes": lengths,
            **counts,
            "max_confidence": pc.if_else(none, pa.scalar(None, pa.float32()), pa.array(surest)),
            "detector_id": pa.array([detector_id] * n, pa.string()),
        }
    )
    boxes = pa.table(
        {
            "image_id": image_ids.take(pa.array(row_of)),
            **{side: values.field(side) for side in SIDES},
            "category": pa.array(list(categories), pa.string()).take(values.field("category")),
            "confidence": values.field("confidence"),
            "label": pa.nulls(len(values), pa.string()) if labels is None else labels,
        }
    )
    return {"detected": detected, "boxes": boxes}


def to_column(n_boxes: pa.ChunkedArray, boxes: pa.Table, categories: Sequence[str]) -> pa.ListArray:
    """Lists of `REPEATABLE` (or of `BOX`, if the rows have no `repeat`), from rows of the tables.

    Parameters
    ----------
    n_boxes : number of boxes in each image, null if nothing is known about it
    boxes : the boxes, in the same order of images
    """
    lengths = n_boxes.fill_null(0).to_numpy().astype(np.int64)
    index = pc.index_in(boxes["category"], value_set=pa.array(list(categories), pa.string()))
    fields = [field for field in REPEATABLE if field.name in boxes.column_names]
    columns = [
        (index if field.name == "category" else boxes[field.name]).cast(field.type) for field in fields
    ]
    values = pa.StructArray.from_arrays(
        [column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column for column in columns],
        fields=fields,
    )
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
    mask = n_boxes.is_null()
    return pa.ListArray.from_arrays(
        offsets, values, mask=mask.combine_chunks() if isinstance(mask, pa.ChunkedArray) else mask
    )
