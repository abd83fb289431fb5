"""Where a data set's images are: a folder on disk, or anything that fsspec opens."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import numpy.typing as npt

from camtrap_batch.errors import InputError

_DRIVE_OR_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_VERSION_KEYS = (
    "ETag",
    "etag",
    "md5Hash",
    "content_md5",
    "mtime",
    "LastModified",
    "last_modified",
    "updated",
)


@dataclass(frozen=True)
class Listing:
    """Size and version of files, in the order in which they were asked for.

    Attributes
    ----------
    sizes : (n,) int64, bytes; -1 where there is no such file
    modified : modification time in ns (disk) or etag (object store), as text; None where there is no such file
    """

    sizes: npt.NDArray[np.int64]
    modified: list[str | None]


@dataclass(frozen=True)
class ImageRoot:
    """The folder that file names of a catalog are relative to. Nothing in it is ever changed.

    Symbolic links inside it are followed: the folder is the user's own, file names come from metadata of
    whatever origin.

    Parameters
    ----------
    url : absolute path of a folder, or fsspec URL
    storage_options : of the URL's fsspec file system
    """

    url: str
    storage_options: dict[str, Any] = field(default_factory=dict, hash=False)

    def check(self) -> None:
        """Raise InputError where the root is not there, is no folder, or can't be listed."""
        try:
            if self._is_local:
                with os.scandir(self.url):
                    pass
            elif not self._fs.isdir(self._full("")):
                raise FileNotFoundError
        except FileNotFoundError:
            raise InputError(f"{self.url}: no such folder (dataset.images)") from None
        except NotADirectoryError:
            raise InputError(f"{self.url}: is a file (dataset.images); it should be a folder") from None
        except PermissionError as problem:
            raise InputError(
                f"{self.url}: can't be listed (dataset.images): {problem.strerror or problem}"
            ) from None
        except OSError as problem:
            raise InputError(f"{self.url}: can't be listed (dataset.images): {problem}") from None

    def listing(self, file_names: Sequence[str]) -> Listing:
        """Size and version of each file; folders are listed, files are not opened, unsafe paths not looked at."""
        sizes = np.full(len(file_names), -1, np.int64)
        modified: list[str | None] = [None] * len(file_names)
        by_folder: dict[str, dict[str, list[int]]] = {}
        for row, file_name in enumerate(file_names):
            if not is_unsafe(file_name):
                folder, _, name = file_name.rpartition("/")
                by_folder.setdefault(folder, {}).setdefault(name, []).append(row)
        for folder, rows_by_name in by_folder.items():
            for name, size, version in self._entries(folder, rows_by_name):
                for row in rows_by_name[name]:
                    sizes[row], modified[row] = size, version
        return Listing(sizes, modified)

    def walk(self) -> Iterator[str]:
        """Every file below the root, sorted by path; hidden files and folders are left out."""
        if not self._is_local:
            root = self._full("").rstrip("/")
            names = (name.removeprefix(root).lstrip("/") for name in self._fs.find(root))
            yield from sorted(
                name for name in names if not any(part.startswith(".") for part in name.split("/"))
            )
            return
        found: list[str] = []
        for where, folders, names in os.walk(self.url, followlinks=True):
            folders[:] = [name for name in folders if not name.startswith(".")]
            inside = Path(where).relative_to(self.url).as_posix()
            found += [f"{inside}/{name}".removeprefix("./") for name in names if not name.startswith(".")]
        yield from sorted(found)

    def read(self, file_name: str, most: int | None = None) -> bytes:
        """The content of a file; of one with more than `most` bytes, one byte more than that.

        Raises
        ------
        ValueError
            The path is unsafe (see `is_unsafe`).
        OSError
            It can't be read; FileNotFoundError where it is not there.
        """
        if is_unsafe(file_name):
            raise ValueError(f"{file_name!r} is not a path inside the image root")
        if self._is_local:
            with Path(self.url, file_name).open("rb", buffering=0) as file:
                return file.read() if most is None else _read_up_to(file, most + 1)
        end = None if most is None else most + 1
        return bytes(self._fs.cat_file(self._full(file_name), end=end))

    @property
    def _is_local(self) -> bool:
        return "://" not in self.url

    @cached_property
    def _fs(self) -> Any:
        try:
            return fsspec.core.url_to_fs(self.url, **self.storage_options)[0]
        except (ImportError, ValueError) as problem:
            raise InputError(f"{self.url} (dataset.images): {problem}") from None

    def _full(self, file_name: str) -> str:
        root = str(self._fs._strip_protocol(self.url)).rstrip("/")
        return f"{root}/{file_name}".rstrip("/")

    def _entries(self, folder: str, wanted: dict[str, list[int]]) -> Iterator[tuple[str, int, str]]:
        """Name, size and version of those files of a folder that are wanted."""
        try:
            if self._is_local:
                with os.scandir(Path(self.url, folder)) as entries:
                    for entry in entries:
                        if entry.name in wanted and (info := _stat(entry)) is not None:
                            yield entry.name, info.st_size, str(info.st_mtime_ns)
                return
            for info in self._fs.ls(self._full(folder), detail=True):
                name = info["name"].rstrip("/").rpartition("/")[2]
                if name in wanted:
                    version = next((info[key] for key in _VERSION_KEYS if info.get(key)), "")
                    yield name, int(info.get("size") or 0), str(version)
        except (FileNotFoundError, NotADirectoryError):
            return

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self.url, "storage_options": self.storage_options}


def is_unsafe(file_name: str) -> bool:
    """Whether a path could lead out of the image root, or is no relative posix path at all.

    >>> is_unsafe("animals/0402/0905.jpg"), is_unsafe("../outside.jpg"), is_unsafe("C:/x.jpg"), is_unsafe("")
    (False, True, True, True)
    """
    return (
        not file_name
        or file_name[0] in "/~"
        or "\\" in file_name
        or "\0" in file_name
        or _DRIVE_OR_SCHEME.match(file_name) is not None
        or (".." in file_name and ".." in file_name.split("/"))
    )


def _read_up_to(file: Any, most: int) -> bytes:
    parts = []
    while most > 0 and (part := file.read(most)):
        parts.append(part)
        most -= len(part)
    return b"".join(parts)


def _stat(entry: os.DirEntry[str]) -> os.stat_result | None:
    try:
        return entry.stat()
    except OSError:  # a dangling link, or removed since
        return None
