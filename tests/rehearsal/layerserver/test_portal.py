"""Signing in, rights, tokens that expire, and items of the portal, by the real client."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from support_layerserver import CAMERAS, arcgis, camera, sign_in

from camtrap_batch.rehearsal.layerserver import LayerServer, User, accounts

OpenLayer = Callable[..., Any]


@pytest.fixture
def private(server: LayerServer) -> str:
    """A service that takes nothing without a token."""
    name = f"private{len(server.layer_urls())}"
    server.create_service(name, [CAMERAS])
    return name


def test_ways_to_sign_in(server: LayerServer, gis: Any) -> None:
    connect = arcgis().gis.GIS
    trust = {"set_active": False, "ca_bundles": str(server.ca_file)}
    by_token = connect(server.url, token=server.token("warden"), **trust)
    by_gen_token = connect(server.url, "visitor", "rehearsal", use_gen_token=True, **trust)
    assert [found.users.me.username for found in (gis, by_token, by_gen_token)] == [
        "ranger",
        "warden",
        "visitor",
    ]
    assert gis.users.me.role == "org_publisher"
    assert not gis._is_agol


def test_a_wrong_password(server: LayerServer) -> None:
    with pytest.raises(Exception, match="Invalid username or password"):
        arcgis().gis.GIS(server.url, "ranger", "wrong", set_active=False, ca_bundles=str(server.ca_file))


def test_an_application_signs_in(server: LayerServer, nobody: Any) -> None:
    url = f"{server.url}/sharing/rest/oauth2/token"
    form = {
        "grant_type": "client_credentials",
        "client_id": "warden",
        "client_secret": "rehearsal",
        "f": "json",
    }
    answer = nobody.session.post(url, data=form).json()
    assert 3500 < answer["expires_in"] <= 3600
    by_token = arcgis().gis.GIS(
        server.url, token=answer["access_token"], set_active=False, ca_bundles=str(server.ca_file)
    )
    assert by_token.users.me.username == "warden"


def test_a_user_signs_in_at_an_applications_page(server: LayerServer) -> None:
    """The client fills in the forms and takes the code from the title of the last page."""
    https = server.url.replace("http:", "https:")
    by_code = arcgis().gis.GIS(
        https, "warden", "rehearsal", client_id="app", set_active=False, ca_bundles=str(server.ca_file)
    )
    assert by_code.users.me.username == "warden"


def test_a_code_is_good_once_and_a_token_is_renewed(server: LayerServer, nobody: Any) -> None:
    rest = f"{server.url}/sharing/rest/oauth2"

    def ask(address: str, **form: str) -> Any:
        return nobody.session.post(f"{rest}/{address}", data={"f": "json", **form})

    page = ask("authorize", response_type="code", client_id="app").text
    state = page.partition('name="oauth_state" value="')[2].partition('"')[0]
    shown = ask("signin", oauth_state=state, username="warden", password="rehearsal").text
    code = shown.partition("SUCCESS code=")[2].partition("<")[0]
    first = ask("token", grant_type="authorization_code", code=code).json()
    assert ask("token", grant_type="authorization_code", code=code).json()["error"]["code"] == 400
    again = ask("token", grant_type="refresh_token", refresh_token=first["refresh_token"]).json()
    assert 3500 < again["expires_in"] <= 3600
    assert ask("token", grant_type="password").json()["error"]["message"] == "unsupported_grant_type"


def test_plain_http_and_tls_on_one_port(server: LayerServer, nobody: Any) -> None:
    plain = nobody.session.get(f"{server.url}/sharing/rest/info", params={"f": "json"}).json()
    secure = f"{server.url}/sharing/rest/info".replace("http:", "https:")
    tls = nobody.session.get(secure, params={"f": "json"}).json()
    assert plain["owningSystemUrl"] == server.url
    assert tls["owningSystemUrl"] == server.url.replace("http:", "https:")


def test_online_says_that_it_is(tmp_path: Path) -> None:
    with LayerServer(tmp_path, is_online=True, users={"me": User("secret")}) as server:
        online = arcgis().gis.GIS(
            server.url, "me", "secret", set_active=False, ca_bundles=str(server.ca_file)
        )
        assert online._is_agol
        assert online.users.me.username == "me"


# Rights -------------------------------------------------------------------------------------------------


def test_without_a_token(server: LayerServer, private: str, open_layer: OpenLayer, nobody: Any) -> None:
    with pytest.raises(Exception, match="Token Required"):
        open_layer(private, 0, nobody).query()
    readable = open_layer("CameraTraps", 0, nobody)
    assert len(readable.query().features) == 5
    with pytest.raises(Exception, match="Token Required"):
        readable.edit_features(deletes="1")
    assert len(server.rows()) == 5


def test_anonymous_edits_where_they_are_allowed(
    server: LayerServer, service: str, open_layer: OpenLayer, nobody: Any
) -> None:
    assert open_layer(service, 0, nobody).edit_features(adds=[camera("a")])["addResults"][0]["success"]
    assert server.rows(0, service)[0]["Creator"] == ""


def test_a_viewer_reads_alone(private: str, open_layer: OpenLayer, visitor: Any) -> None:
    layer = open_layer(private, 0, visitor)
    assert layer.query(return_count_only=True) == 0
    with pytest.raises(Exception, match="403"):
        layer.edit_features(adds=[camera("a")])


@pytest.mark.parametrize(
    ("capabilities", "edits"),
    [
        ("Query", {"adds": [camera("b")]}),
        ("Query,Create,Editing", {"updates": [{"attributes": {"OBJECTID": 1}}]}),
        ("Query,Create,Update,Editing", {"deletes": "1"}),
    ],
)
def test_what_a_layer_does_not_offer(
    server: LayerServer, service: str, cameras: Any, capabilities: str, edits: dict[str, Any]
) -> None:
    cameras.edit_features(adds=[camera("a")])
    before = server.rows(0, service)
    cameras.manager.update_definition({"capabilities": capabilities})
    with pytest.raises(Exception, match="not supported"):
        cameras.edit_features(**edits)
    assert server.rows(0, service) == before


def test_an_expired_token(own_server: LayerServer) -> None:
    """The client turns 498 into a request without a token, which a private layer answers with 499."""
    url = own_server.layer_url(0, "private")
    layer = arcgis().features.FeatureLayer(url, sign_in(own_server))
    layer.edit_features(adds=[camera("a")])
    own_server.expire_tokens()
    with pytest.raises(Exception, match="Token Required"):
        layer.edit_features(adds=[camera("b")])
    again = arcgis().features.FeatureLayer(url, sign_in(own_server))
    assert again.edit_features(adds=[camera("c")])["addResults"][0]["success"]
    assert [row["key"] for row in own_server.rows(0, "private")] == ["a", "c"]


def test_an_expired_token_becomes_an_anonymous_edit(own_server: LayerServer) -> None:
    """What a push has to guard against, where everybody may edit."""
    layer = arcgis().features.FeatureLayer(own_server.layer_url(0, "public"), sign_in(own_server))
    layer.edit_features(adds=[camera("a")])
    own_server.faults.add("expire", "applyEdits")
    layer.edit_features(adds=[camera("b")])
    assert [row["Creator"] for row in own_server.rows(0, "public")] == ["ranger", ""]


def test_what_is_sent_with_a_bad_token(server: LayerServer, nobody: Any) -> None:
    def code(token: str) -> int:
        query = {"f": "json", "where": "1=1", "token": token}
        answer = nobody.session.get(f"{server.layer_url()}/query", params=query).json()
        found: int = answer.get("error", {}).get("code", 200)
        return found

    good = server.token()
    bad = good[:-1] + ("0" if good[-1] != "0" else "1")
    assert [code(token) for token in (good, bad, "x", "x.y", server.token(minutes=0), "")] == [
        200,
        498,
        498,
        498,
        498,
        200,
    ]


def test_a_token_ends_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1.7e9]
    monkeypatch.setattr(accounts, "time", SimpleNamespace(time=lambda: now[0]))
    with LayerServer(tmp_path, token_minutes=30) as server:
        ask = {"f": "json", "token": server.token()}
        url = f"{server.url}/sharing/rest/community/self"
        now[0] += 30 * 60 - 1
        assert requests.get(url, params=ask).json()["username"] == "ranger"
        now[0] += 2
        assert requests.get(url, params=ask).json()["error"]["code"] == 498


def test_a_client_that_does_not_trust_the_certificate(server: LayerServer) -> None:
    with pytest.raises(requests.exceptions.SSLError):
        requests.get(server.url.replace("http:", "https:"))
    assert requests.get(f"{server.url}/sharing/rest?f=json").json()["currentVersion"]


def test_how_long_a_token_lasts(server: LayerServer, nobody: Any) -> None:
    url = f"{server.url}/sharing/rest/generateToken"
    form = {"username": "ranger", "password": "rehearsal", "f": "json", "expiration": "600"}
    answer = nobody.session.post(url, data=form).json()
    first = nobody.session.post(url, data={**form, "expiration": "1"}).json()
    assert 58 < (answer["expires"] - first["expires"]) / 60_000 < 60


# Items --------------------------------------------------------------------------------------------------


def test_a_deep_learning_package(gis: Any, tmp_path: Path) -> None:
    package = tmp_path / "species.dlpk"
    with zipfile.ZipFile(package, "w") as archive:
        archive.writestr("species.emd", "{}")
    properties = {"title": "Species of Kruger", "type": "Deep Learning Package", "tags": ["camera traps"]}
    item = gis.content.folders.get().add(properties, file=str(package)).result()
    assert (item.title, item.type, item.tags, item.owner) == (*properties.values(), "ranger")
    assert Path(item.download(str(tmp_path / "out"))).read_bytes() == package.read_bytes()
    found = gis.content.search(
        'title:"Species of Kruger" AND owner:ranger', item_type="Deep Learning Package"
    )
    assert [entry.id for entry in found] == [item.id]
    assert gis.content.search("no such thing") == []
    with zipfile.ZipFile(package, "a") as archive:
        archive.writestr("more.txt", "more")
    assert item.update({"snippet": "retrained"}, data=str(package))
    again = gis.content.get(item.id)
    assert again.snippet == "retrained"
    assert Path(again.download(str(tmp_path / "again"))).read_bytes() == package.read_bytes()
    assert item.delete()
    assert gis.content.get(item.id) is None


def test_a_large_item_goes_in_parts(gis: Any, tmp_path: Path) -> None:
    package = tmp_path / "large.dlpk"
    package.write_bytes(bytes(range(256)) * 24_000)  # 6.1 MB
    properties = {"title": "Large", "type": "Deep Learning Package"}
    item = gis.content.folders.get().add(properties, file=str(package)).result()
    assert Path(item.download(str(tmp_path / "out"))).read_bytes() == package.read_bytes()


def test_sharing_with_everyone(
    server: LayerServer, private: str, gis: Any, nobody: Any, open_layer: OpenLayer
) -> None:
    (item,) = gis.content.search(f'title:"{private}"')
    assert nobody.content.search(f'title:"{private}"') == []
    item.sharing.sharing_level = "EVERYONE"
    assert open_layer(private, 0, nobody).query(return_count_only=True) == 0
    assert [entry.id for entry in nobody.content.search(f'title:"{private}"')] == [item.id]


def test_items_are_their_owners(gis: Any, warden: Any) -> None:
    refused = warden.content.folders.get().add({"title": "x", "type": "CSV"}, text="a,b").result()
    assert refused["error"]["code"] == 403
    url = f"{gis._portal.resturl}content/users/ranger/addItem"
    assert gis.session.post(url, data={"f": "json", "title": "x"}).json()["error"]["code"] == 400
