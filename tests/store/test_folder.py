from __future__ import annotations

import errno
import pickle
import resource
import signal
import threading
from pathlib import Path

import pytest

from camtrap_batch.errors import StorageError
from camtrap_batch.store.folder import STAGING, Folder


def test_write_read_replace(folder: Folder) -> None:
    folder.write("a/b.json", b"1")
    folder.write("a/b.json", b"2")
    assert folder.read("a/b.json") == b"2"
    assert folder.size("a/b.json") == 1
    assert folder.exists("a/b.json")
    assert folder.list("a") == ["b.json"]
    assert folder.list("nowhere") == []
    with folder.open("a/b.json") as file:
        assert file.read() == b"2"
    with pytest.raises(FileNotFoundError):
        folder.read("a/c.json")


def test_first_creation_wins(folder: Folder) -> None:
    assert folder.create("r/1.json", b"first")
    assert not folder.create("r/1.json", b"second")
    assert folder.read("r/1.json") == b"first"


def test_of_many_creators_one_wins(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    start = threading.Barrier(8)
    won: list[int] = []

    def create(number: int) -> None:
        start.wait()
        if folder.create("receipt", str(number).encode()):
            won.append(number)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [str(number).encode() for number in won] == [folder.read("receipt")]


def test_append(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path / "run"))
    folder.append("log", b"1\n")
    folder.append("log", b"2\n")
    assert folder.read("log") == b"1\n2\n"


def test_append_adds_all_or_nothing(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path / "run"))
    folder.append("log", b"12345678\n")
    before = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (12, before[0][1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            folder.append("log", b"more than there is room for\n")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before[0])
        signal.signal(signal.SIGXFSZ, before[1])
    assert folder.read("log") == b"12345678\n"


def test_file_url_is_a_folder_on_disk(tmp_path: Path) -> None:
    folder = Folder(f"file://{tmp_path}/run")
    assert folder.create("a", b"1")
    assert not folder.create("a", b"2")
    assert (tmp_path / "run" / "a").read_bytes() == b"1"
    assert folder.arrow.open_input_file("a").read() == b"1"


def test_read_many_walk_delete(folder: Folder) -> None:
    folder.write("x/one", b"1")
    folder.write("x/y/two", b"2")
    assert dict(folder.read_many(["x/one", "x/y/two"])) == {"x/one": b"1", "x/y/two": b"2"}
    assert sorted(folder.walk("x")) == ["x/one", "x/y/two"]
    folder.delete("x/one")
    assert sorted(folder.walk("x")) == ["x/y/two"]


def test_nothing_is_left_in_staging(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    folder.write("a", b"1")
    folder.create("b", b"1")
    folder.create("b", b"2")
    assert folder.list(STAGING) == []


def test_failed_write_leaves_the_old_content(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    folder.write("a", b"old")

    def fill(file: object) -> None:
        raise ValueError("half-way")

    with pytest.raises(ValueError, match="half-way"):
        folder.write_with("a", fill)
    assert folder.read("a") == b"old"
    assert folder.list(STAGING) == []


@pytest.mark.parametrize(
    "problem",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError("write failed. Detail: [errno 28] No space left"),
    ],
    ids=["posix", "arrow"],
)
def test_full_disk_says_so(tmp_path: Path, problem: OSError) -> None:
    def fill(file: object) -> None:
        raise problem

    with pytest.raises(StorageError, match="no space left on the disk; make room"):
        Folder(str(tmp_path)).write_with("a", fill)


def test_travels_to_a_worker(folder: Folder) -> None:
    folder.write("a", b"1")
    assert folder.arrow is not None
    copy = pickle.loads(pickle.dumps(folder))
    assert copy == folder
    assert copy.read("a") == b"1"
