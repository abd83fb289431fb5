"""The photos of a report: which images, from the originals if they are available, with their boxes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import simplejpeg

from camtrap_batch.detection.people import find_people
from camtrap_batch.errors import CamtrapError
from camtrap_batch.images import decode_upright
from camtrap_batch.images.pictures import COLUMNS, Source, read_pictures
from camtrap_batch.images.pixels import make_thumbnail, shrink
from camtrap_batch.notices import say
from camtrap_batch.pipeline.images import image_root
from camtrap_batch.report import Box, Photo
from camtrap_batch.report.choice import by_event, chosen_events, chosen_images
from camtrap_batch.store.run import Run

SHORT_SIDE = 480
"""Minimum pixels on the short side of a photo, if the original has them."""

_QUALITY = 80
_SIDES = ("x", "y", "w", "h")


def choose_photos(run: Run, events: pa.Table | None, most: int) -> tuple[list[str], dict[str, list[str]]]:
    """Images of a result of `merge` to show, and strips of frames: event_id -> image ids."""
    if events is None or not most:
        return [], {}
    rows = events.select(["event_id", "best_image_id"]).take(chosen_events(events, most)).to_pylist()
    best = {row["event_id"]: row["best_image_id"] for row in rows}
    order = list(best)
    wanted = pc.field("event_id").isin(pa.array(order, pa.string()))
    frames = run.table("frames").to_table(columns=["event_id", "image_id"], filter=wanted)
    return chosen_images(order, best, by_event(frames, order), most)


def read_photos(run: Run, image_ids: Iterable[str]) -> dict[str, Photo]:
    """Photos by image id, in this order, as far as they exist.

    An image that can no longer be read is shown as its thumbnail. People are treated as `report.people` says.
    """
    ids = list(dict.fromkeys(image_ids))
    rows = run.table("manifest").to_table(
        columns=[*COLUMNS, "location", "datetime", "width", "height"],
        filter=pc.field("image_id").isin(pa.array(ids, pa.string())),
    )
    people = find_people(run, ids)
    boxes = _boxes(run, ids)
    found = {}
    for index, jpeg in _pictures(run, rows).items():
        row = {name: rows[name][index].as_py() for name in ("image_id", "file_name", "location", "datetime")}
        shown = people.picture(row["image_id"], jpeg)
        if shown is not None:
            height, width = simplejpeg.decode_jpeg_header(shown)[:2]
            found[row["image_id"]] = Photo(
                shown,
                width,
                height,
                row["file_name"],
                row["location"],
                row["datetime"],
                tuple(boxes.get(row["image_id"], ())),
            )
    return {image_id: found[image_id] for image_id in ids if image_id in found}


def _pictures(run: Run, rows: pa.Table) -> dict[int, bytes]:
    """A JPEG of each row, as large as wanted if possible."""
    job = run.job
    sides = pc.min_element_wise(rows["width"], rows["height"]).fill_null(SHORT_SIDE)
    thumbnail = np.minimum(sides.to_numpy(), job.validate_.thumbnails)
    will_do = np.asarray(thumbnail >= np.minimum(sides.to_numpy(), SHORT_SIDE))
    found: dict[int, bytes] = {}

    def take(use_thumbnails: np.ndarray[tuple[int], np.dtype[np.bool_]], wanted: Sequence[int]) -> None:
        some = rows.take(pa.array(wanted, pa.int64()))
        for index, data, source in read_pictures(
            run.folder,
            image_root(job),
            some,
            use_thumbnails=use_thumbnails[list(wanted)],
            timeout_s=job.validate_.timeout_s,
        ):
            jpeg = None if data is None else _shrunk(data, source)
            if jpeg is not None:
                found[wanted[index]] = jpeg

    try:
        take(will_do, range(rows.num_rows))
    except (OSError, CamtrapError) as problem:
        say(f"report: the originals can't be read ({problem}); thumbnails are shown")
    is_kept = rows["thumbnail_file"].is_valid().to_pylist()
    missing = [index for index in range(rows.num_rows) if index not in found and is_kept[index]]
    if missing:
        take(np.ones(rows.num_rows, np.bool_), missing)
    return found


def _shrunk(data: bytes, source: Source) -> bytes | None:
    """A picture as a JPEG without metadata, in the size that is shown; a thumbnail unchanged."""
    if source == "thumbnail":
        return data
    try:
        pixels = decode_upright(data, SHORT_SIDE)
    except ValueError:
        return None
    small = shrink(pixels, SHORT_SIDE)
    return make_thumbnail(small, min(small.shape[:2]), _QUALITY).jpeg


def _boxes(run: Run, image_ids: list[str]) -> dict[str, list[Box]]:
    """The boxes of images that count, with what the classifier says about each."""
    predicted = run.current("predictions")
    meta = (predicted.meta.get("detections") or {}) if predicted else {}
    if run.current("detections") is None:
        return {}
    least = meta.get("threshold", run.job.detection[0].threshold if run.job.detection else 0.0)
    wanted = pc.field("image_id").isin(pa.array(image_ids, pa.string()))
    table = run.table("detections")
    rows = table.to_table(
        columns=["image_id", *_SIDES, "category", "confidence", "repeat"], filter=wanted
    ).to_pylist()
    labels = {}
    if run.current("crops") is not None:
        crops = run.table("crops").to_table(columns=["image_id", "box", "label"], filter=wanted)
        labels = {(row["image_id"], row["box"]): row["label"] for row in crops.to_pylist()}
    found: dict[str, list[Box]] = defaultdict(list)
    number: dict[str, int] = defaultdict(int)
    for row in rows:
        box, image_id = number[row["image_id"]], row["image_id"]
        number[image_id] += 1
        if row["confidence"] >= least and row["repeat"] is None:
            x, y, w, h = (float(row[side]) for side in _SIDES)
            label = labels.get((image_id, box))
            found[image_id].append(Box(x, y, w, h, row["category"], float(row["confidence"]), label))
    return found
