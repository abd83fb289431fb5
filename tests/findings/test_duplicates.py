from __future__ import annotations

import datetime as dt
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camtrap_batch.findings import DUPLICATE_COLUMNS, Found, duplicates, find_duplicates
from camtrap_batch.store.schemas import MANIFEST

NOON = dt.datetime(2020, 5, 1, 12)


def image(number: int = 0, **changes: Any) -> dict[str, Any]:
    return {
        "file_name": f"a/{number}.jpg",
        "location": "here",
        "status": "ok",
        "sha256": f"{number:064x}",
        "dhash": 0xF0F0_0000_0000_0000 + number * 0xFFFF,
        "datetime": NOON,
        "utc_offset_minutes": None,
        **changes,
    }


def find(*rows: dict[str, Any], near_bits: int = 2) -> tuple[Found, Found]:
    schema = pa.schema([MANIFEST.field(name) for name in DUPLICATE_COLUMNS])
    columns = {
        field.name: pa.array([row[field.name] for row in rows], pa.string()).cast(field.type)
        if pa.types.is_dictionary(field.type)
        else pa.array([row[field.name] for row in rows], field.type)
        for field in schema
    }
    return find_duplicates(pa.table(columns, schema), near_bits)


def pairs(found: Found) -> list[tuple[int, int]]:
    return list(zip(found.rows.tolist(), found.others.tolist(), strict=True))


def test_every_further_copy_is_a_duplicate_of_the_first() -> None:
    rows = [image(0), image(1), image(2, sha256=image(0)["sha256"]), image(3, sha256=image(0)["sha256"])]
    exact, near = find(*rows)
    assert pairs(exact) == [(2, 0), (3, 0)]
    assert exact.detail.to_pylist() == ["the same bytes as a/0.jpg"] * 2
    assert pairs(near) == []


def test_a_copy_at_another_location_says_so() -> None:
    exact, _ = find(image(0), image(1, sha256=image(0)["sha256"], location="there"))
    assert exact.detail.to_pylist() == ["the same bytes as a/0.jpg, which is at another location: here"]


def test_an_hour_that_clocks_were_put_back_is_no_moment() -> None:
    same = {"dhash": image(0)["dhash"]}
    summer, winter = ({"utc_offset_minutes": minutes} for minutes in (120, 60))
    _, near = find(image(0, **summer), image(1, **same, **winter), image(2, **same, **summer))
    assert pairs(near) == [(2, 0)]


def test_one_file_under_two_ids_says_so() -> None:
    exact, _ = find(image(0), image(0))
    assert exact.detail.to_pylist() == ["the same file is listed under another image id, too"]


def test_videos_are_copied_as_well_and_empty_files_are_not_copies() -> None:
    same = {"sha256": "e" * 64, "dhash": None}
    rows = [image(n, status=status, **same) for n, status in enumerate(["not_image", "not_image", "corrupt"])]
    assert pairs(find(*rows)[0]) == [(1, 0), (2, 0)]
    assert pairs(find(*(image(n, status="empty_file", **same) for n in range(3)))[0]) == []
    assert pairs(find(*(image(n, status="missing", sha256=None, dhash=None) for n in range(3)))[0]) == []


@pytest.mark.parametrize(("bits", "expected"), [(0, []), (1, [(1, 0)]), (2, [(1, 0), (2, 0)])])
def test_a_near_duplicate_differs_in_few_bits(bits: int, expected: list[tuple[int, int]]) -> None:
    first = image(0)["dhash"]
    rows = [image(0), image(1, dhash=first ^ 1), image(2, dhash=first ^ 0b110), image(3, dhash=first ^ 0x700)]
    near = find(*rows, near_bits=bits)[1]
    assert pairs(near) == expected
    texts = {1: "1 bit", 2: "2 bits"}
    assert near.detail.to_pylist() == [
        f"looks the same as a/0.jpg, the hashes differ in {texts[row]}" for row, _ in expected
    ]


@pytest.mark.parametrize(
    "other",
    [
        {"location": "there"},
        {"datetime": NOON + dt.timedelta(seconds=1)},
        {"status": "corrupt"},
        {"dhash": None},
        {"dhash": 0xF0F0_0000_0000_0007},
    ],
)
def test_what_is_not_near(other: dict[str, Any]) -> None:
    assert pairs(find(image(0), image(1, dhash=image(0)["dhash"]))[1]) == [(1, 0)]
    assert pairs(find(image(0), image(1, dhash=image(0)["dhash"]) | other)[1]) == []


@pytest.mark.parametrize("flat", [0, 2**64 - 1])
def test_a_picture_without_a_feature_is_like_no_other(flat: int) -> None:
    assert pairs(find(image(0, dhash=flat), image(1, dhash=flat))[1]) == []


def test_of_an_image_without_a_date_the_hash_alone_tells() -> None:
    first = image(0)["dhash"]
    rows = [
        image(0),
        image(1, dhash=first ^ 1, datetime=None),
        image(2, dhash=first ^ 0b111, datetime=None),
        image(3, dhash=first ^ 1, datetime=NOON + dt.timedelta(days=1)),
        image(4, dhash=first, datetime=None, location="another"),
    ]
    assert pairs(find(*rows)[1]) == [(1, 0)]
    assert pairs(find(*rows, near_bits=0)[1]) == []


def test_groups_do_not_chain() -> None:
    first = image(0)["dhash"]
    rows = [image(n, dhash=first ^ ((1 << n) - 1)) for n in range(6)]
    assert pairs(find(*rows, near_bits=1)[1]) == [(1, 0), (3, 2), (5, 4)]
    assert pairs(find(*rows, near_bits=2)[1]) == [(1, 0), (2, 0), (4, 3), (5, 3)]


def leaders_one_by_one(groups: list[int], hashes: list[int], bits: int) -> list[int]:
    found: list[int] = []
    leads: list[int] = []
    for row, (group, hash_) in enumerate(zip(groups, hashes, strict=True)):
        near = [
            lead for lead in leads if groups[lead] == group and (hashes[lead] ^ hash_).bit_count() <= bits
        ]
        found.append(near[0] if near else row)
        if not near:
            leads.append(row)
    return found


def few_bits(bits: int) -> st.SearchStrategy[int]:
    """Hashes of a scene that hardly changes."""
    return st.lists(st.integers(0, 63), max_size=bits).map(lambda places: sum(1 << p for p in set(places)))


@settings(max_examples=150, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 2), few_bits(5)), max_size=60),
    bits=st.integers(0, 2),
    large=st.sampled_from([0, 3, 64]),
)
def test_leaders_are_those_of_comparing_each_with_each(
    rows: list[tuple[int, int]], bits: int, large: int
) -> None:
    groups, hashes = [group for group, _ in rows], [hash_ for _, hash_ in rows]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "_LARGE", large)  # both ways to look for pairs
        found = duplicates.leaders(np.array(groups, np.int64), np.array(hashes, np.uint64), bits)
    assert found.tolist() == leaders_one_by_one(groups, hashes, bits)


def test_a_large_group_is_searched_as_a_small_one() -> None:
    rng = np.random.default_rng(5)
    hashes: npt.NDArray[np.uint64] = np.uint64(1) << rng.integers(0, 64, (1000, 4), dtype=np.uint64)
    mixed = np.bitwise_xor.reduce(hashes, axis=1)
    groups = np.zeros(1000, np.int64)
    expected = leaders_one_by_one(groups.tolist(), mixed.tolist(), 2)
    assert duplicates.leaders(groups, mixed, 2).tolist() == expected
    assert len(set(expected)) < 950
