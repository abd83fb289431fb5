"""What a camera wrote into the EXIF block: when, which camera, which way up."""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass

from PIL import ExifTags, Image

_DATE = re.compile(r"\s*(\d{4})[:/-](\d\d?)[:/-](\d\d?)[ T]+(\d\d?):(\d\d?):(\d\d?)")


@dataclass(frozen=True)
class ExifFields:
    """Those fields that are kept; each is None where it is absent, blank or broken.

    `taken` is local camera time in whole seconds: of DateTimeOriginal, else DateTimeDigitized, else DateTime.
    `orientation` is 1 to 8, as EXIF counts.
    """

    taken: dt.datetime | None = None
    make: str | None = None
    model: str | None = None
    orientation: int = 1


def read_exif(image: Image.Image) -> ExifFields:
    """The EXIF fields of an image that is open, but not loaded. A broken block is no fault of the picture."""
    if image.format == "PNG" and "exif" not in image.info:
        # Pillow would decode the whole picture to look for EXIF behind it.
        return ExifFields()
    try:
        exif = image.getexif()
    except Exception:  # Pillow raises whatever it meets in a broken block
        return ExifFields()
    dates = (
        _exif_date(_field(exif, ExifTags.Base.DateTimeOriginal, ExifTags.IFD.Exif)),
        _exif_date(_field(exif, ExifTags.Base.DateTimeDigitized, ExifTags.IFD.Exif)),
        _exif_date(_field(exif, ExifTags.Base.DateTime)),
    )
    orientation = _field(exif, ExifTags.Base.Orientation)
    return ExifFields(
        taken=next((date for date in dates if date is not None), None),
        make=_exif_text(_field(exif, ExifTags.Base.Make)),
        model=_exif_text(_field(exif, ExifTags.Base.Model)),
        orientation=orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1,
    )


def _field(exif: Image.Exif, tag: int, block: int | None = None) -> object:
    # Fields are decoded when they are asked for: one that is broken must not hide the others.
    try:
        return (exif if block is None else exif.get_ifd(block)).get(tag)
    except Exception:
        return None


def _exif_date(value: object) -> dt.datetime | None:
    found = _DATE.match(_exif_text(value) or "")
    try:
        return dt.datetime(*map(int, found.groups())) if found else None  # type: ignore[arg-type]
    except ValueError:  # 0000:00:00 00:00:00, as cameras write whose clock was never set
        return None


def _exif_text(value: object) -> str | None:
    """Text up to its first NUL. Pillow takes every byte for Latin-1; what is UTF-8 is read as UTF-8."""
    if isinstance(value, str):
        value = value.encode("latin-1", "replace")
    if not isinstance(value, bytes):
        return None
    value = value.partition(b"\0")[0]
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError:
        text = value.decode("latin-1")
    return "".join(letter for letter in text if letter.isprintable()).strip() or None
