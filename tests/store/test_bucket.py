"""The run folder in a bucket: who is first, what can't be done, and the log."""

from __future__ import annotations

import multiprocessing
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import s3fs
from conftest import forget_connections
from support_http import WebServer, web_server
from support_s3 import ENVIRONMENT
from support_store import one_of_many_creates

from camtrap_batch.errors import InputError, StorageError
from camtrap_batch.store import log as log_module
from camtrap_batch.store.folder import Folder
from camtrap_batch.store.log import Log, read_log


@pytest.fixture
def s3_folder(bucket: str) -> Folder:
    return Folder(f"{bucket}/runs/run")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[WebServer]:
    with web_server(tmp_path) as server:
        yield server


def creates(url: str, number: int, start: Any, won: Any) -> None:
    folder = Folder(url)
    folder.exists("x")  # connected before the race
    start.wait()
    for name in range(10):
        if folder.create(f"receipts/{name}", f"{name} {number}".encode()):
            won.put((name, number))


def test_of_two_processes_one_is_first(s3_folder: Folder) -> None:
    context = multiprocessing.get_context("spawn")
    start, won = context.Barrier(2), context.Queue()
    processes = [
        context.Process(target=creates, args=(s3_folder.url, number, start, won)) for number in range(2)
    ]
    for process in processes:
        process.start()
    winners = dict(won.get(timeout=60) for _ in range(10))
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert won.empty()
    assert sorted(winners) == list(range(10))
    for name, number in winners.items():
        assert s3_folder.read(f"receipts/{name}") == f"{name} {number}".encode()


def test_of_many_threads_one_is_first(s3_folder: Folder) -> None:
    one_of_many_creates(s3_folder)


def test_a_large_file_is_created_once(s3_folder: Folder) -> None:
    """More than one part: the condition is on the last request of several."""
    assert s3_folder.create("large", bytes(101 * 2**20))
    assert not s3_folder.create("large", b"1" + bytes(101 * 2**20))
    assert s3_folder.read("large")[:1] == b"\0"
    assert s3_folder.size("large") == 101 * 2**20


def test_a_creation_that_was_sent_twice(s3_folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first answer got lost, the client sends again, and meets its own file."""
    put = s3fs.S3FileSystem._pipe_file

    async def twice(self: Any, path: str, data: bytes, **options: Any) -> None:
        await put(self, path, data, **options)
        await put(self, path, data, **options)

    monkeypatch.setattr(s3fs.S3FileSystem, "_pipe_file", twice)
    assert s3_folder.create("receipt", b"mine")
    assert not s3_folder.create("receipt", b"another's")


def test_a_store_that_ignores_conditions(s3_folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    put = s3fs.S3FileSystem._pipe_file

    async def careless(self: Any, path: str, data: bytes, mode: str = "overwrite", **options: Any) -> None:
        await put(self, path, data, **options)

    monkeypatch.setattr(s3fs.S3FileSystem, "_pipe_file", careless)
    with pytest.raises(StorageError, match=r"^s3://\S+/runs/run: this store replaces .*If-None-Match"):
        s3_folder.create("plans/a.json", b"{}")


def test_another_process_sees_what_is_new(s3_folder: Folder) -> None:
    assert s3_folder.list("receipts") == []
    other = s3fs.S3FileSystem(skip_instance_cache=True)
    other.pipe_file(f"{s3_folder.url}/receipts/1.json", b"1")
    assert s3_folder.list("receipts") == ["1.json"]
    other.pipe_file(f"{s3_folder.url}/receipts/2.json", b"2")
    assert s3_folder.list("receipts") == ["1.json", "2.json"]
    assert list(s3_folder.walk("receipts")) == ["receipts/1.json", "receipts/2.json"]
    other.rm_file(f"{s3_folder.url}/receipts/1.json")
    assert not s3_folder.exists("receipts/1.json")


def test_no_such_bucket(bucket: str) -> None:
    folder = Folder(f"{bucket}-not/run")
    for call in (
        folder.read,
        folder.list,
        lambda path: folder.write(path, b"1"),
        lambda path: folder.create(path, b"1"),
    ):
        with pytest.raises(StorageError, match=r"^s3://\S+-not/run/a: no such bucket; check its name"):
            call("a")


def test_no_permission(server: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**ENVIRONMENT, "AWS_ENDPOINT_URL": server.url("403x999")}.items():
        monkeypatch.setenv(name, value)
    forget_connections()
    folder = Folder("s3://bucket/run")
    told = r"^s3://bucket/run/a: access denied \(403.*\); check the credentials .*AWS_ACCESS_KEY_ID"
    for call in (folder.read, folder.open, lambda path: folder.write(path, b"1"), folder.list, folder.size):
        with pytest.raises(StorageError, match=told) as caught:
            call("a")
        assert "storage_options" not in str(caught.value)  # the run folder has none
    forget_connections()


def test_no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    forget_connections()
    with pytest.raises(StorageError, match=r"^s3://bucket/run/a: no credentials; set AWS_ACCESS_KEY_ID"):
        Folder("s3://bucket/run").read("a")
    forget_connections()


def test_what_passes_is_tried_again(server: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    (server.folder / "bucket").mkdir()
    (server.folder / "bucket" / "a").write_bytes(b"content")
    for name, value in {**ENVIRONMENT, "AWS_ENDPOINT_URL": server.url("503x2")}.items():
        monkeypatch.setenv(name, value)
    forget_connections()
    assert Folder("s3://bucket").read("a") == b"content"
    forget_connections()


def test_nobody_there_may_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard that meets this is tried again, so it is no StorageError, which ends the job."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name, value in {**ENVIRONMENT, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}.items():
        monkeypatch.setenv(name, value)
    forget_connections()
    with pytest.raises(OSError, match=r"^s3://bucket/run/a: can't be reached.*check the host"):
        Folder("s3://bucket/run").write("a", b"1")
    forget_connections()


def test_creation_at_google_is_conditional(server: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """This server makes a file twice, which is noticed; the requests ask it not to."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url())
    folder = Folder("gs://bucket/run")
    with pytest.raises(StorageError, match="conditional writes"):
        folder.create("receipts/1", b"1")
    with pytest.raises(
        OSError, match="Location"
    ):  # where to send the parts to, which this server does not say
        folder.create("receipts/large", bytes(51 * 2**20))
    begun = [path for verb, path, _ in server.requests() if verb == "POST" and "/o?" in path]
    assert len(begun) >= 3
    assert all("ifGenerationMatch=0" in path for path in begun)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url("412x9"))
    with pytest.raises(OSError, match="receipts/1") as caught:  # it is there, says one; it is not, the other
        Folder("gs://bucket/another").create("receipts/1", b"1")
    assert not isinstance(caught.value, FileNotFoundError)


def test_creation_at_azure_is_conditional(server: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    account = f"DefaultEndpointsProtocol=http;AccountName=me;AccountKey=aGk=;BlobEndpoint={server.url()}/me;"
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", account)
    with pytest.raises(StorageError, match="conditional writes"):
        Folder("az://container/run").create("receipts/1", b"1")
    made = [
        condition for verb, path, condition in server.requests() if verb == "PUT" and "receipts/1" in path
    ]
    assert made == ["*", "*"]


def test_a_kind_that_is_not_known() -> None:
    with pytest.raises(InputError, match="nosuch"):
        Folder("nosuch://x").read("a")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, as the log sees it."""
    now = [0.0]
    monkeypatch.setattr(log_module.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Path and bytes of each file that is written."""
    written: list[tuple[str, int]] = []
    write = Folder.write
    monkeypatch.setattr(
        Folder, "write", lambda self, path, data: (written.append((path, len(data))), write(self, path, data))
    )
    return written


def test_the_log_is_not_written_for_each_shard(
    clock: list[float], written: list[tuple[str, int]], tmp_path: Path
) -> None:
    folder = Folder(f"memory://{tmp_path.name}/run")
    log = Log(folder)
    log.add(b"begins\n")
    assert len(written) == 1
    for number in range(1000):
        clock[0] += 0.1
        log.add(b"shard %d\n" % number, may_wait=True)
    assert len(written) == pytest.approx(11, abs=1)
    log.add(b"ends\n")
    assert read_log(folder).splitlines() == [
        b"begins",
        *(b"shard %d" % number for number in range(1000)),
        b"ends",
    ]
    log.add(b"one more\n", may_wait=True)
    log.flush()
    assert read_log(folder).endswith(b"ends\none more\n")
    before = len(written)
    log.flush()
    assert len(written) == before


def test_a_line_does_not_write_the_whole_log_again(
    clock: list[float], written: list[tuple[str, int]], tmp_path: Path
) -> None:
    """Nor the same file twice in a second."""
    folder = Folder(f"memory://{tmp_path.name}/run")
    log, line = Log(folder), b"x" * 999 + b"\n"
    last: dict[str, float] = {}
    for number in range(1000):
        clock[0] += 0.3 if number % 2 else 2
        log.add(line)
        path = written[-1][0]
        assert clock[0] - last.get(path, -1) >= 1
        last[path] = clock[0]
    assert read_log(folder) == line * 1000
    assert max(size for _, size in written) < 70_000
    assert sum(size for _, size in written) < 40 * 1_000_000


def test_the_log_of_an_earlier_version_goes_on(clock: list[float], s3_folder: Folder) -> None:
    s3_folder.write("log.jsonl", b"0\n")
    for number in range(1, 4):
        log = Log(s3_folder)
        log.add(b"%d\n" % number)
        time.sleep(0.002)  # drivers follow one another
    assert read_log(s3_folder) == b"0\n1\n2\n3\n"
    assert s3_folder.read("log.jsonl") == b"0\n"
