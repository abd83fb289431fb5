from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image
from support_pictures import saved

from camtrap_batch.model.decoding import Decoder, ahead


class Files(Sequence[bytes]):
    """Counts how often each file is read; `None` can't be read."""

    def __init__(self, files: list[bytes | None]) -> None:
        self.files = files
        self.reads = [0] * len(files)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        self.reads[index] += 1
        if self.files[index] is None:
            raise FileNotFoundError(f"file {index}")
        return self.files[index]


def flat(value: int) -> bytes:
    return saved(Image.new("RGB", (20, 20), (value, value, value)))


def test_decoder_keeps_what_fits_and_the_order() -> None:
    files = Files([flat(10 * index) for index in range(20)])
    with Decoder(files, 16, threads=2, cache_bytes=12 * 16 * 16 * 3) as decoder:
        for _ in range(2):
            wanted = np.array([19, 0, 7, 12, 11])
            indices, pixels = decoder.get(wanted)
            assert indices.tolist() == wanted.tolist()
            assert np.abs(pixels[:, 8, 8, 0].astype(int) - 10 * wanted).max() <= 2
    assert [files.reads[index] for index in (0, 7, 11)] == [1, 1, 1]
    assert [files.reads[index] for index in (12, 19)] == [2, 2]


def test_decoder_leaves_out_what_fails_and_says_why() -> None:
    with Decoder(Files([flat(0), None, b"<html>", flat(200)]), 16, threads=2) as decoder:
        indices, pixels = decoder.get(np.array([3, 2, 1, 0]))
        assert indices.tolist() == [3, 0]
        assert pixels[:, 0, 0, 0].tolist() == [200, 0]
        assert "file 1" in decoder.failed[1]
        assert "not a picture" in decoder.failed[2]


def test_ahead_works_on_the_next_while_the_last_is_used() -> None:
    begun = [threading.Event() for _ in range(3)]

    def work(item: int) -> int:
        begun[item].set()
        return item * item

    results = ahead(work, range(3))
    assert next(results) == 0
    assert begun[1].wait(5)
    assert list(results) == [1, 4]


def test_ahead_passes_an_error_on() -> None:
    def work(item: int) -> int:
        if item == 1:
            raise ValueError("one")
        return item

    results = ahead(work, range(3))
    assert next(results) == 0
    with pytest.raises(ValueError, match="one"):
        next(results)
