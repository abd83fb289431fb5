from __future__ import annotations

import datetime as dt
import errno
import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import fsspec
import numpy as np
import pytest
import support_video
from support_video import RATE, SIZE, av, shade

from camtrap_batch.images import ImageRoot, Limits
from camtrap_batch.images.judge import judge_frame
from camtrap_batch.images.video import (
    BrokenVideo,
    date_in_name,
    frame_times,
    open_video,
    probe,
    read_frames,
)

KINDS = [
    ("mp4", "mpeg4"),
    ("mp4", "libx264"),
    ("avi", "mjpeg"),
    ("avi", "mpeg4"),
    ("mkv", "libx264"),
    ("mov", "mjpeg"),
]


@pytest.fixture(scope="session")
def make_video() -> Callable[..., bytes]:
    return support_video.make_video


def lightness(pixels: np.ndarray) -> float:
    return float(np.median(pixels))


@pytest.mark.parametrize(("kind", "codec"), KINDS)
def test_what_a_video_says_of_itself(make_video: Callable[..., bytes], kind: str, codec: str) -> None:
    info = probe(io.BytesIO(make_video(kind, codec)))
    assert (info.width, info.height) == SIZE
    assert info.duration_s == pytest.approx(6, abs=0.3)
    assert info.rate == pytest.approx(RATE)


@pytest.mark.parametrize(("kind", "codec"), KINDS)
@pytest.mark.parametrize("times", [[0.0, 1.0, 2.0, 3.0], [0.4, 2.6, 5.8], [5.0], [0.1, 0.15, 0.2]])
def test_the_frame_that_is_shown_at_a_time(
    make_video: Callable[..., bytes], kind: str, codec: str, times: list[float]
) -> None:
    found = list(read_frames(io.BytesIO(make_video(kind, codec)), times))
    assert [frame.video_s for frame in found] == times
    for frame in found:
        assert frame.pixels.shape == (SIZE[1], SIZE[0], 3)
        assert lightness(frame.pixels) == pytest.approx(shade(int(frame.video_s * RATE + 1e-6)), abs=4)


def test_the_last_frame_is_shown_to_its_end(make_video: Callable[..., bytes]) -> None:
    times = [round(0.05 * number, 2) for number in range(20)]  # of a second of five frames
    found = list(read_frames(io.BytesIO(make_video(seconds=1)), times))
    assert [frame.video_s for frame in found] == times
    shown = [round(lightness(frame.pixels)) for frame in found]
    assert shown == pytest.approx([shade(number // 4) for number in range(20)], abs=4)


def test_times_far_apart_are_sought(make_video: Callable[..., bytes]) -> None:
    times = [0.0, 20.0, 40.0]
    found = list(read_frames(io.BytesIO(make_video(seconds=45)), times))
    assert [frame.video_s for frame in found] == times
    for frame in found:
        assert lightness(frame.pixels) == pytest.approx(shade(int(frame.video_s * RATE)), abs=4)


@pytest.mark.parametrize(("kind", "codec"), [("avi", "mjpeg"), ("avi", "mpeg4"), ("mkv", "libx264")])
@pytest.mark.parametrize("part", [0.5, 0.7, 0.9])
def test_a_video_that_is_cut_off_gives_what_there_is(
    make_video: Callable[..., bytes], kind: str, codec: str, part: float
) -> None:
    data = make_video(kind, codec, seconds=60)
    times = frame_times(60.0, 1.0, 100)
    found = list(read_frames(io.BytesIO(data[: int(len(data) * part)]), times))
    assert 10 < len(found) < 60
    assert [frame.video_s for frame in found] == times[: len(found)]
    for frame in found:
        assert lightness(frame.pixels) == pytest.approx(shade(int(frame.video_s * RATE)), abs=4)


@pytest.mark.parametrize("data", [b"", b"text", bytes(5000), b"RIFF\x10\0\0\0AVI LIST" + bytes(3000)])
def test_what_is_no_video(data: bytes) -> None:
    with pytest.raises(BrokenVideo):
        list(read_frames(io.BytesIO(data), [0.0]))
    with pytest.raises(BrokenVideo):
        probe(io.BytesIO(data))


def test_an_mp4_file_whose_index_is_cut_off(make_video: Callable[..., bytes]) -> None:
    data = make_video()
    assert data.index(b"moov") > len(data) // 2
    with pytest.raises(BrokenVideo):
        list(read_frames(io.BytesIO(data[: len(data) // 2]), [0.0]))


def test_sound_alone_is_no_video() -> None:
    file = io.BytesIO()
    with av.open(file, "w", format="mov") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(BrokenVideo, match="no pictures"):
        probe(io.BytesIO(file.getvalue()))


def test_random_faults_end_in_frames_or_in_one_error(make_video: Callable[..., bytes]) -> None:
    randomly = np.random.default_rng(4)
    n_frames = n_broken = 0
    for kind, codec in KINDS:
        data = make_video(kind, codec, seconds=2)
        for _ in range(25):
            spoilt = np.frombuffer(data, np.uint8).copy()
            places = randomly.integers(0, len(spoilt), randomly.integers(1, 30))
            spoilt[places] = randomly.integers(0, 256, len(places))
            try:
                n_frames += len(list(read_frames(io.BytesIO(spoilt.tobytes()), [0.0, 1.0])))
            except BrokenVideo:
                n_broken += 1
    assert n_frames > 50
    assert n_broken > 0


@pytest.fixture(params=["disk", "bucket", "stored", "deflated"])
def root(request: pytest.FixtureRequest, make_video: Callable[..., bytes], tmp_path: Path) -> ImageRoot:
    data = make_video("avi", "mjpeg")
    if request.param == "disk":
        (tmp_path / "cam1").mkdir()
        (tmp_path / "cam1" / "a.avi").write_bytes(data)
        return ImageRoot(str(tmp_path))
    if request.param == "bucket":
        fsspec.filesystem("memory").pipe_file(f"/{tmp_path.name}/cam1/a.avi", data)
        return ImageRoot(f"memory://{tmp_path.name}")
    packed = {"stored": zipfile.ZIP_STORED, "deflated": zipfile.ZIP_DEFLATED}[request.param]
    with zipfile.ZipFile(tmp_path / "a.zip", "w", packed) as archive:
        archive.writestr("cam1/a.avi", data)
    return ImageRoot(str(tmp_path / "a.zip"))


def test_from_wherever_images_are(root: ImageRoot) -> None:
    listing = root.listing(["cam1/a.avi"])
    entry = listing.entries[0].as_py() if listing.entries is not None else None
    with open_video(root, "cam1/a.avi", int(listing.sizes[0]), entry) as file:
        info = probe(file)
    assert info.duration_s == pytest.approx(6, abs=0.3)
    with open_video(root, "cam1/a.avi", int(listing.sizes[0]), entry) as file:
        found = list(read_frames(file, [1.0, 4.0]))
    assert [round(lightness(frame.pixels)) for frame in found] == pytest.approx([shade(5), shade(20)], abs=4)


@pytest.mark.parametrize(("kind", "codec"), KINDS)
def test_a_disk_that_fails_is_not_the_videos_fault(
    make_video: Callable[..., bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    kind: str,
    codec: str,
) -> None:
    (tmp_path / "a").write_bytes(data := make_video(kind, codec, seconds=60))
    monkeypatch.setattr("camtrap_batch.images.video._PART", 4096)
    root, read, left = ImageRoot(str(tmp_path)), ImageRoot.read_part, 0

    def fail_later(root: ImageRoot, file_name: str, start: int, end: int) -> bytes:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.EIO, "Input/output error")
        return read(root, file_name, start, end)

    monkeypatch.setattr(ImageRoot, "read_part", fail_later)
    for look in (probe, lambda file: list(read_frames(file, [0.0, 40.0]))):
        numbers = []
        for reads in range(40):
            left = reads
            with open_video(root, "a", len(data)) as file:
                try:
                    look(file)
                except OSError as problem:
                    numbers.append(problem.errno)
        assert set(numbers) == {errno.EIO}
        assert len(numbers) < 40
    assert "Traceback" not in capfd.readouterr().err


def test_to_learn_how_long_it_is_takes_a_part_of_it(
    make_video: Callable[..., bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_video("mp4", "mpeg4", seconds=60)
    data += b"\0\0\0\x08free" * 2_000_000  # some 16 MB that nobody needs to look at
    (tmp_path / "a.mp4").write_bytes(data)
    root = ImageRoot(str(tmp_path))
    read, asked = ImageRoot.read_part, []

    def counted(root: ImageRoot, file_name: str, start: int, end: int) -> bytes:
        asked.append(end - start)
        return read(root, file_name, start, end)

    monkeypatch.setattr(ImageRoot, "read_part", counted)
    stub = data[: data.index(b"moov") + 200_000]
    with open_video(root, "a.mp4", len(stub), None) as file:
        assert probe(file).duration_s == pytest.approx(60, abs=0.5)
    assert sum(asked) < len(data) / 4


@pytest.mark.parametrize("name", ["../a.mp4", "/a.mp4"])
def test_unsafe_paths_are_not_opened(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="not a path inside"):
        probe(open_video(ImageRoot(str(tmp_path)), name, 1000))


def test_when_it_was_taken(make_video: Callable[..., bytes]) -> None:
    taken = dt.datetime(2021, 4, 11, 20, 43, 9)
    for kind in ("mp4", "mov", "mkv"):
        data = make_video(kind, "mpeg4", seconds=1, creation_time="2021-04-11T20:43:09.000000Z")
        assert probe(io.BytesIO(data)).taken == taken
    assert probe(io.BytesIO(make_video("avi", seconds=1))).taken is None


def test_apples_date_has_an_offset(make_video: Callable[..., bytes]) -> None:
    """That of `creation_time` is always UTC, whatever the camera means."""
    dates = {"com.apple.quicktime.creationdate": "2021-04-11T20:43:09+0200"}
    dates["creation_time"] = "2021-04-11T18:43:09.000000Z"
    for n_known, (taken, offset) in enumerate(
        [((2021, 4, 11, 18, 43, 9), None), ((2021, 4, 11, 20, 43, 9), 120)]
    ):
        known = dict(list(dates.items())[1 - n_known :])
        info = probe(io.BytesIO(make_video("mkv", seconds=1, **known)))
        assert (info.taken, info.utc_offset_minutes) == (dt.datetime(*taken), offset)


@pytest.mark.parametrize(
    ("name", "taken"),
    [
        ("a/VID_20210411_204309.mp4", (2021, 4, 11, 20, 43, 9)),
        ("2021-04-11 20-43-09.avi", (2021, 4, 11, 20, 43, 9)),
        ("20210411204309-RCNX0031.AVI", (2021, 4, 11, 20, 43, 9)),
        ("2021-04-11T20:43:09/IMAG0001.AVI", None),  # of a folder
        ("20210431_204309.mp4", None),
        ("IMAG0001.AVI", None),
        ("120210411204309.mp4", None),
    ],
)
def test_a_date_in_a_name(name: str, taken: tuple[int, ...] | None) -> None:
    assert date_in_name(name) == (dt.datetime(*taken) if taken else None)


@pytest.mark.parametrize(
    ("duration", "every", "most", "times"),
    [
        (3.0, 1.0, 10, [0.0, 1.0, 2.0]),
        (3.01, 1.0, 10, [0.0, 1.0, 2.0, 3.0]),
        (0.2, 1.0, 10, [0.0]),
        (0.0, 1.0, 10, [0.0]),
        (None, 1.0, 10, [0.0]),
        (100.0, 2.5, 3, [0.0, 2.5, 5.0]),
        (1.0, 0.1, 100, [round(n / 10, 3) for n in range(10)]),
    ],
)
def test_times_of_frames(duration: float | None, every: float, most: int, times: list[float]) -> None:
    assert frame_times(duration, every, most) == times


def test_a_frame_is_judged_as_a_picture_is(make_video: Callable[..., bytes]) -> None:
    first, *_ = read_frames(io.BytesIO(make_video()), [0.0, 3.0])
    verdict = judge_frame(first.pixels, "MP4", Limits(thumbnail=64))
    assert (verdict.status, verdict.format, verdict.width, verdict.height) == ("ok", "MP4", *SIZE)
    assert verdict.is_night is True
    assert verdict.thumbnail is not None
    assert (verdict.thumbnail.width, verdict.thumbnail.height) == (85, 64)
