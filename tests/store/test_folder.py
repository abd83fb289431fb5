from __future__ import annotations

import errno
import os
import pickle
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support_store import one_of_many_creates

from camtrap_batch.cli import main
from camtrap_batch.errors import StorageError
from camtrap_batch.store.folder import Folder


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
    one_of_many_creates(Folder(str(tmp_path)))


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
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "b"]


def test_failed_write_leaves_the_old_content(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    folder.write("a", b"old")

    def fill(file: object) -> None:
        raise ValueError("half-way")

    with pytest.raises(ValueError, match="half-way"):
        folder.write_with("a", fill)
    assert folder.read("a") == b"old"
    assert [path.name for path in tmp_path.rglob("*")] == ["a"]


def no_links(problem: int) -> Any:
    def link(*paths: Any, **options: Any) -> None:
        raise OSError(problem, os.strerror(problem))

    return link


@pytest.mark.parametrize("problem", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV, errno.EMLINK])
def test_a_file_system_without_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, problem: int
) -> None:
    monkeypatch.setattr(os, "link", no_links(problem))
    test_of_many_creators_one_wins(tmp_path)
    folder = Folder(str(tmp_path / "run"))
    assert folder.create("r/1.json", b"first")
    assert not folder.create("r/1.json", b"second")
    assert folder.read("r/1.json") == b"first"
    assert [path.name for path in (tmp_path / "run" / "r").iterdir()] == ["1.json"]


def test_without_hard_links_a_full_disk_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", no_links(errno.EPERM))
    sync, calls = os.fsync, []

    def full(handle: int) -> None:
        calls.append(handle)
        if len(calls) == 2:  # the staged file, then the file itself
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(handle)

    monkeypatch.setattr(os, "fsync", full)
    folder = Folder(str(tmp_path))
    with pytest.raises(StorageError, match="no space left"):
        folder.create("receipt", b"1")
    assert list(tmp_path.iterdir()) == []
    assert folder.create("receipt", b"1")


@pytest.fixture(params=["vfat", "exfat"])
def without_links(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system that has no hard links, mounted by the kernel or else through FUSE."""
    kind, image, mounted = request.param, tmp_path / "image", tmp_path / "mounted"
    if os.geteuid() != 0:
        pytest.skip("mounting a file system needs root")
    if shutil.which(f"mkfs.{kind}") is None:
        pytest.skip(f"mkfs.{kind} is not installed")
    image.write_bytes(bytes(16 * 2**20))
    mounted.mkdir()
    subprocess.run([f"mkfs.{kind}", str(image)], check=True, capture_output=True)
    loop = subprocess.run(["losetup", "--find", "--show", str(image)], capture_output=True, text=True)
    if loop.returncode:
        pytest.skip(f"no loop device can be had: {loop.stderr.strip()}")
    device = loop.stdout.strip()
    try:
        for how in (["mount", "-t", kind], [f"mount.{kind}-fuse"]):
            if shutil.which(how[0]) is None:
                continue
            done = subprocess.run([*how, device, str(mounted)], capture_output=True, text=True)
            if done.returncode == 0:
                break
        else:
            pytest.skip(f"{kind} can't be mounted here")
        try:
            yield mounted
        finally:
            subprocess.run(["umount", str(mounted)], check=True)
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


def test_on_a_real_file_system_without_hard_links(without_links: Path) -> None:
    """Exclusive creation, replacing, and a job: its second run has nothing to do, and all is well."""
    (without_links / "a").touch()
    with pytest.raises(OSError, match="Operation not permitted"):
        (without_links / "b").hardlink_to(without_links / "a")
    test_of_many_creators_one_wins(without_links)
    folder = Folder(str(without_links / "other"))
    folder.write("a", b"1")
    folder.write("a", b"2")
    assert folder.read("a") == b"2"
    (without_links / "images").mkdir()
    for name in ("one", "two", "three"):
        Image.new("RGB", (16, 16)).save(without_links / "images" / f"{name}.jpg")
    job = without_links / "job.yaml"
    job.write_text("{name: run, output: ., dataset: {format: folder, images: images}}")
    for stage in ("catalog", "validate"):
        assert main([stage, str(job), "--cluster", "inline"]) == 0
    before = {path: path.read_bytes() for path in without_links.rglob("*") if path.is_file()}
    assert main(["validate", str(job), "--cluster", "tcp://127.0.0.1:1"]) == 0
    assert {path: path.read_bytes() for path in without_links.rglob("*") if path.is_file()} == before
    assert main(["check", str(job)]) == 0


CALLS = {
    "append": lambda folder, path: folder.append(path, b"harm"),
    "write": lambda folder, path: folder.write(path, b"harm"),
    "create": lambda folder, path: folder.create(path, b"harm"),
    "delete": lambda folder, path: folder.delete(path),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("path", ["sub/file", "sub/deeper/file"])
def test_nothing_is_written_through_a_symbolic_link(tmp_path: Path, name: str, path: str) -> None:
    """A folder inside the run folder that leads out of it; the run folder itself may be a link."""
    victim = tmp_path / "elsewhere" / path.removeprefix("sub/")
    victim.parent.mkdir(parents=True)
    victim.write_bytes(b"precious")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "sub").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "link").symlink_to(tmp_path / "run")
    folder = Folder(str(tmp_path / "link"))
    with pytest.raises(StorageError, match=r"link/sub: is a symbolic link.*; remove it"):
        CALLS[name](folder, path)
    assert victim.read_bytes() == b"precious"
    assert [entry.name for entry in victim.parent.iterdir()] == ["file"]
    CALLS[name](folder, "own/file")


@pytest.mark.parametrize("name", CALLS)
def test_a_file_that_is_a_symbolic_link(tmp_path: Path, name: str) -> None:
    victim = tmp_path / "precious"
    victim.write_bytes(b"precious")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "file").symlink_to(victim)
    folder = Folder(str(tmp_path / "run"))
    if name == "append":
        with pytest.raises(StorageError, match=r"run/file: is a symbolic link"):
            CALLS[name](folder, "file")
    else:  # the link is replaced, deleted, or taken for what is there
        CALLS[name](folder, "file")
    assert victim.read_bytes() == b"precious"


def test_a_log_that_is_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "log")
    with pytest.raises(StorageError, match="log: is not a file"):
        Folder(str(tmp_path)).append("log", b"1")


def test_a_file_where_the_run_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    for folder in (Folder(str(tmp_path / "run")), Folder(str(tmp_path / "run" / "below"))):
        with pytest.raises(StorageError, match="run: is a file where the run folder should be"):
            folder.write("a", b"1")


def test_entries_and_sizes(folder: Folder) -> None:
    before = time.time()
    folder.write("x/one", b"1")
    folder.write("x/y/two", b"22")
    found = list(folder.entries("x"))
    assert [(entry.path, entry.bytes) for entry in found] == [("x/one", 1), ("x/y/two", 2)]
    assert all(entry.modified is not None and abs(entry.modified - before) < 60 for entry in found)
    assert folder.sizes("x") == {"x/one": 1, "x/y/two": 2}
    assert folder.sizes("nowhere") == {}


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
