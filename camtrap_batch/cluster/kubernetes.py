"""Kind kubernetes: the manifests of a DaskCluster, a GPU worker group and a DaskJob, for the Dask operator.

The operator gives a cluster one worker group, `default`; GPU workers are a DaskWorkerGroup beside it. Its
autoscaler considers only the default group.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator

from camtrap_batch.cluster.sections import (
    Adapt,
    DaskCluster,
    Duration,
    Memory,
    Number,
    Opened,
    Threads,
    Wait,
    lifetime_arguments,
)
from camtrap_batch.cluster.settings import SETTINGS, environment, tls_paths
from camtrap_batch.errors import ClusterError, ClusterUnreachable, MissingExtra
from camtrap_batch.yamlfile import Section, write_yaml

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dask_kubernetes.operator import KubeCluster

API = "kubernetes.dask.org/v1"
_COMM, _DASHBOARD = 8786, 8787
_TLS_FOLDER = "/etc/camtrap/tls"
_JOB_FOLDER = "/etc/camtrap/job"
_LONGEST_NAME = 44  # leaves room in a label for what the operator and this module add
_GRACE_S = 120
_DELETED_S, _POLL_S = 300.0, 0.5
_ROUTES, _API_ROUTE = "distributed.scheduler.http.routes", "distributed.http.scheduler.api"
_LABELS = {"app.kubernetes.io/part-of": "camtrap-batch"}


class PodGroup(Section):
    workers: Number = Field(description="worker pods")
    threads: Threads = Field(1, description="threads, and cores, of each worker")
    memory: Memory = Field("4GiB", description="memory of each worker")
    image: str | None = Field(None, description="container image; absent: that of the cluster")
    node_selector: dict[str, str] = Field(default_factory=dict, description="labels of the nodes to use")
    tolerations: list[dict[str, Any]] = Field(default_factory=list, description="taints of nodes to accept")
    resources: dict[str, int | str] = Field(
        default_factory=dict, description="further resources that a pod requests, such as nvidia.com/gpu: 1"
    )


class DriverPod(Section):
    cores: int = Field(1, ge=1, description="cores of the pod that runs the driver")
    memory: Memory = Field("4GiB", description="memory of the pod that runs the driver")


class Volume(Section):
    claim: str = Field(description="PersistentVolumeClaim")
    path: str = Field(description="where every pod sees it")
    read_only: bool = Field(False, description="nothing can be written there")

    @field_validator("path")
    @classmethod
    def _absolute(cls, value: str) -> str:
        if not PurePosixPath(value).is_absolute():
            raise ValueError(f"{value!r}: should be an absolute path")
        return value


class TlsSecret(Section):
    secret: str = Field(description="Secret with the keys ca.pem, cert.pem and key.pem")


class Kubernetes(DaskCluster):
    kind: Literal["kubernetes"] = Field(description="pods, through the Dask operator")
    image: str = Field(description="container image of every pod, see cluster/Dockerfile")
    namespace: str = Field("default", description="namespace of everything")
    cpu: PodGroup = Field(description="workers that validate and, without a GPU, classify")
    gpu: PodGroup = Field(PodGroup(workers=0), description="workers that hold GPU=1 and train")
    adapt: Adapt | None = Field(None, description="start CPU workers as needed: {min, max}")
    lifetime: Duration | None = Field(
        None, description="time after which a worker process leaves in order and is restarted, such as 6h"
    )
    driver: DriverPod = Field(default_factory=DriverPod, description="pod that `camtrap submit` makes")
    volumes: list[Volume] = Field(default_factory=list, description="where images and run folder are")
    secrets: list[str] = Field(
        default_factory=list, description="Secrets whose keys are environment variables of every pod"
    )
    # Not files on this machine, as for the other kinds, but in the pods.
    security: TlsSecret | None = Field(None, description="TLS certificates")  # type: ignore[assignment]
    wait_s: Wait = Field(900, description="seconds to wait for the scheduler, and for a needed worker")

    @contextmanager
    def open(self) -> Opened:
        from camtrap_batch.cluster.started import client_of

        require_dask_kubernetes()
        if self.security is not None:
            raise ClusterError(
                "security: from outside, dask-kubernetes speaks to the scheduler without TLS; use "
                "`camtrap submit`, whose driver is a pod, or leave out security"
            )
        with client_of(self._start, "no Dask cluster can be started on Kubernetes") as client:
            yield client

    def _start(self) -> KubeCluster:
        from dask_kubernetes.operator import KubeCluster

        cluster, *others = cluster_manifests(self, "camtrap")
        started = KubeCluster(
            custom_cluster_spec=cluster,
            namespace=self.namespace,
            resource_timeout=math.ceil(self.wait_s),
            quiet=True,
        )
        for manifest in others:
            if manifest["kind"] == "DaskWorkerGroup":
                started.add_worker_group("gpu", custom_spec=manifest["spec"]["worker"])
        if self.adapt:
            started.adapt(self.adapt.min, self.adapt.max)
        return started


def object_name(job_name: str) -> str:
    """A job's name in a form that Kubernetes accepts.

    >>> object_name("WCS_threatened.v2")
    'camtrap-wcs-threatened-v2'
    """
    plain = re.sub(r"[^a-z0-9]+", "-", job_name.lower()).strip("-")
    return f"camtrap-{plain}"[:_LONGEST_NAME].rstrip("-")


def cluster_manifests(spec: Kubernetes, name: str) -> list[dict[str, Any]]:
    """A DaskCluster, its GPU worker group if it has one, and its autoscaler if it adapts."""
    cluster = {
        "apiVersion": API,
        "kind": "DaskCluster",
        "metadata": _metadata(spec, name),
        "spec": {"worker": _worker_group(spec, name, "CPU"), "scheduler": _scheduler(spec, name)},
    }
    return [cluster, *_beside(spec, name)]


def job_manifests(
    spec: Kubernetes, name: str, job_file: str, arguments: Sequence[str]
) -> list[dict[str, Any]]:
    """What `camtrap submit` creates: a ConfigMap with the job file, a DaskJob with the driver, GPU workers.

    Parameters
    ----------
    job_file : content of the job file, with absolute paths
    arguments : further options of `camtrap reprocess`
    """
    scheme = "tls" if spec.security else "tcp"
    address = write_yaml(
        {
            "kind": "address",
            "address": f"{scheme}://{name}-scheduler.{spec.namespace}:{_COMM}",
            "connect_s": spec.wait_s,
            "wait_s": spec.wait_s,
        }
    )
    files = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(spec, f"{name}-job"),
        "data": {"job.yaml": job_file, "cluster.yaml": address},
    }
    command = ["camtrap", "reprocess", f"{_JOB_FOLDER}/job.yaml", "--cluster", f"{_JOB_FOLDER}/cluster.yaml"]
    size = {"cpu": str(spec.driver.cores), "memory": _bytes(spec.driver.memory)}
    driver = _pod(spec, "job", [*command, *arguments], spec.image, size, size)
    driver["restartPolicy"] = "Never"
    driver["volumes"].append({"name": "job", "configMap": {"name": f"{name}-job"}})
    driver["containers"][0]["volumeMounts"].append(
        {"name": "job", "mountPath": _JOB_FOLDER, "readOnly": True}
    )
    job = {
        "apiVersion": API,
        "kind": "DaskJob",
        "metadata": _metadata(spec, name),
        "spec": {
            "job": {"spec": driver},
            "cluster": {
                "spec": {
                    "worker": _worker_group(spec, name, "CPU"),
                    "scheduler": _scheduler(spec, name),
                }
            },
        },
    }
    return [files, job, *_beside(spec, name)]


def apply(manifests: Sequence[dict[str, Any]]) -> None:
    """Create the objects, after deleting what an earlier driver of the same job left behind.

    Raises
    ------
    ClusterError
        A driver of this job is at work, or Kubernetes refuses an object.
    ClusterUnreachable
        Kubernetes does not answer, or does not get rid of the old objects.
    """
    require_dask_kubernetes()
    import httpx
    import kr8s
    from kr8s.objects import object_from_spec

    what = "its API"
    try:
        _clear(manifests)
        for manifest in manifests:
            what = f"{manifest['kind']} {manifest['metadata']['namespace']}/{manifest['metadata']['name']}"
            object_from_spec(manifest, allow_unknown_type=True).create()
    except kr8s.ServerError as problem:
        raise ClusterError(f"Kubernetes refuses {what}: {problem}") from None
    except (
        kr8s.APITimeoutError,
        kr8s.ConnectionClosedError,
        httpx.HTTPError,
        OSError,
        ValueError,
    ) as problem:
        raise ClusterUnreachable(f"no Kubernetes cluster can be reached: {problem}") from None


def _clear(manifests: Sequence[dict[str, Any]]) -> None:
    """Delete the objects of an earlier driver of the same job, unless it is at work."""
    from kr8s import NotFoundError
    from kr8s.objects import Pod, object_from_spec

    for manifest in manifests:
        if manifest["kind"] == "DaskJob":
            name, namespace = manifest["metadata"]["name"], manifest["metadata"]["namespace"]
            driver = Pod({"metadata": {"name": f"{name}-runner", "namespace": namespace}})
            with suppress(NotFoundError):
                driver.refresh()
                found: dict[str, Any] = dict(driver.raw)
                if (phase := found.get("status", {}).get("phase")) in ("Pending", "Running"):
                    raise ClusterError(
                        f"DaskJob {namespace}/{name} already exists, and its driver is {phase.lower()}; "
                        f"to end it: kubectl -n {namespace} delete daskjob/{name}"
                    )
    # What the operator made for the job goes with it.
    old = [object_from_spec(manifest, allow_unknown_type=True) for manifest in reversed(manifests)]
    there = [one for one in old if one.exists()]
    for one in there:
        with suppress(NotFoundError):
            one.delete(propagation_policy="Foreground")
    deadline = time.monotonic() + _DELETED_S
    while there := [one for one in there if one.exists()]:
        if time.monotonic() >= deadline:
            names = ", ".join(f"{one.kind} {one.name}" for one in there)
            raise ClusterUnreachable(f"Kubernetes has not deleted {names} in {_DELETED_S:.0f} s; try again")
        time.sleep(_POLL_S)


def require_dask_kubernetes() -> None:
    if find_spec("dask_kubernetes") is None:
        raise MissingExtra("kubernetes", "a cluster file of kind kubernetes")


def check_paths(spec: Kubernetes, paths: Mapping[str, str]) -> None:
    """Raise ClusterError if a path of the job is on none of the volumes; URLs are visible everywhere.

    `paths`: dotted key of the job file -> path or URL.
    """
    for key, given in paths.items():
        path = given.rpartition("::")[2]
        if "://" in path:
            continue
        if not any(PurePosixPath(path).is_relative_to(volume.path) for volume in spec.volumes):
            mounted = ", ".join(volume.path for volume in spec.volumes) or "none"
            raise ClusterError(
                f"{key}: {path}: no pod would see it: on no volume of the cluster file; volumes: {mounted}"
            )


def _beside(spec: Kubernetes, name: str) -> list[dict[str, Any]]:
    others: list[dict[str, Any]] = []
    if spec.gpu.workers:
        group = {
            "apiVersion": API,
            "kind": "DaskWorkerGroup",
            "metadata": _metadata(spec, f"{name}-gpu"),
            "spec": {"cluster": name, "worker": _worker_group(spec, name, "GPU")},
        }
        others.append(group)
    if spec.adapt:
        bounds = {"cluster": name, "minimum": spec.adapt.min, "maximum": spec.adapt.max}
        others.append(
            {
                "apiVersion": API,
                "kind": "DaskAutoscaler",
                "metadata": _metadata(spec, name),
                "spec": bounds,
            }
        )
    return others


def _worker_group(spec: Kubernetes, name: str, kind: Literal["CPU", "GPU"]) -> dict[str, Any]:
    group = spec.cpu if kind == "CPU" else spec.gpu
    scheme = "tls" if spec.security else "tcp"
    resource = group.threads if kind == "CPU" else 1
    command = [
        "dask", "worker", f"{scheme}://{name}-scheduler.{spec.namespace}:{_COMM}",
        "--name", "$(DASK_WORKER_NAME)",
        "--nthreads", str(group.threads),
        "--memory-limit", _bytes(group.memory),
        "--resources", f"{kind}={resource}",
        "--death-timeout", str(_GRACE_S),
        "--dashboard-address", ":8788",
    ]  # fmt: skip
    for option, value in lifetime_arguments(spec.lifetime).items():
        flag = f"--{option.replace('_', '-')}"
        command += [flag] if value is True else [flag, str(value)]
    requests = {"cpu": str(group.threads), "memory": _bytes(group.memory)}
    limits = {"memory": _bytes(group.memory), **{key: str(value) for key, value in group.resources.items()}}
    pod = _pod(spec, "worker", command, group.image or spec.image, requests, limits)
    pod["containers"][0]["ports"] = [{"name": "http-dashboard", "containerPort": 8788, "protocol": "TCP"}]
    # SIGTERM, as when its node is needed by others, ends a Dask worker in order.
    pod["terminationGracePeriodSeconds"] = _GRACE_S
    if group.node_selector:
        pod["nodeSelector"] = dict(group.node_selector)
    if group.tolerations:
        pod["tolerations"] = list(group.tolerations)
    replicas = spec.adapt.min if spec.adapt and kind == "CPU" else group.workers
    return {"replicas": replicas, "spec": pod}


def _scheduler(spec: Kubernetes, name: str) -> dict[str, Any]:
    scheme = "tls" if spec.security else "tcp"
    command = [
        "dask", "scheduler",
        "--protocol", scheme,
        "--port", str(_COMM),
        "--dashboard-address", f":{_DASHBOARD}",
    ]  # fmt: skip
    requests = {"cpu": "1", "memory": "2Gi"}
    pod = _pod(spec, "scheduler", command, spec.image, requests, {"memory": "4Gi"})
    probe = {"httpGet": {"port": "http-dashboard", "path": "/health"}}
    pod["containers"][0] |= {
        "ports": [
            {"name": "tcp-comm", "containerPort": _COMM, "protocol": "TCP"},
            {"name": "http-dashboard", "containerPort": _DASHBOARD, "protocol": "TCP"},
        ],
        "readinessProbe": {**probe, "periodSeconds": 2, "timeoutSeconds": 5},
        "livenessProbe": {**probe, "initialDelaySeconds": 30, "periodSeconds": 20, "timeoutSeconds": 10},
    }
    ports = {"tcp-comm": _COMM, "http-dashboard": _DASHBOARD}
    service = {
        "type": "ClusterIP",
        "selector": {"dask.org/cluster-name": name, "dask.org/component": "scheduler"},
        "ports": [
            {"name": port, "protocol": "TCP", "port": number, "targetPort": port}
            for port, number in ports.items()
        ],
    }
    return {"spec": pod, "service": service}


def _pod(
    spec: Kubernetes,
    container: str,
    command: Sequence[str],
    image: str,
    requests: dict[str, str],
    limits: dict[str, str],
) -> dict[str, Any]:
    settings = dict(SETTINGS)
    mounts = [
        {"name": f"volume-{index}", "mountPath": volume.path, "readOnly": volume.read_only}
        for index, volume in enumerate(spec.volumes)
    ]
    volumes: list[dict[str, Any]] = [
        {
            "name": f"volume-{index}",
            "persistentVolumeClaim": {"claimName": volume.claim, "readOnly": volume.read_only},
        }
        for index, volume in enumerate(spec.volumes)
    ]
    if spec.security:
        settings |= tls_paths(*(f"{_TLS_FOLDER}/{file}.pem" for file in ("ca", "cert", "key")))
        mounts.append({"name": "tls", "mountPath": _TLS_FOLDER, "readOnly": True})
        volumes.append({"name": "tls", "secret": {"secretName": spec.security.secret}})
    # The operator scales down in order through its own page of workers to retire.
    settings[_ROUTES] = _with_api(settings.get(_ROUTES))
    return {
        "containers": [
            {
                "name": container,
                "image": image,
                "args": list(command),
                "env": [{"name": key, "value": value} for key, value in environment(settings).items()],
                "envFrom": [{"secretRef": {"name": secret}} for secret in spec.secrets],
                "resources": {"requests": requests, "limits": limits},
                "volumeMounts": mounts,
            }
        ],
        "volumes": volumes,
    }


def _with_api(routes: list[str] | None) -> list[str]:
    import dask
    import distributed  # noqa: F401 - else its own routes are not in the list

    known: list[str] = routes or dask.config.get(_ROUTES)
    return [*known, *({_API_ROUTE} - set(known))]


def _metadata(spec: Kubernetes, name: str) -> dict[str, Any]:
    return {"name": name, "namespace": spec.namespace, "labels": dict(_LABELS)}


def _bytes(memory: str) -> str:
    """An amount in whole MiB, in a form that both Kubernetes and Dask read.

    >>> _bytes("4GiB"), _bytes("500MB")
    ('4096Mi', '476Mi')
    """
    from dask.utils import parse_bytes

    return f"{parse_bytes(memory) // 2**20}Mi"
