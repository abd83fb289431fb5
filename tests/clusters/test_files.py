"""Cluster files of all kinds: what is in them, what is refused, and the scripts that are made of them."""

from __future__ import annotations

import doctest
import shlex
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import pytest
import yaml

from camtrap_batch.cli import main
from camtrap_batch.cluster import KINDS, Slurm, kubernetes, load_cluster, settings, slurm, started
from camtrap_batch.engine.dask import fitness
from camtrap_batch.errors import ClusterError

CLUSTER = Path(__file__).resolve().parents[2] / "cluster"


@pytest.mark.parametrize("module", [fitness, kubernetes, settings, slurm, started])
def test_examples_in_the_documentation(module: ModuleType) -> None:
    result = doctest.testmod(module)
    assert result.attempted
    assert not result.failed


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_has_a_file_that_loads(kind: str) -> None:
    loaded = load_cluster(str(CLUSTER / f"{kind}.yaml"))
    assert type(loaded) is KINDS[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_files_name_every_key(kind: str) -> None:
    """Also those that are commented out, so that nobody has to look for them elsewhere."""
    text = (CLUSTER / f"{kind}.yaml").read_text()
    keys = set(KINDS[kind].model_fields)
    assert {key for key in keys if f"{key}:" not in text} == set()


@pytest.mark.parametrize(
    ("kind", "changes", "line"),
    [
        ("ssh", {"cpu": {"host": ["a"]}}, "cpu.host: unknown key; did you mean 'hosts'?"),
        ("ssh", {"cpu": {"hosts": []}}, "hosts: name at least one"),
        ("slurm", {"gpu": {"workers": 1, "gress": "gpu:1"}}, "gpu.gress: unknown key"),
        ("slurm", {"walltime": "4 hours"}, "'4 hours': should be a time in SLURM's form"),
        ("slurm", {"walltime": "00:00:30"}, "should be at least a minute"),
        ("slurm", {"driver": {"walltime": "00:03:00"}}, "should be at least 6 minutes"),
        ("slurm", {"adapt": {"min": 9, "max": 2}}, "min 9 is above max 2"),
        ("slurm", {"cpu": {"workers": 0}, "gpu": {"workers": 0}}, "cpu.workers and gpu.workers are both 0"),
        ("kubernetes", {"volumes": [{"claim": "a", "path": "runs"}]}, "should be an absolute path"),
        ("local", {"lifetime": "soon"}, "'soon': should be a time such as 90min or 6h"),
        ("local", {"security": {"ca": "ca.pem"}}, "security.ca: unknown key; possible: ca_file, cert, key"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, kind: str, changes: dict[str, Any], line: str) -> None:
    content = yaml.safe_load((CLUSTER / f"{kind}.yaml").read_text())
    file = tmp_path / "cluster.yaml"
    file.write_text(yaml.safe_dump({**content, **changes}))
    with pytest.raises(ClusterError) as caught:
        load_cluster(str(file))
    assert line in str(caught.value)
    assert str(file) in str(caught.value)


def test_the_script_of_a_worker_s_job() -> None:
    loaded = load_cluster(str(CLUSTER / "slurm.yaml"))
    assert isinstance(loaded, Slurm)
    specs = loaded.worker_specs()
    assert sorted(specs) == ["cpu-0", "cpu-1", "cpu-2", "cpu-3", "gpu-0"]
    assert specs["cpu-0"]["group"] == [f"-{number}" for number in range(8)]
    cpu, gpu = (
        specs[name]["cls"]("tcp://node1:8786", name=name, **specs[name]["options"]).job_script()
        for name in ("cpu-0", "gpu-0")
    )
    for option in ("--cpus-per-task=8", "--mem=32G", "-t 04:00:00"):
        assert f"#SBATCH {option}\n" in cpu
    assert "#SBATCH --gres=gpu:1\n" in gpu
    assert "--resources CPU=1" in cpu
    assert "--resources GPU=1" in gpu
    assert "--nworkers 8" in cpu
    assert "--lifetime 13680s --lifetime-stagger 600s" in cpu
    assert "export DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES=0\n" in cpu


def test_submit_prints_the_driver_s_script(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = tmp_path / "my job.yaml"
    job.write_text("name: mine\noutput: runs\ndataset: {format: folder, images: p, location: {level: 0}}\n")
    options = ["--cluster", str(CLUSTER / "slurm.yaml"), "--dry-run"]
    assert main(["submit", str(job), *options, "--set", "validate.thumbnails=0", "--retry", "missing"]) == 0
    script = capsys.readouterr().out
    (tmp_path / "script").write_text(script)
    subprocess.run(["bash", "-n", str(tmp_path / "script")], check=True)
    assert "#SBATCH --requeue\n" in script
    assert f"reprocess '{job}' --cluster {CLUSTER}/slurm.yaml --set validate.thumbnails=0 " in script
    assert not list(tmp_path.glob("slurm-logs"))


def test_paths_with_spaces_in_scripts_for_slurm(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """sbatch takes quotes in its lines as a shell does."""
    here = tmp_path / "it's 100% mine"
    here.mkdir()
    monkeypatch.chdir(here)
    (here / "job.yaml").write_text(
        "name: mine\noutput: runs\ndataset: {format: folder, images: p, location: {level: 0}}\n"
    )
    content = yaml.safe_load((CLUSTER / "slurm.yaml").read_text())
    (here / "slurm.yaml").write_text(yaml.safe_dump({**content, "local_directory": str(here / "scratch")}))
    assert main(["submit", "job.yaml", "--cluster", "slurm.yaml", "--dry-run"]) == 0
    driver = options_of(capsys.readouterr().out)
    escaped = str(here).replace("%", "%%")
    assert f"--output={escaped}/slurm-logs/camtrap-mine-%j.log" in driver
    assert f"--chdir={here}" in driver

    loaded = load_cluster("slurm.yaml")
    assert isinstance(loaded, Slurm)
    spec = loaded.worker_specs()["gpu-0"]
    script = spec["cls"]("tcp://node1:8786", name="gpu-0", **spec["options"]).job_script()
    worker = options_of(script)
    assert worker[worker.index("-o") + 1] == f"{escaped}/slurm-logs/camtrap-gpu-%J.out"
    assert worker[worker.index("-e") + 1] == f"{escaped}/slurm-logs/camtrap-gpu-%J.err"
    command = shlex.split(script.splitlines()[-1] or script.splitlines()[-2])
    assert command[command.index("--local-directory") + 1] == str(here / "scratch")
    assert sorted(path.name for path in here.iterdir()) == ["job.yaml", "slurm-logs", "slurm.yaml"]


def options_of(script: str) -> list[str]:
    """Words of the lines for sbatch."""
    return [
        word
        for line in script.splitlines()
        if line.startswith("#SBATCH ")
        for word in shlex.split(line.removeprefix("#SBATCH "))
    ]


@pytest.mark.parametrize("kind", ["local", "address", "ssh"])
def test_submit_is_for_slurm_and_kubernetes(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "job.yaml").write_text(
        "name: mine\noutput: runs\ndataset: {format: folder, images: p, location: {level: 0}}\n"
    )
    assert main(["submit", str(tmp_path / "job.yaml"), "--cluster", str(CLUSTER / f"{kind}.yaml")]) == 2
    said = capsys.readouterr().err
    assert "submit needs a cluster file of kind slurm or kubernetes" in said
    assert said.count("\n") == 1


def test_no_slurm_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with (
        pytest.raises(ClusterError, match="sbatch: not on this machine"),
        load_cluster(str(CLUSTER / "slurm.yaml")).open(),
    ):
        pass


def test_what_workers_may_take_is_known_before_a_cluster_is_open(tmp_path: Path) -> None:
    """What killed a worker is tried again where workers may take more."""
    file = tmp_path / "local.yaml"
    file.write_text("kind: local\ncpu: {workers: 1, memory: 300MB}\ngpu: {workers: 1}\n")
    assert load_cluster(str(file)).worker_memory() == {
        "CPU": 300_000_000,
        "GPU": psutil.virtual_memory().total // 2,
    }
    group = {"workers": 2, "memory": "4GiB"}
    file.write_text(yaml.safe_dump({"kind": "slurm", "cpu": group, "gpu": {**group, "memory": "32GiB"}}))
    assert load_cluster(str(file)).worker_memory() == {"CPU": 4 * 2**30, "GPU": 32 * 2**30}
    assert load_cluster("tcp://10.0.0.7:8786").worker_memory() == {}
