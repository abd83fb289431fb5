"""The connection to an ArcGIS portal: where it is comes from the job, who one is from the environment."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from camtrap_batch.errors import InputError, JobError, MissingExtra, StageError

if TYPE_CHECKING:
    from arcgis.gis import GIS

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_NAMES = ("CAMTRAP_ARCGIS_TOKEN", "CAMTRAP_ARCGIS_USERNAME", "CAMTRAP_ARCGIS_PASSWORD")


def connect(portal: str) -> GIS:
    """A signed-in connection that sends no change twice by itself.

    The token or the user name and password are in the environment: CAMTRAP_ARCGIS_TOKEN, or
    CAMTRAP_ARCGIS_USERNAME and CAMTRAP_ARCGIS_PASSWORD. They are in no message.

    Parameters
    ----------
    portal
        https:// URL of ArcGIS Online or an Enterprise portal; http:// on this machine alone.

    Raises
    ------
    MissingExtra
        The extra 'arcgis' is not installed.
    InputError
        The environment holds no credentials.
    JobError
        The URL is not one.
    StageError
        The portal can't be reached, or refuses.
    """
    token, user, password = (os.environ.get(name) for name in _NAMES)
    if not token and not (user and password):
        raise InputError(f"{portal}: to sign in, set {_NAMES[0]}, or {_NAMES[1]} and {_NAMES[2]}")
    scheme, host = urlsplit(portal).scheme, urlsplit(portal).hostname
    if scheme not in ("http", "https") or not host or (scheme == "http" and host not in _LOOPBACK):
        raise JobError(f"publish.portal: {portal}: should be an https:// URL (http:// on this machine alone)")
    try:
        from arcgis.gis import GIS
    except ModuleNotFoundError:
        raise MissingExtra("arcgis", "publishing to a portal") from None
    options: dict[str, Any] = {"token": token} if token else {"username": user, "password": password}
    if scheme == "http":
        options["adapter"] = {f"https://{urlsplit(portal).netloc}": _plain_adapter()}
    try:
        gis = GIS(portal, set_active=False, **options)
    except Exception as problem:  # whatever the client, requests and the portal's own words make of it
        raise StageError(f"{portal}: can't sign in: {without_secrets(problem)}") from None
    # The client would send a change up to five times more where its answer is lost.
    for adapter in gis.session.adapters.values():
        adapter.max_retries = _only_reading()
    return gis


def without_secrets(problem: Exception) -> str:
    """An error's message on one line, without URLs' queries, passwords or tokens."""
    text = " ".join(str(problem).split()) or type(problem).__name__
    for name in _NAMES:
        if secret := os.environ.get(name):
            text = text.replace(secret, "***")
    return " ".join(word.partition("?")[0] if "://" in word else word for word in text.split())[:300]


def _only_reading() -> Any:
    from urllib3 import Retry

    return Retry(
        total=3, backoff_factor=0.5, status_forcelist=(429, 500, 502, 503, 504), allowed_methods={"GET"}
    )


def _plain_adapter() -> Any:
    """The client turns http:// into https://; this turns it back."""
    from requests.adapters import HTTPAdapter

    class Plain(HTTPAdapter):
        def send(self, request: Any, *args: Any, **options: Any) -> Any:
            request.url = request.url.replace("https://", "http://", 1)
            return super().send(request, *args, **options)

    return Plain()
