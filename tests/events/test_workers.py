"""The same tables with 1, 2 and 3 workers, from the models' predictions to the locations."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml
from distributed import Client, LocalCluster
from support import run_of

from camtrap_batch.stages import run_stage
from camtrap_batch.stages.merge import TABLES

pytestmark = pytest.mark.timeout(240)


@pytest.mark.parametrize("workers", [1, 3])
def test_tables_do_not_depend_on_the_number_of_workers(
    undisturbed: Path, tmp_path: Path, workers: int
) -> None:
    """`undisturbed` was made by two; here the predictions are made again."""
    folder = tmp_path / "copy"
    shutil.copytree(undisturbed, folder, symlinks=True)
    job = yaml.safe_load((folder / "job.yaml").read_text())
    (folder / "job.yaml").write_text(yaml.safe_dump({**job, "output": str(folder)}))
    for table in ("predictions", *TABLES):
        shutil.rmtree(folder / "run" / "snapshots" / table)
        shutil.rmtree(folder / "run" / "tables" / table)
    for stage in ("infer", "merge"):
        shutil.rmtree(folder / "run" / "receipts" / stage)
    with (
        LocalCluster(
            n_workers=workers, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster) as client,
    ):
        assert run_stage(folder / "job.yaml", "infer", client).shards_run > 1
        run_stage(folder / "job.yaml", "merge", client)
    expected, found = run_of(undisturbed), run_of(folder)
    for table in ("predictions", *TABLES):
        theirs, ours = (run.table(table).to_table() for run in (expected, found))
        columns = [name for name in theirs.column_names if name != "run_time"]
        assert ours.select(columns).equals(theirs.select(columns)), table
