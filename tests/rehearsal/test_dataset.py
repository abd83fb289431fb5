from __future__ import annotations

import csv
import hashlib
import io
import json
import shutil
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import simplejpeg
from PIL import Image

from camtrap_batch.catalog.cameras import read_periods
from camtrap_batch.errors import InputError
from camtrap_batch.images import ImageRoot, Limits, judge_files
from camtrap_batch.rehearsal import Rehearsal, write_dataset
from camtrap_batch.vocabulary import FINDING_KINDS, STATUSES, USABLE

SMALL: dict[str, Any] = {"cameras": 7, "images": 180, "size": (160, 120)}


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory: pytest.TempPathFactory) -> Rehearsal:
    return write_dataset(tmp_path_factory.mktemp("rehearsal") / "data", **SMALL)


def truth_of(rehearsal: Rehearsal) -> list[dict[str, str]]:
    with rehearsal.truth.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def hashes(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def fault_of(rehearsal: Rehearsal, name: str) -> Path:
    (row,) = (row for row in truth_of(rehearsal) if row["fault"] == name)
    return rehearsal.images / row["file_name"]


def test_same_seed_same_bytes(rehearsal: Rehearsal, tmp_path: Path) -> None:
    again = write_dataset(tmp_path / "again", **SMALL)
    assert hashes(again.images.parent) == hashes(rehearsal.images.parent)


def test_boxes_of_every_usable_image(rehearsal: Rehearsal) -> None:
    found = json.loads(rehearsal.truth_boxes.read_text())
    by_file = {image["file"]: image["detections"] for image in found["images"]}
    usable = [row for row in truth_of(rehearsal) if row["status"] in USABLE]
    assert set(by_file) == {row["file_name"] for row in usable}
    for row in usable:
        boxes = by_file[row["file_name"]]
        assert len(boxes) == int(row["count"] or 0) + bool(row["second_id"])
        species = {box["classifications"][0][0] for box in boxes}
        assert species == {row["category_id"], row["second_id"]} - {"", "0"}
        assert {box["category"] for box in boxes} <= ({"2"} if "5" in species else {"1"})


def test_a_data_set_without_boxes_gets_some(rehearsal: Rehearsal, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(rehearsal.images.parent, tmp_path / "data", symlinks=True))
    boxes = (folder / "truth_boxes.json").read_bytes()
    (folder / "truth_boxes.json").unlink()
    assert write_dataset(folder, **SMALL).truth_boxes.read_bytes() == boxes


def test_other_seed_other_photos(rehearsal: Rehearsal, tmp_path: Path) -> None:
    other = write_dataset(tmp_path / "other", **SMALL | {"seed": 43, "images": 20})
    ours, theirs = hashes(rehearsal.images), hashes(other.images)
    same = [name for name in theirs if theirs[name] == ours.get(name) and name.endswith(".jpg")]
    # A web page and an empty file are the same in every data set.
    assert all((other.images / name).read_bytes()[:2] != b"\xff\xd8" for name in same)


def test_processes_draw_what_one_process_draws(
    rehearsal: Rehearsal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("camtrap_batch.rehearsal.dataset._CHUNK", 10)
    monkeypatch.setattr("camtrap_batch.rehearsal.dataset._processors", lambda: 2)
    pooled = write_dataset(tmp_path / "pooled", **SMALL)
    assert hashes(pooled.images) == hashes(rehearsal.images)


def test_more_cameras_begin_with_the_same_ones(tmp_path: Path) -> None:
    few = write_dataset(tmp_path / "few", cameras=2, images=16, size=(160, 120), broken=False)
    many = write_dataset(tmp_path / "many", cameras=3, images=30, size=(160, 120), broken=False)
    ours, theirs = hashes(few.images), hashes(many.images)
    common = ours.keys() & theirs.keys()
    assert len(common) >= 12
    assert all(ours[name] == theirs[name] for name in common)


def test_progress_reaches_the_end(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    write_dataset(
        tmp_path / "data", cameras=2, images=30, size=(160, 120), on_progress=lambda *done: calls.append(done)
    )
    assert calls[-1] == (30, 30)
    assert [done for done, _ in calls] == sorted({done for done, _ in calls})


def test_a_second_call_touches_nothing(rehearsal: Rehearsal) -> None:
    folder = rehearsal.images.parent
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert write_dataset(folder, **SMALL) == rehearsal
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_an_interrupted_call_is_done_again(tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    order: dict[str, Any] = {"cameras": 3, "images": 40, "size": (160, 120)}
    with pytest.raises(KeyboardInterrupt):
        write_dataset(tmp_path / "cut", **order, on_progress=interrupt)
    assert not (tmp_path / "cut" / "metadata.json").exists()
    write_dataset(tmp_path / "cut", **order)
    write_dataset(tmp_path / "whole", **order)
    assert hashes(tmp_path / "cut") == hashes(tmp_path / "whole")


def test_another_data_set_is_not_overwritten(rehearsal: Rehearsal) -> None:
    before = hashes(rehearsal.images)
    with pytest.raises(InputError, match="holds another synthetic data set"):
        write_dataset(rehearsal.images.parent, **SMALL | {"seed": 1})
    assert hashes(rehearsal.images) == before


def test_a_folder_of_somebody_else_is_not_written_into(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("all of it")
    with pytest.raises(InputError, match="not an empty folder"):
        write_dataset(tmp_path, **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"cameras": 0}, "cameras is 0"),
        ({"images": 11}, "images is 11, must be at least 12"),
        ({"cameras": 30, "images": 29, "broken": False}, "images is 29, must be at least 30"),
        ({"size": (100, 100)}, "size is 100 x 100"),
    ],
)
def test_arguments_out_of_range(tmp_path: Path, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_dataset(tmp_path / "data", **SMALL | wrong)
    assert not (tmp_path / "data").exists()


def test_smallest_data_set_has_every_fault(tmp_path: Path) -> None:
    smallest = write_dataset(tmp_path / "data", cameras=1, images=12, size=(160, 120))
    assert {row["status"] for row in truth_of(smallest)} == STATUSES.keys() - {"ok", "crashed"}


def test_every_status_but_crashed_is_there(rehearsal: Rehearsal) -> None:
    truth = truth_of(rehearsal)
    assert {row["status"] for row in truth} == STATUSES.keys() - {"crashed"}
    assert sum(row["status"] != "ok" for row in truth) == 12
    assert {kind for row in truth for kind in row["findings"].split()} == FINDING_KINDS.keys()
    assert len(truth) == rehearsal.n_images == SMALL["images"]


def test_broken_false_leaves_only_good_photos(tmp_path: Path) -> None:
    good = write_dataset(tmp_path / "good", **SMALL | {"broken": False, "images": 30})
    assert {row["status"] for row in truth_of(good)} == {"ok"}
    assert not (tmp_path / "good" / "outside").exists()
    for row in truth_of(good):
        with Image.open(good.images / row["file_name"]) as photo:
            photo.load()
            assert photo.size == SMALL["size"]


def test_validation_finds_what_the_truth_says(rehearsal: Rehearsal) -> None:
    truth = truth_of(rehearsal)
    names = [row["file_name"] for row in truth]
    verdicts = judge_files(ImageRoot(str(rehearsal.images), {}), names, Limits(thumbnail=0), clock={})
    found = {name: verdict.status for name, verdict in zip(names, verdicts, strict=True)}
    assert found == {row["file_name"]: row["status"] for row in truth}


def test_copies_are_of_the_frame_before(rehearsal: Rehearsal) -> None:
    truth = truth_of(rehearsal)
    copied = [number for number, row in enumerate(truth) if "duplicate" in row["findings"]]
    assert copied
    for number in copied:
        before, row = truth[number - 1], truth[number]
        photos = [(rehearsal.images / each["file_name"]).read_bytes() for each in (before, row)]
        assert (photos[0] == photos[1]) == (row["findings"] == "exact_duplicate")
        for name in ("seq_id", "category_id", "count", "second_id"):
            assert row[name] == before[name]


def test_infrared_photos_are_seen_as_such(rehearsal: Rehearsal) -> None:
    truth = [row for row in truth_of(rehearsal) if row["status"] == "ok"]
    names = [row["file_name"] for row in truth]
    verdicts = judge_files(ImageRoot(str(rehearsal.images), {}), names, Limits(thumbnail=0), clock={})
    found = {name: verdict.is_night for name, verdict in zip(names, verdicts, strict=True)}
    assert found == {row["file_name"]: row["night"] == "1" for row in truth}


def test_the_file_outside_the_root_is_there(rehearsal: Rehearsal) -> None:
    path = fault_of(rehearsal, "outside the root")
    assert path.is_file()
    assert path.resolve().parent == rehearsal.images.parent.resolve() / "outside"


def test_faults_without_a_file(rehearsal: Rehearsal) -> None:
    assert not fault_of(rehearsal, "no file").exists()
    assert fault_of(rehearsal, "a folder").is_dir()
    assert fault_of(rehearsal, "no bytes").stat().st_size == 0


@pytest.mark.parametrize(
    ("fault", "complaint"),
    [
        ("stream cut at 70 %", "Premature end of JPEG file"),
        ("zeros in the stream", "Corrupt JPEG data"),
        ("garbage after the start marker", "JPEG image"),
        ("header only", "Premature end of JPEG file"),
    ],
)
def test_the_decoder_complains_of_spoilt_jpegs(rehearsal: Rehearsal, fault: str, complaint: str) -> None:
    content = fault_of(rehearsal, fault).read_bytes()
    assert content[:2] == b"\xff\xd8"
    with pytest.raises(ValueError, match=complaint):
        simplejpeg.decode_jpeg(content, strict=True)


def test_the_bomb_is_a_correct_png(rehearsal: Rehearsal) -> None:
    path = fault_of(rehearsal, "decompression bomb")
    content = path.read_bytes()
    assert len(content) < 400_000
    chunks = dict(_png_chunks(content))
    width, height = struct.unpack(">II", chunks[b"IHDR"][:8])
    assert (width, height) == (50_000, 50_000)
    stream = zlib.decompressobj()
    rest, total = chunks[b"IDAT"], 0
    while not stream.eof:  # raises zlib.error where the checksum at the end is wrong
        total += len(stream.decompress(rest, 1 << 22))
        rest = stream.unconsumed_tail
    assert total == height * (1 + width // 8)


def test_the_video_is_read_second_by_second(rehearsal: Rehearsal) -> None:
    pytest.importorskip("av", reason="PyAV (extra 'video') is not installed")
    from camtrap_batch.images.video import frame_times, probe, read_frames

    content = fault_of(rehearsal, "video").read_bytes()
    info = probe(io.BytesIO(content))
    assert (info.duration_s, info.rate, info.codec) == (5.0, 1.0, "mjpeg")
    frames = list(read_frames(io.BytesIO(content), frame_times(info.duration_s, 1.0, 10)))
    assert [frame.video_s for frame in frames] == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert len({frame.pixels.tobytes() for frame in frames}) == 5
    assert {frame.pixels.shape for frame in frames} == {(*SMALL["size"][::-1], 3)}


def test_the_video_holds_a_picture(rehearsal: Rehearsal) -> None:
    path = fault_of(rehearsal, "video")
    content = path.read_bytes()
    assert path.suffix == ".avi"
    assert content[:4] == b"RIFF"
    assert content[8:12] == b"AVI "
    assert struct.unpack("<I", content[4:8])[0] == len(content) - 8
    frame = content.index(b"00dc", content.index(b"movi"))
    length = struct.unpack("<I", content[frame + 4 : frame + 8])[0]
    with Image.open(io.BytesIO(content[frame + 8 : frame + 8 + length])) as photo:
        photo.load()
        assert photo.size == SMALL["size"]


def test_usable_rows_alone_say_what_is_drawn(rehearsal: Rehearsal) -> None:
    for row in truth_of(rehearsal):
        assert bool(row["label"]) == (row["status"] in USABLE)


def test_metadata_and_camera_table_name_the_same_places(rehearsal: Rehearsal) -> None:
    content = json.loads(rehearsal.metadata.read_text(encoding="utf-8"))
    with rehearsal.cameras.open(encoding="utf-8", newline="") as file:
        places = {row["location"] for row in csv.DictReader(file)}
    assert {str(image["location"]) for image in content["images"]} == places


def test_a_camera_stood_there_before_its_first_photo_and_after_its_last(rehearsal: Rehearsal) -> None:
    periods = read_periods(str(rehearsal.cameras)).to_pylist()
    taken: dict[str, list[str]] = {}
    for row in truth_of(rehearsal):
        taken.setdefault(row["location"], []).append(row["datetime"])
    assert {row["location"] for row in periods} == set(taken)
    for row in periods:
        assert str(row["start"]) < min(taken[row["location"]])
        assert max(taken[row["location"]]) < str(row["end"])
        assert (row["start"].hour, row["end"].hour) == (12, 12)  # dates alone


def _png_chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    position = 8
    while position < len(content):
        (length,) = struct.unpack(">I", content[position : position + 4])
        name, data = content[position + 4 : position + 8], content[position + 8 : position + 8 + length]
        (crc,) = struct.unpack(">I", content[position + 8 + length : position + 12 + length])
        assert crc == zlib.crc32(name + data)
        yield name, data
        position += 12 + length
