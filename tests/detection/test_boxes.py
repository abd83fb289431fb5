"""From boxes to the label of an image."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from camtrap_batch.detection.boxes import Look, Rules
from camtrap_batch.detection.stored import REPEATABLE
from camtrap_batch.store.schemas import CROPS

CLASSES = ("empty", "lion", "zebra")
ANIMAL, PERSON, VEHICLE = 0, 1, 2
LION, ZEBRA, NOTHING = [0.1, 0.8, 0.1], [0.2, 0.1, 0.7], [0.9, 0.05, 0.05]


def look(*images: list[tuple[int, float]] | None, repeats: tuple[int, ...] = (), **rules: Any) -> Look:
    """Images as lists of (category, confidence); `repeats` are numbers of boxes."""
    number = iter(range(1000))
    rows = [
        None
        if boxes is None
        else [
            {
                "x": 0.1, "y": 0.2, "w": 0.3, "h": 0.4, "confidence": confidence, "category": category,
                "repeat": 0 if next(number) in repeats else None,
            }
            for category, confidence in boxes
        ]
        for boxes in images
    ]  # fmt: skip
    settings = {"threshold": 0.2, "animal": ANIMAL, "empty": "empty", **rules}
    return Look.at(pa.array(rows, pa.list_(REPEATABLE)), Rules(("animal", "person", "vehicle"), **settings))


def frames(
    seen: Look, answers: dict[int, list[list[float]]], classes: tuple[str, ...] = CLASSES
) -> tuple[list[tuple[str, float] | None], list[int]]:
    """Label and confidence of each image; animals."""
    n = 1 + max([*seen.rows_of, *seen.whole, *answers, 0])
    probabilities = np.full((n, len(classes)), np.nan, np.float32)
    arrays = {row: np.float32(answer) for row, answer in answers.items()}
    named, n_animals = seen.frames(probabilities, arrays, classes)
    labels = [
        named.get(
            row,
            None if np.isnan(values[0]) else (classes[values.argmax()], pytest.approx(float(values.max()))),
        )
        for row, values in enumerate(probabilities)
    ]
    return labels, n_animals.tolist()


def test_an_animal() -> None:
    seen = look([(ANIMAL, 0.9), (ANIMAL, 0.1), (PERSON, 0.3)])
    assert seen.boxes_by_row() == {0: [pytest.approx((0.1, 0.2, 0.3, 0.4))]}
    assert frames(seen, {0: [LION]}) == ([("lion", 0.8)], [1])


def test_the_most_convincing_box_names_the_image() -> None:
    seen = look([(ANIMAL, 0.5), (ANIMAL, 0.9)])
    assert frames(seen, {0: [LION, ZEBRA]}) == ([("zebra", 0.7)], [2])  # 0.9 x 0.7 is more than 0.5 x 0.8


def test_a_box_that_is_found_empty_is_no_animal() -> None:
    seen = look([(ANIMAL, 0.9), (ANIMAL, 0.3)], [(ANIMAL, 0.9), (ANIMAL, 0.3)])
    labels, n_animals = frames(seen, {0: [NOTHING, LION], 1: [NOTHING, [0.6, 0.2, 0.2]]})
    assert labels == [("lion", 0.8), ("empty", 0.9)]
    assert n_animals == [1, 0]


def test_nothing_above_the_threshold() -> None:
    seen = look([], [(ANIMAL, 0.15)], [(PERSON, 0.19)], [(ANIMAL, 0.2)])
    assert list(seen.boxes_by_row()) == [3]
    labels, n_animals = frames(seen, {3: [LION]})
    assert labels == [("empty", 0.99), ("empty", 0.85), ("empty", 0.81), ("lion", 0.8)]
    assert n_animals == [0, 0, 0, 1]


def test_a_high_threshold_leaves_an_image_empty() -> None:
    seen = look([(ANIMAL, 0.8)], [(PERSON, 0.9)], threshold=0.95)
    assert frames(seen, {}) == ([("empty", 0.51), ("empty", 0.51)], [0, 0])


def test_a_model_without_a_class_for_empty() -> None:
    assert frames(look([]), {}, ("lion", "zebra"))[0] == [("empty", 0.99)]
    assert frames(look([(ANIMAL, 0.9)]), {0: [[0.3, 0.7]]}, ("lion", "zebra")) == ([("zebra", 0.7)], [1])


def test_people_and_vehicles() -> None:
    seen = look([(PERSON, 0.9), (ANIMAL, 0.4)], [(VEHICLE, 0.5)], [(PERSON, 0.6), (ANIMAL, 0.6)])
    labels, n_animals = frames(seen, {0: [LION], 2: [ZEBRA]})
    assert labels == [
        ("person", pytest.approx(0.9)),
        ("vehicle", pytest.approx(0.5)),
        ("zebra", pytest.approx(0.7)),
    ]
    assert n_animals == [1, 0, 1]


def test_repeats_do_not_count() -> None:
    seen = look([(ANIMAL, 0.9)], [(ANIMAL, 0.9), (ANIMAL, 0.4)], [(PERSON, 0.9)], repeats=(0, 1, 3))
    assert list(seen.boxes_by_row()) == [1]
    labels, n_animals = frames(seen, {1: [LION]})
    assert labels == [("empty", 0.99), ("lion", 0.8), ("empty", 0.99)]
    assert n_animals == [0, 1, 0]


def test_images_without_boxes_and_those_that_can_not_be_decoded() -> None:
    seen = look(None, [(ANIMAL, 0.9)], [(ANIMAL, 0.9)])
    assert seen.whole.tolist() == [0]
    assert frames(seen, {2: [LION]}) == ([None, None, ("lion", 0.8)], [0, 1, 1])


def test_the_table_has_every_box_that_was_classified() -> None:
    seen = look([(PERSON, 0.9), (ANIMAL, 0.4)], None, [(ANIMAL, 0.9), (ANIMAL, 0.8)], repeats=(2,))
    answers = {0: np.float32([LION]), 2: np.float32([ZEBRA])}
    table = seen.table(pa.chunked_array([["a", "b", "c"]]), answers, CLASSES, 2).cast(CROPS)
    assert table["image_id"].to_pylist() == ["a", "c"]
    assert table["box"].to_pylist() == [1, 1]
    assert table["label"].to_pylist() == ["lion", "zebra"]
    assert table["confidence"].to_pylist() == [pytest.approx(0.8), pytest.approx(0.7)]
    assert [entry["label"] for entry in table["top5"].to_pylist()[1]] == ["zebra", "empty"]
    assert seen.table(pa.chunked_array([["a", "b", "c"]]), {}, CLASSES, 5).cast(CROPS).num_rows == 0
