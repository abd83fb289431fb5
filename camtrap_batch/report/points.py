"""The points at which cameras stand, blurred where the job asks for it: maps draw nothing but these."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from camtrap_batch.survey.grid import snap


@dataclass(frozen=True)
class MapPoint:
    """A point (degrees, WGS 84) with the cameras at it: several where they stand or are blurred together."""

    longitude: float
    latitude: float
    locations: tuple[str, ...]
    n_events: int
    richness: int
    top_label: str | None


def find_points(locations: pa.Table, blur_km: float, groups: frozenset[str] = frozenset()) -> list[MapPoint]:
    """The different points of schemas.LOCATIONS, those with most events first; unknown ones are left out.

    Labels in `groups` are no species: they count as events alone.
    With `blur_km` above 0, they do not depend on where in its cell of that grid a camera stands.
    """
    x, y = (
        locations[name].to_numpy(zero_copy_only=False).astype(np.float64)
        for name in ("longitude", "latitude")
    )
    known = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
    x, y = snap(x[known], y[known], blur_km)
    rows = locations.select(["location", "n_events", "events_by_label"]).take(pa.array(known)).to_pylist()
    together: dict[tuple[float, float], list[dict[str, Any]]] = {}
    for point, row in zip(zip(x.tolist(), y.tolist(), strict=True), rows, strict=True):
        together.setdefault(point, []).append(row)
    points = [_point(*point, here, groups) for point, here in together.items()]
    return sorted(points, key=lambda point: (-point.n_events, point.locations))


def _point(longitude: float, latitude: float, rows: list[dict[str, Any]], groups: frozenset[str]) -> MapPoint:
    events: Counter[str] = Counter()
    for row in rows:
        for entry in row["events_by_label"] or []:
            if entry["label"] not in groups:
                events[entry["label"]] += entry["n"]
    top = min(events, key=lambda label: (-events[label], label)) if events else None
    names = tuple(sorted(str(row["location"]) for row in rows))
    n_events = sum(row["n_events"] or 0 for row in rows)
    return MapPoint(longitude, latitude, names, n_events, len(events), top)
