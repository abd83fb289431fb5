from __future__ import annotations

import json

import numpy as np
import pytest

from camtrap_batch.model.metrics import evaluate

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
