"""Photos attached to the features of an ArcGIS layer, each downloaded once and kept.

A photo's file name is `<object id>/<attachment id>-<bytes>/<name>`: a worker needs nothing else to get it, to
see that it is complete, and to find it among those that are kept.
"""

from __future__ import annotations

import errno
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from camtrap_batch.errors import InputError, StageError
from camtrap_batch.images.sources.base import Listing, empty_listing
from camtrap_batch.portal import Portal, Service, connect
from camtrap_batch.portal.adapter import SignedOut
from camtrap_batch.portal.reading import Attachment, attachment_url, look_at, read_attachments, read_ids
from camtrap_batch.portal.service import ServiceRefused, Unknown, said_error, with_retries
from camtrap_batch.store.folder import Folder
from camtrap_batch.store.shards import digest

_NAME = re.compile(r"(\d+)/(\d+)-(\d+)/[^/]+")
_NOT_IN_NAMES = re.compile(r"[/\\\x00-\x1f\x7f]")
_GONE = (404, 410)
_LONGEST_ERROR = 4096  # bytes


@dataclass(frozen=True)
class Photos:
    """How to get attachments: where to sign in, and the run folder that keeps them. Holds no secret."""

    portal: Portal
    folder: Folder


def file_name(attachment: Attachment) -> str:
    """The name of an attachment in the catalog.

    >>> file_name(Attachment(7, 31, None, "a/b.jpg", 1200, "image/jpeg", ""))
    '7/31-1200/a_b.jpg'
    """
    name = _NOT_IN_NAMES.sub("_", attachment.name)
    name = name if name.strip(".") else f"attachment{name}"
    return f"{attachment.parent}/{attachment.id}-{attachment.size}/{name}"


class Attachments:
    """The attachments of one layer. Each process signs in by itself, with its environment's credentials."""

    reads_at_once = 8

    def __init__(self, url: str, photos: Photos) -> None:
        self.url, self._photos = url.rstrip("/"), photos
        self._kept = f"attachments/{digest([self.url])}"
        self._lock = threading.Lock()
        self._connected: Service | None = None

    @classmethod
    def open(cls, url: str, options: Mapping[str, Any]) -> Self:
        """Open a layer, with `Photos` in the options."""
        return cls(url, options["photos"])

    def check(self) -> None:
        about = look_at(self._service, self.url).about
        if not about.get("hasAttachments"):
            raise InputError(
                f"{self.url}: has no attachments (dataset.metadata); `camtrap layer attach` adds photos"
            )

    def listing(self, file_names: Sequence[str]) -> Listing:
        sizes, modified = empty_listing(len(file_names))
        parts = [_parts(name) for name in file_names]
        parents = sorted({part[0] for part in parts if part is not None})
        there = {(one.parent, one.id, one.size): one for one in self._all(parents)}
        for row, part in enumerate(parts):
            if part is not None and (one := there.get(part)) is not None:
                sizes[row], modified[row] = one.size, one.globalid or str(one.id)
        return Listing(sizes, modified)

    def walk(self) -> Iterator[str]:
        info = look_at(self._service, self.url)
        try:
            parents = read_ids(self._service, info, "1=1")
        except StageError as problem:
            raise InputError(f"{self.url}: can't be read (dataset.metadata): {problem}") from None
        yield from map(file_name, self._all(parents))

    def read(self, file_name: str, end: int | None, entry: Mapping[str, int] | None) -> bytes:
        part = _parts(file_name)
        if part is None:
            raise FileNotFoundError(errno.ENOENT, "no such attachment")
        parent, attachment, size = part
        kept = f"{self._kept}/{attachment}-{size}"
        try:
            content = self._photos.folder.read(kept)
        except FileNotFoundError:
            content = b""
        if len(content) != size or not size:
            content = self._download(parent, attachment, size)
            self._photos.folder.write(kept, content)
        return content if end is None else content[:end]

    def _download(self, parent: int, attachment: int, size: int) -> bytes:
        url = attachment_url(self.url, parent, attachment)

        def fetch() -> bytes:
            content = self._service.fetch(url, max(size + 1, _LONGEST_ERROR))
            # The client saves error messages as if they were the photo.
            if (error := said_error(url, content)) is not None:
                raise error
            if len(content) != size:
                less = "ends early" if len(content) < size else "goes on"
                raise Unknown(f"what the server sends {less}: {size} bytes are listed")
            return content

        try:
            return with_retries(fetch)
        except SignedOut as problem:
            raise InputError(str(problem)) from None
        except ServiceRefused as problem:
            if problem.code in _GONE:
                raise FileNotFoundError(errno.ENOENT, "no such attachment") from None
            raise OSError(errno.EIO, str(problem)) from None
        except Unknown as problem:
            # Some servers send a page instead of an error for what does not exist.
            if attachment not in {one.id for one in self._all([parent])}:
                raise FileNotFoundError(errno.ENOENT, "no such attachment") from None
            raise OSError(errno.EIO, str(problem)) from None

    def _all(self, parents: Sequence[int]) -> list[Attachment]:
        try:
            return read_attachments(self._service, look_at(self._service, self.url), parents)
        except StageError as problem:
            raise InputError(f"{self.url}: can't be read (dataset.metadata): {problem}") from None

    @property
    def _service(self) -> Service:
        with self._lock:
            if self._connected is None:
                self._connected = Service(connect(self._photos.portal, self.url))
            return self._connected


def _parts(name: str) -> tuple[int, int, int] | None:
    """Object id, attachment id and bytes, of the name of an attachment."""
    match = _NAME.fullmatch(name)
    return None if match is None else (int(match[1]), int(match[2]), int(match[3]))
