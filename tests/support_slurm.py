"""A real SLURM on this machine, on loopback, in folders and at ports of its own; and what is asked of it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from support import wait_until

_PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol", "setpriv")

# Eight cores, of which most are imagined, and a GPU that is none: nothing is bound or fenced.
_CONF = """\
ClusterName=camtrap
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={daemon}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/builtin
SchedulerParameters=batch_sched_delay=0,sched_interval=2,sched_min_interval=100000
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=2
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs=8 RealMemory=64000 Gres=gpu:1 State=UNKNOWN
PartitionName=cpu Nodes=ALL Default=YES State=UP
PartitionName=gpu Nodes=ALL State=UP
"""


def why_no_slurm() -> str | None:
    """Why a SLURM can't be started here; None where it can."""
    missing = [name for name in _PROGRAMS if shutil.which(name) is None]
    if missing:
        return f"not installed: {', '.join(missing)} (slurm-wlm, munge)"
    return None if os.geteuid() == 0 else "only root can start SLURM"


class Slurm:
    """Asks SLURM; `environment` leads its commands there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}

    def ask(self, *command: str) -> str:
        done = subprocess.run(command, capture_output=True, text=True, env=self.environment, timeout=30)
        assert done.returncode == 0, (command, done.stderr)
        return done.stdout

    def jobs(self, name: str) -> list[str]:
        """Ids of the jobs of a name that run now."""
        return self.ask("squeue", "-h", "-t", "RUNNING", "-n", name, "-o", "%i").split()

    def all_jobs(self, name: str) -> list[str]:
        """Ids of the jobs of a name, whatever their state."""
        return self.ask("squeue", "-h", "-t", "all", "-n", name, "-o", "%i").split()

    def state(self, job: str) -> str:
        shown = self.ask("scontrol", "show", "job", job)
        return shown.partition("JobState=")[2].split()[0]


@contextmanager
def running_slurm() -> Iterator[Slurm]:
    """A SLURM with one node, until the block is left."""
    with TemporaryDirectory(prefix="slurm-") as name:
        folder = Path(name)
        host = socket.gethostname().partition(".")[0]
        controller, daemon = _free_ports(2)
        conf = _CONF.format(folder=folder, host=host, controller=controller, daemon=daemon)
        (folder / "slurm.conf").write_text(conf)
        (folder / "gres.conf").write_text(f"NodeName={host} Name=gpu File=/dev/zero\n")
        for part in ("state", "spool", "munge"):
            (folder / part).mkdir()
        folder.chmod(0o755)
        _start_munged(folder / "munge")
        slurm = Slurm(folder)
        try:
            for program in ("slurmctld", "slurmd"):
                subprocess.run([program], env=slurm.environment, check=True, timeout=30)
            wait_until(lambda: "idle" in _quietly(slurm, "sinfo", "-h", "-o", "%T"))
            yield slurm
        finally:
            _quietly(slurm, "scancel", "--user=root", "--full", "--signal=KILL")
            _quietly(slurm, "scancel", "--user=root")
            with suppress(AssertionError):
                wait_until(lambda: not _quietly(slurm, "squeue", "-h"), patience=10)
            for pid_file in ("slurmd.pid", "slurmctld.pid", "munge/pid"):
                _end(folder / pid_file)


def _start_munged(folder: Path) -> None:
    key = folder / "key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    for path in (folder, key):
        shutil.chown(path, "munge", "munge")
    names = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    files = [f"--{option}={folder / name}" for option, name in names.items()]
    as_munge = ["setpriv", "--reuid=munge", "--regid=munge", "--clear-groups"]
    subprocess.run([*as_munge, "munged", "--force", *files], check=True, timeout=30, capture_output=True)


def _quietly(slurm: Slurm, *command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, env=slurm.environment, timeout=30)
    return done.stdout


def _end(pid_file: Path) -> None:
    with suppress(FileNotFoundError, ProcessLookupError, ValueError):
        os.kill(int(pid_file.read_text()), signal.SIGKILL)  # no state is to be saved


def _free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
