"""Copies of files with faults at random positions: tests and benchmarks run the decoder on them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

KINDS = (
    "none", "cut", "tail", "zeros", "noise", "flips", "hole", "insert", "repeat", "pad", "header", "frame",
    "empty", "replace",
)  # fmt: skip


def spoilt_copies(originals: Sequence[bytes], number: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Copies with the faults that cards, cables and software cause, and others.

    Args:
        originals: files to copy.
        number: number of copies.
        seed: the same seed gives the same copies.

    Yields:
        One of `KINDS`, and a file with a fault of this kind.
    """
    dice = random.Random(seed)  # noqa: S311 - nothing secret
    for _ in range(number):
        kind, data = dice.choice(KINDS), bytearray(dice.choice(originals))
        at, length = dice.randrange(len(data)), dice.choice((1, 16, 512, 4096, 65536))
        early = dice.randrange(min(700, len(data)))
        if kind == "cut":
            del data[at:]
        elif kind == "tail":
            del data[-dice.randrange(1, 50) :]
        elif kind == "zeros":
            data[at : at + length] = bytes(min(length, len(data) - at))
        elif kind == "noise":
            data[at : at + length] = dice.randbytes(min(length, len(data) - at))
        elif kind == "flips":
            for _ in range(dice.choice((1, 3, 50))):
                data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        elif kind == "hole":
            del data[at : at + length]
        elif kind == "insert":
            data[at:at] = dice.randbytes(length)
        elif kind == "repeat":
            data[at:at] = data[at : at + length]
        elif kind == "pad":
            data += dice.choice((bytes(length), dice.randbytes(length)))
        elif kind == "header":
            data[early : early + 16] = dice.randbytes(16) if dice.random() < 0.5 else bytes(16)
        elif kind == "frame":
            data[max(0, data.rfind(b"\xff\xc0")) + dice.randrange(19)] = dice.randrange(256)
        elif kind == "empty":
            data.clear()
        elif kind == "replace":
            data = bytearray(dice.randbytes(len(data)) if dice.random() < 0.5 else len(data))
        yield kind, bytes(data)
