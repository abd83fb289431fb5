"""Images in a bucket: moto's S3 server, and one that only fails."""

from __future__ import annotations

import json
import random
import socket
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import s3fs
from conftest import forget_connections
from fsspec.registry import _registry
from support_http import WebServer, web_server
from support_s3 import ENVIRONMENT

from camtrap_batch import remote
from camtrap_batch.errors import InputError, MissingExtra
from camtrap_batch.images import ImageRoot
from camtrap_batch.images.sources import bucket as bucket_module
from camtrap_batch.images.sources.bucket import what_to_list

FILES = {
    "a/1.jpg": b"one",
    "a/2.jpg": b"",
    "b c/ü 100%+.jpg": b"three",
    "4.jpg": b"four" * 1000,
    "a/deep/er/5.jpg": b"5",
    "a/.x/h.jpg": b"h",
}


@pytest.fixture
def root(bucket: str) -> ImageRoot:
    filesystem = s3fs.S3FileSystem()
    for name, data in FILES.items():
        filesystem.pipe_file(f"{bucket}/images/{name}", data)
    filesystem.pipe_file(f"{bucket}/elsewhere/x.jpg", b"x")
    return ImageRoot(f"{bucket}/images")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebServer]:
    folder = tmp_path_factory.mktemp("failing")
    (folder / "bucket").mkdir()
    (folder / "bucket" / "a.jpg").write_bytes(bytes(20_000))
    with web_server(folder) as server:
        yield server


@pytest.fixture
def no_account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Nobody is logged in."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    forget_connections()
    yield
    forget_connections()


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    forget_connections()
    yield
    forget_connections()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(remote._POLICY, "wait_initial", 0.01)
    monkeypatch.setitem(remote._POLICY, "wait_jitter", 0.01)


def test_listing(root: ImageRoot) -> None:
    root.check()
    names = [
        "a/1.jpg",
        "no.jpg",
        "4.jpg",
        "a/2.jpg",
        "no/1.jpg",
        "b c/ü 100%+.jpg",
        "../elsewhere/x.jpg",
        "a",
    ]
    listing = root.listing([*names, "a/deep/er/5.jpg", "a/1.jpg"])
    assert listing.sizes.tolist() == [3, -1, 4000, 0, -1, 5, -1, -1, 1, 3]
    assert [version is not None for version in listing.modified] == [size >= 0 for size in listing.sizes]
    assert listing.modified[0] == listing.modified[9]
    s3fs.S3FileSystem().pipe_file(f"{root.url}/a/1.jpg", b"uno")
    again = root.listing(["a/1.jpg", "4.jpg"])
    assert again.sizes.tolist() == [3, 4000]
    assert again.modified[0] != listing.modified[0]
    assert again.modified[1] == listing.modified[2]


def test_walk(root: ImageRoot) -> None:
    assert list(root.walk()) == sorted(name for name in FILES if "/.x/" not in name)


def test_read(root: ImageRoot) -> None:
    assert root.reads_at_once == 32
    for name, data in FILES.items():
        assert root.read(name) == data
        assert root.read(name, 2) == data[:3]
    for name in ("no.jpg", "no/1.jpg", "a"):
        with pytest.raises(FileNotFoundError):
            root.read(name)
    with ThreadPoolExecutor(32) as threads:
        assert set(threads.map(root.read, ["4.jpg"] * 64)) == {FILES["4.jpg"]}


def test_a_bucket_is_a_root(root: ImageRoot) -> None:
    whole = ImageRoot(root.url.removesuffix("/images"))
    whole.check()
    assert whole.read("images/a/1.jpg") == b"one"
    assert whole.listing(["images/a/1.jpg", "elsewhere/x.jpg"]).sizes.tolist() == [3, 1]


def test_only_wanted_folders_are_listed(root: ImageRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    listed: list[str] = []
    lsdir = s3fs.S3FileSystem._lsdir

    async def counted(self: Any, path: str, *args: Any, **options: Any) -> Any:
        listed.append(path)
        return await lsdir(self, path, *args, **options)

    monkeypatch.setattr(s3fs.S3FileSystem, "_lsdir", counted)
    root.listing(["a/1.jpg", "a/2.jpg", "a/deep/er/5.jpg"])
    assert sorted(path.rpartition("/images/")[2] for path in listed) == ["a", "a/deep/er"]
    filesystem = s3fs.S3FileSystem._cache.values()
    assert all(not one.dircache for one in filesystem if one.kwargs.get("use_listings_cache") is False)


def test_folders_that_are_listed_together(root: ImageRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    filesystem = s3fs.S3FileSystem()
    names = [f"site/{number}/{letter}.jpg" for number in range(9) for letter in "ab"]
    for name in names:
        filesystem.pipe_file(f"{root.url}/{name}", name.encode())
    wanted = [*names[:-1], "site/3/no.jpg", "4.jpg", "a/1.jpg"]
    one_by_one = root.listing(wanted)
    monkeypatch.setattr(bucket_module, "_MANY_FOLDERS", 0)
    together = root.listing(wanted)
    assert together.sizes.tolist() == one_by_one.sizes.tolist() == [12] * 17 + [-1, 4000, 3]
    assert together.modified == one_by_one.modified


def test_not_there(root: ImageRoot) -> None:
    with pytest.raises(InputError, match=r"^s3://[^ ]+/nowhere: no such folder \(dataset.images\)"):
        ImageRoot(f"{root.url}/nowhere").check()
    with pytest.raises(InputError, match="is a file"):
        ImageRoot(f"{root.url}/4.jpg").check()
    for ask in (ImageRoot.check, lambda root: list(root.walk())):
        with pytest.raises(
            InputError, match=r"^s3://no-such-bucket/x \(dataset.images\): no such bucket; check"
        ):
            ask(ImageRoot("s3://no-such-bucket/x"))


def test_without_an_account(root: ImageRoot, s3_address: str, no_account: None) -> None:
    own = {"endpoint_url": s3_address}
    with pytest.raises(
        InputError, match=r"no credentials; set AWS_ACCESS_KEY_ID .* public bucket .*\{anon: true\}"
    ):
        ImageRoot(root.url, own).check()
    public = ImageRoot(root.url, {**own, "anon": True})
    s3 = s3fs.S3FileSystem(key="x", secret="x", endpoint_url=s3_address)
    bucket = root.url.removeprefix("s3://").partition("/")[0]
    s3.call_s3("put_bucket_acl", Bucket=bucket, ACL="public-read")
    s3.call_s3("put_object_acl", Bucket=bucket, Key="images/4.jpg", ACL="public-read")
    public.check()
    assert public.listing(["4.jpg"]).sizes.tolist() == [4000]
    assert public.read("4.jpg") == FILES["4.jpg"]
    with pytest.raises(OSError, match=r"^access denied \(403\)$"):
        public.read("a/1.jpg")


def test_what_passes_is_tried_again(server: WebServer, account: None, impatient: None) -> None:
    for fault in ("503x2", "500x3", "cutx2", "resetx4", "429x1"):
        root = ImageRoot("s3://bucket", {"endpoint_url": server.url(fault)})
        assert root.read("a.jpg") == bytes(20_000), fault


def test_what_keeps_failing_is_asked_for_a_few_times(
    server: WebServer, account: None, impatient: None
) -> None:
    for fault, times, reason in (
        ("503x99", remote.TRIES, r"the server fails \(503 SlowDown\)"),
        ("500x99", remote.TRIES, r"the server fails \(500 InternalError\)"),
        ("403x99", 1, r"access denied \(403 AccessDenied\)"),
        ("cutx99", remote.TRIES, "the answer ends early"),
    ):
        with pytest.raises(OSError, match=f"^{reason}$"):
            ImageRoot("s3://bucket", {"endpoint_url": server.url(fault)}).read("a.jpg")
        asked = [
            path for verb, path, _ in server.requests() if path.startswith(f"/{fault}/") and verb == "GET"
        ]
        assert len(asked) == times, fault


def test_what_concerns_every_image_stops_the_job(
    server: WebServer, root: ImageRoot, account: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(
        InputError, match=r"^s3://bucket \(dataset.images\): access denied \(400 ExpiredToken\); check"
    ):
        ImageRoot("s3://bucket", {"endpoint_url": server.url("400x9")}).read("a.jpg")
    with pytest.raises(InputError, match="no such bucket; check its name"):
        ImageRoot("s3://no-such-bucket/x").read("a.jpg")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    forget_connections()
    with pytest.raises(InputError, match=r"no credentials; set AWS_ACCESS_KEY_ID"):
        root.read("4.jpg")


def test_what_to_check(server: WebServer, account: None) -> None:
    for fault, text in (
        ("403x99", r"access denied \(403 AccessDenied\); check the credentials .*AWS_ACCESS_KEY_ID"),
        ("301x99", r"another region, eu-north-1; set AWS_DEFAULT_REGION=eu-north-1, or storage_options: "),
        ("503x99", r"the server fails \(503 SlowDown\); try again later"),
    ):
        root = ImageRoot("s3://bucket/images", {"endpoint_url": server.url(fault)})
        began = time.monotonic()
        with pytest.raises(InputError, match=text) as caught:
            root.check()
        assert str(caught.value).startswith("s3://bucket/images (dataset.images): ")
        assert time.monotonic() - began < remote.ANSWER_S + 5


def test_google(tmp_path: Path, impatient: None) -> None:
    """Google's client with answers that are files: what is asked for, and what is made of it."""
    listing, content = tmp_path / "storage/v1/b/bucket/o", tmp_path / "download/storage/v1/b/bucket/o/x/a"
    for folder in (listing.parent, content):
        folder.mkdir(parents=True)
    items = [
        {"name": "x/a/1.jpg", "size": "3", "etag": "e1", "md5Hash": "m1", "updated": "2024-01-01T00:00:00Z"},
        {"name": "x/a/2.jpg", "size": "0", "etag": "e2", "updated": "2024-01-01T00:00:00Z"},
    ]
    listing.write_text(json.dumps({"items": items}))
    (content / "1.jpg").write_bytes(b"one")
    began = time.monotonic()
    with web_server(tmp_path) as server:
        root = ImageRoot("gs://bucket/x", {"endpoint_url": server.url(), "token": "anon"})
        root.check()
        found = root.listing(["a/1.jpg", "a/2.jpg", "a/no.jpg"])
        assert found.sizes.tolist() == [3, 0, -1]
        assert found.modified == ["m1", "e2", None]
        assert root.read("a/1.jpg", 1) == b"on"
        with pytest.raises(FileNotFoundError):
            root.read("a/no.jpg")
        with pytest.raises(InputError, match=r"no such bucket or folder; check its name"):
            ImageRoot("gs://other/x", root.storage_options).check()
        denied = ImageRoot("gs://bucket/x", {"endpoint_url": server.url("403x99"), "token": "anon"})
        with pytest.raises(
            InputError, match=r"access denied \(403\); .*GOOGLE_.* storage_options: \{token: anon"
        ):
            denied.check()
        with pytest.raises(OSError, match=r"^access denied \(403\)$"):
            denied.read("a/1.jpg")
    assert time.monotonic() - began < 20  # nothing but these requests: no other service of Google's


def test_azure(tmp_path: Path) -> None:
    """As `test_google`."""
    blobs = "".join(
        f"<Blob><Name>x/a/{number}.jpg</Name><Properties><Etag>0x{number}</Etag><BlobType>BlockBlob</BlobType>"
        f"<Last-Modified>Wed, 01 May 2024 10:00:00 GMT</Last-Modified><Content-Length>3</Content-Length>"
        "</Properties></Blob>"
        for number in (1, 2)
    )
    (tmp_path / "me" / "container" / "x" / "a").mkdir(parents=True)
    (tmp_path / "me" / "container.xml").write_text(
        f"<?xml version='1.0'?><EnumerationResults ContainerName='container'><Blobs>{blobs}</Blobs>"
        "<NextMarker/></EnumerationResults>"
    )
    (tmp_path / "me" / "container" / "x" / "a" / "1.jpg").write_bytes(b"one")
    with web_server(tmp_path) as server:
        account = "DefaultEndpointsProtocol=http;AccountName=me;AccountKey=aGk=;BlobEndpoint={}/me;"
        root = ImageRoot("az://container/x", {"connection_string": account.format(server.url())})
        root.check()
        found = root.listing(["a/1.jpg", "a/2.jpg", "a/no.jpg"])
        assert found.sizes.tolist() == [3, 3, -1]
        assert found.modified[0] != found.modified[1]
        assert None not in found.modified[:2]
        assert root.read("a/1.jpg", 1) == b"on"
        with pytest.raises(FileNotFoundError):
            root.read("a/no.jpg")
        denied = ImageRoot("az://container/x", {"connection_string": account.format(server.url("403x99"))})
        with pytest.raises(
            InputError, match=r"access denied \(403.*\); .*AZURE_.*account_name: NAME, anon: true"
        ):
            denied.check()
        with pytest.raises(OSError, match=r"^access denied \(403"):
            denied.read("a/1.jpg")


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("s3://bucket/x", {"endpoint_url": "http://127.0.0.1:{port}", "anon": True}),
        ("gs://bucket/x", {"endpoint_url": "http://127.0.0.1:{port}", "token": "anon"}),
        ("az://container/x", {"account_name": "me", "account_host": "127.0.0.1:{port}", "anon": True}),
    ],
)
def test_nobody_there(url: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "ANSWER_S", 6)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = {
        name: value.format(port=port) if isinstance(value, str) else value for name, value in options.items()
    }
    began = time.monotonic()
    with pytest.raises(InputError, match=r"(can't be reached|no answer in time).*check the") as caught:
        ImageRoot(url, options).check()
    assert time.monotonic() - began < 30
    assert str(caught.value).startswith(f"{url} (dataset.images): ")


def test_which_account_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_CONNECTION_STRING"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(
        InputError, match=r"the storage account is not specified; set AZURE_STORAGE_ACCOUNT_NAME"
    ):
        ImageRoot("az://container/x", {"anon": True}).check()


@pytest.mark.parametrize(
    ("url", "module", "extra"),
    [("s3://b/x", "s3fs", "s3"), ("gs://b/x", "gcsfs", "gcs"), ("az://b/x", "adlfs", "azure")],
)
def test_an_extra_that_is_not_installed(
    url: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for protocol, kind in list(_registry.items()):
        if kind.__module__.startswith(module):
            monkeypatch.delitem(_registry, protocol)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtra, match=rf"pip install 'camtrap-batch\[{extra}\]'"):
        ImageRoot(url).check()


def test_an_option_that_is_wrong() -> None:
    with pytest.raises(InputError, match=r"^s3://bucket \(dataset.images\): .*max_concurrency"):
        ImageRoot("s3://bucket", {"max_concurrency": 0}).check()


def test_few_folders_are_listed_one_by_one() -> None:
    folders = {"": 3, "a": 1000, "a/b": 1, "c": 800}
    assert what_to_list(folders) == [(folder, False) for folder in folders]
    assert what_to_list(folders, prefer_deep=True) == [("", False), ("a", False), ("a/b", True), ("c", True)]


def test_many_small_folders_are_listed_together() -> None:
    folders = {
        f"site{site}/day{day}/{seq}": 8 for site in range(20) for day in range(30) for seq in range(50)
    }
    chosen = what_to_list(folders)
    assert chosen == [
        (f"site{site}/day{day}", True) for site in range(20) for day in range(30)
    ] or chosen == [(f"site{site}", True) for site in range(20)]
    large = {f"{number}": 700 for number in range(2500)}
    assert what_to_list(large) == [(folder, False) for folder in large]


def test_each_wanted_folder_is_listed_once() -> None:
    chance = random.Random(1)
    folders = {
        "/".join(str(chance.randrange(6)) for _ in range(chance.randrange(7))): chance.randrange(1, 400)
        for _ in range(20_000)
    }
    chosen = what_to_list(folders)
    deep = {folder for folder, is_deep in chosen if is_deep}
    for folder in folders:
        steps = folder.split("/") if folder else []
        above = {"/".join(steps[:depth]) for depth in range(len(steps) + 1)}
        assert ((folder, False) in chosen) + len(above & deep) >= 1
    assert 0 < len(chosen) < len(folders)
    for folder in deep:
        assert (
            sum(n for name, n in folders.items() if f"{name}/".startswith(f"{folder}/" if folder else ""))
            <= 5000
        )
