"""What a table of images says about its cameras: where they stood, and from when to when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from camtrap_batch.catalog.cameras import AXES, TIMES
from camtrap_batch.catalog.numbers import read_degrees
from camtrap_batch.catalog.tabular import GivenTable
from camtrap_batch.vocabulary import plural

_SHOWN = 3
_LIKELY = {
    "latitude": ("latitud", "latitudine", "breitengrad", "gps_latitude", "gpslatitude"),
    "longitude": ("longitud", "longitudine", "längengrad", "laengengrad", "gps_longitude", "gpslongitude"),
}


def camera_columns(table: GivenTable) -> dict[str, str]:
    """latitude, longitude, start, end -> the name of its column, for those that a table has; start and end
    only with both of the others."""
    found = {role: table.name_of((*names, *_LIKELY.get(role, ()))) for role, names in (AXES | TIMES).items()}
    if any(found[axis] is None for axis in AXES):
        return {}
    return {role: name for role, name in found.items() if name is not None}


def cameras_of_images(
    table: GivenTable, columns: Mapping[str, str], locations: Sequence[str | None]
) -> tuple[dict[str, dict[str, str]], list[str]]:
    """What all rows of a location agree on.

    Parameters
    ----------
    columns : as `camera_columns` returns it
    locations : of the image in each row

    Returns
    -------
    Location -> role -> text, degrees as a decimal number; and lines about what is left open, as rows differ
    or are impossible
    """
    places: dict[str, set[tuple[str, ...]]] = {}
    times: dict[str, set[tuple[str, ...]]] = {}
    impossible: list[str] = []
    read = {axis: read_degrees(table.columns[columns[axis]], axis) for axis in AXES}
    for row, location in enumerate(locations):
        if location is None:
            continue
        cells = {role: table.columns[name][row] for role, name in columns.items()}
        place = tuple(found[row] for found, _ in read.values())
        if None not in place:
            places.setdefault(location, set()).add(tuple(map(repr, place)))
        elif any(cells[axis] for axis in AXES):
            why = next((f" {wrong[row]}" for _, wrong in read.values() if row in wrong), "")
            impossible.append(f"{table.at(row)}: {', '.join(cells[axis] or '' for axis in AXES)!r}{why}")
        time = tuple(cells.get(role) or "" for role in TIMES)
        if any(time):
            times.setdefault(location, set()).add(time)
    found: dict[str, dict[str, str]] = {}
    lines = []
    if impossible:
        lines.append(f"{plural(len(impossible), 'row')} without a place in degrees (WGS 84): {impossible[0]}")
    for roles, values, what in ((AXES, places, "places"), (TIMES, times, "starts or ends")):
        several = [location for location, given in values.items() if len(given) > 1]
        for location, given in values.items():
            if len(given) == 1:
                found.setdefault(location, {}).update(zip(roles, *given, strict=True))
        if several:
            first = "; ".join(", ".join(one) for one in sorted(values[several[0]])[:_SHOWN])
            of = plural(len(several), "camera")
            lines.append(f"{of} with several {what} in the table, left open: {several[0]!r} ({first})")
    return found, lines
