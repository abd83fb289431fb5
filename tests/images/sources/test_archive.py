"""Images in a zip file: on disk, on a web server, in a bucket; whole, damaged and made to harm."""

from __future__ import annotations

import logging
import pickle
import random
import struct
import tracemalloc
import unicodedata
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest
import s3fs
from hypothesis import given, settings
from hypothesis import strategies as st
from support_http import web_server

from camtrap_batch import remote
from camtrap_batch.errors import InputError
from camtrap_batch.images import ImageRoot
from camtrap_batch.images.sources.archive import ENTRY
from camtrap_batch.notices import LOGGER

NOISE = random.Random(0).randbytes(50_000)
FILES = {
    "cam1/a.jpg": b"one" * 1000,
    "cam1/b.jpg": NOISE,
    "cam2/ü 猫.jpg": b"two",
    "cam2/empty.jpg": b"",
    "top.jpg": b"top",
    "cam1/.x/h.jpg": b"h",
}


def write_zip(path: Path, files: dict[str, bytes] = FILES, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.mkdir("cam1") if "cam1/a.jpg" in files else None
        for name, data in files.items():
            archive.writestr(name, data)
    return path


@pytest.fixture(params=["disk", "web", "bucket"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ImageRoot]:
    """The same zip in each place."""
    path = write_zip(tmp_path / "photos.ZIP")
    if request.param == "disk":
        yield ImageRoot(str(path))
    elif request.param == "web":
        with web_server(tmp_path) as server:
            yield ImageRoot(f"{server.url()}/photos.ZIP?sig=hush")
    else:
        bucket = request.getfixturevalue("bucket")
        s3fs.S3FileSystem().put_file(str(path), f"{bucket}/x/photos.zip")
        yield ImageRoot(f"{bucket}/x/photos.zip")


def entries_of(root: ImageRoot, names: list[str]) -> list[dict[str, int] | None]:
    entries = root.listing(names).entries
    assert entries is not None
    found: list[dict[str, int] | None] = entries.to_pylist()
    return found


def test_listing(root: ImageRoot) -> None:
    root.check()
    names = [
        "top.jpg",
        "no.jpg",
        "cam1/a.jpg",
        "cam2/ü 猫.jpg",
        "cam2/empty.jpg",
        "cam1",
        "cam1/",
        "../top.jpg",
    ]
    listing = root.listing([*names, "top.jpg"])
    assert listing.sizes.tolist() == [3, -1, 3000, 3, 0, -1, -1, -1, 3]
    assert [version is not None for version in listing.modified] == [size >= 0 for size in listing.sizes]
    assert len(set(listing.modified)) == 5
    assert listing.entries is not None
    assert listing.entries.type == ENTRY
    assert [entry is not None for entry in listing.entries.to_pylist()] == [
        size >= 0 for size in listing.sizes
    ]


def test_read(root: ImageRoot) -> None:
    names = list(FILES)
    for name, entry in zip(names, entries_of(root, names), strict=True):
        for known in (entry, None):
            assert root.read(name, entry=known) == FILES[name]
            assert root.read(name, 10**9, known) == FILES[name]
            assert root.read(name, len(FILES[name]), known) == FILES[name]
            assert root.read(name, 1, known) == FILES[name][:2]
    for name in ("no.jpg", "cam1"):
        with pytest.raises(FileNotFoundError):
            root.read(name)
    with pytest.raises(ValueError, match="not a path inside"):
        root.read("../top.jpg")
    assert pickle.loads(pickle.dumps(root)).read("top.jpg") == b"top"


def test_walk(root: ImageRoot) -> None:
    assert list(root.walk()) == sorted(name for name in FILES if "/.x/" not in name)


@pytest.mark.parametrize("second", ["cam1/a.jpg", "./cam1/a.jpg", "cam1\\a.jpg", "cam1//a.jpg"])
def test_of_several_files_with_one_name_the_last_counts(
    second: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("./", b"")
        archive.writestr("cam1/a.jpg", b"first")
        archive.writestr("cam1/b.jpg", b"other")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the name that is there already
            archive.writestr(second, b"second")
            archive.writestr("cam1/a.jpg", b"third")
    caplog.set_level(logging.WARNING, LOGGER.name)
    root = ImageRoot(str(tmp_path / "x.zip"))
    assert list(root.walk()) == ["cam1/a.jpg", "cam1/b.jpg"]
    assert root.read("cam1/a.jpg") == b"third"
    assert caplog.messages == [
        f"{root.url}: 2 files left out, as a later one in the zip has the same name: 'cam1/a.jpg'"
    ]


def test_names_as_programs_write_them(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name in ("./", "card\\", "./cam1/a.jpg", "././cam1/./b.jpg", "card\\cam2\\c.jpg"):
            archive.writestr(name, b"x" if name.endswith("jpg") else b"")
    assert list(ImageRoot(str(tmp_path / "x.zip")).walk()) == ["cam1/a.jpg", "cam1/b.jpg", "card/cam2/c.jpg"]


def test_accents_encoded_in_two_ways_are_two_files(tmp_path: Path) -> None:
    names = sorted(unicodedata.normalize(form, "café.jpg") for form in ("NFC", "NFD"))
    write_zip(tmp_path / "x.zip", dict.fromkeys(names, b"x"))
    assert list(ImageRoot(str(tmp_path / "x.zip")).walk()) == names


def test_reads_at_once(root: ImageRoot) -> None:
    assert root.reads_at_once == (32 if "://" in root.url else 4)


def test_a_member_is_one_request(tmp_path: Path) -> None:
    write_zip(tmp_path / "x.zip")
    with web_server(tmp_path) as server:
        root = ImageRoot(f"{server.url()}/x.zip")
        entry = entries_of(root, ["cam1/b.jpg"])[0]
        before = len(server.requests())
        assert root.read("cam1/b.jpg", 10**6, entry) == NOISE
        ((_, _, asked),) = server.requests()[before:]
        assert asked is not None
        first, _, last = asked.removeprefix("bytes=").partition("-")
        assert int(last) - int(first) < len(NOISE) + 2000


def test_a_server_that_fails_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(remote._POLICY, "wait_initial", 0.01)
    write_zip(tmp_path / "x.zip")
    with web_server(tmp_path) as server:
        for fault in ("503x2", "cutx2"):
            root = ImageRoot(f"{server.url(fault)}/x.zip")
            assert root.listing(["top.jpg"]).sizes.tolist() == [3], fault
            assert root.read("cam1/b.jpg") == NOISE
        with pytest.raises(InputError, match="sends no part of a file"):
            ImageRoot(f"{server.url('norangex99')}/x.zip").listing(["top.jpg"])
        with pytest.raises(InputError, match=r"x\.zip: can't be read.*does not reveal its size"):
            ImageRoot(f"{server.url('quietx99')}/x.zip").check()
        with pytest.raises(InputError, match=r"no\.zip: no such file"):
            ImageRoot(f"{server.url()}/no.zip").check()


def test_what_to_check(tmp_path: Path) -> None:
    write_zip(tmp_path / "x.zip")
    with web_server(tmp_path) as server:
        root = ImageRoot(f"{server.url('403x99')}/x.zip?sig=hush")
        for ask in (root.check, lambda: root.listing(["a.jpg"])):
            with pytest.raises(
                InputError, match=r"x\.zip \(dataset\.images\): access denied \(403\); check"
            ) as caught:
                ask()
            assert "hush" not in str(caught.value)
    with pytest.raises(InputError, match=r"s3://no-such-bucket/x\.zip \(dataset\.images\): "):
        ImageRoot("s3://no-such-bucket/x.zip", {"anon": True, "endpoint_url": "http://127.0.0.1:1"}).check()


def test_a_folder_that_holds_all_may_be_left_out(tmp_path: Path) -> None:
    files = {f"photos/{name}": data for name, data in FILES.items()}
    root = ImageRoot(
        str(write_zip(tmp_path / "x.zip", {**files, "__MACOSX/photos/._a": b"", ".DS_Store": b""}))
    )
    listing = root.listing(["photos/top.jpg", "top.jpg", "cam1/a.jpg", "no.jpg"])
    assert listing.sizes.tolist() == [3, 3, 3000, -1]
    assert root.read("top.jpg") == root.read("photos/top.jpg") == b"top"
    assert "photos/top.jpg" in list(root.walk())


def test_a_folder_inside(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "x.zip")
    root = ImageRoot(f"zip://cam1::{path}")
    root.check()
    assert list(root.walk()) == ["a.jpg", "b.jpg"]
    assert root.listing(["a.jpg", "top.jpg"]).sizes.tolist() == [3000, -1]
    assert root.read("b.jpg") == NOISE
    assert ImageRoot(f"zip://::{path}").read("top.jpg") == b"top"
    with pytest.raises(InputError, match="should be zip://FOLDER::URL"):
        ImageRoot(f"zip://{path}").check()


def test_a_member_that_leads_out_of_the_zip_is_listed(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("cam/a.jpg", "../evil.jpg", ".hidden/b.jpg"):
            archive.writestr(name, b"jpeg")
    root = ImageRoot(str(tmp_path / "a.zip"))
    assert sorted(root.walk()) == ["../evil.jpg", "cam/a.jpg"]
    listing = root.listing(["../evil.jpg"])
    assert listing.sizes.tolist() == [-1]
    with pytest.raises(ValueError, match="not a path inside the image root"):
        root.read("../evil.jpg")


def test_a_folder_that_is_called_zip(tmp_path: Path) -> None:
    (tmp_path / "x.zip").mkdir()
    (tmp_path / "x.zip" / "a.jpg").write_bytes(b"a")
    assert ImageRoot(str(tmp_path / "x.zip")).read("a.jpg") == b"a"


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_methods(tmp_path: Path, method: int) -> None:
    root = ImageRoot(str(write_zip(tmp_path / "x.zip", method=method)))
    for name, data in FILES.items():
        assert root.read(name) == data
        assert root.read(name, 100) == data[:101]


def test_a_method_that_is_not_known(tmp_path: Path) -> None:
    root = ImageRoot(str(write_zip(tmp_path / "x.zip", method=zipfile.ZIP_BZIP2)))
    assert root.listing(["top.jpg"]).sizes.tolist() == [3]
    with pytest.raises(
        OSError, match=r"packed by method 12 \(bzip2\) in the zip; possible: stored, deflated"
    ):
        root.read("top.jpg")


def test_zip64_and_names_longer_than_usual(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 10)
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 100)
    files = {f"cam/{number}.jpg": bytes([number]) * 200 for number in range(50)} | {
        f"{'d/' * 400}x.jpg": NOISE
    }
    write_zip(tmp_path / "x.zip", files)
    assert b"PK\x06\x06" in (tmp_path / "x.zip").read_bytes()
    monkeypatch.undo()
    root = ImageRoot(str(tmp_path / "x.zip"))
    for name, data in files.items():
        assert root.read(name) == data


def test_names_in_old_code_pages(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "x.zip", {"caf_.jpg": b"1", "t__.jpg": b"2"})
    # Without the flag for UTF-8: one name in cp437, one that is UTF-8 nevertheless.
    data = path.read_bytes().replace(b"caf_.jpg", b"caf\x82.jpg").replace(b"t__.jpg", "tü.jpg".encode())
    path.write_bytes(data)
    root = ImageRoot(str(path))
    assert list(root.walk()) == ["café.jpg", "tü.jpg"]
    assert (root.read("café.jpg"), root.read("tü.jpg")) == (b"1", b"2")


def test_a_damaged_member(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "x.zip", method=zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    data[data.index(NOISE) + 100] ^= 1
    path.write_bytes(data)
    root = ImageRoot(str(path))
    with pytest.raises(OSError, match=r"^fails the zip's own checksum$"):
        root.read("cam1/b.jpg")
    assert root.read("cam1/a.jpg") == FILES["cam1/a.jpg"]


def test_a_member_that_does_not_unpack(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "x.zip", {"a.jpg": b"abc" * 9999})
    entry = entries_of(ImageRoot(str(path)), ["a.jpg"])[0]
    assert entry is not None
    data = bytearray(path.read_bytes())
    data[entry["offset"] + 35] = 0xFF
    path.write_bytes(data)
    with pytest.raises(OSError, match=r"damaged in the zip|checksum|cut off"):
        ImageRoot(str(path)).read("a.jpg")


def test_an_encrypted_member(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "x.zip", {"a.jpg": b"abc"})
    data = bytearray(path.read_bytes())
    data[6] |= 1  # the flag in its header
    path.write_bytes(data)
    with pytest.raises(OSError, match=r"^is encrypted in the zip$"):
        ImageRoot(str(path)).read("a.jpg")


def test_a_bomb(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("bomb.jpg", "w") as member:
        for _ in range(300):
            member.write(bytes(2**20))
    root = ImageRoot(str(path))
    entry = entries_of(root, ["bomb.jpg"])[0]
    tracemalloc.start()
    try:
        assert len(root.read("bomb.jpg", 1_000_000, entry)) == 1_000_001
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


def test_a_bomb_that_lies_about_its_size(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "x.zip", {"a.jpg": bytes(10**6)})
    data = path.read_bytes().replace(struct.pack("<L", 10**6), struct.pack("<L", 10))
    path.write_bytes(data)
    root = ImageRoot(str(path))
    assert root.listing(["a.jpg"]).sizes.tolist() == [10]
    assert len(root.read("a.jpg", 1000)) == 1001


def test_a_zip_that_has_changed_since_it_was_listed(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "x.zip")
    root = ImageRoot(str(path))
    before, entry = root.listing(["top.jpg"]), entries_of(root, ["top.jpg"])[0]
    write_zip(path, {"first.jpg": NOISE[:777], "top.jpg": b"bottom"})
    with pytest.raises(OSError, match=r"has it changed|checksum"):
        root.read("top.jpg", entry=entry)
    after = root.listing(["top.jpg"])
    assert after.sizes.tolist() == [6]
    assert after.modified != before.modified
    assert root.read("top.jpg") == b"bottom"


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-30],
        lambda data: data[: len(data) // 2],
        lambda data: b"",
        lambda data: b"PK\3\4 not a zip" + bytes(1000),
        lambda data: data[:-100] + bytes(20) + data[-80:],
    ],
    ids=["end", "half", "empty", "other", "directory"],
)
def test_no_whole_zip(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = write_zip(tmp_path / "x.zip")
    path.write_bytes(damage(path.read_bytes()))
    root = ImageRoot(str(path))
    with pytest.raises(
        InputError, match=r"x\.zip: is not a whole zip file \(dataset\.images\): .*`unzip -t`"
    ):
        root.listing(["top.jpg"])


def test_no_zip(tmp_path: Path) -> None:
    root = ImageRoot(str(tmp_path / "x.zip"))
    for ask in (root.check, lambda: root.listing(["a.jpg"]), lambda: list(root.walk())):
        with pytest.raises(InputError, match=r"x\.zip: no such file \(dataset\.images\)"):
            ask()
    with pytest.raises(OSError, match="no such file"):
        root.read("a.jpg")


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0\\"), min_size=1, max_size=30).filter(
    lambda name: not name.endswith("/")
)


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(NAMES, st.binary(max_size=2000), max_size=8), st.booleans())
def test_whatever_zipfile_writes_is_read(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes], deflated: bool
) -> None:
    path = tmp_path_factory.mktemp("zips") / "x.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if deflated else zipfile.ZIP_STORED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    root = ImageRoot(str(path))
    listing = root.listing(list(files))
    assert isinstance(listing.entries, pa.StructArray)
    for name, size, entry in zip(files, listing.sizes, listing.entries.to_pylist(), strict=True):
        if size >= 0:
            assert root.read(name, entry=entry) == root.read(name) == files[name]
        else:
            with pytest.raises(ValueError, match="not a path inside"):
                root.read(name)
