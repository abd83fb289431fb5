"""The entropy-coded part of a baseline JPEG, read by compiled loops.

It is faster than a full decoder because for most coefficients only their number of bits matters here, so one
table look-up steps over as many codes, with their values, as fit into `LOOK` bits. Only the lowest
frequencies are kept. A stream is either sound or not; libjpeg must say what is wrong with an unsound one.

ITU-T T.81 (1992): sections F.2.2 (decoding), C (tables of codes), B.1.1.5 (stuffed bytes, restart markers).
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from camtrap_batch.images.compiled import compiled

LOOK: Final = 13
"""Bits looked up at once; tables of this size stay in a core's L1 cache. More or fewer are slower."""

LOOK_DC: Final = 10
"""The same for the first code of a block."""

LOOK_EARLY: Final = 12
"""The same for the codes that follow it, where their values are kept."""

PADDING: Final = 4096
"""Bytes of zeros after a stream: more than one MCU (10 blocks of 64 codes of 31 bits) can use."""

_END_OF_BLOCK: Final = 128
_NOT_IN_TABLE: Final = 1000
_LARGEST_PREDICTION: Final = 2**30  # a row of MCUs adds less than as much again
_PEEK: Final = 16  # bits of the longest code
_U64 = np.uint64


@intrinsic  # type: ignore[untyped-decorator]
def _load(_context: Any, array: Any, position: Any) -> Any:
    """The 8 bytes of a byte array from a position on, as a big-endian number."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        word = builder.load(_pointer(context, builder, signature, arguments))
        word.align = 1
        return builder.bswap(word)

    return types.uint64(array, position), generate


@intrinsic  # type: ignore[untyped-decorator]
def _store(_context: Any, array: Any, position: Any, _value: Any) -> Any:
    """Store a number where `_load` would read it."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = _pointer(context, builder, signature, arguments)
        builder.store(builder.bswap(arguments[2]), pointer).align = 1
        return context.get_dummy_value()

    return types.void(array, position, types.uint64), generate


def _pointer(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    array = context.make_array(signature.args[0])(context, builder, arguments[0])
    return builder.bitcast(builder.gep(array.data, [arguments[1]]), ir.IntType(64).as_pointer())


@compiled
def fill_tables(
    counts: npt.NDArray[np.uint8],
    symbols: npt.NDArray[np.uint8],
    single: npt.NDArray[np.uint16],
    first: npt.NDArray[np.uint16],
    many: npt.NDArray[np.uint16],
    early: npt.NDArray[np.uint32],
) -> bool:
    """Fill the tables in which a stream's next bits are looked up; False if the counts do not form a code.

    Parameters
    ----------
    counts : number of codes of 1 to 16 bits
    symbols : their meanings, in the order of the codes: a run of zeros (high 4 bits) and a value's bits
    single : filled, shape (65536,): a code's bits * 256 + its symbol; 0 where no code begins so
    first : filled, shape (2**n,): the same, for codes of up to n bits
    many : filled, shape (2**LOOK,): coefficients * 32 + bits of all codes, with their values, that fit into
        `LOOK` bits; 128 coefficients more where the last of them ends its block
    early : filled, shape (2**LOOK_EARLY,): of a block's first coefficients after DC, up to the fourth, those
        that fit into `LOOK_EARLY` bits. From the top: value + 64 of the fourth, second and first in 7 bits
        each, the position of the next coefficient in 7, the bits of these codes in 4. 0 where not one fits
    """
    code, symbol = 0, 0
    for length in range(1, _PEEK + 1):
        if code + counts[length - 1] > 1 << length:
            return False
        for _ in range(counts[length - 1]):
            low = code << (_PEEK - length)
            single[low : low + (1 << (_PEEK - length))] = length << 8 | symbols[symbol]
            code += 1
            symbol += 1
        if counts[length - 1] > 0 and code >= 1 << length:  # ones alone are no code (T.81, annex C)
            return False
        code <<= 1
    n_first = 0
    while 1 << n_first < len(first):
        n_first += 1
    for start in range(len(first)):
        entry = single[start << (_PEEK - n_first)]
        first[start] = entry if entry >> 8 <= n_first else 0
    for start in range(1 << LOOK):
        bits, coefficients = 0, 0
        while True:
            entry = single[(start << (_PEEK - LOOK) << bits) & 0xFFFF]
            run, size = (entry & 255) >> 4, entry & 15
            taken = bits + (entry >> 8) + size
            if entry == 0 or taken > LOOK:
                break
            if size == 0 and run == 0:
                bits, coefficients = taken, coefficients + _END_OF_BLOCK
                break
            if (size == 0 and run < 15) or coefficients + run + 1 > 64:
                break
            bits, coefficients = taken, coefficients + run + 1
        many[start] = (coefficients if bits else _NOT_IN_TABLE) << 5 | bits
    for start in range(1 << LOOK_EARLY):
        bits, k = 0, 1
        values = np.zeros(5, np.int64)
        while k <= 4:
            entry = single[(start << (_PEEK - LOOK_EARLY) << bits) & 0xFFFF]
            run, size = (entry & 255) >> 4, entry & 15
            taken = bits + (entry >> 8) + size
            if entry == 0 or taken > LOOK_EARLY or (size == 0 and 0 < run < 15) or size > 6:
                break
            if size == 0 and run == 0:
                bits, k = taken, 64
                break
            if size and k + run <= 4:
                magnitude = (start >> (LOOK_EARLY - taken)) & ((1 << size) - 1)
                values[k + run] = magnitude if magnitude >> (size - 1) else magnitude - (1 << size) + 1
            bits, k = taken, k + run + 1
        if bits:
            early[start] = (
                (values[4] + 64) << 25 | (values[2] + 64) << 18 | (values[1] + 64) << 11 | k << 4 | bits
            )
    return True


@compiled
def unstuff(
    data: npt.NDArray[np.uint8], start: int, out: npt.NDArray[np.uint8], ends: npt.NDArray[np.int64]
) -> bool:
    """Copy the entropy-coded bytes from `start` up to the marker that ends the image.

    Stuffed zeros, fill bytes and restart markers are left out. `ends` is filled with the end of each restart
    interval in `out`, which has `PADDING` more bytes than `data` from `start` on.

    Returns whether there are exactly as many intervals as `ends` has room for, each marker in its place.
    """
    ones, tops = _U64(0x0101010101010101), _U64(0x8080808080808080)
    at, stop, to = _U64(start), _U64(len(data)), _U64(0)
    n_intervals = 0
    while at + _U64(1) < stop:
        if at + _U64(8) <= stop:
            word = _load(data, at)
            if (~word - ones) & word & tops == 0:  # no byte of it is 0xff
                _store(out, to, word)
                at += _U64(8)
                to += _U64(8)
                continue
        value, follower = data[at], data[at + _U64(1)]
        if value != 0xFF or follower == 0:
            out[to] = value
            at += _U64(1) if value != 0xFF else _U64(2)
            to += _U64(1)
        elif follower == 0xFF:
            at += _U64(1)
        elif follower == 0xD0 + (n_intervals & 7) and n_intervals + 1 < len(ends):
            ends[n_intervals] = to
            n_intervals += 1
            at += _U64(2)
        elif follower == 0xD9 and n_intervals + 1 == len(ends):
            ends[n_intervals] = to
            out[to : to + _U64(PADDING)] = 0
            return True
        else:
            return False
    return False


@compiled
def read_blocks(
    stream: npt.NDArray[np.uint8],
    ends: npt.NDArray[np.int64],
    interval: int,
    n_rows: int,
    n_columns: int,
    blocks: npt.NDArray[np.int64],
    dc_single: npt.NDArray[np.uint16],
    dc_first: npt.NDArray[np.uint16],
    ac_single: npt.NDArray[np.uint16],
    ac_first: npt.NDArray[np.uint16],
    ac_many: npt.NDArray[np.uint16],
    ac_early: npt.NDArray[np.uint32],
    coefficients: npt.NDArray[np.int16],
) -> bool:
    """Read a stream's blocks and keep the lowest frequencies of each.

    Parameters
    ----------
    stream, ends : results of `unstuff`
    interval : MCUs between two restart markers
    n_rows, n_columns : rows and columns of MCUs
    blocks : shape (blocks of an MCU, 5): component; number of its tables; position of the first such block;
        how far the next one lies; how far the next row of MCUs lies from where the last one ended. Changed.
    dc_single, dc_first, ac_single, ac_first, ac_many, ac_early : tables from `fill_tables`, stacked
    coefficients : filled, shape (1, blocks) with the DC coefficient; or (4, blocks), with those of horizontal
        and vertical frequency (0, 0), (1, 0), (0, 1) and (1, 1)

    Returns whether the stream is sound: every code is one, and every byte of every interval is used.

    It is one long function, since each step changes all of its state: position, word, and coefficient.
    """
    keeps_four = len(coefficients) == 4
    predictions = np.zeros(4, np.int64)
    at, end = _U64(0), _U64(ends[0]) * _U64(8)  # bits
    n_intervals, left = 1, interval
    for _ in range(n_rows):
        for _ in range(n_columns):
            if left == 0:
                if at > end or at + _U64(8) <= end or n_intervals == len(ends):
                    return False
                at, end = end, _U64(ends[n_intervals]) * _U64(8)
                n_intervals, left = n_intervals + 1, interval
                predictions[:] = 0
            left -= 1
            if at > end:
                return False
            for number in range(len(blocks)):
                component, table = blocks[number, 0], blocks[number, 1]
                block = blocks[number, 2]
                blocks[number, 2] += blocks[number, 3]
                word = _load(stream, at >> _U64(3)) << (at & _U64(7))
                code = dc_first[table, word >> _U64(64 - LOOK_DC)]
                if code == 0:
                    code = dc_single[table, word >> _U64(64 - _PEEK)]
                    if code == 0:
                        return False
                length, size = _U64(code >> 8), _U64(code & 15)
                at += length + size
                value = predictions[component] + _value(word << length, size)
                predictions[component] = value
                coefficients[0, block] = value

                k = _U64(1)
                # Of the 57 bits that were there, DC took 27 or less: enough for two more looks are left.
                word <<= length + size
                if keeps_four:
                    start = _U64(ac_early[table, word >> _U64(64 - LOOK_EARLY)])
                    if start != 0:
                        k = (start >> _U64(4)) & _U64(127)
                        at += start & _U64(15)
                        word <<= start & _U64(15)
                        coefficients[1, block] = np.int64((start >> _U64(11)) & _U64(127)) - 64
                        coefficients[2, block] = np.int64((start >> _U64(18)) & _U64(127)) - 64
                        coefficients[3, block] = np.int64(start >> _U64(25)) - 64
                    else:
                        coefficients[1:, block] = 0
                    while k <= _U64(4):
                        word = _load(stream, at >> _U64(3)) << (at & _U64(7))
                        code = ac_first[table, word >> _U64(64 - LOOK)]
                        if code == 0:
                            code = ac_single[table, word >> _U64(64 - _PEEK)]
                            if code == 0:
                                return False
                        length, run, size = _U64(code >> 8), _U64((code >> 4) & 15), _U64(code & 15)
                        at += length + size
                        k += run
                        if size == 0:
                            if run == 0:
                                k = _U64(64)
                                break
                            if run < 15:
                                return False
                        elif k <= _U64(2):
                            coefficients[k, block] = _value(word << length, size)
                        elif k == _U64(4):
                            coefficients[3, block] = _value(word << length, size)
                        k += _U64(1)
                        word <<= length + size
                if k < _U64(64):  # the word still has as many bits as one look takes
                    step = _U64(ac_many[table, word >> _U64(64 - LOOK)])
                    far = k + (step >> _U64(5))
                    if far <= _U64(64) or _U64(_END_OF_BLOCK) < far < _U64(_END_OF_BLOCK + 64):
                        k = far
                        at += step & _U64(31)
                while k < _U64(64):
                    word = _load(stream, at >> _U64(3)) << (at & _U64(7))
                    step = _U64(0)
                    for _ in range(4):  # 57 bits of the word, or more, are there
                        step = _U64(ac_many[table, word >> _U64(64 - LOOK)])
                        k += step >> _U64(5)
                        at += step & _U64(31)
                        word <<= step & _U64(31)
                        if k >= _U64(64):
                            break
                    if k <= _U64(64) or _U64(_END_OF_BLOCK) < k < _U64(_END_OF_BLOCK + 64):
                        continue
                    # The last look-up went too far, or met a code too long for the table: go back, and read
                    # that code by itself.
                    k -= step >> _U64(5)
                    at -= step & _U64(31)
                    word = _load(stream, at >> _U64(3)) << (at & _U64(7))
                    code = ac_single[table, word >> _U64(64 - _PEEK)]
                    run, size = _U64((code >> 4) & 15), _U64(code & 15)
                    at += _U64(code >> 8) + size
                    if size == 0 and run == 0 and code != 0:
                        break
                    k += run + _U64(1)
                    if code == 0 or k > _U64(64) or (size == 0 and run < 15):
                        return False
        for number in range(len(blocks)):
            blocks[number, 2] += blocks[number, 4]
        for component in range(len(predictions)):  # beyond 32 bits libjpeg gives up
            if abs(predictions[component]) > _LARGEST_PREDICTION:
                return False
    return bool(at <= end and at + _U64(8) > end and n_intervals == len(ends))


@njit(inline="always")  # type: ignore[untyped-decorator]
def _value(word: Any, size: Any) -> Any:
    """The signed value in the top `size` bits of a word (T.81, F.2.2.1: RECEIVE and EXTEND)."""
    magnitude = np.int64((word >> _U64(1)) >> (_U64(63) - size))
    is_negative = np.int64(_U64(1) - (word >> _U64(63)))
    return magnitude - is_negative * np.int64((_U64(1) << size) - _U64(1))
