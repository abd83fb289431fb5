"""ReportData -> HTML. Each part of the page is a template; a part whose data is missing is left out."""

from __future__ import annotations

import base64
import functools
import shlex
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from camtrap_batch.report import accuracy, charts, figures, sightings, text
from camtrap_batch.report.bundle import Bundle
from camtrap_batch.report.choice import MOST_DOUBTFUL, doubtful
from camtrap_batch.report.data import Example, ReportData
from camtrap_batch.report.maps import draw_map
from camtrap_batch.report.names import Names
from camtrap_batch.report.points import find_points, thinned
from camtrap_batch.report.summary import Summary, summarise
from camtrap_batch.vocabulary import DEPLOYMENT_FINDINGS, FINDING_KINDS, STATUSES, UNCERTAIN, USABLE

MOST_CAMERAS = 200
MOST_FILES = 200
MOST_CLOCKS = 24
_MOST_MARKS = 4_096

_LEAKY = "frames of one burst on both sides: optimistic"


@dataclass(frozen=True)
class Headline:
    """A figure at the top of the page."""

    name: str
    value: str
    note: str = ""
    is_warning: bool = False


def render(data: ReportData, bundle: Bundle | None = None) -> str:
    """The report's page as an HTML document; what it loads later is in the bundle."""
    bundle = bundle or Bundle(data)
    summary = summarise(data)
    parts = {
        "images": _images(data),
        "findings": _findings(data),
        "look": _look(data),
        "sightings": _sightings(data),
        "cameras": _cameras(data),
        "model": _model(data),
    }
    headlines = _headlines(data, summary)
    html = (
        environment()
        .get_template("page.html")
        .render(data=data, bundle=bundle, summary=summary, headlines=headlines, **parts)
    )
    # a path that is not UTF-8 is a lone surrogate in Python, which no file can hold
    return html.encode("utf-8", "replace").decode("utf-8")


@functools.cache
def environment() -> Environment:
    """The templates, with the filters, names and style sheet they may use."""
    loader = PackageLoader("camtrap_batch.report")
    found = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    found.filters |= {
        "count": text.count,
        "number": text.number,
        "percent": text.percent,
        "interval": text.interval,
        "day": text.day,
        "hours_minutes": text.hours_minutes,
        "minute": text.minute,
        "path": text.in_hash,
        "word": shlex.quote,
        "data_url": _data_url,
        "svg_url": _svg_url,
    }
    found.globals |= {
        "plural": text.plural,
        "STATUSES": STATUSES,
        "style": Markup(  # noqa: S704 - files of ours
            "".join(loader.get_source(found, name)[0] for name in ("charts.css", "style.css"))
        ),
    }
    return found


def _headlines(data: ReportData, summary: Summary) -> list[Headline]:
    found = [
        Headline("Images", text.count(data.n_images)),
        Headline("Usable", text.percent(_share(_usable(data), data.n_images)), "decode, wholly or in part"),
    ]
    if data.locations is not None:
        note = "" if summary.n_located else "no coordinates"
        if summary.n_cameras > summary.n_locations:
            note = f"at {text.plural(summary.n_locations, 'location')}"
        found.append(Headline("Cameras", text.count(summary.n_cameras), note))
        found.append(
            Headline(
                "Camera days", text.count(summary.days), f"from {summary.effort}" if summary.effort else ""
            )
        )
    if data.events is not None:
        note = f"{summary.n_uncertain:,} of them uncertain" if summary.n_uncertain else ""
        found.append(Headline("Events", text.count(summary.n_events), note))
        threatened = summary.threatened
        note = "in the events" if threatened is None else f"{len(threatened):,} of them threatened"
        found.append(Headline("Species", text.count(len(summary.species)), note))
    if data.metrics is not None:
        found.append(_accuracy(data.metrics))
    return found


def _accuracy(metrics: dict[str, Any]) -> Headline:
    judged = text.plural(metrics.get("n_images", 0), "image")
    if metrics.get("split_by") == "random":
        return Headline(
            "Accuracy on random images", text.percent(metrics.get("accuracy")), f"{judged}; {_LEAKY}", True
        )
    cameras = text.plural(metrics.get("n_locations", 0), "camera")
    note = f"{judged} of {cameras} kept out of training"
    if bounds := text.interval((metrics.get("intervals") or {}).get("accuracy")):
        note = f"{bounds}; {note}" if bounds == text.NOTHING_KNOWN else f"95% interval {bounds}; {note}"
    return Headline("Accuracy on unseen cameras", text.percent(metrics.get("accuracy")), note)


def _look(data: ReportData) -> dict[str, Any] | None:
    """The events that people should review first, with the command that opens them."""
    if data.events is None:
        return None
    order = doubtful(data.events)
    columns = ["event_id", "location", "label", "start", "end", "n_images", "confidence", "best_image_id"]
    rows = data.events.select(columns).take(order[:MOST_DOUBTFUL]).to_pylist()
    rows = [{**row, "label": row["label"] or UNCERTAIN} for row in rows]
    return {
        "rows": [{**row, "command": review_command(data.job_file, row)} for row in rows],
        "n_open": len(order),
        "n_all": data.events.num_rows,
        "command": f"camtrap review {shlex.quote(data.job_file)}",
    }


def review_command(job_file: str, event: dict[str, Any]) -> str:
    """The command to review an event.

    >>> review_command("job.yaml", {"location": "C 1", "label": "lion", "start": None, "end": None})
    "camtrap review job.yaml --camera 'C 1' --label lion"
    """
    words = ["camtrap", "review", job_file]
    for option, value in (("--camera", event["location"]), ("--label", event["label"])):
        if value is not None:
            words += [option, str(value)]
    for option, value in (("--from", event["start"]), ("--to", event["end"])):
        if value is not None:
            words += [option, f"{value:%Y-%m-%d}"]
    return shlex.join(words)


def _images(data: ReportData) -> dict[str, Any]:
    """How the images were validated, and which of them train the model."""
    order = {status: index for index, status in enumerate(STATUSES)}
    counts = sorted(data.status_counts.items(), key=lambda item: order.get(item[0], len(order)))
    return {
        "statuses": [
            (status, n, _share(n, data.n_images), STATUSES.get(status, "")) for status, n in counts if n
        ],
        "usable": _usable(data),
        "n_not_ok": sum(n for status, n in counts if status != "ok"),
        "examples": data.status_examples[:MOST_FILES],
        "reasons": [
            (reason, n, _share(n, sum(data.selection_reasons.values())))
            for reason, n in sorted(data.selection_reasons.items(), key=lambda item: -item[1])
        ],
    }


def _findings(data: ReportData) -> dict[str, Any] | None:
    if data.finding_counts is None:
        return None
    counts = data.finding_counts
    pairs = {
        kind: [
            pair
            for pair in data.finding_examples
            if pair.kind == kind and pair.image_id in data.photos and pair.other_image_id in data.photos
        ]
        for kind in ("exact_duplicate", "near_duplicate")
    }
    return {
        "kinds": [
            (kind, counts[kind], _share(counts[kind], data.n_images), meaning)
            for kind, meaning in (FINDING_KINDS | DEPLOYMENT_FINDINGS).items()
            if counts.get(kind)
        ],
        "pairs": [(kind, counts.get(kind, 0), shown) for kind, shown in pairs.items() if shown],
        "rows": [row for row in data.finding_examples if not pairs.get(row.kind)],
    }


def _sightings(data: ReportData) -> dict[str, Any] | None:
    if data.events is None:
        return None
    rows = sightings.species_rows(data.events)
    species = [row.label for row in rows if row.is_species]
    clocks = [
        (label, sum(hours), charts.hour_columns(f"{label} by hour of the day", hours))
        for label, hours in sightings.events_by_hour(data.events, species[:MOST_CLOCKS])
    ]
    return {
        "rows": rows,
        "counts_individuals": any(row.individuals > row.events for row in rows),
        "clocks": clocks,
        "n_without_clock": len(species) - MOST_CLOCKS,
        "periods": _periods(data),
        "photos": [photo for photo in _with_photo(data, data.best_photos) if photo.label != UNCERTAIN],
        "rates": {} if data.rates is None else {row["label"]: row for row in data.rates.to_pylist()},
        "n_outside": 0 if data.rates is None else _sum(data.rates, "events_outside_effort"),
        "occupancy": [] if data.occupancy is None else data.occupancy.to_pylist(),
        "has_red_list": bool(data.names.red_list),
        "is_labelled": data.model is not None
        or (data.locations is not None and _sum(data.locations, "n_empty") > 0),
    }


def _periods(data: ReportData) -> dict[str, Any] | None:
    periods = sightings.events_by_period(data.events, data.deployments)
    if periods is None:
        return None
    span = f"{periods.names[0]} to {periods.names[-1]}"
    shown = {
        "Events": periods.events,
        "Cameras with an event": periods.locations,
        "Cameras in the field": periods.in_field,
    }
    return {
        "periods": periods,
        "charts": [
            charts.columns(
                f"{what} per {periods.unit}",
                f"{what} per {periods.unit}, {span}; most in one {periods.unit}: {max(values):,}.",
                values,
                periods.names,
                f"{periods.unit} (camera time)",
                f"{what.lower()} per {periods.unit}",
            )
            for what, values in shown.items()
            if values is not None
        ],
    }


def _cameras(data: ReportData) -> dict[str, Any] | None:
    if data.locations is None:
        return None
    rows = sightings.camera_rows(data.locations)
    seen = [] if data.events is None else sightings.species_rows(data.events)
    no_species = frozenset(row.label for row in seen if not row.is_species)
    points = find_points(data.locations, data.blur_km, no_species)
    return {
        "rows": rows[:MOST_CAMERAS],
        "n_left_out": max(len(rows) - MOST_CAMERAS, 0),
        "map": draw_map(thinned(points, _MOST_MARKS), data.blur_km) if points else None,
        "n_points": len(points),
        "n_located": sum(len(point.locations) for point in points),
        "n_all": len(rows),
        "n_without_images": sum(row.images == 0 for row in rows),
        "has_effort": any(row.days is not None for row in rows),
        "has_corrected": any(row.corrected for row in rows),
        "n_date_findings": _sum(data.locations, "n_date_findings"),
        "n_undated": data.n_undated,
        "undated": data.undated,
    }


def _sum(table: pa.Table, name: str) -> int:
    return int(pc.sum(table[name]).as_py() or 0) if name in table.column_names else 0


def _model(data: ReportData) -> dict[str, Any] | None:
    if data.model is None and data.metrics is None and not data.history:
        return None
    card = data.model or {}
    return {
        "card": _card(card, data.computed_in),
        "curves": figures.curves(data.history),
        "rate_search": figures.rate_search(data.lr_find, (card.get("training") or {}).get("lr")),
        "batch": data.batch,
        "judged": None if data.metrics is None else _judged(data.metrics, data.names),
        "mistakes": _with_photo(data, data.worst_mistakes),
    }


def _with_photo(data: ReportData, examples: list[Example]) -> list[Example]:
    return [example for example in examples if example.image_id in data.photos]


def _card(card: dict[str, Any], computed_in: str | None) -> list[tuple[str, str]]:
    training = card.get("training") or {}
    size, classes = card.get("size"), card.get("classes")
    found = [
        ("Model id", card.get("model_id")),
        ("Architecture", card.get("arch")),
        ("Input", f"{size} by {size} pixels" if size else None),
        ("Learnt from", "crops of a detector's boxes" if card.get("on") == "crops" else None),
        ("Classes", text.count(len(classes)) if classes else None),
        ("Training images", text.count(training["images"]) if training.get("images") else None),
        ("Training crops", text.count(training["crops"]) if training.get("crops") else None),
        ("Epochs", training.get("epochs")),
        ("Highest learning rate", f"{training['lr']:.2g}" if text.is_known(training.get("lr")) else None),
        ("Trained on", training.get("device")),
        ("Trained in", training.get("precision")),
        ("Training time, h:mm:ss", text.hours_minutes(training.get("seconds"))),
        ("Temperature of the confidences", text.number(card.get("temperature"))),
        ("Classified in", computed_in),
    ]
    return [(name, str(value)) for name, value in found if value not in (None, text.UNKNOWN)]


def _judged(metrics: dict[str, Any], names: Names) -> dict[str, Any]:
    spread = accuracy.camera_spread(metrics)
    matrix = accuracy.matrix(metrics)
    if matrix is not None:
        classes, counts = matrix
        matrix = [names.common_of(label) or label for label in classes], counts
    return {
        **{name: metrics.get(name) for name in _FIGURES},
        "is_random": metrics.get("split_by") == "random",
        "baseline": accuracy.most_frequent_share(metrics),
        "classes": accuracy.class_rows(metrics),
        "matrix": matrix and figures.confusion(*matrix),
        "confused": accuracy.most_confused(metrics),
        "by_light": metrics.get("by_light") or {},
        "spread": spread,
        "spread_chart": spread and _spread(spread),
        "reliability": figures.reliability(metrics),
        "random_split": metrics.get("random_split"),
        "by_crop": metrics.get("by_crop"),
        "intervals": metrics.get("intervals") or {},
    }


_FIGURES = (
    "split",
    "n_images",
    "n_locations",
    "accuracy",
    "balanced_accuracy",
    "macro_f1",
    "top5_accuracy",
    "ece",
    "ece_uncalibrated",
)


def _spread(spread: accuracy.Spread) -> Markup:
    return charts.columns(
        "Cameras by accuracy",
        f"How many cameras have which accuracy; the median is {spread.median:.1%}.",
        spread.tenths,
        [f"{tenth * 10} to {tenth * 10 + 10}%" for tenth in range(10)],
        "accuracy at a camera",
        "cameras",
        [(tenth, f"{tenth * 10}%") for tenth in range(0, 11, 2)],
        wide=False,
    )


def _data_url(jpeg: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii")


def _svg_url(picture: str) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(picture.encode()).decode("ascii")


def _usable(data: ReportData) -> int:
    return sum(data.status_counts.get(status, 0) for status in USABLE)


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
