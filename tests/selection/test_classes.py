from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from camtrap_batch.errors import JobError
from camtrap_batch.job import Job
from camtrap_batch.selection.classes import choose_classes

CATEGORIES = [(0, "empty"), (1, "lion"), (2, "tiger"), (3, "cow"), (7, "lion")]


def job(**select_keys: Any) -> Job:
    content = {
        "name": "x",
        "output": "runs",
        "dataset": {"format": "cct", "metadata": "a", "images": "b"},
        "select": select_keys,
    }
    return Job.parse(content, base=Path())


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
