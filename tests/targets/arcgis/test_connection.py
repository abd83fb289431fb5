"""Signing in, in each way there is; and where a secret must not be."""

from __future__ import annotations

import logging
import os
import pickle
import re
import subprocess
import sys
import traceback
import webbrowser
from pathlib import Path

import pytest
import requests

from camtrap_batch.errors import CamtrapError, InputError
from camtrap_batch.images.sources.attachments import Attachments, Photos
from camtrap_batch.images.sources.root import ImageRoot
from camtrap_batch.portal import Portal, Service, connect, connection
from camtrap_batch.rehearsal.layerserver import LayerServer
from camtrap_batch.store.folder import Folder

SECRET = "hush-hush-hush"


def who(portal: Portal) -> str:
    gis = connect(portal)
    return str(Service(gis).read(f"{gis.resturl}community/self").get("username"))


@pytest.mark.parametrize("name", ["TOKEN", "API_KEY"])
def test_a_token_or_an_api_key_from_the_environment(
    server: LayerServer, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(f"CAMTRAP_ARCGIS_{name}", server.token("warden"))
    service = Service(connect(Portal(server.url)))
    assert service.read(server.layer_url())["type"] == "Feature Layer"


def test_user_and_password_and_who_that_is(server: LayerServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAMTRAP_ARCGIS_USERNAME", "warden")
    with pytest.raises(InputError, match="CAMTRAP_ARCGIS_PASSWORD is not"):
        connect(Portal(server.url))
    monkeypatch.setenv("CAMTRAP_ARCGIS_PASSWORD", "rehearsal")
    assert who(Portal(server.url)) == "warden"


def test_an_app(server: LayerServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAMTRAP_ARCGIS_CLIENT_ID", "ranger")
    monkeypatch.setenv("CAMTRAP_ARCGIS_CLIENT_SECRET", "rehearsal")
    assert who(Portal(server.url)) == "ranger"


def test_a_client_without_a_secret_and_without_a_terminal(
    server: LayerServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open_new", opened.append)
    monkeypatch.setenv("CAMTRAP_ARCGIS_CLIENT_ID", "app")
    with pytest.raises(InputError, match="there is no terminal to ask on: set CAMTRAP_ARCGIS_CLIENT_SECRET"):
        connect(Portal(server.url))
    assert opened == []


_AT_A_TERMINAL = """
import fcntl, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from camtrap_batch.portal import Portal, Service, connect, connection
for _ in range(2):
    gis = connect(Portal(sys.argv[1]))
    print("signed in as", Service(gis).read(f"{gis.resturl}community/self")["username"], flush=True)
"""


def test_a_user_signs_in_with_a_browser_and_gives_the_code_on_a_terminal(
    server: LayerServer, tmp_path: Path
) -> None:
    ours, its = os.openpty()
    environment = {
        **os.environ,
        "CAMTRAP_ARCGIS_CLIENT_ID": "app",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    line = [sys.executable, "-c", _AT_A_TERMINAL, server.url]
    with subprocess.Popen(
        line, stdin=its, stdout=its, stderr=its, env=environment, start_new_session=True
    ) as process:
        os.close(its)
        try:
            printed = _read_until(ours, b"shows: ")
            page = re.search(r"http\S+", printed)
            assert page is not None, printed
            code = _sign_in_with_a_browser(server, page[0], "warden")
            os.write(ours, code.encode() + b"\n")
            printed += _read_until(ours, None)
        finally:
            process.kill()
            os.close(ours)
    assert printed.count("signed in as warden") == 2
    assert printed.count("shows: ") == 1
    assert code not in printed


def test_a_code_that_is_not_one(server: LayerServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAMTRAP_ARCGIS_CLIENT_ID", "app")
    monkeypatch.setattr(connection, "_has_terminal", lambda: True)
    given = iter(["", "not-a-code"])
    monkeypatch.setattr(connection, "_ask", lambda question: next(given))
    with pytest.raises(InputError, match="no code was given"):
        connect(Portal(server.url))
    with pytest.raises(InputError, match=r"can't sign in \(client id and code\): Invalid authorization_code"):
        connect(Portal(server.url))


def _read_until(terminal: int, end: bytes | None) -> str:
    """What a program prints up to `end`, or until it has ended."""
    printed = b""
    while end is None or end not in printed:
        try:
            part = os.read(terminal, 4096)
        except OSError:  # EIO: the other side is closed
            break
        if not part:
            break
        printed += part
    return printed.decode()


def _sign_in_with_a_browser(server: LayerServer, page: str, user: str) -> str:
    """The code that the portal shows at last."""
    form = requests.get(page).text
    state = re.search(r'name="oauth_state" value="(\w+)"', form)
    assert state is not None, form
    filled = {"oauth_state": state[1], "username": user, "password": "rehearsal"}
    shown = requests.post(f"{server.url}/sharing/oauth2/signin", data=filled).text
    code = re.search("<code>(.+)</code>", shown)
    assert code is not None, shown
    return code[1]


def test_an_authority_of_ones_own(server: LayerServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAMTRAP_ARCGIS_TOKEN", server.token("ranger"))
    url = server.url.replace("http://", "https://")
    assert who(Portal(url, ca_bundle=str(server.ca_file))) == "ranger"
    with pytest.raises(InputError, match=r"its certificate is not trusted .* set publish.ca_bundle"):
        connect(Portal(url))
    with pytest.raises(InputError, match=r"no such file \(dataset.layer.ca_bundle\)"):
        connect(Portal(url, ca_bundle="/nowhere.pem", key="dataset.layer"))


def test_a_profile_that_is_not_there_is_not_made(server: LayerServer, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no profile 'kruger' \(publish.profile\); possible: none"):
        connect(Portal(server.url, profile="kruger"))
    assert not (tmp_path / ".arcgisprofile").exists()


@pytest.mark.parametrize(
    "credentials",
    [
        {"TOKEN": SECRET},
        {"API_KEY": SECRET},
        {"USERNAME": "warden", "PASSWORD": SECRET},
        {"CLIENT_ID": "app", "CLIENT_SECRET": SECRET},
    ],
)
def test_what_is_refused_is_named_without_the_secret(
    server: LayerServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    credentials: dict[str, str],
) -> None:
    for name, value in credentials.items():
        monkeypatch.setenv(f"CAMTRAP_ARCGIS_{name}", value)
    with caplog.at_level(logging.DEBUG), pytest.raises(CamtrapError) as caught:
        Service(connect(Portal(server.url))).describe(server.layer_url())
    assert server.url in str(caught.value) or server.layer_url() in str(caught.value)
    assert "\n" not in str(caught.value)
    told = "".join(traceback.format_exception(caught.value))
    assert SECRET not in f"{caught.value!r} {caplog.text} {told}"
    assert SECRET.encode() not in pickle.dumps((caught.value, Portal(server.url)))


def test_what_travels_to_a_worker_holds_no_secret(
    server: LayerServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    token = server.token("ranger")
    monkeypatch.setenv("CAMTRAP_ARCGIS_TOKEN", token)
    photos = Photos(Portal(server.url), Folder(str(tmp_path)))
    root = ImageRoot(server.layer_url(), {"photos": photos}, "attachments")
    with pytest.raises(InputError, match="has no attachments"):
        root.check()  # signs in
    assert token.encode() not in pickle.dumps(root)
    assert token not in repr(root)
    assert token not in repr(Attachments(server.layer_url(), photos))


def test_another_key_in_the_environment_is_not_used(
    server: LayerServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ESRI_API_KEY", server.token("ranger"))
    with pytest.raises(InputError, match="nothing to sign in with"):
        connect(Portal(server.url))
