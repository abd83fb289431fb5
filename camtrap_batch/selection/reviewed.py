"""What people said in review, in place of a data set's own labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.selection.classes import Categories
from camtrap_batch.vocabulary import EMPTY

_EMPTY_ID = 0


def extended(categories: Categories, labels: Sequence[str]) -> list[tuple[int, str]]:
    """The data set's categories, and further ones that people named, with numbers below 0.

    \"empty\" is category 0 if nothing else is, which is what `select.empty.class` says by default.
    """
    found = list(categories)
    said = {label.casefold(): label for label in sorted(labels, reverse=True)}
    known = {name.casefold() for _, name in found}
    if EMPTY in set(said) - known and _EMPTY_ID not in {number for number, _ in found}:
        found.append((_EMPTY_ID, EMPTY))
        known.add(EMPTY)
    new = [said[name] for name in sorted(set(said) - known)]
    return found + [(-number, label) for number, label in enumerate(new, 1)]


def overrule(rows: pa.Table, said: pa.Table, categories: Categories, empty: str | None) -> pa.Table:
    """The catalog's rows, with the labels that people gave if they gave any.

    Parameters
    ----------
    said : row (in `rows`), label and count of everything that counts now
    categories : `extended`
    empty : name of the category without an animal, which \"empty\" also means
    """
    number_of, names = _numbers(categories, empty), dict(categories)
    labels: dict[int, list[dict[str, Any]]] = {}
    for row, label, count in zip(
        *(said[name].to_pylist() for name in ("row", "label", "count")), strict=True
    ):
        number = number_of[label.casefold()]
        labels.setdefault(row, []).append({"category_id": number, "name": names[number], "count": count})
    order = sorted(labels)
    kind = rows.schema.field("labels").type
    index = np.full(rows.num_rows, -1)
    index[order] = np.arange(len(order))
    theirs = pa.array([labels[row] for row in order], kind).take(pa.array(index, mask=index < 0))
    column = pc.if_else(pa.array(index >= 0), theirs, rows["labels"].combine_chunks())
    return rows.set_column(rows.schema.get_field_index("labels"), "labels", column)


def told_of(said: pa.Table, categories: Categories, empty: str | None) -> dict[int, list[dict[str, Any]]]:
    """Row -> what people said about it, as in the column `told` of the table selection.

    Parameters
    ----------
    said : row, label, box, of everything that counts now
    """
    number_of, names = _numbers(categories, empty), dict(categories)
    told: dict[int, list[dict[str, Any]]] = {}
    for row, label, box in zip(*(said[name].to_pylist() for name in ("row", "label", "box")), strict=True):
        told.setdefault(row, []).append({"label": names[number_of[label.casefold()]], "box": box})
    return told


def _numbers(categories: Categories, empty: str | None) -> dict[str, int]:
    """Name, in lower case, -> number of the category; "empty" means the one without an animal."""
    number_of: dict[str, int] = {}
    for number, name in categories:
        number_of.setdefault(name.casefold(), number)
    if empty is not None:
        number_of.setdefault(EMPTY, number_of[empty.casefold()])
    return number_of
