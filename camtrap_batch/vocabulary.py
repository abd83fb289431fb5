"""Words that mean the same in every room: statuses, kinds of findings, file endings, special labels."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import PurePosixPath

USED, TRIED_AGAIN = "used", "tried again"
"""What is done with images of a status."""


class Status(StrEnum):
    """Status of an image: what it means, and what is done with such images. Every manifest row has one.

    Attributes
    ----------
    meaning : for people
    is_usable : whether such images are trained on and classified, unless the job says otherwise
    is_retried : whether `--retry` can name it: what a file's bytes say does not change by asking again
    """

    meaning: str
    is_usable: bool
    is_retried: bool

    OK = "ok", "decodes without a complaint", USED
    TRUNCATED = (
        "truncated",
        "the header is fine, the stream ends early; what there is decodes, and training may use it",
        USED,
    )
    DAMAGED = "damaged", "decodes, but the decoder reports corrupt data", USED
    CORRUPT = "corrupt", "nothing usable decodes"
    MISSING = "missing", "no such file under the image root", TRIED_AGAIN
    EMPTY_FILE = "empty_file", "zero bytes"
    NOT_IMAGE = "not_image", "HTML, text or anything else that is neither a still image nor a video"
    VIDEO = "video", "a video: not a still image; with dataset.video its frames have rows of their own"
    TOO_LARGE = "too_large", "more pixels than the job's limit (a decompression bomb, or a panorama)"
    UNSAFE_PATH = "unsafe_path", "the path climbs out of the image root; the file was not opened"
    UNREADABLE = (
        "unreadable",
        "an I/O error that stayed after retries, or no result within the job's time limit",
        TRIED_AGAIN,
    )
    CRASHED = "crashed", "killed the worker that opened it, alone", TRIED_AGAIN

    def __new__(cls, name: str, meaning: str, use: str = "") -> Status:
        status = str.__new__(cls, name)
        status._value_ = name
        status.meaning, status.is_usable, status.is_retried = meaning, use == USED, use == TRIED_AGAIN
        return status


STATUSES: dict[str, str] = {status.value: status.meaning for status in Status}
"""Status -> what it means."""

USABLE: tuple[str, ...] = tuple(status.value for status in Status if status.is_usable)
"""Statuses whose images are trained on and classified unless the job says otherwise."""

RETRIED: tuple[str, ...] = tuple(status.value for status in Status if status.is_retried)
"""Statuses that `--retry` can name."""


IMAGE_ENDINGS = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".jp2", ".avif"}
    | {".heic", ".heif"}
)
"""Endings of still images, in lower case. HEIC is listed and not read, as RAW files are."""

RAW_ENDINGS = frozenset(
    {".dng", ".cr2", ".cr3", ".nef", ".nrw", ".arw", ".sr2", ".orf", ".rw2", ".raf", ".pef", ".srw"}
)
"""Endings of what a camera's sensor saw, in a format of its maker's own."""

VIDEO_ENDINGS = frozenset(
    {".avi", ".mp4", ".m4v", ".mov", ".mkv", ".mpg", ".mpeg", ".wmv", ".mts", ".m2ts", ".3gp", ".asf"}
    | {".webm", ".flv"}
)
"""Endings of videos."""


def ending_of(file_name: str) -> str:
    """A file name's ending, as the sets of endings have it.

    >>> ending_of("cam1/IMG_0001.JPG"), ending_of("cam.1/README")
    ('.jpg', '')
    """
    return PurePosixPath(file_name).suffix.lower()


FINDING_KINDS: dict[str, str] = {
    "exact_duplicate": "another file of the data set, earlier in the catalog, has the same bytes",
    "near_duplicate": "looks the same as another picture of the same location and moment",
    "date_before_camera": "from before digital cameras, or counted from a clock's factory date",
    "date_in_future": "later than the file was written, or than the manifest was made",
    "date_out_of_order": "earlier than the frame before it in the sequence",
    "clock_reset": "taken after the camera's clock fell back, before it was right again",
    "size_differs": "width and height are not those that the metadata gives",
}
"""Kind of a finding about an image -> what it means."""


DEPLOYMENT_FINDINGS: dict[str, str] = {
    "outside_deployment": "taken before the start or after the end of the camera's deployments",
    "no_images": "a deployment without a usable image",
    "silence": "21 days of a deployment without an image: dead, full, or knocked over",
    "no_night_pictures": "none of fifty images of a deployment is of a night",
    "many_empty": "more than a hundred images of nothing in a day: vegetation moves before the camera",
    "wrong_clock": "a deployment that begins when no camera can have stood there",
}
"""Kind of a finding -> what it means."""


DATE_FINDINGS: tuple[str, ...] = (
    "date_before_camera",
    "date_in_future",
    "date_out_of_order",
    "clock_reset",
)
"""Kinds of findings that say: the date may be wrong."""


UNCERTAIN = "uncertain"
"""Label of a sequence or an event whose confidence is below the job's `infer.min_confidence`."""


EMPTY = "empty"
"""Name given to category 0, no animal, where the metadata gives it none."""


NO_MODEL = "none"
"""The model of predictions that no model made: `infer.model`, and the id in its place."""


PERSONS: tuple[str, ...] = ("human", "person", "people", "homo sapiens")
"""Labels, in lower case, of people."""


PEOPLE: tuple[str, ...] = (*PERSONS, "vehicle")
"""Labels, in lower case, of what is no wildlife: people and their vehicles."""


NO_EVENT: dict[str, str] = {
    "no date": "neither metadata nor EXIF say when it was taken: whether it is independent can't be told",
    "not classified": "nothing of its sequence could be classified, or nobody labelled it",
    "empty": "its sequence shows no animal, or itself, as people say",
}
"""Why an image is in no event -> what it means; the first that holds."""


def plural(n: int, one: str, many: str | None = None) -> str:
    """
    >>> plural(1, "camera"), plural(1200, "camera"), plural(2, "species", "species")
    ('1 camera', '1,200 cameras', '2 species')
    """
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def counted(n: int, many: str) -> str:
    """A number, and what it is of, told in the plural.

    >>> counted(1, "categories that are in use"), counted(2, "images left out"), counted(1, "other files")
    ('1 category that is in use', '2 images left out', '1 other file')
    """
    if n != 1:
        return f"{n:,} {many}"
    return "1 " + _OF_ONE.sub(lambda found: _ONE.get(found[0], found[0].removesuffix("s")), many)


_OF_ONE = re.compile(r"^(?:other )?\w+|(?<=\bthat )(?:are|have)\b|(?<=\bwhich )(?:are|have)\b")
"""What a noun in the plural is told by: the noun itself, and the verb of its clause."""
_ONE = {
    "categories": "category",
    "boxes": "box",
    "media": "medium",
    "species": "species",
    "are": "is",
    "have": "has",
}
