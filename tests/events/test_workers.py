"""The same tables with 1, 2 and 3 workers, from the images to the locations."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
import yaml
from support_cluster import client_here

import camtrap_batch
from camtrap_batch.model.info import ModelInfo
from camtrap_batch.rehearsal import write_dataset
from camtrap_batch.rehearsal.species import SELECTED
from camtrap_batch.stages.merge import STAGE

TABLES = [table.name for table in STAGE.tables]

pytest.importorskip("timm", reason="the extra 'train' is not installed")
pytestmark = pytest.mark.timeout(240)


def tables(folder: Path, model: str, workers: int) -> dict[str, pa.Table]:
    """What a cluster of this many workers makes of `folder/data`, without what tells one run from another."""
    content = {
        "name": f"run{workers}",
        "output": str(folder),
        "dataset": {"format": "cct", "metadata": "data/metadata.json", "images": "data/images"},
        "validate": {"shard_size": 50, "thumbnails": 64},
        "infer": {"model": model, "min_confidence": 0.1, "device": "cpu", "shard_size": 64},
    }
    job = folder / f"job{workers}.yaml"
    job.write_text(yaml.safe_dump(content))
    with client_here(workers) as client:
        for stage in ("catalog", "validate", "infer", "merge"):
            shards = camtrap_batch.run_stage(job, stage, client).shards
            assert shards > 1 or stage in ("catalog", "merge")
    run = camtrap_batch.open_run(job)
    found = {name: run.table(name).to_table() for name in ("predictions", *TABLES)}
    found["locations"] = found["locations"].drop_columns("run_time")
    return found


def test_tables_do_not_depend_on_the_number_of_workers(tmp_path: Path) -> None:
    """An untrained model says as much as a trained one of whether the answers are the same."""
    import torch

    from camtrap_batch.model.architectures import create_model
    from camtrap_batch.model.package import save_model

    write_dataset(tmp_path / "data", cameras=6, images=200, size=(160, 120), broken=False)
    torch.manual_seed(1)
    labels = tuple(species.name for species in SELECTED[:5])  # none of them empty: each image is in an event
    ids = tuple((species.category_id,) for species in SELECTED[:5])
    info = ModelInfo("", "test_resnet", labels, ids, 64, (0.5,) * 3, (0.2,) * 3, 0.02)
    network = create_model("test_resnet", len(labels), "none", 64)
    model = save_model(tmp_path / "models", network, info, {}, [])
    one, two, three = (
        tables(tmp_path, str(tmp_path / "models" / model.model_id), workers) for workers in (1, 2, 3)
    )
    assert one["events"].num_rows > 20
    for name, table in one.items():
        assert two[name].equals(table), name
        assert three[name].equals(table), name
