"""Reports the end of a command to a URL (JSON by POST) or to a program (on its standard input)."""

from __future__ import annotations

import json
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from camtrap_batch import __version__
from camtrap_batch.job.notify import Notify

_PATIENCE_S = 10.0
_ATTEMPTS = 2
_PROGRAM_S = 60.0


def notify(whom: Notify, record: Mapping[str, Any]) -> Iterator[str]:
    """Send `record`. Yields a line for each failure, which never makes a job fail.

    Only the host of the address, which may hold a secret, is named, and only the program of a command.
    """
    body = json.dumps(record, ensure_ascii=False).encode()
    if whom.url is not None and (problem := _post(whom.url, body)):
        yield f"notify: {urlsplit(whom.url).hostname}: could not be notified of the job's end: {problem}"
    if whom.command is not None and (problem := _call(whom.command, body)):
        yield f"notify: {whom.command[0]}: could not be notified of the job's end: {problem}"


def _post(url: str, body: bytes) -> str:
    headers = {"Content-Type": "application/json", "User-Agent": f"camtrap-batch/{__version__}"}
    request = urllib.request.Request(url, body, headers, method="POST")  # noqa: S310 - checked by the job
    problem = ""
    for _ in range(_ATTEMPTS):
        try:
            with urllib.request.urlopen(request, timeout=_PATIENCE_S):  # noqa: S310
                return ""
        except (OSError, ValueError) as failure:  # URLError and HTTPError are OSErrors
            problem = str(getattr(failure, "reason", None) or failure) or type(failure).__name__
    return problem


def _call(command: Sequence[str], body: bytes) -> str:
    # Its output goes to a file: a process that it leaves behind would keep a pipe open.
    with tempfile.TemporaryFile() as said:
        try:
            done = subprocess.run(  # noqa: S603 - the job file says so
                command,
                input=body,
                stdout=said,
                stderr=said,
                timeout=_PROGRAM_S,
                start_new_session=True,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"it had not ended after {_PROGRAM_S:g} s"
        except (OSError, ValueError) as failure:
            return str(getattr(failure, "strerror", None) or failure)
        if done.returncode == 0:
            return ""
        said.seek(0)
        last = said.read().decode(errors="replace").strip().rpartition("\n")[2]
    return f"it ended with {done.returncode}" + (f": {last}" if last else "")
