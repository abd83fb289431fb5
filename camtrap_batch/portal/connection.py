"""Signing in to a portal, with secrets from the environment, a profile or a prompt, and from nowhere else."""

from __future__ import annotations

import configparser
import getpass
import os
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from camtrap_batch.errors import InputError, MissingExtra
from camtrap_batch.job import SignIn

ONLINE = "https://www.arcgis.com"
TOKEN, API_KEY = "CAMTRAP_ARCGIS_TOKEN", "CAMTRAP_ARCGIS_API_KEY"
USERNAME, PASSWORD = "CAMTRAP_ARCGIS_USERNAME", "CAMTRAP_ARCGIS_PASSWORD"
CLIENT_ID, CLIENT_SECRET = "CAMTRAP_ARCGIS_CLIENT_ID", "CAMTRAP_ARCGIS_CLIENT_SECRET"

_SECRETS = (TOKEN, API_KEY, PASSWORD, CLIENT_SECRET)
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_ENVIRONMENT = threading.Lock()
_NO_ADDRESS = "urn:ietf:wg:oauth:2.0:oob"
"""Where a browser goes afterwards for a program without a web address: it shows a code."""

_user_tokens: dict[tuple[str, str], tuple[str, float]] = {}
"""Portal and OAuth client -> a user's token, and until when it is valid: its code is valid only once."""


@dataclass(frozen=True)
class Portal:
    """Where to sign in, and as whom; it holds no secret.

    Attributes
    ----------
    url : URL of ArcGIS Online or an Enterprise portal; http:// on loopback only
    profile : a profile that the client keeps in ~/.arcgisprofile; None: from the environment
    anonymous : do not sign in
    ca_bundle : file with the certificates of an authority of your own
    timeout_s : seconds without a byte after which a request is given up
    key : key of the job file's section that says so, for messages
    """

    url: str = ONLINE
    profile: str | None = None
    anonymous: bool = False
    ca_bundle: str | None = None
    timeout_s: float = 60
    key: str = "publish"

    @classmethod
    def of(cls, section: SignIn, key: str) -> Portal:
        """The portal that a section of the job file describes."""
        given = {name: getattr(section, name) for name in SignIn.model_fields}
        return cls(url=given.pop("portal"), key=key, **given)


def is_loopback(url: str) -> bool:
    """Whether a URL refers to this machine."""
    return (urlsplit(url).hostname or "") in _LOOPBACK


def connect(portal: Portal, *layers: str) -> Any:
    """An `arcgis.gis.GIS`, signed in as `portal` says, that never repeats an edit by itself.

    Looks for, in this order: `profile`; a token (CAMTRAP_ARCGIS_TOKEN); an API key (CAMTRAP_ARCGIS_API_KEY);
    a user's name (CAMTRAP_ARCGIS_USERNAME) and password (CAMTRAP_ARCGIS_PASSWORD, or asked for on a
    terminal); an OAuth client (CAMTRAP_ARCGIS_CLIENT_ID and, of an app, CAMTRAP_ARCGIS_CLIENT_SECRET; without
    it the user signs in with a browser, and gives the code that it shows on a terminal).

    Parameters
    ----------
    layers : URLs of layers, for those at http:// on this machine: the client would turn them into https

    Raises
    ------
    MissingExtra
        `arcgis` is not installed.
    InputError
        There is nothing to sign in with, the profile does not exist, or the portal can't be reached or
        refuses.
    """
    if find_spec("arcgis") is None:
        raise MissingExtra("arcgis", "a feature layer of ArcGIS")
    for url in (portal.url, *layers):
        if url.startswith("http://") and not is_loopback(url):
            raise InputError(f"{url}: http:// is only for this machine; use https://")
    credentials = {} if portal.anonymous else _credentials(portal)
    signs_in = bool(credentials)
    if not signs_in and not portal.anonymous:
        raise InputError(
            f"{portal.url}: nothing to sign in with: set {TOKEN}, {API_KEY}, {USERNAME} and {PASSWORD}, or "
            f"{CLIENT_ID} in the environment, name a profile ({portal.key}.profile), or do without "
            f"({portal.key}.anonymous: true)"
        )
    is_app = "client_secret" in credentials
    if is_app:
        credentials = {"token": _app_token(portal, credentials)}
    elif "client_id" in credentials:
        credentials = {"token": _user_token(portal, credentials["client_id"])}
    gis = _open(portal, credentials, layers)
    if signs_in and not is_app:
        _require_user(gis, portal, credentials)
    return gis


def without_secrets(problem: Exception) -> str:
    """An error's message on one line, without URLs' queries and without credentials."""
    text = " ".join(str(problem).split()) or type(problem).__name__
    for name in _SECRETS:
        if secret := os.environ.get(name):
            text = text.replace(secret, "***")
    return " ".join(word.partition("?")[0] if "://" in word else word for word in text.split())[:300]


def _credentials(portal: Portal) -> dict[str, str]:
    environment = os.environ
    if portal.profile is not None:
        _require_profile(portal)
        return {"profile": portal.profile}
    if token := environment.get(TOKEN):
        return {"token": token}
    if key := environment.get(API_KEY):
        return {"api_key": key}
    if username := environment.get(USERNAME):
        password = environment.get(PASSWORD)
        if password is None and _has_terminal():
            password = _ask(f"password of {username} at {portal.url}: ")
        if not password:
            raise InputError(f"{portal.url}: {USERNAME} is set and {PASSWORD} is not")
        return {"username": username, "password": password}
    if client_id := environment.get(CLIENT_ID):
        secret = environment.get(CLIENT_SECRET)
        return {"client_id": client_id} | ({"client_secret": secret} if secret else {})
    return {}


def _app_token(portal: Portal, credentials: dict[str, str]) -> str:
    """A token for an app. The client would request it without checking certificates, and log the secret."""
    return _oauth_token(portal, credentials, {"grant_type": "client_credentials"})[0]


def _user_token(portal: Portal, client_id: str) -> str:
    """A token for a user who signs in with a browser; that of an earlier call, as long as it is valid.

    The client would accept any certificate here, too, and wait for a code when nobody can give one.
    """
    token, good_until = _user_tokens.get((portal.url, client_id), ("", 0.0))
    if time.monotonic() < good_until:
        return token
    if not _has_terminal():
        raise InputError(
            f"{portal.url}: {CLIENT_ID} without {CLIENT_SECRET} asks a user for a code, and there is no "
            f"terminal to ask on: set {CLIENT_SECRET}, or sign in another way, such as with {TOKEN}"
        )
    wanted = {"client_id": client_id, "response_type": "code", "redirect_uri": _NO_ADDRESS}
    page = f"{portal.url.rstrip('/')}/sharing/rest/oauth2/authorize?{urlencode(wanted)}"
    code = _ask(f"sign in with a browser: {page}\nand give the code that it shows: ")
    if not code:
        raise InputError(f"{portal.url}: no code was given to sign in with ({CLIENT_ID})")
    grant = {"grant_type": "authorization_code", "redirect_uri": _NO_ADDRESS}
    token, seconds = _oauth_token(portal, {"client_id": client_id, "code": code}, grant)
    _user_tokens[portal.url, client_id] = token, time.monotonic() + seconds
    return token


def _oauth_token(portal: Portal, credentials: dict[str, str], grant: dict[str, str]) -> tuple[str, float]:
    """A token, and for how many seconds it is valid."""
    import requests

    _require_bundle(portal)
    try:
        answer = requests.post(
            f"{portal.url.rstrip('/')}/sharing/rest/oauth2/token",
            data={**credentials, **grant, "f": "json"},
            timeout=portal.timeout_s,
            verify=portal.ca_bundle or True,
        ).json()
    except (requests.RequestException, ValueError) as problem:
        raise InputError(_why_not(portal, problem, credentials)) from None
    token, seconds = answer.get("access_token"), answer.get("expires_in")
    if not isinstance(token, str):
        error = answer.get("error")
        said = error.get("message") if isinstance(error, dict) else None
        raise InputError(_why_not(portal, Exception(said or "no token"), credentials))
    return token, float(seconds) if isinstance(seconds, int | float) else 0.0


def _has_terminal() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


def _ask(question: str) -> str:
    """What is typed on the terminal, without showing it; empty if it is closed."""
    try:
        return getpass.getpass(question).strip()
    except EOFError:
        return ""


def _require_bundle(portal: Portal) -> None:
    if portal.ca_bundle is not None and not Path(portal.ca_bundle).is_file():
        raise InputError(f"{portal.ca_bundle}: no such file ({portal.key}.ca_bundle)")


def _require_profile(portal: Portal) -> None:
    """Check the profile: the client would create a missing one, with nothing in it."""
    name = portal.profile
    file = Path.home() / ".arcgisprofile"
    known = configparser.ConfigParser()
    known.read(file)
    if name not in known.sections():
        there = ", ".join(known.sections()) or "none"
        raise InputError(f"{file}: no profile {name!r} ({portal.key}.profile); possible: {there}")


def _open(portal: Portal, credentials: dict[str, str], layers: Sequence[str]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from arcgis.gis import GIS

    from camtrap_batch.portal.adapter import no_resend_adapter

    _require_bundle(portal)
    adapter = no_resend_adapter(portal.timeout_s, portal.ca_bundle)
    for url in (portal.url, *layers):
        if url.startswith("http://"):
            adapter.plain.add(urlsplit(url).netloc)
    options: dict[str, Any] = {
        "url": portal.url,
        "set_active": False,
        "adapter": {"https://": adapter, "http://": adapter},
        "ca_bundles": portal.ca_bundle,
        # It would look for a password in ~/.netrc, and omit the token because of it.
        "trust_env": False,
        **credentials,
    }
    with warnings.catch_warnings(), _no_other_key():
        warnings.simplefilter("ignore")
        try:
            gis = GIS(**options)
        except Exception as problem:  # the client raises bare exceptions
            raise InputError(_why_not(portal, problem, credentials)) from None
    adapter.must_be_signed = bool(credentials)
    return gis


def _require_user(gis: Any, portal: Portal, credentials: dict[str, str]) -> None:
    """Raise InputError if the portal does not know the user: the client would continue anonymously."""
    try:
        answer = gis.session.get(f"{gis.resturl}community/self", params={"f": "json"}).json()
        refused = answer.get("error", {}).get("message") if "error" in answer else None
        known = bool(answer.get("username")) or "api_key" in credentials
    except Exception as problem:
        raise InputError(_why_not(portal, problem, credentials)) from None
    if (refused and "api_key" not in credentials) or not known:
        raise InputError(
            f"{portal.url}: does not accept what it was given to sign in with"
            f" ({_kind(credentials)}): {refused or 'no user'}"
        )


@contextmanager
def _no_other_key() -> Iterator[None]:
    """Hide ESRI_API_KEY, with which the client would silently sign in."""
    with _ENVIRONMENT:
        key = os.environ.pop("ESRI_API_KEY", None)
        try:
            yield
        finally:
            if key is not None:
                os.environ["ESRI_API_KEY"] = key


def _why_not(portal: Portal, problem: Exception, credentials: dict[str, str]) -> str:
    from requests.exceptions import ConnectionError as NotConnected
    from requests.exceptions import SSLError, Timeout

    if isinstance(problem, SSLError):
        return (
            f"{portal.url}: its certificate is not trusted ({portal.key}.portal); "
            f"set {portal.key}.ca_bundle to the file of your authority"
        )
    if isinstance(problem, NotConnected | Timeout):
        return f"{portal.url}: no portal answers there ({portal.key}.portal); is the network up?"
    said = " ".join(str(problem).split()) or type(problem).__name__
    for name, value in credentials.items():
        if name not in ("profile", "username"):
            said = said.replace(value, "***")
    return f"{portal.url}: can't sign in ({_kind(credentials)}): {said[:200]}"


def _kind(credentials: dict[str, str]) -> str:
    return " and ".join(name.replace("_", " ") for name in credentials) or "anonymous"
