"""`camtrap check`: each fault with its file, and after a repair the next run makes exactly that again."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from support_store import TABLES, make_plan, read, rows_of, run

from camtrap_batch.errors import InputError, LeaseHeld
from camtrap_batch.store import lease, redo, snapshots
from camtrap_batch.store.check import Report, check
from camtrap_batch.store.folder import Folder
from camtrap_batch.store.gc import collect
from camtrap_batch.store.shards import File, Receipt, ask_again, find_receipts, unsettled
from camtrap_batch.store.tables import open_table, stands


@pytest.fixture
def made(folder: Folder) -> Folder:
    """A run folder with a committed plan, on a disk or in a bucket."""
    with lease.hold(folder, "job", "select"):
        run(folder, make_plan())
    return folder


def names(report: Report) -> list[str]:
    return [fault.file for fault in report.faults if fault.counts]


def damaged(folder: Folder, path: str, change: Callable[[bytes], bytes]) -> str:
    data = change(folder.read(path))
    folder.write(path, data)
    return path


def flipped(data: bytes) -> bytes:
    return data[:60] + bytes([data[60] ^ 1]) + data[61:]


def flipped_first(data: bytes) -> bytes:
    return bytes([data[0] ^ 1]) + data[1:]


def file_of(folder: Folder, number: int = 1, table: str = "selection") -> str:
    snapshot = snapshots.current(folder, table)
    assert snapshot is not None
    return snapshot.files[number].file


def redone(folder: Folder) -> set[str]:
    """The shards that the next run does, once it has."""
    plan, before = make_plan(), find_receipts(folder, make_plan())
    if stands(folder, plan, TABLES):
        return set()
    left = {shard.id for shard in unsettled(plan.shards, find_receipts(folder, plan))}
    with lease.hold(folder, "job", "select"):
        run(folder, plan, even_if_current=True)
    after = find_receipts(folder, plan)
    assert left == {name for name in after if after[name] != before.get(name)}
    return left


def test_a_sound_folder(made: Folder) -> None:
    report = check(made)
    assert report.faults == []
    assert report.files > 10
    assert report.bytes > 0
    assert check(made, repair=True).faults == []
    assert redone(made) == set()


HARMS: dict[str, Callable[[bytes], bytes]] = {
    "flipped": flipped,
    "cut off": lambda data: data[: len(data) // 2],
    "longer": lambda data: data + b"x",
    "zeros": lambda data: bytes(len(data)),
    "empty": lambda data: b"",
}


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("table", TABLES)
def test_a_damaged_file_of_a_table(tmp_path: Path, harm: str, table: str) -> None:
    folder = Folder(str(tmp_path))
    run(folder, make_plan())
    path = damaged(folder, file_of(folder, table=table), HARMS[harm])
    before = sorted(folder.walk())
    report = check(folder)
    assert names(report) == [path]
    assert report.again == {"select": {"v1s1"}}
    assert sorted(folder.walk()) == before, "nothing is written unless it is to be repaired"
    assert names(check(folder, repair=True)) == [path]
    assert redone(folder) == {"v1s1"}
    assert check(folder).faults == [], "nor does an earlier snapshot need it any more"
    assert read(folder) == rows_of(folder, make_plan())
    earlier = open_table(folder, snapshots.load(folder, "selection", 1)).to_table()
    assert earlier["image_id"].to_pylist() == rows_of(folder, make_plan())


def test_a_damaged_file_without_a_hash_is_decoded(tmp_path: Path) -> None:
    """An earlier version wrote it; its pages have checksums, as those of this version have."""
    folder = Folder(str(tmp_path))
    run(folder, make_plan())
    for path in [*folder.walk("receipts"), *folder.walk("snapshots")]:
        if path.endswith(".json"):
            record = json.loads(folder.read(path))
            for file in record["files"]:
                del file["sha256"]
            folder.write(path, json.dumps(record).encode())
    assert check(folder).faults == []
    path = damaged(folder, file_of(folder), flipped)
    assert names(check(folder)) == [path]


def test_a_file_that_is_gone(made: Folder) -> None:
    path = file_of(made)
    made.delete(path)
    report = check(made, repair=True)
    assert [(fault.file, fault.what) for fault in report.faults] == [(path, "is missing")]
    assert redone(made) == {"v1s1"}
    assert check(made).faults == []


@pytest.mark.parametrize("path", ["snapshots/selection/CURRENT", "snapshots/selection/7.json"])
def test_a_folder_where_a_file_should_be(tmp_path: Path, path: str) -> None:
    folder = Folder(str(tmp_path))
    run(folder, make_plan())
    folder.delete(path)
    folder.local(path).mkdir()
    assert (path, "is a folder where a file should be") in {
        (fault.file, fault.what) for fault in check(folder).faults
    }


def test_a_receipt_that_is_gone(made: Folder) -> None:
    path = f"receipts/select/{make_plan().id}/v1s1.json"
    made.delete(path)
    assert names(check(made)) == [path]
    check(made, repair=True)
    assert redone(made) == {"v1s1"}
    assert check(made).faults == []


def test_a_plan_that_is_gone(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    run(folder, make_plan())
    folder.delete(make_plan().path)
    assert names(check(folder)) == [make_plan().path]
    check(folder, repair=True)
    assert redone(folder) == set(), "it is written again, and no shard done"
    assert check(folder).faults == []


@pytest.mark.parametrize("content", [b"", b"{", b'{"stage": "select"}', b"[1]"])
def test_a_damaged_receipt(tmp_path: Path, content: bytes) -> None:
    folder = Folder(str(tmp_path))
    run(folder, make_plan())
    path = f"receipts/select/{make_plan().id}/v1s2.json"
    folder.write(path, content)
    assert names(check(folder)) == [path]
    check(folder, repair=True)
    assert redone(folder) == {"v1s2"}
    assert check(folder).faults == []


def test_a_receipt_of_another_plan_is_only_deleted(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    run(folder, make_plan(1))
    run(folder, make_plan(2))
    path = f"receipts/select/{make_plan(1).id}/v1s2.json"
    folder.write(path, b"{")
    assert names(check(folder)) == [path]
    report = check(folder, repair=True)
    assert report.again == {}
    assert not folder.exists(path)
    assert check(folder).faults == []
    assert stands(folder, make_plan(2), TABLES)


@pytest.mark.parametrize("table", TABLES)
def test_a_damaged_snapshot(tmp_path: Path, table: str) -> None:
    """What was made together is committed together again; no shard is done for it."""
    folder = Folder(str(tmp_path))
    run(folder, make_plan())
    path = f"snapshots/{table}/1.json"
    folder.write(path, b'{"table": "sel')
    assert names(check(folder)) == [path, f"snapshots/{table}/CURRENT"][: len(names(check(folder)))]
    check(folder, repair=True)
    assert not folder.exists(path)
    run(folder, make_plan(), even_if_current=not stands(folder, make_plan(), TABLES))
    assert read(folder) == rows_of(folder, make_plan())
    assert read(folder, "thumbnails") is None or len(read(folder, "thumbnails")) == 3  # type: ignore[arg-type]
    assert len(find_receipts(folder, make_plan())) == 3
    assert check(folder).faults == []


@pytest.mark.parametrize("content", [b"", b"9", b"x", None])
def test_a_damaged_pointer(tmp_path: Path, content: bytes | None) -> None:
    folder = Folder(str(tmp_path))
    run(folder, make_plan())
    path = "snapshots/selection/CURRENT"
    folder.delete(path)
    if content is not None:
        folder.write(path, content)
    assert names(check(folder)) == [path]
    check(folder, repair=True)
    assert folder.read(path) == b"1"
    assert check(folder).faults == []
    assert redone(folder) == set()


def test_a_damaged_plan_is_written_again(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    run(folder, make_plan())
    plan = make_plan()
    folder.write(plan.path, folder.read(plan.path).replace(b"v1s1", b"v1s9"))
    assert names(check(folder)) == [plan.path]
    check(folder, repair=True)
    before = find_receipts(folder, plan)
    assert not stands(folder, plan, TABLES)
    assert redone(folder) == set()
    assert find_receipts(folder, plan) == before
    assert check(folder).faults == []


def test_the_log_and_other_records(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    run(folder, make_plan())
    folder.append("log.jsonl", b'{"event": "a"}\nrubbish\n{"event": "b"}\n{"eve')
    folder.write("redo/select.json", b"{")
    folder.write("lease/1.json", b"")
    folder.write("attachments/0123/7-5", b"1234")
    folder.write("format.json", b"")
    expected = ["attachments/0123/7-5", "format.json", "lease/1.json", "log.jsonl", "redo/select.json"]
    assert names(check(folder)) == expected
    check(folder, repair=True)
    assert check(folder).faults == []
    assert folder.read("log.jsonl") == b'{"event": "a"}\n{"event": "b"}\n'


def test_what_others_have_put_there_stays(folder: Folder) -> None:
    run(folder, make_plan())
    notes = [
        "snapshots/notes.json", "snapshots/selection/notes.txt", "receipts/a.json", "receipts/select/a.json",
        "plans/readme.md", "plans/select/readme.md", "lease/readme", "redo/readme", "models/readme",
        "corrections/readme", "tables/corrections/readme", "copies/readme",
    ]  # fmt: skip
    for path in notes:
        folder.write(path, b"mine")
    assert check(folder, repair=True).faults == []
    collect(folder, keep=1)
    assert all(folder.read(path) == b"mine" for path in notes)


def test_a_symbolic_link_in_the_run_folder(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path / "run"))
    run(folder, make_plan())
    (tmp_path / "run" / "models").symlink_to(tmp_path)
    (fault,) = check(folder).faults
    assert (fault.file, fault.then) == ("models", "remove it")


def test_a_damaged_model_is_trained_again(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    run(folder, make_plan())
    receipt = Receipt("train", "p", "t1", 2, (), {}, {}, {}, "w", "a", result={"model_id": "mine"})
    folder.write(receipt.path, receipt.to_json())
    for name in ("mine", "another"):
        folder.write(f"models/{name}/model.json", b"{}")
    report = check(folder, model_fault=lambda model: "is damaged")
    assert [(fault.file, fault.then) for fault in report.faults] == [
        ("models/another", "copy or import it again"),
        ("models/mine", "it is put aside as damaged/models/mine, and trained again"),
    ]
    for number in (1, 2, 2):
        check(folder, repair=True, model_fault=lambda model: "is damaged")
        assert redo.asked(folder, "train") == {"t1": ["a"]}
        assert folder.list("models/another") == ["model.json"]
        assert folder.list("models/mine") == []
        names = ["model.json", "model.json.2"][:number]
        assert folder.list("damaged/models/mine") == names
        folder.write("models/mine/model.json", b"{} another")
    collect(folder, keep=1, min_age_s=-60)
    assert folder.list("damaged/models/mine") == names, "it is somebody's work"
    assert folder.list("models/another") == ["model.json"], "which somebody gave us"


FILES = {
    "model.safetensors": b"weights",
    "model.json": b"{}",
    "metrics.json": b'{"valid": {"n": 1}}',
    "results.svg": b"<svg/>",
}


@pytest.fixture
def trained(tmp_path: Path) -> Folder:
    """A run folder with a trained model, whose receipt has the hashes of its files."""
    folder = Folder(str(tmp_path))
    run(folder, make_plan())
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in FILES.items()}
    result = {"model_id": "mine", "files": hashes}
    receipt = Receipt("train", "p", "t1", 2, (), {}, {}, {}, "w", "a", result=result)
    folder.write(receipt.path, receipt.to_json())
    for name, data in FILES.items():
        folder.write(f"models/mine/{name}", data)
        if name != "model.safetensors":
            folder.write(f"copies/models/mine/{name}", data)
    assert check(folder).faults == []
    return folder


@pytest.mark.parametrize(
    "harm", [lambda data: data + b" ", lambda data: b"", None], ids=["more", "empty", "gone"]
)
@pytest.mark.parametrize("name", FILES)
def test_each_file_of_a_model_is_looked_at(
    trained: Folder, name: str, harm: Callable[[bytes], bytes] | None
) -> None:
    path = f"models/mine/{name}"
    if harm is None:
        trained.delete(path)
    else:
        damaged(trained, path, harm)
    report = check(trained, repair=True)
    assert redo.asked(trained, "train") == ({"t1": ["a"]} if name == "model.safetensors" else {})
    if name == "model.safetensors":
        assert names(report) == ["models/mine"]
        assert trained.list("models/mine") == [], "a model that is there would be left as it is"
        kept = sorted(set(FILES) - ({name} if harm is None else set()))
    else:
        assert [(fault.file, fault.then) for fault in report.faults] == [
            (path, "it is restored from its copy")
        ]
        assert trained.read(path) == FILES[name]
        assert check(trained).faults == []
        kept = [name] if harm is not None else []
    assert trained.list("damaged/models/mine") == kept


def test_a_model_without_a_copy(trained: Folder) -> None:
    """Figures are put aside; a card can't be."""
    for name in FILES:
        trained.delete(f"copies/models/mine/{name}")
    path = damaged(trained, "models/mine/metrics.json", flipped_first)
    assert names(check(trained, repair=True)) == [path]
    assert (trained.list("damaged/models/mine"), redo.asked(trained, "train")) == (["metrics.json"], {})
    assert check(trained).is_sound
    assert trained.read("copies/models/mine/model.json") == FILES["model.json"], "its copy is made again"
    trained.delete("copies/models/mine/model.json")
    damaged(trained, "models/mine/model.json", flipped_first)
    assert names(check(trained, repair=True)) == ["models/mine"]
    assert redo.asked(trained, "train") == {"t1": ["a"]}


def test_a_damaged_copy_is_made_again(trained: Folder) -> None:
    path = damaged(trained, "copies/models/mine/model.json", flipped_first)
    assert names(check(trained, repair=True)) == [path]
    assert trained.read(path) == FILES["model.json"]
    assert check(trained).faults == []


def test_a_model_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    run(folder, make_plan())
    folder.write("models/given/metrics.json", b"{")
    found = {"metrics.json": "no JSON"}
    report = check(folder, repair=True, figure_faults=lambda model: found)
    assert [(fault.file, fault.what) for fault in report.faults] == [
        ("models/given/metrics.json", "is damaged (no JSON)")
    ]
    assert folder.read("damaged/models/given/metrics.json") == b"{"


def test_a_table_that_only_grows_is_never_made_again(tmp_path: Path) -> None:
    """What was answered is not lost with a repair: the file is put aside."""
    folder = Folder(str(tmp_path))
    run(folder, make_plan())
    snapshot = snapshots.current(folder, "selection")
    assert snapshot is not None
    files = []
    for number, file in enumerate(snapshot.files):
        name = f"tables/ledger/p/s{number}-a.parquet"
        folder.write(name, folder.read(file.file))
        files.append(File("ledger", name, file.rows, file.bytes, file.sha256))
        ledger = dataclasses.replace(snapshot, table="ledger", stage="publish", plan_id=f"p{number}")
        snapshots.commit(folder, ledger.with_files(tuple(files)))
    path = damaged(folder, files[1].file, flipped)
    (fault,) = check(folder).faults
    assert fault.file == path
    assert "2 rows: restore it" in fault.then
    check(folder, repair=True)
    ledger = snapshots.current(folder, "ledger")
    assert ledger is not None
    assert (ledger.number, ledger.rows) == (4, 4)
    assert path not in [file.file for file in ledger.files]
    assert check(folder).is_sound
    collect(folder, min_age_s=-60)
    assert folder.exists(f"damaged/{path}")
    # Somebody had a backup.
    folder.write(path, folder.read(snapshot.files[1].file))
    (fault,) = (fault for fault in check(folder, repair=True).faults if fault.counts)
    assert (fault.file, fault.what) == ("snapshots/ledger/4.json", f"lacks 2 rows of {path}")
    assert snapshots.current(folder, "ledger").rows == 6  # type: ignore[union-attr]


def test_no_repair_beside_a_driver(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    run(folder, make_plan())
    mine = lease.take(folder, "job", "infer")
    try:
        assert check(folder).faults == []
        with pytest.raises(LeaseHeld):
            check(folder, repair=True)
    finally:
        mine.release()


def test_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    run(folder, make_plan())
    folder.write("format.json", b'{"format": 99}')
    for repair in (False, True):
        with pytest.raises(InputError, match="newer camtrap-batch"):
            check(folder, repair=repair)


def test_a_shard_is_asked_for_by_people(folder: Folder) -> None:
    run(folder, make_plan())
    with pytest.raises(InputError, match=r"nothing of 'selekt' has been done yet; did you mean 'select'\?"):
        ask_again(folder, "selekt")
    with pytest.raises(InputError, match="no shard 'x' in the last plan of select"):
        ask_again(folder, "select", "x")
    with pytest.raises(InputError, match="3 shards begin with it"):
        ask_again(folder, "select", "v1")
    assert ask_again(folder, "select", "v1s2") == 1
    assert redone(folder) == {"v1s2"}
    assert redone(folder) == set()
    assert ask_again(folder, "select") == 3
    assert redone(folder) == {"v1s0", "v1s1", "v1s2"}
    table = snapshots.current(folder, "selection")
    assert table is not None
    assert open_table(folder, table).to_table()["image_id"].to_pylist() == rows_of(folder, make_plan())


def test_what_was_asked_goes_on_after_a_kill(tmp_path: Path) -> None:
    """One of three is done when the driver is killed; the same command does the other two."""
    folder = Folder(str(tmp_path))
    run(folder, make_plan())
    ask_again(folder, "select")
    find_receipts(folder, make_plan())  # the receipts go
    done = Receipt("select", make_plan().id, "v1s0", 2, (), {}, {}, {}, "w", "new")
    folder.write(done.path, done.to_json())
    ask_again(folder, "select")
    left = unsettled(make_plan().shards, find_receipts(folder, make_plan()))
    assert [shard.id for shard in left] == ["v1s1", "v1s2"]


def test_what_people_ask_for_leaves_earlier_snapshots_as_they_were(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    run(folder, make_plan())
    before = folder.read("snapshots/selection/1.json")
    ask_again(folder, "select", "v1s1")
    assert redone(folder) == {"v1s1"}
    assert folder.read("snapshots/selection/1.json") == before


def test_a_missing_file_heals_without_a_check(tmp_path: Path) -> None:
    """The stage sees by itself that it is gone; what was made of the earlier snapshot can read it again."""
    folder = Folder(str(tmp_path))
    run(folder, make_plan())
    folder.delete(file_of(folder, table="thumbnails"))
    assert redone(folder) == {"v1s1"}
    for table, number in (("thumbnails", 1), ("thumbnails", 2), ("selection", 1), ("selection", 2)):
        assert open_table(folder, snapshots.load(folder, table, number)).to_table().num_rows > 0
    assert check(folder).faults == []


def test_a_damaged_file_that_only_an_earlier_plan_needs(tmp_path: Path) -> None:
    """Its receipt must not be found by a later plan; what the job shows now is as it should be."""
    folder = Folder(str(tmp_path))
    run(folder, make_plan())
    path = damaged(folder, file_of(folder), flipped)
    run(folder, make_plan(2))
    report = check(folder, repair=True)
    assert [(fault.file, fault.counts) for fault in report.faults] == [(path, False)]
    assert report.is_sound
    assert report.again == {}
    assert set(find_receipts(folder, make_plan())) == {"v1s0", "v1s2"}
