from __future__ import annotations

from pathlib import PurePosixPath

import pyarrow as pa
import pytest

from camtrap_batch.vocabulary import (
    IMAGE_ENDINGS,
    RAW_ENDINGS,
    RETRIED,
    STATUSES,
    USABLE,
    VIDEO_ENDINGS,
    Status,
    ending_of,
    is_word_for_empty,
)


def test_a_status_is_its_name() -> None:
    assert Status.EMPTY_FILE == "empty_file" == str(Status.EMPTY_FILE)
    assert pa.array(list(Status)).to_pylist() == list(STATUSES)
    assert all(status.meaning == STATUSES[status] for status in Status)


def test_what_is_done_with_images_of_a_status() -> None:
    assert set(USABLE) == {"ok", "truncated", "damaged"}
    assert set(RETRIED) == {"unreadable", "missing", "crashed"}
    assert [status.value for status in Status if status.is_usable] == list(USABLE)


def test_endings_are_of_one_kind_each() -> None:
    kinds = (IMAGE_ENDINGS, RAW_ENDINGS, VIDEO_ENDINGS)
    assert sum(map(len, kinds)) == len(frozenset().union(*kinds))
    for ending in frozenset().union(*kinds):
        assert ending_of(f"a.b/x{ending.upper()}") == ending


@pytest.mark.parametrize(
    "name", ["a.JPG", "a/b.c/d", "a/.jpg", "a/x.", "a/..jpg", "a.jpg/", "", ".", "a/b.tar.GZ", "...", "a. b"]
)
def test_an_ending_is_what_a_path_says(name: str) -> None:
    assert ending_of(name) == PurePosixPath(name).suffix.lower()


def test_words_for_empty() -> None:
    words = ("empty", "Blank", "VACÍO", "no_animal", "no-animals", "Kein  Tier", "vide", "sin animal", "Leer")
    assert all(map(is_word_for_empty, words))
    assert not any(map(is_word_for_empty, ("fox", "blank heron", "", "animal", "unknown", "0")))
