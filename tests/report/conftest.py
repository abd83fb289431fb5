"""Made-up runs, small and large."""

from __future__ import annotations

import datetime as dt
import io
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from camtrap_batch.report import Box, Dates, Example, Finding, Photo, ReportData
from camtrap_batch.store.schemas import EVENTS, LOCATIONS
from camtrap_batch.vocabulary import STATUSES, UNCERTAIN

SPECIES = (
    "panthera onca",
    "loxodonta africana",
    "eudorcas thomsonii",
    "oryx beisa",
    "litocranius walleri",
    "elephas maximus",
    "panthera tigris",
    "meleagris ocellata",
    "crax rubra",
    "crax alberti",
    "panthera leo",
)


@pytest.fixture
def bare() -> ReportData:
    """A run of which only the images are validated."""
    return ReportData(
        job_name="bare",
        created=dt.datetime(2026, 5, 4, 12, 30, tzinfo=dt.UTC),
        run_folder="runs/bare",
        job_yaml="name: bare\n",
        dataset={"format": "folder", "metadata": None, "images": "photos"},
        notes={},
        n_images=100,
        status_counts={"ok": 97, "missing": 3},
    )


@pytest.fixture
def make_data() -> Callable[..., ReportData]:
    return make_report_data


@pytest.fixture(scope="module")
def make_whole() -> Callable[..., ReportData]:
    """As `make_data`, for fixtures of a module."""
    return make_report_data


def make_report_data(
    cameras: int = 20, classes: int = 12, events: int = 900, seed: int = 1, **changes: Any
) -> ReportData:
    """A whole run: `changes` replace fields."""
    rng = np.random.default_rng(seed)
    names = [SPECIES[i] if i < len(SPECIES) else f"species {i:03}" for i in range(classes - 1)] or ["leo"]
    places = [f"C{number:04}" for number in range(cameras)]
    event_table = _events(rng, names, places, events)
    n_images = cameras * 120
    counts = {"ok": n_images - 33, "truncated": 12, "corrupt": 9, "missing": 12}
    labels = [*names, "empty"] if classes > 1 else names
    fields: dict[str, Any] = {
        "job_name": "made-up",
        "created": dt.datetime(2026, 5, 4, 12, 30, tzinfo=dt.UTC),
        "run_folder": "runs/made-up",
        "job_yaml": "name: made-up\noutput: runs\ndataset:\n  format: cct\n  images: photos\n",
        "dataset": {"format": "cct", "metadata": "photos.json", "images": "photos"},
        "notes": {"images without a date in the metadata": 14},
        "n_images": n_images,
        "status_counts": counts,
        "status_examples": [
            ("corrupt", f"C0001/IMG_{number:04}.JPG", "C0001", "cannot identify image file")
            for number in range(9)
        ],
        "finding_counts": {"exact_duplicate": 40, "date_in_future": 2, "size_differs": 1},
        "finding_examples": [
            *(
                Finding("exact_duplicate", f"b/{i}.jpg", places[0], f"as a/{i}.jpg", f"b{i}", f"a{i}")
                for i in range(6)
            ),
            Finding("date_in_future", "c/<1>.jpg", None, "2091-05-01 10:00:00: later than the manifest"),
        ],
        "selection_reasons": {"kept": n_images // 2, "empty, thinned out": n_images // 4, "video": 3},
        "split_counts": {
            label: {"train": [80 + 7 * i, 30 + 2 * i, 3 + i % 9], "valid": [20 + i, 9 + i, 2 + i % 3]}
            for i, label in enumerate(labels)
        },
        "split_across": {"sequences": [0, 300], "locations": [0, 20]},
        "model": {
            "model_id": "0123456789abcdef",
            "arch": "resnet34",
            "classes": labels,
            "size": 224,
            "temperature": 1.234,
            "training": {
                "images": 1234,
                "epochs": 5,
                "lr": 0.0021,
                "seconds": 3725.4,
                "device": "cuda",
                "precision": "bfloat16",
            },
        },
        "computed_in": "int8; near ties again: 464 in bfloat16, 12 in float32",
        "metrics": _metrics(rng, labels, places),
        "history": [
            {
                "epoch": float(epoch),
                "train_loss": 2.4 / epoch**0.8,
                "valid_loss": 2.3 / epoch**0.55,
                "accuracy": 1 - 0.75 / epoch**0.7,
                "balanced_accuracy": 1 - 0.82 / epoch**0.6,
                "lr": 1e-3,
                "seconds": 31.5,
            }
            for epoch in range(1, 6)
        ],
        "locations": _locations(rng, places, event_table),
        "events": event_table,
        "best_photos": [Example(f"best{i}", label, 0.99 - i / 50) for i, label in enumerate(names[:11])],
        "worst_mistakes": [
            Example(f"wrong{i}", labels[i % len(labels)], 0.97 - i / 30, labels[-1]) for i in range(8)
        ],
        "files": {f"i{number}": f"IMG_{number:05}.JPG" for number in range(events)},
        "strips": {f"e{number}": [f"i{number}", f"b{number}"] for number in range(3)},
        "photos": {
            **{f"{kind}{i}": make_photo(i, f"{kind}/{i}.jpg") for i in range(6) for kind in "ab"},
            **{f"best{i}": make_photo(i, f"best/{i}.jpg", places[i % cameras]) for i in range(11)},
            **{f"wrong{i}": make_photo(i + 3, f"wrong/{i}.jpg") for i in range(8)},
            **{f"i{i}": make_photo(i, f"IMG_{i:05}.JPG") for i in range(12)},
        },
        "dates": Dates(
            dt.datetime(2023, 2, 11, 9),
            dt.datetime(2023, 10, 28, 17),
            {place: (dt.datetime(2023, 2, 11, 9), dt.datetime(2023, 10, 28, 17)) for place in places},
            n_images,
            4,
        ),
        "stages": [
            {"stage": "validate", "shards": 5, "rows": n_images, "rows_per_s": 812.34, "failed": 0},
            {"stage": "train", "shards": 1, "rows": 1234, "rows_per_s": 0.0, "failed": 0},
        ],
        "versions": {"python": "3.11.9", "pyarrow": "23.0"},
        "snapshots": {"catalog": 1, "manifest": 1, "events": 2},
    }
    return ReportData(**{**fields, **changes})


def _events(rng: np.random.Generator, names: list[str], places: list[str], n: int) -> pa.Table:
    common = 1 / np.arange(1, len(names) + 1)
    label = rng.choice(len(names), n, p=common / common.sum())
    where = rng.choice(len(places), n, p=rng.dirichlet(np.full(len(places), 0.7)))
    hour = np.clip(rng.normal(4 + 19 * (label % 5) / 5, 2.5, n), 0, 23.99)
    day = np.floor(rng.beta(2, 1.6, n) * 260)
    start = np.datetime64("2023-02-11", "us") + ((day * 24 + hour) * 3600e6).astype("timedelta64[us]")
    labels = np.array(names, object)[label]
    labels[rng.random(n) < 0.06] = UNCERTAIN
    columns = {
        "event_id": [f"e{number}" for number in range(n)],
        "location": np.array(places, object)[where],
        "label": labels,
        "start": start,
        "end": start + np.timedelta64(40, "s"),
        "n_images": rng.integers(1, 9, n),
        "count": rng.choice([1, 1, 1, 2, 3], n),
        "confidence": np.where(labels == UNCERTAIN, 0.4, rng.beta(9, 1.4, n)),
        "best_image_id": [f"i{number}" for number in range(n)],
    }
    return pa.table(
        {name: pa.array(values).cast(EVENTS.field(name).type) for name, values in columns.items()}
    )


def _locations(rng: np.random.Generator, places: list[str], events: pa.Table) -> pa.Table:
    seen: dict[str, Counter[str]] = {place: Counter() for place in places}
    for place, label in zip(events["location"].to_pylist(), events["label"].to_pylist(), strict=True):
        seen[place][label] += 1
    rows = []
    for place, labels in seen.items():
        uncertain = labels.pop(UNCERTAIN, 0)
        most = labels.most_common()
        rows.append(
            {
                **dict.fromkeys((f"n_{status}" for status in STATUSES), 0),
                "location": place,
                "longitude": 36.8 + rng.normal(0, 0.12),
                "latitude": 0.35 + rng.normal(0, 0.07),
                "n_images": 120,
                "n_ok": 117,
                "n_missing": 3,
                "n_empty": 40,
                "n_undated": 0,
                "first": dt.datetime(2023, 2, 11, 9),
                "last": dt.datetime(2023, 10, 28, 17),
                "n_events": sum(labels.values()) + uncertain,
                "n_uncertain": uncertain,
                "richness": len(labels),
                "events_by_label": [{"label": label, "n": n} for label, n in most],
                "top_label": most[0][0] if most else None,
                "model_id": "0123456789abcdef",
                "predictions_snapshot": 1,
                "run_time": dt.datetime(2026, 5, 4, tzinfo=dt.UTC),
            }
        )
    return pa.Table.from_pylist(rows, schema=LOCATIONS)


def _metrics(rng: np.random.Generator, labels: list[str], places: list[str]) -> dict[str, Any]:
    n = len(labels)
    support = rng.integers(8, 160, n)
    confusion = np.zeros((n, n), int)
    for row in range(n):
        chance = np.full(n, 0.25 / n)
        chance[row] += 0.6
        chance[(row + 1) % n] += 0.15
        confusion[row] = rng.multinomial(support[row], chance / chance.sum())
    hits, predicted = np.diag(confusion), confusion.sum(0)
    accuracy = hits.sum() / support.sum()
    return {
        "n_images": int(support.sum()),
        "n_locations": len(places),
        "accuracy": float(accuracy),
        "balanced_accuracy": float((hits / support).mean()),
        "macro_f1": 0.71,
        "top5_accuracy": 0.96,
        "classes_without_images": [],
        "per_class": {
            label: {
                "precision": float(hits[i] / predicted[i]) if predicted[i] else None,
                "recall": float(hits[i] / support[i]),
                "f1": 0.7,
                "support": int(support[i]),
            }
            for i, label in enumerate(labels)
        },
        "confusion": confusion.tolist(),
        "by_light": {"day": {"n": 400, "accuracy": 0.81}, "night": {"n": 300, "accuracy": 0.66}},
        "by_location": {
            place: {"n": int(rng.integers(4, 90)), "accuracy": float(rng.beta(7, 2.5))} for place in places
        },
        "ece": 0.031,
        "ece_uncalibrated": 0.094,
        "reliability": [
            {
                "lower": i / 15,
                "upper": (i + 1) / 15,
                "n": 4 + i * i,
                "confidence": (i + 0.5) / 15,
                "accuracy": min(max((i + 0.5) / 15 + rng.normal(0, 0.05), 0), 1),
            }
            for i in range(2, 15)
        ],
        "classes": labels,
        "split": "valid",
        "split_by": "location",
    }


def make_photo(number: int, file_name: str, location: str | None = None) -> Photo:
    """A photo of one colour."""
    box = Box(0.2, 0.3, 0.4, 0.5, "animal", 0.9, "lion")
    taken = dt.datetime(2023, 5, 4, 12, number)
    return Photo(_jpeg(number), 64, 48, file_name, location, taken, (box,))


def _jpeg(number: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 48), (60 + 11 * number % 120, 110, 70)).save(file, "JPEG")
    return file.getvalue()
