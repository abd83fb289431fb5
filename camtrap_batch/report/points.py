"""The points where cameras stand, blurred if the job asks for it: maps draw only these."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from camtrap_batch.survey.grid import snap


@dataclass(frozen=True)
class MapPoint:
    """A point (degrees, WGS 84) with the cameras there: several if they stand, or are blurred, together.

    `is_area`: `thinned` made it of several; richness and top species are those of the busiest.
    """

    longitude: float
    latitude: float
    locations: tuple[str, ...]
    n_events: int
    richness: int
    top_label: str | None
    is_area: bool = False


def find_points(
    locations: pa.Table, blur_km: float, no_species: frozenset[str] = frozenset()
) -> list[MapPoint]:
    """The distinct points of schemas.LOCATIONS, those with the most events first; unknown ones are left out.

    Labels in `no_species` (groups, people) count only as events.
    With `blur_km` above 0, points do not depend on where in its cell of that grid a camera stands.
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
    points = [_point(*point, here, no_species) for point, here in together.items()]
    return sorted(points, key=lambda point: (-point.n_events, point.locations))


def thinned(points: list[MapPoint], most: int) -> list[MapPoint]:
    """The points; if there are more than `most`, neighbouring ones are merged."""
    if len(points) <= most:
        return points
    place = np.array([(point.longitude, point.latitude) for point in points])
    low, span = place.min(axis=0), np.maximum(np.ptp(place, axis=0), 1e-9)
    side = int(np.sqrt(most))
    cell = np.minimum((place - low) / span * side, side - 1).astype(np.int64)
    together: dict[int, list[MapPoint]] = {}
    for number, point in zip((cell[:, 0] * side + cell[:, 1]).tolist(), points, strict=True):
        together.setdefault(number, []).append(point)
    merged = []
    for here in together.values():
        if len(here) == 1:
            merged += here
            continue
        most_seen = max(here, key=lambda point: point.n_events)  # what they saw together is not known
        names = tuple(name for point in here for name in point.locations)
        events = sum(point.n_events for point in here)
        merged.append(replace(most_seen, locations=names, n_events=events, is_area=True))
    return sorted(merged, key=lambda point: (-point.n_events, point.locations))


def _point(
    longitude: float, latitude: float, rows: list[dict[str, Any]], no_species: frozenset[str]
) -> MapPoint:
    events: Counter[str] = Counter()
    for row in rows:
        for entry in row["events_by_label"] or []:
            if entry["label"] not in no_species:
                events[entry["label"]] += entry["n"]
    top = min(events, key=lambda label: (-events[label], label)) if events else None
    names = tuple(sorted(str(row["location"]) for row in rows))
    n_events = sum(row["n_events"] or 0 for row in rows)
    return MapPoint(longitude, latitude, names, n_events, len(events), top)
