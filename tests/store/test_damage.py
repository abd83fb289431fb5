"""What is damaged in a run folder is told with its file, counts as not there, and is made again."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from support_store import TABLES, make_plan, read, rows_of, run

from camtrap_batch import notices
from camtrap_batch.errors import BrokenPromise, Damaged
from camtrap_batch.store import redo, snapshots
from camtrap_batch.store.folder import Folder
from camtrap_batch.store.records import Unreadable
from camtrap_batch.store.schemas import SCHEMAS
from camtrap_batch.store.shards import (
    Plan,
    Receipt,
    Shard,
    all_settled,
    file_receipt,
    find_receipts,
    unsettled,
)
from camtrap_batch.store.tables import (
    commit_plan,
    find_damage,
    open_table,
    read_file,
    read_whole_files,
    stands,
)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """A run folder with a committed plan."""
    folder = Folder(str(tmp_path / "run"))
    run(folder, make_plan())
    return folder


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    monkeypatch.setattr(notices, "_told", set())
    caplog.set_level(logging.WARNING, logger="camtrap_batch")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "camtrap_batch"]


def parquet(folder: Folder, number: int = 1, table: str = "selection") -> Path:
    snapshot = snapshots.current(folder, table)
    assert snapshot is not None
    return folder.local(snapshot.files[number].file)


def flip(path: Path) -> None:
    """Another byte in the first page of the file's data; its size stays."""
    data = bytearray(path.read_bytes())
    data[data.index(b"lion") if b"lion" in data else 60] ^= 0x20
    path.write_bytes(data)


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def add_byte(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x")


def zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("harm", [flip, zero, cut_off, add_byte, empty, Path.unlink])
def test_a_damaged_file_is_named_when_it_is_read(folder: Folder, harm: Callable[[Path], None]) -> None:
    path = parquet(folder)
    snapshot = snapshots.load(folder, "selection", 1)
    harm(path)
    name = re.escape(str(path))
    if harm is add_byte:  # what there is can be read; the size is looked at before a stage stands on it
        assert not stands(folder, make_plan(), TABLES)
        return
    with pytest.raises(Damaged, match=rf"^{name}: (is|has) .*`camtrap check JOB --repair`") as caught:
        open_table(folder, snapshot).to_table()
    assert caught.value.file == snapshot.files[1].file
    with pytest.raises(Damaged, match=name):
        list(open_table(folder, snapshot).to_batches())
    with pytest.raises(Damaged, match=name):
        read_file(folder, snapshot.files[1].file)
    assert find_damage(folder, snapshot.files[1].file) is not None
    table, files = read_whole_files(folder, snapshot, SCHEMAS["selection"].names)
    assert files == [snapshot.files[0], snapshot.files[2]]
    assert table.num_rows == 4


@pytest.mark.parametrize("harm", [cut_off, add_byte, empty, Path.unlink])
@pytest.mark.parametrize("table", TABLES)
def test_a_file_that_is_not_whole_is_made_again(
    folder: Folder, told: Callable[[], list[str]], harm: Callable[[Path], None], table: str
) -> None:
    plan, path = make_plan(), parquet(folder, table=table)
    assert stands(folder, plan, TABLES)
    harm(path)
    assert not stands(folder, plan, TABLES)
    receipts = find_receipts(folder, plan)
    assert unsettled(plan.shards, receipts) == [plan.shards[1]]
    assert any(line.startswith(f"{path}: ") and "its shard is redone" in line for line in told())
    with pytest.raises(BrokenPromise, match="shard v1s1 has no receipt"):
        all_settled(plan, receipts)
    run(folder, plan, even_if_current=True)
    assert read(folder) == rows_of(folder, plan)
    assert stands(folder, plan, TABLES)
    assert snapshots.numbers(folder, "selection") == [1, 2]


def test_a_commit_looks_at_its_files(folder: Folder) -> None:
    plan = make_plan()
    receipts = all_settled(plan, find_receipts(folder, plan))
    path = parquet(folder)
    path.unlink()
    with pytest.raises(BrokenPromise, match=rf"{path}: is missing; nothing was committed"):
        commit_plan(folder, plan, receipts, TABLES, inputs={})
    assert snapshots.numbers(folder, "selection") == [1]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"stage": "select"}', b"\xff\xfe", b'{"rows": "x"}'])
def test_a_receipt_that_cant_be_read_is_none(
    folder: Folder, told: Callable[[], list[str]], content: bytes
) -> None:
    plan = make_plan()
    path = Receipt("select", plan.id, "v1s1", 2, (), {}, {}, {}, "", "").path
    folder.write(path, content)
    assert set(find_receipts(folder, plan)) == {"v1s0", "v1s2"}
    (line,) = told()
    assert line.startswith(f"{folder.url}/{path}: is ")
    run(folder, plan, even_if_current=True)
    assert set(find_receipts(folder, plan)) == {"v1s0", "v1s1", "v1s2"}
    assert read(folder) == rows_of(folder, plan)


def test_where_a_receipt_is_of_no_use_another_plans_is_taken(folder: Folder) -> None:
    plan = make_plan()
    good = find_receipts(folder, plan)["v1s1"]
    folder.write(f"receipts/select/other/{good.shard_id}.json", good.to_json())
    folder.write(good.path, b"{")
    assert find_receipts(folder, plan)["v1s1"] == good


def test_fields_of_a_newer_version_are_kept(folder: Folder) -> None:
    plan = make_plan()
    (receipt, *_) = find_receipts(folder, plan).values()
    record = json.loads(folder.read(receipt.path))
    record["color"] = "red"
    record["files"][0]["rings"] = [1, 2]
    folder.write(receipt.path, json.dumps(record).encode())
    found = find_receipts(folder, plan)[receipt.shard_id]
    assert found.more == {"color": "red"}
    assert found.files[0].more == {"rings": [1, 2]}
    assert {**json.loads(found.to_json()), "sum": record["sum"]} == record
    done = [found, *list(find_receipts(folder, plan).values())[1:]]
    commit_plan(folder, plan, done, TABLES, inputs={})
    path = "snapshots/selection/2.json"
    record = json.loads(folder.read(path))
    assert record["files"][0]["rings"] == [1, 2]
    folder.write(path, json.dumps({**record, "mood": "calm"}).encode())
    newest = snapshots.current(folder, "selection")
    assert newest is not None
    assert newest.number == 2
    assert newest.more == {"mood": "calm"}


def test_what_an_earlier_version_wrote_has_no_hashes(folder: Folder) -> None:
    """Its sizes are still compared."""
    plan = make_plan()
    for path in [*folder.walk("receipts"), *folder.walk("snapshots")]:
        if path.endswith(".json"):
            record = json.loads(folder.read(path))
            for file in record["files"]:
                del file["sha256"]
            folder.write(path, json.dumps(record).encode())
    assert len(find_receipts(folder, plan)) == 3
    assert stands(folder, plan, TABLES)
    cut_off(parquet(folder))
    assert not stands(folder, plan, TABLES)


@pytest.mark.parametrize("content", [b"", b"\n", b"abc", b"\xff"])
def test_current_falls_back_to_the_newest_snapshot(
    folder: Folder, told: Callable[[], list[str]], content: bytes
) -> None:
    run(folder, make_plan(2))
    folder.write("snapshots/selection/CURRENT", content)
    found = snapshots.current(folder, "selection")
    assert found is not None
    assert found.number == 2
    (line,) = told()
    assert line.startswith(f"{folder.url}/snapshots/selection/CURRENT: ")
    assert "the newest snapshot that can be read" in line


@pytest.mark.parametrize("content", [b"", b'{"table": "selec', b"[]", b'{"files": 3}'])
def test_a_snapshot_that_cant_be_read_is_passed_over(
    folder: Folder, told: Callable[[], list[str]], content: bytes
) -> None:
    run(folder, make_plan(2))
    folder.write("snapshots/selection/2.json", content)
    found = snapshots.current(folder, "selection")
    assert found is not None
    assert found.number == 1
    assert told()[0].startswith(f"{folder.url}/snapshots/selection/2.json: is ")
    with pytest.raises(Damaged, match=r"snapshots/selection/2\.json: is "):
        snapshots.load(folder, "selection", 2)
    run(folder, make_plan(2))
    assert snapshots.numbers(folder, "selection") == [1, 2, 3]
    assert read(folder) == rows_of(folder, make_plan(2))
    folder.write("snapshots/selection/1.json", b"")
    folder.write("snapshots/selection/3.json", b"")
    assert snapshots.current(folder, "selection") is None, "as if it had never been committed"


def test_current_never_goes_back(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that is held up before it writes CURRENT meets another that commits meanwhile."""
    plan = make_plan()
    receipts = all_settled(plan, find_receipts(folder, plan))
    write, seen = Folder.write, []

    def slow(self: Folder, path: str, data: bytes) -> None:
        if path == "snapshots/selection/CURRENT" and not seen:
            seen.append(path)
            commit_plan(folder, plan, receipts, TABLES, inputs={})
            assert folder.read(path) == b"3"
        write(self, path, data)

    monkeypatch.setattr(Folder, "write", slow)
    committed = commit_plan(folder, plan, receipts, TABLES, inputs={})
    assert committed["selection"].number == 2
    assert folder.read("snapshots/selection/CURRENT") == b"3"
    write(folder, "snapshots/selection/CURRENT", b"2")  # as it stands until the slower one looks again
    newest = snapshots.current(folder, "selection")
    assert newest is not None
    assert newest.number == 3


def test_a_plan_that_cant_be_read_is_written_again(folder: Folder) -> None:
    plan = make_plan()
    folder.write(plan.path, b"{")
    with pytest.raises(Unreadable, match="is cut off"):
        Plan.from_json(folder.read(plan.path))
    plan.freeze(folder)
    assert Plan.from_json(folder.read(plan.path)) == plan


def test_what_is_asked_is_done_again_once(folder: Folder, told: Callable[[], list[str]]) -> None:
    plan = make_plan()
    before = find_receipts(folder, plan)
    redo.ask(folder, "select", {"v1s1": [before["v1s1"].attempt], "gone": ["x"]})
    assert not stands(folder, plan, TABLES)
    assert unsettled(plan.shards, find_receipts(folder, plan)) == [plan.shards[1]]
    run(folder, plan, even_if_current=True)
    after = find_receipts(folder, plan)
    assert {name for name in after if after[name] != before[name]} == {"v1s1"}
    assert stands(folder, plan, TABLES)
    assert redo.asked(folder, "select") == {}
    folder.write("redo/select.json", b"{")
    assert stands(folder, plan, TABLES)
    assert told()[-1].startswith(f"{folder.url}/redo/select.json: is cut off")


def test_a_receipt_is_replaced_where_its_files_are_gone(folder: Folder) -> None:
    plan = make_plan()
    receipt = find_receipts(folder, plan)["v1s0"]
    other = Receipt("select", plan.id, "v1s0", 2, (), {}, {}, {}, "w", "other")
    assert file_receipt(folder, other) == receipt, "the first one wins"
    folder.delete(receipt.files[0].file)
    assert file_receipt(folder, other) == other


def test_hashes_are_of_the_files(folder: Folder) -> None:
    for path in folder.walk("snapshots"):
        if path.endswith(".json"):
            for file in json.loads(folder.read(path))["files"]:
                assert file["sha256"] == hashlib.sha256(folder.read(file["file"])).hexdigest()


def test_unsettled_does_not_grow_with_the_square() -> None:
    """Counted in looks at receipts, which a clock on a busy machine can't disturb."""
    looks = 0

    class Counting(dict[str, Receipt]):
        def __iter__(self):  # type: ignore[no-untyped-def]
            nonlocal looks
            for name in super().__iter__():
                looks += 1
                yield name

    shards = [Shard(f"s{number}", number * 4, number * 4 + 4) for number in range(20_000)]
    receipts = Counting()
    for shard in shards[::2]:
        for half in shard.halves():
            receipts[half.id] = Receipt("s", "p", half.id, 2, (), {}, {}, {}, "w", "a")
    assert unsettled(shards, receipts) == shards[1::2]
    assert looks <= len(receipts)


def test_a_folder_with_nothing_in_it(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path / "run"))
    assert snapshots.current(folder, "selection") is None
    assert find_receipts(folder, make_plan()) == {}
