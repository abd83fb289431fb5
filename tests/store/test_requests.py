"""What a run folder in a bucket costs, counted in requests that an S3 server answers."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import s3fs
import simplejpeg
import yaml
from support_store import TABLES, make_plan, read, rows_of, run

from camtrap_batch import open_run
from camtrap_batch.cli import main
from camtrap_batch.errors import Damaged
from camtrap_batch.store import snapshots
from camtrap_batch.store.folder import Folder
from camtrap_batch.store.schemas import SELECTION
from camtrap_batch.store.shards import File, Plan, Shard, find_receipts, last_plan, receipt_path
from camtrap_batch.store.tables import open_files, open_table, stands, write_table

SHARDS = 12


@pytest.fixture
def folder(bucket: str) -> Folder:
    return Folder(f"{bucket}/runs/run")


def plan() -> Plan:
    return Plan.make("select", [Shard(f"s{n}", n * 2, n * 2 + 2) for n in range(SHARDS)], {})


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """Requests by kind, such as get_object, head_object and list_objects_v2."""
    requests: Counter[str] = Counter()
    call = s3fs.S3FileSystem._call_s3
    iterate = s3fs.S3FileSystem._iterdir

    async def counting(self: Any, method: str, *args: Any, **options: Any) -> Any:
        requests[method] += 1
        return await call(self, method, *args, **options)

    async def listing(self: Any, *args: Any, **options: Any) -> Any:
        requests["list_objects_v2"] += 1
        async for entry in iterate(self, *args, **options):
            yield entry

    with monkeypatch.context() as patch:
        patch.setattr(s3fs.S3FileSystem, "_call_s3", counting)
        patch.setattr(s3fs.S3FileSystem, "_iterdir", listing)
        yield requests


def test_reading_a_table_asks_for_no_sizes(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    run(folder, plan())
    snapshot = snapshots.current(folder, "selection")
    assert snapshot is not None
    with counted(monkeypatch) as requests:
        table = open_table(folder, snapshot).to_table(columns=["image_id", "label"])
    assert table["image_id"].to_pylist() == rows_of(folder, plan())
    assert requests["head_object"] == 0
    assert requests["list_objects_v2"] == 0
    assert 0 < requests["get_object"] <= 2 * SHARDS
    paths = [file.file for file in snapshot.files]
    assert open_files(folder, "selection", paths).to_table().num_rows == table.num_rows


def test_a_stage_looks_at_its_shards_with_a_request_for_each(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(folder, plan())
    with counted(monkeypatch) as requests:
        assert len(find_receipts(folder, plan())) == SHARDS
    assert requests["head_object"] == 0
    assert SHARDS <= requests["get_object"] <= SHARDS + 2
    assert 0 < requests["list_objects_v2"] <= 8
    with counted(monkeypatch) as requests:
        assert stands(folder, plan(), TABLES)
    assert sum(requests.values()) <= 16, "whatever the number of shards"


def test_a_commit_costs_the_same_whatever_was_committed_before(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Earlier snapshots are not read, where nothing was damaged."""
    asked = []
    for version in range(1, 6):
        with counted(monkeypatch) as requests:
            run(folder, make_plan(version))
        asked.append(requests["get_object"])
    assert asked[-1] == asked[2]
    # But where they have to be healed.
    snapshot = snapshots.load(folder, "selection", 2)
    lost = snapshot.files[1].file
    folder.delete(lost)
    run(folder, make_plan(2))
    assert lost not in [file.file for file in snapshots.load(folder, "selection", 2).files]
    assert open_table(folder, snapshots.load(folder, "selection", 2)).to_table().num_rows == 6


def test_what_was_listed_is_not_asked_for_again(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    run(folder, plan())
    folder.write("other/a.json", b"1")
    names = folder.list("snapshots/selection")
    with counted(monkeypatch) as requests:
        listed = folder.listed("snapshots", "plans")
        for _ in range(3):
            assert listed.list("snapshots/selection") == names
            assert listed.read("snapshots/selection/CURRENT") == b"1"
        assert listed.list("snapshots/none") == listed.list("snapshots/selection/1.json") == []
        assert listed.exists("snapshots")
        assert not listed.exists("plans/x")
        with pytest.raises(FileNotFoundError):
            listed.read("plans/x")
        paths = ["plans/x", "snapshots/selection/CURRENT"]
        assert list(listed.read_many(paths)) == [(paths[1], b"1")]
    assert requests["list_objects_v2"] <= 4
    assert requests["get_object"] == 2
    assert listed.read("other/a.json") == b"1", "of others it knows nothing"
    assert listed.list("other") == ["a.json"]


def test_writing_a_file(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = pa.Table.from_pylist([{"image_id": "a", "weight": 1.0, "reason": "kept"}], SELECTION)
    folder.write("x", b"1")  # connected
    with counted(monkeypatch) as requests:
        file = write_table(folder, "selection", "tables/selection/p/s-1.parquet", rows)
    assert requests["head_object"] == 0
    assert sum(requests.values()) <= 3
    assert file.bytes == folder.size(file.file)


def test_a_table_travels_without_the_sizes_of_others(folder: Folder) -> None:
    run(folder, plan())
    snapshot = snapshots.current(folder, "selection")
    assert snapshot is not None
    frame = open_table(folder, snapshot).to_dask(columns=["image_id"]).compute(scheduler="synchronous")
    assert frame["image_id"].tolist() == read(folder) == rows_of(folder, plan())


def test_a_file_that_is_longer_or_shorter_than_it_was(folder: Folder) -> None:
    """What was written is looked for where it was."""
    run(folder, plan())
    snapshot = snapshots.current(folder, "selection")
    assert snapshot is not None
    file: File = snapshot.files[3]
    whole = folder.read(file.file)
    folder.write(file.file, whole + b"more")
    assert open_table(folder, snapshot).to_table()["image_id"].to_pylist() == rows_of(folder, plan())
    for content in (whole[:-100], b""):
        folder.write(file.file, content)
        with pytest.raises(Damaged, match=rf"^{folder.url}/{file.file}: "):
            open_table(folder, snapshot).to_table()


def test_status_costs_the_same_whatever_the_number_of_shards(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also while a stage runs, and where a driver was killed before its log was written."""
    job = tmp_path / "job.yaml"
    content = {
        "name": "run",
        "output": f"{bucket}/runs",
        "dataset": {"format": "folder", "images": "images", "location": {"level": 0}},
        "validate": {"shard_size": 2, "thumbnails": 0},
    }
    job.write_text(yaml.safe_dump(content))
    asked = []
    for number in (4, 40):
        for n in range(number):
            (tmp_path / "images" / f"cam{n // 10}").mkdir(parents=True, exist_ok=True)
            photo = np.full((16, 16, 3), n, np.uint8)
            (tmp_path / "images" / f"cam{n // 10}" / f"{n}.jpg").write_bytes(simplejpeg.encode_jpeg(photo))
        for stage in ("catalog", "validate"):
            assert main([stage, str(job), "--cluster", "inline", "--quiet"]) == 0
        capsys.readouterr()
        with counted(monkeypatch) as requests:
            assert main(["status", str(job), "--json"]) == 0
        asked.append(sum(requests.values()))
        told = {stage["stage"]: stage for stage in json.loads(capsys.readouterr().out)["stages"]}["validate"]
        assert (told["state"], told["rows_done"], told["counts"]) == ("done", number, {"ok": number})
        assert (told["cameras"], told["cameras_done"]) == (-(-number // 10),) * 2
        assert told["shards"] == told["shards_done"] >= number // 2
        assert told["bytes"] > 0
        assert told["seconds"]["total"] > 0
    assert asked[1] <= asked[0] + 12, "parts of the log, plans, snapshots; not twenty receipts"
    assert asked[0] <= 40

    # The receipts are what counts: the log has not told of all of them yet, and a stage goes on.
    run = open_run(job)
    plan = last_plan(run.folder, "validate")
    assert plan is not None
    for name in run.folder.list("log")[-1:]:
        run.folder.delete(f"log/{name}")
    run.folder.delete(receipt_path("validate", plan.id, plan.shards[-1].id))
    for table in ("manifest", "findings"):
        for path in list(run.folder.walk(f"snapshots/{table}")):
            run.folder.delete(path)
    assert main(["status", str(job), "--json"]) == 0
    told = {stage["stage"]: stage for stage in json.loads(capsys.readouterr().out)["stages"]}["validate"]
    assert told["state"] == "unfinished"
    assert told["shards_done"] == told["shards"] - 1
    assert told["rows_done"] == 40 - plan.shards[-1].rows
