"""A folder of images and nothing else -> catalog."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from camtrap_batch.catalog.table import Catalog, Rows, make_catalog
from camtrap_batch.errors import InputError
from camtrap_batch.vocabulary import IMAGE_ENDINGS, RAW_ENDINGS, VIDEO_ENDINGS, ending_of

_LISTED = IMAGE_ENDINGS | RAW_ENDINGS | VIDEO_ENDINGS  # what is not read is accounted for, too


def read_folder(
    names: Iterable[str],
    location_of: Callable[[str], str | None],
    *,
    where: str,
    utc_offset: str | None = None,
) -> Catalog:
    """Catalog of the files below a folder.

    Parameters
    ----------
    names : posix paths relative to the image root
    location_of : location from a path

    Raises
    ------
    InputError
        There is no image among them.
    """
    notes: Counter[str] = Counter()
    files: list[str] = []
    for name in names:
        if ending_of(name) in _LISTED:
            files.append(name)
        else:
            notes["files that are neither image nor video, left out"] += 1
    if not files:
        raise InputError(
            f"{where}: no image in this folder (dataset.images); possible: {' '.join(sorted(IMAGE_ENDINGS))}"
        )
    rows = Rows(image_id=files, file_name=files, location=[location_of(name) for name in files])
    return make_catalog(
        rows, None, source="folder", where=where, categories=[], notes=notes, utc_offset=utc_offset
    )
