from __future__ import annotations

from camtrap_batch.report.accuracy import (
    MOST_CLASSES,
    camera_spread,
    class_rows,
    matrix,
    most_confused,
    most_frequent_share,
)

METRICS = {
    "classes": ["hare", "lion", "oryx", "never"],
    "confusion": [[5, 1, 0, 0], [6, 14, 0, 0], [0, 0, 3, 0], [0, 0, 0, 0]],
    "per_class": {
        "hare": {"support": 6},
        "lion": {"support": 20},
        "oryx": {"support": 3},
        "never": {"support": 0},
    },
    "by_location": {
        "A": {"n": 10, "accuracy": 1.0},
        "B": {"n": 9, "accuracy": 0.7},
        "": {"n": 2, "accuracy": 0.0},
        "D": {"n": 0, "accuracy": None},
    },
}


def test_classes_by_support() -> None:
    assert [label for label, _ in class_rows(METRICS)] == ["lion", "hare", "oryx", "never"]
    assert most_frequent_share(METRICS) == 20 / 29


def test_matrix_has_the_classes_that_occur_by_support() -> None:
    assert matrix(METRICS) == (["lion", "hare", "oryx"], [[14, 6, 0], [1, 5, 0], [0, 0, 3]])


def test_too_many_classes_have_no_matrix_but_their_mistakes() -> None:
    n = MOST_CLASSES + 1
    counts = [[2 if row == column else int(column == 0) for column in range(n)] for row in range(n)]
    metrics = {"classes": [f"class {i:02}" for i in range(n)], "confusion": counts}
    assert matrix(metrics) is None
    assert len(most_confused(metrics)) == 15


def test_mistakes_by_number() -> None:
    assert [(pair.truth, pair.predicted, pair.n, pair.share) for pair in most_confused(METRICS)] == [
        ("lion", "hare", 6, 0.3),
        ("hare", "lion", 1, 1 / 6),
    ]


def test_spread_over_cameras() -> None:
    spread = camera_spread(METRICS)
    assert spread is not None
    assert spread.tenths == [1, 0, 0, 0, 0, 0, 0, 1, 0, 1]
    assert spread.median == 0.7
    assert spread.lowest[0] == ("unknown", 2, 0.0)


def test_nothing_known() -> None:
    assert class_rows({}) == []
    assert matrix({}) is None
    assert most_confused({}) == []
    assert camera_spread({}) is None
    assert most_frequent_share({}) is None
