"""Where a data set's images are: a folder on disk, or anything that fsspec opens."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import numpy.typing as npt

from camtrap_batch.errors import InputError

_DRIVE_OR_SCHEME = re.compile(r"[A-Za-z]:|[A-Za-z][A-Za-z0-9+.-]*:(//|:)")
_VERSION_KEYS = (
    "ETag",
    "etag",
    "md5Hash",
    "content_md5",
    "mtime",
    "LastModified",
    "last_modified",
    "updated",
    "CRC",
    "created",
)


@dataclass(frozen=True)
class Listing:
    """Size and version of files, in the order in which they were asked for.

    Attributes
    ----------
    sizes : (n,) int64, bytes; -1 where there is no such file
    modified : modification time in ns (disk) or etag (object store) as text; None where there is no such file
    """

    sizes: npt.NDArray[np.int64]
    modified: list[str | None]
    places: Any = None


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
    storage_options: dict[str, Any] = field(default_factory=dict, hash=False, repr=False)

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
        except InputError:
            raise
        except Exception as problem:  # clients of object stores have errors of their own
            raise self._cant_list(self.url, problem) from None

    def listing(self, file_names: Sequence[str]) -> Listing:
        """Size and version of each file.

        Folders are listed, files are not opened; unsafe paths, and folders without permission, hold nothing.
        Raises InputError where a folder can't be listed for another reason.
        """
        sizes = np.full(len(file_names), -1, np.int64)
        modified: list[str | None] = [None] * len(file_names)
        by_folder: dict[str, dict[str, list[int]]] = {}
        for row, file_name in enumerate(file_names):
            if not is_unsafe(file_name):
                folder, _, name = file_name.rpartition("/")
                by_folder.setdefault(folder, {}).setdefault(name, []).append(row)
        self._forget_listings()
        for folder, rows_by_name in by_folder.items():
            for name, size, version in self._entries(folder, rows_by_name):
                for row in rows_by_name[name]:
                    sizes[row], modified[row] = size, version
        return Listing(sizes, modified)

    def walk(self) -> Iterator[str]:
        """Every file below the root, sorted by path; hidden files and folders are left out.

        Raises InputError where a folder can't be listed, or a name is not UTF-8.
        """
        for file_name in sorted(self._walk_local() if self._is_local else self._walk_remote()):
            if not _is_utf8(file_name):
                raise InputError(
                    f"{self.url}: the file name {os.fsencode(file_name)!r} is not UTF-8 (dataset.images); "
                    "rename it, for example with convmv"
                )
            yield file_name

    @property
    def reads_at_once(self) -> int:
        """How many threads may usefully `read` at once."""
        return 4 if self._is_local else 32

    def read(self, file_name: str, most: int | None = None, place: dict[str, int] | None = None) -> bytes:
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
        end = None if most is None else most + 1
        return self._read_local(file_name, end) if self._is_local else self._read_remote(file_name, end)

    @property
    def _is_local(self) -> bool:
        return "://" not in self.url

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        """The URL's file system, and the root's path in it."""
        try:
            filesystem, path = fsspec.core.url_to_fs(self.url, **self.storage_options)
        except (ImportError, ValueError) as problem:
            raise InputError(f"{self.url} (dataset.images): {problem}") from None
        return filesystem, str(path).rstrip("/")

    @property
    def _fs(self) -> Any:
        return self._opened[0]

    def _full(self, file_name: str) -> str:
        root = self._opened[1]
        return f"{root}/{file_name}".rstrip("/") if root else file_name

    def _forget_listings(self) -> None:
        if not self._is_local:
            # fsspec keeps listings for as long as the process lives; files may have changed since.
            self._fs.invalidate_cache()

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
                if name in wanted and info.get("type") != "directory":
                    version = next((info[key] for key in _VERSION_KEYS if info.get(key)), "")
                    yield name, int(info.get("size") or 0), str(version)
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            return
        except Exception as problem:
            raise self._cant_list(folder or self.url, problem) from None

    def _walk_local(self) -> Iterator[str]:
        def refuse(problem: OSError) -> None:
            raise self._cant_list(str(problem.filename or self.url), problem) from None

        above: dict[Path, frozenset[tuple[int, int]]] = {}
        for where, folders, names in os.walk(self.url, followlinks=True, onerror=refuse):
            here = Path(where)
            info = here.stat()
            folder = info.st_dev, info.st_ino
            parents = above.get(here.parent, frozenset())
            if folder in parents:  # a link to a folder that it lies in
                folders.clear()
                continue
            above[here] = parents | {folder}
            folders[:] = [name for name in folders if not name.startswith(".")]
            inside = here.relative_to(self.url).as_posix()
            yield from (f"{inside}/{name}".removeprefix("./") for name in names if not name.startswith("."))

    def _walk_remote(self) -> Iterator[str]:
        self._forget_listings()
        root = self._full("")
        try:
            paths = self._fs.find(root)
        except Exception as problem:
            raise self._cant_list(self.url, problem) from None
        for path in paths:
            file_name = path.removeprefix(root).lstrip("/")
            # A name that ends in a slash is an object that stands for a folder.
            if not path.endswith("/") and not any(part.startswith(".") for part in file_name.split("/")):
                yield file_name

    def _read_local(self, file_name: str, end: int | None) -> bytes:
        path = Path(self.url, file_name)
        info = path.stat()
        if stat.S_ISDIR(info.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), file_name)
        if not stat.S_ISREG(info.st_mode):  # opening a pipe would wait for someone to write into it
            raise OSError(errno.EINVAL, "not a regular file", file_name)
        with path.open("rb", buffering=0) as file:
            return file.read() if end is None or info.st_size < end else _read_up_to(file, end)

    def _read_remote(self, file_name: str, end: int | None) -> bytes:
        path = self._full(file_name)
        try:
            try:
                return bytes(self._fs.cat_file(path, end=end))
            except FileNotFoundError:
                raise
            except Exception:
                # Object stores refuse a range of an empty object.
                if end is None or self._fs.info(path).get("size") != 0:
                    raise
                return b""
        except OSError:
            raise
        except Exception as problem:  # clients of object stores have errors of their own
            raise OSError(f"{type(problem).__name__}: {problem}") from problem

    def _cant_list(self, where: str, problem: Exception) -> InputError:
        reason = (
            getattr(problem, "strerror", None) or " ".join(str(problem).split()) or type(problem).__name__
        )
        if where != self.url:
            where = f"{self.url}: folder {where!r}"
        return InputError(f"{where}: can't be listed (dataset.images): {reason}")

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
        or not _is_utf8(file_name)
    )


def _is_utf8(file_name: str) -> bool:
    try:
        file_name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _read_up_to(file: Any, most: int) -> bytes:
    parts = []
    while most > 0 and (part := file.read(most)):
        parts.append(part)
        most -= len(part)
    return b"".join(parts)


def _stat(entry: os.DirEntry[str]) -> os.stat_result | None:
    """Of a regular file; None for anything else."""
    try:
        info = entry.stat()
    except OSError:  # a dangling link, or removed since
        return None
    return info if stat.S_ISREG(info.st_mode) else None
