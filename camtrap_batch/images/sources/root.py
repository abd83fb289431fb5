"""Where a data set's images are, whatever source holds them: found by scheme, opened once in each process."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from camtrap_batch.images.sources.base import (
    Listing,
    Source,
    is_unsafe,
    is_utf8,
    scheme_of,
    source_of,
)

__all__ = ["ImageRoot", "Listing", "is_unsafe"]


@dataclass(frozen=True)
class ImageRoot:
    """The folder that file names of a catalog are relative to. Nothing in it is ever changed.

    Only URL and options travel to a worker; connections are made once in each process.

    Parameters
    ----------
    url : absolute path of a folder or of a .zip file, or fsspec URL of one; `zip://folder::URL` for a folder
        inside a zip
    storage_options : options of the URL's fsspec file system, or whatever else the source is opened with
    scheme : scheme of the source (see `SOURCES`), if it is not that of the URL: `attachments` of a layer
    """

    url: str
    storage_options: dict[str, Any] = field(default_factory=dict, hash=False, repr=False)
    scheme: str | None = None

    @property
    def reads_at_once(self) -> int:
        """How many threads may usefully call `read` at once."""
        return self._source.reads_at_once

    def check(self) -> None:
        """Raise UserError if the root does not exist, is not a folder, or can't be listed."""
        self._source.check()

    def landmark(self) -> str | None:
        """Something that distinguishes this root from an empty one in its place; None if `check` is
        enough."""
        source: Any = self._source
        return source.landmark() if hasattr(source, "landmark") else None

    def lost(self, landmark: str | None, file_names: Sequence[str] = ()) -> str:
        """What of the root is gone, in words; empty if everything except these files is as it was.

        Parameters
        ----------
        landmark : what `landmark` returned when everything was there
        file_names : files that were there then, and can't be opened now
        """
        source: Any = self._source
        return "" if landmark is None else str(source.lost(landmark, file_names))

    def listing(self, file_names: Sequence[str]) -> Listing:
        """Size and version of each file.

        No file is opened; unsafe paths, and folders on disk without permission, hold nothing. Raises
        InputError if a folder can't be listed for another reason.
        """
        return self._source.listing(file_names)

    def walk(self) -> Iterator[str]:
        """Every file below the root, sorted by path; hidden files and folders are left out.

        In a name that is not UTF-8 each invalid byte becomes U+FFFD: no file has that name, but it is
        counted. Raises InputError if a folder can't be listed.
        """
        for file_name in sorted(self._source.walk()):
            yield file_name if is_utf8(file_name) else os.fsencode(file_name).decode("utf-8", "replace")

    def walk_near(self, file_names: Sequence[str]) -> Iterator[str]:
        """Files in the folders that these may be in, whatever their case and accents (see `path_key`).

        Of a source that can't list a folder alone, every file; raises as `walk` does.
        """
        source: Any = self._source
        if not hasattr(source, "walk_near"):
            return self.walk()
        found: Iterator[str] = source.walk_near(file_names)
        return found

    def read(self, file_name: str, most: int | None = None, entry: Mapping[str, int] | None = None) -> bytes:
        """The content of a file; if it has more than `most` bytes, only one byte more than that.

        Transient errors (a busy or failing server, a broken connection) are retried before this raises. May
        be called from several threads.

        Parameters
        ----------
        entry : for an archive, the file's entry in `Listing.entries`; without it, the zip's directory is
            read, once in each process

        Raises
        ------
        ValueError
            The path is unsafe (see `is_unsafe`).
        OSError
            It can't be read; FileNotFoundError if it does not exist.
        UserError
            Nothing can be read: credentials are missing or have expired, the bucket is gone.
        """
        if is_unsafe(file_name):
            raise ValueError(f"{file_name!r} is not a path inside the image root")
        return self._source.read(file_name, None if most is None else most + 1, entry)

    @property
    def has_parts(self) -> bool:
        """Whether part of a file can be read without what precedes it."""
        return hasattr(self._source, "part")

    def read_part(self, file_name: str, start: int, end: int) -> bytes:
        """Bytes of a file from `start` to before `end`, fewer if it ends earlier; errors are those of
        `read`."""
        if is_unsafe(file_name):
            raise ValueError(f"{file_name!r} is not a path inside the image root")
        source: Any = self._source
        return bytes(source.part(file_name, start, end))

    @property
    def _source(self) -> Source:
        # A forked process must not use its parent's connections.
        return _open(self, os.getpid())


@lru_cache(maxsize=8)
def _open(root: ImageRoot, process: int) -> Source:
    return source_of(root.scheme or _scheme_of(root.url)).open(root.url, root.storage_options)


def _scheme_of(url: str) -> str:
    """Like `scheme_of`, but a zip file counts as one wherever it is."""
    scheme = scheme_of(url)
    is_zip = url.partition("?")[0].lower().endswith(".zip")
    return "zip" if is_zip and not (scheme == "path" and Path(url).is_dir()) else scheme
