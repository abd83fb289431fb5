"""A comparison as one HTML file, in the style of the report: it loads nothing and runs no script."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping

from camtrap_batch.diff.chart import flow_chart
from camtrap_batch.diff.compare import NOT_CLASSIFIED, Diff
from camtrap_batch.report import Photo
from camtrap_batch.report.page import environment
from camtrap_batch.vocabulary import UNCERTAIN

MOST_ROWS = 500
"""Maximum rows of a table; the rest is in the CSV file."""

_MOST_LABELS = 30
"""Maximum labels in a drawing; beyond that the tables must do."""


def render(diff: Diff, job: str, created: dt.datetime, photos: Mapping[str, Photo] | None = None) -> str:
    """The page; `created` with a time zone, `photos` of the diff's examples as far as there are any."""
    shown = photos or {}
    few = len(diff.labels) <= _MOST_LABELS
    html = (
        environment()
        .get_template("diff.html")
        .render(
            bundle=None,
            photos=shown,
            examples=[example for example in diff.examples if example.image_id in shown],
            diff=diff,
            job=job,
            created=created,
            chart=flow_chart(diff.flow) if few and diff.flow else None,
            changed=[row for row in diff.flow if row.before != row.after],
            most=MOST_ROWS,
            no_species=(UNCERTAIN, NOT_CLASSIFIED),
        )
    )
    # a path that is not UTF-8 is a lone surrogate in Python, which no file can hold
    return html.encode("utf-8", "replace").decode("utf-8")
