"""Rows that are hard on a layer and on the client, and a layer of the rehearsal server to push them to."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from camtrap_batch.portal import Service
from camtrap_batch.rehearsal.layerserver import LayerServer
from camtrap_batch.targets import LayerRows, Push, Wanted
from camtrap_batch.targets.arcgis import ArcGISTarget

ODD = ["Günther's zebra", 'a "quoted" cat', "érable 🐆", "", "back\\slash; -- no", "100 %_like"]


def event_table(n: int, *, shift: int = 0) -> LayerRows:
    """`n` events at 7 cameras, one of them without a place; every 11th without a date."""
    number = np.arange(n)
    start = np.datetime64("2021-03-28T01:30:00.123", "us") + number * np.timedelta64(977, "s")
    columns = pa.table(
        {
            "event_id": pa.array([f"event-{i:05}" for i in number]),
            "location": pa.array([f"C{i % 7}" for i in number]),
            "label": pa.array([ODD[i % len(ODD)] if i % 5 else f"label {i}" for i in number]),
            "start": pa.array(start, mask=number % 11 == 3),
            "n_images": pa.array((number + shift) % 50, pa.int32()),
            "confidence": pa.array(np.where(number % 13 == 0, np.nan, number / 7)),
            "best_image_id": pa.array([None if i % 17 == 0 else f"img{i}" for i in number], pa.string()),
            "job": pa.repeat("test job's", n),
        }
    )
    known = number % 7 != 6
    return LayerRows(
        "events",
        "event_id",
        columns,
        pa.chunked_array([pa.array(31.5 + number % 7 / 9, mask=~known)]),
        pa.chunked_array([pa.array(-24.9 + number % 7 / 11, mask=~known)]),
        utc_offset=pa.chunked_array([pa.array(np.full(n, 120), pa.int32(), mask=number % 3 == 0)]),
    )


@dataclass
class Bench:
    """One layer of the server, and a target for it."""

    server: LayerServer
    service: Service
    name: str
    url: str

    def target(self, *, append: bool = False, **wanted: Any) -> ArcGISTarget:
        urls = {"events": self.url}
        return ArcGISTarget(self.service, "test job's", urls, wanted=Wanted(**wanted), append=append)

    def rows(self) -> list[dict[str, Any]]:
        return self.server.rows(0, self.name)


def require_equal(bench: Bench, rows: LayerRows) -> None:
    """The layer holds exactly these rows, value by value."""
    held = bench.rows()
    assert len(held) == rows.columns.num_rows
    by_key = {row["event_id"]: row for row in held}
    assert len(by_key) == len(held)
    offsets = rows.utc_offset.fill_null(0).to_pylist()
    for row, x, y, minutes in zip(
        rows.columns.to_pylist(), rows.longitude.to_pylist(), rows.latitude.to_pylist(), offsets, strict=True
    ):
        there = by_key[row["event_id"]]
        for name, value in row.items():
            if name == "start":
                ms = pa.scalar(value, pa.timestamp("us")).cast(pa.int64()).as_py() if value else None
                assert there[name] == (None if ms is None else ms // 1000 - minutes * 60_000)
            elif isinstance(value, float):
                assert there[name] is None if math.isnan(value) else there[name] == pytest.approx(value)
            else:
                assert there[name] == value, name
        shape = there["SHAPE"]
        assert (shape is None) == (x is None)
        if shape is not None:
            assert (shape["x"], shape["y"]) == pytest.approx((x, y), abs=1e-7)


def failures(push: Push) -> list[str]:
    """Results of edits that were sent and not done, and None for those that were not sent."""
    return [result for result in push.edits["result"].to_pylist() if result != "ok"]
