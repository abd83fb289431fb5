"""The HTTP adapter under the client: a limit for every request, edits sent once, none without its token."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit, urlunsplit

from camtrap_batch.errors import StageError

_REPEATED = (429, 500, 502, 503, 504)
_ANSWER = "camtrap_answer"  # the answer to a request, kept with it
_SIGNATURES = ("X-Esri-Authorization", "Authorization")


class SignedOut(StageError):
    """The token has expired, or was refused: nothing more is sent."""


class NotSigned(Exception):
    """A request that should carry a token has none, and was not sent.

    While one thread renews the token, the client lets others send without one.
    """


def no_resend_adapter(timeout_s: float, ca_bundle: str | None) -> Any:
    """An adapter to be mounted through `GIS(adapter=...)`.

    The client's own adapter repeats every POST five times, which adds a row up to six times, sets no limit
    for some requests, and resends a request without its token if that has expired.
    """
    from arcgis.auth.tools._adapter import EsriTrustStoreAdapter
    from urllib3.util import Retry

    class NoResendAdapter(EsriTrustStoreAdapter):  # type: ignore[misc]
        """`plain` holds host and port of servers that speak http: the client turns every URL into https."""

        def __init__(self) -> None:
            self.plain: set[str] = set()
            self.must_be_signed = False
            super().__init__(
                additional_certs=ca_bundle,
                max_retries=Retry(
                    total=3,
                    connect=0,
                    other=0,  # such as an untrusted certificate
                    backoff_factor=0.5,
                    status_forcelist=_REPEATED,
                    allowed_methods=frozenset(["GET", "HEAD"]),
                    raise_on_status=False,
                ),
            )

        def send(self, request: Any, *args: Any, timeout: Any = None, **options: Any) -> Any:
            url = urlsplit(request.url)
            if url.netloc in self.plain:
                request.url = urlunsplit(url._replace(scheme="http"))
            is_signed = any(name in request.headers for name in _SIGNATURES)
            if self.must_be_signed and "/FeatureServer" in url.path and not is_signed:
                # The client repeats whatever a server refuses without signing in: it gets the first answer
                # again.
                if (first := getattr(request, _ANSWER, None)) is not None:
                    return first
                raise NotSigned
            limit = timeout if isinstance(timeout, int | float) and timeout < timeout_s else timeout_s
            answer = super().send(request, *args, timeout=limit, **options)
            setattr(request, _ANSWER, answer)
            return answer

    return NoResendAdapter()
