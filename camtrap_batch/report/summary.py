"""The head of the report, for those who do not read further: what was seen, how well, and what is unknown."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from camtrap_batch.events import UNKNOWN_LOCATION
from camtrap_batch.report import text
from camtrap_batch.report.data import ReportData
from camtrap_batch.report.names import RED_LIST
from camtrap_batch.report.sightings import CameraRow, SpeciesRow, camera_rows, species_rows
from camtrap_batch.vocabulary import USABLE

_MOST_NAMED = 12
_FROM = {"metadata": "the metadata", "cameras": "the table of cameras", "images": "the photos alone"}


@dataclass(frozen=True)
class Named:
    """A species with its common names."""

    row: SpeciesRow
    common: str | None
    red_list: str | None

    @property
    def red_list_name(self) -> str | None:
        return RED_LIST.get(self.red_list, self.red_list) if self.red_list else None


@dataclass(frozen=True)
class Summary:
    """The content of the report's head.

    Attributes
    ----------
    n_cameras, n_locations
        A location with two cameras counts as one location and two cameras.
    n_located
        Number of locations with known coordinates.
    first, last
        First and last date of the study period; None if no date can be trusted.
    n_doubted
        Images whose date does not count in it.
    days, effort
        Camera days in all, and a text on what they rest on.
    n_events, n_uncertain
        Number of events, and of uncertain ones.
    species
        Those with the most events first; neither groups nor people.
    threatened
        Those species that the Red List calls threatened; None if the job has no categories.
    unknown
        What the report can't say, one sentence each.
    """

    n_cameras: int
    n_locations: int
    n_located: int
    first: dt.datetime | None
    last: dt.datetime | None
    n_doubted: int
    days: float | None
    effort: str | None
    n_events: int
    n_uncertain: int
    species: list[Named]
    threatened: list[Named] | None
    unknown: list[str]


def summarise(data: ReportData) -> Summary:
    """The head of a report."""
    cameras = [] if data.locations is None else camera_rows(data.locations)
    stations = [row for row in cameras if row.location != UNKNOWN_LOCATION]
    rows = [] if data.events is None else species_rows(data.events)
    species = [
        Named(row, data.names.common_of(row.label), data.names.red_list_of(row.label))
        for row in rows
        if row.is_species
    ]
    known = [row.days for row in stations if row.days is not None]
    dates = data.dates
    summary = Summary(
        n_cameras=_count_cameras(data, stations),
        n_locations=len(stations),
        n_located=_count_located(data),
        first=dates.first if dates else None,
        last=dates.last if dates else None,
        n_doubted=dates.n_doubted if dates else 0,
        days=sum(known) if known else None,
        effort=_effort(stations),
        n_events=sum(row.events for row in rows),
        n_uncertain=sum(row.events for row in rows if row.is_uncertain),
        species=species,
        threatened=[one for one in species if data.names.is_threatened(one.row.label)]
        if data.names.red_list
        else None,
        unknown=[],
    )
    summary.unknown.extend(_unknown(data, summary, stations))
    return summary


def _count_cameras(data: ReportData, stations: list[CameraRow]) -> int:
    named: dict[str, set[str]] = defaultdict(set)
    if data.deployments is not None:
        columns = (data.deployments[name].to_pylist() for name in ("location", "camera"))
        for location, camera in zip(*columns, strict=True):
            if camera is not None:
                named[location].add(camera)
    return sum(max(1, len(named.get(row.location, ()))) for row in stations)


def _count_located(data: ReportData) -> int:
    if data.locations is None:
        return 0
    places = zip(*(data.locations[name].to_pylist() for name in ("longitude", "latitude")), strict=True)
    return sum(text.is_known(x) and text.is_known(y) for x, y in places)


def _effort(stations: list[CameraRow]) -> str | None:
    """What camera days rest on.

    Results of older versions do not say; theirs rest on photos.
    """
    sources = {row.effort_source or "images" for row in stations if row.days is not None}
    return " and ".join(_FROM.get(source, source) for source in sorted(sources)) or None


def _unknown(data: ReportData, summary: Summary, stations: list[CameraRow]) -> Iterator[str]:
    if data.events is None:
        is_usable = any(data.status_counts.get(status) for status in USABLE)
        why = "the images are not classified yet" if is_usable else "not one image can be used, see below"
        yield f"Which species there are: {why}."
        return
    if data.n_unlabelled:
        shown = text.plural(data.n_unlabelled, "image shows", "images show")
        yield f"What {shown}: nobody has labelled {_them(data.n_unlabelled)}."
    if summary.first is None:
        yield "When the images were taken: none has a date that can be trusted."
    elif summary.n_doubted:
        yield (
            f"When {text.plural(summary.n_doubted, 'image')} {_were(summary.n_doubted)} taken: the camera's "
            "clock was wrong, or none stood there. The period leaves them out."
        )
    if data.n_undated:
        belong = "has no date and belongs" if data.n_undated == 1 else "have no date and belong"
        yield f"{text.plural(data.n_undated, 'image')} {belong} to no event."
    if summary.days is None:
        yield "How long the cameras stood in the field."
    elif any((row.effort_source or "images") == "images" for row in stations if row.days is not None):
        yield (
            "How long some cameras stood in the field: their days are counted from photos, so they are too "
            "few, and rates too high. dataset.cameras with start and end makes them known."
        )
    if summary.n_uncertain:
        yield (
            f"What {text.plural(summary.n_uncertain, 'event')} of {summary.n_events:,} show: the model was "
            "not sure enough, and nobody has looked yet."
        )
    n_unplaced = summary.n_locations - summary.n_located
    if n_unplaced > 0:
        yield f"Where {text.plural(n_unplaced, 'camera stands', 'cameras stand')}: no coordinates are given."
    if data.metrics is None:
        if data.model is not None:
            yield "How often the labels are right: no photo labelled by people was kept aside."
    elif text.says_nothing((data.metrics.get("intervals") or {}).get("accuracy")):
        yield "How often the labels are right at other cameras: too few cameras were kept aside to tell."
    classes = (data.model or {}).get("classes")
    if classes:
        yield f"Species that the model does not know: it has {text.plural(len(classes), 'class', 'classes')}."


def _them(n: int) -> str:
    return "it" if n == 1 else "them"


def _were(n: int) -> str:
    return "was" if n == 1 else "were"
