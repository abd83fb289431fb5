"""Manifests for Kubernetes, checked by the schemas and the code of the Dask operator, without a cluster."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator, Sequence
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import jsonschema
import pytest
import yaml
from distributed.cli import dask_scheduler, dask_worker

from camtrap_batch.cli import main
from camtrap_batch.cluster import Kubernetes, load_cluster
from camtrap_batch.cluster.kubernetes import cluster_manifests, job_manifests, object_name
from camtrap_batch.errors import ClusterError

pytest.importorskip("dask_kubernetes")

CLUSTER = Path(__file__).resolve().parents[2] / "cluster"
JOB = """\
name: WCS_threatened
output: /runs
dataset: {format: folder, images: /photos, location: {level: 0}}
"""


def strict(schema: Any) -> Any:
    """The schema, with keys that it does not know refused: an API server drops them without a word."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {key: strict(part) for key, part in schema.items()}
    if schema.pop("x-kubernetes-int-or-string", False):
        return {"type": ["integer", "string"]}
    if isinstance(schema.get("properties"), dict) and "type" in schema:
        schema.setdefault("additionalProperties", False)
    return schema


@cache
def schemas() -> dict[str, Any]:
    """The operator's own resource definitions: kind -> schema of its `spec`."""
    import dask_kubernetes

    folder = Path(dask_kubernetes.__file__).parent / "operator" / "deployment" / "helm"
    found = {}
    for file in (folder / "dask-kubernetes-operator" / "crds").glob("*.yaml"):
        definition = yaml.load(file.read_text(), yaml.CSafeLoader)["spec"]
        schema = definition["versions"][0]["schema"]["openAPIV3Schema"]
        found[definition["names"]["kind"]] = strict(schema["properties"]["spec"])
    return found


def check(manifests: Sequence[dict[str, Any]]) -> None:
    known = schemas()
    for manifest in manifests:
        name = manifest["metadata"]["name"]
        assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", name)
        assert len(name) <= 63
        if manifest["kind"] != "ConfigMap":
            jsonschema.Draft202012Validator(known[manifest["kind"]]).validate(manifest["spec"])


def spec(**changes: Any) -> Kubernetes:
    loaded = load_cluster(str(CLUSTER / "kubernetes.yaml"))
    assert isinstance(loaded, Kubernetes)
    return Kubernetes.model_validate({**loaded.model_dump(), **changes})


@pytest.mark.parametrize("security", [None, {"secret": "camtrap-tls"}])
def test_manifests_are_what_the_operator_takes(security: dict[str, str] | None) -> None:
    cluster = spec(security=security, secrets=["bucket"])
    jobs = job_manifests(cluster, object_name("WCS_threatened"), JOB, ["--retry", "missing"])
    check(jobs)
    check(cluster_manifests(cluster, "camtrap"))
    assert [manifest["kind"] for manifest in jobs] == [
        "ConfigMap", "DaskJob", "DaskWorkerGroup", "DaskAutoscaler",
    ]  # fmt: skip


def test_a_key_that_the_operator_does_not_know_would_be_found() -> None:
    cluster, *_ = cluster_manifests(spec(), "camtrap")
    cluster["spec"]["worker"]["spec"]["containers"][0]["arguments"] = []
    with pytest.raises(jsonschema.ValidationError, match="arguments"):
        check([cluster])


def test_what_the_operator_makes_of_them_fits_together() -> None:
    """Pods as the operator's controller builds them: addresses, names and commands are right."""
    from dask_kubernetes.operator.controller import controller
    from dask_kubernetes.operator.validation import validate_cluster_name

    cluster = spec()
    name = object_name("WCS_threatened")
    validate_cluster_name(name)
    _, job, gpu, autoscaler = job_manifests(cluster, name, JOB, [])
    inner = job["spec"]["cluster"]["spec"]
    service = controller.build_scheduler_service_spec(name, inner["scheduler"]["service"], {}, {})
    deployment = controller.build_scheduler_deployment_spec(name, inner["scheduler"]["spec"], {}, {})
    runner = controller.build_job_pod_spec(name, name, "camtrap", job["spec"]["job"]["spec"], {}, {})
    cpu_pod, gpu_pod = (
        controller.build_worker_deployment_spec(group, "camtrap", name, "0123456789", pod, {}, {})
        for group, pod in (
            (f"{name}-default", inner["worker"]["spec"]),
            (gpu["metadata"]["name"], gpu["spec"]["worker"]["spec"]),
        )
    )
    address = f"tcp://{service['metadata']['name']}.camtrap:8786"
    assert gpu["spec"]["cluster"] == autoscaler["spec"]["cluster"] == name
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    assert all(len(value) <= 63 for value in gpu_pod["metadata"]["labels"].values())

    for built, resource, module in (
        (cpu_pod, "CPU=1", dask_worker),
        (gpu_pod, "GPU=1", dask_worker),
        (deployment, None, dask_scheduler),
    ):
        (container,) = built["spec"]["template"]["spec"]["containers"]
        environment = {entry["name"]: entry["value"] for entry in container["env"]}
        assert environment["DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES"] == "0"
        _, kind, *arguments = container["args"]
        assert kind == module.__name__.rpartition("_")[2]
        parsed = module.main.make_context(kind, list(arguments)).params
        if resource:
            assert parsed["scheduler"] == address
            assert parsed["resources"] == resource
            assert "DASK_WORKER_NAME" in environment
    assert (
        gpu_pod["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    )

    (driver,) = runner["spec"]["containers"]
    assert driver["args"][:2] == ["camtrap", "reprocess"]
    assert driver["args"][2].startswith(driver["volumeMounts"][-1]["mountPath"])
    assert runner["spec"]["restartPolicy"] == "Never"


def test_the_driver_s_own_cluster_file_loads(tmp_path: Path) -> None:
    files, *_ = job_manifests(spec(security={"secret": "camtrap-tls"}), "camtrap-small", JOB, [])
    (tmp_path / "cluster.yaml").write_text(files["data"]["cluster.yaml"])
    loaded = load_cluster(str(tmp_path / "cluster.yaml"))
    assert loaded.model_dump()["address"] == "tls://camtrap-small-scheduler.camtrap:8786"


def test_submit(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    (tmp_path / "job.yaml").write_text(JOB)
    command = ["submit", str(tmp_path / "job.yaml"), "--cluster", str(CLUSTER / "kubernetes.yaml")]

    assert main([*command, "--dry-run"]) == 0
    manifests = list(yaml.safe_load_all(capsys.readouterr().out))
    check(manifests)
    assert yaml.safe_load(manifests[0]["data"]["job.yaml"])["dataset"]["images"] == "/photos"

    assert main([*command, "--dry-run", "--set", "dataset.images=/home/me/photos"]) == 2
    assert "dataset.images: /home/me/photos: no pod would see it" in capsys.readouterr().err

    assert main(command) == 3
    said = capsys.readouterr().err
    assert "no Kubernetes cluster can be reached" in said
    assert said.count("\n") == 1, said


class Api(BaseHTTPRequestHandler):
    """Of a Kubernetes API, what making, looking at and deleting objects needs."""

    objects: ClassVar[dict[str, dict[str, Any]]] = {}
    log: ClassVar[list[str]] = []

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, code: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def not_found(self) -> None:
        self.answer(404, {"kind": "Status", "message": "not found", "code": 404})

    def do_GET(self) -> None:
        path = self.path.partition("?")[0].rstrip("/")
        if path == "/version":
            self.answer(200, {"major": "1", "minor": "31", "gitVersion": "v1.31.0"})
        elif path in self.objects:
            self.answer(200, self.objects[path])
        else:
            self.not_found()

    def do_POST(self) -> None:
        made = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        path = f"{self.path.partition('?')[0]}/{made['metadata']['name']}"
        if path in self.objects:
            self.answer(409, {"kind": "Status", "message": f"{path} already exists", "code": 409})
            return
        self.objects[path] = made
        self.log.append(f"POST {made['kind']}")
        self.answer(201, made)

    def do_DELETE(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        gone = self.objects.pop(self.path.partition("?")[0], None)
        if gone is None:
            self.not_found()
            return
        self.log.append(f"DELETE {gone['kind']}")
        self.answer(200, {"kind": "Status", "status": "Success"})


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Api]]:
    """A server to which the environment leads."""
    Api.objects, Api.log = {}, []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Api)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u", "namespace": "camtrap"}}],
        "current-context": "x",
    }
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(config))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    yield Api
    server.shutdown()
    server.server_close()


def test_a_job_is_submitted_again_after_its_driver_was_lost(
    api: type[Api], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "job.yaml").write_text(JOB)
    command = ["submit", str(tmp_path / "job.yaml"), "--cluster", str(CLUSTER / "kubernetes.yaml")]
    assert main(command) == 0, capsys.readouterr().err
    first = dict(api.objects)
    kinds = [manifest["kind"] for manifest in first.values()]
    assert kinds == ["ConfigMap", "DaskJob", "DaskWorkerGroup", "DaskAutoscaler"]

    runner = "/api/v1/namespaces/camtrap/pods/camtrap-wcs-threatened-runner"
    api.objects[runner] = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "camtrap-wcs-threatened-runner", "namespace": "camtrap"},
        "status": {"phase": "Running"},
    }
    assert main(command) == 2
    said = capsys.readouterr().err
    assert "DaskJob camtrap/camtrap-wcs-threatened already exists, and its driver is running" in said
    assert said.count("\n") == 1, said
    assert api.log == [f"POST {kind}" for kind in kinds]

    del api.objects[runner]  # its node went away
    (tmp_path / "job.yaml").write_text(JOB + "validate: {timeout_s: 7}\n")
    assert main(command) == 0, capsys.readouterr().err
    assert api.log[4:] == [f"DELETE {kind}" for kind in reversed(kinds)] + [f"POST {kind}" for kind in kinds]
    assert list(api.objects) == list(first)
    (files,) = (one for one in api.objects.values() if one["kind"] == "ConfigMap")
    assert "timeout_s: 7" in files["data"]["job.yaml"]


def test_who_may_speak_to_the_pods() -> None:
    """Pods of the cluster and the operator; a Prometheus only from a namespace that is labelled for it."""
    policy = yaml.safe_load((CLUSTER / "kubernetes" / "network.yaml").read_text())
    everything, metrics = policy["spec"]["ingress"]
    assert "ports" not in everything
    assert metrics["from"] == [{"namespaceSelector": {"matchLabels": {"camtrap-batch/metrics": "allowed"}}}]
    assert [port["port"] for port in metrics["ports"]] == [8787, 8788]
    pods = [spec for manifest in cluster_manifests(spec(), "camtrap")[:1] for spec in [manifest["spec"]]]
    ports = {
        port["containerPort"]
        for group in (pods[0]["scheduler"]["spec"], pods[0]["worker"]["spec"])
        for container in group["containers"]
        for port in container["ports"]
        if port["name"] == "http-dashboard"
    }
    assert ports == {8787, 8788}


def test_tls_is_for_submitted_drivers_alone() -> None:
    with pytest.raises(ClusterError, match="use `camtrap submit`"), spec(security={"secret": "tls"}).open():
        pass


def without_environment(manifest: Any) -> Any:
    """The manifest, less what depends on the versions of Dask and of this package."""
    if isinstance(manifest, dict):
        return {
            key: without_environment(part) for key, part in manifest.items() if key not in ("env", "data")
        }
    return [without_environment(part) for part in manifest] if isinstance(manifest, list) else manifest


def test_files_beside_the_cluster_file_are_what_it_makes() -> None:
    cluster, gpu, autoscaler = cluster_manifests(spec(), "camtrap")
    made = {
        "cluster.yaml": [cluster, autoscaler],
        "gpu.yaml": [gpu],
        "job.yaml": job_manifests(spec(), object_name("my-cameras"), JOB, []),
    }
    for name, manifests in made.items():
        there = list(yaml.safe_load_all((CLUSTER / "kubernetes" / name).read_text()))
        check(there)
        assert without_environment(there) == without_environment(manifests), name
