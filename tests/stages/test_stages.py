"""Stages called from Python, on a client of one's own."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from distributed import Client

import camtrap_batch
from camtrap_batch.errors import JobError
from camtrap_batch.rehearsal import write_dataset


@pytest.fixture
def job(tmp_path: Path) -> Path:
    write_dataset(tmp_path / "data", cameras=4, images=60, size=(160, 120))
    content = {
        "name": "run",
        "output": str(tmp_path),
        "dataset": {"format": "cct", "metadata": "data/metadata.json", "images": "data/images"},
        "validate": {"shard_size": 20, "thumbnails": 64},
        "select": {"split": {"by": "random"}},
    }
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(content))
    return tmp_path / "job.yaml"


def test_stages_on_a_client_of_ones_own(job: Path, client: Client) -> None:
    for stage, rows in (("catalog", 60), ("validate", 60), ("select", 60)):
        result = camtrap_batch.run_stage(job, stage, client)
        assert (result.stage, result.rows) == (stage, rows)
    run = camtrap_batch.open_run(job)
    manifest = run.table("manifest")
    assert manifest.to_pandas()["image_id"].tolist() == manifest.to_dask()["image_id"].compute().tolist()
    again = camtrap_batch.run_stage(job, "validate", client)
    assert (again.shards_run, again.snapshots) == (0, {"manifest": 1, "thumbnails": 1})
    assert run.table("selection").schema.field("reason").type == pa.string()


def test_thumbnails_hold_what_the_manifest_points_at(job: Path, client: Client) -> None:
    for stage in ("catalog", "validate"):
        camtrap_batch.run_stage(job, stage, client)
    run = camtrap_batch.open_run(job)
    kept = [row for row in run.table("manifest").to_table().to_pylist() if row["thumbnail_file"]]
    assert len(kept) == run.table("thumbnails").count_rows() > 0
    for row in kept[:5]:
        thumbnails = pq.read_table(run.folder.local(row["thumbnail_file"]))
        assert thumbnails["image_id"][row["thumbnail_row"]].as_py() == row["image_id"]


def test_unknown_stage(job: Path, client: Client) -> None:
    with pytest.raises(JobError, match="no stage 'valdate'; did you mean 'validate'"):
        camtrap_batch.run_stage(job, "valdate", client)
