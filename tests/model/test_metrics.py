from __future__ import annotations

import json

import numpy as np
import pytest

from camtrap_batch.model.metrics import bootstrap, evaluate

CLASSES = ["empty", "lion", "tiger", "heron"]


def certain(predicted: list[int]) -> np.ndarray:
    return np.eye(4, dtype=np.float32)[predicted] * 0.7 + 0.075


def test_figures_by_hand() -> None:
    truth = np.array([0, 0, 0, 0, 1, 1])
    predicted = [0, 0, 0, 1, 1, 2]
    night = np.array([False, False, True, True, False, False])
    found = evaluate(certain(predicted), truth, CLASSES, ["a", "a", "a", "b", "b", "c"], night)
    assert found["n_images"] == 6
    assert found["n_locations"] == 3
    assert found["accuracy"] == pytest.approx(4 / 6)
    assert found["balanced_accuracy"] == pytest.approx((3 / 4 + 1 / 2) / 2)
    # F1 of empty: precision 1, recall 3/4; of lion: precision 1/2, recall 1/2
    assert found["macro_f1"] == pytest.approx((6 / 7 + 1 / 2) / 2)
    assert found["confusion"] == [[3, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert found["per_class"]["empty"] == {
        "precision": 1.0,
        "recall": 0.75,
        "f1": pytest.approx(6 / 7),
        "support": 4,
    }
    assert found["per_class"]["tiger"] == {"precision": 0.0, "recall": None, "f1": None, "support": 0}
    assert found["per_class"]["heron"]["precision"] is None
    assert found["classes_without_images"] == ["tiger", "heron"]
    assert found["by_light"] == {"day": {"n": 4, "accuracy": 0.75}, "night": {"n": 2, "accuracy": 0.5}}
    assert found["by_location"] == {
        "a": {"n": 3, "accuracy": 1.0},
        "b": {"n": 2, "accuracy": 0.5},
        "c": {"n": 1, "accuracy": 0.0},
    }
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_light_unknown() -> None:
    assert evaluate(certain([0]), np.array([0]), CLASSES, ["a"], None)["by_light"] == {}


def test_top5_of_more_than_five_classes() -> None:
    probs = np.tile(np.linspace(0.3, 0.01, 8, dtype=np.float32), (2, 1))
    found = evaluate(probs, np.array([4, 5]), list("abcdefgh"), ["x", "x"], None)
    assert found["top5_accuracy"] == 0.5


def test_nothing_to_judge() -> None:
    with pytest.raises(ValueError, match="no image"):
        evaluate(np.zeros((0, 4), np.float32), np.zeros(0, int), CLASSES, [], None)


def test_intervals_are_over_cameras_not_images() -> None:
    """20 cameras of 50 images, a fifth of the images wrong: four cameras whole, or some everywhere."""
    truth, place = np.zeros(1000, int), np.arange(1000) // 50
    whole = bootstrap(np.where(place < 4, 1, 0), truth, ["lion", "tiger"], place)["accuracy"]
    # The share of wrong cameras among 20 has the standard deviation sqrt(0.2 * 0.8 / 20).
    assert whole == pytest.approx([0.8 - 1.96 * 0.0894, 0.8 + 1.96 * 0.0894], abs=0.04)
    scattered = np.random.default_rng(1).random(1000) < 0.2
    low, high = bootstrap(np.where(scattered, 1, 0), truth, ["lion", "tiger"], place)["accuracy"]
    assert low < 0.8 < high
    assert high - low < 0.25 * (whole[1] - whole[0])


def test_intervals_of_each_figure_hold_it() -> None:
    random = np.random.default_rng(0)
    truth, place = random.integers(0, 4, 2000), random.integers(0, 12, 2000)
    predicted = np.where(random.random(2000) < 0.7, truth, random.integers(0, 4, 2000))
    found = evaluate(certain(predicted.tolist()), truth, CLASSES, [f"L{n}" for n in place], None)
    intervals = found["intervals"]
    for name in ("accuracy", "balanced_accuracy", "macro_f1"):
        low, high = intervals[name]
        assert low < found[name] < high
    for label in CLASSES:
        for name in ("precision", "recall", "f1"):
            low, high = intervals["per_class"][label][name]
            assert low < found["per_class"][label][name] < high
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_no_interval_where_too_few_cameras_or_no_mistake_tell() -> None:
    truth = np.array([0, 0, 0, 1, 1, 1, 0, 1])
    predicted = np.array([0, 1, 0, 1, 1, 0, 0, 1])
    place = np.array([0, 0, 1, 1, 1, 2, 2, 2])
    found = bootstrap(predicted, truth, ["lion", "tiger"], place)
    assert found["per_class"]["lion"]["recall"] is not None  # at cameras 0, 1, 2
    assert found["per_class"]["tiger"]["recall"] is None  # at cameras 1 and 2
    assert bootstrap(predicted, truth, ["lion", "tiger"], place % 2)["accuracy"] is None
    assert bootstrap(truth, truth, ["lion", "tiger"], place)["accuracy"] is None
