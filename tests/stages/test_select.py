from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camtrap_batch.errors import JobError
from camtrap_batch.job import Job, Split
from camtrap_batch.selection.classes import Classes, choose_classes
from camtrap_batch.stages import select
from camtrap_batch.store.schemas import CATALOG
from camtrap_batch.vocabulary import USABLE

CATEGORIES = [(0, "empty"), (1, "lion"), (2, "tiger"), (3, "cow"), (7, "lion")]
CLASSES = Classes({0: "empty", 1: "lion", 2: "tiger", 7: "lion"}, "empty")


def job(**select_keys: Any) -> Job:
    content = {
        "name": "x",
        "output": "runs",
        "dataset": {"format": "cct", "metadata": "a", "images": "b"},
        "select": select_keys,
    }
    from pathlib import Path

    return Job.parse(content, base=Path())


def rows(*annotations: list[int], file_name: str = "a.jpg") -> pa.Table:
    labels = [[{"category_id": number, "name": "", "count": 1} for number in each] for each in annotations]
    return pa.table(
        {"file_name": [file_name] * len(labels), "labels": pa.array(labels, CATALOG.field("labels").type)}
    )


def choose(
    *annotations: list[int], status: str = "ok", file_name: str = "a.jpg"
) -> tuple[list[str], list[str]]:
    statuses = pa.chunked_array([[status] * len(annotations)])
    label, reason = select.choose(rows(*annotations, file_name=file_name), statuses, CLASSES, list(USABLE))
    return label.tolist(), reason.tolist()


def test_each_row_has_one_reason() -> None:
    label, reason = choose([1], [7, 7], [0], [3], [], [1, 2], [3, 2], [0, 2], [0, 3])
    assert label == ["lion", "lion", "empty", "", "", "", "tiger", "tiger", ""]
    assert reason == [
        select.KEPT,
        select.KEPT,
        select.KEPT,
        select.NOT_CHOSEN,
        select.NO_ANNOTATION,
        select.SEVERAL_CLASSES,
        select.KEPT,
        select.KEPT,
        select.NOT_CHOSEN,
    ]


def test_broken_files_and_videos_are_dropped_by_status_and_name() -> None:
    assert choose([1], status="corrupt") == ([""], ["status: corrupt"])
    assert choose([1], status="truncated") == (["lion"], [select.KEPT])
    assert choose([1], status="not_image", file_name="a/b.AVI") == ([""], [select.VIDEO])


def test_findings_drop_what_is_kept_so_far_for_the_first_kind_named() -> None:
    label = np.array(["lion", "lion", "", "tiger", "lion"], object)
    reason = np.array([select.KEPT, select.KEPT, select.VIDEO, select.KEPT, select.KEPT], object)
    kinds = ["clock_reset", "exact_duplicate", "exact_duplicate", "near_duplicate", "clock_reset"]
    found = pa.table({"image_id": ["b", "b", "c", "d", "e"], "kind": kinds})
    ids = pa.chunked_array([["a", "b", "c", "d", "e"]])
    select.drop_found(label, reason, ids, found, ["exact_duplicate", "clock_reset"])
    assert label.tolist() == ["lion", "", "", "tiger", ""]
    expected = [select.KEPT, "finding: exact_duplicate", select.VIDEO, select.KEPT, "finding: clock_reset"]
    assert reason.tolist() == expected


@given(st.integers(0, 300), st.floats(0, 1))
def test_thinning_keeps_the_fraction_and_only_touches_empties(n: int, fraction: float) -> None:
    label = np.array(["empty"] * n + ["lion"] * 5, object)
    reason = np.full(n + 5, select.KEPT, object)
    select.thin_out(label, reason, "empty", fraction, np.random.default_rng(42))
    assert np.count_nonzero(label == "empty") == round(n * fraction)
    assert (label[n:] == "lion").all()
    assert ((label == "") == (reason == select.THINNED)).all()


def test_thinning_is_the_same_for_the_same_seed() -> None:
    first, second = (np.array(["empty"] * 50, object) for _ in range(2))
    for label in (first, second):
        select.thin_out(label, np.full(50, select.KEPT, object), "empty", 0.5, np.random.default_rng(42))
    assert (first == second).all()


def labelled(n_locations: int, per_location: int = 10) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    rng = np.random.default_rng(0)
    location = np.repeat([f"camera {number}" for number in range(n_locations)], per_location).astype(object)
    label = rng.choice(["lion", "tiger", "empty"], len(location), p=[0.2, 0.3, 0.5]).astype(object)
    return label, location


@settings(max_examples=20, deadline=None)
@given(st.integers(6, 30), st.sampled_from([0.1, 0.2, 0.3]), st.sampled_from([0.0, 0.2]), st.integers(0, 5))
def test_no_location_is_on_two_sides(n_locations: int, valid: float, test: float, seed: int) -> None:
    label, location = labelled(n_locations)
    side = select.split(label, location, Split(valid=valid, test=test), seed)
    assert set(side) == {"train", "valid"} | ({"test"} if test else set())
    for place in set(location):
        assert len(set(side[location == place])) == 1
    assert set(label[side == "train"]) == {"lion", "tiger", "empty"}


def test_location_split_keeps_classes_in_proportion() -> None:
    label, location = labelled(60)
    side = select.split(label, location, Split(valid=0.2), 42)
    for name in ("lion", "tiger", "empty"):
        part = np.count_nonzero((label == name) & (side == "valid")) / np.count_nonzero(label == name)
        assert 0.14 < part < 0.26
    assert (side == select.split(label, location, Split(valid=0.2), 42)).all()


def test_random_split_divides_images() -> None:
    label, location = labelled(2, 50)
    side = select.split(label, location, Split(by="random", valid=0.2), 42)
    assert np.count_nonzero(side == "valid") == 20
    assert len(set(side[location == "camera 0"])) == 2


def test_class_with_too_few_locations_is_named() -> None:
    label, location = labelled(10)
    label[location != "camera 0"] = "empty"
    label[0], label[-1] = "lion", "lion"
    label[1] = "tiger"
    with pytest.raises(JobError, match=r"too few have: tiger \(1\)"):
        select.split(label, location, Split(valid=0.2), 42)


def test_every_class_weighs_the_same() -> None:
    label = np.array(["lion"] * 10 + ["tiger"] * 30 + ["empty"] * 60, object)
    weight = select.balanced_weights(label)
    sums = {name: weight[label == name].sum() for name in set(label)}
    assert max(sums.values()) - min(sums.values()) < 1e-3
    assert weight.mean() == pytest.approx(1)


def test_classes_by_id_and_name() -> None:
    chosen = choose_classes(job(classes=["Lion", 2]), CATEGORIES)
    assert chosen.labels == {0: "empty", 1: "lion", 2: "tiger", 7: "lion"}
    assert chosen.ids_by_label == {"empty": [0], "lion": [1, 7], "tiger": [2]}
    assert choose_classes(job(), CATEGORIES).labels[3] == "cow"
    assert 0 not in choose_classes(job(empty={"fraction": 0.0}), CATEGORIES).labels


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"classes": ["lionn"]}, r"select.classes: the data set has no class 'lionn'; did you mean 'lion'\?"),
        ({"classes": [99]}, r"select.classes: the data set has no class 99; possible: 0, 1, 2, 3, 7"),
        ({"empty": {"class": "blank"}}, "select.empty.class: the data set has no class 'blank'"),
    ],
)
def test_unknown_class_is_named_with_the_choices(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(JobError, match=message):
        choose_classes(job(**keys), CATEGORIES)


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
        }
    )


def groups(*arguments: Any, kept: list[int] | None = None, found: pa.Table | None = None) -> list[int]:
    table = catalog_rows(*arguments)
    rows = np.arange(table.num_rows) if kept is None else np.array(kept)
    return select.groups_of(table, rows, select.duplicate_pairs(table["image_id"], found)).tolist()


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
    how = job(split={"valid": 0.2, "test": test}, max_per_location=30).select
    table, meta = select.select(rows, pa.chunked_array([["ok"] * n]), CLASSES, found, how)
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


def test_caps_keep_so_many_and_say_why() -> None:
    label = np.array(["lion"] * 50 + ["tiger"] * 10 + [""] * 5, object)
    reason = np.where(label == "", select.VIDEO, select.KEPT).astype(object)
    codes = np.array([0] * 50 + [1] * 5 + [-1] * 10)
    select.cap(label, reason, codes, 7, select.OVER_LOCATION, np.random.default_rng(0))
    assert np.count_nonzero(label == "lion") == 7
    assert np.count_nonzero(label == "tiger") == 10
    assert np.count_nonzero(reason == select.OVER_LOCATION) == 43
    assert set(reason[60:]) == {select.VIDEO}
    assert not np.array_equal(np.flatnonzero(label == "lion"), np.arange(7))


def test_counts_name_what_is_across_a_random_split_and_call_it_leaky() -> None:
    label = np.array(["lion", "lion", "tiger", "tiger"], object)
    side = np.array(["train", "valid", "train", "train"], object)
    counted = select.count(label, side, np.array([0, 0, 1, -1]), np.array([5, 5, 5, -1]))
    assert counted == {
        "by_class": {"lion": {"train": [1, 1, 1], "valid": [1, 1, 1]}, "tiger": {"train": [2, 1, 1]}},
        "across": {"sequences": [1, 2], "locations": [1, 2]},
        "without_location": 1,
    }
    lines = select.describe({**counted, "split_by": "random"})
    assert [line.split() for line in lines[:3]] == [
        ["images/sequences/locations", "train", "valid"],
        ["lion", "1/1/1", "1/1/1"],
        ["tiger", "2/1/1", "0/0/0"],
    ]
    assert "leaky, 1 of 2 sequences and 1 of 2 locations" in lines[3]
    assert "1 images have no location" in select.describe({**counted, "split_by": "location"})[-1]


def test_a_split_that_comes_to_nothing_is_refused() -> None:
    label = np.array(["lion"] * 3 + ["tiger"] * 3, object)
    with pytest.raises(JobError, match=r"select.split.valid: 0.05 of 6 selected images comes to none"):
        select.split(label, np.arange(6), Split(by="random", valid=0.05), 1)


def test_one_huge_location_does_not_spoil_the_proportions() -> None:
    rng = np.random.default_rng(1)
    location = np.concatenate([np.zeros(4000, int), rng.integers(1, 60, 6000)])
    label = rng.choice(["lion", "tiger"], len(location)).astype(object)
    side = select.split(label, location, Split(valid=0.2), 3)
    for name in ("lion", "tiger"):
        part = np.count_nonzero((label == name) & (side == "valid")) / np.count_nonzero(label == name)
        assert 0.16 < part < 0.24


def test_very_many_groups_are_divided_in_seconds() -> None:
    """A data set without locations has a group for each sequence."""
    sequence = np.repeat(np.arange(8_000), 3)
    label = (
        np.random.default_rng(0).choice(["a", "b", "c"], len(sequence), p=[0.9, 0.09, 0.01]).astype(object)
    )
    side = select.split(label, sequence, Split(valid=0.2), 3)
    frame = np.stack([sequence, side == "valid"])
    assert len(np.unique(frame, axis=1)[0]) == 8_000
    assert 0.18 < np.mean(side[label == "c"] == "valid") < 0.22
