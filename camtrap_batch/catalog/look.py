"""Looks at what somebody has, and says what it is and which job file would read it (`camtrap init`).

Nothing is decided for good: if folders could mean one thing or another, `Found` has the levels to choose from
and a guess.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from camtrap_batch.catalog.base import READERS
from camtrap_batch.catalog.datapackage import DESCRIPTOR
from camtrap_batch.catalog.found import KEY, Found, Given, count_there, find_root, sample_of, say_found
from camtrap_batch.catalog.lists import only_list
from camtrap_batch.catalog.zipped import zip_and_name
from camtrap_batch.errors import InputError
from camtrap_batch.job.base import absolute
from camtrap_batch.remote import redacted


def look(target: str) -> Found:
    """Look at a folder, a file or a URL; a path may be relative.

    Raises
    ------
    InputError
        There is nothing, or nothing that a job could read; the message says what would be possible.
    """
    target = absolute(target, Path.cwd())
    file, inside = zip_and_name(target) or (target, "")
    if "://" not in file and not os.path.lexists(file):
        raise InputError(f"{file}: no such file or folder ({KEY})")
    given = only_list(Given(file if inside.rpartition("/")[2] == DESCRIPTOR else target))
    # The last of ours takes any folder, so those of other packages are asked first.
    for _, reader in sorted(READERS.loadable(), key=lambda entry: READERS.is_ours(entry[0])):
        # A reader that does not derive from ours may be older than this.
        recognise: Callable[[Given], Found | None] | None = getattr(reader, "recognise", None)
        if recognise is not None and (found := recognise(given)) is not None:
            return found
    if given.is_zip:
        raise InputError(f"{redacted(target)}: holds neither images nor metadata ({KEY})")
    raise InputError(
        f"{redacted(target)}: is neither images nor a list of them; possible: a folder, .zip, .json, .csv, "
        f".xlsx, a bucket or a feature layer ({KEY}){READERS.broken()}"
    )


def find_media(found: Found, names: Sequence[str]) -> str:
    """Look where the media of a data package are, and set `dataset.images` to it; returns a line about it."""
    metadata, images = (str(found.dataset[key]) for key in ("metadata", "images"))
    if not metadata.endswith(".json"):
        found.n_found = count_there(images, sample_of(names))
        return say_found(images, found.n_found, len(sample_of(names)))
    found.dataset["images"], line, found.n_found = find_root(metadata, names)
    return line
