from __future__ import annotations

import dataclasses
import datetime as dt
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from camtrap_batch.errors import Damaged, InputError
from camtrap_batch.job import Job
from camtrap_batch.store import corrections
from camtrap_batch.store.check import check
from camtrap_batch.store.corrections import (
    JOURNAL,
    Correction,
    fold,
    read_corrections,
    record,
    standing,
    write_journal,
)
from camtrap_batch.store.folder import Folder
from camtrap_batch.store.gc import collect
from camtrap_batch.store.run import Run

NOON = dt.datetime(2026, 11, 30, 12, tzinfo=dt.UTC)


def said(label: str, *images: str, minutes: float = 0, **more: object) -> Correction:
    """What Ada said of images whose hashes are their ids in capitals."""
    content = {"who": "ada", "source": "review", "sha256": tuple(name.upper() for name in images), **more}
    return Correction(label, images, when=NOON + dt.timedelta(minutes=minutes), **content)  # type: ignore[arg-type]


def images(**hashes: str | None) -> pa.Table:
    columns = {"image_id": list(hashes), "sha256": list(hashes.values())}
    return pa.table(columns, pa.schema([("image_id", pa.string()), ("sha256", pa.string())]))


def labels(corrections: list[Correction], now: pa.Table, run: Run) -> dict[str, list[str]]:
    record(run, corrections)
    found: dict[str, list[str]] = {}
    for row in standing(read_corrections(run), now).to_pylist():
        found.setdefault(now["image_id"][row["row"]].as_py(), []).append(row["label"])
    return found


@pytest.fixture(params=["disk", "memory"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Run:
    output = str(tmp_path) if request.param == "disk" else f"memory://{tmp_path.name}"
    content = {
        "name": "run",
        "output": output,
        "dataset": {"format": "folder", "images": str(tmp_path / "photos")},
    }
    return Run(Job.parse(content, base=tmp_path))


def test_the_newest_decision_counts_and_the_older_one_is_kept(run: Run) -> None:
    now = images(a="A", b="B")
    assert labels([said("lion", "a", "b")], now, run) == {"a": ["lion"], "b": ["lion"]}
    assert labels([said("leopard", "b", minutes=1)], now, run) == {"a": ["lion"], "b": ["leopard"]}
    assert read_corrections(run)["label"].to_pylist() == ["lion", "leopard"]


def test_told_twice_is_kept_once(run: Run) -> None:
    assert record(run, [said("lion", "a"), said("lion", "a")]) == 1
    assert record(run, [said("lion", "a")]) == 0
    fold(run)
    assert record(run, [said("lion", "a")]) == 0
    write_journal(run.folder, [said("lion", "a")])
    assert read_corrections(run).num_rows == 1
    snapshot = fold(run)
    assert snapshot is not None
    assert (snapshot.number, snapshot.rows) == (1, 1)
    assert run.folder.list(JOURNAL) == []


def test_what_was_said_is_the_same_before_and_after_it_is_folded(run: Run) -> None:
    record(run, [said("lion", "a", count=2, sex="female", box=(0.1, 0.2, 0.3, 0.4), scope="box")])
    record(run, [said("person", "c", minutes=2, comment="a ranger", replaces="0123")])
    before = read_corrections(run)
    snapshot = fold(run)
    assert snapshot is not None
    assert run.table("corrections").to_table().equals(before)
    record(run, [said("empty", "a", minutes=3)])
    assert fold(run).rows == 3  # type: ignore[union-attr]
    assert run.table("corrections", 1).to_table().equals(before)


def test_several_species_of_one_decision_stand_together(run: Run) -> None:
    both = [
        said("zebra", "a", "b", scope="event", event="e1"),
        said("gnu", "a", "b", scope="event", event="e1"),
    ]
    now = images(a="A", b="B")
    assert {name: sorted(some) for name, some in labels(both, now, run).items()} == {
        "a": ["gnu", "zebra"],
        "b": ["gnu", "zebra"],
    }
    assert labels([said("empty", "b", minutes=5)], now, run)["b"] == ["empty"]


def test_of_one_time_what_is_said_of_the_image_counts(run: Run) -> None:
    told = [said("lion", "a", "b", scope="event", event="e1"), said("hyena", "b")]
    assert labels(told, images(a="A", b="B"), run) == {"a": ["lion"], "b": ["hyena"]}


def test_a_renamed_image_keeps_what_was_said_of_it(run: Run) -> None:
    assert labels([said("lion", "a")], images(z="A"), run) == {"z": ["lion"]}


def test_another_picture_under_the_old_name_does_not(run: Run) -> None:
    assert labels([said("lion", "a")], images(a="X"), run) == {}


def test_an_image_that_has_no_hash_is_known_by_its_name(run: Run) -> None:
    assert labels([said("lion", "a", sha256=(None,))], images(a=None, b=None), run) == {"a": ["lion"]}


def test_copies_share_what_was_said(run: Run) -> None:
    assert labels([said("lion", "a")], images(a="A", copy="A"), run) == {"a": ["lion"], "copy": ["lion"]}


def test_taken_back(run: Run) -> None:
    back = said("x", "a", minutes=1)
    now = images(a="A")
    assert labels([said("lion", "a"), dataclasses.replace(back, label=None)], now, run) == {}
    assert labels([said("lion", "a", minutes=2)], now, run) == {"a": ["lion"]}
    assert read_corrections(run)["label"].to_pylist() == ["lion", None, "lion"]


def test_boxes_beside_their_image(run: Run) -> None:
    left, right = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 0.5, 1.0)
    told = [
        said("lion", "a", scope="box", box=left),
        said("hyena", "a", scope="box", box=right, minutes=1),
        said("jackal", "a", scope="box", box=right, minutes=2),
    ]
    now = images(a="A")
    assert sorted(labels(told, now, run)["a"]) == ["jackal", "lion"]
    assert labels([said("empty", "a", minutes=3)], now, run) == {"a": ["empty"]}


def test_nobody_loses_anything_to_another(run: Run) -> None:
    def tell(number: int) -> None:
        record(run, [said("lion", f"i{number}", who=f"person {number % 2}")])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(tell, range(40)))
        pool.submit(fold, run).result()
    assert read_corrections(run).num_rows == 40


def test_garbage_collection_keeps_it(run: Run) -> None:
    record(run, [said("lion", "a")])
    fold(run)
    record(run, [said("lion", "b", minutes=1)])
    collect(run.folder, keep=1)
    assert read_corrections(run)["image_id"].to_pylist() == ["a", "b"]


def test_a_damaged_journal_is_named_and_stays(run: Run) -> None:
    record(run, [said("lion", "a")])
    (name,) = run.folder.list(JOURNAL)
    run.folder.write(f"{JOURNAL}/{name}", b"[{")
    with pytest.raises(Damaged, match=f"{JOURNAL}/{name}: what people said in it can't be read"):
        fold(run)
    assert run.folder.list(JOURNAL) == [name]


@pytest.mark.parametrize(
    "content",
    ['{"correction_id": "1"}', "[1]", "[{}]", "null"],
)
def test_a_journal_that_is_json_and_no_journal(run: Run, content: str) -> None:
    run.folder.write(f"{JOURNAL}/x.json", content.encode())
    with pytest.raises(Damaged, match=rf"{JOURNAL}/x\.json: what people said in it can't be read"):
        read_corrections(run)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("correction_id", None), ("sha256", ["A", "B"]), ("images", 7), ("when", 7)),
        *(("count", "many"), ("count", 10**30)),
    ],
)
def test_a_correction_with_a_wrong_value_is_told(run: Run, key: str, value: object) -> None:
    """It is neither passed over nor taken for another one."""
    record(run, [said("lion", "a"), said("lion", "b")])
    (name,) = run.folder.list(JOURNAL)
    rows = json.loads(run.folder.read(f"{JOURNAL}/{name}"))
    rows[1][key] = value
    run.folder.write(f"{JOURNAL}/{name}", json.dumps(rows).encode())
    with pytest.raises(Damaged, match=f"{JOURNAL}/{name}: "):
        fold(run)
    (fault,) = check(run.folder, repair=True).faults
    assert (fault.file, fault.then.partition(",")[0]) == (f"{JOURNAL}/{name}", "repair it")
    assert run.folder.list(JOURNAL) == [name]


@pytest.mark.parametrize("wrong", [{"count": 2**31}, {"count": 10**30}, {"comment": "\ud800"}])
def test_what_could_not_be_read_again_is_not_written(run: Run, wrong: dict[str, Any]) -> None:
    record(run, [said("lion", "a")])
    with pytest.raises(InputError, match="a correction can't be recorded"):
        record(run, [said("oryx", "a", minutes=1), dataclasses.replace(said("oryx", "b"), **wrong)])
    assert read_corrections(run)["label"].to_pylist() == ["lion"]


@pytest.fixture
def twice(run: Run) -> Run:
    """Two corrections, one after the other made part of the table."""
    for number, name in enumerate("ab"):
        record(run, [said("lion", name, minutes=number)])
        fold(run)
    return run


def told(run: Run) -> list[str]:
    found: list[str] = read_corrections(run)["image_id"].to_pylist()
    return found


def file_of(run: Run, number: int) -> str:
    return run.snapshot("corrections").files[number].file


@pytest.mark.parametrize("harm", ["flipped", "cut off", "gone"])
@pytest.mark.parametrize("number", [0, 1])
def test_a_damaged_file_of_the_table_is_restored(twice: Run, number: int, harm: str) -> None:
    path = file_of(twice, number)
    data = twice.folder.read(path)
    match harm:
        case "flipped":
            twice.folder.write(path, data[:60] + bytes([data[60] ^ 1]) + data[61:])
        case "cut off":
            twice.folder.write(path, data[:-9])
        case "gone":
            twice.folder.delete(path)
    with pytest.raises(Damaged, match=rf"{path}: .*camtrap check JOB --repair"):
        read_corrections(twice)
    (fault,) = check(twice.folder).faults
    assert (fault.file, fault.then) == (path, "it is restored from its copy")
    check(twice.folder, repair=True)
    assert twice.folder.read(path) == data
    assert told(twice) == ["a", "b"]
    assert check(twice.folder).faults == []


@pytest.mark.parametrize("harm", [b"", b'{"table": "corr', None], ids=["empty", "cut off", "gone"])
@pytest.mark.parametrize("number", [1, 2])
def test_a_snapshot_that_is_lost_takes_nothing_with_it(twice: Run, number: int, harm: bytes | None) -> None:
    """An older one holds less: it is not taken in its place."""
    path = f"snapshots/corrections/{number}.json"
    twice.folder.delete(path)
    if harm is not None:
        twice.folder.write(path, harm)
    if number == 2:
        for call in (read_corrections, fold):
            with pytest.raises(Damaged, match=rf"{path}: .*camtrap check JOB --repair"):
                call(twice)
    assert bool(check(twice.folder).faults) == (number == 2 or harm is not None)
    check(twice.folder, repair=True)
    assert told(twice) == ["a", "b"]
    assert check(twice.folder).faults == []
    assert twice.folder.list("redo") == []


def test_where_records_are_lost_the_files_are_enough(twice: Run) -> None:
    for folder in ("snapshots/corrections", "receipts/corrections", "plans/corrections"):
        for path in list(twice.folder.walk(folder)):
            twice.folder.delete(path)
    check(twice.folder, repair=True)
    assert told(twice) == ["a", "b"]
    assert check(twice.folder).is_sound


def test_gc_takes_nothing_away_that_people_said(twice: Run) -> None:
    path = file_of(twice, 0)
    for name in (path, f"copies/{path}"):
        twice.folder.write(name, b"PAR1")
    check(twice.folder, repair=True)
    assert told(twice) == ["b"]
    collect(twice.folder, keep=1, min_age_s=-60)
    assert twice.folder.read(f"damaged/{path}") == b"PAR1"
    assert told(twice) == ["b"]


def test_two_folds_at_once_lose_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one writes what it has read, another reads more, and is done before."""
    record(run, [said("lion", "a")])
    write, is_second = corrections.finish_shard, []

    def slowly(*args: Any, **options: Any) -> Any:
        if not is_second:
            is_second.append(True)
            record(run, [said("lion", "b", minutes=1)])
            assert fold(run).rows == 2  # type: ignore[union-attr]
        return write(*args, **options)

    monkeypatch.setattr(corrections, "finish_shard", slowly)
    fold(run)
    assert told(run) == ["a", "b"]
    assert run.folder.list(JOURNAL) == []


FOLDING = """
import datetime as dt, sys
from pathlib import Path
from camtrap_batch.job import Job
from camtrap_batch.store.corrections import Correction, fold, record
from camtrap_batch.store.run import Run
base, who = Path(sys.argv[1]), sys.argv[2]
content = dict(name="run", output=str(base), dataset=dict(format="folder", images=str(base / "photos")))
run = Run(Job.parse(content, base=base))
for number in range(12):
    when = dt.datetime(2026, 1, 1, 0, number, tzinfo=dt.UTC)
    record(run, [Correction("lion", (f"{who}{number}",), (None,), who, when, "review")])
    fold(run)
"""


def test_processes_that_fold_at_once_lose_nothing(tmp_path: Path) -> None:
    """People who end `camtrap review` and `camtrap corrections` in the same moment."""
    processes = [
        subprocess.Popen([sys.executable, "-c", FOLDING, str(tmp_path), who]) for who in ("ada", "bo")
    ]
    assert [process.wait(60) for process in processes] == [0, 0]
    content = {
        "name": "run",
        "output": str(tmp_path),
        "dataset": {"format": "folder", "images": str(tmp_path / "photos")},
    }
    run = Run(Job.parse(content, base=tmp_path))
    assert read_corrections(run).num_rows == 24
    assert fold(run).rows == 24  # type: ignore[union-attr]
    assert check(run.folder).faults == []


def test_killed_between_commit_and_clearing_the_journal(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    record(run, [said("lion", "a")])

    def die(folder: Folder, path: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "delete", die)
        with pytest.raises(KeyboardInterrupt):
            fold(run)
    assert read_corrections(run).num_rows == 1
    snapshot = fold(run)
    assert snapshot is not None
    assert (snapshot.number, snapshot.rows, run.folder.list(JOURNAL)) == (1, 1, [])


def test_durable_when_the_process_is_killed_at_once(tmp_path: Path) -> None:
    script = f"""
import datetime as dt, os
from camtrap_batch.job import Job
from camtrap_batch.store.corrections import Correction, record
from camtrap_batch.store.run import Run
from pathlib import Path
base = Path({str(tmp_path)!r})
content = dict(name="run", output=str(base), dataset=dict(format="folder", images=str(base / "photos")))
run = Run(Job.parse(content, base=base))
for number in range(20):
    when = dt.datetime(2026, 1, 1, 0, number, tzinfo=dt.UTC)
    record(run, [Correction("lion", (f"i{{number}}",), (None,), "ada", when, "review")])
os.kill(os.getpid(), 9)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9
    content = {
        "name": "run",
        "output": str(tmp_path),
        "dataset": {"format": "folder", "images": str(tmp_path / "photos")},
    }
    assert read_corrections(Run(Job.parse(content, base=tmp_path))).num_rows == 20


def test_ids_do_not_depend_on_the_time_zone(run: Run) -> None:
    elsewhere = dataclasses.replace(
        said("lion", "a"), when=NOON.astimezone(dt.timezone(dt.timedelta(hours=2)))
    )
    assert elsewhere.correction_id == said("lion", "a").correction_id


@pytest.mark.parametrize("which", ["original", "copy", "none"])
def test_a_file_that_no_record_names_any_more(twice: Run, which: str) -> None:
    """Damage to its pages shows all the same, whichever column they are of, and the copy takes its place."""
    path = file_of(twice, 1)
    for name in [*twice.folder.walk("snapshots/corrections"), *twice.folder.walk("receipts/corrections")]:
        twice.folder.delete(name)
    data = twice.folder.read(path)
    at = data.index(b"leopard" if b"leopard" in data else b"ada")
    spoilt = {"original": path, "copy": f"copies/{path}"}.get(which)
    if spoilt:
        twice.folder.write(spoilt, data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    check(twice.folder, repair=True)
    assert twice.folder.read(path) == data
    assert told(twice) == ["a", "b"]
    check(twice.folder, repair=True)  # now that the original's hash is recorded, its copy is judged, too
    assert check(twice.folder).faults == []
