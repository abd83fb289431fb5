"""Charts as SVG: columns, lines, a reliability diagram, a heat map."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from camtrap_batch.report.svg import Frame, linear, picture, tag, text_width, ticks
from camtrap_batch.report.text import count, is_known, number, percent, shorten
from camtrap_batch.vocabulary import plural

_SMALL = (340, 240)
_WIDE = (800, 240)
_DASHES = (None, "6 3", "2 3")
_LONGEST_NAME = 28


@dataclass(frozen=True)
class Line:
    """A line of a chart: points (x, y); those without a y are left out."""

    name: str
    points: Sequence[tuple[float, float | None]]


def hour_columns(title: str, hours: Sequence[int]) -> Markup:
    """A small chart of 24 numbers, one for each hour of the day."""
    width, height = 200, 104
    top = max(*hours, 1)
    peak = hours.index(max(hours))
    frame = Frame(26, 8, width - 6, height - 20, linear(0, 24, 26, width - 6), linear(0, top, height - 20, 8))
    columns = [
        _column(frame, hour, hour + 1, n, f"{hour:02}:00 to {hour + 1:02}:00: {count(n)}")
        for hour, n in enumerate(hours)
        if n
    ]
    return picture(
        title,
        f"Events by hour of the day; most between {peak:02}:00 and {peak + 1:02}:00.",
        width,
        height,
        frame.axes([(hour, str(hour)) for hour in (0, 6, 12, 18, 24)], [(0, "0"), (top, _short(top))]),
        *columns,
    )


def columns(
    title: str,
    description: str,
    values: Sequence[int],
    names: Sequence[str],
    x_title: str,
    y_title: str,
    x_ticks: Sequence[tuple[float, str]] | None = None,
    *,
    wide: bool = True,
) -> Markup:
    """A column for each value; `names` says what each stands for.

    Below the axis are `x_ticks`, in columns from the left, or as many of the names as there is room for.
    """
    width, height = _WIDE if wide else _SMALL
    left, right, top, bottom = 46, width - 18, 28, height - 38
    highest = max([*values, 1])
    frame = Frame(
        left, top, right, bottom, linear(0, len(values), left, right), linear(0, highest, bottom, top)
    )
    if x_ticks is None:
        room = max(text_width(name) for name in names) + 14
        every = max(1, -(-len(values) * room // (right - left)))
        x_ticks = [(index + 0.5, name) for index, name in enumerate(names) if index % every == 0]
    return picture(
        title,
        description,
        width,
        height,
        frame.axes(
            x_ticks,
            [(value, _short(value)) for value in ticks(0, highest, 4) if value == int(value)],
            x_title,
            y_title,
        ),
        *(
            _column(frame, index, index + 1, value, f"{name}: {count(value)}")
            for index, (name, value) in enumerate(zip(names, values, strict=True))
            if value
        ),
    )


def lines(
    title: str,
    description: str,
    series: Sequence[Line],
    x_title: str,
    y_title: str,
    *,
    x_name: Callable[[float], str] = "{:g}".format,
    mark: float | None = None,
    most: float = math.inf,
) -> Markup:
    """Up to three lines, distinguished by colour and dashes. Empty if nothing is known.

    The x axis has ticks at whole numbers, formatted by `x_name`; a dashed line marks the x `mark`. The
    y axis ends at `most` at the latest.
    """
    known = [
        Line(line.name, [point for point in line.points if all(map(is_known, point))]) for line in series
    ]
    known = [line for line in known if line.points]
    if not known:
        return Markup("")
    width, height = _SMALL
    left, right, top, bottom = 46, width - 14, 46, height - 38
    x_values = [x for line in known for x, _ in line.points]
    y_values = [float(y) for line in known for _, y in line.points if y is not None]
    low, high = min(y_values), max(y_values)
    margin = 0.08 * (high - low) or 0.05
    low, high = max(low - margin, min(low, 0.0)), min(high + margin, most)
    first, last = min(x_values), max(x_values)
    frame = Frame(
        left,
        top,
        right,
        bottom,
        linear(first, last, left + 8, right - 8) if last > first else lambda _: (left + right) / 2,
        linear(low, high, bottom, top),
    )
    parts = []
    at = float(left)
    for index, line in enumerate(known):
        look = {"class_": f"line c{index + 1}", "stroke_dasharray": _DASHES[index % len(_DASHES)]}
        parts.append(tag("line", x1=at, x2=at + 22, y1=12, y2=12, **look))
        parts.append(tag("text", line.name, x=at + 27, y=16, class_="tick"))
        at += 40 + text_width(line.name)
        positions = [(frame.x(x), frame.y(float(y or 0))) for x, y in line.points]
        parts.append(tag("polyline", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in positions), **look))
        parts += [
            tag(
                "circle",
                tag("title", f"{line.name}, {x_title} {count(point[0])}: {number(point[1])}"),
                cx=x,
                cy=y,
                r=2.6,
                class_=f"dot c{index + 1}",
            )
            for point, (x, y) in zip(line.points, positions, strict=True)
            if len(positions) <= 40
        ]
    if mark is not None:
        parts.append(tag("line", x1=frame.x(mark), x2=frame.x(mark), y1=bottom, y2=top, class_="ideal"))
    y_ticks = [(value, f"{value:g}") for value in ticks(low, high, 5)]
    x_ticks = [(value, x_name(value)) for value in ticks(first, last, 8) if value == int(value)]
    return picture(title, description, width, height, frame.axes(x_ticks, y_ticks, x_title, y_title), *parts)


def reliability(title: str, description: str, bins: Sequence[dict[str, float]]) -> Markup:
    """Accuracy over confidence; a point's area is its share of the images, the dashed line is perfect
    calibration."""
    width, height = _SMALL[0], 300
    left, right, top, bottom = 46, width - 20, 28, height - 38
    frame = Frame(left, top, right, bottom, linear(0, 1, left, right), linear(0, 1, bottom, top))
    scale = [(value / 5, f"{value * 20}%") for value in range(6)]
    most = max([row["n"] for row in bins], default=1)
    rows = [row for row in bins if is_known(row["accuracy"]) and is_known(row["confidence"])]
    path = " ".join(f"{frame.x(row['confidence']):.1f},{frame.y(row['accuracy']):.1f}" for row in rows)
    return picture(
        title,
        description,
        width,
        height,
        frame.axes(scale, scale, "confidence of the label", "share that is right"),
        tag("line", x1=left, x2=right, y1=bottom, y2=top, class_="ideal"),
        tag("polyline", points=path, class_="line c1"),
        *(
            tag(
                "circle",
                tag(
                    "title",
                    f"{plural(int(row['n']), 'image')}: confidence {percent(row['confidence'])},"
                    f" right {percent(row['accuracy'])}",
                ),
                cx=frame.x(row["confidence"]),
                cy=frame.y(row["accuracy"]),
                r=2.5 + 6 * (row["n"] / most) ** 0.5,
                class_="dot c1",
            )
            for row in rows
        ),
    )


def heat_map(title: str, description: str, counts: Sequence[Sequence[int]], names: Sequence[str]) -> Markup:
    """Counts as a matrix, shaded by their share of the row; columns have the numbers of the rows."""
    n = len(names)
    cell = 36 if n <= 12 else 24 if n <= 25 else 16 if n <= 40 else 14
    labels = [shorten(name, _LONGEST_NAME) for name in names]
    left, top = max(text_width(label) for label in labels) + 32, 40
    right, bottom = left + n * cell, top + n * cell
    parts = [
        tag("text", "predicted", x=left, y=12, class_="name"),
        tag("text", "truth", x=left - 28, y=top - 10, class_="name end"),
        tag("rect", x=left, y=top, width=n * cell, height=n * cell, class_="sheet"),
    ]
    for index, (name, label) in enumerate(zip(names, labels, strict=True)):
        middle = index * cell + cell / 2
        y = top + middle + 3.5
        parts.append(tag("text", tag("title", name), label, x=left - 28, y=y, class_="end"))
        parts.append(tag("text", str(index + 1), x=left - 8, y=y, class_="tick end"))
        parts.append(tag("text", str(index + 1), x=left + middle, y=top - 10, class_="tick middle"))
    for row, (name, values) in enumerate(zip(names, counts, strict=True)):
        total = sum(values)
        for column, value in enumerate(values):
            if not value:
                continue
            share = value / total
            x, y = left + column * cell, top + row * cell
            tip = f"{name} taken for {names[column]}: {count(value)} of {count(total)} ({percent(share)})"
            if row == column:
                tip = f"{name} recognised: {count(value)} of {count(total)} ({percent(share)})"
            parts.append(
                tag(
                    "rect",
                    tag("title", tip),
                    x=x,
                    y=y,
                    width=cell,
                    height=cell,
                    class_="heat",
                    fill_opacity=f"{0.06 + 0.94 * share:.2f}",
                )
            )
            if n <= 25:
                parts.append(
                    tag(
                        "text",
                        _short(value),
                        x=x + cell / 2,
                        y=y + cell / 2 + 3.5,
                        class_="cell strong" if share > 0.55 else "cell",
                    )
                )
    for index in range(n):
        offset = index * cell
        parts.append(tag("rect", x=left + offset, y=top + offset, width=cell, height=cell, class_="diagonal"))
    return picture(title, description, right + 8, bottom + 8, *parts, style=f"width: {right + 8:.0f}px")


def _column(frame: Frame, start: float, end: float, value: float, tip: str) -> Markup:
    left, right, y = frame.x(start), frame.x(end), frame.y(value)
    gap = min(1.0, (right - left) * 0.15)
    return tag(
        "rect",
        tag("title", tip),
        x=left + gap / 2,
        y=y,
        width=right - left - gap,
        height=max(frame.bottom - y, 0.5),
        class_="column",
    )


def _short(value: float) -> str:
    """
    >>> _short(950), _short(12_345), _short(2_000_000)
    ('950', '12k', '2M')
    """
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if value >= 10 * size or (value >= size and value % size == 0):
            return f"{value / size:.0f}{letter}"
    return f"{value:,.0f}"
