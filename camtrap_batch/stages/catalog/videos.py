"""Frames of videos as rows of the catalog: workers read from each video how many it has.

The driver reads no video. The part `videos` fans out over those that the metadata name: a worker reads what
each video's container says (its head and its index, some 100 kB of a file that can be read in parts), and the
table `videos` keeps it, one row per video. That and `dataset.video` determine the rows of the frames;
`validate` finds out which of them really exist when it decodes them.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.catalog.table import row_order
from camtrap_batch.codes import if_else
from camtrap_batch.errors import MissingExtra
from camtrap_batch.images import Verdict
from camtrap_batch.images.exif import read_jpeg_exif
from camtrap_batch.images.video import VideoInfo, date_in_name, frame_times
from camtrap_batch.images.video_frames import probe_videos
from camtrap_batch.job.dataset import Video
from camtrap_batch.pipeline.context import Context
from camtrap_batch.pipeline.stage import Part, TableSpec
from camtrap_batch.remote import plain
from camtrap_batch.stages.catalog.asking import ENTRY, IN_DOUBT, AskShard, ask_files
from camtrap_batch.store.schemas import CATALOG
from camtrap_batch.vocabulary import IMAGE_ENDINGS, VIDEO_ENDINGS, ending_of, plural

PART = Part("videos", 1, (TableSpec("videos", "each video that is read for its frames (dataset.video)"),))

_BESIDE_MODIFIED = "beside_modified"
_ASKED = ["image_id", "file_name", "beside", _BESIDE_MODIFIED]
_HEADER_BYTES = 65_536


def check_videos(context: Context) -> None:
    """Raise MissingExtra if the job reads videos, but nothing here can."""
    if context.job.dataset.video is not None and find_spec("av") is None:
        raise MissingExtra("video", "reading videos (dataset.video)")


def ask_videos(
    context: Context, settings: Video, of: str, read: Callable[[], pa.Table]
) -> tuple[str | None, list[str]]:
    """Bring the table `videos` up to date with the videos in the metadata, using `ask_files`.

    `read`: the rows of the metadata.
    """
    id_, notes = ask_files(
        context,
        of,
        lambda: to_be_asked(read()),
        lambda folder, root, timeout_s: ProbeShard(
            folder, (PART.name, ""), root, timeout_s, settings.every_s, settings.most_frames
        ),
    )
    if id_ is not None:
        found = context.run.table(PART.name).to_table(columns=["status", "frames"])
        notes = [_note(found), *notes]
    return id_, notes


def to_be_asked(rows: pa.Table) -> pa.Table:
    """The videos among the rows of a catalog, and the photo beside each one without a date.

    Returns
    -------
    image_id, file_name, beside : one row per video, in order
    """
    names = rows["file_name"].to_pylist()
    is_video = [ending_of(name or "") in VIDEO_ENDINGS for name in names]
    numbers = np.flatnonzero(is_video)
    videos = rows.select(["image_id", "file_name"]).take(pa.array(numbers))
    dated = rows["datetime"].is_valid().to_pylist()
    beside = photos_beside(names, {names[number] for number in numbers if not dated[number]})
    column = [beside.get(names[number]) for number in numbers]
    return videos.append_column("beside", pa.array(column, pa.string()))


def photos_beside(names: list[str], videos: set[str]) -> dict[str, str]:
    """The photo whose date a video can have: of the same name, otherwise just before or after it in its
    folder.

    >>> photos_beside(["c/IMG_1.JPG", "c/IMG_2.AVI", "c/IMG_3.AVI"], {"c/IMG_2.AVI", "c/IMG_3.AVI"})
    {'c/IMG_2.AVI': 'c/IMG_1.JPG'}
    """
    folders = {name.rpartition("/")[0] for name in videos}
    files = sorted(
        (name for name in names if name.rpartition("/")[0] in folders),
        key=lambda name: (name.rpartition("/")[0], _stem(name), name in videos),
    )
    found = {}
    for at, name in enumerate(files):
        if name not in videos:
            continue
        near = [files[other] for other in (at - 1, at + 1) if 0 <= other < len(files)]
        photos = [
            other
            for other in near
            if ending_of(other) in IMAGE_ENDINGS and other.rpartition("/")[0] == name.rpartition("/")[0]
        ]
        photos.sort(key=lambda other: _stem(other) != _stem(name))
        if photos:
            found[name] = photos[0]
    return found


def _stem(name: str) -> str:
    """A file's own name without its ending, in lower case."""
    last = name.rpartition("/")[2]
    return last[: len(last) - len(ending_of(last))].casefold()


@dataclass(frozen=True)
class ProbeShard(AskShard):
    """Reads how long the videos of a shard are and when they were taken, on a worker."""

    every_s: float
    most_frames: int
    part: ClassVar[Part] = PART
    shard_size: ClassVar[int] = 200
    unit: ClassVar[str] = "videos"

    @property
    def settings(self) -> list[Any]:
        return [self.every_s, self.most_frames]

    def with_others(self, rows: pa.Table) -> pa.Table:
        """The version of the photo beside each video; null if there is none."""
        names = rows["beside"].to_pylist()
        asked = [row for row, name in enumerate(names) if name is not None]
        modified = np.full(len(names), None, object)
        modified[asked] = self.root.listing([names[row] for row in asked]).modified
        return rows.append_column(_BESIDE_MODIFIED, pa.array(modified, pa.string()))

    def ask(self, rows: pa.Table) -> Iterator[dict[str, Any]]:
        found = probe_videos(
            self.root,
            rows["file_name"].to_pylist(),
            self.timeout_s,
            sizes=rows["listed_bytes"].to_pylist(),
            entries=rows[ENTRY].to_pylist() if ENTRY in rows.column_names else None,
        )
        for asked, answer in zip(rows.select(_ASKED).to_pylist(), found, strict=True):
            yield self._record(asked, answer)

    def _record(self, asked: dict[str, Any], answer: VideoInfo | Verdict) -> dict[str, Any]:
        if isinstance(answer, Verdict):
            return {"status": answer.status, "detail": answer.detail, "frames": 0}
        is_in_doubt = False
        taken, source, offset = None, None, None
        try:
            taken, source, offset = self._taken(asked, answer)
        except PermissionError:
            is_in_doubt = True
        except OSError as problem:  # without its date the video would be done for good
            detail = f"{asked['beside']}, which may date it: {plain(problem)}"
            return {"status": "unreadable", "detail": detail, "frames": 0}
        return {
            "status": "ok",
            IN_DOUBT: is_in_doubt,
            "duration_s": answer.duration_s,
            "rate": answer.rate,
            "width": answer.width,
            "height": answer.height,
            "codec": answer.codec,
            "datetime": taken,
            "date_of": source,
            "utc_offset_minutes": offset,
            "frames": len(frame_times(answer.duration_s, self.every_s, self.most_frames)),
        }

    def _taken(
        self, asked: dict[str, Any], info: VideoInfo
    ) -> tuple[dt.datetime | None, str | None, int | None]:
        """When a video was taken, where that comes from, and its clock's minutes east of UTC.

        Raises OSError if there is a photo that may say so, but that can't be read.
        """
        if info.taken is not None:
            return info.taken, "video", info.utc_offset_minutes
        if (named := date_in_name(asked["file_name"])) is not None:
            return named, "file_name", None
        if asked[_BESIDE_MODIFIED] is not None:
            photo = read_jpeg_exif(self.root.read(asked["beside"], most=_HEADER_BYTES))
            if photo.taken is not None:
                return photo.taken, "neighbour", photo.utc_offset_minutes
        return None, None, None


def with_frames(catalog: pa.Table, videos: pa.Table, every_s: float) -> pa.Table:
    """A catalog with rows for the frames of its videos.

    A video keeps its row; its frames have its file, location, labels and, each a moment later, its date. Both
    belong to one sequence, which is the video.

    Parameters
    ----------
    catalog : schemas.CATALOG, made from the metadata
    videos : schemas.VIDEOS
    every_s : seconds from one frame to the next

    Returns
    -------
    schemas.CATALOG, in its usual order
    """
    row = pc.index_in(catalog["image_id"], value_set=videos["image_id"].combine_chunks())
    own = _set(catalog, "video_frames", videos["frames"].take(row))
    # A date without a time of day gets the video's time, if that is of the same day.
    days = [pc.floor_temporal(times, unit="day") for times in (own["datetime"], videos["datetime"].take(row))]
    is_timed = pc.fill_null(pc.and_(own["date_only"], pc.equal(*days)), False)
    own = _set(own, "datetime", pc.if_else(is_timed, None, own["datetime"]))
    own = _set(own, "date_only", pc.if_else(is_timed, None, own["date_only"]))
    is_undated = pc.and_(own["datetime"].is_null(), row.is_valid())
    own = _set(own, "date_of", if_else(is_undated, videos["date_of"].take(row), None))
    own = _set(own, "datetime", pc.coalesce(own["datetime"], videos["datetime"].take(row)))
    offsets = if_else(is_undated, _offsets(catalog, videos).take(row), None)
    own = _set(own, "utc_offset_minutes", pc.coalesce(own["utc_offset_minutes"], offsets))
    # A video that may exist but could not be read is not said to have no frames.
    is_lost = pc.is_in(videos["status"], pa.array(["ok", "corrupt"]))
    own = _set(own, "video_frames", pc.if_else(is_lost.take(row), own["video_frames"], None))
    number = pc.fill_null(own["video_frames"], 0).to_numpy()
    of = np.repeat(np.arange(own.num_rows), number)
    rank = np.arange(len(of)) - np.repeat(np.cumsum(number) - number, number)
    frames = own.take(pa.array(of))
    times = np.round(rank * every_s, 3)
    later = pc.add(frames["datetime"], pa.array((times * 1e6).astype("timedelta64[us]")))
    later = pc.if_else(pc.fill_null(frames["date_only"], False), frames["datetime"], later)
    of_rank = np.round(np.arange(int(rank.max(initial=-1)) + 1) * every_s, 3).tolist()
    names = [f"#t={seconds:.3f}".rstrip("0").rstrip(".") for seconds in of_rank]
    marks = pa.array(names, pa.string()).take(pa.array(rank))
    for name, values in {
        "image_id": pc.binary_join_element_wise(frames["image_id"], marks, ""),
        "datetime": later,
        "seq_id": frames["file_name"],
        "frame_num": pa.array(rank, pa.int32()),
        "seq_num_frames": frames["video_frames"],
        "video_s": pa.array(times),
        "video_frames": pa.nulls(len(of), pa.int32()),
    }.items():
        frames = _set(frames, name, values)
    has_frames = pc.greater(pc.fill_null(own["video_frames"], 0), 0)
    own = _set(own, "seq_id", pc.if_else(has_frames, own["file_name"], own["seq_id"]))
    own = _set(own, "frame_num", pc.if_else(has_frames, None, own["frame_num"]))
    table = pa.concat_tables([own, frames]).combine_chunks()
    return table.take(pa.array(row_order(table)))


def _offsets(catalog: pa.Table, videos: pa.Table) -> pa.ChunkedArray:
    """Minutes east of UTC of each video's date: what files say, or the metadata of a photo with that date."""
    photo = pc.index_in(videos["beside"], value_set=catalog["file_name"].combine_chunks(), skip_nulls=True)
    is_same = pc.equal(catalog["datetime"].take(photo), videos["datetime"])
    of_photo = if_else(is_same, catalog["utc_offset_minutes"].take(photo), None)
    return pc.coalesce(videos["utc_offset_minutes"], of_photo)


def _set(table: pa.Table, name: str, values: Any) -> pa.Table:
    field = CATALOG.field(name)
    return table.set_column(CATALOG.names.index(name), field, pc.cast(values, field.type))


def _note(videos: pa.Table) -> str:
    statuses = Counter(videos["status"].to_pylist())
    n_frames, n_read = pc.sum(videos["frames"]).as_py() or 0, statuses.pop("ok", 0)
    others = "".join(f", {n:,} {status}" for status, n in statuses.most_common())
    frames = plural(n_frames, "frame")
    own = "is an image of its own" if n_frames == 1 else "are images of their own"
    return f"{frames} of {plural(n_read, 'video')} {own}{others}"
