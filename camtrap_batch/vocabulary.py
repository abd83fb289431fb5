"""Words that mean the same in every room: statuses, kinds of findings, file endings, special labels."""

from __future__ import annotations

import re
import unicodedata
from enum import StrEnum

USED, TRIED_AGAIN = "used", "tried again"
"""What is done with images that have a status."""


class Status(StrEnum):
    """Status of an image: what it means, and what is done with such images. Every manifest row has one.

    Attributes
    ----------
    meaning : for people
    is_usable : whether such images are trained on and classified, unless the job says otherwise
    is_retried : whether `--retry` can name it: reading the same bytes again changes nothing
    """

    meaning: str
    is_usable: bool
    is_retried: bool

    OK = "ok", "decodes without a complaint", USED
    TRUNCATED = (
        "truncated",
        "the header is fine, the stream ends early; the part present decodes, and training may use it",
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
    CRASHED = "crashed", "killed the worker that opened it, with nothing else running", TRIED_AGAIN

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
"""Endings of still images, in lower case. HEIC files are listed but not read, like RAW files."""

RAW_ENDINGS = frozenset(
    {".dng", ".cr2", ".cr3", ".nef", ".nrw", ".arw", ".sr2", ".orf", ".rw2", ".raf", ".pef", ".srw"}
)
"""Endings of raw sensor data, in the formats of camera makers."""

VIDEO_ENDINGS = frozenset(
    {".avi", ".mp4", ".m4v", ".mov", ".mkv", ".mpg", ".mpeg", ".wmv", ".mts", ".m2ts", ".3gp", ".asf"}
    | {".webm", ".flv"}
)
"""Endings of videos."""


def ending_of(file_name: str) -> str:
    """A file name's ending, in the form of the sets of endings.

    >>> ending_of("cam1/IMG_0001.JPG"), ending_of("cam.1/README")
    ('.jpg', '')
    """
    # As PurePosixPath(...).suffix has it: no object is made for each of a million files.
    stem, _, ending = file_name.rstrip("/").rpartition("/")[2].rpartition(".")
    return f".{ending.lower()}" if stem and ending else ""


FINDING_KINDS: dict[str, str] = {
    "exact_duplicate": "another file of the data set, earlier in the catalog, has the same bytes",
    "near_duplicate": "looks the same as another picture of the same location and moment",
    "date_before_camera": "from before digital cameras, or counted from a clock's factory date",
    "date_in_future": "later than the file was written, or than the manifest was made",
    "date_out_of_order": "earlier than the frame before it in the sequence",
    "clock_reset": "taken after the camera's clock fell back, before it was right again",
    "size_differs": "width and height are not those in the metadata",
}
"""Kind of a finding about an image -> what it means."""


DEPLOYMENT_FINDINGS: dict[str, str] = {
    "outside_deployment": "taken before the start or after the end of the camera's deployments",
    "no_images": "a deployment without a usable image",
    "silence": "21 days of a deployment without an image: dead, full, or knocked over",
    "no_night_pictures": "none of fifty images of a deployment was taken at night",
    "many_empty": "more than a hundred empty images in a day: vegetation moves in front of the camera",
    "wrong_clock": "a deployment that begins when no camera can have stood there",
}
"""Kind of a finding -> what it means."""


DATE_FINDINGS: tuple[str, ...] = (
    "date_before_camera",
    "date_in_future",
    "date_out_of_order",
    "clock_reset",
)
"""Kinds of findings that mean that the date may be wrong."""


MISSING = frozenset(
    {"", "NA", "N/A", "n/a", "NaN", "nan", "None", "null", "NULL", "#N/A", "#NA", "<NA>", "NaT"}
)
"""What spreadsheets, R and Python put into a cell that has no value."""


INVISIBLE = "\u200b\u200c\u200d\u200e\u200f\u2060\ufeff"
"""Characters without width, which come with text that was copied from a web page or another program."""


UNCERTAIN = "uncertain"
"""Label of a sequence or an event whose confidence is below the job's `infer.min_confidence`."""


EMPTY = "empty"
"""Name given to category 0, no animal, if the metadata does not name it."""


EMPTY_WORDS = frozenset(
    {"empty", "blank", "blanks", "none", "nothing", "nil", "no animal", "no animals", "no wildlife"}
    | {"false trigger", "misfire", "ghost", "nothing there"}
    | {"leer", "leerbild", "kein tier", "nichts", "vide", "rien", "aucun", "aucun animal", "vacio", "vacia"}
    | {"nada", "sin animal", "sin fauna", "ningun animal", "vazio", "vazia", "sem animal", "vuoto", "vuota"}
    | {"nessun animale", "leeg", "geen dier", "niets", "tom", "tomt", "inget djur", "intet dyr", "ingen dyr"}
)
"""Words, as `is_word_for_empty` compares them, that people use for a picture without an animal."""


def is_word_for_empty(label: str) -> bool:
    """Whether a label is a usual word for: no animal, in one of some languages.

    >>> is_word_for_empty("Vacío"), is_word_for_empty("no_animal"), is_word_for_empty("blank heron")
    (True, True, False)
    """
    letters = unicodedata.normalize("NFKD", label.casefold().replace("_", " ").replace("-", " "))
    plain = "".join(letter for letter in letters if not unicodedata.combining(letter))
    return " ".join(plain.split()) in EMPTY_WORDS


NO_MODEL = "none"
"""Value of `infer.model`, and model id of predictions, if no model made them."""

FROM_METADATA = "from_metadata"
"""Key of the meta of predictions that are what a machine has observed by the metadata."""


PERSONS: tuple[str, ...] = (
    *("human", "person", "people", "homo sapiens", "humans", "persons"),
    *("mensch", "menschen", "personne", "humain", "persona", "personas", "humano", "pessoa", "umano"),
    *("mens", "människa", "menneske"),
)
"""Labels, in lower case, of people."""


VEHICLES: tuple[str, ...] = (
    *("vehicle", "vehicles", "car", "truck", "motorcycle", "motorbike", "bicycle"),
    *("fahrzeug", "véhicule", "vehículo", "veículo", "veicolo", "voertuig", "fordon", "kjøretøy"),
)
"""Labels, in lower case, of what people come in."""


PEOPLE: tuple[str, ...] = (*PERSONS, *VEHICLES)
"""Labels, in lower case, of what is not wildlife: people and their vehicles."""


NO_EVENT: dict[str, str] = {
    "no date": "neither metadata nor EXIF say when it was taken, so whether it is independent is unknown",
    "not classified": "no image of its sequence could be classified, or nobody labelled it",
    "empty": "its sequence shows no animal, or people say that it does not itself",
}
"""Why an image is in no event -> what that means; the first that applies."""


def plural(n: int, one: str, many: str | None = None) -> str:
    """
    >>> plural(1, "camera"), plural(1200, "camera"), plural(2, "species", "species")
    ('1 camera', '1,200 cameras', '2 species')
    """
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def counted(n: int, many: str) -> str:
    """A number and what it counts, given in the plural.

    >>> counted(1, "categories that are in use"), counted(2, "images left out"), counted(1, "file names")
    ('1 category that is in use', '2 images left out', '1 file name')
    """
    if n != 1:
        return f"{n:,} {many}"
    return "1 " + _OF_ONE.sub(lambda found: _ONE.get(found[0], found[0].removesuffix("s")), many)


_OF_ONE = re.compile(r"^(?:other |file (?=names))?\w+|(?<=\bthat )(?:are|have)\b|(?<=\bwhich )(?:are|have)\b")
"""What a noun in the plural is told by: the noun itself, and the verb of its clause."""
_ONE = {
    "categories": "category",
    "boxes": "box",
    "media": "medium",
    "species": "species",
    "are": "is",
    "have": "has",
}
