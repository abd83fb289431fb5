"""The flow of images from label to label as a drawing: a bar for each label on two sides, bands between."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from markupsafe import Markup

from camtrap_batch.diff.compare import Flow
from camtrap_batch.report.svg import picture, tag, text_width
from camtrap_batch.report.text import count, shorten
from camtrap_batch.vocabulary import plural

_BAR, _BETWEEN, _TOP = 14.0, 330.0, 24.0
_ROW = 24.0
"""Minimum height of a bar with the gap below it, so that its label can be read."""

_LEAST = 1.5
"""Height of the thinnest visible band."""

_LONGEST_NAME = 28


def flow_chart(flow: Sequence[Flow]) -> Markup:
    """Bands whose thickness shows their number of images; what keeps its label is grey."""
    before, after = Counter[str](), Counter[str]()
    for row in flow:
        before[row.before] += row.images
        after[row.after] += row.images
    # The same order on both sides, by the images on both, so that few bands cross.
    order = sorted(before | after, key=lambda name: (-before[name] - after[name], name))
    scale = _ROW * 1.2 * len(order) / before.total()
    left_tops, right_tops = _stack(before, order, scale), _stack(after, order, scale)
    margin = max(text_width(f"{shorten(name, _LONGEST_NAME)} 0,000,000") for name in order)
    left, right = margin, margin + _BAR + _BETWEEN
    starts, ends = dict(left_tops), dict(right_tops)
    bands = []
    for row in sorted(flow, key=lambda row: (order.index(row.before), order.index(row.after))):
        thick = max(row.images * scale, _LEAST)
        bands.append(_band(row, left + _BAR, right, starts[row.before], ends[row.after], thick))
        starts[row.before] += thick
        ends[row.after] += thick
    return picture(
        "Images by label, before and after",
        "Each band stands for the images that went from a label on the left to one on the right.",
        right + _BAR + margin,
        max([*starts.values(), *ends.values()]) + _ROW,
        tag("text", "before", x=left - 6, y=12, class_="name end"),
        tag("text", "after", x=right + _BAR + 6, y=12, class_="name"),
        *bands,
        *_bars(before, left_tops, starts, left, is_left=True),
        *_bars(after, right_tops, ends, right, is_left=False),
    )


def _stack(images: Counter[str], order: Sequence[str], scale: float) -> dict[str, float]:
    tops, y = {}, _TOP
    for name in order:
        if images[name]:
            tops[name] = y
            y += max(images[name] * scale + _ROW / 3, _ROW)
    return tops


def _bars(
    images: Counter[str], tops: dict[str, float], bottoms: dict[str, float], x: float, *, is_left: bool
) -> list[Markup]:
    parts = []
    for name, top in tops.items():
        tall = bottoms[name] - top
        tip = tag("title", f"{name}: {plural(images[name], 'image')}")
        parts.append(tag("rect", tip, x=x, y=top, width=_BAR, height=tall, class_="c1"))
        text = f"{shorten(name, _LONGEST_NAME)} {count(images[name])}"
        look = {"x": x - 6, "class_": "end"} if is_left else {"x": x + _BAR + 6, "class_": None}
        parts.append(tag("text", text, y=top + max(tall / 2, 5) + 3.5, **look))
    return parts


def _band(row: Flow, left: float, right: float, start: float, end: float, thick: float) -> Markup:
    middle = (left + right) / 2
    path = (
        f"M{left:.1f},{start:.1f} C{middle:.1f},{start:.1f} {middle:.1f},{end:.1f} {right:.1f},{end:.1f} "
        f"V{end + thick:.1f} C{middle:.1f},{end + thick:.1f} {middle:.1f},{start + thick:.1f} "
        f"{left:.1f},{start + thick:.1f} Z"
    )
    tip = tag("title", f"{row.before} to {row.after}: {plural(row.images, 'image')}")
    look, opacity = ("tick", "0.25") if row.before == row.after else ("c2", "0.6")
    return tag("path", tip, d=path, class_=look, fill_opacity=opacity)
