"""The Arrow schema of every table. Each field's metadata holds its description.

`describe(table)` lists the descriptions; docs/tables.md is made from them.
"""

from __future__ import annotations

import hashlib
import json

import pyarrow as pa

from camtrap_batch.vocabulary import DEPLOYMENT_FINDINGS, FINDING_KINDS, NO_EVENT, STATUSES

_TIME = pa.timestamp("us")
_LATER, _WIDENED = "later", "widened"  # marks of such columns in their field's metadata
_UTC = pa.timestamp("us", tz="UTC")
_LABEL = pa.struct([("category_id", pa.int32()), ("name", pa.string()), ("count", pa.int32())])
_TOP = pa.struct([("label", pa.string()), ("p", pa.float32())])


def _schema(
    *fields: tuple[str, pa.DataType, str], later: tuple[str, ...] = (), widened: dict[str, str] | None = None
) -> pa.Schema:
    """A table's schema.

    Parameters
    ----------
    fields : name, type and description of each column
    later : names of columns that the table did not have at first, and that mean the same when absent as when
        null. They do not count in `fingerprint`, so that the shards of older run folders keep their ids; a
        column that has a value other than null for old rows must not be named here.
    widened : column -> its original type, whose every value is also valid in its present type. In
        `fingerprint` the original type counts.
    """
    marks = {name: {_LATER: ""} for name in later} | {
        name: {_WIDENED: kind} for name, kind in (widened or {}).items()
    }
    return pa.schema(
        [
            pa.field(name, kind, metadata={"description": text} | marks.get(name, {}))
            for name, kind, text in fields
        ]
    )


_IDENTITY: tuple[tuple[str, pa.DataType, str], ...] = (
    ("image_id", pa.string(), "identifies the image in every table"),
    ("file_name", pa.string(), "posix path relative to the image root"),
    ("location", pa.string(), "camera location"),
    (
        "deployment",
        pa.string(),
        "period in which a camera stood at a location; null if the source has none",
    ),
    ("seq_id", pa.string(), "burst that the image belongs to, as the source names it"),
    ("frame_num", pa.int32(), "position in the burst, from 0"),
    ("seq_num_frames", pa.int32(), "images in the burst, as the source says"),
)

_DATE_OF_VIDEO = (
    "for a video without a date in the source, and its frames: where the date is from: video (its own "
    "metadata), file_name, or neighbour (the photo beside it); otherwise null"
)

CATALOG = _schema(
    *_IDENTITY,
    ("datetime", _TIME, "local camera time, as the source says"),
    ("utc_offset_minutes", pa.int32(), "what the camera's clock showed, east of UTC; null where unknown"),
    ("labels", pa.list_(_LABEL), "annotations of the image; an empty list if there are none"),
    ("width", pa.int32(), "pixels, as the source says"),
    ("height", pa.int32(), "pixels, as the source says"),
    (
        "source",
        pa.string(),
        "reader the row came from: cct, csv, camtrap-dp or folder; camtrap-dp-event: its labels are those of "
        "its whole event",
    ),
    ("date_only", pa.bool_(), "true if the source gives a date without a time of day; otherwise null"),
    ("video_s", pa.float64(), "for a frame of a video: seconds from the video's start; otherwise null"),
    ("video_frames", pa.int32(), "for a video whose frames are read: their number; otherwise null"),
    ("date_of", pa.string(), _DATE_OF_VIDEO),
    ("labelled_by", pa.string(), "machine that its labels are of, where no person gave it any; null: people"),
    ("label_p", pa.float32(), "how sure that machine is; null where it does not say"),
    later=("date_only", "video_s", "video_frames", "date_of", "labelled_by", "label_p"),
)

MANIFEST = _schema(
    *_IDENTITY,
    ("status", pa.dictionary(pa.int8(), pa.string()), "one of: " + ", ".join(STATUSES)),
    ("detail", pa.string(), "what the decoder or the file system said; null if all is well"),
    (
        "format",
        pa.string(),
        "JPEG, PNG, ...; for a video and for not_image what the first bytes say (AVI, HTML, ...)",
    ),
    ("mode", pa.string(), "L, RGB, CMYK, ... as stored in the file"),
    ("width", pa.int32(), "pixels, as stored (before EXIF orientation)"),
    ("height", pa.int32(), "pixels, as stored (before EXIF orientation)"),
    ("bytes", pa.int64(), "size of the file"),
    (
        "modified",
        pa.string(),
        "the file's version when it was read: modification time in ns, etag, or CRC and date in a zip",
    ),
    ("sha256", pa.string(), "hash of the file's bytes, hexadecimal; for a frame of a video, of its pixels"),
    ("dhash", pa.uint64(), "64-bit difference hash of the picture; near duplicates differ in few bits"),
    ("datetime_exif", _TIME, "EXIF DateTimeOriginal, local camera time"),
    ("datetime", _TIME, "local camera time: the catalog's, otherwise EXIF's"),
    (
        "datetime_source",
        pa.string(),
        "catalog, exif, or for a video and its frames video, file_name or neighbour (docs/videos.md); null "
        "if there is no date",
    ),
    ("utc_offset_minutes", pa.int32(), "as in the catalog; EXIF's if the date is EXIF's"),
    ("camera_make", pa.string(), "EXIF Make"),
    ("camera_model", pa.string(), "EXIF Model"),
    ("is_night", pa.bool_(), "the picture is greyscale: taken in infrared light"),
    (
        "thumbnail_file",
        pa.string(),
        "file of the thumbnails table, relative to the run folder; null if none is kept",
    ),
    ("thumbnail_row", pa.int32(), "row in thumbnail_file"),
    ("date_only", pa.bool_(), "true where the date has no time of day: its midnight is none; otherwise null"),
    ("video_s", pa.float64(), "of a frame of a video: seconds from the video's start; otherwise null"),
    (
        "orientation",
        pa.int8(),
        "EXIF orientation, 2 to 8, of a picture that is not stored upright; otherwise null, as it is in rows "
        "of earlier versions, which did not keep it",
    ),
    later=("date_only", "video_s", "orientation"),
)

VIDEOS = _schema(
    ("image_id", pa.string(), "of the video's own row, as in the catalog"),
    ("file_name", pa.string(), "as in the catalog"),
    ("status", pa.string(), "ok; otherwise as in the manifest: corrupt, missing, unreadable, ..."),
    ("detail", pa.string(), "why it can't be read"),
    ("duration_s", pa.float64(), "seconds, as the container says; null if it does not say"),
    ("rate", pa.float64(), "frames per second; null if the container does not say"),
    ("width", pa.int32(), "pixels, as stored"),
    ("height", pa.int32(), "pixels, as stored"),
    ("codec", pa.string(), "codec of its pictures: h264, mjpeg, ..."),
    ("datetime", _TIME, "camera time of its start, if the metadata have no date"),
    ("date_of", pa.string(), "where the date is from: video, file_name or neighbour"),
    ("frames", pa.int32(), "number of its frames in the catalog"),
    (
        "beside",
        pa.string(),
        "photo of the same name, or just before or after it in its folder, for a video without a date in the "
        "metadata; null if there is none",
    ),
    (
        "utc_offset_minutes",
        pa.int32(),
        "what the clock of `datetime` showed, east of UTC, as the video or photo says; null where unknown",
    ),
    later=("utc_offset_minutes",),
)

KEYWORDS = _schema(
    ("image_id", pa.string(), "as in the catalog"),
    ("file_name", pa.string(), "as in the catalog"),
    ("status", pa.string(), "ok; otherwise as in the manifest: missing, unreadable, ..."),
    ("detail", pa.string(), "why it can't be read"),
    ("keywords", pa.list_(pa.string()), "keywords outside any hierarchy: XMP, IPTC, EXIF"),
    ("paths", pa.list_(pa.string()), "keywords in a hierarchy, from the top, separated by |"),
    ("sidecar", pa.string(), "the .xmp file beside the photo, which was also read; null if there is none"),
)

THUMBNAILS = _schema(
    ("image_id", pa.string(), "as in the catalog"),
    ("jpeg", pa.binary(), "the picture, upright, as a JPEG file"),
    ("width", pa.int32(), "pixels of the thumbnail"),
    ("height", pa.int32(), "pixels of the thumbnail"),
    ("scale", pa.float32(), "thumbnail pixels per original pixel"),
)

FINDINGS = _schema(
    ("image_id", pa.string(), "as in the catalog"),
    ("file_name", pa.string(), "as in the catalog"),
    ("location", pa.string(), "camera location"),
    ("kind", pa.string(), "one of: " + ", ".join([*FINDING_KINDS, *DEPLOYMENT_FINDINGS])),
    (
        "other_image_id",
        pa.string(),
        "image it is compared with: the first copy, the frame before; null if there is none",
    ),
    ("detail", pa.string(), "what was found, for people"),
)

SELECTION = _schema(
    ("image_id", pa.string(), "as in the catalog"),
    ("label", pa.string(), "class to learn; null if the image is not selected"),
    ("split", pa.string(), "train, valid or test; null if the image is not selected"),
    ("weight", pa.float32(), "weight of the image in training; null if it is not selected"),
    ("reason", pa.string(), "why the image is kept or dropped"),
    ("species", pa.int32(), "how many species its labels name; null where crops are not trained on"),
    ("animals", pa.int32(), "how many animals its labels count; null where they do not say"),
    (
        "told",
        pa.list_(pa.struct([("label", pa.string()), ("box", pa.list_(pa.float32()))])),
        "what people said in review where crops are trained on: a label, and the box (x, y, w, h) that it is "
        "of, null where it is of the image as a whole",
    ),
    later=("species", "animals", "told"),
)

TRAINING_IMAGES = _schema(
    ("image_id", pa.string(), "as in the catalog; one row for each selected image, in the catalog's order"),
    (
        "status",
        pa.string(),
        "ok; otherwise why nothing was cut out of it: unreadable or crashed",
    ),
    ("n_crops", pa.int32(), "its rows in training_crops"),
)

TRAINING_CROPS = _schema(
    ("image_id", pa.string(), "as in the catalog; images follow one another as in training_images"),
    ("box", pa.int32(), "number of the box among the image's rows in detections, from 0; null without a box"),
    (
        "what",
        pa.string(),
        "box: a box that counts; background: part of an image without one; frame: the whole frame of an "
        "image whose boxes are not known",
    ),
    (
        "jpeg",
        pa.binary(),
        "what the model sees of it, train.size pixels wide and high, with a margin on each side, as a JPEG",
    ),
)

PREDICTIONS = _schema(
    ("image_id", pa.string(), "as in the catalog"),
    ("model_id", pa.string(), "hash of the model's content; none without a model"),
    ("label", pa.string(), "most probable class"),
    ("confidence", pa.float32(), "calibrated probability of the label"),
    ("top5", pa.list_(_TOP), "the most probable classes, descending"),
    (
        "source",
        pa.string(),
        "what the label is from: thumbnail or original, the whole frame; crop: the image's boxes; results: "
        "what others found (infer.model: none); metadata: the labels of a machine there (likewise)",
    ),
    ("status", pa.string(), "ok; otherwise why there is no label: unreadable, or crashed as in the manifest"),
    ("manifest_snapshot", pa.int32(), "number of the manifest's snapshot"),
    (
        "n_boxes",
        pa.int32(),
        "animal boxes in the image, without repeats and those found empty; null if no boxes are known",
    ),
    (
        "probs",
        pa.list_(pa.float16()),
        "calibrated probability of every class, in the order of `classes` in the snapshot's meta; null if "
        "the label is not one of them",
    ),
)

DETECTED = _schema(
    ("image_id", pa.string(), "as in the catalog; one row for each usable image, in the manifest's order"),
    (
        "status",
        pa.string(),
        "ok; otherwise why no boxes are known: unreadable, crashed as in the manifest, or no_result: the "
        "results file does not have the image",
    ),
    ("n_boxes", pa.int32(), "number of its boxes in detections; null if they are not known"),
    ("n_animals", pa.int32(), "boxes of the category detect.animal_category"),
    ("n_people", pa.int32(), "boxes of the categories person, people or human"),
    ("n_vehicles", pa.int32(), "boxes of the category vehicle"),
    ("max_confidence", pa.float32(), "confidence of its most confident box; null if it has none"),
    ("detector_id", pa.string(), "hash of everything that the detector's boxes depend on"),
)

_BOX_COLUMNS: list[tuple[str, pa.DataType, str]] = [
    ("image_id", pa.string(), "as in the catalog; images follow one another as in detected"),
    ("x", pa.float32(), "left side of the box, as a fraction of the upright image's width"),
    ("y", pa.float32(), "its upper side, as a fraction of the height"),
    ("w", pa.float32(), "its width, as a fraction of the image's width"),
    ("h", pa.float32(), "its height, as a fraction of the image's height"),
    ("category", pa.string(), "what the detector calls it: animal, person, vehicle"),
    ("confidence", pa.float32(), "how sure the detector is"),
]

FEATURED = _schema(
    ("image_id", pa.string(), "as in the catalog; one row for each selected image, in the catalog's order"),
    ("status", pa.string(), "ok; otherwise why it has no features: unreadable or crashed"),
    ("n_crops", pa.int32(), "its rows in features"),
)

FEATURES = _schema(
    ("image_id", pa.string(), "as in the catalog; images follow one another as in featured"),
    ("box", pa.int32(), "as in training_crops"),
    ("what", pa.string(), "as in training_crops; frame if the job has no boxes"),
    ("features", pa.list_(pa.float16()), "what the network passes to its last layer"),
)

BOXES = _schema(
    *_BOX_COLUMNS,
    (
        "label",
        pa.string(),
        "name of what is in it, if people drew the box and named it (detect.results: catalog)",
    ),
    later=("label",),
)

DETECTIONS = _schema(
    *_BOX_COLUMNS,
    (
        "repeat",
        pa.int32(),
        "number of the spot where the camera has this box in detect.repeat.frames images or more (a stump); "
        "null if it is not a repeat",
    ),
)

_SAID: tuple[tuple[str, pa.DataType, str], ...] = (
    (
        "label_source",
        pa.string(),
        "who the label is from: machine or human; null if there is none; in older results machine",
    ),
    ("sex", pa.string(), "of the animals, if a person said so"),
    ("life_stage", pa.string(), "of the animals, if a person said so"),
    ("behaviour", pa.string(), "of the animals, if a person said so"),
    ("individual", pa.string(), "which animal it is, if a person said so"),
    ("classified_by", pa.string(), "who said so, if the label is a person's and this is known"),
    ("classified_at", _UTC, "when they said so, if it is known"),
)
_SAID_NAMES = tuple(name for name, _, _ in _SAID)
MORE = pa.struct(
    [
        ("label", pa.string()),
        ("count", pa.int32()),
        ("event_id", pa.string()),
        *((name, kind) for name, kind, _ in _SAID if name != "label_source"),
    ]
)
"""For a further species in an image: what the columns of the same names say about the first."""


CROPS = _schema(
    ("image_id", pa.string(), "as in the catalog; images follow one another as in predictions"),
    ("box", pa.int32(), "number of the box among the image's rows in detections, from 0"),
    ("label", pa.string(), "most probable class of what is in the box"),
    ("confidence", pa.float32(), "calibrated probability of the label"),
    ("top5", pa.list_(_TOP), "the most probable classes, descending"),
)

SEQUENCES = _schema(
    (
        "seq_id",
        pa.string(),
        "as in the catalog, or made from location and first image if the source has none",
    ),
    ("location", pa.string(), "camera location"),
    (
        "label",
        pa.string(),
        "the frames' evidence combined; below infer.min_confidence a group (see rank), or uncertain",
    ),
    ("confidence", pa.float32(), "probability of the label"),
    ("n_images", pa.int32(), "usable images in the sequence"),
    ("start", _TIME, "local camera time of the first image; null if no image has a date"),
    ("end", _TIME, "local camera time of the last image"),
    ("best_image_id", pa.string(), "image with the highest confidence for the label"),
    (
        "rank",
        pa.string(),
        "if the label is a group of events.taxonomy: its rank, such as genus; otherwise null",
    ),
    (
        "set_aside",
        pa.string(),
        "the most probable class, if the species list of the camera (events.species) does not have it",
    ),
    (
        "reason",
        pa.string(),
        "why the label is not the most probable class, with its probability; null if it is",
    ),
    *_SAID,
    (
        "machine_label",
        pa.string(),
        "what the machine says, if a person's label has replaced it",
    ),
    ("machine_confidence", pa.float32(), "probability of machine_label"),
    later=(*_SAID_NAMES, "machine_label", "machine_confidence"),
)


FRAMES = _schema(
    ("image_id", pa.string(), "as in the catalog; one row for each usable image, in the manifest's order"),
    ("file_name", pa.string(), "as in the catalog"),
    ("location", pa.string(), "camera location"),
    ("seq_id", pa.string(), "sequence it belongs to, as in sequences"),
    ("event_id", pa.string(), "event it belongs to; null if it belongs to none"),
    (
        "label",
        pa.string(),
        "its sequence's label, or its own if only people's labels count (events.labels: human); null if none",
    ),
    ("confidence", pa.float32(), "its sequence's confidence"),
    ("image_confidence", pa.float32(), "what the image itself says: its own probability of that label"),
    (
        "count",
        pa.int32(),
        "animals that a person counted, otherwise animal boxes in it; null without either",
    ),
    ("no_event", pa.string(), "why it belongs to no event: " + ", ".join(NO_EVENT) + "; null if it does"),
    *_SAID,
    (
        "more",
        pa.list_(MORE),
        "further species in the image, if people saw several; the first is `label`. Otherwise null",
    ),
    later=(*_SAID_NAMES, "more"),
)

EVENTS = _schema(
    ("event_id", pa.string(), "made from location, label and first image: the same in every run"),
    ("location", pa.string(), "camera location"),
    ("label", pa.string(), "species, group of species (see rank), or uncertain"),
    ("start", _TIME, "local camera time of the first image"),
    ("end", _TIME, "local camera time of the last image"),
    ("n_images", pa.int32(), "images in the event"),
    ("count", pa.int32(), "animals: the most in one frame, as people counted or as boxes; or 1"),
    ("confidence", pa.float32(), "highest confidence among the event's sequences"),
    ("best_image_id", pa.string(), "image with the highest confidence for the label"),
    ("rank", pa.string(), "as in sequences: null for a species"),
    (
        "date_only",
        pa.bool_(),
        "true if an image of it has no time of day; otherwise null",
    ),
    *_SAID,
    later=("date_only", *_SAID_NAMES),
)

_COUNT = pa.struct([("label", pa.string()), ("n", pa.int32())])
_CORRECTED = pa.struct(
    [("label", pa.string()), ("n", pa.float64()), ("low", pa.int32()), ("high", pa.int32())]
)

GEO = json.dumps(
    {
        "version": "1.0.0",
        "primary_column": "geometry",
        "columns": {"geometry": {"encoding": "WKB", "geometry_types": ["Point"]}},
    }
)
"""For a table with points: GeoParquet 1.0; without a crs they are longitude and latitude, OGC:CRS84 (WGS
84)."""

LOCATIONS = _schema(
    ("location", pa.string(), "camera location"),
    ("longitude", pa.float64(), "degrees east, WGS 84; null if the camera's position is not known"),
    ("latitude", pa.float64(), "degrees north, WGS 84"),
    ("n_images", pa.int32(), "images in the catalog; 0 for a camera that only dataset.cameras names"),
    *((f"n_{status}", pa.int32(), f"images with status {status}") for status in STATUSES),
    ("n_empty", pa.int32(), "usable images in sequences without an animal"),
    ("n_undated", pa.int32(), "usable images without a date; they belong to no event"),
    ("first", _TIME, "local camera time of the first usable image"),
    ("last", _TIME, "local camera time of the last usable image"),
    ("n_events", pa.int32(), "events in all"),
    ("n_uncertain", pa.int32(), "events that are labelled uncertain"),
    ("richness", pa.int32(), "different species in the events; groups of species do not count"),
    ("events_by_label", pa.list_(_COUNT), "events per species or group, most frequent first"),
    ("top_label", pa.string(), "species with the most events; null if there are no events"),
    ("model_id", pa.string(), "model that made the predictions; null without one (infer.model: none)"),
    ("predictions_snapshot", pa.int32(), "number of the predictions' snapshot"),
    ("run_time", _UTC, "when the predictions' snapshot was committed"),
    (
        "camera_days",
        pa.float64(),
        "effort: days in the field, from deployments if they are known; otherwise distinct dates with a "
        "usable image",
    ),
    (
        "detections_per_100_days",
        pa.float64(),
        "100 (n_events - n_uncertain) / camera_days, without events that began when no camera worked by its "
        "deployments; null without a camera day",
    ),
    (
        "effort_source",
        pa.string(),
        "what camera_days rests on: metadata, cameras (dataset.cameras) or images, which is too short; null "
        "if there are none, and in results of older versions, where it is images",
    ),
    (
        "activity_by_hour",
        pa.list_(pa.int32()),
        "24 numbers: events that start in each hour of the day, camera time, not counting uncertain ones",
    ),
    (
        "n_date_findings",
        pa.int32(),
        "usable images whose date is a finding (date_out_of_order, clock_reset, ...); null without findings",
    ),
    ("geometry", pa.binary(), "the camera's place as a point, WKB, so that a .parquet file is GeoParquet"),
    (
        "corrected_by_label",
        pa.list_(_CORRECTED),
        "events per species, whatever the model said, and a 95 % interval, by a random sample that people "
        "reviewed (docs/review.md); null without one",
    ),
    later=("effort_source", "n_video", "corrected_by_label"),
    widened={"camera_days": "int32"},
).with_metadata({"geo": GEO})

CORRECTIONS = _schema(
    ("correction_id", pa.string(), "hash of its content: what is read twice is kept once"),
    (
        "decision",
        pa.string(),
        "what was decided together: the label, or the labels if several species were seen, of some images",
    ),
    ("scope", pa.string(), "what was looked at: image, box, sequence or event"),
    ("image_id", pa.string(), "the image; for a sequence or an event the first of `images`"),
    ("event", pa.string(), "id of the sequence or event at that time; null for an image or a box"),
    ("images", pa.list_(pa.string()), "ids of the images that the correction is about"),
    (
        "sha256",
        pa.list_(pa.string()),
        "hash of each image's file: it identifies the image, whatever its name is by now",
    ),
    ("box", pa.list_(pa.float32()), "x, y, w, h, fractions of the upright picture; null unless scope is box"),
    ("label", pa.string(), "what a person says is there; null: what was said before is revoked"),
    ("count", pa.int32(), "animals; null if nobody counted"),
    ("sex", pa.string(), "female, male or unknown"),
    ("life_stage", pa.string(), "adult, subadult, juvenile or unknown"),
    ("behaviour", pa.string(), "what the animal does"),
    ("individual", pa.string(), "which individual it is"),
    ("comment", pa.string(), "for people"),
    ("who", pa.string(), "who said so"),
    ("when", _UTC, "when"),
    ("source", pa.string(), "where it was said: review, csv, timelapse, label-studio, ..."),
    ("replaces", pa.string(), "decision about the first of `images` that stood before; null if none did"),
    (
        "draw",
        pa.string(),
        "random sample that it was drawn for (camtrap review --order random); otherwise null",
    ),
    ("probability", pa.float64(), "probability with which it was drawn for that sample"),
    later=("draw", "probability"),
)

METRICS = _schema(
    (
        "judged_by",
        pa.string(),
        "sample: a random sample of sequences that people reviewed, so that it holds for the whole data set; "
        "labels: the metadata's, of images that the model was not trained on, so that it holds for these",
    ),
    (
        "figure",
        pa.string(),
        "accuracy, precision, recall, f1, balanced_accuracy, macro_f1; for a sample also sequences and "
        "events: how many show the label",
    ),
    ("label", pa.string(), "class that the figure is about; null: all classes"),
    ("value", pa.float64(), "the figure; null if it can't be estimated"),
    ("low", pa.float64(), "lower end of its 95 % interval; null if it can't be estimated"),
    ("high", pa.float64(), "upper end"),
    ("n", pa.int32(), "sequences or images that the figure rests on"),
    ("counted", pa.float64(), "for sequences and events: how many have this label; otherwise null"),
    ("model_id", pa.string(), "model that is evaluated"),
    ("draw", pa.string(), "random sample that the figure rests on; null if the metadata's labels are"),
)

_SPAN = pa.struct([("start", _TIME), ("end", _TIME)])

DEPLOYMENTS = _schema(
    ("location", pa.string(), "camera location"),
    ("deployment", pa.string(), "as the source names it; null if it has no name"),
    ("camera", pa.string(), "which of several cameras at a location; null if nothing tells them apart"),
    ("start", _TIME, "setup, local camera time; a date without a time is noon; null if it is not known"),
    ("end", _TIME, "retrieval, in the same way"),
    (
        "source",
        pa.string(),
        "what start and end come from: metadata, cameras (dataset.cameras) or images; images: either or both "
        "are those of the first and last usable image, and the deployment was longer",
    ),
    (
        "days",
        pa.float64(),
        "days on which it worked: without outages, and without what an earlier deployment of the camera "
        "covers; by images: dates from the first to the last; null if it is not known",
    ),
    ("days_out", pa.float64(), "days on which it stood there and did not work (dataset.outages)"),
    ("n_images", pa.int32(), "usable images from start to end"),
    ("outages", pa.list_(_SPAN), "when it did not work, within the deployment"),
    ("checks", pa.list_(pa.string()), "what looks wrong with it, for people; empty if nothing does"),
    (
        "known",
        pa.string(),
        "start or end, if that is recorded and the other is an image's; otherwise null",
    ),
    later=("known",),
)

LEDGER = _schema(
    ("layer", pa.string(), "target and layer the edit went to"),
    ("key", pa.string(), "key of the row on the layer"),
    ("row_hash", pa.string(), "hash of the row's values as sent"),
    ("edit", pa.string(), "add, update or delete"),
    ("object_id", pa.int64(), "id of the feature on the layer"),
    ("result", pa.string(), "ok, or what the target answered"),
    ("time", _UTC, "when the edit was acknowledged"),
)

SCHEMAS: dict[str, pa.Schema] = {
    "catalog": CATALOG,
    "videos": VIDEOS,
    "keywords": KEYWORDS,
    "manifest": MANIFEST,
    "thumbnails": THUMBNAILS,
    "findings": FINDINGS,
    "selection": SELECTION,
    "training_images": TRAINING_IMAGES,
    "training_crops": TRAINING_CROPS,
    "featured": FEATURED,
    "features": FEATURES,
    "predictions": PREDICTIONS,
    "frames": FRAMES,
    "detected": DETECTED,
    "boxes": BOXES,
    "detections": DETECTIONS,
    "crops": CROPS,
    "sequences": SEQUENCES,
    "events": EVENTS,
    "locations": LOCATIONS,
    "corrections": CORRECTIONS,
    "deployments": DEPLOYMENTS,
    "metrics": METRICS,
    "ledger": LEDGER,
}
"""Table name -> Arrow schema."""

MADE_BY: dict[str, str] = {
    **dict.fromkeys(("catalog", "videos", "keywords"), "catalog"),
    **dict.fromkeys(("manifest", "thumbnails", "findings"), "validate"),
    **dict.fromkeys(("detected", "boxes", "detections"), "detect"),
    "selection": "select",
    **dict.fromkeys(("training_images", "training_crops", "featured", "features"), "train"),
    **dict.fromkeys(("predictions", "crops"), "infer"),
    **dict.fromkeys(("frames", "sequences", "events", "locations", "deployments", "metrics"), "merge"),
    "ledger": "publish",
}
"""Table name -> the stage that makes it; `corrections` is made by people."""

_LABELLED_DETECTIONS = _schema(
    *_BOX_COLUMNS,
    ("label", pa.string(), "as in crops; null if the box was not classified"),
    ("label_confidence", pa.float32(), "as in crops"),
    ("repeat", pa.int32(), "as in detections"),
)

_EARLIER: dict[str, tuple[pa.Schema, ...]] = {"detections": (_LABELLED_DETECTIONS,)}
"""Earlier schemas of tables, which snapshots in run folders still have."""


def schema_of(table: str, fingerprint: str) -> pa.Schema:
    """The schema of a snapshot: an earlier one of its table if it names that, otherwise the present one."""
    earlier = {_fingerprint(schema): schema for schema in _EARLIER.get(table, ())}
    return earlier.get(fingerprint, SCHEMAS[table])


def fingerprint(table: str) -> str:
    """Hash of a table's column names and types, 16 hexadecimal digits.

    Descriptions do not count, nor do columns that were added later (see `_schema`).
    """
    return _fingerprint(SCHEMAS[table])


def _fingerprint(schema: pa.Schema) -> str:
    fields = (field for field in schema if _LATER.encode() not in field.metadata)
    text = ";".join(
        f"{field.name}:{field.metadata.get(_WIDENED.encode(), str(field.type).encode()).decode()}"
        for field in fields
    )
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def later_columns(table: str) -> list[str]:
    """Names of the columns that a table did not have at first."""
    return [field.name for field in SCHEMAS[table] if _LATER.encode() in field.metadata]


def describe(table: str) -> list[tuple[str, str, str]]:
    """Name, type and description of each column of `table`."""
    return [
        (field.name, str(field.type), field.metadata[b"description"].decode()) for field in SCHEMAS[table]
    ]
