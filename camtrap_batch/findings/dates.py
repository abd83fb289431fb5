"""Impossible dates: before the camera, in the future, out of order, after a clock fell back.

Dates are the manifest's `datetime`, which every later stage uses. A clock that lost its power restarts from a
factory date, usually 1 January, 00:00, of some year.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.codes import if_else
from camtrap_batch.findings.found import NONE, Found, Rows, group, is_null, moments, sentence

FROM_MANIFEST = [
    "file_name", "location", "deployment", "seq_id", "frame_num", "modified", "datetime_exif", "datetime",
    "camera_make", "camera_model", "utc_offset_minutes",
]  # fmt: skip

DIGITAL = np.datetime64("2000-01-02", "us")
"""Before this there were no digital camera traps; clocks start at 1970-01-01, 1980-01-01 or 2000-01-01."""

YEAR = np.timedelta64(365, "D")
DAY = np.timedelta64(1, "D")
"""Time zones, and clocks that are an hour off, stay within this."""

FEWEST_IN_ORDER = 10
MOST_STEPS_BACK = 0.1
"""Files count as numbered in order of time if this many are numbered, and at most this share steps back."""

_Times = npt.NDArray[np.datetime64]
_NUMBERED = r"(?P<more>[0-9]*?)(?P<number>[0-9]{1,18})\.[^./]*$"
_EXTENSION = r"\.[^./]*$"


def find_wrong_dates(rows: pa.Table, now: np.datetime64) -> tuple[Found, Found, Found, Found]:
    """Findings of the kinds date_before_camera, date_in_future, date_out_of_order and clock_reset.

    Parameters
    ----------
    rows : columns `FROM_MANIFEST`
    now : UTC; when the manifest was made
    """
    times = _times(rows["datetime"])
    future = _in_future(rows, times, now)
    credible = times.copy()
    credible[future.rows] = np.datetime64("NaT")  # dates after such a date have not fallen back
    return _before_camera(rows, times), future, _out_of_order(rows, times), _resets(rows, credible)


def _before_camera(rows: pa.Table, times: _Times) -> Found:
    """Before 2000-01-02; or in a stretch of dates that began on 1 January, far from all others of its model.

    A stretch is a run of a camera's dates without a gap of over a year. Stretches that begin on 1 January may
    count from a factory date. They do if the earliest date in all other stretches of cameras of the same make
    and model is more than a year after their beginning.
    """
    dated = np.flatnonzero(~np.isnat(times))
    model = group(rows["camera_make"], rows["camera_model"])[dated]
    camera = group(rows["location"], rows["deployment"])[dated]
    camera = group(camera, model)
    order = np.lexsort((times[dated], camera))
    dated, model, camera = dated[order], model[order], camera[order]
    time = times[dated]
    is_early = time < DIGITAL
    begins = np.ones(len(time), bool)
    begins[1:] = (np.diff(camera) != 0) | (np.diff(time) > YEAR)
    stretch = np.cumsum(begins) - 1
    start = time[begins][stretch]
    on_new_year = start.astype("datetime64[D]") == start.astype("datetime64[Y]").astype("datetime64[D]")
    known = ~on_new_year & ~is_early
    first = np.full(model.max(initial=0) + 1, np.iinfo(np.int64).max)
    np.minimum.at(first, model[known], time[known].astype(np.int64))
    is_known = first[model] < np.iinfo(np.int64).max
    earliest = np.where(is_known, first[model], 0).astype("datetime64[us]")
    is_default = on_new_year & is_known & (start < earliest - YEAR)
    found = np.flatnonzero(is_early | is_default)
    found = found[np.argsort(dated[found])]
    counted = sentence(
        ": counted from ",
        _days(start[found]),
        ", a clock's factory date; other dates of ",
        _model_names(rows, dated[found]),
        " begin ",
        _days(earliest[found]),
    )
    detail = sentence(
        moments(time[found]),
        pc.if_else(pa.array(is_early[found]), ": before there were digital camera traps", counted),
    )
    return Found("date_before_camera", dated[found], np.full(len(found), NONE), detail)


def _model_names(rows: pa.Table, picked: Rows) -> pa.Array:
    make, model = (
        pc.fill_null(rows[name].take(pa.array(picked)).combine_chunks(), "")
        for name in ("camera_make", "camera_model")
    )
    names = pc.utf8_trim_whitespace(sentence(make, " ", model))
    return pc.if_else(pc.equal(names, ""), "the data set's cameras", names)


def _in_future(rows: pa.Table, times: _Times, now: np.datetime64) -> Found:
    """More than a day after `now`, or after the file was written, as far as that time is credible."""
    modified = _modified(rows["modified"])
    exif = _times(rows["datetime_exif"])
    # A file's time set by its camera is no better than the camera's clock.
    is_cameras = np.abs(modified - exif) <= DAY
    modified[is_cameras | (modified < DIGITAL)] = np.datetime64("NaT")
    after_now, after_file = times > now + DAY, times > modified + DAY
    found = np.flatnonzero(after_now | after_file)
    why = pc.if_else(
        pa.array(after_now[found]),
        f": later than the manifest, which was made {now.astype('datetime64[s]').item()} UTC",
        sentence(": later than the file, which was written ", moments(modified[found]), " UTC"),
    )
    return Found("date_in_future", found, np.full(len(found), NONE), sentence(moments(times[found]), why))


def _modified(column: pa.ChunkedArray) -> _Times:
    """Modification times; NaT for etags: a time in ns since 1970 has 18 or 19 digits from 1973 on."""
    is_time = pc.fill_null(pc.match_substring_regex(column, "^[1-8]?[0-9]{18}$"), False)
    known = if_else(is_time, column, None).cast(pa.int64())
    times: _Times = pc.fill_null(pc.divide(known, 1000), np.iinfo(np.int64).min).to_numpy()
    return times.astype("datetime64[us]")


def _out_of_order(rows: pa.Table, times: _Times) -> Found:
    """Earlier than the frame before it in its sequence; frames with the same number have no order."""
    is_frame = ~np.isnat(times) & ~is_null(rows["seq_id"]) & ~is_null(rows["frame_num"])
    frames = np.flatnonzero(is_frame)
    sequence = group(rows["location"], rows["seq_id"])[frames]
    number = pc.fill_null(rows["frame_num"], 0).to_numpy()[frames]
    order = np.lexsort((times[frames], number, sequence))
    frames, sequence, number = frames[order], sequence[order], number[order]
    time = times[frames]
    passed = np.diff(time)
    if "utc_offset_minutes" in rows.column_names:  # an hour by which clocks were put back has still passed
        offset = rows["utc_offset_minutes"].combine_chunks().take(pa.array(frames))
        minutes = np.diff(pc.fill_null(offset, 0).to_numpy()).astype("timedelta64[m]")
        is_known = offset.is_valid().to_numpy(zero_copy_only=False)
        passed = np.where(is_known[1:] & is_known[:-1], passed - minutes, passed)
    goes_back = (np.diff(sequence) == 0) & (np.diff(number) > 0) & (passed < np.timedelta64(0))
    later = np.flatnonzero(goes_back) + 1
    later = later[np.argsort(frames[later])]
    detail = sentence(
        moments(time[later]),
        ": frame ",
        pa.array(number[later]).cast(pa.string()),
        ", but frame ",
        pa.array(number[later - 1]).cast(pa.string()),
        " is of ",
        moments(time[later - 1]),
    )
    return Found("date_out_of_order", frames[later], frames[later - 1], detail)


def _resets(rows: pa.Table, times: _Times) -> Found:
    """Images from a clock's fall until it is right again, in the order in which the files are numbered.

    That order is known within a folder, among names that differ only in the number at their end (DCF, JEITA
    CP-3461: IMG_0001.JPG).
    """
    parts = pc.extract_regex(rows["file_name"], _NUMBERED)
    # The expression could also capture what precedes the number, but would take more than twice the time.
    before = pc.ascii_rtrim(pc.replace_substring_regex(rows["file_name"], _EXTENSION, ""), "0123456789")
    is_numbered = ~is_null(parts) & ~np.isnat(times)
    files = np.flatnonzero(is_numbered)
    parts = parts.take(pa.array(files)).combine_chunks()
    series = group(
        *(column.take(pa.array(files)) for column in (rows["location"], rows["deployment"], before)),
        pa.chunked_array([pc.struct_field(parts, "more")]),
    )
    number = pc.struct_field(parts, "number").cast(pa.int64()).to_numpy()
    order = np.lexsort((times[files], number, series))
    files, series = files[order], series[order]
    time = times[files]
    falls = np.flatnonzero((np.diff(series) == 0) & (np.diff(time) < -DAY)) + 1
    ends = np.flatnonzero(np.diff(series, append=-1) != 0) + 1
    episodes: list[tuple[int, int]] = []
    spans, firsts = np.unique(np.searchsorted(ends, falls, side="right"), return_index=True)
    for span, first, last in zip(spans, firsts, [*firsts[1:], len(falls)], strict=False):
        start, end, inside = int(ends[span - 1]) if span else 0, int(ends[span]), falls[first:last]
        if end - start >= FEWEST_IN_ORDER and len(inside) <= (end - start) * MOST_STEPS_BACK:
            episodes += _episodes(time, start, end, inside)
    lengths = np.array([stop - fall for fall, stop in episodes], np.int64)
    falls = np.repeat(np.array([fall for fall, _ in episodes], np.int64), lengths)
    frame = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    found = falls + frame
    is_last = np.isin(falls + np.repeat(lengths, lengths), ends)
    detail = sentence(
        moments(time[found]),
        ": the clock fell from ",
        moments(time[falls - 1]),
        " to ",
        moments(time[falls]),
        "; image ",
        pa.array(frame + 1).cast(pa.string()),
        " of ",
        pa.array(np.repeat(lengths, lengths)).cast(pa.string()),
        pc.if_else(pa.array(is_last), " to the last one", " until it is right again"),
    )
    by_row = np.argsort(files[found])
    return Found("clock_reset", files[found][by_row], files[falls - 1][by_row], detail.take(pa.array(by_row)))


def _episodes(time: _Times, start: int, end: int, falls: Rows) -> list[tuple[int, int]]:
    """Runs (from, to) of a series, rows `start` to `end`, in which the clock is wrong.

    Each starts with a fall to a date before all earlier correct ones, and ends where a date reaches the one
    before the fall. `falls` are the rows that are more than a day earlier than the one before.
    """
    episodes: list[tuple[int, int]] = []
    right_from, earliest = start, time[start]
    for fall in falls.tolist():
        if fall < right_from:
            continue
        earliest = min(earliest, time[right_from:fall].min(initial=earliest))
        if time[fall] >= earliest:
            continue
        is_right = time[fall:end] >= time[fall - 1]
        stop = fall + int(is_right.argmax()) if is_right.any() else end
        episodes.append((fall, stop))
        right_from = stop
    return episodes


def _days(times: _Times) -> pa.Array:
    return pa.array(times.astype("datetime64[D]"), pa.date32()).cast(pa.string())


def _times(column: pa.ChunkedArray) -> _Times:
    times: _Times = column.to_numpy().astype("datetime64[us]")
    return times
