from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from PIL import PngImagePlugin

from camtrap_batch.errors import InputError
from camtrap_batch.images import ImageRoot, Limits, Verdict, abandoned, judge, judge_files, reading

LIMITS = Limits()
IMPATIENT = Limits(timeout_s=0.4)
VIDEO = b"RIFF\x10\0\0\0AVI LIST" + bytes(3000)


def judged(root: ImageRoot, names: list[str], limits: Limits = LIMITS) -> list[Verdict]:
    return judge_files(root, names, limits, clock={})


def our_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name in ("read", "decode")]


@pytest.fixture(autouse=True)
def _no_thread_stays() -> Iterator[None]:
    yield
    until = time.monotonic() + 5
    while our_threads() and time.monotonic() < until:
        time.sleep(0.01)
    assert our_threads() == []


@pytest.fixture
def released() -> Iterator[threading.Event]:
    """What hangs in a test hangs until this is set; it is in the end."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def root(tmp_path: Path, encode: Callable[..., bytes]) -> ImageRoot:
    (tmp_path / "a").mkdir()
    for number in range(20):
        (tmp_path / "a" / f"{number}.jpg").write_bytes(encode(quality=50 + number))
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "video.avi").write_bytes(VIDEO)
    (tmp_path / "p.png").write_bytes(encode("PNG"))
    return ImageRoot(str(tmp_path))


def test_verdicts_are_in_order(root: ImageRoot) -> None:
    names = [f"a/{number}.jpg" for number in (3, 19, 0, 7, 7, 1, *range(20))]
    names[2:2] = ["no.jpg", "empty.jpg", "video.avi", "../x.jpg", "a", "empty.jpg/x.jpg", "x" * 300]
    verdicts = judged(root, names)
    assert [verdict.status for verdict in verdicts[2:9]] == [
        "missing", "empty_file", "video", "unsafe_path", "unreadable", "missing", "unreadable",
    ]  # fmt: skip
    assert {verdict.status for verdict in verdicts[:2] + verdicts[9:]} == {"ok"}
    assert [verdict.detail for verdict in (verdicts[6], verdicts[8])] == [
        "Is a directory",
        "File name too long",
    ]
    for name, verdict in zip(names, verdicts, strict=True):
        if verdict.status in ("ok", "video", "empty_file"):
            assert verdict == judge(root.read(name), name, LIMITS)


def test_no_files(root: ImageRoot) -> None:
    assert judged(root, []) == []


def test_clock_is_added_to(root: ImageRoot) -> None:
    clock = {"read": 100.0}
    judge_files(root, ["a/1.jpg"], LIMITS, clock=clock)
    assert clock["read"] > 100
    assert 0 < clock["decode"] < 100


def test_images_of_a_bucket(tmp_path: Path, encode: Callable[..., bytes]) -> None:
    import fsspec

    fsspec.filesystem("memory").pipe_file(f"/{tmp_path.name}/a/1.jpg", encode())
    verdicts = judged(ImageRoot(f"memory://{tmp_path.name}"), ["a/1.jpg", "a/2.jpg", "../1.jpg"])
    assert [verdict.status for verdict in verdicts] == ["ok", "missing", "unsafe_path"]


def test_gone_after_the_listing(root: ImageRoot) -> None:
    assert root.listing(["a/1.jpg"]).sizes[0] > 0
    Path(root.url, "a/1.jpg").unlink()
    assert judged(root, ["a/1.jpg", "a/2.jpg"])[0] == Verdict("missing")


class Faults:
    """Stands in for `ImageRoot.read`: fails as often as told, then reads."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, faults: Mapping[str, list[Exception]]) -> None:
        self.calls: Counter[str] = Counter()
        read = ImageRoot.read

        def faulty(root: ImageRoot, file_name: str, most: int | None = None, place: object = None) -> bytes:
            self.calls[file_name] += 1
            if left := faults.get(file_name):
                raise left.pop(0)
            return read(root, file_name, most)

        monkeypatch.setattr(ImageRoot, "read", faulty)


def test_a_read_that_fails_is_unreadable(root: ImageRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    faults = Faults(
        monkeypatch,
        {
            "a/1.jpg": [OSError(5, "Input/output error", "/mnt/card/a/1.jpg")],
            "a/2.jpg": [OSError("HttpError: 503\nBackend Error")],
            "a/3.jpg": [PermissionError(13, "Permission denied", "/mnt/card/a/3.jpg")],
        },
    )
    verdicts = judged(root, ["a/0.jpg", "a/1.jpg", "a/2.jpg", "a/3.jpg", "a/4.jpg"])
    assert [verdict.status for verdict in verdicts] == ["ok", *["unreadable"] * 3, "ok"]
    assert [verdict.detail for verdict in verdicts[1:4]] == [
        "Input/output error", "HttpError: 503 Backend Error", "Permission denied",
    ]  # fmt: skip
    assert set(faults.calls.values()) == {1}


def test_what_is_no_fault_of_a_file_is_raised(root: ImageRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    Faults(monkeypatch, {"a/5.jpg": [InputError("s3://b: no credentials")]})
    with pytest.raises(InputError, match="no credentials"):
        judged(root, [f"a/{number}.jpg" for number in range(20)])


def test_unsafe_paths_are_not_read(root: ImageRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    faults = Faults(monkeypatch, {})
    verdicts = judged(
        root, ["../a.jpg", "/etc/passwd", "C:\\x.jpg", "s3://b/x.jpg", "a\0.jpg", "\ud800", "~/x"]
    )
    assert {verdict.status for verdict in verdicts} == {"unsafe_path"}
    assert faults.calls == {}


def test_too_many_bytes(root: ImageRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    size = Path(root.url, "a/1.jpg").stat().st_size
    monkeypatch.setattr(reading, "MOST_BYTES", size)
    assert judged(root, ["a/1.jpg"])[0].status == "ok"
    monkeypatch.setattr(reading, "MOST_BYTES", size - 1)
    assert judged(root, ["a/1.jpg"]) == [Verdict("too_large", f"more than {size - 1} bytes")]
    # A byte more than that is read, and not the rest.
    monkeypatch.setattr(reading, "MOST_BYTES", 100)
    read, lengths = ImageRoot.read, []

    def counted(root: ImageRoot, file_name: str, most: int | None = None, place: object = None) -> bytes:
        data = read(root, file_name, most)
        lengths.append(len(data))
        return data

    monkeypatch.setattr(ImageRoot, "read", counted)
    assert judged(root, ["a/1.jpg"])[0].status == "too_large"
    assert lengths == [101]


def test_a_long_video_is_a_video(root: ImageRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MOST_BYTES", 1000)
    assert judged(root, ["video.avi"]) == [Verdict("video", "more than 1000 bytes", format="AVI")]


def test_videos_do_not_wait_in_memory(root: ImageRoot) -> None:
    assert isinstance(reading._read(root, "video.avi", LIMITS), Verdict)
    assert isinstance(reading._read(root, "a/1.jpg", LIMITS), bytes)


def test_a_decode_that_hangs(
    root: ImageRoot, monkeypatch: pytest.MonkeyPatch, released: threading.Event
) -> None:
    def hanging(data: bytes, file_name: str, limits: Limits) -> Verdict:
        if file_name in ("a/1.jpg", "a/3.jpg"):
            released.wait()
        return judge(data, file_name, limits)

    monkeypatch.setattr(reading, "judge", hanging)
    verdicts = judged(root, [f"a/{number}.jpg" for number in range(6)], IMPATIENT)
    assert [verdict.status for verdict in verdicts] == ["ok", "unreadable", "ok", "unreadable", "ok", "ok"]
    size = Path(root.url, "a/1.jpg").stat().st_size
    assert verdicts[1] == Verdict("unreadable", "not decoded within 0.4 s", bytes=size)
    assert verdicts[2].sha256 == judge(root.read("a/2.jpg"), "", LIMITS).sha256


def test_a_pillow_that_hangs_holds_up_no_other(
    root: ImageRoot,
    monkeypatch: pytest.MonkeyPatch,
    released: threading.Event,
    encode: Callable[..., bytes],
) -> None:
    data = encode("PNG")
    Path(root.url, "half.png").write_bytes(data[: len(data) // 2])
    load = PngImagePlugin.PngImageFile.load
    hung: list[object] = []

    def hanging(image: PngImagePlugin.PngImageFile) -> object:
        if not hung:
            hung.append(image)
            released.wait()
        return load(image)

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", hanging)
    names = ["p.png", "a/1.jpg", "p.png", "half.png", "a/2.jpg"]
    statuses = [verdict.status for verdict in judged(root, names, IMPATIENT)]
    assert statuses == ["unreadable", "ok", "ok", "truncated", "ok"]
    assert judged(root, names)[0].status == "ok"


def test_reads_that_hang(root: ImageRoot, monkeypatch: pytest.MonkeyPatch, released: threading.Event) -> None:
    read = ImageRoot.read
    stuck = {f"a/{number}.jpg" for number in (0, 1, 2, 3, 9)}  # more than there are readers

    def hanging(root: ImageRoot, file_name: str, most: int | None = None, place: object = None) -> bytes:
        if file_name in stuck:
            released.wait()
        return read(root, file_name, most)

    monkeypatch.setattr(ImageRoot, "read", hanging)
    names = [f"a/{number}.jpg" for number in range(20)]
    verdicts = judged(root, names, IMPATIENT)
    assert [verdict.status == "ok" for verdict in verdicts] == [name not in stuck for name in names]
    assert verdicts[0] == Verdict("unreadable", "not read within 0.4 s")
    for name, verdict in zip(names, verdicts, strict=True):
        if name not in stuck:
            assert verdict.sha256 == judge(read(root, name), name, LIMITS).sha256


def test_a_store_that_is_gone(
    root: ImageRoot, monkeypatch: pytest.MonkeyPatch, released: threading.Event
) -> None:
    """Each read hangs: it takes as many as tell so, not the time of every file."""
    names = [f"a/{number % 20}.jpg" for number in range(200)]
    monkeypatch.setattr(ImageRoot, "read", lambda *_: released.wait() and b"")
    began = time.monotonic()
    verdicts = judged(root, names, IMPATIENT)
    assert time.monotonic() - began < 10
    assert {verdict.status for verdict in verdicts} == {"unreadable"}
    assert verdicts[-1].detail == "not tried after 16 reads that hang"
    assert sum(verdict.detail == "not read within 0.4 s" for verdict in verdicts) < 30


def test_memory_read_ahead_is_bounded(root: ImageRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    """Readers wait while the decoder is busy, once they have read as many bytes as there is room for."""
    size = 10_000
    monkeypatch.setattr(reading, "_BYTES_AHEAD", 3 * size)
    lock, read, judged_so_far, most = threading.Lock(), 0, 0, 0

    def counted(root: ImageRoot, file_name: str, most_: int | None = None, place: object = None) -> bytes:
        nonlocal read, most
        with lock:
            read += 1
            most = max(most, read - judged_so_far)
        return bytes(size)

    def slow(data: bytes, file_name: str, limits: Limits) -> Verdict:
        nonlocal judged_so_far
        time.sleep(0.005)
        with lock:
            judged_so_far += 1
        return Verdict("ok")

    monkeypatch.setattr(ImageRoot, "read", counted)
    monkeypatch.setattr(reading, "judge", slow)
    verdicts = judge_files(root, ["x.jpg"] * 40, LIMITS, sizes=[size] * 40, clock={})
    assert len(verdicts) == read == 40
    assert 2 <= most <= 5


def test_a_file_larger_than_the_room(root: ImageRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_BYTES_AHEAD", 10)
    names = [f"a/{number}.jpg" for number in range(9)]
    assert [verdict.status for verdict in judged(root, names)] == ["ok"] * 9


def test_what_hangs_does_not_keep_the_process(tmp_path: Path, encode: Callable[..., bytes]) -> None:
    (tmp_path / "1.jpg").write_bytes(encode())
    (tmp_path / "2.jpg").write_bytes(encode())
    program = """
        import sys, threading
        from camtrap_batch.images import ImageRoot, Limits, judge_files, reading

        for_ever, read, judge = threading.Event(), ImageRoot.read, reading.judge
        ImageRoot.read = lambda *given: for_ever.wait() if given[1] == "1.jpg" else read(*given)
        reading.judge = lambda *_: for_ever.wait()
        root = ImageRoot(sys.argv[1])
        verdicts = judge_files(root, ["1.jpg", "2.jpg"], Limits(timeout_s=0.2), clock={})
        print([verdict.detail for verdict in verdicts])
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout == "['not read within 0.2 s', 'not decoded within 0.2 s']\n"


def test_many_at_once_get_the_verdicts_of_each_alone(root: ImageRoot, encode: Callable[..., bytes]) -> None:
    """Several shards in one process, with truncated and damaged files of Pillow's formats among them."""
    for kind in ("PNG", "GIF", "TIFF", "BMP"):
        data = encode(kind)
        Path(root.url, f"half.{kind}").write_bytes(data[: len(data) // 2])
        Path(root.url, f"whole.{kind}").write_bytes(data)
    names = [f"{part}.{kind}" for kind in ("PNG", "GIF", "TIFF", "BMP") for part in ("half", "whole")]
    alone = [judge(root.read(name), name, LIMITS) for name in names]
    results: list[list[Verdict]] = []
    threads = [
        threading.Thread(target=lambda: results.append(judged(root, names * 2)), daemon=True)
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [alone * 2] * 3


def test_decodes_that_were_given_up_are_counted_until_they_end(
    root: ImageRoot, monkeypatch: pytest.MonkeyPatch, released: threading.Event
) -> None:
    def hanging(data: bytes, file_name: str, limits: Limits) -> Verdict:
        if file_name != "a/2.jpg":
            released.wait()
        return judge(data, file_name, limits)

    monkeypatch.setattr(reading, "judge", hanging)
    assert abandoned() == 0
    statuses = [verdict.status for verdict in judged(root, ["a/1.jpg", "a/2.jpg", "a/3.jpg"], IMPATIENT)]
    assert statuses == ["unreadable", "ok", "unreadable"]
    assert abandoned() == 2
    released.set()
    until = time.monotonic() + 10
    while abandoned() and time.monotonic() < until:
        time.sleep(0.01)
    assert abandoned() == 0
