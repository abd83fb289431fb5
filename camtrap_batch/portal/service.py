"""Requests to a feature service over the client's session, and what an answer means.

ArcGIS refuses in several ways: an HTTP status, an error inside HTTP 200, an empty answer. What matters is
whether it is certain that nothing was done, and whether retrying may help.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import stamina

from camtrap_batch.errors import InputError, StageError
from camtrap_batch.portal.adapter import NotSigned, SignedOut

_NOT_SIGNED_IN = (401, 403, 498, 499)
_PASSING = (408, 429, 500, 502, 503, 504)
_TOO_LARGE = 413
_CHUNK = 2**18

MOST_REFUSALS = 40
"""Consecutive refused requests after which what they hold is not to blame: one bad row of a batch is found
in about ten."""

_TRIES, _LONGEST_S = 6, 120.0
_RENEWED_IN_S = 10.0
_LONGEST_REST_S = 60.0


class Unknown(StageError):
    """There is no answer that says what was done: it may have been done, or not.

    Attributes
    ----------
    retry_after_s : seconds that the server asks to wait; None: it does not say
    """

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ServiceRefused(StageError):
    """The server has refused the request.

    Attributes
    ----------
    code : ArcGIS's code, or the HTTP status
    """

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code

    @property
    def is_too_large(self) -> bool:
        return self.code == _TOO_LARGE


class Service:
    """A portal's session, for reading (retried if that may help) and for edits (sent once)."""

    def __init__(self, gis: Any) -> None:
        self.gis = gis
        self._session = gis.session

    def read(self, url: str, **parameters: Any) -> dict[str, Any]:
        """The answer to a query, sent up to six times.

        Raises
        ------
        ServiceRefused, Unknown, SignedOut
        """
        answer: dict[str, Any] = with_retries(self.send, url, parameters)
        return answer

    def describe(self, url: str) -> dict[str, Any]:
        """A layer's or service's definition. Raises InputError if there is none at the URL."""
        try:
            return self.read(url)
        except (ServiceRefused, Unknown) as problem:
            raise InputError(f"{url}: {problem}") from None

    def send(self, url: str, parameters: Mapping[str, Any], files: Mapping[str, Any] | None = None) -> Any:
        """One POST, never repeated: the server's answer, which contains no error."""
        from requests.exceptions import RequestException

        form = {"f": "json"} | {
            name: value if isinstance(value, str) else json.dumps(value, allow_nan=False)
            for name, value in parameters.items()
            if value is not None
        }
        try:
            response = self._post(url, form, files)
            content = response.content
        except RequestException as problem:
            raise Unknown(f"no answer ({type(problem).__name__})") from None
        if response.status_code in _NOT_SIGNED_IN:
            raise SignedOut(f"{url}: not allowed (HTTP {response.status_code}); sign in again, or ask for it")
        if response.status_code in _PASSING:
            raise Unknown(f"HTTP {response.status_code}", _retry_after(response))
        if response.status_code >= 400:
            raise ServiceRefused(f"HTTP {response.status_code}", response.status_code)
        try:
            answer = json.loads(content)
        except ValueError:
            raise Unknown("an answer that is not JSON") from None
        if not answer:
            raise Unknown("an empty answer")
        if isinstance(answer, dict) and isinstance(answer.get("error"), dict):
            raise _error(url, answer["error"])
        return answer

    def owns(self, item_id: str | None) -> bool:
        """Whether whoever is signed in owns a portal's item, or administers the portal."""
        me = self.gis.users.me
        if me is None or item_id is None:
            return False
        item = self.gis.content.get(item_id)
        return me.role == "org_admin" or (item is not None and item.owner == me.username)

    def fetch(self, url: str, most: int) -> bytes:
        """The content at an address, requested once; only the first `most` bytes if there are more.

        Raises
        ------
        ServiceRefused, Unknown, SignedOut
        """
        from requests.exceptions import RequestException

        try:
            with self._signed(url, lambda: self._session.get(url, stream=True)) as response:
                if response.status_code in _NOT_SIGNED_IN:
                    raise SignedOut(f"{url}: not allowed (HTTP {response.status_code}); sign in again")
                if response.status_code in _PASSING:
                    raise Unknown(f"HTTP {response.status_code}", _retry_after(response))
                if response.status_code >= 400:
                    raise ServiceRefused(f"HTTP {response.status_code}", response.status_code)
                content = bytearray()
                for part in response.iter_content(_CHUNK):
                    content += part
                    if len(content) >= most:
                        break
        except RequestException as problem:
            raise Unknown(f"no answer ({type(problem).__name__})") from None
        return bytes(content[:most])

    def _post(self, url: str, form: dict[str, str], files: Mapping[str, Any] | None) -> Any:
        return self._signed(url, lambda: self._session.post(url, data=form, files=files))

    def _signed(self, url: str, ask: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + _RENEWED_IN_S
        while True:
            try:
                return ask()
            except NotSigned:
                if time.monotonic() > deadline:
                    raise SignedOut(
                        f"{url}: the token has expired, or is no longer accepted; sign in again, and the "
                        "same command goes on"
                    ) from None
                time.sleep(0.1)


def _may_help(problem: Exception) -> bool | float:
    if not isinstance(problem, Unknown):
        return False
    return True if problem.retry_after_s is None else problem.retry_after_s


def _retry_after(response: Any) -> float | None:
    """What the header Retry-After says, in seconds (RFC 9110, 10.2.3); at most `_LONGEST_REST_S`."""
    said = str(response.headers.get("Retry-After") or "").strip()
    if said.isdecimal():
        return min(float(said), _LONGEST_REST_S)
    try:
        rest_s = (parsedate_to_datetime(said) - datetime.now(UTC)).total_seconds()
    except (TypeError, ValueError):  # missing, without a zone, or not a date
        return None
    return min(max(rest_s, 0.0), _LONGEST_REST_S)


with_retries = stamina.RetryingCaller(attempts=_TRIES, timeout=_LONGEST_S, wait_initial=0.2, wait_max=10).on(
    _may_help
)
"""Calls a function up to six times, as long as it raises `Unknown`."""


def change_definition(service: Service, url: str, operation: str, change: dict[str, Any]) -> None:
    """Change the definition of a service or a layer, at its address for owners."""
    admin = url.replace("/rest/services/", "/rest/admin/services/", 1)
    try:
        service.send(f"{admin}/{operation}", {operation: change})
    except ServiceRefused as problem:
        raise InputError(f"{url}: can't be changed ({operation}): {problem}") from None


def said_error(url: str, content: bytes) -> StageError | None:
    """An error that a server returns in place of a file, as JSON in an HTTP 200; None if it is a file."""
    if not content.lstrip().startswith(b'{"error"'):
        return None
    try:
        return _error(url, json.loads(content)["error"])
    except (ValueError, AttributeError):
        return Unknown("an error in place of the file")


def _error(url: str, error: Mapping[str, Any]) -> StageError:
    code = error.get("code")
    code = code if isinstance(code, int) else 0
    details = error.get("details") or []
    details = [details] if isinstance(details, str) else details
    said = " ".join(" ".join(map(str, [error.get("message") or "", *details])).split()) or f"error {code}"
    if code in _NOT_SIGNED_IN:
        return SignedOut(f"{url}: {said} ({code}); sign in again, or ask for the right to it")
    if code in _PASSING:
        return Unknown(f"{said} ({code})")
    return ServiceRefused(f"{said} ({code})", code)
