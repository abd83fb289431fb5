"""Duplicate files, and pictures of one moment that look the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.clocks import NO_TIME, elapsed, microseconds
from camtrap_batch.findings.found import NONE, Found, Rows, group, is_null, sentence
from camtrap_batch.vocabulary import USABLE

FROM_MANIFEST = ["file_name", "location", "status", "sha256", "dhash", "datetime", "utc_offset_minutes"]

MOST_BITS = 2
"""Maximum number of bits in which hashes of near duplicates may differ: what `_close_in_large` can find."""

_Hashes = npt.NDArray[np.uint64]

_FLAT = (0, 2**64 - 1)  # no cell, or every cell, is darker than its neighbour: nothing is visible
_LARGE = 64


def find_duplicates(rows: pa.Table, near_bits: int) -> tuple[Found, Found]:
    """Exact duplicates in the whole data set, near duplicates within each location.

    Frames of videos are excluded: those of one video are alike, and a duplicate video is reported for its own
    row.

    An exact duplicate is compared with the first image with the same bytes. A near duplicate is compared with
    the first image of its group: every image of a group differs from that one, not just from a neighbour, in
    at most `near_bits`, so that groups do not form chains.

    Parameters
    ----------
    rows : columns `FROM_MANIFEST`, and `video_s` where there may be frames of videos, in catalog order
    near_bits : 0 to `MOST_BITS` of the 64 of the difference hash
    """
    if not 0 <= near_bits <= MOST_BITS:
        raise ValueError(f"near_bits is {near_bits}, should be 0 to {MOST_BITS}")
    status = rows["status"].cast(pa.string())
    location = group(rows["location"])
    is_frame = np.zeros(rows.num_rows, bool)
    if "video_s" in rows.column_names:
        is_frame = ~is_null(rows["video_s"])
    is_empty = pc.equal(status, "empty_file").to_numpy()
    copies, originals = _exact(rows["sha256"], is_empty | is_frame)
    is_candidate = pc.is_in(status, pa.array(USABLE)).to_numpy() & ~is_null(rows["dhash"]) & ~is_frame
    # A copy stands in for its original if that is at another location.
    is_candidate[copies[location[copies] == location[originals]]] = False
    hashes = pc.fill_null(rows["dhash"], 0).to_numpy()
    is_candidate &= ~np.isin(hashes, np.array(_FLAT, np.uint64))
    candidates = np.flatnonzero(is_candidate)
    times = elapsed(rows, microseconds(rows["datetime"]), location)[candidates]
    seconds = np.where(times == NO_TIME, NO_TIME, times // 1_000_000)
    near, firsts = _near(location[candidates], seconds, hashes[candidates], near_bits)
    near, firsts = candidates[near], candidates[firsts]
    bits = np.bitwise_count(hashes[near] ^ hashes[firsts])
    return (
        Found("exact_duplicate", copies, originals, _exact_detail(rows, location, copies, originals)),
        Found(
            "near_duplicate",
            near,
            firsts,
            sentence("looks the same as ", _names(rows, firsts), _bits_detail(bits)),
        ),
    )


def _exact(sha256: pa.ChunkedArray, left_out: npt.NDArray[np.bool_]) -> tuple[Rows, Rows]:
    """Rows whose hash an earlier row has, and the first of those."""
    code = group(sha256)
    first = np.full(code.max(initial=0) + 1, NONE, np.int64)
    kept = np.flatnonzero((code > 0) & ~left_out)
    first[code[kept[::-1]]] = kept[::-1]
    originals = first[code[kept]]
    is_copy = originals != kept
    return kept[is_copy], originals[is_copy]


def _exact_detail(rows: pa.Table, location: Rows, copies: Rows, originals: Rows) -> pa.Array:
    names = _names(rows, originals)
    is_same_file = pc.equal(_names(rows, copies), names)
    is_elsewhere = pa.array(location[copies] != location[originals])
    # One text is made for each: if all images are copies, two would take half a gigabyte.
    location = pc.if_else(is_elsewhere, rows["location"].take(pa.array(originals)).combine_chunks(), "")
    return sentence(
        pc.if_else(is_same_file, "the same file is listed under another image id, too", "the same bytes as "),
        pc.if_else(is_same_file, "", names),
        pc.if_else(is_elsewhere, ", which is at another location: ", ""),
        location,
    )


def _bits_detail(bits: npt.NDArray[Any]) -> pa.Array:
    texts = [", the hashes are equal", ", the hashes differ in 1 bit"]
    texts += [f", the hashes differ in {number} bits" for number in range(2, MOST_BITS + 1)]
    return pa.array(texts).take(pa.array(bits))


def _names(rows: pa.Table, picked: Rows) -> pa.Array:
    return rows["file_name"].take(pa.array(picked)).combine_chunks()


def _near(
    location: Rows, seconds: npt.NDArray[np.int64], hashes: _Hashes, near_bits: int
) -> tuple[Rows, Rows]:
    """Rows that look like an earlier one of the same location and moment, and which."""
    undated = seconds == NO_TIME
    dated = np.flatnonzero(~undated)
    moment = group(location[dated], group(pa.chunked_array([pa.array(seconds[dated])])))
    first = np.arange(len(hashes))
    first[dated] = dated[leaders(moment, hashes[dated], near_bits)]
    # For an image without a date, only the hash says that it is of the same moment.
    left = np.flatnonzero((first == np.arange(len(hashes))) & np.isin(location, location[undated]))
    same = left[leaders(location[left], hashes[left], near_bits)]
    first[left[undated[left]]] = same[undated[left]]
    near = np.flatnonzero(first != np.arange(len(hashes)))
    return near, first[near]


def leaders(groups: Rows, hashes: _Hashes, bits: int) -> Rows:
    """For each row the first of its kind, possibly itself.

    In order of the rows: a row that differs in at most `bits` from an earlier row of its group that is itself
    a leader follows the first such leader; every other row is a leader.
    """
    n = len(groups)
    # Equal hashes of a group are one node; nodes are sorted by group, then by their first row.
    order = np.lexsort((hashes, groups))
    is_new = np.ones(n, bool)
    is_new[1:] = (np.diff(groups[order]) != 0) | (hashes[order][1:] != hashes[order][:-1])
    firsts = order[is_new]
    by_group = np.lexsort((firsts, groups[firsts]))
    firsts = firsts[by_group]
    node = np.empty(n, np.int64)
    node[order] = np.argsort(by_group)[np.cumsum(is_new) - 1]
    leader = _lead(len(firsts), *_close(groups[firsts], hashes[firsts], bits))
    return firsts[leader[node]]


def _close(groups: Rows, hashes: _Hashes, bits: int) -> tuple[Rows, Rows]:
    """Pairs of different hashes (low, high) of a group, at most `bits` apart; rows are sorted by group."""
    nobody = np.array([], np.int64)
    if bits == 0 or not len(groups):
        return nobody, nobody
    starts = np.flatnonzero(np.r_[True, np.diff(groups) != 0])
    sizes = np.diff(np.r_[starts, len(groups)])
    low, high = _pairs(np.repeat(np.where(sizes <= _LARGE, starts + sizes, 0), sizes))
    is_close = np.bitwise_count(hashes[low] ^ hashes[high]) <= bits
    lows, highs = [low[is_close]], [high[is_close]]
    for start, size in zip(starts[sizes > _LARGE], sizes[sizes > _LARGE], strict=True):
        low, high = _close_in_large(hashes[start : start + size], bits)
        lows.append(start + low)
        highs.append(start + high)
    return np.concatenate(lows), np.concatenate(highs)


def _close_in_large(hashes: _Hashes, bits: int) -> tuple[Rows, Rows]:
    """Hashes at most two bits apart share a hash that is at most one bit from both."""
    flips = np.r_[np.uint64(0), np.uint64(1) << np.arange(64, dtype=np.uint64)]
    around = (hashes[:, None] ^ flips).ravel()
    order = np.argsort(around)
    around, node = around[order], order // len(flips)
    ends = np.flatnonzero(np.r_[around[1:] != around[:-1], True]) + 1
    first, second = _pairs(np.repeat(ends, np.diff(np.r_[0, ends])))
    first, second = node[first], node[second]
    is_close = np.bitwise_count(hashes[first] ^ hashes[second]) <= bits
    low, high = np.minimum(first, second)[is_close], np.maximum(first, second)[is_close]
    pairs = np.unique(low * len(hashes) + high)
    return pairs // len(hashes), pairs % len(hashes)


def _pairs(ends: Rows) -> tuple[Rows, Rows]:
    """All pairs (i, j) with i < j < ends[i], for runs of rows that all have the end of their run."""
    lows, highs = [np.array([], np.int64)], [np.array([], np.int64)]
    row, step = np.arange(len(ends)), 1
    while len(row := row[row + step < ends[row]]):
        lows.append(row)
        highs.append(row + step)
        step += 1
    return np.concatenate(lows), np.concatenate(highs)


def _lead(n: int, low: Rows, high: Rows) -> Rows:
    """The leader of each of `n` nodes, from the pairs that are close.

    Round by round: a node whose lower neighbours have all dropped out leads, its higher neighbours follow.
    """
    follows, is_open = np.zeros(n, bool), np.zeros(n, bool)
    left_low, left_high = low, high
    while len(left_low):
        is_open[left_high] = True
        leads = ~is_open[left_low]
        is_open[left_high] = False
        follows[left_high[leads]] = True
        stays = ~leads & ~follows[left_low] & ~follows[left_high]
        left_low, left_high = left_low[stays], left_high[stays]
    leader = np.arange(n)
    is_led = ~follows[low]
    np.minimum.at(leader, high[is_led], low[is_led])
    return leader
