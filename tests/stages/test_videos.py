"""Frames of videos as images of their own: from the catalog to detections and exports."""

from __future__ import annotations

import datetime as dt
import errno
import io
import json
import os
import shutil
import threading
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pytest
from megadetector.postprocessing.validate_batch_results import (
    ValidateBatchResultsOptions,
    validate_batch_results,
)
from PIL import Image
from support_exports import export, images_of
from support_onnx import spot_detector
from support_runs import InlineJob, predict
from support_video import make_video, shade

from camtrap_batch.errors import ImagesGone, InputError, MissingExtra
from camtrap_batch.images import ImageRoot, video_frames
from camtrap_batch.images.pictures import COLUMNS, read_pictures
from camtrap_batch.job import Job
from camtrap_batch.monitor.display import Silent
from camtrap_batch.pipeline.images import image_root
from camtrap_batch.stages import validate
from camtrap_batch.stages.catalog import videos
from camtrap_batch.store.schemas import SCHEMAS

START = dt.datetime(2021, 4, 11, 20, 43, 9)
PHOTO = dt.datetime(2023, 5, 6, 7, 8, 9)
FRAMES = {"a/1.mp4": 4, "b/IMG_0002.AVI": 3, "b/VID_20220101_101010.mkv": 2, "c/cut.avi": 4}
"""Video -> rows of its frames, one each two seconds and four at most."""


def photo(taken: dt.datetime = PHOTO, offset: str | None = None) -> bytes:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9003] = f"{taken:%Y:%m:%d %H:%M:%S}"
    if offset is not None:
        exif.get_ifd(0x8769)[0x9011] = offset
    file = io.BytesIO()
    Image.fromarray(np.full((96, 128, 3), 90, np.uint8)).save(file, "JPEG", exif=exif)
    return file.getvalue()


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    long = make_video("avi", "mjpeg", 12)
    return {
        "a/1.mp4": make_video(seconds=9, creation_time="2021-04-11T20:43:09.000000Z"),
        "b/IMG_0001.JPG": photo(),
        "b/IMG_0002.AVI": make_video("avi", "mjpeg", 5),
        "b/VID_20220101_101010.mkv": make_video("mkv", seconds=4),
        "c/cut.avi": long[: len(long) * 3 // 5],
        "c/broken.mp4": make_video(seconds=2)[:1500],
        "c/picture.mp4": photo(PHOTO + dt.timedelta(days=1)),
    }


class Made(InlineJob):
    """A job on a folder of cameras."""

    def __init__(self, folder: Path, images: str = "images", **sections: Any) -> None:
        content: dict[str, Any] = {
            "dataset": {
                "format": "folder",
                "images": images,
                "location": {"level": 0},
                "video": {"every_s": 2, "most_frames": 4},
            },
            "validate": {"thumbnails": 64},
        }
        super().__init__(folder, **(content | sections))


def lay(folder: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        (folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "images" / name).write_bytes(data)


@pytest.fixture(scope="module")
def validated(tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    lay(folder, files)
    Made(folder).do("catalog", "validate")
    return folder


@pytest.fixture
def job(validated: Path, tmp_path: Path) -> Made:
    shutil.copytree(validated, tmp_path / "job")
    return Made(tmp_path / "job")


def frames_of(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if row["video_s"] is not None:
            found.setdefault(row["file_name"], []).append(row)
    return found


def test_a_row_for_each_frame_and_one_for_the_video(validated: Path, files: dict[str, bytes]) -> None:
    job = Made(validated)
    catalog, manifest = job.rows("catalog"), job.rows("manifest")
    assert [row["image_id"] for row in manifest] == [row["image_id"] for row in catalog]
    assert len({row["image_id"] for row in manifest}) == len(manifest) == len(files) + sum(FRAMES.values())
    frames = frames_of(manifest)
    assert {name: len(rows) for name, rows in frames.items()} == FRAMES
    for name, rows in frames.items():
        assert [row["video_s"] for row in rows] == [2.0 * number for number in range(len(rows))]
        assert [row["image_id"] for row in rows] == [f"{name}#t={2 * n}" for n in range(len(rows))]
        assert {row["seq_id"] for row in rows} == {name}
        assert {row["location"] for row in rows} == {name[0]}
        assert [row["frame_num"] for row in rows] == list(range(len(rows)))
        assert {row["bytes"] for row in rows} == {len(files[name])}
    own = {row["file_name"]: row for row in manifest if row["video_s"] is None}
    assert {name: (row["status"], row["detail"]) for name, row in own.items()} == {
        "a/1.mp4": ("video", "4 frames of it have rows"),
        "b/IMG_0001.JPG": ("ok", None),
        "b/IMG_0002.AVI": ("video", "3 frames of it have rows"),
        "b/VID_20220101_101010.mkv": ("video", "2 frames of it have rows"),
        "c/broken.mp4": ("corrupt", "no frame of this video can be read; the table videos says why"),
        "c/cut.avi": ("video", "4 frames of it have rows"),
        "c/picture.mp4": ("ok", None),
    }
    assert own["a/1.mp4"]["sha256"] != frames["a/1.mp4"][0]["sha256"]
    told = {row["file_name"]: row for row in job.rows("videos")}
    assert (told["a/1.mp4"]["duration_s"], told["a/1.mp4"]["rate"]) == (9.0, 5.0)
    assert told["a/1.mp4"]["codec"] == "mpeg4"
    assert told["c/picture.mp4"]["detail"] == "is a JPEG image, whatever its name says"
    assert not any(row["kind"].endswith("duplicate") for row in job.rows("findings"))


def test_frames_are_the_pictures_of_their_moments(validated: Path) -> None:
    job = Made(validated)
    rows = job.run.table("manifest").to_table(columns=COLUMNS)
    records = {row["image_id"]: row for row in job.rows("manifest")}
    n_seen = 0
    for use_thumbnails in (True, False):
        root = image_root(Job.load(job.file))
        for index, data, source in read_pictures(job.run.folder, root, rows, use_thumbnails=use_thumbnails):
            row = records[rows["image_id"][index].as_py()]
            if row["video_s"] is None:
                continue
            assert row["status"] == "ok"
            assert source == ("thumbnail" if use_thumbnails else "original")
            pixels = np.asarray(Image.open(io.BytesIO(data or b"")))
            assert pixels.shape[:2] == ((64, 85) if use_thumbnails else (120, 160))
            assert np.median(pixels) == pytest.approx(shade(int(row["video_s"] * 5)), abs=5)
            n_seen += 1
    assert n_seen == 2 * sum(FRAMES.values())


def test_when_videos_were_taken(validated: Path) -> None:
    manifest = Made(validated).rows("manifest")
    assert {(row["datetime_source"], row["file_name"]) for row in manifest} == {
        ("video", "a/1.mp4"),
        ("exif", "b/IMG_0001.JPG"),
        ("neighbour", "b/IMG_0002.AVI"),
        ("file_name", "b/VID_20220101_101010.mkv"),
        (None, "c/broken.mp4"),
        (None, "c/cut.avi"),
        ("exif", "c/picture.mp4"),
    }
    frames = frames_of(manifest)
    assert [row["datetime"] for row in frames["a/1.mp4"]] == [
        START + dt.timedelta(seconds=2 * number) for number in range(4)
    ]
    assert frames["b/IMG_0002.AVI"][1]["datetime"] == PHOTO + dt.timedelta(seconds=2)
    assert frames["b/VID_20220101_101010.mkv"][0]["datetime"] == dt.datetime(2022, 1, 1, 10, 10, 10)


def test_a_video_has_the_offset_of_the_photo_that_dates_it(tmp_path: Path) -> None:
    """At the end of summer time, what came an hour later by the clock's own account still does."""
    before, after = dt.datetime(2023, 10, 29, 2, 50), dt.datetime(2023, 10, 29, 2, 10)
    lay(
        tmp_path,
        {
            "a/IMG_0001.JPG": photo(before, "+02:00"),
            "a/IMG_0001.MP4": make_video(seconds=4),
            "a/IMG_0003.JPG": photo(after, "+01:00"),
            "a/IMG_0003.MP4": make_video(seconds=4),
        },
    )
    job = Made(tmp_path, infer={"model": "none"})
    job.do("catalog", "validate", "infer", "merge")
    assert [(row["file_name"], row["utc_offset_minutes"]) for row in job.rows("manifest")] == [
        *[("a/IMG_0001.MP4", 120)] * 3,
        *[("a/IMG_0003.MP4", 60)] * 3,
        ("a/IMG_0001.JPG", 120),
        ("a/IMG_0003.JPG", 60),
    ]
    events = job.rows("sequences")
    assert [row["start"] for row in events] == [before, before, after, after]


@pytest.mark.parametrize(
    ("number", "said"), [(errno.EIO, "Input/output error"), (errno.ENOENT, "No such file or directory")]
)
def test_a_photo_that_can_not_be_read_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, said: str
) -> None:
    """A failing disk does not leave the video without a date."""
    lay(tmp_path, {"a/1.JPG": photo(), "a/1.MP4": make_video(seconds=2)})

    def fail() -> None:
        raise OSError(number, os.strerror(number))

    job = Made(tmp_path)
    with before_the_photo(monkeypatch, fail):
        job.do("catalog")
    (row,) = job.rows("videos")
    assert (row["status"], row["detail"]) == ("unreadable", f"a/1.JPG, which may date it: {said}")
    job.do("catalog")
    (row,) = job.rows("videos")
    assert (row["status"], row["datetime"], row["date_of"]) == ("ok", PHOTO, "neighbour")


@pytest.mark.parametrize("number", [None, errno.EACCES], ids=["nothing there", "no right to look"])
def test_a_disk_that_goes_away_between_a_video_and_the_photo_that_dates_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int | None
) -> None:
    images, elsewhere = tmp_path / "images", tmp_path / "elsewhere"
    lay(tmp_path, {"a/1.JPG": photo(), "a/1.MP4": make_video(seconds=2)})

    def unmount() -> None:
        images.rename(elsewhere)
        images.mkdir()
        if number is not None:
            raise OSError(number, os.strerror(number))

    job = Made(tmp_path)
    with before_the_photo(monkeypatch, unmount), pytest.raises(ImagesGone, match="is the disk mounted"):
        job.do("catalog")
    images.rmdir()
    elsewhere.rename(images)
    job.do("catalog")
    (row,) = job.rows("videos")
    assert (row["status"], row["datetime"], row["date_of"]) == ("ok", PHOTO, "neighbour")


def test_a_photo_that_comes_later_dates_its_video(tmp_path: Path) -> None:
    """Metadata may name files that are still to be copied; a photo's date may be set right."""
    lay(tmp_path, {"a/1.MP4": make_video(seconds=2)})
    (tmp_path / "metadata.csv").write_text("file,camera\na/1.JPG,a\na/1.MP4,a\n")
    columns = {"file_name": "file", "location": "camera"}
    metadata = {"format": "csv", "metadata": "metadata.csv", "images": "images", "columns": columns}
    job = Made(tmp_path, dataset={**metadata, "video": {"every_s": 2, "most_frames": 4}})
    for taken in (None, PHOTO, PHOTO + dt.timedelta(hours=1)):
        if taken is not None:
            lay(tmp_path, {"a/1.JPG": photo(taken=taken)})
        job.do("catalog")
        (row,) = job.rows("videos")
        assert (row["status"], row["datetime"]) == ("ok", taken)


@contextmanager
def before_the_photo(monkeypatch: pytest.MonkeyPatch, happen: Callable[[], None]) -> Iterator[None]:
    """In the block, something happens as soon as the photo that dates a video is to be read."""
    read = ImageRoot.read

    def surprised(self: ImageRoot, file_name: str, *arguments: Any, **options: Any) -> bytes:
        if file_name == "a/1.JPG":
            happen()
        return read(self, file_name, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(ImageRoot, "read", surprised)
        yield


def test_a_photo_that_metadata_give_an_offset(tmp_path: Path) -> None:
    """It is the video's where the date is the photo's own, but not where the metadata have another clock."""
    taken = dt.datetime(2023, 7, 1, 12)
    lay(tmp_path, {f"a/{name}": photo(taken) for name in ("1.JPG", "3.JPG")})
    lay(tmp_path, {f"a/{name}": make_video(seconds=2) for name in ("1.MP4", "3.MP4")})
    (tmp_path / "images.csv").write_text(
        "file_name,datetime\na/1.JPG,2023-07-01T12:00:00+02:00\na/1.MP4,\n"
        "a/3.JPG,2023-07-01T10:00:00+00:00\na/3.MP4,\n"
    )
    job = Made(tmp_path)
    job.content["dataset"] |= {"format": "csv", "metadata": "images.csv"}
    job.set()
    job.do("catalog")
    offsets = {row["image_id"]: row["utc_offset_minutes"] for row in job.rows("catalog")}
    same, other = ({f"a/{n}.JPG", f"a/{n}.MP4", f"a/{n}.MP4#t=0"} for n in (1, 3))
    assert {offsets[name] for name in same} == {120}
    assert {name: offsets[name] for name in other} == dict.fromkeys(other) | {"a/3.JPG": 0}


def test_a_table_of_videos_that_an_earlier_version_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It lacks the column of offsets: no video is read again, and its offset is unknown."""
    lay(tmp_path, {"a/1.JPG": photo(offset="+02:00"), "a/1.MP4": make_video(seconds=2)})
    job = Made(tmp_path)
    with monkeypatch.context() as earlier:
        schema = SCHEMAS["videos"]
        earlier.setitem(SCHEMAS, "videos", schema.remove(schema.get_field_index("utc_offset_minutes")))
        earlier.setattr(videos, "_offsets", lambda _, table: pa.nulls(table.num_rows, pa.int32()))
        job.do("catalog")
    lay(tmp_path, {"b/2.JPG": photo()})
    monkeypatch.setattr(videos, "probe_videos", lambda *a, **k: pytest.fail("read again"))
    job.do("catalog")
    assert [row["utc_offset_minutes"] for row in job.rows("videos")] == [None]
    assert [row["utc_offset_minutes"] for row in job.rows("catalog")] == [None] * 4


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ("2021-04-11", [START, START + dt.timedelta(seconds=2)]),
        ("2021-04-12", [dt.datetime(2021, 4, 12)] * 2),
    ],
)
def test_a_date_without_a_time(tmp_path: Path, given: str, taken: list[dt.datetime]) -> None:
    """The video's own time of that day is taken; of another day a date is a date, for its frames as well."""
    lay(tmp_path, {"a/1.mp4": make_video(seconds=4, creation_time="2021-04-11T20:43:09.000000Z")})
    (tmp_path / "images.csv").write_text(f"file_name,datetime\na/1.mp4,{given}\n")
    job = Made(tmp_path)
    job.content["dataset"] |= {"format": "csv", "metadata": "images.csv"}
    job.set()
    job.do("catalog", "validate")
    is_timed = taken[0] == START
    for row, moment in zip(frames_of(job.rows("manifest"))["a/1.mp4"], taken, strict=True):
        assert (row["datetime"], row["date_only"]) == (moment, None if is_timed else True)
        assert row["datetime_source"] == ("video" if is_timed else "catalog")


def test_a_promised_frame_that_is_not_there(validated: Path, tmp_path: Path) -> None:
    """An index that is at the beginning says how long it was, before it was cut off."""
    data = make_video("mp4", seconds=9)
    moov = data.index(b"moov") - 4
    # As `faststart` lays it out: the index first, and where the pictures are moved by its length.
    head, index, rest = data[: data.index(b"mdat") - 4], data[moov:], data[data.index(b"mdat") - 4 : moov]
    at = index.index(b"stco") + 12
    moved = int.from_bytes(index[at : at + 4], "big") + len(index)
    index = index[:at] + moved.to_bytes(4, "big") + index[at + 4 :]
    lay(tmp_path, {"a/1.mp4": head + index + rest[: len(rest) // 2]})
    job = Made(tmp_path)
    job.do("catalog", "validate")
    rows = frames_of(job.rows("manifest"))["a/1.mp4"]
    assert [row["status"] for row in rows][:2] == ["ok", "ok"]
    assert rows[-1]["status"] == "corrupt"
    assert "before this frame" in rows[-1]["detail"]
    assert len(rows) == 4


@pytest.mark.parametrize("where", ["zip", "bucket"])
def test_from_wherever_images_are(
    where: str, tmp_path: Path, validated: Path, files: dict[str, bytes]
) -> None:
    if where == "zip":
        root = "images.zip"
        with zipfile.ZipFile(tmp_path / root, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in files.items():
                archive.writestr(name, data)
    else:
        root = f"memory://{tmp_path.name}"
        for name, data in files.items():
            fsspec.filesystem("memory").pipe_file(f"/{tmp_path.name}/{name}", data)
    job = Made(tmp_path, root)
    job.do("catalog", "validate")
    columns = ["image_id", "status", "datetime", "video_s", "sha256", "bytes", "dhash", "seq_id"]
    first, again = (
        Made(folder).run.table("manifest").to_table(columns=columns).to_pylist()
        for folder in (validated, tmp_path)
    )
    assert again == first


def test_nothing_is_asked_or_read_twice(job: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    assert job.do("catalog").shards_run == 0
    assert job.do("validate").shards_run == 0
    read: list[str] = []
    judge, judge_frames = validate.judge_files, video_frames.judge_video_frames
    monkeypatch.setattr(
        validate,
        "judge_files",
        lambda root, names, *a, **k: read.extend(names) or judge(root, names, *a, **k),
    )
    monkeypatch.setattr(
        video_frames,
        "judge_video_frames",
        lambda root, names, *a, **k: read.extend(names) or judge_frames(root, names, *a, **k),
    )
    units: dict[str, str] = {}
    monkeypatch.setattr(
        Silent,
        "begin",
        lambda self, stage, rows, done, counts, unit="images": units.update({stage: unit}),
    )
    # A shorter video, and a new photo.
    images = job.file.parent / "images"
    (images / "a" / "1.mp4").write_bytes(make_video(seconds=3))
    (images / "d").mkdir()
    (images / "d" / "new.jpg").write_bytes(photo())
    before = {row["image_id"]: row for row in job.rows("manifest")}
    job.do("catalog", "validate")
    assert Counter(read) == {"a/1.mp4": 3, "d/new.jpg": 1}
    assert units == {"videos": "videos", "validate": "images"}
    after = {row["image_id"]: row for row in job.rows("manifest")}
    assert set(before) - set(after) == {"a/1.mp4#t=4", "a/1.mp4#t=6"}
    assert after["b/IMG_0002.AVI#t=2"]["sha256"] == before["b/IMG_0002.AVI#t=2"]["sha256"]


def test_videos_are_taken_up_and_left_again(job: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the key a video is a row; what was read of other files is not read again."""
    before = job.rows("manifest")
    video = job.content["dataset"].pop("video")
    job.set()
    job.do("catalog", "validate")
    rows = job.rows("manifest")
    assert Counter(row["status"] for row in rows) == {"video": 5, "ok": 2}
    assert {row["detail"] for row in rows} == {None}
    assert frames_of(rows) == {}
    assert {row["image_id"] for row in rows} == {row["file_name"] for row in before}
    job.content["dataset"]["video"] = video
    job.set()
    monkeypatch.setattr(validate, "judge_files", None)
    job.do("catalog", "validate")
    again = job.rows("manifest")
    for row in (*again, *before):
        del row["thumbnail_file"], row["thumbnail_row"]
    assert again == before


def test_shards_that_divide_a_video(validated: Path, tmp_path: Path) -> None:
    shutil.copytree(validated / "images", tmp_path / "images")
    job = Made(tmp_path, validate={"thumbnails": 64, "shard_size": 3})
    assert job.do("catalog", "validate").shards > 4
    columns = ["image_id", "status", "detail", "sha256", "dhash"]
    first, again = (
        Made(folder).run.table("manifest").to_table(columns=columns).to_pylist()
        for folder in (validated, tmp_path)
    )
    assert again == first


def test_a_renamed_video_keeps_its_id_and_its_frames_theirs(job: Made) -> None:
    images = job.file.parent / "images"
    (images / "a" / "1.mp4").rename(images / "a" / "2.mp4")
    notes = job.do("catalog").notes
    assert "1 file was renamed, and keeps its image id" in notes
    rows = [row for row in job.rows("catalog") if row["file_name"] == "a/2.mp4"]
    assert [row["image_id"] for row in rows] == [*(f"a/1.mp4#t={2 * n}" for n in range(4)), "a/1.mp4"]


def test_another_data_set_is_refused_before_its_videos_are_asked(
    job: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay(job.file.parent / "other", {"x/9.mp4": make_video(seconds=1)})
    job.content["dataset"]["images"] = "other/images"
    job.set()
    monkeypatch.setattr(videos, "probe_videos", None)
    before = job.run.snapshot("videos").number
    with pytest.raises(InputError, match="holds another data set"):
        job.do("catalog")
    assert job.run.snapshot("videos").number == before


def test_a_dry_run_asks_nothing(
    tmp_path: Path, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    lay(tmp_path, files)
    monkeypatch.setattr(videos, "probe_videos", None)
    job = Made(tmp_path)
    assert "6 files would be read (videos)" in job.do("catalog", dry_run=True).notes
    assert not (tmp_path / "run").exists()


def test_without_pyav(tmp_path: Path, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    lay(tmp_path, files)
    monkeypatch.setattr(videos, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"dataset\.video.*camtrap-batch\[video\]"):
        Made(tmp_path).do("catalog")


@pytest.fixture
def released() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def test_a_video_that_hangs_does_not_hold_up_the_others(
    tmp_path: Path, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, released: threading.Event
) -> None:
    lay(tmp_path, {name: files[name] for name in ("a/1.mp4", "b/IMG_0002.AVI")})
    job = Made(tmp_path, validate={"timeout_s": 0.5, "thumbnails": 64}, limits={"lost": 1})
    open_video = video_frames.open_video

    def hang(root: Any, name: str, *rest: Any) -> Any:
        if name == "a/1.mp4":
            released.wait()
        return open_video(root, name, *rest)

    monkeypatch.setattr(video_frames, "open_video", hang)
    job.do("catalog")
    assert {row["file_name"]: row["status"] for row in job.rows("videos")} == {
        "a/1.mp4": "unreadable",
        "b/IMG_0002.AVI": "ok",
    }
    job.do("validate")
    own = {row["file_name"]: row["status"] for row in job.rows("manifest") if row["video_s"] is None}
    assert own == {"a/1.mp4": "video", "b/IMG_0002.AVI": "video"}  # it may be read the next time
    monkeypatch.setattr(video_frames, "open_video", open_video)
    job.do("catalog")  # tries it again
    assert {row["status"] for row in job.rows("videos")} == {"ok"}
    monkeypatch.setattr(video_frames, "open_video", hang)
    job.do("validate")
    frames = frames_of(job.rows("manifest"))
    assert {row["status"] for row in frames["a/1.mp4"]} == {"unreadable"}
    assert {row["status"] for row in frames["b/IMG_0002.AVI"]} == {"ok"}
    assert frames["a/1.mp4"][0]["detail"] == "not decoded within 0.5 s"
    monkeypatch.setattr(video_frames, "open_video", open_video)
    job.do("validate")
    assert {row["status"] for row in frames_of(job.rows("manifest"))["a/1.mp4"]} == {"ok"}


def test_labels_of_a_video_are_those_of_its_frames(tmp_path: Path) -> None:
    lay(
        tmp_path,
        {f"{cam}/{label}/1.avi": make_video("avi", "mjpeg", 4) for cam in "abcd" for label in ("fox", "roe")},
    )
    job = Made(tmp_path, select={"split": {"valid": 0.25, "test": 0.25}})
    job.content["dataset"]["label"] = {"level": 1}
    job.set()
    job.do("catalog", "validate", "select")
    for row in job.rows("catalog"):
        assert [label["name"] for label in row["labels"]] == [row["file_name"].split("/")[1]]
    reasons = Counter((row["reason"], "#" in row["image_id"]) for row in job.rows("selection"))
    assert reasons == {("kept", True): 16, ("video", False): 8}


def test_animals_in_frames(tmp_path: Path) -> None:
    """The spot of each frame is found where it is at that moment."""
    lay(tmp_path, {"a/1.avi": make_video("avi", "mjpeg", 8, spot=True), "a/2.JPG": photo()})
    spot_detector(tmp_path / "spots.onnx")
    job = Made(tmp_path, detect={"model": "spots.onnx", "repeat": {"frames": 0}})
    job.do("catalog", "validate", "detect")
    assert Counter(row["status"] for row in job.rows("detected")) == {"ok": 5}
    surest: dict[str, dict[str, Any]] = {}
    for box in job.rows("detections"):
        if box["confidence"] > surest.get(box["image_id"], {"confidence": 0.5})["confidence"]:
            surest[box["image_id"]] = box
    found = {image: box["x"] + box["w"] / 2 for image, box in surest.items()}
    expected = {f"a/1.avi#t={2 * n}": (4 * 10 * n + 10) / 160 for n in range(4)}
    assert found == pytest.approx(expected, abs=0.06)


def results(*images: dict[str, Any]) -> str:
    categories = {"1": "animal", "2": "person", "3": "vehicle"}
    return json.dumps(
        {"info": {"format_version": "1.5"}, "detection_categories": categories, "images": images}
    )


def box(frame: int, conf: float) -> dict[str, Any]:
    return {"category": "1", "conf": conf, "bbox": [0.1, 0.1, 0.2, 0.2], "frame_number": frame}


def test_results_of_videos_come_in_and_go_out(job: Made, tmp_path: Path) -> None:
    entries = [
        # Each third second was looked at: frames at 2 and 4 s are a second from the nearest.
        {
            "file": "a/1.mp4",
            "frame_rate": 5.0,
            "frames_processed": [0, 15, 30],
            "detections": [box(0, 0.5), box(0, 0.6), box(30, 0.7), box(15, 0.9)],
        },
        {"file": "./b\\IMG_0002.AVI", "frame_rate": 5.0, "detections": [box(11, 0.8)]},  # not said which: all
        {"file": "c/cut.avi", "frame_rate": 5.0, "detections": None, "failure": "video access failure"},
        {"file": "b/VID_20220101_101010.mkv", "detections": [box(0, 0.4)]},  # no rate: no moments
        {"file": "b/IMG_0001.JPG", "detections": []},
    ]
    (job.file.parent / "md.json").write_text(results(*entries))
    job.content["detect"] = {"results": "md.json"}
    job.set()
    job.do("detect")
    found = {row["image_id"]: (row["status"], row["n_boxes"]) for row in job.rows("detected")}
    assert found == {
        "a/1.mp4#t=0": ("ok", 2),
        "a/1.mp4#t=2": ("no_result", None),
        "a/1.mp4#t=4": ("no_result", None),
        "a/1.mp4#t=6": ("ok", 1),
        "b/IMG_0001.JPG": ("ok", 0),
        "b/IMG_0002.AVI#t=0": ("ok", 0),
        "b/IMG_0002.AVI#t=2": ("ok", 1),
        "b/IMG_0002.AVI#t=4": ("ok", 0),
        "b/VID_20220101_101010.mkv#t=0": ("no_result", None),
        "b/VID_20220101_101010.mkv#t=2": ("no_result", None),
        **{f"c/cut.avi#t={2 * number}": ("unreadable", None) for number in range(4)},
        "c/picture.mp4": ("no_result", None),
    }
    # And out again, although nobody and no classifier says what is in the boxes.
    job.content["infer"] = {"model": "none"}
    job.set()
    job.do("infer")
    path = export(images_of(job.run), "md-json", tmp_path / "out.json").path
    entries = {entry["file"]: entry for entry in json.loads(path.read_text())["images"]}
    assert [found["frame_number"] for found in entries["a/1.mp4"]["detections"]] == [0, 0, 30]
    assert entries["a/1.mp4"]["frames_processed"] == [0, 30]
    assert entries["b/IMG_0001.JPG"]["detections"] == []
    assert entries["c/cut.avi"]["failure"] == "inference failure"


def test_frames_go_out_as_one_video(job: Made, tmp_path: Path) -> None:
    manifest = [row for row in job.rows("manifest") if row["status"] == "ok"]
    ids = [row["image_id"] for row in manifest]
    predict(job.file, {name: None if name.endswith("#t=4") else {"fox": 0.9, "empty": 0.1} for name in ids})
    path = export(images_of(job.run), "md-json", tmp_path / "out.json").path
    options = ValidateBatchResultsOptions()
    options.raise_errors = True
    checked = validate_batch_results(str(path), options)["validation_results"]
    assert (checked["errors"], checked["warnings"]) == ([], [])
    content = json.loads(path.read_text())
    entries = {entry["file"]: entry for entry in content["images"]}
    assert len(entries) == len(content["images"]) == 7
    video = entries["a/1.mp4"]
    assert (video["frame_rate"], video["frames_processed"]) == (5.0, [0, 10, 30])
    assert [found["frame_number"] for found in video["detections"]] == [0, 10, 30]
    assert entries["c/broken.mp4"]["failure"] == "image access failure"
    assert "frame_rate" not in entries["b/IMG_0001.JPG"]
    # And in again: each frame has its own box.
    job.content["detect"] = {"results": str(path)}
    job.set()
    job.do("detect")
    found = {row["image_id"]: (row["status"], row["n_boxes"]) for row in job.rows("detected")}
    for name in ids:
        is_known = not name.endswith("#t=4")
        assert found[name] == (("ok", 1) if is_known else ("no_result", None)), name
