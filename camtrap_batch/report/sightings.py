"""What was seen: per species, per camera, over the day and over the study period."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.events import count_wildlife
from camtrap_batch.events.codes import flags
from camtrap_batch.report.dates import DAY, near
from camtrap_batch.survey.grid import snap
from camtrap_batch.vocabulary import PEOPLE, UNCERTAIN, USABLE

_UNITS = (("day", "D", 1.0, 60), ("week", "W", 7.0, 110), ("month", "M", 30.4, 120), ("year", "Y", 365.2, 0))
"""Name, pandas' letter, days, and the maximum number that a chart shows."""


@dataclass(frozen=True)
class SpeciesRow:
    """A species, or a group of species of the rank in `rank`; people and vehicles; or uncertain events.

    `individuals` sums the animals in its events, `share` is relative to all events.
    """

    label: str
    events: int
    individuals: int
    images: int
    locations: int
    share: float
    confidence: float
    rank: str | None = None

    @property
    def is_uncertain(self) -> bool:
        return self.label == UNCERTAIN

    @property
    def is_people(self) -> bool:
        return self.label.casefold() in PEOPLE

    @property
    def is_species(self) -> bool:
        return not self.is_uncertain and not self.is_people and self.rank is None


@dataclass(frozen=True)
class Corrected:
    """Events of a label at a camera and their 95 % interval, by what people reviewed."""

    label: str
    n: float
    low: int
    high: int


@dataclass(frozen=True)
class CameraRow:
    """A camera location's figures; `rate` is detections per 100 camera days."""

    location: str
    images: int
    usable: int
    empty: int
    events: int
    uncertain: int
    richness: int
    top: list[tuple[str, int]]
    first: dt.datetime | None
    last: dt.datetime | None
    days: float | None = None
    rate: float | None = None
    effort_source: str | None = None
    corrected: tuple[Corrected, ...] = ()


@dataclass(frozen=True)
class Periods:
    """Events and cameras with an event per day, week, month or year.

    Attributes
    ----------
    in_field : cameras with a deployment; None if it is not recorded of all when they stood there
    left_out : number of events that are far from the others
    """

    unit: str
    names: list[str]
    events: list[int]
    locations: list[int]
    in_field: list[int] | None
    left_out: int


def species_rows(events: pa.Table) -> list[SpeciesRow]:
    """The species of schemas.EVENTS, those with the most events first; then groups and people; uncertain ones
    last."""
    frame = _frame(events)
    rows = [
        SpeciesRow(
            str(label),
            len(part),
            int(part["count"].sum()),
            int(part["n_images"].sum()),
            int(part["location"].nunique()),
            len(part) / len(frame),
            float(part["confidence"].mean()),
            part["rank"].iloc[0],
        )
        for label, part in frame.groupby("label")
    ]
    return sorted(rows, key=lambda row: (row.is_uncertain, not row.is_species, -row.events, row.label))


_TOP = 3  # labels of a camera
_UNUSED = ("run_time", "geometry", "activity_by_hour")


def camera_rows(locations: pa.Table) -> list[CameraRow]:
    """The rows of schemas.LOCATIONS, those with the most events first."""
    # Not the time zone of `run_time`: for each value, pyarrow looks for a package that may not be installed.
    locations = locations.drop_columns([name for name in _UNUSED if name in locations.column_names])
    rows = [
        CameraRow(
            str(row["location"]),
            row["n_images"] or 0,
            sum(row[f"n_{status}"] or 0 for status in USABLE),
            row["n_empty"] or 0,
            row["n_events"] or 0,
            row["n_uncertain"] or 0,
            count_wildlife(row),
            [(str(entry["label"]), int(entry["n"])) for entry in (row["events_by_label"] or [])[:_TOP]],
            row["first"],
            row["last"],
            row.get("camera_days"),
            row.get("detections_per_100_days"),
            row.get("effort_source"),
            _corrected(row.get("corrected_by_label")),
        )
        for row in locations.to_pylist()
    ]
    return sorted(rows, key=lambda row: (-row.events, -row.images, row.location))


def _corrected(entries: Sequence[Mapping[str, Any]] | None) -> tuple[Corrected, ...]:
    found = [Corrected(str(one["label"]), one["n"], one["low"], one["high"]) for one in entries or []]
    return tuple(sorted(found, key=lambda one: (-one.n, one.label))[:_TOP])


def shown_places(
    places: Mapping[str, tuple[float | None, float | None]], blur_km: float
) -> dict[str, tuple[float, float]]:
    """Degrees of each known position, blurred as in the report."""
    known = {
        name: (x, y)
        for name, (x, y) in places.items()
        if x is not None and y is not None and np.isfinite(x) and np.isfinite(y)
    }
    degrees = np.array(list(known.values()), np.float64).reshape(-1, 2)
    x, y = snap(degrees[:, 0], degrees[:, 1], blur_km)
    return dict(zip(known, zip(x.tolist(), y.tolist(), strict=True), strict=True))


def events_by_hour(events: pa.Table, labels: Sequence[str]) -> list[tuple[str, list[int]]]:
    """For each label, how many events start in each hour of the day, where that is known; labels without any
    are left out."""
    frame = _frame(events.filter(pa.array(~flags(events, "date_only")))).dropna(subset=["start"])
    hour = frame["start"].dt.hour.to_numpy()
    label = frame["label"].to_numpy()
    found = [(name, np.bincount(hour[label == name], minlength=24).tolist()) for name in labels]
    return [(name, hours) for name, hours in found if any(hours)]


def events_by_period(events: pa.Table, deployments: pa.Table | None = None) -> Periods | None:
    """Events over the study period; None if no event has a date.

    A clock that was never set puts a few events years away from all others; they would distort the chart.
    """
    frame = _frame(events).dropna(subset=["start"])
    if frame.empty:
        return None
    time = frame["start"].to_numpy("datetime64[us]").astype(np.int64)
    is_near = near(time)
    dated = frame[is_near]
    days = np.ptp(time[is_near]) / DAY + 1
    unit, letter = next(
        (name, letter) for name, letter, length, most in _UNITS if days <= most * length or not most
    )
    period = dated["start"].dt.to_period(letter)
    every = pd.period_range(period.min(), period.max(), freq=letter)
    groups = dated.groupby(period)["location"]
    return Periods(
        unit,
        [_name(one, unit) for one in every],
        groups.size().reindex(every, fill_value=0).tolist(),
        groups.nunique().reindex(every, fill_value=0).tolist(),
        _in_field(every, deployments),
        len(frame) - len(dated),
    )


def _in_field(every: pd.PeriodIndex, deployments: pa.Table | None) -> list[int] | None:
    """How many locations have a deployment in each period."""
    if deployments is None or not deployments.num_rows:
        return None
    known = deployments.select(["location", "start", "end", "source"]).to_pandas()
    if (known["source"] == "images").any() or known[["start", "end"]].isna().any(axis=None):
        return None
    known = known[known["start"] <= every.end_time[-1]]
    starts = every.start_time.to_numpy()
    first, last = (
        np.searchsorted(starts, known[name].to_numpy("datetime64[ns]"), side="right") - 1
        for name in ("start", "end")
    )
    known["period"] = [range(max(one, 0), other + 1) for one, other in zip(first, last, strict=True)]
    stood = known[["location", "period"]].explode("period").dropna().drop_duplicates()
    return [int(n) for n in np.bincount(stood["period"].astype(int), minlength=len(every))]


def _frame(events: pa.Table) -> pd.DataFrame:
    columns = ["label", "location", "start", "n_images", "count", "confidence"]
    frame: pd.DataFrame = events.select(columns).to_pandas()
    frame["label"] = frame["label"].fillna(UNCERTAIN)
    if "label_source" in events.column_names:  # confidence is the model's: what people say has none
        said = pc.fill_null(pc.equal(events["label_source"], "human"), False)
        frame.loc[said.to_pandas().to_numpy(bool), "confidence"] = np.nan
    ranks = events["rank"].to_pylist() if "rank" in events.column_names else [None] * len(frame)
    frame["rank"] = pd.Series(ranks, dtype=object)
    return frame


def _name(period: Any, unit: str) -> str:
    return str(period.start_time.strftime({"month": "%Y-%m", "year": "%Y"}.get(unit, "%Y-%m-%d")))
