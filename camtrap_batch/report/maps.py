"""Where the cameras are: a map as SVG, without a background."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from camtrap_batch.report.points import MapPoint
from camtrap_batch.report.svg import Frame, decimals, linear, multiples, nice, picture, tag, text_width
from camtrap_batch.report.text import plural, shorten
from camtrap_batch.survey.grid import KM_PER_DEGREE

_WIDTH, _LOWEST, _HIGHEST = 800.0, 300.0, 620.0
_LEFT, _TOP, _FOOT = 1.0, 1.0, 62.0
_SMALLEST = 0.02  # minimum extent of a map in degrees of latitude
_ROOM = 1.16
_MOST_NAMES, _MOST_TRIED, _LONGEST_NAME = 60, 300, 22

_OUTLINES: tuple[Sequence[tuple[float, float]], ...] = (
    (),  # a circle
    ((-0.89, -0.89), (0.89, -0.89), (0.89, 0.89), (-0.89, 0.89)),
    ((0, -1.4), (1.3, 0.9), (-1.3, 0.9)),
    ((0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)),
    ((0, 1.4), (1.3, -0.9), (-1.3, -0.9)),
    (
        *((-0.45, -1.2), (0.45, -1.2), (0.45, -0.45), (1.2, -0.45), (1.2, 0.45), (0.45, 0.45)),
        *((0.45, 1.2), (-0.45, 1.2), (-0.45, 0.45), (-1.2, 0.45), (-1.2, -0.45), (-0.45, -0.45)),
    ),
)
"""Shapes with about the area of a circle of radius 1, so that species can be distinguished without colour."""

_OTHER, _NOTHING = "other", "hollow"


@dataclass(frozen=True)
class CameraMap:
    """A map, and what its marks mean: mark, label and its number of points."""

    drawing: Markup
    legend: list[tuple[Markup, str, int]]


def draw_map(points: Sequence[MapPoint], blur_km: float) -> CameraMap:
    """A map of at least one point: a mark's area shows its events, shape and colour its top species."""
    tops = Counter(point.top_label for point in points)
    n_without = tops.pop(None, 0)
    order = sorted((str(label) for label in tops), key=lambda label: (-tops[label], label))
    looks = {label: index for index, label in enumerate(order[: len(_OUTLINES)])}
    legend = [(_sample(look), label, tops[label]) for label, look in looks.items()]
    if n_others := sum(tops[label] for label in order[len(looks) :]):
        legend.append((_sample(_OTHER), "another species", n_others))
    if n_without:
        legend.append((_sample(_NOTHING), "no event of a species", n_without))
    return CameraMap(_draw(points, looks, blur_km), legend)


def _draw(points: Sequence[MapPoint], looks: dict[str, int], blur_km: float) -> Markup:
    frame, bounds, units = _view(points, max(_SMALLEST, 4 * blur_km / KM_PER_DEGREE))
    most = max(point.n_events for point in points)
    largest = 15.0 if len(points) <= 60 else 10.0 if len(points) <= 500 else 6.0
    circles = [
        (frame.x(point.longitude), frame.y(point.latitude), _radius(point.n_events, most, largest))
        for point in points
    ]
    marks = []
    for point, circle in zip(points, circles, strict=True):
        look = _NOTHING if point.top_label is None else looks.get(point.top_label, _OTHER)
        marks.append(_mark(*circle, look, tag("title", _tip(point, exact=not blur_km))))
    n_cameras = sum(len(point.locations) for point in points)
    return picture(
        "Map of the camera locations",
        f"{plural(n_cameras, 'camera')} at {plural(len(points), 'point')}; a larger mark stands for more "
        "events. The table of cameras has the figures.",
        _WIDTH,
        frame.bottom + _FOOT,
        _graticule(frame, bounds),
        *marks,
        *_names(points, circles, frame),
        _scale_bar(frame, bounds, units),
        _sizes(most, largest, frame) if most else Markup(""),
    )


def _view(points: Sequence[MapPoint], smallest: float) -> tuple[Frame, tuple[float, ...], float]:
    """The map's frame; west, east, south, north; units of the view box per degree of latitude."""
    longitude = np.array([point.longitude for point in points])
    latitude = np.array([point.latitude for point in points])
    center, middle = (float(values.min() + values.max()) / 2 for values in (longitude, latitude))
    squeeze = max(math.cos(math.radians(middle)), 0.05)
    across = max(float(np.ptp(longitude)) * squeeze, smallest) * _ROOM
    upright = max(float(np.ptp(latitude)), 0.4 * smallest) * _ROOM
    width = _WIDTH - 2 * _LEFT
    height = min(max(width * upright / across, _LOWEST), _HIGHEST)
    units = min(width / across, height / upright)
    half_x, half_y = width / units / squeeze / 2, height / units / 2
    west, east, south, north = center - half_x, center + half_x, middle - half_y, middle + half_y
    right, bottom = _LEFT + width, _TOP + height
    x, y = linear(west, east, _LEFT, right), linear(south, north, bottom, _TOP)
    return Frame(_LEFT, _TOP, right, bottom, x, y), (west, east, south, north), units


def _mark(x: float, y: float, r: float, look: int | str, *children: Markup) -> Markup:
    kind = f"mark c{look + 1}" if isinstance(look, int) else f"mark {look}"
    outline = _OUTLINES[look] if isinstance(look, int) else ()
    if not outline:
        return tag("circle", *children, cx=x, cy=y, r=r, class_=kind)
    points = " ".join(f"{x + r * dx:.1f},{y + r * dy:.1f}" for dx, dy in outline)
    return tag("polygon", *children, points=points, class_=kind)


def _sample(look: int | str) -> Markup:
    return tag("svg", _mark(9, 9, 6, look), viewBox="0 0 18 18", width=18, height=18, aria_hidden="true")


def _radius(events: int, most: int, largest: float) -> float:
    return 2.5 + (largest - 2.5) * math.sqrt(events / max(most, 1))


def _tip(point: MapPoint, *, exact: bool) -> str:
    names = ", ".join(point.locations[:6])
    if len(point.locations) > 6:
        names += f" and {len(point.locations) - 6:,} more"
    figures = [plural(point.n_events, "event")]
    if point.is_area:
        return f"{names}: {figures[0]}"
    figures.append(plural(point.richness, "species", "species"))
    if point.top_label:
        figures.append(f"most {point.top_label}")
    if exact:
        figures.append(f"{_degrees(point.latitude, 'NS', 4)} {_degrees(point.longitude, 'EW', 4)}")
    return f"{names}: {', '.join(figures)}"


def _graticule(frame: Frame, bounds: tuple[float, ...]) -> Markup:
    west, east, south, north = bounds
    step = nice(max((north - south) / 5, (east - west) / 7))
    size = {"width": frame.right - frame.left, "height": frame.bottom - frame.top}
    parts = [tag("rect", x=frame.left, y=frame.top, **size, class_="sheet")]
    for value in multiples(max(south, -90), min(north, 90), step):
        y = frame.y(value)
        parts.append(tag("line", x1=frame.left, x2=frame.right, y1=y, y2=y, class_="grid"))
        label = _degrees(value, "NS", decimals(step))
        if y > frame.top + 14:
            parts.append(tag("text", label, x=frame.left + 4, y=y - 3, class_="tick"))
    for value in multiples(max(west, -180), min(east, 180), step):
        x = frame.x(value)
        parts.append(tag("line", x1=x, x2=x, y1=frame.top, y2=frame.bottom, class_="grid"))
        label = _degrees(value, "EW", decimals(step))
        if frame.left + text_width(label) / 2 < x < frame.right - text_width(label) / 2:
            parts.append(tag("text", label, x=x, y=frame.bottom + 15, class_="tick middle"))
    return Markup("").join(parts)


def _names(
    points: Sequence[MapPoint], circles: Sequence[tuple[float, float, float]], frame: Frame
) -> list[Markup]:
    """Names of the points with the most events, if they cover neither a mark nor another name."""
    taken = np.array([(x - r, y - r, x + r, y + r) for x, y, r in circles])
    names = []
    for point, (x, y, r) in zip(points[:_MOST_TRIED], circles, strict=False):
        more = f" +{len(point.locations) - 1}" if len(point.locations) > 1 else ""
        name = shorten(point.locations[0], _LONGEST_NAME) + more
        width = text_width(name)
        for left, base in (
            (x + r + 3, y + 4),
            (x - r - 3 - width, y + 4),
            (x - width / 2, y - r - 4),
            (x - width / 2, y + r + 12),
        ):
            box = np.array((left, base - 9, left + width, base + 3))
            inside = box[0] > frame.left and box[2] < frame.right
            inside = inside and box[1] > frame.top and box[3] < frame.bottom
            if inside and not ((taken[:, :2] < box[2:]) & (taken[:, 2:] > box[:2])).all(axis=1).any():
                names.append(tag("text", name, x=left, y=base, class_="place"))
                taken = np.vstack([taken, box])
                break
        if len(names) == _MOST_NAMES:
            break
    return names


def _scale_bar(frame: Frame, bounds: tuple[float, ...], units: float) -> Markup:
    """A scale of a round number of km; on a map so tall that the scale varies, it says where it holds."""
    per_km = units / KM_PER_DEGREE
    km = nice(80 / per_km)
    length, y = km * per_km, frame.bottom + 40
    south, north = bounds[2:]
    middle = (south + north) / 2
    where = f" at {_degrees(middle, 'NS', 0)}" if north - south > 10 else ""
    label = (f"{km:,.0f} km" if km >= 1 else f"{km * 1000:,.0f} m") + where
    bar = f"M{frame.left:.1f} {y - 4:.1f}v4h{length:.1f}v-4"
    return tag("path", d=bar, class_="scale") + tag(
        "text", label, x=frame.left + length + 7, y=y + 2, class_="tick"
    )


def _sizes(most: int, largest: float, frame: Frame) -> Markup:
    """Marks for three numbers of events, right-aligned under the map."""
    shown = sorted({most, max(most // 4, 1), 1}, reverse=True)
    x, y = frame.right, frame.bottom + 38
    parts = []
    for number, events in enumerate(shown):
        label = plural(events, "event") if number == 0 else f"{events:,}"
        r = _radius(events, most, largest)
        x -= text_width(label) + 4
        parts.append(tag("text", label, x=x, y=y + 4, class_="tick"))
        x -= r + 5
        parts.append(tag("circle", cx=x, cy=y, r=r, class_="size"))
        x -= r + 14
    return Markup("").join(parts)


def _degrees(value: float, letters: str, digits: int) -> str:
    """
    >>> _degrees(-1.25, "NS", 2), _degrees(0, "EW", 0)
    ('1.25° S', '0°')
    """
    side = "" if round(value, digits) == 0 else " " + letters[value < 0]
    return f"{abs(value):.{digits}f}°{side}"
