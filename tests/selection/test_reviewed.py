"""What people said in review, in the place of a data set's own labels; and the honesty of what is judged."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from camtrap_batch.job import Select
from camtrap_batch.selection import choice
from camtrap_batch.selection.choice import Reviewed
from camtrap_batch.selection.classes import Classes
from camtrap_batch.selection.reviewed import extended, overrule
from camtrap_batch.store.schemas import CATALOG

CATEGORIES = [(0, "empty"), (1, "lion"), (2, "tiger")]
CLASSES = Classes(dict(CATEGORIES), "empty")


def rows(*labels: list[int], location: str = "a") -> pa.Table:
    n = len(labels)
    marks = [[{"category_id": number, "name": dict(CATEGORIES)[number], "count": 1} for number in each]
             for each in labels]  # fmt: skip
    nothing = pa.nulls(n, pa.string())
    return pa.table(
        {
            "image_id": [f"{location}{number:02}" for number in range(n)],
            "file_name": [f"{location}{number:02}.jpg" for number in range(n)],
            "location": [location] * n,
            "deployment": nothing,
            "seq_id": nothing,
            "labels": pa.array(marks, CATALOG.field("labels").type),
            "labelled_by": nothing,
        }
    )


def said(**labels: str) -> pa.Table:
    """Row -> label, as `r3="lion"`."""
    numbers = [int(name[1:]) for name in labels]
    return pa.table({"row": numbers, "label": list(labels.values()), "count": [None] * len(numbers)})


def test_what_people_say_wins_over_the_metadata() -> None:
    found = overrule(rows([1], [1], [], [0]), said(r1="TIGER", r2="empty"), CATEGORIES, "empty")
    names = [[mark["name"] for mark in marks] for marks in found["labels"].to_pylist()]
    assert names == [["lion"], ["tiger"], ["empty"], ["empty"]]
    assert found.schema == rows([1]).schema


def test_two_species_of_one_image_stand_beside_each_other() -> None:
    both = pa.table({"row": [0, 0], "label": ["lion", "tiger"], "count": [1, 2]})
    (marks,) = overrule(rows([0]), both, CATEGORIES, "empty")["labels"].to_pylist()
    assert [(mark["name"], mark["count"]) for mark in marks] == [("lion", 1), ("tiger", 2)]


def test_a_label_that_is_in_no_list_is_a_class_without_numbers_of_the_data_set() -> None:
    categories = extended(CATEGORIES, ["okapi", "Lion", "bongo", "Okapi"])
    assert categories == [*CATEGORIES, (-1, "bongo"), (-2, "Okapi")]
    found = overrule(rows([1]), said(r0="okapi"), categories, "empty")
    assert found["labels"].to_pylist()[0][0]["category_id"] == -2
    assert Classes(dict(categories), "empty").ids_by_label["Okapi"] == []


def test_empty_is_category_0_where_the_data_set_has_none() -> None:
    assert extended([(1, "lion")], ["empty"]) == [(1, "lion"), (0, "empty")]
    assert extended([(0, "blank"), (1, "lion")], ["empty"]) == [(0, "blank"), (1, "lion"), (-1, "empty")]


def select(
    table: pa.Table, is_new: list[bool], is_drawn: list[bool] | None = None, **how: Any
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    new, drawn = np.array(is_new), np.array(is_drawn or [False] * len(is_new))
    settings = Select.model_validate({"empty": {"fraction": 1.0}, "split": {"valid": 0.34}, **how})
    statuses = pa.chunked_array([["ok"] * table.num_rows])
    reviewed = Reviewed(new, new, drawn)
    found, meta = choice.select(table, statuses, CLASSES, None, settings, reviewed=reviewed)
    chosen: list[dict[str, Any]] = found.to_pylist()
    return chosen, meta


def test_what_was_reviewed_for_its_doubt_is_learnt_from_and_judges_nothing() -> None:
    cameras = [rows(*[[1], [2], [0]] * 3, [1], [2], location=name) for name in "abcdef"]
    table = pa.concat_tables(cameras)
    is_new = ([False] * 9 + [True] * 2) * len(cameras)
    chosen, meta = select(table, is_new)
    reviewed = [row for row, new in zip(chosen, is_new, strict=True) if new]
    assert {row["split"] for row in reviewed} == {"train", None}
    assert {row["reason"] for row in reviewed if row["split"] is None} == {choice.REVIEWED}
    unseen = {row["image_id"][0] for row in chosen if row["split"] == "valid"}
    assert {row["image_id"][0] for row in reviewed if row["split"] is None} == unseen
    assert meta["reviewed"] == {"kept": 2 * (6 - len(unseen)), "new": 2 * (6 - len(unseen)),
                                "left_out": 2 * len(unseen)}  # fmt: skip
    assert any("no random sample" in line for line in choice.describe(meta))


def test_what_was_drawn_at_random_judges() -> None:
    cameras = [rows(*[[1], [2], [0]] * 3, [1], [2], location=name) for name in "abcdef"]
    is_new = ([False] * 9 + [True] * 2) * len(cameras)
    is_drawn = ([False] * 9 + [True, False]) * len(cameras)
    chosen, meta = select(pa.concat_tables(cameras), is_new, is_drawn)
    drawn = [row for row, one in zip(chosen, is_drawn, strict=True) if one]
    assert {row["split"] for row in drawn} == {"train", "valid"}
    others = [row for row, new, one in zip(chosen, is_new, is_drawn, strict=True) if new and not one]
    assert {row["split"] for row in others} == {"train", None}
    assert meta["reviewed"]["left_out"] == sum(row["split"] is None for row in others)


def test_where_all_labels_are_from_review_they_judge() -> None:
    table = pa.concat_tables([rows(*[[1], [2], [0]] * 3, location=name) for name in "abcdef"])
    chosen, meta = select(table, [True] * table.num_rows)
    assert {row["split"] for row in chosen} == {"train", "valid"}
    assert meta["reviewed"]["left_out"] == 0


def test_a_class_that_a_side_lacks_is_named_whatever_the_split() -> None:
    table = pa.concat_tables([rows(*[[1], [0]] * 6, location=name) for name in "abcd"])
    labels = table["labels"].to_pylist()
    for row in range(3):
        labels[row] = [{"category_id": 2, "name": "tiger", "count": 1}]
    column = pa.array(labels, CATALOG.field("labels").type)
    table = table.set_column(table.schema.get_field_index("labels"), "labels", column)
    for seed in range(20):
        how = {"split": {"by": "random", "valid": 0.1}, "seed": seed}
        chosen, meta = select(table, [False] * table.num_rows, **how)
        sides = [row["split"] for row in chosen if row["label"] == "tiger"]
        lines = [line for line in choice.describe(meta) if "image of tiger" in line]
        assert lines == (
            [] if set(sides) == {"train", "valid"} else ["no valid image of tiger (3 train / 0 valid)"]
        )
        if lines:
            return
    raise AssertionError("no seed leaves valid without a tiger")
