from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from camtrap_batch.errors import BrokenPromise
from camtrap_batch.store.folder import Folder
from camtrap_batch.store.shards import (
    Plan,
    Receipt,
    Shard,
    all_settled,
    cut,
    file_receipt,
    find_receipts,
    settled,
    unsettled,
)

keys = st.lists(st.text(min_size=1, max_size=6), unique=True, max_size=200)


def receipt(shard: Shard, plan_id: str = "p", attempt: str = "a") -> Receipt:
    return Receipt("validate", plan_id, shard.id, shard.rows, (), {}, {}, {}, "w", attempt)


@given(keys, st.integers(1, 30))
def test_cut_covers_every_row_once(rows: list[str], size: int) -> None:
    runs = cut(rows, size)
    assert [row for start, stop in runs for row in rows[start:stop]] == rows
    assert all(0 < stop - start <= size for start, stop in runs)


def test_an_inserted_row_moves_few_cuts() -> None:
    rows = [f"image {number}" for number in range(5000)]
    before = {tuple(rows[start:stop]) for start, stop in cut(rows, 100)}
    changed = []
    for place in range(0, 5000, 100):
        longer = [*rows[:place], "a new image", *rows[place:]]
        after = {tuple(longer[start:stop]) for start, stop in cut(longer, 100)}
        changed.append(len(after - before))
    assert sum(changed) / len(changed) < 4
    assert max(changed) < len(before) / 3


def test_cut_prefers_borders_of_low_rank() -> None:
    rows = [f"image {number}" for number in range(100)]
    borders = [0 if number % 20 == 0 else 1 if number % 5 == 0 else 2 for number in range(100)]
    runs = cut(rows, 30, borders)
    assert all(borders[start] == 0 for start, _ in runs)
    assert all(borders[start] <= 1 for start, _ in cut(rows, 12, borders))


@given(st.integers(1, 200))
def test_halves_cover_the_shard(rows: int) -> None:
    shards = [Shard("s", 10, 10 + rows)]
    while any(shard.rows > 1 for shard in shards):
        shards = list(itertools.chain(*(shard.halves() if shard.rows > 1 else (shard,) for shard in shards)))
    assert [(shard.start, shard.stop) for shard in shards] == [(row, row + 1) for row in range(10, 10 + rows)]
    assert len({shard.id for shard in shards}) == rows


@given(st.data())
def test_settled_and_unsettled_agree_on_what_is_left(data: st.DataObject) -> None:
    shard = Shard("s", 0, data.draw(st.integers(1, 20)))
    receipts: dict[str, Receipt] = {}
    parts = [shard]
    for _ in range(data.draw(st.integers(0, 6))):
        part = data.draw(st.sampled_from(parts))
        if part.rows > 1 and data.draw(st.booleans()):
            parts.remove(part)
            parts += part.halves()
        else:
            receipts[part.id] = receipt(part)
    left = unsettled([shard], receipts)
    assert (settled(shard, receipts) is not None) == (not left)
    receipts |= {part.id: receipt(part) for part in left}
    done = settled(shard, receipts)
    assert done is not None
    assert sum(part.rows for part in done) == shard.rows


def test_first_receipt_wins(folder: Folder) -> None:
    shard = Shard("s", 0, 3)
    first = file_receipt(folder, receipt(shard, attempt="one"))
    second = file_receipt(folder, receipt(shard, attempt="two"))
    assert second == first
    assert find_receipts(folder, Plan("validate", "p", {}, (shard,))) == {"s": first}


def test_receipts_of_other_plans_count_for_the_same_shards(folder: Folder) -> None:
    same, other = Shard("same", 0, 3), Shard("other", 3, 6)
    file_receipt(folder, receipt(same, plan_id="earlier"))
    file_receipt(folder, receipt(Shard("unrelated", 0, 3), plan_id="earlier"))
    assert set(find_receipts(folder, Plan.make("validate", [same, other], {}))) == {"same"}


def test_plan_id_depends_on_its_shards() -> None:
    one = Plan.make("validate", [Shard("a", 0, 1)], {"catalog": 1})
    assert one.id == Plan.make("validate", [Shard("a", 0, 1)], {"catalog": 2}).id
    assert one.id != Plan.make("validate", [Shard("b", 0, 1)], {"catalog": 1}).id
    assert one.id != Plan.make("infer", [Shard("a", 0, 1)], {"catalog": 1}).id


def test_all_settled_names_the_shard_that_is_missing() -> None:
    plan = Plan.make("validate", [Shard("a", 0, 1), Shard("b", 1, 2)], {})
    with pytest.raises(BrokenPromise, match="shard b has no receipt"):
        all_settled(plan, {"a": receipt(plan.shards[0])})
