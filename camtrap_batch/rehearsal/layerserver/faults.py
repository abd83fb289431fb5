"""Faults on demand: what goes wrong, at which operation, at which call, how often."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from camtrap_batch.errors import InputError
from camtrap_batch.rehearsal.layerserver.answers import Json

FaultKind = Literal[
    "http", "error", "empty", "rows", "rollback", "drop", "stall", "slow", "truncate", "expire"
]


class Fault(BaseModel):
    """One fault.

    Args:
        kind: what happens:
            `http`: the answer is HTTP `status`, with `retry_after`;
            `error`: the answer is an error in an HTTP 200, with `code`, `message` and `details`;
            `empty`: the answer is an HTTP 200 without a body;
            `rows`: the `rows` of an edit are refused with `code` and `message`, the others go through;
            `rollback`: nothing of the call is kept, and the answer is one error 400 that says so;
            `drop`: the connection is reset;
            `stall`: `seconds` pass;
            `slow`: the answer's body takes `seconds`;
            `truncate`: only the first `keep` of the answer's rows arrive, and nothing says so;
            `expire`: every token issued so far expires.
        operation: name of the request's operation, such as `applyEdits`, `query`, `query.count` or
            `addAttachment`; `query` is every kind of query, `*` is everything.
        path: text that must be in the request's path, such as `/0/`.
        nth: which of these requests, counted from now on; 1 is the next.
        times: how many times in a row; null for always.
        when: `before` the server does what was asked, or `after`. A request that stalls `before` is done
            late; a request that ends in any other way `before` is not done at all.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: FaultKind
    operation: str = "*"
    path: str = ""
    nth: int = Field(default=1, ge=1)
    times: int | None = Field(default=1, ge=1)
    when: Literal["before", "after"] = "before"
    status: int = Field(default=503, ge=400, le=599)
    retry_after: int | None = Field(default=None, ge=0)
    code: int | None = None
    message: str = "as told"
    details: tuple[str, ...] = ()
    rows: tuple[int, ...] | None = None
    seconds: float = Field(default=30.0, ge=0)
    keep: int = Field(default=0, ge=0)

    def concerns(self, operation: str, path: str) -> bool:
        named = self.operation in ("*", operation) or operation.startswith(f"{self.operation}.")
        return named and self.path in path


class Faults:
    """The faults that await their request, and how many requests there have been."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[_Waiting] = []
        self._counts: Counter[str] = Counter()

    def add(self, kind: FaultKind | Fault, operation: str = "*", **details: object) -> Fault:
        """Plan a fault; see `Fault` for what can be given.

        Raises:
            ValueError: (pydantic's) a value that there is not.
        """
        fault = (
            kind
            if isinstance(kind, Fault)
            else Fault.model_validate({"kind": kind, "operation": operation, **details})
        )
        with self._lock:
            self._waiting.append(_Waiting(fault))
        return fault

    def clear(self) -> None:
        with self._lock:
            self._waiting.clear()

    def waiting(self) -> list[Fault]:
        """Faults that have not yet happened as often as they should."""
        with self._lock:
            return [waiting.fault for waiting in self._waiting]

    def counts(self) -> dict[str, int]:
        """Requests by operation since the start, or since `reset_counts`."""
        with self._lock:
            return dict(self._counts)

    def reset_counts(self) -> None:
        with self._lock:
            self._counts.clear()

    def meet(self, operation: str, path: str) -> Fault | None:
        """Count a request; returns the fault that it meets, the first one planned."""
        with self._lock:
            self._counts[operation] += 1
            met: _Waiting | None = None
            for waiting in self._waiting:
                if waiting.fault.concerns(operation, path):
                    waiting.seen += 1
                    if met is None and waiting.seen >= waiting.fault.nth:
                        met = waiting
            if met is None:
                return None
            met.happened += 1
            if met.happened == met.fault.times:
                self._waiting.remove(met)
            return met.fault


@dataclass(eq=False)
class _Waiting:
    fault: Fault
    seen: int = 0
    happened: int = 0


def read_faults(text: str, where: str) -> list[Fault]:
    """Faults from a JSON array.

    Raises:
        InputError: with what is wrong.
    """
    try:
        return TypeAdapter(list[Fault]).validate_json(text)
    except ValidationError as problem:
        first = problem.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{where}: {key + ': ' if key else ''}{first['msg']}") from None


def load_faults(file: Path) -> list[Fault]:
    """
    Raises:
        InputError: the file can't be read, or is not a list of faults.
    """
    try:
        return read_faults(file.read_text(), str(file))
    except OSError as problem:
        raise InputError(f"{file}: {problem.strerror}; a JSON file with a list of faults is needed") from None


def describe(faults: Iterable[Fault]) -> list[Json]:
    return [fault.model_dump(exclude_defaults=True) | {"kind": fault.kind} for fault in faults]
