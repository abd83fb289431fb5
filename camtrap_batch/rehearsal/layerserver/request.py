"""A request as the handlers see it, and the operation that it asks for."""

from __future__ import annotations

import mimetypes
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from camtrap_batch.rehearsal.layerserver.answers import Answer, Refused
from camtrap_batch.rehearsal.layerserver.faults import Fault


@dataclass(frozen=True, slots=True)
class Upload:
    """A file that was sent."""

    name: str
    content_type: str
    content: bytes


@dataclass
class Request:
    """
    Args:
        base: scheme, host and port by which the client reached the server.
        fault: the fault that this request meets.
    """

    method: str
    path: str
    parts: list[str]
    parameters: Mapping[str, str]
    files: Mapping[str, Upload]
    token: str
    base: str
    fault: Fault | None = None

    def text(self, name: str, otherwise: str = "") -> str:
        return self.parameters.get(name, otherwise)

    def posted(self) -> None:
        """
        Raises:
            Refused: the request changes something and is not a POST.
        """
        if self.method != "POST":
            raise Refused(405, "Method Not Allowed", ["this operation takes only POST"])


@dataclass(frozen=True, slots=True)
class Operation:
    """A name, for counting and for faults, and what to do."""

    name: str
    call: Callable[[Request], Answer]


def no_such_address(request: Request) -> Answer:
    raise Refused(404, "Not Found", [f"there is nothing at {request.path}"])


def content_type(name: str) -> str:
    return mimetypes.guess_type(name)[0] or "application/octet-stream"
