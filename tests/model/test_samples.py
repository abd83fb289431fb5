from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from camtrap_batch.errors import JobError
from camtrap_batch.model.samples import Samples


def tiny(**changes: Any) -> Samples:
    columns: dict[str, Any] = {
        "image_ids": ["1", "2", "3"],
        "labels": ["lion", "empty", "lion"],
        "splits": ["train", "train", "valid"],
        "weights": np.ones(3, np.float32),
        "locations": ["a", "a", "b"],
        "is_night": None,
        "category_ids": {"lion": [90], "empty": [0]},
        "jpegs": [b"", b"", b""],
    }
    return Samples(**{**columns, **changes})


def test_classes_truth_and_splits() -> None:
    samples = tiny()
    samples.check()
    assert samples.classes == ["empty", "lion"]
    assert samples.truth.tolist() == [1, 0, 1]
    assert samples.of_split("train").tolist() == [0, 1]
    assert samples.of_split("test").tolist() == []


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        (
            {"category_ids": {"lion": [90], "empty": [0], "tiger": [1]}},
            JobError,
            "no training image of 'tiger'",
        ),
        ({"splits": ["train", "valid", "train"]}, JobError, "no training image of 'empty'"),
        ({"weights": np.array([1, 0, 1], np.float32)}, JobError, "no training image of 'empty'"),
        ({"splits": ["train", "train", "test"]}, JobError, "select.split.valid"),
        ({"labels": ["lion"] * 3, "category_ids": {"lion": [90]}}, JobError, "two classes"),
        ({"splits": ["train", "trian", "valid"]}, ValueError, "did you mean 'train'"),
        ({"labels": ["lion", "empty", "loin"]}, ValueError, "did you mean 'lion'"),
        ({"jpegs": [b""]}, ValueError, "jpegs has 1 entries"),
        ({"weights": np.array([1, np.nan, 1], np.float32)}, ValueError, "finite"),
    ],
)
def test_refuses(changes: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        tiny(**changes).check()
