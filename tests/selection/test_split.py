from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camtrap_batch.errors import JobError
from camtrap_batch.job import Select, Split
from camtrap_batch.selection.choice import select
from camtrap_batch.selection.classes import Classes
from camtrap_batch.selection.split import duplicate_pairs, groups_of, split
from camtrap_batch.store.schemas import CATALOG

CLASSES = Classes({0: "empty", 1: "lion", 2: "tiger", 7: "lion"}, "empty")


def labelled(n_locations: int, per_location: int = 10) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    rng = np.random.default_rng(0)
    location = np.repeat([f"camera {number}" for number in range(n_locations)], per_location).astype(object)
    label = rng.choice(["lion", "tiger", "empty"], len(location), p=[0.2, 0.3, 0.5]).astype(object)
    return label, location


@settings(max_examples=20, deadline=None)
@given(st.integers(6, 30), st.sampled_from([0.1, 0.2, 0.3]), st.sampled_from([0.0, 0.2]), st.integers(0, 5))
def test_no_location_is_on_two_sides(n_locations: int, valid: float, test: float, seed: int) -> None:
    label, location = labelled(n_locations)
    side = split(label, location, Split(valid=valid, test=test), seed)
    assert set(side) == {"train", "valid"} | ({"test"} if test else set())
    for place in set(location):
        assert len(set(side[location == place])) == 1
    assert set(label[side == "train"]) == {"lion", "tiger", "empty"}


def test_location_split_keeps_classes_in_proportion() -> None:
    label, location = labelled(60)
    side = split(label, location, Split(valid=0.2), 42)
    for name in ("lion", "tiger", "empty"):
        part = np.count_nonzero((label == name) & (side == "valid")) / np.count_nonzero(label == name)
        assert 0.14 < part < 0.26
    assert (side == split(label, location, Split(valid=0.2), 42)).all()


def test_random_split_divides_images() -> None:
    label, location = labelled(2, 50)
    side = split(label, location, Split(by="random", valid=0.2), 42)
    assert np.count_nonzero(side == "valid") == 20
    assert len(set(side[location == "camera 0"])) == 2


def test_class_with_too_few_locations_is_named() -> None:
    label, location = labelled(10)
    label[location != "camera 0"] = "empty"
    label[0], label[-1] = "lion", "lion"
    label[1] = "tiger"
    with pytest.raises(JobError, match=r"too few have: tiger \(1\)"):
        split(label, location, Split(valid=0.2), 42)


def catalog_rows(
    locations: list[str | None], sequences: list[str | None], deployments: list[str | None] | None = None
) -> pa.Table:
    n = len(locations)
    return pa.table(
        {
            "image_id": pa.chunked_array([[f"i{number}" for number in range(n)]]),
            "file_name": [f"{number}.jpg" for number in range(n)],
            "location": pa.array(locations, pa.string()),
            "deployment": pa.array(deployments or [None] * n, pa.string()),
            "seq_id": pa.array(sequences, pa.string()),
            "labels": pa.array(
                [[{"category_id": 1 + number % 2, "name": "", "count": 1}] for number in range(n)],
                CATALOG.field("labels").type,
            ),
            "labelled_by": pa.nulls(n, pa.string()),
        }
    )


def groups(*arguments: Any, kept: list[int] | None = None, found: pa.Table | None = None) -> list[int]:
    table = catalog_rows(*arguments)
    rows = np.arange(table.num_rows) if kept is None else np.array(kept)
    return groups_of(table, rows, duplicate_pairs(table["image_id"], found)).tolist()


def test_a_group_is_a_location_and_what_shares_a_sequence_with_it() -> None:
    assert groups(["b", "a", "b", "c"], [None] * 4) == [1, 0, 1, 2]
    assert groups(["b", "a", "b", "c"], ["s", "s", None, "t"]) == [0, 0, 0, 2]
    # The location that one frame lacks is known from the others of its sequence.
    assert groups([None, "a", "b"], ["s", "s", "t"]) == [0, 0, 1]


def test_without_location_a_deployment_or_a_sequence_is_a_group_and_the_rest_is_one() -> None:
    found = groups(["a", None, None, None, None, None, None], [None, "s", "s", "t", None, None, "u"],
                   [None, None, None, "d", None, None, "d"])  # fmt: skip
    assert found[1] == found[2]
    assert found[3] == found[6]
    assert found[4] == found[5]
    assert len({found[0], found[1], found[3], found[4]}) == 4


def test_a_name_that_many_locations_use_is_no_sequence_of_theirs() -> None:
    assert len(set(groups(list("abcde"), ["1"] * 5))) == 1
    assert len(set(groups(list("abcdef"), ["1"] * 6))) == 6


def test_duplicates_tie_locations_also_through_an_image_that_is_dropped() -> None:
    found = pa.table(
        {
            "image_id": ["i1", "i2", "i3"],
            "kind": ["exact_duplicate", "near_duplicate", "clock_reset"],
            "other_image_id": ["i0", "i0", "i0"],
        }
    )
    assert groups(list("abcd"), [None] * 4, kept=[1, 2, 3], found=found) == [0, 0, 2]


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([0.0, 0.2]))
def test_nothing_that_belongs_together_is_divided(seed: int, test: float) -> None:
    rng = np.random.default_rng(seed)
    n = 400
    location = np.where(rng.random(n) < 0.2, None, rng.integers(0, 25, n).astype(str).astype(object))
    sequence = np.where(rng.random(n) < 0.2, None, (np.arange(n) // 2).astype(str).astype(object))
    sequence[::50] = "shared"  # at many locations: no sequence
    copies = rng.choice(n, 6, replace=False)
    found = pa.table(
        {
            "image_id": [f"i{number}" for number in copies],
            "kind": ["exact_duplicate"] * 6,
            "other_image_id": [f"i{number}" for number in rng.choice(n, 6)],
        }
    )
    rows = catalog_rows(location.tolist(), sequence.tolist())
    how = Select(split=Split(valid=0.2, test=test), max_per_location=30)
    table, meta = select(rows, pa.chunked_array([["ok"] * n]), CLASSES, found, how)
    frame = table.to_pandas().assign(location=location, sequence=sequence).set_index("image_id")
    kept = frame[frame["split"].notna()]
    assert (kept.groupby("location")["split"].nunique() == 1).all()
    assert (kept[kept["sequence"] != "shared"].groupby("sequence")["split"].nunique() == 1).all()
    for copy, original in zip(
        found["image_id"].to_pylist(), found["other_image_id"].to_pylist(), strict=True
    ):
        if {copy, original} <= set(kept.index):
            assert kept.loc[copy, "split"] == kept.loc[original, "split"]
    assert meta["across"]["locations"][0] == 0
    total = sum(sum(row[0] for row in by_split.values()) for by_split in meta["by_class"].values())
    assert total == len(kept)
    assert kept.groupby("location").size().max() <= 30


def test_a_split_that_comes_to_nothing_is_refused() -> None:
    label = np.array(["lion"] * 3 + ["tiger"] * 3, object)
    with pytest.raises(JobError, match=r"select.split.valid: 0.05 of 6 selected images comes to none"):
        split(label, np.arange(6), Split(by="random", valid=0.05), 1)


def test_one_huge_location_does_not_spoil_the_proportions() -> None:
    rng = np.random.default_rng(1)
    location = np.concatenate([np.zeros(4000, int), rng.integers(1, 60, 6000)])
    label = rng.choice(["lion", "tiger"], len(location)).astype(object)
    side = split(label, location, Split(valid=0.2), 3)
    for name in ("lion", "tiger"):
        part = np.count_nonzero((label == name) & (side == "valid")) / np.count_nonzero(label == name)
        assert 0.16 < part < 0.24


def test_very_many_groups_are_divided_in_seconds() -> None:
    """A data set without locations has a group for each sequence."""
    sequence = np.repeat(np.arange(8_000), 3)
    label = (
        np.random.default_rng(0).choice(["a", "b", "c"], len(sequence), p=[0.9, 0.09, 0.01]).astype(object)
    )
    side = split(label, sequence, Split(valid=0.2), 3)
    frame = np.stack([sequence, side == "valid"])
    assert len(np.unique(frame, axis=1)[0]) == 8_000
    assert 0.18 < np.mean(side[label == "c"] == "valid") < 0.22
