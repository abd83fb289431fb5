"""Frames by hand and by hypothesis: images with what a model says of them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import strategies as st

from camtrap_batch.store.schemas import PREDICTIONS

START = datetime(2021, 4, 11, 20, 0)
TOP5 = PREDICTIONS.field("top5").type


def make_frames(rows: list[dict[str, Any]]) -> pa.Table:
    """Rows with image_id, location, seq_id, datetime and `probs`, label -> probability; None: not classified."""
    tops = [
        None if row["probs"] is None else sorted(row["probs"].items(), key=lambda entry: (-entry[1], entry[0]))
        for row in rows
    ]
    columns: dict[str, pa.Array] = {
        "image_id": pa.array([row["image_id"] for row in rows], pa.string()),
        "location": pa.array([row["location"] for row in rows], pa.string()),
        "seq_id": pa.array([row["seq_id"] for row in rows], pa.string()),
        "datetime": pa.array([row["datetime"] for row in rows], pa.timestamp("us")),
        "label": pa.array([top[0][0] if top else None for top in tops], pa.string()),
        "confidence": pa.array([top[0][1] if top else None for top in tops], pa.float32()),
        "top5": pa.array(
            [None if top is None else [{"label": label, "p": p} for label, p in top] for top in tops], TOP5
        ),
    }
    return pa.table(columns)


def probabilities() -> st.SearchStrategy[dict[str, float] | None]:
    """Up to three labels; sixteenths, so that ties and means that meet the threshold are common and exact."""
    weights = st.tuples(*(st.integers(0, 16) for _ in range(3)))
    labels = st.permutations(["empty", "heron", "lion", "tiger"]).map(lambda names: names[:3])
    known = st.builds(
        lambda names, parts: {name: part / 16 for name, part in zip(names, parts, strict=True)},
        labels,
        weights.filter(lambda parts: 0 < sum(parts) <= 16),
    )
    return st.one_of(known, known, known, st.none())


@st.composite
def frame_rows(draw: st.DrawFn) -> list[dict[str, Any]]:
    row = st.fixed_dictionaries(
        {
            "location": st.sampled_from(["a", "b", "b", None]),
            "seq_id": st.sampled_from(["s1", "s2", None, None]),
            "datetime": st.one_of(
                st.integers(0, 12).map(lambda number: START + timedelta(seconds=number * 30)),
                st.integers(0, 12).map(lambda number: START + timedelta(minutes=number * 15)),
                st.none(),
            ),
            "probs": probabilities(),
        }
    )
    rows = draw(st.lists(row, max_size=14))
    ids = draw(st.permutations(range(len(rows))))
    return [{**row, "image_id": f"é{number:02d}"} for row, number in zip(rows, ids, strict=True)]


@pytest.fixture(scope="session")
def frames() -> Callable[[list[dict[str, Any]]], pa.Table]:
    return make_frames


@pytest.fixture(scope="session")
def any_frames() -> st.SearchStrategy[list[dict[str, Any]]]:
    return frame_rows()
