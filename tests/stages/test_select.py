from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camtrap_batch.errors import JobError
from camtrap_batch.job import Job, Split
from camtrap_batch.stages import select
from camtrap_batch.stages.classes import Classes, choose_classes
from camtrap_batch.store.schemas import CATALOG, USABLE

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
