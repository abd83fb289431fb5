"""What looks wrong in deployments: photos outside them, none at all, silence, no nights, a wrong clock."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from camtrap_batch.clocks import NO_TIME, elapsed, elapsed_bounds, microseconds
from camtrap_batch.codes import Ints
from camtrap_batch.events.codes import Bools, encode_locations
from camtrap_batch.store.schemas import FINDINGS
from camtrap_batch.survey.effort import DAY, FROM_IMAGES, SILENCE_DAYS, as_rows, bounds, last_moments
from camtrap_batch.vocabulary import plural

FROM_MANIFEST = ("location", "datetime", "utc_offset_minutes", "date_only", "is_night")
"""Columns of the manifest that checks need."""

FEWEST_FOR_NIGHT = 50
"""Among this many pictures of a deployment, at least one should have been taken at night."""

MOST_EMPTY_A_DAY = 100
"""Empty pictures in a day; with more, grass or a branch is moving in front of the camera."""

_DIGITAL = int(np.datetime64("2000-01-02", "us").astype(np.int64))
"""Clocks that lost power restart at 1970-01-01, 1980-01-01 or 2000-01-01."""


class Check(NamedTuple):
    """Something that looks wrong.

    Attributes
    ----------
    kind : kind of finding, see vocabulary.DEPLOYMENT_FINDINGS
    deployment : the deployment's row in the table `deployments`
    image, other : rows of the images concerned, -1: none
    detail : text for people
    """

    kind: str
    deployment: int
    image: int
    other: int
    detail: str


def check_deployments(
    deployments: pa.Table, images: pa.Table, shows_nothing: Bools | None = None
) -> list[Check]:
    """Checks of each row of the table `deployments`.

    Parameters
    ----------
    images : usable images, columns `FROM_MANIFEST`
    shows_nothing : for each image whether it is labelled empty; None if labels are not known
    """
    photos = _Photos(images, shows_nothing)
    rows = as_rows(deployments)
    found = list(_outside(rows, photos))
    for number, row in enumerate(rows):
        found += _of_one(number, row, photos)
    return sorted(found, key=lambda check: check.deployment)


def check_texts(checks: Sequence[Check], n: int) -> list[list[str]]:
    """The column `checks` for n deployments; images outside them are counted."""
    texts: list[list[str]] = [[] for _ in range(n)]
    outside = [0] * n
    for check in checks:
        if check.kind == "outside_deployment":
            outside[check.deployment] += 1
        else:
            texts[check.deployment].append(check.detail)
    for number, images in enumerate(outside):
        if images:
            texts[number].insert(0, f"{plural(images, 'image')} before the start or after the end")
    return texts


def check_findings(checks: Sequence[Check], deployments: pa.Table, names: pa.Table) -> pa.Table:
    """Checks as rows of the table `findings`.

    Parameters
    ----------
    names : image_id and file_name of the images checked
    """
    image = np.array([check.image for check in checks], np.int64)
    other = np.array([check.other for check in checks], np.int64)
    of = pa.array([check.deployment for check in checks], pa.int64())
    rows = names.take(pa.array(image, mask=image < 0))
    return pa.table(
        {
            "image_id": rows["image_id"],
            "file_name": rows["file_name"],
            "location": deployments["location"].take(of),
            "kind": pa.array([check.kind for check in checks], pa.string()),
            "other_image_id": names["image_id"].take(pa.array(other, mask=other < 0)),
            "detail": pa.array([check.detail for check in checks], pa.string()),
        }
    ).cast(FINDINGS)


class _Photos:
    """Dated photos by location and the time that really passed, `moment`; `time` is what the clock showed."""

    def __init__(self, images: pa.Table, shows_nothing: Bools | None) -> None:
        location, names = encode_locations(images["location"])
        time = microseconds(images["datetime"])
        moment = elapsed(images, time, location)
        used = np.flatnonzero(time != NO_TIME)
        self.row = used[np.lexsort((moment[used], location[used]))]
        self.time, self.moment, self._location = time[self.row], moment[self.row], location[self.row]
        self.last = last_moments(images, moment)[self.row]
        night = images["is_night"].combine_chunks()
        self.is_night = night.fill_null(False).to_numpy(zero_copy_only=False)[self.row]
        self.is_known = night.is_valid().to_numpy(zero_copy_only=False)[self.row]
        self.is_empty = None if shows_nothing is None else shows_nothing[self.row]
        self._code = {name: number for number, name in enumerate(names.to_pylist())}

    def of(self, location: str) -> slice:
        code = self._code.get(location)
        if code is None:
            return slice(0, 0)
        first, last = np.searchsorted(self._location, (code, code + 1))
        return slice(int(first), int(last))

    def moments(self, location: str, span: tuple[int, int]) -> tuple[int, int]:
        """A start and an end by the clock of a location, as times that really passed."""
        here = self.of(location)
        return elapsed_bounds(span, self.time[here], self.moment[here])

    def within(self, location: str, start: int, end: int) -> Ints:
        """Those that may have been taken from `start` until before `end`."""
        here = self.of(location)
        early, late = self.moments(location, (start, end))
        return np.arange(here.start, here.stop)[(self.last[here] >= early) & (self.moment[here] < late)]


def _outside(rows: Sequence[dict[str, Any]], photos: _Photos) -> Iterator[Check]:
    """Photos outside all deployments of their location, if these are all known."""
    by_location: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        by_location.setdefault(row["location"], []).append(number)
    for location, numbers in by_location.items():
        spans = [(rows[number]["start"], rows[number]["end"]) for number in numbers]
        if any(None in span for span in spans):
            continue
        here = photos.of(location)
        times, moments = photos.time[here], photos.moment[here]
        is_date = photos.last[here] > moments
        edges = np.array([photos.moments(location, bounds(*span)) for span in spans], np.int64)
        # Distance of each photo from each deployment, 0 within it.
        before = edges[:, :1] - photos.last[here][None, :]
        after = moments[None, :] - edges[:, 1:] + 1
        distance = np.maximum(np.maximum(before, after), 0)
        nearest = distance.argmin(axis=0)
        for number in np.flatnonzero(distance.min(axis=0, initial=NO_TIME) > 0).tolist():
            which = int(nearest[number])
            is_early = before[which, number] > 0
            side = (
                f"before the start, {_text(spans[which][0])}"
                if is_early
                else (f"after the end, {_text(spans[which][1])}")
            )
            yield Check(
                "outside_deployment",
                numbers[which],
                int(photos.row[here.start + number]),
                -1,
                f"{_text(int(times[number]), is_date=bool(is_date[number]))}: {side}, of the deployment",
            )


def _of_one(number: int, row: dict[str, Any], photos: _Photos) -> Iterator[Check]:
    start, end = row["start"], row["end"]
    if start is not None and start < _DIGITAL:
        yield Check(
            "wrong_clock", number, -1, -1, f"begins {_text(start)}: before there were digital camera traps"
        )
    if start is None or end is None:
        return
    here = photos.within(row["location"], *bounds(start, end))
    times = photos.time[here]
    if not len(times):
        yield Check("no_images", number, -1, -1, f"no image from {_text(start)} to {_text(end)}")
        elsewhere = photos.time[photos.of(row["location"])]
        if len(elsewhere) and np.abs(elsewhere - start).min() > 300 * DAY:
            yield Check(
                "wrong_clock",
                number,
                int(photos.row[photos.of(row["location"])][0]),
                -1,
                f"begins {_text(start)}, its images {_text(int(elsewhere[0]))}: one clock is wrong",
            )
        return
    yield from _silences(number, row, photos, here)
    if row["source"] == FROM_IMAGES and _is_new_year(start):
        yield Check(
            "wrong_clock",
            number,
            int(photos.row[here][0]),
            -1,
            f"begins {_text(start)}, as a reset clock",
        )
    known = photos.is_known[here]
    if int(known.sum()) >= FEWEST_FOR_NIGHT and not photos.is_night[here].any():
        yield Check(
            "no_night_pictures",
            number,
            int(photos.row[here][0]),
            -1,
            f"none of {int(known.sum()):,} images was taken at night: does the flash work?",
        )
    if photos.is_empty is not None:
        empty = np.flatnonzero(photos.is_empty[here])
        days, counts = np.unique(times[empty] // DAY, return_counts=True)
        many = counts > MOST_EMPTY_A_DAY
        if many.any():
            yield Check(
                "many_empty",
                number,
                int(photos.row[here][empty[times[empty] // DAY == days[counts.argmax()]][0]]),
                -1,
                f"more than {MOST_EMPTY_A_DAY} empty images on {int(many.sum()):,} of {len(days):,} "
                f"days, at most {int(counts.max()):,} (vegetation?)",
            )


def _silences(number: int, row: dict[str, Any], photos: _Photos, here: Ints) -> Iterator[Check]:
    """Periods without a photo, apart from outages."""
    times, moments = photos.time[here], photos.moment[here]
    if row["source"] != FROM_IMAGES:
        span = (row["start"], row["end"])
        first, last = photos.moments(row["location"], span)
        times, moments = np.r_[span[0], times, span[1]], np.r_[first, moments, last]
    gaps = np.diff(moments)
    rows = photos.row[here]
    for index in np.flatnonzero(gaps > SILENCE_DAYS * DAY).tolist():
        first, last = int(times[index]), int(times[index + 1])
        off = sum(
            max(0, min(last, outage["end"]) - max(first, outage["start"])) for outage in row["outages"] or ()
        )
        silent = int(gaps[index]) - off
        if silent <= SILENCE_DAYS * DAY:
            continue
        gap = silent // DAY
        shift = 0 if row["source"] == FROM_IMAGES else 1
        before, after = index - shift, index + 1 - shift
        yield Check(
            "silence",
            number,
            int(rows[after]) if after < len(rows) else -1,
            int(rows[before]) if before >= 0 else -1,
            f"no image for {gap} days from {_text(first)}: dead, full, fallen?",
        )


def _is_new_year(time: int) -> bool:
    """Whether it is in the first hour of 1 January, where clocks restart after losing power."""
    moment = np.datetime64(time, "us")
    return bool(moment - moment.astype("datetime64[Y]") < np.timedelta64(1, "h"))


def _text(time: int, *, is_date: bool = False) -> str:
    kind = "datetime64[D]" if is_date else "datetime64[m]"
    return str(np.datetime64(time, "us").astype(kind)).replace("T", " ")
