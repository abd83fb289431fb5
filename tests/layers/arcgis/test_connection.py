"""Signing in, in each way there is; and where a secret must not be."""

from __future__ import annotations

import logging
import pickle
import traceback
from pathlib import Path

import pytest

from camtrap_batch.errors import CamtrapError, InputError
from camtrap_batch.images.attachments import Attachments, Photos
from camtrap_batch.images.root import ImageRoot
from camtrap_batch.portal import Portal, Service, connect
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


def test_an_authority_of_ones_own(server: LayerServer, monkeypatch: pytest.MonkeyPatch) -> None:
    if server.ca_file is None:
        pytest.skip("the rehearsal server has no certificate: the package 'cryptography' is not installed")
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
    root = ImageRoot(server.layer_url(), photos=photos)
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
