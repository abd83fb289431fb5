"""Images on a web server: one request for each, since HTTP has no listing."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self
from urllib.parse import quote, unquote

from fsspec.asyn import sync

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
    ANSWER_S,
    HttpStatusError,
    as_os_error,
    call,
    explain,
    is_transient,
    open_store,
    redacted,
    seconds,
    with_retries,
    with_retries_async,
)

_ASKED_AT_ONCE = 64
_MOST_FAILURES = 20
_CHUNK = 2**18


@dataclass(frozen=True)
class _Head:
    """What a server says about a file without sending it. `size` is None if it does not say."""

    status: int
    size: int | None
    version: str


_Note = Callable[[int, _Head], None]


class Web:
    """A folder on a web server. A query of the URL (a signature, a token) goes with every request."""

    reads_at_once = 32

    def __init__(self, url: str, options: Mapping[str, Any]) -> None:
        self.url, self.options = url, options
        base, mark, query = url.partition("?")
        self._base, self._query = base.rstrip("/"), mark + query

    @classmethod
    def open(cls, url: str, options: Mapping[str, Any]) -> Self:
        return cls(url, options)

    @classmethod
    def open_file(cls, url: str, options: Mapping[str, Any]) -> FarFile:
        return FarFile(cls(url, options))

    def check(self) -> None:
        """Any answer will do: a server that lists no folders has no page for the root."""
        try:
            head = sync(
                self._fs.loop, with_retries_async, self.url, self._head, self._address(""), timeout=ANSWER_S
            )
        except Exception as problem:
            raise InputError(explain(self.url, problem, KEY)) from None
        if head.status == 401:
            raise InputError(explain(self.url, HttpStatusError(401, None), KEY))

    def listing(self, file_names: Sequence[str]) -> Listing:
        sizes, modified = empty_listing(len(file_names))
        wanted = [row for row, file_name in enumerate(file_names) if not is_unsafe(file_name)]
        statuses: set[int] = set()

        def note(row: int, head: _Head) -> None:
            statuses.add(head.status)
            if head.status not in (404, 410):
                sizes[row], modified[row] = head.size or 0, head.version

        try:
            sync(self._fs.loop, self._ask_for_all, file_names, wanted, note)
        except Exception as problem:
            raise InputError(explain(self.url, problem, KEY)) from None
        if statuses and statuses <= {401, 403}:
            raise InputError(explain(self.url, HttpStatusError(403, None), KEY))
        return Listing(sizes, modified)

    def walk(self) -> Iterator[str]:
        try:
            paths = with_retries(self.url, call, self._fs, "find", f"{self._base}/", on_error="raise")
        except FileNotFoundError:
            paths = []
        except Exception as problem:
            raise InputError(explain(self.url, problem, KEY)) from None
        names = {
            unquote(path.removeprefix(self._base).lstrip("/"))
            for path in paths
            if path.startswith(f"{self._base}/") and "?" not in path and "#" not in path
        }
        names = {name for name in names if name and not name.endswith("/") and not is_hidden(name)}
        if not names:
            raise InputError(
                f"{redacted(self.url)}: the server gives no index of its files ({KEY}); name them in a "
                "metadata file (dataset.format: cct or csv)"
            )
        yield from names

    def read(self, file_name: str, end: int | None, entry: Mapping[str, int] | None) -> bytes:
        return self.part(file_name, None, end)

    def part(self, file_name: str, start: int | None, end: int | None) -> bytes:
        """Bytes of a file, from `start` to before `end`; without `start` the whole file is requested."""
        address = self._address(file_name)
        try:
            data: bytes = with_retries(self.url, sync, self._fs.loop, self._get, address, start, end)
        except Exception as problem:
            raise as_os_error(self.url, problem) from None
        return data

    def stat(self) -> tuple[int, str]:
        """Size in bytes and version of the file at the URL itself. Raises FileNotFoundError, InputError.

        OSError if the server does not reveal the size.
        """
        try:
            head = sync(self._fs.loop, with_retries_async, self.url, self._head, self._address(""))
            if head.status >= 400:
                raise HttpStatusError(head.status, None)
        except Exception as problem:
            raise cant_stat(self.url, problem) from None
        if head.size is None:
            raise OSError("the server does not reveal its size")
        return head.size, head.version

    @cached_property
    def _fs(self) -> Any:
        return open_store(self.url, self.options, client_tries=1, key=KEY)[0]

    def _address(self, file_name: str) -> str:
        return f"{self._base}/{quote(file_name)}{self._query}" if file_name else f"{self._base}{self._query}"

    async def _ask_for_all(self, file_names: Sequence[str], wanted: Sequence[int], note: _Note) -> None:
        """A HEAD request for each wanted row, many at a time."""
        left = iter(wanted)
        failures = 0

        async def work() -> None:
            nonlocal failures
            for row in left:
                try:
                    head = await with_retries_async(self.url, self._head, self._address(file_names[row]))
                    failures = 0
                except Exception as problem:
                    # One file that keeps failing is a problem of that file, many in a row are a problem of
                    # the server.
                    failures += 1
                    if failures >= min(_MOST_FAILURES, len(wanted)) or not is_transient(problem):
                        raise
                    head = _Head(0, None, "")
                note(row, head)

        tasks = [asyncio.ensure_future(work()) for _ in range(min(_ASKED_AT_ONCE, len(wanted)))]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    async def _head(self, address: str) -> _Head:
        session = await self._fs.set_session()
        async with session.head(
            self._fs.encode_url(address), allow_redirects=True, **self._request_options()
        ) as answer:
            refused = _refusal(answer)
            if refused is not None and is_transient(refused):
                raise refused
            if refused is not None:
                return _Head(answer.status, None, "")
            length = answer.headers.get("Content-Length", "")
            is_plain = answer.headers.get("Content-Encoding", "identity") == "identity"
            version = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
            return _Head(answer.status, int(length) if length.isdecimal() and is_plain else None, version)

    async def _get(self, address: str, start: int | None, end: int | None) -> bytes:
        options = self._request_options()
        if start is not None:
            options["headers"]["Range"] = f"bytes={start}-{'' if end is None else end - 1}"
        session = await self._fs.set_session()
        async with session.get(self._fs.encode_url(address), **options) as answer:
            if (refused := _refusal(answer)) is not None:
                raise refused
            if start is not None and answer.status != 206:
                raise OSError("the server sends no part of a file (HTTP Range)")
            parts, left = [], None if end is None else end - (start or 0)
            async for part in answer.content.iter_chunked(_CHUNK):
                parts.append(part if left is None else part[:left])
                if left is not None and (left := left - len(part)) <= 0:
                    answer.close()  # the rest is not wanted
                    break
            return b"".join(parts)

    def _request_options(self) -> dict[str, Any]:
        options = dict(self._fs.kwargs)
        # Content compressed in transit has another length, and is unbounded when unpacked.
        return {**options, "headers": {**options.get("headers", {}), "Accept-Encoding": "identity"}}


def _refusal(answer: Any) -> OSError | None:
    """An answer that is not the file, as an error."""
    if answer.status in (404, 410):
        return FileNotFoundError(errno.ENOENT, "no such file")
    if answer.status >= 400:
        return HttpStatusError(answer.status, answer.reason, seconds(answer.headers.get("Retry-After")))
    return None
