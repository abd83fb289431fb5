"""Files of metadata, which may lie in a zip: `zip://labels.csv::cards.zip` is labels.csv in cards.zip."""

from __future__ import annotations

import gzip
from typing import NamedTuple

import fsspec

from camtrap_batch.errors import InputError
from camtrap_batch.images import ImageRoot
from camtrap_batch.images.sources.base import KEY
from camtrap_batch.remote import version_of


def zip_and_name(path: str) -> tuple[str, str] | None:
    """The zip that a file is in, and its name there; None if it is in none.

    >>> zip_and_name("zip://a/labels.csv::/data/cards.zip"), zip_and_name("/data/labels.csv")
    (('/data/cards.zip', 'a/labels.csv'), None)
    """
    name, mark, file = path.removeprefix("zip://").partition("::")
    return (file, name) if path.startswith("zip://") and mark else None


def name_of(path: str) -> str:
    """The path, or the file's name in its zip: its ending says what it is."""
    inside = zip_and_name(path)
    return path if inside is None else inside[1]


def read_file(path: str, most: int | None = None) -> bytes:
    """The content of a file or URL, unpacked if its name ends with .gz; of one that is not, the first `most`
    bytes suffice. Raises whatever its client raises."""
    is_packed = name_of(path).endswith(".gz")
    if (inside := zip_and_name(path)) is not None:
        file, name = inside
        try:
            data = ImageRoot(file).read(name, None if is_packed else most)
        except FileNotFoundError:
            raise
        except (InputError, OSError) as problem:  # which name the key of image roots
            raise OSError(str(problem).replace(f" ({KEY})", "")) from None
        return gzip.decompress(data) if is_packed else data
    with fsspec.open(path, "rb", compression="gzip" if is_packed else None) as opened:
        content: bytes = opened.read(-1 if most is None else most)
    return content


class FileInfo(NamedTuple):
    """A file's bytes and what changes with its content, as known to whatever holds it."""

    size: int | None
    version: str | None
    is_folder: bool = False


def file_info(path: str) -> FileInfo:
    """What is known of a file or URL without reading it. Raises whatever its client raises."""
    if (inside := zip_and_name(path)) is not None:
        file, name = inside
        listed = ImageRoot(file).listing([name])
        if listed.sizes[0] < 0:
            raise FileNotFoundError(path)
        return FileInfo(int(listed.sizes[0]), listed.modified[0])
    filesystem, inner = fsspec.core.url_to_fs(path)
    info = filesystem.info(inner)
    # The time comes first, as in earlier versions: another version would have the catalog read again.
    return FileInfo(info.get("size"), version_of(info, "mtime"), info.get("type") == "directory")
