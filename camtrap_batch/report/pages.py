"""The pages of cameras and species, as JSON for the report's script: ReportData in, plain values out.

Cameras, labels and photos are referred to by number in the index. Times are minutes since 1970, camera time.
"""

from __future__ import annotations

import datetime as dt
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.clocks import NO_TIME, microseconds
from camtrap_batch.codes import Ints, encode, one_chunk
from camtrap_batch.report import sightings
from camtrap_batch.report.choice import doubtful
from camtrap_batch.report.data import Photo, ReportData
from camtrap_batch.vocabulary import UNCERTAIN

MOST_EVENTS = 150_000
"""Number of events listed on the pages of all cameras; a camera with many lists the least sure ones."""

_MOST_DOUBTFUL = 200
_BEST, _DOUBTFUL = 6, 6
_PART_BYTES = 250_000
_MINUTE = 60_000_000
_EPOCH = dt.datetime(1970, 1, 1)

Json = dict[str, Any]


@dataclass(frozen=True)
class Pages:
    """Everything that the script shows.

    Attributes
    ----------
    index : what it knows about every camera and label from the beginning
    parts : name -> pages that load together
    photos : image id -> number of its photo
    """

    index: Json
    parts: dict[str, Json]
    photos: dict[str, int]


def make_pages(data: ReportData) -> Pages | None:
    """The pages of a run with a result of `merge`; None without one."""
    if data.locations is None:
        return None
    photos = {image_id: number for number, image_id in enumerate(data.photos)}
    known = _Known(data, photos)
    cameras = [known.camera(number) for number in range(len(known.cameras))]
    species = [known.species(number) for number in range(len(known.labels))]
    parts: dict[str, Json] = {}
    part_of_camera = _pack("c", cameras, parts)
    part_of_label = _pack("s", species, parts)
    index = {
        "job": data.job_file,
        "labels": [known.label_entry(number) for number in range(len(known.labels))],
        "cameras": known.camera_columns(),
        "parts": {"c": part_of_camera, "s": part_of_label},
        "periods": known.periods,
        "blur": data.blur_km,
        "hasPhotos": bool(photos),
        "hasEvents": data.events is not None,
    }
    return Pages(index, parts, photos)


def photo_entry(photo: Photo, number: int) -> list[Any]:
    """Number, width, height, file name, camera, time, boxes of a photo."""
    boxes = [
        [
            *(round(value, 4) for value in (box.x, box.y, box.w, box.h)),
            box.category,
            round(box.confidence, 3),
            box.label,
        ]
        for box in photo.boxes
    ]
    return [number, photo.width, photo.height, photo.file_name, photo.location, _minute(photo.taken), boxes]


class _Known:
    """Tables of the run as arrays, by camera and label."""

    def __init__(self, data: ReportData, photos: Mapping[str, int]) -> None:
        assert data.locations is not None  # noqa: S101 - asked before
        self.data, self.photos = data, photos
        self.cameras = sightings.camera_rows(data.locations)
        number_of = {row.location: number for number, row in enumerate(self.cameras)}
        self.rows = [] if data.events is None else sightings.species_rows(data.events)
        self.labels = [row.label for row in self.rows]
        label_of = {label: number for number, label in enumerate(self.labels)}
        places = {
            str(name): (x, y)
            for name, x, y in zip(
                *(data.locations[name].to_pylist() for name in ("location", "longitude", "latitude")),
                strict=True,
            )
        }
        shown = sightings.shown_places(places, data.blur_km)
        self.places = [shown.get(row.location) for row in self.cameras]
        self.deployments = defaultdict(list)
        for row in [] if data.deployments is None else data.deployments.to_pylist():
            self.deployments[row["location"]].append(row)
        self.rates = _by_label(data.rates)
        self.occupancy = _by_label(data.occupancy)
        self.curves = _curves(data.activity)
        self._label_of, self._number_of = label_of, number_of
        self._read_events(data.events)

    def _read_events(self, events: pa.Table | None) -> None:
        if events is None or not events.num_rows:
            self.events, self.n_events = None, 0
            self.periods: Json | None = None
            self.by_camera = _Groups(np.empty(0, np.int64), len(self.cameras))
            self.by_label = _Groups(np.empty(0, np.int64), len(self.labels))
            return
        self.n_events = events.num_rows
        codes, names = encode(events["label"].fill_null(UNCERTAIN))
        self.label = np.array([self._label_of[name] for name in names.to_pylist()], np.int64)[codes]
        codes, names = encode(events["location"])
        known = np.array([self._number_of.get(name, -1) for name in names.to_pylist()] or [0], np.int64)
        self.camera_of = np.where(codes < 0, -1, known[codes])
        time = microseconds(events["start"])
        self.minute = np.where(time == NO_TIME, -1, time // _MINUTE)
        self.is_dated = time != NO_TIME
        self.confidence = events["confidence"].fill_null(0).to_numpy()
        self.n_images = events["n_images"].fill_null(0).to_numpy()
        self.count = events["count"].fill_null(1).to_numpy()
        self.best = events["best_image_id"].to_pylist()
        self.ids = events["event_id"].to_pylist()
        is_human = np.zeros(self.n_events, bool)
        if "label_source" in events.column_names:
            said = pc.fill_null(pc.equal(events["label_source"], "human"), False)
            is_human = one_chunk(said).to_numpy(zero_copy_only=False)
        self.is_human = is_human
        date_only = np.zeros(self.n_events, bool)
        if "date_only" in events.column_names:
            date_only = one_chunk(events["date_only"].fill_null(False)).to_numpy(zero_copy_only=False)
        self.has_time = self.is_dated & ~date_only
        self.by_camera = _Groups(self.camera_of, len(self.cameras))
        self.by_label = _Groups(self.label, len(self.labels))
        order = doubtful(events)
        self.doubt = np.full(self.n_events, self.n_events)
        self.doubt[order] = np.arange(len(order))
        self._read_periods(events)
        sizes = np.diff(self.by_camera.starts)
        self.cap = _cap(sizes, MOST_EVENTS)

    def _read_periods(self, events: pa.Table) -> None:
        found = sightings.events_by_period(events)
        self.period = np.full(self.n_events, -1)
        self.periods = None
        if found is None:
            return
        starts = np.array([_start(name) for name in found.names], "datetime64[m]").astype(np.int64)
        end = starts[-1] + {"day": 1, "week": 7, "month": 31, "year": 366}[found.unit] * 1440
        at = np.searchsorted(starts, self.minute, side="right") - 1
        self.period = np.where(self.is_dated & (at >= 0) & (self.minute < end), at, -1)
        self.periods = {"unit": found.unit, "names": found.names}

    def label_entry(self, number: int) -> list[Any]:
        """Label, common name, Red List code, rank, kind, events, animals, images, cameras, confidence."""
        row, names = self.rows[number], self.data.names
        kind = (
            "uncertain"
            if row.is_uncertain
            else "people"
            if row.is_people
            else "group"
            if row.rank
            else "species"
        )
        return [
            row.label,
            names.common_of(row.label),
            names.red_list_of(row.label),
            row.rank,
            kind,
            row.events,
            row.individuals,
            row.images,
            row.locations,
            _round(row.confidence, 3),
        ]

    def camera_columns(self) -> Json:
        """What is known about each camera, column by column."""
        rows = self.cameras
        spans = [self.data.dates.by_location.get(row.location) if self.data.dates else None for row in rows]
        return {
            "name": [row.location for row in rows],
            "lon": [_round(place[0], 6) if place else None for place in self.places],
            "lat": [_round(place[1], 6) if place else None for place in self.places],
            "images": [row.images for row in rows],
            "usable": [row.usable for row in rows],
            "empty": [row.empty for row in rows],
            "events": [row.events for row in rows],
            "uncertain": [row.uncertain for row in rows],
            "species": [row.richness for row in rows],
            "days": [_round(row.days, 1) for row in rows],
            "rate": [_round(row.rate, 2) for row in rows],
            "first": [str(span[0].date()) if span else None for span in spans],
            "last": [str(span[1].date()) if span else None for span in spans],
            "top": [
                [[self._label_of[label], n] for label, n in row.top if label in self._label_of]
                for row in rows
            ],
        }

    def camera(self, number: int) -> Json:
        row = self.cameras[number]
        at = self.by_camera.rows(number)
        page: Json = {
            "source": row.effort_source,
            "grid": self.data.hidden.get(row.location, self.data.blur_km),
            "deployments": [_deployment(deployment) for deployment in self.deployments[row.location]],
        }
        if not len(at):
            return page
        page |= {
            "hours": self._hours(at),
            "over": self._over(at),
            "labels": self._labels_of(at),
            **self._shown(at),
        }
        by_doubt = at[np.argsort(self.doubt[at], kind="stable")]
        with_photo = [event for event in at if self.best[event] in self.photos]
        some = dict.fromkeys([*with_photo, *by_doubt[: self.cap].tolist()])
        listed = sorted(list(some)[: max(self.cap, len(with_photo))], key=lambda event: self.minute[event])
        files = [self.data.files.get(self.best[event]) or "" for event in listed]
        folders = {file.rpartition("/")[0] for file in files}
        prefix = f"{folders.pop()}/" if len(folders) == 1 and "" not in folders else ""
        page |= {
            "prefix": prefix,
            "n_events": len(at),
            "events": [
                self._event(event, file.removeprefix(prefix))
                for event, file in zip(listed, files, strict=True)
            ],
        }
        return page

    def species(self, number: int) -> Json:
        label = self.labels[number]
        at = self.by_label.rows(number)
        cameras, which = np.unique(self.camera_of[at], return_inverse=True)
        events = np.bincount(which)
        sure = self._mean_confidence(which, at)
        by_doubt = at[np.argsort(self.doubt[at], kind="stable")]
        by_doubt = by_doubt[self.doubt[by_doubt] < self.n_events][:_MOST_DOUBTFUL]
        dated = self.minute[at][self.is_dated[at]]
        if self.data.dates is not None:
            # Dates that a broken clock made do not set the period of a species either.
            first, last = _minute(self.data.dates.first), _minute(self.data.dates.last)
            is_trusted = first is not None and last is not None
            dated = dated[(dated >= first) & (dated <= last)] if is_trusted else dated[:0]
        page: Json = {
            "hours": self._hours(at),
            "over": self._over(at),
            "first": int(dated.min()) if len(dated) else None,
            "last": int(dated.max()) if len(dated) else None,
            "n_human": int(self.is_human[at].sum()),
            "cameras": [
                [int(camera), int(n), _round(float(mean), 3)]
                for camera, n, mean in sorted(
                    zip(cameras, events, sure, strict=True), key=lambda row: -row[1]
                )
                if camera >= 0
            ],
            "doubtful": [
                [int(self.camera_of[event]), *self._event(event, self.data.files.get(self.best[event]) or "")]
                for event in by_doubt.tolist()
            ],
            **self._shown(at),
        }
        if label in self.rates:
            page["rate"] = [_round(self.rates[label][name], 3) for name in _RATE]
            page["rate_source"] = self.rates[label]["effort_source"]
        if label in self.occupancy:
            row = self.occupancy[label]
            page["occupancy"] = [_round(row[name], 3) for name in _OCCUPANCY] + [row["remark"]]
        if label in self.curves:
            page["curve"] = self.curves[label]
        return page

    def _hours(self, at: Ints) -> list[int]:
        timed = at[self.has_time[at]]
        return [int(n) for n in np.bincount(self.minute[timed] % 1440 // 60, minlength=24)]

    def _over(self, at: Ints) -> list[list[int]]:
        """Number of each period with events, and their number."""
        where, n = np.unique(self.period[at], return_counts=True)
        return [[int(period), int(count)] for period, count in zip(where, n, strict=True) if period >= 0]

    def _mean_confidence(self, which: Ints, at: Ints) -> npt.NDArray[np.float64]:
        """Mean confidence of the machine's events in each group; NaN if people labelled all of them."""
        machine = ~self.is_human[at]
        with np.errstate(invalid="ignore"):
            return np.bincount(which, self.confidence[at] * machine) / np.bincount(which, machine)

    def _labels_of(self, at: Ints) -> list[list[Any]]:
        """Number of a label, its events, animals, and mean confidence at a camera."""
        labels, which = np.unique(self.label[at], return_inverse=True)
        events = np.bincount(which)
        animals = np.bincount(which, self.count[at])
        sure = self._mean_confidence(which, at)
        rows = zip(labels, events, animals, sure, strict=True)
        return [
            [int(label), int(n), int(count), _round(float(mean), 3)]
            for label, n, count, mean in sorted(rows, key=lambda row: (-row[1], row[0]))
        ]

    def _shown(self, at: Ints) -> Json:
        """The best photos, and those to review: `photo_entry`, label, confidence, whether a person said
        it."""
        shown = [event for event in at.tolist() if self.best[event] in self.photos]
        is_uncertain = {event: self.labels[self.label[event]] == UNCERTAIN for event in shown}
        unsure = [
            event
            for event in sorted(shown, key=self.doubt.__getitem__)
            if self.doubt[event] < self.n_events and (is_uncertain[event] or self.confidence[event] < _SURE)
        ][:_DOUBTFUL]
        best = [
            event
            for event in sorted(shown, key=lambda event: -self.confidence[event])
            if event not in unsure and not is_uncertain[event]
        ][:_BEST]
        return {
            name: [self._photo_of(event) for event in some]
            for name, some in (("best", best), ("look", unsure))
        }

    def _photo_of(self, event: int) -> list[Any]:
        return [
            *self._photo(self.best[event]),
            int(self.label[event]),
            _round(float(self.confidence[event]), 3),
            bool(self.is_human[event]),
        ]

    def _photo(self, image_id: str) -> list[Any]:
        return photo_entry(self.data.photos[image_id], self.photos[image_id])

    def _event(self, event: int, file: str) -> list[Any]:
        """Minute (-1: none), label, images, animals, confidence, whether a person said it, file, frames."""
        strip = self.data.strips.get(self.ids[event]) or (
            [self.best[event]] if self.best[event] in self.photos else []
        )
        frames = [self._photo(image_id) for image_id in strip if image_id in self.photos]
        return [
            int(self.minute[event]),
            int(self.label[event]),
            int(self.n_images[event]),
            int(self.count[event]),
            _round(float(self.confidence[event]), 3),
            int(self.is_human[event]),
            file,
            *([frames] if frames else []),
        ]


_RATE = ("events_per_100_trap_nights", "low", "high", "naive_occupancy")
_OCCUPANCY = ("occupancy", "occupancy_low", "occupancy_high", "p")
_SURE = 0.9


class _Groups:
    """Rows by the number of their group; -1 means none."""

    def __init__(self, group: Ints, n: int) -> None:
        self._order = np.argsort(group, kind="stable")
        self.starts = np.searchsorted(group[self._order], np.arange(n + 1))

    def rows(self, number: int) -> Ints:
        found: Ints = self._order[self.starts[number] : self.starts[number + 1]]
        return found


def _pack(letter: str, pages: Sequence[Json], parts: dict[str, Json]) -> list[int]:
    """Put pages into parts that load quickly; the number of each page's part."""
    import json

    numbers: list[int] = []
    at, size = 0, 0
    for number, page in enumerate(pages):
        length = len(json.dumps(page, separators=(",", ":")))
        if size and size + length > _PART_BYTES:
            at, size = at + 1, 0
        size += length
        parts.setdefault(f"{letter}{at}", {})[str(number)] = page
        numbers.append(at)
    return numbers


def _cap(sizes: npt.NDArray[np.int64], budget: int) -> int:
    """The largest limit such that groups of these sizes, cut to it, have at most `budget` rows in all."""
    low, high = 1, int(sizes.max(initial=1))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if np.minimum(sizes, middle).sum() <= budget else (low, middle - 1)
    return low


def _deployment(row: Mapping[str, Any]) -> list[Any]:
    """Name, camera, start, end, days, days out, source, what looks wrong."""
    return [
        row["deployment"],
        row["camera"],
        _minute(row["start"]),
        _minute(row["end"]),
        _round(row["days"], 1),
        _round(row["days_out"], 1),
        row["source"],
        row["checks"] or [],
    ]


def _by_label(table: pa.Table | None) -> dict[str, Json]:
    return {} if table is None else {row["label"]: row for row in table.to_pylist()}


def _curves(table: pa.Table | None) -> dict[str, list[list[float | None]]]:
    """Label -> hour, density, low, high of its points."""
    found: dict[str, list[list[float | None]]] = defaultdict(list)
    for row in [] if table is None else table.to_pylist():
        if row["hour"] is not None:
            found[row["label"]].append([_round(row[name], 4) for name in ("hour", "density", "low", "high")])
    return dict(found)


def _start(name: str) -> str:
    """A period's name as a date.

    >>> _start("2023"), _start("2023-05"), _start("2023-05-04")
    ('2023-01-01', '2023-05-01', '2023-05-04')
    """
    return f"{name}-01-01"[:10] if len(name) == 4 else f"{name}-01"[:10]


def _minute(value: dt.datetime | None) -> int | None:
    return None if value is None else int((value - _EPOCH).total_seconds() // 60)


def _round(value: float | None, digits: int) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, digits)
