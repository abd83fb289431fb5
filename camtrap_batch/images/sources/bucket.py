"""Images below a prefix of a bucket, or in any other folder that fsspec knows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any, Self

from camtrap_batch.errors import InputError
from camtrap_batch.images.sources.base import (
    KEY,
    FarFile,
    Listing,
    cant_stat,
    empty_listing,
    is_hidden,
    is_unsafe,
)
from camtrap_batch.remote import (
    TRIES,
    as_os_error,
    call,
    explain,
    family_of,
    has_anything,
    is_missing,
    is_missing_bucket,
    is_of_the_store,
    open_store,
    plain,
    redacted,
    version_of,
    with_retries,
)

_LISTED_AT_ONCE = 32
_MANY_FOLDERS = 2000
_FILES_TOGETHER = 5000


class Bucket:
    """A folder in an object store. Listing and reading have separate clients.

    The client that lists retries each request by itself, since a folder may take many; for the one that
    reads, `with_retries` does.
    """

    def __init__(self, url: str, options: Mapping[str, Any]) -> None:
        self.url, self.options, self.family = url, options, family_of(url)

    @classmethod
    def open(cls, url: str, options: Mapping[str, Any]) -> Self:
        return cls(url, options)

    @classmethod
    def open_file(cls, url: str, options: Mapping[str, Any]) -> FarFile:
        return FarFile(cls(url, options))

    @property
    def reads_at_once(self) -> int:
        return 32 if getattr(self._reading[0], "async_impl", False) else 4

    def check(self) -> None:
        filesystem, root = self._listing
        try:
            if has_anything(filesystem, root, self.family):
                return
            is_file = bool(call(filesystem, "exists", root))
        except Exception as problem:
            raise self._cant_list("", problem) from None
        if is_file:
            raise InputError(
                f"{redacted(self.url)}: is a file ({KEY}); it should be a folder, or a zip file whose name "
                "ends in .zip"
            )
        raise InputError(f"{redacted(self.url)}: no such folder ({KEY}); check its name")

    def listing(self, file_names: Sequence[str]) -> Listing:
        """Lists only folders with wanted files, many at a time; nothing else in them is kept."""
        sizes, modified = empty_listing(len(file_names))
        first: dict[str, int] = {}
        again: list[tuple[int, int]] = []
        folders: Counter[str] = Counter()
        for row, file_name in enumerate(file_names):
            if is_unsafe(file_name):
                continue
            if (before := first.setdefault(file_name, row)) != row:
                again.append((row, before))
            folders[file_name.rpartition("/")[0]] += 1
        self._forget_listings()

        def look(folder: str, is_deep: bool) -> None:
            for file_name, size, version in self._entries(folder, is_deep):
                if (row := first.get(file_name)) is not None:
                    sizes[row], modified[row] = size, version

        # Not every synchronous client can be called from several threads.
        at_once = _LISTED_AT_ONCE if getattr(self._listing[0], "async_impl", False) else 1
        with ThreadPoolExecutor(at_once, "list") as threads:
            tasks = [threads.submit(look, *one) for one in what_to_list(folders, self.family == "az")]
            try:
                for task in tasks:
                    task.result()
            except BaseException:
                threads.shutdown(cancel_futures=True)
                raise
        for row, before in again:
            sizes[row], modified[row] = sizes[before], modified[before]
        return Listing(sizes, modified)

    def walk(self) -> Iterator[str]:
        self._forget_listings()
        try:
            paths = self._ask("find", self._listing[1])
        except Exception as problem:
            raise self._cant_list("", problem) from None
        for path in paths:
            file_name = self._inside(path)
            # A name that ends in a slash is an object that stands for a folder.
            if not path.endswith("/") and not is_hidden(file_name):
                yield file_name

    def read(self, file_name: str, end: int | None, entry: Mapping[str, int] | None) -> bytes:
        return self.part(file_name, None, end)

    def part(self, file_name: str, start: int | None, end: int | None) -> bytes:
        """Bytes of a file, from `start` to before `end`."""
        filesystem, root = self._reading
        path = f"{root}/{file_name}" if root and file_name else root or file_name
        try:
            return bytes(with_retries(self.url, _cat, filesystem, path, start, end))
        except Exception as problem:
            if is_of_the_store(problem):  # that must not make every image unreadable
                raise InputError(explain(self.url, problem, KEY)) from None
            raise as_os_error(self.url, problem) from None

    def stat(self) -> tuple[int, str]:
        """Size in bytes and version of the file at the URL itself. Raises FileNotFoundError, InputError."""
        try:
            info = self._ask("info", self._listing[1])
        except Exception as problem:
            raise cant_stat(self.url, problem) from None
        return int(info.get("size") or 0), version_of(info)

    @cached_property
    def _reading(self) -> tuple[Any, str]:
        return open_store(self.url, self.options, client_tries=1, key=KEY)

    @cached_property
    def _listing(self) -> tuple[Any, str]:
        return open_store(self.url, self.options, client_tries=TRIES, key=KEY)

    def _entries(self, folder: str, is_deep: bool) -> Iterator[tuple[str, int, str]]:
        """Name, size and version of the files in a folder; with `is_deep` also of those below it."""
        root = self._listing[1]
        path = f"{root}/{folder}".rstrip("/") if root else folder
        try:
            found = self._ask("find" if is_deep else "ls", path, detail=True)
        except Exception as problem:
            if is_missing(problem) and not is_missing_bucket(problem):
                return
            if self.family == "other" and isinstance(problem, NotADirectoryError | PermissionError):
                return  # as on a disk
            raise self._cant_list(folder, problem) from None
        for info in found.values() if isinstance(found, dict) else found:
            # adlfs finds a file where a folder was requested, and returns only its path.
            if isinstance(info, dict) and info.get("type") != "directory":
                yield self._inside(info["name"]), int(info.get("size") or 0), version_of(info)

    def _ask(self, method: str, path: str, **options: Any) -> Any:
        filesystem = self._listing[0]
        if self.family == "s3":  # its client has been told to retry
            return call(filesystem, method, path, **options)
        return with_retries(self.url, call, filesystem, method, path, **options)

    def _inside(self, path: str) -> str:
        """A file's path relative to the root."""
        return path.lstrip("/").removeprefix(self._listing[1].strip("/")).lstrip("/")

    def _forget_listings(self) -> None:
        # Clients that cache listings in spite of their settings keep them as long as the process lives.
        self._listing[0].invalidate_cache()

    def _cant_list(self, folder: str, problem: Exception) -> InputError:
        if self.family != "other":
            return InputError(explain(self.url, problem, KEY))
        where = f"{redacted(self.url)}: folder {folder!r}" if folder else redacted(self.url)
        return InputError(f"{where}: can't be listed ({KEY}): {plain(problem)}")


def what_to_list(folders: Mapping[str, int], prefer_deep: bool = False) -> list[tuple[str, bool]]:
    """What to list for files in many folders: each folder, or everything below one, with True.

    A request returns at most 1,000 (S3, Google) or 5,000 (Azure) names. Folders are listed one by one, so
    that nothing else is; but if there are thousands of small ones, neighbouring folders are listed together.

    Parameters
    ----------
    folders : folder -> wanted files directly in it
    prefer_deep : list everything below a folder instead of the folder itself if no wanted folder is below it
        (besides a folder, adlfs lists all those whose names begin with its name)
    """
    files: Counter[str] = Counter()
    parts: Counter[str] = Counter()
    for folder, number in folders.items():
        for above in _lineage(folder):
            files[above] += number
            parts[above] += 1
    if len(folders) <= _MANY_FOLDERS:
        return [(folder, prefer_deep and folder != "" and parts[folder] == 1) for folder in folders]
    chosen: dict[tuple[str, bool], None] = {}
    for folder in folders:
        together = (
            above for above in _lineage(folder) if files[above] <= _FILES_TOGETHER and parts[above] >= 8
        )
        highest = next(together, None)
        chosen[(folder, False) if highest is None else (highest, True)] = None
    return list(chosen)


def _lineage(folder: str) -> list[str]:
    """The folders that contain a folder, from the root on, and the folder itself."""
    steps = folder.split("/") if folder else []
    return ["/".join(steps[:depth]) for depth in range(len(steps) + 1)]


def _cat(filesystem: Any, path: str, start: int | None, end: int | None) -> bytes:
    try:
        return bytes(call(filesystem, "cat_file", path, start=start, end=end))
    except FileNotFoundError:
        raise
    except Exception as problem:
        # Object stores refuse a range of an empty object.
        is_refused = any(word in f"{problem} {problem.__cause__}" for word in ("416", "InvalidRange"))
        if not is_refused or call(filesystem, "info", path).get("size") != 0:
            raise
        return b""
