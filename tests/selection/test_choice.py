from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from camtrap_batch.selection import choice
from camtrap_batch.selection.classes import Classes
from camtrap_batch.store.schemas import CATALOG
from camtrap_batch.vocabulary import USABLE

CLASSES = Classes({0: "empty", 1: "lion", 2: "tiger", 7: "lion"}, "empty")


def rows(*annotations: list[int], file_name: str = "a.jpg") -> pa.Table:
    labels = [[{"category_id": number, "name": "", "count": 1} for number in each] for each in annotations]
    return pa.table(
        {
            "file_name": [file_name] * len(labels),
            "labels": pa.array(labels, CATALOG.field("labels").type),
            "labelled_by": pa.nulls(len(labels), pa.string()),
        }
    )


def choose(
    *annotations: list[int], status: str = "ok", file_name: str = "a.jpg"
) -> tuple[list[str], list[str]]:
    statuses = pa.chunked_array([[status] * len(annotations)])
    label, reason = choice.choose(rows(*annotations, file_name=file_name), statuses, CLASSES, list(USABLE))
    return label.tolist(), reason.tolist()


def test_each_row_has_one_reason() -> None:
    label, reason = choose([1], [7, 7], [0], [3], [], [1, 2], [3, 2], [0, 2], [0, 3])
    assert label == ["lion", "lion", "empty", "", "", "", "tiger", "tiger", ""]
    assert reason == [
        choice.KEPT,
        choice.KEPT,
        choice.KEPT,
        choice.NOT_CHOSEN,
        choice.NO_ANNOTATION,
        choice.SEVERAL_CLASSES,
        choice.KEPT,
        choice.KEPT,
        choice.NOT_CHOSEN,
    ]


def by(machine: list[str | None], *annotations: list[int]) -> pa.Table:
    table = rows(*annotations)
    return table.set_column(2, "labelled_by", pa.array(machine, pa.string()))


def test_a_machines_labels_are_not_learnt_from_beside_those_of_people() -> None:
    table = choice.of_people(by([None, "SpeciesNet", None, None], [1], [2], [0], []))
    label, reason = choice.choose(table, pa.chunked_array([["ok"] * 4]), CLASSES, list(USABLE))
    assert label.tolist() == ["lion", "", "empty", ""]
    assert reason.tolist() == [choice.KEPT, choice.MACHINE, choice.KEPT, choice.NO_ANNOTATION]


def test_of_a_machines_labels_alone_one_learns_from_those() -> None:
    table = by(["SpeciesNet", "SpeciesNet", None], [1], [2], [])
    assert choice.of_people(table) is table


def test_broken_files_and_videos_are_dropped_by_status_and_name() -> None:
    assert choose([1], status="corrupt") == ([""], ["status: corrupt"])
    assert choose([1], status="truncated") == (["lion"], [choice.KEPT])
    assert choose([1], status="not_image", file_name="a/b.AVI") == ([""], [choice.VIDEO])


def test_findings_drop_what_is_kept_so_far_for_the_first_kind_named() -> None:
    label = np.array(["lion", "lion", "", "tiger", "lion"], object)
    reason = np.array([choice.KEPT, choice.KEPT, choice.VIDEO, choice.KEPT, choice.KEPT], object)
    kinds = ["clock_reset", "exact_duplicate", "exact_duplicate", "near_duplicate", "clock_reset"]
    found = pa.table({"image_id": ["b", "b", "c", "d", "e"], "kind": kinds})
    ids = pa.chunked_array([["a", "b", "c", "d", "e"]])
    choice.drop_found(label, reason, ids, found, ["exact_duplicate", "clock_reset"])
    assert label.tolist() == ["lion", "", "", "tiger", ""]
    expected = [choice.KEPT, "finding: exact_duplicate", choice.VIDEO, choice.KEPT, "finding: clock_reset"]
    assert reason.tolist() == expected


@given(st.integers(0, 300), st.floats(0, 1))
def test_thinning_keeps_the_fraction_and_only_touches_empties(n: int, fraction: float) -> None:
    label = np.array(["empty"] * n + ["lion"] * 5, object)
    reason = np.full(n + 5, choice.KEPT, object)
    choice.thin_out(label, reason, "empty", fraction, np.random.default_rng(42))
    assert np.count_nonzero(label == "empty") == round(n * fraction)
    assert (label[n:] == "lion").all()
    assert ((label == "") == (reason == choice.THINNED)).all()


def test_thinning_is_the_same_for_the_same_seed() -> None:
    first, second = (np.array(["empty"] * 50, object) for _ in range(2))
    for label in (first, second):
        choice.thin_out(label, np.full(50, choice.KEPT, object), "empty", 0.5, np.random.default_rng(42))
    assert (first == second).all()


def test_every_class_weighs_the_same() -> None:
    label = np.array(["lion"] * 10 + ["tiger"] * 30 + ["empty"] * 60, object)
    weight = choice.balanced_weights(label)
    sums = {name: weight[label == name].sum() for name in set(label)}
    assert max(sums.values()) - min(sums.values()) < 1e-3
    assert weight.mean() == pytest.approx(1)


def test_caps_keep_so_many_and_say_why() -> None:
    label = np.array(["lion"] * 50 + ["tiger"] * 10 + [""] * 5, object)
    reason = np.where(label == "", choice.VIDEO, choice.KEPT).astype(object)
    codes = np.array([0] * 50 + [1] * 5 + [-1] * 10)
    choice.cap(label, reason, codes, 7, choice.OVER_LOCATION, np.random.default_rng(0))
    assert np.count_nonzero(label == "lion") == 7
    assert np.count_nonzero(label == "tiger") == 10
    assert np.count_nonzero(reason == choice.OVER_LOCATION) == 43
    assert set(reason[60:]) == {choice.VIDEO}
    assert not np.array_equal(np.flatnonzero(label == "lion"), np.arange(7))


def test_counts_name_what_is_across_a_random_split_and_call_it_leaky() -> None:
    label = np.array(["lion", "lion", "tiger", "tiger"], object)
    side = np.array(["train", "valid", "train", "train"], object)
    counted = choice.count(label, side, np.array([0, 0, 1, -1]), np.array([5, 5, 5, -1]))
    assert counted == {
        "by_class": {"lion": {"train": [1, 1, 1], "valid": [1, 1, 1]}, "tiger": {"train": [2, 1, 1]}},
        "across": {"sequences": [1, 2], "locations": [1, 2]},
        "without_location": 1,
    }
    lines = choice.describe({**counted, "split_by": "random"})
    assert [line.split() for line in lines[:3]] == [
        ["images/sequences/locations", "train", "valid"],
        ["lion", "1/1/1", "1/1/1"],
        ["tiger", "2/1/1", "0/0/0"],
    ]
    assert "leaky, 1 of 2 sequences and 1 of 2 locations" in lines[3]
    assert "1 image has no location" in choice.describe({**counted, "split_by": "location"})[3]
    assert lines[-1] == "no valid image of tiger (2 train / 0 valid)"
