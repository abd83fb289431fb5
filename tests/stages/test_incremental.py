"""What is new, changed, deleted, renamed or was unreadable is done again, and nothing else."""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from distributed import Client
from support_cluster import client_here

import camtrap_batch
from camtrap_batch.errors import InputError, JobError
from camtrap_batch.images import ImageRoot
from camtrap_batch.rehearsal import write_dataset


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """A worker in this process, so that a test can count what it reads and make it fail."""
    with client_here() as client:
        yield client


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_dataset(folder, cameras=3, images=60, size=(160, 120), broken=False)
    return folder


class Reads:
    """Counts what is read below image roots; `broken` files fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.counts: Counter[str] = Counter()
        self.broken: set[str] = set()
        read = ImageRoot.read

        def counted(root: ImageRoot, file_name: str, *arguments: Any, **more: Any) -> bytes:
            self.counts[file_name] += 1
            if file_name in self.broken:
                raise OSError(5, "Input/output error")
            return read(root, file_name, *arguments, **more)

        monkeypatch.setattr(ImageRoot, "read", counted)

    def since(self) -> dict[str, int]:
        counts = dict(self.counts)
        self.counts.clear()
        return counts


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    return Reads(monkeypatch)


class Job:
    def __init__(self, folder: Path, data: Path, client: Client, dataset: dict[str, Any]) -> None:
        shutil.copytree(data, folder / "data")
        self.images = folder / "data" / "images"
        self.file, self.client = folder / "job.yaml", client
        content = {
            "name": "run",
            "output": str(folder),
            "dataset": {"images": "data/images", **dataset},
            "validate": {"shard_size": 20, "thumbnails": 64},
            "select": {"split": {"by": "random"}},
        }
        self.file.write_text(yaml.safe_dump(content))

    def run(self, *stages: str, **options: Any) -> camtrap_batch.StageResult:
        for stage in stages:
            result = camtrap_batch.run_stage(
                self.file, stage, self.client, **(options if stage == "validate" else {})
            )
        return result

    def rows(self, table: str) -> dict[str, dict[str, Any]]:
        """Rows by file name."""
        rows = camtrap_batch.open_run(self.file).table(table).to_table().to_pylist()
        return {row["file_name"]: row for row in rows}

    def thumbnails(self) -> dict[str, bytes]:
        table = camtrap_batch.open_run(self.file).table("thumbnails").to_table()
        return dict(zip(table["image_id"].to_pylist(), table["jpeg"].to_pylist(), strict=True))


CCT = {"format": "cct", "metadata": "data/metadata.json"}
FOLDER = {"format": "folder", "location": {"level": 0}}


@pytest.fixture
def job(tmp_path: Path, data: Path, client: Client, reads: Reads) -> Job:
    job = Job(tmp_path, data, client, CCT)
    assert job.run("catalog", "validate").rows == 60
    assert len(reads.since()) == 60
    return job


@pytest.fixture
def folder_job(tmp_path: Path, data: Path, client: Client, reads: Reads) -> Job:
    job = Job(tmp_path, data, client, FOLDER)
    job.run("catalog", "validate")
    reads.since()
    return job


def test_a_changed_file_alone_is_read(job: Job, reads: Reads) -> None:
    before, pictures = job.rows("manifest"), job.thumbnails()
    name, other = list(before)[7], list(before)[31]
    (job.images / name).write_bytes((job.images / other).read_bytes() + b"more")
    result = job.run("catalog", "validate")
    assert (result.shards_run, result.rows) == (1, 60)
    assert reads.since() == {name: 1}
    after = job.rows("manifest")
    assert after[name]["sha256"] != before[name]["sha256"]
    assert after[name]["dhash"] == before[other]["dhash"]
    for row in (*before.values(), *after.values()):
        row.pop("thumbnail_file")
    assert {key: row for key, row in after.items() if key != name} == {
        key: row for key, row in before.items() if key != name
    }
    changed = before[name]["image_id"]
    assert job.thumbnails() == {**pictures, changed: pictures[before[other]["image_id"]]}


def test_thumbnails_that_were_copied_are_where_the_manifest_says(job: Job, reads: Reads) -> None:
    import pyarrow.parquet as pq

    (job.images / list(job.rows("manifest"))[7]).write_bytes(b"no picture any more")
    job.run("catalog", "validate")
    run, pictures = camtrap_batch.open_run(job.file), job.thumbnails()
    for row in job.rows("manifest").values():
        if row["thumbnail_file"]:
            kept = pq.read_table(run.folder.local(row["thumbnail_file"])).slice(row["thumbnail_row"], 1)
            assert kept["image_id"][0].as_py() == row["image_id"]
            assert kept["jpeg"][0].as_py() == pictures[row["image_id"]]


def test_metadata_that_changes_reads_nothing(job: Job, reads: Reads) -> None:
    before = job.rows("manifest")
    metadata = job.images.parent / "metadata.json"
    metadata.write_text(re.sub(r'"datetime": "\d{4}-', '"datetime": "2001-', metadata.read_text()))
    result = job.run("catalog", "validate")
    assert result.shards_run == result.shards > 1
    assert reads.since() == {}
    after = job.rows("manifest")
    assert {name: row["sha256"] for name, row in after.items()} == {
        name: row["sha256"] for name, row in before.items()
    }
    assert sum(row["datetime"].year == 2001 for row in after.values() if row["datetime"]) > 30


def test_other_settings_read_everything(job: Job, reads: Reads) -> None:
    job.file.write_text(job.file.read_text().replace("thumbnails: 64", "thumbnails: 48"))
    job.run("catalog", "validate")
    assert len(reads.since()) == 60
    assert all(row["thumbnail_file"] for row in job.rows("manifest").values())


def test_new_and_deleted_files(folder_job: Job, reads: Reads) -> None:
    names = list(folder_job.rows("manifest"))
    (folder_job.images / names[3]).unlink()
    new = names[10].replace(".jpg", "-new.jpg")
    (folder_job.images / new).write_bytes((folder_job.images / names[11]).read_bytes() + b"0")
    folder_job.run("catalog", "validate")
    assert reads.since() == {new: 1}
    after = folder_job.rows("manifest")
    assert set(after) == {*names, new} - {names[3]}
    assert {row["status"] for row in after.values()} == {"ok"}


def test_missing_files_are_found_once_they_are_there(job: Job, reads: Reads) -> None:
    name = list(job.rows("manifest"))[20]
    kept = job.images.parent / "kept"
    (job.images / name).rename(kept)
    job.run("catalog", "validate")
    assert job.rows("manifest")[name]["status"] == "missing"
    reads.since()
    kept.rename(job.images / name)
    job.run("catalog", "validate")
    assert job.rows("manifest")[name]["status"] == "ok"
    assert reads.since() == {}  # the shard has a receipt from before


def test_a_renamed_file_keeps_its_identity(folder_job: Job, reads: Reads) -> None:
    names = list(folder_job.rows("manifest"))
    old, moved = names[5], names[40]
    new = "another-camera/renamed.jpg"
    elsewhere = "moved/" + moved.rpartition("/")[2]
    for folder in ("another-camera", "moved"):
        (folder_job.images / folder).mkdir()
    (folder_job.images / old).rename(folder_job.images / new)
    (folder_job.images / moved).rename(folder_job.images / elsewhere)
    result = folder_job.run("catalog")
    assert "2 files were renamed, and keep their image id" in result.notes
    assert set(reads.since()) == {new, elsewhere}
    folder_job.run("validate")
    after = folder_job.rows("manifest")
    assert (after[new]["image_id"], after[elsewhere]["image_id"]) == (old, moved)
    assert after[new]["location"] == "another-camera"
    assert set(after) == {*names, new, elsewhere} - {old, moved}
    # It stays so, and a new file with the old path is another image.
    shutil.copyfile(folder_job.images / names[6], folder_job.images / old)
    folder_job.run("catalog", "validate")
    last = folder_job.rows("manifest")
    assert (last[new]["image_id"], last[old]["image_id"]) == (old, f"{old}#2")
    reads.since()
    assert folder_job.run("catalog", "validate").shards_run == 0
    assert reads.since() == {}


def test_a_disk_that_goes_away_takes_no_identity(folder_job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Renamed files that can't be read would be other images, for ever."""
    old = list(folder_job.rows("manifest"))[5]
    (folder_job.images / old).rename(folder_job.images / "new.jpg")
    read, elsewhere = ImageRoot.read, folder_job.images.with_name("elsewhere")

    def lose(root: ImageRoot, file_name: str, *arguments: Any, **more: Any) -> bytes:
        folder_job.images.rename(elsewhere)
        folder_job.images.mkdir()
        return read(root, file_name, *arguments, **more)

    with monkeypatch.context() as patch:
        patch.setattr(ImageRoot, "read", lose)
        with pytest.raises(InputError, match="is an empty folder"):
            folder_job.run("catalog")
    folder_job.images.rmdir()
    elsewhere.rename(folder_job.images)
    folder_job.run("catalog")
    assert folder_job.rows("catalog")["new.jpg"]["image_id"] == old


def test_a_copy_is_no_rename(folder_job: Job) -> None:
    names = list(folder_job.rows("manifest"))
    copy = names[5].replace(".jpg", "-copy.jpg")
    shutil.copyfile(folder_job.images / names[5], folder_job.images / copy)
    folder_job.run("catalog")
    assert folder_job.rows("catalog")[copy]["image_id"] == copy


def test_a_renamed_image_of_a_table_keeps_its_identity(
    tmp_path: Path, data: Path, client: Client, reads: Reads
) -> None:
    job = Job(tmp_path, data, client, {"format": "csv", "metadata": "data/images.csv"})
    table = job.images.parent / "images.csv"
    names = sorted(path.relative_to(job.images).as_posix() for path in job.images.rglob("*.jpg"))

    def write(names: list[str]) -> None:
        table.write_text(
            "".join(f"{line}\n" for line in ("file_name,category_id", *(f"{n},1" for n in names)))
        )

    write(names)
    job.run("catalog", "validate")
    (job.images / names[2]).rename(job.images / "new.jpg")
    write([*names[:2], "new.jpg", *names[3:]])
    job.run("catalog")
    assert job.rows("catalog")["new.jpg"]["image_id"] == names[2]


def test_what_was_unreadable_is_tried_by_the_next_run(
    tmp_path: Path, data: Path, client: Client, reads: Reads
) -> None:
    job = Job(tmp_path, data, client, CCT)
    settings = yaml.safe_load(job.file.read_text())
    settings["select"]["drop"] = ["near_duplicate"]
    job.file.write_text(yaml.safe_dump(settings))
    names = sorted(path.relative_to(job.images).as_posix() for path in job.images.rglob("*.jpg"))
    reads.broken = {names[0], names[50]}
    assert job.run("catalog", "validate", "select").rows == 60
    assert {
        name for name, row in job.rows("manifest").items() if row["status"] == "unreadable"
    } == reads.broken
    selection = camtrap_batch.open_run(job.file).snapshot("selection").number
    reads.since()

    # In vain: these two alone are read, and nothing that was made of the manifest is made again.
    for _ in range(2):
        assert job.run("catalog", "validate").shards_run == 2
        assert set(reads.since()) == reads.broken
        job.run("select")
        assert camtrap_batch.open_run(job.file).snapshot("selection").number == selection

    reads.broken = {names[50]}
    job.run("catalog", "validate", "select")
    assert set(reads.since()) == {names[0], names[50]}
    statuses = {name: row["status"] for name, row in job.rows("manifest").items()}
    assert [name for name, status in statuses.items() if status != "ok"] == [names[50]]
    assert camtrap_batch.open_run(job.file).snapshot("selection").number == selection + 1

    reads.broken = set()
    job.run("catalog", "validate")
    assert set(reads.since()) == {names[50]}
    assert job.run("catalog", "validate").shards_run == 0
    assert reads.since() == {}
    assert {row["status"] for row in job.rows("manifest").values()} == {"ok"}


def test_missing_and_crashed_are_tried_on_request(job: Job, reads: Reads) -> None:
    name = list(job.rows("manifest"))[12]
    content = (job.images / name).read_bytes()
    (job.images / name).unlink()
    job.run("catalog", "validate")
    reads.since()
    assert job.run("validate", retry=["crashed"]).shards_run == 0
    assert job.run("validate", retry=["missing"]).shards_run == 1
    assert reads.since() == {name: 1}
    (job.images / name).write_bytes(content)
    job.run("validate")
    assert job.rows("manifest")[name]["status"] == "ok"
    with pytest.raises(JobError, match=r"'corrupt' is not tried again; .*possible: crashed, missing"):
        job.run("validate", retry=["corrupt"])


def test_a_file_with_the_same_size_and_time_is_not_read(job: Job, reads: Reads) -> None:
    name = next(iter(job.rows("manifest")))
    path = job.images / name
    info = path.stat()
    path.write_bytes(bytes(info.st_size))
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))
    assert job.run("catalog", "validate").shards_run == 0
    assert reads.since() == {}
