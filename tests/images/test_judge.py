"""Every status that a file's bytes can give, and what is recorded of an image."""

from __future__ import annotations

import csv
import dataclasses
import datetime as dt
import hashlib
import importlib
import io
import itertools
import random
import shutil
import struct
import subprocess
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from camtrap_batch.images import Limits, Verdict, judge
from camtrap_batch.rehearsal.fuzz import spoilt_copies
from camtrap_batch.stages.validate import manifest_rows
from camtrap_batch.store.schemas import MANIFEST
from camtrap_batch.vocabulary import STATUSES, USABLE

LIMITS = Limits()
SIGNATURES = [
    b"\xff\xd8\xff\xe1",
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
    b"GIF89a",
    b"II*\0\x08\0\0\0",
    b"MM\0*\0\0\0\x08",
    b"BM\x36\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0",
    b"RIFF\xff\0\0\0WEBPVP8 ",
]
STATES = {"ok", "truncated", "damaged", "corrupt", "empty_file", "not_image", "video", "too_large"}


def check(verdict: Verdict, data: bytes) -> None:
    """What holds for every verdict."""
    assert verdict.status in STATES <= set(STATUSES)
    assert verdict.bytes == len(data)
    assert verdict.sha256 == hashlib.sha256(data).hexdigest()
    usable = verdict.status in USABLE
    for field in ("width", "height", "mode", "dhash", "is_night", "thumbnail"):
        if usable:
            assert getattr(verdict, field) is not None, field
    for field in ("dhash", "is_night", "thumbnail"):
        if not usable:
            assert getattr(verdict, field) is None, field
    assert (verdict.status == "ok") <= (verdict.detail is None)
    assert (verdict.status in ("truncated", "damaged", "corrupt", "too_large")) <= bool(verdict.detail)
    if verdict.detail is not None:
        assert "\n" not in verdict.detail
        verdict.detail.encode()


def judged(data: bytes, file_name: str = "a.jpg", limits: Limits = LIMITS) -> Verdict:
    verdict = judge(data, file_name, limits)
    check(verdict, data)
    return verdict


def png_header(width: int, height: int) -> bytes:
    """A PNG file of a size that has hardly any picture."""

    def chunk(name: bytes, content: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + crc

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    picture = chunk(b"IDAT", zlib.compress(bytes(100)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + picture + chunk(b"IEND", b"")


def jpeg_field(data: bytes, offset: int, value: bytes) -> bytes:
    """A JPEG file with other bytes in its frame header."""
    at = data.index(b"\xff\xc0") + offset
    return data[:at] + value + data[at + len(value) :]


def test_ok(encode: Callable[..., bytes]) -> None:
    data = encode()
    verdict = judged(data)
    assert (verdict.status, verdict.format, verdict.mode) == ("ok", "JPEG", "RGB")
    assert (verdict.width, verdict.height, verdict.is_night) == (640, 480, False)
    assert verdict.thumbnail is not None
    assert (verdict.thumbnail.width, verdict.thumbnail.height) == (341, 256)


@pytest.mark.parametrize("kind", ["PNG", "GIF", "TIFF", "BMP", "WEBP", "JPEG2000", "AVIF"])
def test_ok_in_other_formats(encode: Callable[..., bytes], kind: str) -> None:
    verdict = judged(encode(kind), "whatever.jpg")
    assert (verdict.status, verdict.format, verdict.width, verdict.height) == ("ok", kind, 640, 480)


@pytest.mark.parametrize(
    "tail", [bytes(4096), b"\xff" * 100, b"<!-- a comment -->", random.Random(1).randbytes(999)]
)
def test_bytes_behind_the_end_are_no_damage(encode: Callable[..., bytes], tail: bytes) -> None:
    assert judged(encode() + tail).status == "ok"


@pytest.mark.parametrize("mode", ["CMYK", "L"])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_of_other_modes(
    encode: Callable[..., bytes], picture: Image.Image, mode: str, progressive: bool
) -> None:
    verdict = judged(encode("JPEG", picture.convert(mode), progressive=progressive))
    assert (verdict.status, verdict.mode, verdict.is_night) == ("ok", mode, mode == "L")


@pytest.mark.parametrize("part", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF"])
def test_truncated(encode: Callable[..., bytes], kind: str, part: float) -> None:
    data = encode(kind)
    verdict = judged(data[: int(len(data) * part)])
    assert (verdict.status, verdict.format, verdict.width) == ("truncated", kind, 640)


def test_a_jpeg_without_its_end_marker_is_truncated(encode: Callable[..., bytes]) -> None:
    assert judged(encode()[:-2]).status == "truncated"


def test_damaged(encode: Callable[..., bytes]) -> None:
    data = encode(quality=95)
    middle = len(data) // 2
    verdict = judged(data[:middle] + bytes(2000) + data[middle + 2000 :])
    assert verdict.status == "damaged"
    assert "Corrupt JPEG data" in str(verdict.detail)
    png = encode("PNG")
    assert judged(png[:9000] + bytes(50) + png[9050:]).status == "damaged"


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:300],
        lambda data: data[:2] + bytes(len(data) - 2),
        lambda data: data[: data.index(b"\xff\xda") + 14],
        lambda data: b"junk" + data,
        lambda data: bytes(len(data)),
        lambda data: jpeg_field(data, 5, bytes(2)),
        lambda data: jpeg_field(data, 7, bytes(2)),
        lambda data: jpeg_field(data, 4, b"\x0c"),
    ],
    ids=["header", "zeros", "no-stream", "junk", "all-zeros", "no-height", "no-width", "12-bit"],
)
@pytest.mark.parametrize("size", [(640, 480), (160, 120)])
def test_corrupt_jpeg(
    encode: Callable[..., bytes],
    picture: Image.Image,
    damage: Callable[[bytes], bytes],
    size: tuple[int, int],
) -> None:
    data = damage(encode("JPEG", picture.resize(size)))
    for thumbnail in (0, 60, 256):
        assert judge(data, "a.jpg", Limits(thumbnail=thumbnail)).status == "corrupt"
    judged(data)


def test_one_row_of_blocks_is_usable(encode: Callable[..., bytes]) -> None:
    data = encode()
    header = data.index(b"\xff\xda") + 14
    assert judged(data[: header + (len(data) - header) // 20]).status == "truncated"


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "AVIF"])
def test_corrupt_file_of_another_format_keeps_its_format(encode: Callable[..., bytes], kind: str) -> None:
    options = {"compression": "tiff_lzw"} if kind == "TIFF" else {}
    data = encode(kind, **options)
    verdict = judged(data[: 30 if kind == "PNG" else len(data) // 2], "no suffix")
    assert (verdict.status, verdict.format) == ("corrupt", kind)
    assert "BytesIO" not in str(verdict.detail)


def test_zero_pixels_are_corrupt() -> None:
    assert judged(png_header(0, 100)).status == "corrupt"
    assert judged(png_header(100, 0)).status == "corrupt"


def test_text_that_unpacks_to_too_much_is_corrupt(encode: Callable[..., bytes]) -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "x" * 2**21, zip=True)
    verdict = judged(encode("PNG", pnginfo=text))
    assert (verdict.status, verdict.format) == ("corrupt", "PNG")
    assert "Decompressed data too large" in str(verdict.detail)


def test_empty_file() -> None:
    assert judged(b"").status == "empty_file"


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"<html><body>Sign in</body></html>", "HTML"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "text"),
        (b"\0\0\0\x1cftypheic\0\0\0\0mif1heic" + bytes(500), "HEIF"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "text"),
    ],
)
def test_not_image_whatever_its_name(data: bytes, kind: str) -> None:
    for name in ("a.jpg", "a.avi", "a"):
        verdict = judged(data, name)
        assert (verdict.status, verdict.format) == ("not_image", kind)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"RIFF\x10\0\0\0AVI LIST" + bytes(500), "AVI"),
        (b"\0\0\0\x20ftypisom" + bytes(500), "MP4"),
        (b"\0\0\0\x14ftypqt  " + bytes(500), "MOV"),
        (b"\x1a\x45\xdf\xa3" + bytes(500), "MKV"),
        (b"\0\0\x01\xba" + bytes(500), "MPEG"),
        ((b"\x47" + bytes(187)) * 5, "MPEG-TS"),
        ((b"\0\0\x12\x34\x47" + bytes(187)) * 5, "MPEG-TS"),
    ],
)
def test_a_video_whatever_its_name(data: bytes, kind: str) -> None:
    for name in ("a.jpg", "a.avi", "a"):
        verdict = judged(data, name)
        assert (verdict.status, verdict.format, verdict.detail) == ("video", kind, None)


def test_sound_is_no_video() -> None:
    assert judged(b"RIFF\x10\0\0\0WAVEfmt " + bytes(500), "a.avi").status == "not_image"


def test_unknown_bytes_are_corrupt_where_the_name_promises_an_image() -> None:
    data = bytes(5000)
    assert [judged(data, name).status for name in ("a.JPG", "b.Tiff", "c.avi", "d")] == [
        "corrupt", "corrupt", "not_image", "not_image",
    ]  # fmt: skip


def test_too_large_is_not_decoded(encode: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(*_: object, **__: object) -> None:
        raise AssertionError("was decoded")

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", decode)
    monkeypatch.setattr(simplejpeg, "decode_jpeg", decode)
    limits = Limits(max_pixels=640 * 480 - 1)
    for kind in ("JPEG", "PNG"):
        verdict = judged(encode(kind), limits=limits)
        assert (verdict.status, verdict.width, verdict.height) == ("too_large", 640, 480)
        assert "640 x 480" in str(verdict.detail)
    assert judged(png_header(60_000, 60_000)).status == "too_large"


def test_the_limit_itself_is_not_too_large(encode: Callable[..., bytes]) -> None:
    assert judged(encode(), limits=Limits(max_pixels=640 * 480)).status == "ok"


def test_pillows_own_limit_does_not_count(encode: Callable[..., bytes]) -> None:
    image = Image.new("1", (16_000, 12_000))
    assert judged(encode("PNG", image), limits=Limits(max_pixels=10**9)).status == "ok"


def test_sizes_beyond_the_columns() -> None:
    tags = ((256, 4, 1, 2**32 - 1), (257, 4, 1, 2**32 - 1), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1),
            (273, 4, 1, 8), (277, 3, 1, 1), (278, 4, 1, 2**32 - 1), (279, 4, 1, 100))  # fmt: skip
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    verdict = judged(b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + bytes(4), "a.tif")
    assert verdict.status in ("too_large", "corrupt")
    assert verdict.width is None or verdict.width < 2**31


def test_no_memory_is_too_large(encode: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    def load(_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", load)
    assert judged(encode("PNG")).status == "too_large"


def test_no_thumbnail_where_none_is_wanted(encode: Callable[..., bytes]) -> None:
    for kind in ("JPEG", "PNG"):
        verdict = judge(encode(kind), "a.jpg", Limits(thumbnail=0))
        assert (verdict.status, verdict.thumbnail) == ("ok", None)
        assert verdict.dhash is not None


def test_hash_hardly_depends_on_format_and_thumbnail(encode: Callable[..., bytes]) -> None:
    files = [encode(), encode(quality=50), encode("PNG"), encode(progressive=True)]
    hashes = [judge(data, "a", Limits(thumbnail=size)).dhash or 0 for data in files for size in (0, 256, 480)]
    assert max((one ^ other).bit_count() for one, other in itertools.combinations(hashes, 2)) <= 6


@pytest.mark.parametrize("orientation", range(1, 9))
def test_thumbnail_is_upright_and_size_is_the_files(
    with_exif: Callable[..., bytes], red_left_blue_top: np.ndarray, orientation: int
) -> None:
    field = (274, 3, 1, struct.pack("<H", orientation))
    verdict = judged(
        with_exif([field], image=Image.fromarray(red_left_blue_top)), limits=Limits(thumbnail=60)
    )
    assert (verdict.width, verdict.height) == (90, 60)
    assert verdict.thumbnail is not None
    turned = orientation >= 5
    assert (verdict.thumbnail.width, verdict.thumbnail.height) == ((60, 90) if turned else (90, 60))
    assert verdict.thumbnail.scale == 1
    small = Image.open(io.BytesIO(verdict.thumbnail.jpeg))
    # The black corner: where the first row and the first column of the file meet.
    right, bottom = orientation in (2, 3, 6, 7), orientation in (3, 4, 7, 8)
    corner = ((small.width - 8 if right else 7), (small.height - 8 if bottom else 7))
    assert sum(small.getpixel(corner)) < 120  # type: ignore[arg-type]


def test_exif_comes_with_every_jpeg_that_has_a_header(with_exif: Callable[..., bytes]) -> None:
    made, taken = b"RECONYX\0", b"2021:04:11 20:43:09\0"
    data = with_exif([(271, 2, len(made), made)], [(36867, 2, len(taken), taken)])
    pictureless = data[: data.index(b"\xff\xda") + 14]
    for file, status in ((data, "ok"), (data[:-3000], "truncated"), (pictureless, "corrupt")):
        verdict = judged(file)
        assert verdict.status == status
        assert verdict.datetime_exif == dt.datetime(2021, 4, 11, 20, 43, 9)
        assert verdict.camera_make == "RECONYX"


def test_every_verdict_fits_the_manifest(encode: Callable[..., bytes]) -> None:
    import pyarrow as pa

    files = [encode(), b"", encode()[:-500], png_header(2**31 - 1, 2**31 - 1), bytes(9), b"text"]
    verdicts = [judged(data) for data in files]
    verdicts.append(dataclasses.replace(verdicts[0], dhash=2**64 - 1))
    blank = {name: pa.nulls(len(verdicts), MANIFEST.field(name).type) for name in MANIFEST.names}
    rows = manifest_rows(pa.table(blank), verdicts, "thumbnails")
    assert rows["status"].to_pylist() == [verdict.status for verdict in verdicts]
    assert rows["dhash"].to_pylist()[-1] == 2**64 - 1


def real_photos(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() == ".jpg")


def test_real_photos(real_images: Path) -> None:
    """Day or night was told by looking at them."""
    nights = {
        "2480.jpg",
        "2999.jpg",
        "4383.jpg",
        "8786.jpg",
        "african_elephants_bw.jpg",
        "american_black_bear.jpg",
    }
    photos = real_photos(real_images)
    assert len(photos) >= 9
    for path in photos:
        verdict = judged(path.read_bytes(), path.name)
        truncated = path.name == "african_elephants_truncated_file.jpg"
        assert verdict.status == ("truncated" if truncated else "ok"), path.name
        assert verdict.is_night == (path.name in nights or "RCNX" in path.name), path.name
        assert verdict.thumbnail is not None
        assert min(verdict.thumbnail.width, verdict.thumbnail.height) == 256


def test_real_photo_in_full(real_images: Path) -> None:
    verdict = judged((real_images / "google-cameratrapai" / "blank.jpg").read_bytes())
    verdict.thumbnail = verdict.dhash = None
    assert verdict == Verdict(
        "ok",
        format="JPEG",
        mode="RGB",
        width=2048,
        height=1536,
        bytes=409295,
        sha256=verdict.sha256,
        datetime_exif=dt.datetime(2016, 9, 25, 18, 35, 10),
        camera_make="RECONYX",
        camera_model="HC550 HYPERFIRE",
        is_night=False,
    )
    assert str(verdict.sha256).startswith("77a1bd147f6dee4b")


def test_same_photo_turned_is_a_near_duplicate(real_images: Path) -> None:
    folder = real_images / "google-cameratrapai"
    names = (
        "african_elephants.jpg",
        "african_elephants_with_exif_orientation.jpg",
        "african_elephants_bw.jpg",
    )
    if not all((folder / name).exists() for name in names):
        pytest.skip("a photo that is too large for this repository (../shared/real_images) is not there")
    one, turned, grey = (judged((folder / name).read_bytes()).dhash or 0 for name in names)
    assert (one ^ turned).bit_count() <= 6
    assert (one ^ grey).bit_count() <= 6


def test_ok_is_what_jpeginfo_calls_ok(real_images: Path, tmp_path: Path) -> None:
    if (program := shutil.which("jpeginfo")) is None:
        pytest.skip("jpeginfo, which says what is true of a JPEG file, is not installed")
    originals = [path.read_bytes() for path in real_photos(real_images) if path.stat().st_size < 450_000]
    files = dict(enumerate(spoilt_copies(originals, 300, seed=7)))
    truth = {}
    for number, (_, data) in files.items():
        # One run for each: in a run of many, tables of one file are used for the next.
        path = tmp_path / "a.jpg"
        path.write_bytes(data)
        asked = [program, "-c", "-s", str(path)]
        told = subprocess.run(asked, capture_output=True, text=True, check=False).stdout
        truth[number] = next(csv.reader([told]))[-2]
    limits = Limits(max_pixels=2**33, thumbnail=64)
    ours = {number: judged(data, "a.jpg", limits) for number, (_, data) in files.items()}
    disagreements = [
        (number, files[number][0], truth[number], verdict.status, verdict.detail)
        for number, verdict in ours.items()
        if (truth[number] == "OK") != (verdict.status == "ok")
    ]
    assert disagreements == []
    # All would agree, too, if nothing were ever found.
    found = {verdict.status for verdict in ours.values()}
    assert found >= {"ok", "truncated", "damaged", "corrupt", "empty_file"}


@settings(deadline=None, max_examples=150)
@given(st.binary(max_size=600), st.sampled_from(["a.jpg", "a.PNG", "a.avi", "a", "", "\udc80"]))
def test_any_bytes_get_a_verdict(data: bytes, name: str) -> None:
    judged(data, name)


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(SIGNATURES), st.binary(max_size=300))
def test_any_bytes_behind_a_signature_get_a_verdict(signature: bytes, data: bytes) -> None:
    judged(signature + data)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "LZW", "GIF", "WEBP", "BMP", "JPEG2000", "AVIF"])
def test_small_files_with_faults_get_a_verdict(
    picture: Image.Image, encode: Callable[..., bytes], kind: str
) -> None:
    small = picture.resize((40, 30))
    data = encode("TIFF", small, compression="tiff_lzw") if kind == "LZW" else encode(kind, small)
    found = set()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _, mutated in spoilt_copies([data], 150, seed=3):
            found.add(judged(mutated, "a.tif", Limits(max_pixels=10**6)).status)
    assert found >= {"ok", "corrupt", "empty_file"}


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_same_bytes_same_verdict(encode: Callable[..., bytes], data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["JPEG", "PNG", "GIF"]))
    file = bytearray(encode(kind, Image.new("RGB", (32, 24), "red").effect_spread(9)))
    for _ in range(data.draw(st.integers(0, 4))):
        file[data.draw(st.integers(0, len(file) - 1))] = data.draw(st.integers(0, 255))
    assert judged(bytes(file)) == judged(bytes(file))


def test_a_verdict_is_reached_when_a_decoder_fails_oddly(
    encode: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def decode(*_: object) -> None:
        raise RecursionError("deep\nwater")

    monkeypatch.setattr(importlib.import_module("camtrap_batch.images.judge"), "decode_jpeg", decode)
    verdict = judged(encode())
    assert (verdict.status, verdict.detail) == ("corrupt", "deep water")
