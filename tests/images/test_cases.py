"""Small files that were once judged wrongly (tests/data/cases)."""

from __future__ import annotations

import csv
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support_shapes import bits, jpeg, segment

from camtrap_batch.images import Limits, judge
from camtrap_batch.images.jpeg.baseline import decode_baseline, is_sound_baseline

CASES = Path(__file__).parents[1] / "data" / "cases"


@pytest.mark.parametrize(
    ("name", "statuses"),
    [
        ("v1_huffman_allones_1024.jpg", {"corrupt"}),
        ("sampling_1x4.jpg", {"ok"}),
        ("sampling_4x2.jpg", {"ok"}),
        ("four_components_ok.jpg", {"ok"}),
        ("png_200MP_1col.png", {"corrupt"}),
        ("webp_200MP_lossless.webp", {"too_large"}),
        ("jpg_prog_200MP_444_nodata.jpg", {"corrupt"}),
        ("tif_group4_stderr_ok.tif", {"damaged"}),
    ],
)
def test_case(name: str, statuses: set[str]) -> None:
    for thumbnail in (0, 256):
        verdict = judge((CASES / name).read_bytes(), name, Limits(thumbnail=thumbnail))
        assert verdict.status in statuses
        assert (verdict.detail is None) == (verdict.status == "ok")


def jpeginfo(data: bytes, folder: Path) -> str:
    if (program := shutil.which("jpeginfo")) is None:
        pytest.skip("jpeginfo, which says what is true of a JPEG file, is not installed")
    (folder / "a.jpg").write_bytes(data)
    told = subprocess.run([program, "-c", "-s", str(folder / "a.jpg")], capture_output=True, text=True)
    return next(csv.reader([told.stdout]))[-2]


@pytest.mark.parametrize("side", [65_500, 65_501, 65_535])
@pytest.mark.parametrize("turned", [False, True])
def test_the_longest_side_that_libjpeg_takes(side: int, turned: bool, tmp_path: Path) -> None:
    data = jpeg((8, side) if turned else (side, 8), samplings=(0x11,), part=1)
    is_ok = side == 65_500
    assert (judge(data, "a.jpg", Limits(thumbnail=0)).status == "ok") == is_ok
    assert (decode_baseline(data, 1) is not None) == is_ok
    assert (jpeginfo(data, tmp_path) == "OK") == is_ok


@pytest.mark.parametrize(
    "samplings",
    [(0x41, 0x11, 0x11), (0x14, 0x11, 0x11), (0x42, 0x21, 0x11), (0x22, 0x21, 0x12), (0x11, 0x22, 0x22),
     (0x12, 0x11, 0x12), (0x31, 0x11, 0x11), (0x21, 0x21, 0x21), (0x44, 0x11, 0x11)],
)  # fmt: skip
def test_any_sampling_is_judged_as_libjpeg_does(samplings: tuple[int, ...], tmp_path: Path) -> None:
    data = jpeg((200, 120), samplings=samplings, part=1)
    theirs = jpeginfo(data, tmp_path)
    assert (judge(data, "a.jpg", Limits(thumbnail=64)).status == "ok") == (theirs == "OK")
    cut = data[:-12] + data[-2:]
    assert jpeginfo(cut, tmp_path) != "OK"
    assert judge(cut, "a.jpg", Limits(thumbnail=64)).status != "ok"


@pytest.mark.parametrize("samplings", [(0x14, 0x11, 0x11), (0x41, 0x11, 0x11), (0x12, 0x12, 0x12)])
def test_an_odd_sampling_in_a_progressive_file(samplings: tuple[int, ...], tmp_path: Path) -> None:
    data = jpeg((200, 120), marker=0xC2, samplings=samplings, part=1)
    verdict = judge(data, "a.jpg", Limits(thumbnail=64))
    assert (verdict.status, verdict.detail, jpeginfo(data, tmp_path)) == ("ok", None, "OK")
    cut = data[:-12] + data[-2:]
    assert jpeginfo(cut, tmp_path) != "OK"
    verdict = judge(cut, "a.jpg", Limits(thumbnail=64))
    assert verdict.status != "ok"
    assert len(str(verdict.detail)) > 10


@pytest.mark.parametrize("marker", [0xC4, 0xDB, 0xDD, 0xE5, 0xFE])
@pytest.mark.parametrize("length", [0, 1])
def test_a_segment_shorter_than_its_own_length(marker: int, length: int, tmp_path: Path) -> None:
    data = jpeg((160, 160), samplings=(0x11,), part=1)
    short = data[:2] + bytes([0xFF, marker, 0, length]) + data[2:]
    if jpeginfo(short, tmp_path) != "OK":
        assert judge(short, "a.jpg", Limits(thumbnail=0)).status != "ok"
    assert decode_baseline(data, 1) is not None
    assert decode_baseline(short, 1) is None


def test_means_beyond_what_libjpeg_counts(tmp_path: Path) -> None:
    """Each block adds 2047 to the one before: after a million of them 32 bits are too few."""
    width, height = 65_496, 1120
    data = b"\xff\xd8" + segment(0xDB, b"\0" + b"\1" * 64)
    data += segment(0xC0, bytes([8, *height.to_bytes(2, "big"), *width.to_bytes(2, "big"), 1, 1, 0x11, 0]))
    data += segment(0xC4, b"\0" + bytes([1, *[0] * 15, 11])) + segment(
        0xC4, b"\x10" + bytes([1, *[0] * 15, 0])
    )
    data += segment(0xDA, bytes([1, 1, 0, 0, 63, 0]))
    eight_blocks = bits([(0, 1), (2047, 11), (0, 1)] * 8)
    data += eight_blocks * (width // 8 * height // 8 // 8) + b"\xff\xd9"
    assert jpeginfo(data, tmp_path) != "OK"
    assert judge(data, "a.jpg", Limits(thumbnail=0)).status != "ok"
    assert not is_sound_baseline(data)


def test_three_samples_for_two() -> None:
    """jpeginfo, which looks at luma, says OK; no libjpeg makes a picture of it in colour."""
    data = jpeg((200, 120), samplings=(0x31, 0x21, 0x11), part=1)
    assert judge(data, "a.jpg", Limits()).status == "corrupt"
    assert not is_sound_baseline(data)


def test_an_odd_sampling_in_a_damaged_file(encode: Callable[..., bytes]) -> None:
    data = (CASES / "sampling_4x2.jpg").read_bytes()
    middle = len(data) // 2
    verdict = judge(data[:middle] + bytes(400) + data[middle + 400 :], "a.jpg", Limits())
    assert verdict.status in ("damaged", "corrupt")
    assert "sampling" in str(verdict.detail)
