"""Images on a web server that fails in every way."""

from __future__ import annotations

import pickle
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support_http import WebServer, web_server

from camtrap_batch import remote
from camtrap_batch.errors import InputError
from camtrap_batch.images import ImageRoot

NAMES = ["a/1.jpg", "a/2.jpg", "b c/ü 100%.jpg", "a?b#c.jpg", "empty.jpg"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebServer]:
    folder = tmp_path_factory.mktemp("web")
    for number, name in enumerate(NAMES):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes([number]) * (0 if name == "empty.jpg" else 10_000 + number))
    (folder / "a" / ".hidden.jpg").write_bytes(b"h")
    with web_server(folder) as server:
        yield server


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(remote._POLICY, "wait_initial", 0.01)
    monkeypatch.setitem(remote._POLICY, "wait_jitter", 0.01)


def content(server: WebServer, name: str) -> bytes:
    return Path(server.folder, name).read_bytes()


def asked(server: WebServer, fault: str, method: str) -> int:
    return sum(path.startswith(f"/{fault}/") and method == verb for verb, path, _ in server.requests())


def test_read(server: WebServer) -> None:
    root = ImageRoot(server.url())
    root.check()
    assert root.reads_at_once == 32
    for name in NAMES:
        assert root.read(name) == content(server, name)
        assert root.read(name, 100) == content(server, name)[:101]
    with pytest.raises(FileNotFoundError):
        root.read("a/no.jpg")
    assert pickle.loads(pickle.dumps(root)).read("a/1.jpg") == content(server, "a/1.jpg")


def test_many_at_once(server: WebServer) -> None:
    root = ImageRoot(server.url("slowx9"))
    with ThreadPoolExecutor(32) as threads:
        began = time.monotonic()
        assert set(threads.map(root.read, ["a/1.jpg"] * 64)) == {content(server, "a/1.jpg")}
    assert time.monotonic() - began < 10  # one after the other: 0.2 s each for the first ones


@pytest.mark.parametrize("fault", ["500x2", "503x4", "cutx3", "429x1"])
def test_what_passes_is_tried_again(server: WebServer, fault: str) -> None:
    began = time.monotonic()
    assert ImageRoot(server.url(fault)).read("a/2.jpg") == content(server, "a/2.jpg")
    assert asked(server, fault, "GET") == int(fault[-1]) + 1
    if fault.startswith("429"):
        assert time.monotonic() - began >= 1  # as it asked for


def test_a_reset_connection_is_made_again(server: WebServer) -> None:
    assert ImageRoot(server.url("resetx4")).read("a/2.jpg") == content(server, "a/2.jpg")


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("500x99", "the server fails (500)"),
        ("503x99", "the server fails (503)"),
        ("cutx99", "the answer ends early"),
        ("resetx99", ""),
    ],
)
def test_what_keeps_failing(server: WebServer, fault: str, reason: str) -> None:
    with pytest.raises(OSError, match=r".+") as caught:
        ImageRoot(server.url(fault)).read("a/1.jpg")
    assert not isinstance(caught.value, FileNotFoundError)
    # aiohttp itself asks once more where a connection that was kept open is reset.
    times = asked(server, fault, "GET")
    assert remote.TRIES <= times <= remote.TRIES + (remote.TRIES if fault == "resetx99" else 0)
    assert str(caught.value) == reason or fault == "resetx99"
    assert server.address not in str(caught.value)


@pytest.mark.parametrize("fault", ["403x9", "401x8", "400x9"])
def test_what_lasts_is_not_tried_again(server: WebServer, fault: str) -> None:
    with pytest.raises(OSError, match=fault[:3]):
        ImageRoot(server.url(fault)).read("a/1.jpg")
    assert asked(server, fault, "GET") == 1


def test_missing_is_asked_for_once(server: WebServer) -> None:
    with pytest.raises(FileNotFoundError):
        ImageRoot(server.url("404x9")).read("a/1.jpg")
    assert asked(server, "404x9", "GET") == 1


def test_silence(server: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "SILENCE_S", 0.3)
    began = time.monotonic()
    assert ImageRoot(server.url("stallx1")).read("a/1.jpg") == content(server, "a/1.jpg")
    assert 0.3 <= time.monotonic() - began < 15  # without the limit: 20
    with pytest.raises(OSError, match="no answer in time"):
        ImageRoot(server.url("stallx9")).read("a/1.jpg")


def test_slow_is_not_silent(server: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "SILENCE_S", 0.1)
    assert ImageRoot(server.url("slowx2")).read("a/2.jpg") == content(server, "a/2.jpg")


def test_no_more_is_read_than_asked_for(server: WebServer) -> None:
    Path(server.folder, "large.avi").write_bytes(bytes(50_000_000))
    began = time.monotonic()
    assert len(ImageRoot(server.url("slowx3")).read("large.avi", 5000)) == 5001
    assert time.monotonic() - began < 60  # all of it would take a quarter of an hour


def test_listing(server: WebServer) -> None:
    names = [*NAMES, "a/no.jpg", "../x.jpg", "a/1.jpg"]
    listing = ImageRoot(server.url()).listing(names)
    assert listing.sizes.tolist() == [10_000, 10_001, 10_002, 10_003, 0, -1, -1, 10_000]
    assert [version is None for version in listing.modified] == [size < 0 for size in listing.sizes]
    assert listing.modified[0] == listing.modified[7]
    assert len(set(listing.modified[:5])) == 5
    assert listing.entries is None


def test_listing_tries_again(server: WebServer) -> None:
    fault = "503x3"
    listing = ImageRoot(server.url(fault)).listing(NAMES[:2])
    assert listing.sizes.tolist() == [10_000, 10_001]
    assert asked(server, fault, "HEAD") == 8


@pytest.mark.parametrize("fault", ["noheadx99", "quietx99"])
def test_listing_where_nothing_is_told(server: WebServer, fault: str) -> None:
    listing = ImageRoot(server.url(fault)).listing(["a/1.jpg", "a/2.jpg"])
    assert listing.sizes.tolist() == [0, 0]
    assert listing.modified == ["", ""]
    assert ImageRoot(server.url(fault)).read("a/1.jpg") == content(server, "a/1.jpg")


def test_listing_where_all_is_forbidden(server: WebServer) -> None:
    with pytest.raises(InputError, match=r"access denied \(403\); check who may read it") as caught:
        ImageRoot(f"{server.url('403x999')}?sig=hush").listing(["a/1.jpg", "a/2.jpg"])
    assert "hush" not in str(caught.value)
    assert server.address in str(caught.value)


def test_listing_of_a_server_that_fails(server: WebServer) -> None:
    with pytest.raises(InputError, match=r"the server fails \(503\); try again later"):
        ImageRoot(server.url("503x9999")).listing(["a/1.jpg", "a/2.jpg"])


def test_a_query_goes_with_every_request(server: WebServer) -> None:
    root = ImageRoot(f"{server.url('plain', 'a')}/?sig=hush%2Bhush")
    root.check()
    assert root.listing(["1.jpg"]).sizes.tolist() == [10_000]
    assert root.read("1.jpg") == content(server, "a/1.jpg")
    assert {path for _, path, _ in server.requests() if "%2B" in path} == {
        "/plain/a?sig=hush%2Bhush",
        "/plain/a/1.jpg?sig=hush%2Bhush",
    }


def test_walk(server: WebServer) -> None:
    assert list(ImageRoot(server.url("plain", "a")).walk()) == ["1.jpg", "2.jpg"]
    assert "b c/ü 100%.jpg" in list(ImageRoot(server.url()).walk())


def test_walk_where_there_is_no_index(server: WebServer) -> None:
    with pytest.raises(InputError, match=r"gives no index of its files.*cct or csv"):
        list(ImageRoot(server.url("404x99")).walk())


def test_check_of_a_root_that_is_no_page(server: WebServer) -> None:
    for fault in ("404x99", "403x9", "noheadx9"):
        ImageRoot(server.url(fault)).check()
    with pytest.raises(InputError, match=r"access denied \(401\)"):
        ImageRoot(server.url("401x9")).check()


def test_nobody_there() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    root = ImageRoot(f"http://me:hush@127.0.0.1:{port}/x?sig=hush")
    for ask in (root.check, lambda: root.listing(["a.jpg"]), lambda: list(root.walk())):
        began = time.monotonic()
        with pytest.raises(InputError, match=r"can't be reached.*check the host") as caught:
            ask()
        assert time.monotonic() - began < 10
        assert "hush" not in str(caught.value)
        assert f"http://127.0.0.1:{port}/x (dataset.images)" in str(caught.value)
    with pytest.raises(InputError, match="can't be reached"):
        ImageRoot("http://no-such-host.invalid/x").check()
