from __future__ import annotations

import pyarrow as pa

from camtrap_batch.vocabulary import (
    IMAGE_ENDINGS,
    RAW_ENDINGS,
    RETRIED,
    STATUSES,
    USABLE,
    VIDEO_ENDINGS,
    Status,
    ending_of,
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
