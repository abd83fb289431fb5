from __future__ import annotations

import errno
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from camtrap_batch.errors import InputError
from camtrap_batch.images import ImageRoot, is_unsafe
from camtrap_batch.images.sources.base import SOURCES
from camtrap_batch.images.sources.disk import Disk

UNSAFE = [
    "",
    "/etc/passwd",
    "../outside.jpg",
    "a/../../outside.jpg",
    "a/..",
    "..",
    "~/outside.jpg",
    "~root/x.jpg",
    "..\\outside.jpg",
    "a\\b.jpg",
    "C:/x.jpg",
    "c:x.jpg",
    "file:///etc/passwd",
    "https://example.org/a.jpg",
    "simplecache::file.jpg",
    "a.jpg\0.txt",
    "\ud800.jpg",
    "\udcff.jpg",
]
SAFE = [
    "a.jpg",
    "A/b c/ü 猫 🦁.JPG",
    "a/..b/c...jpg",
    "x/~y.jpg",
    "...",
    "site:12/2021-04-11T20:43:09.jpg",
    "a//b.jpg",
    "-rf.jpg",
    "100%.jpg",
    "a?b#c*[d].jpg",
]

opened: list[str] = []
is_watched = threading.Event()


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    if is_watched.is_set() and event in ("open", "os.scandir", "os.listdir"):
        path = str(arguments[0])
        if isinstance(arguments[0], int):  # a folder that was opened before
            return
        if not path.startswith("/proc/"):  # where a cluster that other tests have started looks at memory
            opened.append(path)


@pytest.fixture
def touched() -> Iterator[list[str]]:
    """Every path that Python opens or lists during a test."""
    if not getattr(sys, "_is_watched_by_tests", False):
        sys.addaudithook(watch)  # which can't be taken away again
        sys._is_watched_by_tests = True  # type: ignore[attr-defined]
    fsspec.core.url_to_fs("memory://")  # what is imported is opened, too
    list(SOURCES.values())
    opened.clear()
    is_watched.set()
    yield opened
    is_watched.clear()


@pytest.fixture(params=["disk", "memory", "file"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> ImageRoot:
    """The same few files, in each place."""
    folder = tmp_path / "images"
    urls = {"disk": str(folder), "memory": f"memory://{tmp_path.name}/images", "file": folder.as_uri()}
    made = ImageRoot(urls[request.param])
    for name, data in (
        ("b.jpg", b"bb"),
        ("a/1.jpg", b"one"),
        ("a/2.jpg", b""),
        ("a/.x/h.jpg", b"h"),
        (".y", b"y"),
    ):
        put(made, name, data)
    return made


def put(root: ImageRoot, name: str, data: bytes) -> None:
    filesystem, path = fsspec.core.url_to_fs(f"{root.url}/{name}")
    filesystem.makedirs(path.rpartition("/")[0], exist_ok=True)
    filesystem.pipe_file(path, data)


@pytest.mark.parametrize("file_name", UNSAFE)
def test_unsafe(file_name: str, touched: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    (tmp_path / "outside.jpg").write_bytes(b"x")
    assert is_unsafe(file_name)
    touched.clear()
    for root in (ImageRoot(str(folder)), ImageRoot(f"memory://{tmp_path.name}")):
        with pytest.raises(ValueError, match="not a path inside the image root"):
            root.read(file_name)
        assert root.listing([file_name]).modified == [None]
    assert touched == []


@pytest.mark.parametrize("file_name", SAFE)
def test_safe(file_name: str, tmp_path: Path) -> None:
    assert not is_unsafe(file_name)
    path = tmp_path / file_name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    root = ImageRoot(str(tmp_path))
    assert root.read(file_name) == b"x"
    assert root.listing([file_name]).sizes.tolist() == [1]


def test_the_watch_sees_what_is_opened(touched: list[str], tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"x")
    touched.clear()
    ImageRoot(str(tmp_path)).read("a.jpg")
    assert touched == [str(tmp_path / "a.jpg")]


def test_listing_is_in_the_order_asked_for(root: ImageRoot) -> None:
    names = ["b.jpg", "a/2.jpg", "no.jpg", "a/1.jpg", "../b.jpg", "no/1.jpg", "b.jpg", "b.jpg/x.jpg", "a"]
    listing = root.listing(names)
    assert listing.sizes.tolist() == [2, 0, -1, 3, -1, -1, 2, -1, -1]
    assert [version is not None for version in listing.modified] == [size >= 0 for size in listing.sizes]
    assert listing.modified[0] == listing.modified[6]


def test_listing_opens_no_file(touched: list[str], tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.jpg").write_bytes(b"x")
    touched.clear()
    ImageRoot(str(tmp_path)).listing(["a/1.jpg"])
    assert touched == [str(tmp_path / "a")]


def test_a_disk_that_answers_slowly_is_asked_by_several_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"{number:03}/a.jpg" for number in range(120)]
    for number, name in enumerate(names):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(bytes(number))
    threads = set()

    def slowly(folder: int) -> Any:
        threads.add(threading.get_ident())
        time.sleep(0.001)
        return listdir(folder)

    listdir = os.listdir
    root = ImageRoot(str(tmp_path))
    assert root.listing(names).sizes.tolist() == list(range(120))
    monkeypatch.setattr("camtrap_batch.images.sources.folders._TRIAL_S", 0.01)
    monkeypatch.setattr(os, "listdir", slowly)
    assert root.listing([*names, "no/a.jpg", names[7]]).sizes.tolist() == [*range(120), -1, 7]
    assert len(threads) > 2
    (tmp_path / "031").rename(tmp_path / "elsewhere")
    (tmp_path / "031").symlink_to("031")  # of itself
    with pytest.raises(InputError, match=r"folder '031': can't be listed"):
        root.listing(names)


def test_a_listed_file_of_which_the_disk_tells_nothing_is_not_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    for name in ("1.jpg", "2.jpg"):
        (tmp_path / "a" / name).write_bytes(b"x")
    (tmp_path / "a" / "3.jpg").symlink_to("nowhere")

    def fail(path: Any, **options: Any) -> os.stat_result:
        if path in ("2.jpg", str(tmp_path / "a" / "2.jpg")):
            raise OSError(errno.EIO, "Input/output error")
        return stat(path, **options)

    stat = os.stat
    monkeypatch.setattr(os, "stat", fail)
    listing = ImageRoot(str(tmp_path)).listing([f"a/{number}.jpg" for number in range(1, 5)])
    assert listing.sizes.tolist() == [1, 0, -1, -1]


@pytest.mark.parametrize("python", [sys.executable, "/bin/false"])
def test_very_many_files_are_listed_by_two_processes(
    python: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the second one does not get through."""
    names = [f"é{number % 7}/{number}.jpg" for number in range(50)]
    for number, name in enumerate(names):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(bytes(number))
    root = ImageRoot(str(tmp_path))
    expected = root.listing([*names, "no.jpg", "no/a.jpg", names[-1]])
    monkeypatch.setattr("camtrap_batch.images.sources.folders.FOR_TWO", 2)
    monkeypatch.setattr("camtrap_batch.images.sources.folders.sys.executable", python)
    found = root.listing([*names, "no.jpg", "no/a.jpg", names[-1]])
    assert found.sizes.tolist() == [*range(50), -1, -1, 49]
    assert found.modified == expected.modified


def test_version_changes_with_the_file(root: ImageRoot) -> None:
    before = root.listing(["b.jpg", "a/1.jpg"])
    assert root.listing(["b.jpg", "a/1.jpg"]).modified == before.modified
    put(root, "b.jpg", b"cc")
    after = root.listing(["b.jpg", "a/1.jpg"])
    assert after.sizes.tolist() == before.sizes.tolist()
    assert after.modified[0] != before.modified[0]
    assert after.modified[1] == before.modified[1]


def test_listings_are_not_remembered(root: ImageRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    if "://" not in root.url:
        return
    filesystem = fsspec.core.url_to_fs(root.url)[0]
    forgotten = []
    monkeypatch.setattr(type(filesystem), "invalidate_cache", lambda *_: forgotten.append(1))
    root.listing(["b.jpg"])
    assert len(forgotten) == 1
    list(root.walk())
    assert len(forgotten) == 2


def test_folder_without_permission_lists_nothing(root: ImageRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    filesystem = fsspec.core.url_to_fs(root.url)[0]
    if "://" in root.url:
        monkeypatch.setattr(type(filesystem), "ls", refuse)
    else:
        monkeypatch.setattr(os, "listdir", refuse)
    assert root.listing(["b.jpg"]).sizes.tolist() == [-1]


def test_folder_that_cant_be_listed_for_another_reason(
    root: ImageRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("503\nslow down") if "://" in root.url else OSError(5, "Input/output error")

    filesystem = fsspec.core.url_to_fs(root.url)[0]
    if "://" in root.url:
        monkeypatch.setattr(type(filesystem), "ls", fail)
        monkeypatch.setattr(type(filesystem), "find", fail)
    else:
        monkeypatch.setattr(os, "listdir", fail)
        monkeypatch.setattr(os, "scandir", fail)
    with pytest.raises(InputError, match=r"folder 'a': can't be listed \(dataset.images\): (503 slow|Input)"):
        root.listing(["a/1.jpg"])
    with pytest.raises(InputError, match="can't be listed"):
        list(root.walk())


def test_walk(root: ImageRoot) -> None:
    put(root, "a.jpg", b"x")
    put(root, "Z.jpg", b"x")
    assert list(root.walk()) == ["Z.jpg", "a.jpg", "a/1.jpg", "a/2.jpg", "b.jpg"]


def test_walk_follows_links_but_not_in_circles(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    (folder / "a" / "b").mkdir(parents=True)
    (tmp_path / "card").mkdir()
    (tmp_path / "card" / "1.jpg").write_bytes(b"1")
    (folder / "a" / "b" / "2.jpg").write_bytes(b"2")
    (folder / "card").symlink_to(tmp_path / "card")
    (folder / "a" / "b" / "up").symlink_to(folder)
    (folder / "a" / "self").symlink_to(folder / "a")
    (folder / "3.jpg").symlink_to(tmp_path / "card" / "1.jpg")
    for url in (str(folder), f"{folder}/"):
        assert list(ImageRoot(url).walk()) == ["3.jpg", "a/b/2.jpg", "card/1.jpg"]
    assert ImageRoot(str(folder)).read("card/1.jpg") == b"1"


def test_names_that_no_table_can_hold_are_walked_all_the_same(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jpg")).write_bytes(b"x")
    root = ImageRoot(str(tmp_path))
    assert list(root.walk()) == ["caf\ufffd.jpg"]
    assert root.listing(["caf\ufffd.jpg"]).sizes.tolist() == [-1]


def test_walk_of_no_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="can't be listed"):
        list(ImageRoot(str(tmp_path / "no")).walk())


def test_read(root: ImageRoot) -> None:
    assert root.read("a/1.jpg") == b"one"
    assert root.read("a/2.jpg") == b""
    assert root.read("a/2.jpg", 5) == b""
    assert [root.read("a/1.jpg", most) for most in (1, 2, 3, 4)] == [b"on", b"one", b"one", b"one"]
    for name in ("no.jpg", "a/no.jpg", "no/1.jpg"):
        with pytest.raises(FileNotFoundError):
            root.read(name)
    with pytest.raises(OSError, match=r".*"):
        root.read("a")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jpg")
    root = ImageRoot(str(tmp_path))
    with pytest.raises(OSError, match="not a regular file"):
        root.read("a.jpg")
    assert root.listing(["a.jpg"]).sizes.tolist() == [-1]


class Faulty:
    """Fails as often as told, then reads."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *faults: int) -> None:
        self.calls = 0
        read = Disk._read

        def faulty(disk: Disk, file_name: str, end: int | None) -> bytes:
            self.calls += 1
            if self.calls <= len(faults):
                raise OSError(faults[self.calls - 1], os.strerror(faults[self.calls - 1]), "/mnt/card/a.jpg")
            return read(disk, file_name, end)

        monkeypatch.setattr(Disk, "_read", faulty)


def test_what_a_disk_may_not_say_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.jpg").write_bytes(b"x")
    faulty = Faulty(monkeypatch, errno.EIO, errno.ESTALE)
    assert ImageRoot(str(tmp_path)).read("a.jpg") == b"x"
    assert faulty.calls == 3


@pytest.mark.parametrize(("error", "calls"), [(errno.EIO, 4), (errno.EACCES, 1), (errno.ELOOP, 1)])
def test_what_a_disk_keeps_saying(
    error: int, calls: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faulty = Faulty(monkeypatch, *[error] * 9)
    with pytest.raises(OSError, match=os.strerror(error)) as caught:
        ImageRoot(str(tmp_path)).read("a.jpg")
    assert caught.value.errno == error
    assert faulty.calls == calls


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"x")
    with pytest.raises(FileNotFoundError):
        ImageRoot(str(tmp_path)).read("a.jpg/b.jpg")


def test_dangling_link_is_missing(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").symlink_to(tmp_path / "no.jpg")
    root = ImageRoot(str(tmp_path))
    with pytest.raises(FileNotFoundError):
        root.read("a.jpg")
    assert root.listing(["a.jpg"]).sizes.tolist() == [-1]


def test_empty_object_that_has_no_range(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = ImageRoot(f"memory://{tmp_path.name}")
    put(root, "empty.jpg", b"")
    put(root, "full.jpg", b"x")

    def cat_file(self: object, path: str, start: int | None = None, end: int | None = None) -> bytes:
        raise RuntimeError("416 InvalidRange")

    monkeypatch.setattr(MemoryFileSystem, "cat_file", cat_file)
    assert root.read("empty.jpg", 100) == b""
    with pytest.raises(OSError, match="416 InvalidRange"):
        root.read("full.jpg", 100)


def test_check(root: ImageRoot, tmp_path: Path) -> None:
    root.check()
    with pytest.raises(InputError, match=r"no such folder \(dataset.images\)"):
        ImageRoot(f"{root.url}-not").check()


def test_check_of_what_is_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"")
    with pytest.raises(InputError, match="is a file"):
        ImageRoot(str(tmp_path / "a")).check()
    with pytest.raises(InputError, match=r"nosuch.*dataset.images"):
        ImageRoot("nosuch://bucket").check()

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(InputError, match=r"can't be listed .*: Permission denied"):
        ImageRoot(str(tmp_path)).check()


def test_check_names_what_a_client_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("Unable to locate credentials")

    monkeypatch.setattr(MemoryFileSystem, "isdir", refuse)
    with pytest.raises(InputError, match=r"can't be listed .*: Unable to locate credentials"):
        ImageRoot("memory://x").check()


def test_travels_to_a_worker_and_keeps_secrets(root: ImageRoot) -> None:
    list(root.walk())
    there = pickle.loads(pickle.dumps(root))
    assert there == root
    assert there.read("b.jpg") == b"bb"
    assert "hush" not in repr(ImageRoot("s3://bucket", {"secret": "hush"}))


def test_a_source_of_another_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One module and an entry point: its scheme opens it."""
    (tmp_path / "drawer.py").write_text(
        "from camtrap_batch.images.sources.disk import Disk\n"
        "class Drawer(Disk):\n"
        "    @classmethod\n"
        "    def open(cls, url, options):\n"
        "        return cls(options['cupboard'] + '/' + url.removeprefix('drawer://'))\n"
    )
    about = tmp_path / "drawer-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: drawer\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[camtrap_batch.sources]\ndrawer = drawer:Drawer\n")
    photos = tmp_path / "cupboard" / "photos"
    photos.mkdir(parents=True)
    (photos / "a.jpg").write_bytes(b"a")
    program = (
        "import sys; from camtrap_batch.images import ImageRoot\n"
        "root = ImageRoot('drawer://photos', {'cupboard': sys.argv[1]})\n"
        "root.check(); print(list(root.walk()), root.read('a.jpg'))\n"
    )
    paths = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "cupboard")],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stderr, done.stdout) == ("", "['a.jpg'] b'a'\n")


def test_an_empty_folder_is_no_root(tmp_path: Path) -> None:
    """As an unmounted disk leaves it, with or without what the system puts on each disk."""
    for name in ("", "lost+found"):
        (tmp_path / "mount" / name).mkdir(parents=True)
        with pytest.raises(InputError, match=r"mount: is an empty folder \(dataset.images\); is the disk"):
            ImageRoot(str(tmp_path / "mount")).check()
    (tmp_path / "mount" / "cam1").mkdir()
    ImageRoot(str(tmp_path / "mount")).check()


def test_a_zip_where_files_can_not_be_read_in_parts() -> None:
    with pytest.raises(InputError, match="can't be read in parts"):
        ImageRoot("zip://a::attachments://x.zip").check()
