"""The table `findings`, from validated images to a selection without them."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

import pyarrow.csv
import pytest
import yaml
from distributed import Client
from PIL import Image

import camtrap_batch
from camtrap_batch import Job
from camtrap_batch.cli import main
from camtrap_batch.engine.base import GivenExecutor
from camtrap_batch.engine.dask.executor import DaskExecutor
from camtrap_batch.errors import InputError
from camtrap_batch.pipeline import Context, StageResult, run_one
from camtrap_batch.rehearsal import write_dataset
from camtrap_batch.stages.validate import findings
from camtrap_batch.store.folder import Folder
from camtrap_batch.store.gc import collect
from camtrap_batch.store.run import Run
from camtrap_batch.vocabulary import FINDING_KINDS


@pytest.fixture(scope="module")
def validated(tmp_path_factory: pytest.TempPathFactory, client: Client) -> Path:
    """A synthetic data set with findings of every kind, validated: the job file."""
    folder = tmp_path_factory.mktemp("findings")
    write_dataset(folder / "data", cameras=6, images=300, size=(160, 120))
    content = {
        "name": "run",
        "output": str(folder),
        "dataset": {"format": "cct", "metadata": "data/metadata.json", "images": "data/images"},
        "validate": {"shard_size": 100, "thumbnails": 64},
        "select": {"split": {"by": "random"}, "empty": {"fraction": 1.0}},
    }
    (folder / "job.yaml").write_text(yaml.safe_dump(content))
    for stage in ("catalog", "validate"):
        camtrap_batch.run_stage(folder / "job.yaml", stage, client)
    return folder / "job.yaml"


@pytest.fixture
def job(validated: Path, tmp_path: Path) -> Path:
    """A copy of `validated` of the test's own."""
    shutil.copytree(validated.parent / "run", tmp_path / "run")
    (tmp_path / "data").symlink_to(validated.parent / "data")
    content = yaml.safe_load(validated.read_text())
    (tmp_path / "job.yaml").write_text(yaml.safe_dump({**content, "output": str(tmp_path)}))
    return tmp_path / "job.yaml"


def do(job: Path, stage: str, client: Client, *assignments: str) -> StageResult:
    loaded = Job.load(job, list(assignments))
    return run_one(Context(loaded, Run(loaded), GivenExecutor(DaskExecutor(client))), stage)


def found_in(run: Run) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = run.table("findings").to_table().to_pylist()
    return rows


def files_of(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_found_is_what_was_hidden(validated: Path) -> None:
    with (validated.parent / "data" / "truth.csv").open(newline="") as file:
        truth = {row["image_id"]: row["findings"].split() for row in csv.DictReader(file)}
    hidden = {(image_id, kind) for image_id, kinds in truth.items() for kind in kinds}
    rows = found_in(camtrap_batch.open_run(validated))
    assert {kind for _, kind in hidden} == set(FINDING_KINDS)
    assert sorted((row["image_id"], row["kind"]) for row in rows) == sorted(hidden)
    assert [row["kind"] for row in rows] == sorted((row["kind"] for row in rows), key=[*FINDING_KINDS].index)
    for row in rows:
        assert row["detail"]
        assert "\n" not in row["detail"]
        compared = row["kind"] in ("exact_duplicate", "near_duplicate", "date_out_of_order", "clock_reset")
        assert (row["other_image_id"] is not None) == compared


def test_second_run_writes_nothing_and_says_the_same(job: Path, client: Client) -> None:
    before = files_of(job.parent)
    result = do(job, "validate", client)
    assert result.shards_run == 0
    counts = ", ".join(f"{kind} " for kind in FINDING_KINDS)
    assert "".join(letter for letter in result.notes[-1] if not letter.isdecimal()) == f"findings: {counts}"
    assert files_of(job.parent) == before


@pytest.mark.parametrize("lost", [("snapshots",), ("snapshots", "receipts", "tables", "plans")])
def test_findings_that_were_not_committed_are_made_by_the_next_run(
    lost: tuple[str, ...],
    job: Path,
    client: Client,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    expected = found_in(camtrap_batch.open_run(job))
    with monkeypatch.context() as patch:
        patch.setattr(findings, "find_all", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            do(job, "validate", client, "findings.near_bits=1")
    for kind in lost:
        shutil.rmtree(job.parent / "run" / kind / "findings")
    assert main(["status", str(job)]) == 0
    assert "findings: not made yet" in capsys.readouterr().out
    result = do(job, "validate", client)
    assert (result.shards_run, result.snapshots["manifest"]) == (0, 1)
    assert found_in(camtrap_batch.open_run(job)) == expected
    assert main(["status", str(job)]) == 0
    assert "findings: exact_duplicate 3, near_duplicate 3" in capsys.readouterr().out


def test_a_dry_run_makes_no_findings(job: Path, client: Client) -> None:
    shutil.rmtree(job.parent / "run" / "snapshots" / "findings")
    before = files_of(job.parent)
    loaded = Job.load(job)
    run_one(Context(loaded, Run(loaded), GivenExecutor(DaskExecutor(client)), dry_run=True), "validate")
    assert files_of(job.parent) == before


def test_a_file_that_became_a_copy_is_found(job: Path, client: Client) -> None:
    data = job.parent / "data"
    original = data.resolve()
    data.unlink()
    shutil.copytree(original, data, symlinks=True)
    run = camtrap_batch.open_run(job)
    rows = run.table("manifest").to_table(columns=["image_id", "file_name", "status"]).to_pylist()
    first, second = [row for row in rows if row["status"] == "ok"][:2]
    (data / "images" / second["file_name"]).write_bytes((data / "images" / first["file_name"]).read_bytes())
    before = {(row["image_id"], row["kind"]) for row in found_in(run)}
    do(job, "validate", client)
    after = {(row["image_id"], row["kind"]) for row in found_in(run)}
    assert after - before == {(second["image_id"], "exact_duplicate")}


def test_selection_without_findings(job: Path, client: Client) -> None:
    do(job, "select", client)
    run = camtrap_batch.open_run(job)
    before = run.table("selection").to_table().to_pylist()
    assert not any(row["reason"].startswith("finding") for row in before)
    assert "findings" not in run.snapshot("selection").inputs

    do(job, "select", client, "select.drop=[exact_duplicate, clock_reset, date_before_camera]")
    after = run.table("selection").to_table().to_pylist()
    kinds: dict[str, set[str]] = {}
    for row in found_in(run):
        kinds.setdefault(row["image_id"], set()).add(row["kind"])
    dropped = 0
    for old, new in zip(before, after, strict=True):
        mine = kinds.get(new["image_id"], set())
        first = next((kind for kind in ("exact_duplicate", "clock_reset") if kind in mine), None)
        if old["label"] is not None and first:
            assert (new["label"], new["split"], new["reason"]) == (None, None, f"finding: {first}")
            dropped += 1
        else:
            assert (new["label"], new["reason"]) == (old["label"], old["reason"])
    assert dropped > 3
    assert run.snapshot("selection").inputs["findings"] == 1


def test_a_selection_that_drops_nothing_does_not_wait_for_findings(job: Path, client: Client) -> None:
    do(job, "select", client)
    do(job, "validate", client, "findings.near_bits=0")
    assert do(job, "select", client).shards_run == 0
    drop = "select.drop=[near_duplicate]"
    assert do(job, "select", client, drop).shards_run == 1
    assert do(job, "select", client, drop).shards_run == 0
    do(job, "validate", client)
    assert do(job, "select", client, drop).shards_run == 1
    shutil.rmtree(job.parent / "run" / "snapshots" / "findings")
    with pytest.raises(InputError, match="findings is not that of the current manifest; run validate first"):
        do(job, "select", client, drop)


def test_garbage_collection_keeps_what_a_selection_was_made_from(job: Path, client: Client) -> None:
    do(job, "select", client, "select.drop=[near_duplicate]")
    do(job, "validate", client, "findings.near_bits=0")
    folder = Folder(str(job.parent / "run"))
    collect(folder, keep=1)
    run = camtrap_batch.open_run(job)
    assert run.table("findings", 1).count_rows() >= run.table("findings").count_rows()
    do(job, "select", client)
    collect(folder, keep=1)
    with pytest.raises(InputError, match="no snapshot 1 of findings"):
        run.table("findings", 1)


def test_one_csv_file_of_findings(validated: Path, tmp_path: Path) -> None:
    out = tmp_path / "findings.csv"
    assert main(["table", str(validated), "findings", "--out", str(out)]) == 0
    table = pyarrow.csv.read_csv(out)
    assert table.num_rows == len(found_in(camtrap_batch.open_run(validated)))
    assert set(table["kind"].to_pylist()) == set(FINDING_KINDS)


def test_the_report_shows_duplicates_beside_their_originals(job: Path, client: Client) -> None:
    do(job, "report", client)
    page = (job.parent / "run" / "report" / "index.html").read_text()
    section = page.split('id="findings"')[1].split("</section>")[0]
    for kind in FINDING_KINDS:
        assert kind in section
    assert section.count("<img ") == 2 * 6
    for row in found_in(camtrap_batch.open_run(job)):
        assert row["file_name"] in section


def test_copies_of_real_photos(real_images: Path, tmp_path: Path, client: Client) -> None:
    """A copy at another camera, copies that a program has compressed again, and a burst of frames."""
    images = tmp_path / "images"
    shutil.copytree(real_images / "tdwg-camtrap-dp", images / "heron")
    shutil.copytree(real_images / "drivendataorg-zamba", images / "zamba")
    frames, undated = (sorted((images / name).iterdir()) for name in ("heron", "zamba"))
    (images / "elsewhere").mkdir()
    shutil.copy(frames[0], images / "elsewhere" / "copy.jpg")
    for path in (*frames, *undated):
        with Image.open(path) as image:
            image.save(path.with_name(f"resaved-{path.name}"), quality=75, exif=image.getexif())
    content = {
        "name": "run",
        "output": str(tmp_path),
        "dataset": {"format": "folder", "images": "images", "location": {"level": 0}},
    }
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(content))
    for stage in ("catalog", "validate"):
        camtrap_batch.run_stage(tmp_path / "job.yaml", stage, client)
    run = camtrap_batch.open_run(tmp_path / "job.yaml")
    assert {row["kind"] for row in found_in(run)} == {"exact_duplicate", "near_duplicate"}
    pairs = {(row["kind"], row["file_name"], row["other_image_id"]) for row in found_in(run)}
    assert ("exact_duplicate", f"heron/{frames[0].name}", "elsewhere/copy.jpg") in pairs
    near = {file_name: other for kind, file_name, other in pairs if kind == "near_duplicate"}
    # Frames of one second in which hardly anything has moved look the same as well: the first one leads.
    for number, frame in enumerate(frames):
        before = frames[max(0, number - 1)].name
        assert near[f"heron/resaved-{frame.name}"] in (f"heron/{frame.name}", f"heron/{before}")
    assert sum(name.startswith("heron/2") for name in near) in (len(frames) // 4, len(frames) // 3)
    for path in undated:  # nothing but the hash tells
        assert near[f"zamba/resaved-{path.name}"].startswith("zamba/")
