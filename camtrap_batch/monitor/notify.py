"""The end of a job, told to a URL: JSON by POST, for a chat, a ticket system or a script."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from camtrap_batch import __version__

_PATIENCE_S = 10.0
_ATTEMPTS = 2


def notify(url: str, record: Mapping[str, Any]) -> str | None:
    """Send `record`. Returns why it could not be sent: that is never a reason for a job to fail.

    The address, which may hold a secret, is named by its host alone.
    """
    body = json.dumps(record, ensure_ascii=False).encode()
    headers = {"Content-Type": "application/json", "User-Agent": f"camtrap-batch/{__version__}"}
    request = urllib.request.Request(url, body, headers, method="POST")  # noqa: S310 - checked by the job
    problem = ""
    for _ in range(_ATTEMPTS):
        try:
            with urllib.request.urlopen(request, timeout=_PATIENCE_S):  # noqa: S310
                return None
        except (OSError, ValueError) as failure:  # URLError and HTTPError are OSErrors
            problem = str(getattr(failure, "reason", None) or failure) or type(failure).__name__
    return f"notify: {urlsplit(url).hostname}: the end of the job could not be told: {problem}"
