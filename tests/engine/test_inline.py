"""`--cluster inline`: the whole job in one process, without Dask."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from support import PATIENCE_S, command, receipts, run_of, tables_of, wait_until

pytestmark = pytest.mark.timeout(240)

NO_DASK = """\
import sys
from camtrap_batch.cli import main
code = main(sys.argv[1:])
loaded = {name.partition(".")[0] for name in sys.modules} & {"dask", "distributed", "bokeh"}
assert not loaded, loaded
sys.exit(code)
"""


def test_a_whole_job_with_training_and_no_dask(job_folder: Callable[..., Path], undisturbed: Path) -> None:
    """Validated, trained and classified again; what does not depend on the model is as on a cluster."""
    folder = job_folder("validate", "infer")
    options = [str(folder / "job.yaml"), "--cluster", "inline", "--set", "train.lr=0.002"]
    done = subprocess.run(
        [sys.executable, "-c", NO_DASK, "reprocess", *options], capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    for line in ("validate: 400/400 images", "train: 100%", "infer: 390/390 images", "done in"):
        assert line in done.stderr
    assert "dashboard" not in done.stderr
    mine, theirs = tables_of(folder), tables_of(undisturbed)
    for name in ("manifest", "thumbnails"):
        assert mine[name].equals(theirs[name]), name
    assert mine["predictions"].num_rows == theirs["predictions"].num_rows
    trained = [run_of(each).current("model") for each in (folder, undisturbed)]
    assert len({snapshot.meta["model_id"] for snapshot in trained if snapshot is not None}) == 2


def test_ctrl_c_leaves_in_order_and_the_same_command_goes_on(
    job_folder: Callable[..., Path], undisturbed: Path
) -> None:
    folder = job_folder("validate")
    validate = command(folder, "validate", "--cluster", "inline")
    with subprocess.Popen(validate, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as driver:
        wait_until(lambda: driver.poll() is not None or len(receipts(folder, "validate")) >= 3)
        assert not psutil.Process(driver.pid).children(), "another process does the work"
        driver.send_signal(signal.SIGINT)
        said, _ = driver.communicate(timeout=PATIENCE_S)
    assert driver.returncode == 130, said
    assert "interrupted with" in said
    before = receipts(folder, "validate")
    assert 3 <= len(before) < 40
    again = subprocess.run(validate, capture_output=True, text=True, timeout=PATIENCE_S)
    assert again.returncode == 0, again.stderr
    assert before.items() <= receipts(folder, "validate").items(), "a finished shard was done again"
    assert tables_of(folder)["manifest"].equals(tables_of(undisturbed)["manifest"])
