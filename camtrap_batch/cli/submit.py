"""camtrap submit: hand the driver itself to SLURM or Kubernetes."""

from __future__ import annotations

import argparse
import getpass
import shlex
import socket
import threading
from pathlib import Path

from camtrap_batch.cli.options import add_option, job_argument, load_job
from camtrap_batch.cli.parser import Parser
from camtrap_batch.cluster import Kubernetes, Slurm, load_cluster
from camtrap_batch.cluster.kubernetes import apply, check_paths, job_manifests, object_name
from camtrap_batch.cluster.settings import is_loopback
from camtrap_batch.cluster.slurm import driver_script, submit_driver
from camtrap_batch.errors import ClusterError
from camtrap_batch.job import Job
from camtrap_batch.pipeline import parse_options, reprocess_options
from camtrap_batch.yamlfile import write_yaml


def add(parser: Parser) -> None:
    job_argument(parser)
    parser.add_argument(
        "--cluster", required=True, metavar="FILE", help="cluster file of kind slurm or kubernetes"
    )
    for option in reprocess_options():
        add_option(parser, option, as_typed=True)
    parser.add_argument(
        "--dry-run", action="store_true", help="print the sbatch script or the manifests, submit nothing"
    )
    parser.set_defaults(call=_submit)


def _submit(options: argparse.Namespace, stop: threading.Event) -> int:
    job = load_job(options)
    typed = {option.name: getattr(options, option.name.replace("-", "_")) for option in reprocess_options()}
    parse_options(typed, reprocess_options())
    spec = load_cluster(options.cluster)
    if isinstance(spec, Slurm):
        _to_slurm(options, job, spec)
    elif isinstance(spec, Kubernetes):
        _to_kubernetes(options, job, spec)
    else:
        raise ClusterError(
            f"{options.cluster}: submit needs a cluster file of kind slurm or kubernetes; with this one, run "
            f"camtrap reprocess {shlex.quote(options.job)} --cluster {shlex.quote(options.cluster)}"
        )
    return 0


def _to_slurm(options: argparse.Namespace, job: Job, spec: Slurm) -> None:
    files = [str(Path(options.job).absolute()), "--cluster", str(Path(options.cluster).absolute())]
    settings = [part for assignment in options.assignments for part in ("--set", assignment)]
    script = driver_script(spec, job.name, ["reprocess", *files, *settings, *_passed_on(options)])
    if options.dry_run:
        print(script, end="")
        return
    submitted = submit_driver(spec, job.name, script)
    port = spec.dashboard.rpartition(":")[2]
    login = f"{getpass.getuser()}@{socket.gethostname()}"
    node = f"$(ssh {login} squeue -h -o %B -j {submitted.job_id})"
    tunnel = f"ssh -N -L {port}:{node}:{port} {login}"
    if is_loopback(spec.dashboard):
        tunnel = f"ssh -N -J {login} -L {port}:localhost:{port} {getpass.getuser()}@{node}"
    print(f"SLURM job  {submitted.job_id}")
    print(f"log        {submitted.log}")
    print(f"status     camtrap status {shlex.quote(options.job)}, or squeue -j {submitted.job_id}")
    print(f"dashboard  once it runs, from your own machine: {tunnel}")
    print(f"           then http://localhost:{port}/status; the log names the port if it is another")
    print(f"cancel     scancel {submitted.job_id}   (finished work is kept)")


def _to_kubernetes(options: argparse.Namespace, job: Job, spec: Kubernetes) -> None:
    check_paths(spec, {"output": job.output, **job.inputs()})
    name = object_name(job.name)
    manifests = job_manifests(spec, name, job.to_yaml(), _passed_on(options))
    if options.dry_run:
        print("---\n".join(write_yaml(manifest) for manifest in manifests), end="")
        return
    apply(manifests)
    kubectl = f"kubectl -n {spec.namespace}"
    print(f"DaskJob    {spec.namespace}/{name}")
    print(f"log        {kubectl} logs -f {name}-runner")
    print(f"status     {kubectl} get daskjob {name}")
    print(
        f"dashboard  {kubectl} port-forward service/{name}-scheduler 8787, then http://localhost:8787/status"
    )
    print(f"cancel     {kubectl} delete {' '.join(_ids(manifests))}   (finished work is kept)")


def _passed_on(options: argparse.Namespace) -> list[str]:
    """The options of `reprocess`, as they were typed."""
    typed = {option.name: getattr(options, option.name.replace("-", "_")) for option in reprocess_options()}
    return [
        part
        for name, value in typed.items()
        if value
        for part in ([f"--{name}"] if value is True else [f"--{name}", value])
    ]


def _ids(manifests: list[dict[str, dict[str, str]]]) -> list[str]:
    return [f"{manifest['kind']}/{manifest['metadata']['name']}".lower() for manifest in manifests]
