"""The HTTP adapter under the client: a limit for every request, edits sent once, none without its token."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit, urlunsplit

from camtrap_batch.errors import StageError

_REPEATED = (429, 500, 502, 503, 504)
_SIGNATURES = ("X-Esri-Authorization", "Authorization")


class SignedOut(StageError):
    """The token has expired, or is refused: nothing more is sent."""


def careful_adapter(timeout_s: float, ca_bundle: str | None) -> Any:
    """An adapter to be mounted through `GIS(adapter=...)`.

    The client's own repeats every POST five times, which adds a row up to six times, gives some requests no
    limit, and sends a request again without its token where that has expired.
    """
    from arcgis.auth.tools._adapter import EsriTrustStoreAdapter
    from urllib3.util import Retry

    class CarefulAdapter(EsriTrustStoreAdapter):  # type: ignore[misc]
        """`plain` holds host and port of servers that speak http: the client turns every URL into https."""

        def __init__(self) -> None:
            self.plain: set[str] = set()
            self.must_be_signed = False
            super().__init__(
                additional_certs=ca_bundle,
                max_retries=Retry(
                    total=3,
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
                raise SignedOut(
                    f"{url.netloc}: the token has expired, or is no longer accepted; sign in again, and the "
                    "same command goes on"
                )
            limit = timeout if isinstance(timeout, int | float) and timeout < timeout_s else timeout_s
            return super().send(request, *args, timeout=limit, **options)

    return CarefulAdapter()
