"""Kind slurm: each group of workers is a number of SLURM jobs; the driver runs in a separate one.

`camtrap submit` creates the driver's job; dask-jobqueue creates those of the workers.
"""

from __future__ import annotations

import math
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from camtrap_batch.cluster.sections import Adapt, Memory, Number, Opened, OwnCluster, Threads, Wait
from camtrap_batch.cluster.settings import SETTINGS, environment, tls_settings
from camtrap_batch.errors import ClusterError, MissingExtra
from camtrap_batch.yamlfile import Section

if TYPE_CHECKING:
    from distributed import SpecCluster

_LEAVE_S = 180  # before the driver's walltime: longer than work in flight takes
_WALLTIME = re.compile(r"(?:(\d+)-)?(\d+):(\d\d)(?::(\d\d))?|(\d+)")
_DEATH_TIMEOUT_S = 120  # after which a worker without a driver ends, and its SLURM job with it


def seconds_of(walltime: str) -> int:
    """A time in SLURM's form, in seconds.

    >>> seconds_of("1-12:00:00"), seconds_of("02:30:00"), seconds_of("10:30"), seconds_of("90")
    (129600, 9000, 630, 5400)
    """
    found = _WALLTIME.fullmatch(walltime)
    if found is None:
        raise ValueError(f"{walltime!r}: should be a time in SLURM's form, such as 04:00:00 or 1-12:00:00")
    days, first, second, third, minutes = found.groups()
    if minutes is not None:
        return int(minutes) * 60
    if days is not None and third is None:  # days-hours:minutes
        return int(days) * 86400 + int(first) * 3600 + int(second) * 60
    if third is None:  # minutes:seconds
        return int(first) * 60 + int(second)
    return int(days or 0) * 86400 + int(first) * 3600 + int(second) * 60 + int(third)


def _walltime(value: str) -> str:
    if seconds_of(value) < 60:
        raise ValueError(f"{value!r}: should be at least a minute")
    return value


Walltime = Annotated[str, AfterValidator(_walltime)]


class JobGroup(Section):
    workers: Number = Field(description="worker processes")
    per_job: int = Field(1, ge=1, description="worker processes in one SLURM job")
    threads: Threads = Field(1, description="threads, and cores, of each worker")
    memory: Memory = Field("4GiB", description="memory of each worker")
    partition: str | None = Field(None, description="absent: SLURM's default")
    extra: list[str] = Field(
        default_factory=list, description='more options of sbatch, such as "--gres=gpu:1"'
    )


class Driver(Section):
    cores: int = Field(2, ge=1, description="cores of the driver's own job")
    memory: Memory = Field("8GiB", description="memory of the driver's own job")
    walltime: Walltime = Field("1-00:00:00", description="the driver is requeued when it is over")
    partition: str | None = Field(None, description="absent: SLURM's default")
    extra: list[str] = Field(default_factory=list, description="further options of sbatch")

    @field_validator("walltime")
    @classmethod
    def _leaves_time(cls, value: str) -> str:
        if seconds_of(value) < 2 * _LEAVE_S:
            raise ValueError(
                f"{value!r}: should be at least {2 * _LEAVE_S // 60} minutes, for an orderly end"
            )
        return value


class Slurm(OwnCluster):
    kind: Literal["slurm"] = Field(description="workers are SLURM jobs")
    cpu: JobGroup = Field(description="workers that validate and, without a GPU, classify")
    gpu: JobGroup = Field(JobGroup(workers=0), description="workers that hold GPU=1 and train")
    adapt: Adapt | None = Field(None, description="start CPU workers as needed: {min, max}")
    account: str | None = Field(None, description="whom SLURM charges")
    walltime: Walltime = Field(
        "04:00:00", description="of a worker's job; the worker leaves in order before, and is replaced"
    )
    driver: Driver = Field(default_factory=Driver, description="the job that `camtrap submit` creates")
    python: str | None = Field(None, description="Python on the nodes; absent: the path of this one")
    prologue: list[str] = Field(
        default_factory=list, description='lines of shell before Python, such as "module load cuda"'
    )
    interface: str | None = Field(None, description="network interface that nodes share, such as ib0")
    logs: str = Field("slurm-logs", description="folder for the jobs' output")
    local_directory: str | None = Field(None, description="scratch folder on the nodes; absent: Dask's")
    dashboard: str = Field("127.0.0.1:8787", description="address of the dashboard on the driver's node")
    wait_s: Wait = Field(3600, description="seconds to wait in SLURM's queue for a worker of a needed kind")

    @model_validator(mode="after")
    def _somebody_works(self) -> Slurm:
        if self.cpu.workers == 0 and self.gpu.workers == 0:
            raise ValueError("cpu.workers and gpu.workers are both 0")
        return self

    @contextmanager
    def open(self) -> Opened:
        from camtrap_batch.cluster.started import client_of

        if find_spec("dask_jobqueue") is None:
            raise MissingExtra("slurm", "a cluster file of kind slurm")
        require_sbatch()
        with client_of(self._start, "SLURM starts no workers") as client:
            yield client

    def private_folder(self) -> Path:
        return Path(self.logs).absolute()  # nodes share it

    def _start(self) -> SpecCluster:
        from distributed import Scheduler

        from camtrap_batch.cluster.started import StartedCluster

        options: dict[str, Any] = {
            "dashboard_address": self.dashboard,
            "protocol": "tls://" if self.security else "tcp://",
        }
        if self.interface:
            options["interface"] = self.interface
        return StartedCluster(
            self.worker_specs(), {"cls": Scheduler, "options": options}, self.adapt, keep=True
        )

    def worker_specs(self) -> dict[str, Any]:
        """A SLURM job for each entry, in the form of `SpecCluster`."""
        from dask.utils import format_bytes, parse_bytes

        from camtrap_batch.cluster.slurmjob import WorkerJob

        specs = {}
        for name, group in {"CPU": self.cpu, "GPU": self.gpu}.items():
            workers = self.adapt.min if self.adapt and name == "CPU" else group.workers
            resource = group.threads if name == "CPU" else 1
            spec = {
                "cls": WorkerJob,
                "options": {
                    "queue": group.partition,
                    "account": self.account,
                    "walltime": self.walltime,
                    "cores": group.threads * group.per_job,
                    "processes": group.per_job,
                    "memory": format_bytes(parse_bytes(group.memory) * group.per_job).replace(" ", ""),
                    "job_name": f"camtrap-{name.lower()}",
                    "job_extra_directives": group.extra,
                    "job_script_prologue": [*self.prologue, *self._exports()],
                    "log_directory": str(Path(self.logs).absolute()),
                    "python": shlex.quote(self.python or sys.executable),
                    "local_directory": shlex.quote(self.local_directory) if self.local_directory else None,
                    "interface": self.interface,
                    "death_timeout": _DEATH_TIMEOUT_S,
                    "worker_extra_args": [
                        "--resources", f"{name}={resource}", "--no-dashboard",
                        "--dashboard-address", "127.0.0.1:0", *leave_before(self.walltime),
                    ],
                },
            }  # fmt: skip
            if group.per_job > 1:
                spec["group"] = [f"-{index}" for index in range(group.per_job)]
            for index in range(math.ceil(workers / group.per_job)):
                specs[f"{name.lower()}-{index}"] = spec
        return specs

    def _exports(self) -> list[str]:
        settings = {**SETTINGS, **tls_settings(self.security)}
        return [f"export {name}={shlex.quote(value)}" for name, value in environment(settings).items()]


def leave_before(walltime: str) -> list[str]:
    """Arguments of Dask workers that end their work before SLURM ends them, but not all at once.

    >>> leave_before("04:00:00")
    ['--lifetime', '13680s', '--lifetime-stagger', '600s']
    """
    total = seconds_of(walltime)
    stagger = min(600, total // 20)
    margin = min(120, total // 5)
    return ["--lifetime", f"{total - stagger - margin}s", "--lifetime-stagger", f"{stagger}s"]


def driver_script(spec: Slurm, job_name: str, command: Sequence[str]) -> str:
    """The sbatch script that runs `command`, the driver, in a job of its own.

    SLURM may end and requeue the job at any time: the command then continues from its receipts. Before its
    walltime is over it ends in order and is requeued by the script itself; `scancel` ends it for good.
    """
    driver = spec.driver
    from dask.utils import parse_bytes

    log = f"{_percent(Path(spec.logs).absolute())}/camtrap-{job_name}-%j.log"
    options = [
        f"--job-name=camtrap-{job_name}",
        f"--output={shlex.quote(log)}",  # sbatch treats quotes in these lines like a shell
        "--open-mode=append",
        f"--chdir={shlex.quote(str(Path.cwd()))}",
        "--ntasks=1",
        f"--cpus-per-task={driver.cores}",
        f"--mem={math.ceil(parse_bytes(driver.memory) / 2**20)}M",
        f"--time={driver.walltime}",
        "--requeue",
        f"--signal=B:USR1@{_LEAVE_S}",
        *([f"--partition={driver.partition}"] if driver.partition else []),
        *([f"--account={spec.account}"] if spec.account else []),
        *driver.extra,
    ]
    python = shlex.quote(spec.python or sys.executable)
    return "\n".join(
        [
            "#!/bin/bash",
            *(f"#SBATCH {option}" for option in options),
            "",
            *spec.prologue,
            "",
            f"{python} -m camtrap_batch {shlex.join(command)} &",
            "driver=$! signalled= again=",
            "trap 'signalled=1' TERM  # preemption, scancel: SLURM sends it to the driver too",
            "trap 'signalled=1 again=1; kill -TERM $driver' USR1  # the walltime is near: go on later",
            "while wait $driver; code=$?; [ $signalled ]; do signalled=; done",
            'if [ $again ] && [ $code = 130 ]; then scontrol requeue "$SLURM_JOB_ID"; fi',
            "exit $code",
            "",
        ]
    )


def _percent(path: Path) -> str:
    """A path for sbatch, where %j stands for the job's number."""
    return str(path).replace("%", "%%")


@dataclass(frozen=True)
class Submitted:
    job_id: str
    log: Path


def submit_driver(spec: Slurm, job_name: str, script: str) -> Submitted:
    """Hand the script to SLURM. Raises ClusterError if it refuses it."""
    require_sbatch()
    logs = Path(spec.logs).absolute()
    try:
        logs.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise ClusterError(f"{logs}: {problem.strerror} (logs)") from None
    done = subprocess.run(["sbatch", "--parsable"], input=script, capture_output=True, text=True, check=False)  # noqa: S607
    if done.returncode != 0:
        from camtrap_batch.cluster.started import error_lines

        raise ClusterError(f"SLURM refuses the driver's job: {error_lines(done.stderr)}")
    job_id = done.stdout.strip().partition(";")[0]
    return Submitted(job_id, logs / f"camtrap-{job_name}-{job_id}.log")


def require_sbatch() -> None:
    if shutil.which("sbatch") is None:
        raise ClusterError("sbatch: not on this machine; kind slurm needs one where SLURM jobs are submitted")
