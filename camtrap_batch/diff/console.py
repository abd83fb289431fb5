"""A comparison as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import RenderableType
from rich.table import Table as Grid

from camtrap_batch.diff.compare import Accuracy, Diff
from camtrap_batch.report.text import percent, plural

_MOST = 20


def tables(diff: Diff) -> Iterator[RenderableType]:
    """The parts of the comparison, for a rich console; long tables are cut, and say so."""
    yield f"before: {diff.before}"
    yield f"after:  {diff.after}"
    yield from diff.causes
    yield (
        f"{plural(diff.n_changed, 'image')} of {diff.n_images:,} have another label; "
        f"{plural(diff.lost, 'event')} lost, {diff.gained:,} gained; "
        f"{plural(len(diff.cameras), 'camera')} of {diff.n_cameras:,} changed"
    )
    changed = [(row.before, row.after, f"{row.images:,}") for row in diff.flow if row.before != row.after]
    yield from _grid("Labels that changed", ("before", "after", "images"), changed, texts=2)
    yield from _grid(
        "Labels",
        ("label", "images", "after", "events", "after", "lost", "gained", "split", "joined"),
        [(row.label, *map(_number, row[1:3]), *map(_number, row[4:])) for row in diff.labels],
    )
    yield from _grid(
        "Cameras whose top species or richness changed",
        ("camera", "top species", "after", "species", "after", "events", "after"),
        [
            (row.location, row.top_before or "-", row.top_after or "-", *map(_number, row[3:]))
            for row in diff.cameras
        ],
        texts=3,
    )
    yield from _grid(
        "Accuracy against the annotations",
        ("", "images", "right", "after", "its group", "after", "uncertain", "after"),
        [_accuracy(row) for row in (*diff.accuracy, *diff.by_class)],
    )
    if diff.accuracy and diff.truth_note:
        yield diff.truth_note
    if diff.n_unknown:
        yield f"{plural(diff.n_unknown, 'annotated image')} of classes that neither model has, left out"


def _grid(
    title: str, names: Sequence[str], rows: Sequence[tuple[str, ...]], texts: int = 1
) -> Iterator[RenderableType]:
    if not rows:
        return
    grid = Grid(title=title, title_justify="left", header_style="bold")
    for number, name in enumerate(names):
        grid.add_column(name, justify="left" if number < texts else "right", overflow="fold")
    for row in rows[:_MOST]:
        grid.add_row(*row)
    yield grid
    if len(rows) > _MOST:
        yield f"and {len(rows) - _MOST:,} more; --out FILE.csv or .html has all"


def _number(value: Any) -> str:
    return "-" if value is None else f"{value:,}"


def _accuracy(row: Accuracy) -> tuple[str, ...]:
    return (row.of, f"{row.images:,}", *(percent(row.share(n)) for n in row[2:]))
