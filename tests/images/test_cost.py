"""Cost follows the bytes that are there, and the pixels that are kept, whatever a header claims."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from support_shapes import SHORT_SIZES, SQUARE, jpeg, many_scans, png, shapes

from camtrap_batch.images import Limits, judge
from camtrap_batch.images.cost import MOST_MEMORY, refuse_jpeg
from camtrap_batch.images.jpeg.frame import read_frame

SHAPES = Path(__file__).parents[1] / "support_shapes.py"
pytestmark = pytest.mark.timeout(300)

MOST = 1_000_000_000  # bytes of a process, all told


@pytest.fixture(scope="module")
def costs() -> dict[str, tuple[str, str | None, int]]:
    """Name of each shape -> status, detail and peak memory of the process that judged it."""
    done = subprocess.run([sys.executable, str(SHAPES)], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert all(row[2] for row in rows), [row[0] for row in rows if not row[2]]
    return {name: tuple(said[:3]) for name, _, said in rows}


def test_no_shape_takes_more_than_a_gigabyte(costs: dict[str, tuple[str, str | None, int]]) -> None:
    assert costs.keys() == dict(shapes()).keys()
    assert {name: peak for name, (_, _, peak) in costs.items() if peak > MOST} == {}


def test_what_is_whole_is_decoded(costs: dict[str, tuple[str, str | None, int]]) -> None:
    whole = {name: status for name, (status, *_) in costs.items() if name.endswith("-whole")}
    assert len(whole) >= 12
    assert set(whole.values()) == {"ok"}
    for name, (status, detail, _) in costs.items():
        kind, *rest = name.split("-")
        if kind == "jpeg" and rest[-2:-1] == ["1"]:
            expected = {"ok", "too_large"} if rest[0] == "c2" else {"ok"}
            assert status in expected, (name, detail)


def test_what_can_not_be_there_is_corrupt(costs: dict[str, tuple[str, str | None, int]]) -> None:
    statuses = {name: status for name, (status, *_) in costs.items()}
    assert {status for name, status in statuses.items() if name.startswith("png-8-2")} == {"corrupt"}
    assert {status for name, status in statuses.items() if name.startswith("bmp-24")} == {"corrupt"}
    assert {
        status for name, status in statuses.items() if name.startswith("gif-") and name != "gif-whole"
    } == {"corrupt"}
    assert costs["webp-lossless-huge"][:2] == (
        "too_large",
        "16383 x 12207 pixels as WEBP: decoding takes 3.2 GB",
    )
    assert costs["jpeg-2000-scans-large"][0] == "too_large"
    assert costs["jpeg-2000-scans"][0] == "ok"


def test_a_header_alone_says_why_it_is_not_decoded() -> None:
    verdict = judge(png((1, 200_000_000), 8, 2), "a.png", Limits())
    assert (verdict.status, verdict.width, verdict.height) == ("corrupt", 1, 200_000_000)
    assert str(verdict.detail).endswith("bytes can't hold a tenth of 1 x 200000000 pixels")


@pytest.mark.parametrize("marker", [0xC0, 0xC2])
@pytest.mark.parametrize("size", SHORT_SIZES.values())
def test_what_a_jpeg_file_says_of_itself(size: tuple[int, int], marker: int) -> None:
    frame = read_frame(jpeg(size, marker=marker, part=0))
    assert frame is not None
    assert (frame.width, frame.height, frame.scans) == (*size, 1)
    assert frame.is_buffered == (marker == 0xC2)
    units = -(-size[0] // 16) * -(-size[1] // 16)
    assert frame.blocks == 6 * units


def test_the_scans_of_a_jpeg_file_are_counted() -> None:
    frame = read_frame(many_scans((64, 64), 100))
    assert frame is not None
    assert frame.scans == 100
    assert refuse_jpeg(frame, 10_000) is None


def test_a_frame_behind_rubbish_and_fill_bytes_is_found() -> None:
    data = jpeg((100, 50), part=1)
    start = data.index(b"\xff\xc0")
    frame = read_frame(data[:start] + b"rubbish\xff\0\xff\xd1\xff\xff\xff" + data[start:])
    assert frame is not None
    assert (frame.width, frame.height) == (100, 50)


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xd8", b"\xff\xd8\xff", b"\xff\xd8\xff\xc0\0\x11\x08", b"\xff" * 9]
)
def test_what_has_no_frame(data: bytes) -> None:
    assert read_frame(data) is None


def test_every_cut_of_a_header_has_an_answer() -> None:
    data = jpeg((100, 50), part=1)
    for length in range(len(data)):
        read_frame(data[:length])


def test_memory_of_a_progressive_picture() -> None:
    """libjpeg-turbo holds every coefficient of it, at whatever scale it is read."""
    frame = read_frame(jpeg((SQUARE, SQUARE), marker=0xC2, samplings=(0x11,) * 3, part=1))
    assert frame is not None
    assert frame.coefficient_bytes > MOST_MEMORY
    refusal = refuse_jpeg(frame, 10**8)
    assert refusal is not None
    assert refusal[0] == "too_large"
    assert "1.2 GB" in refusal[1]


def test_a_picture_in_tiles_is_the_picture() -> None:
    """Reduced in several tiles each way, it is what it is in one."""
    from camtrap_batch.images import decode

    image = Image.effect_noise((3001, 2003), 90)
    whole = decode._shrink(image, 100)
    assert whole.shape == (-(-2003 // 10), -(-3001 // 10), 1)
    reduced = image.reduce(10)
    assert reduced.tobytes() == whole.tobytes()


def test_a_thin_picture_keeps_its_form() -> None:
    file = io.BytesIO()
    Image.linear_gradient("L").resize((400_000, 8)).save(file, "PNG")
    verdict = judge(file.getvalue(), "a.png", Limits())
    assert verdict.status == "ok"
    assert verdict.thumbnail is not None
    assert (verdict.thumbnail.width, verdict.thumbnail.height) == (65_500, 1)
