"""Cluster files, and clusters that can't be had."""

from __future__ import annotations

import signal
import socket
import time
from pathlib import Path

import pytest
from distributed import Client
from support import wait_until

from camtrap_batch.cluster import Adapt, Address, Local, Workers, load_cluster, open_cluster
from camtrap_batch.engine.opened import ExecutorHandle
from camtrap_batch.errors import ClusterError

REPOSITORY = Path(__file__).resolve().parent.parent


def wrong(path: Path, text: str) -> str:
    path.write_text(text)
    with pytest.raises(ClusterError) as caught:
        load_cluster(str(path))
    return str(caught.value).replace(str(path), "cluster.yaml")


def test_files_of_the_repository_load() -> None:
    assert load_cluster(str(REPOSITORY / "cluster" / "local.yaml")) == Local() == load_cluster(None)
    assert load_cluster(str(REPOSITORY / "cluster" / "address.yaml")) == Address(
        address="tcp://127.0.0.1:8786"
    )


def test_an_address_is_a_cluster() -> None:
    assert load_cluster("tcp://host:8786") == Address(address="tcp://host:8786")


def test_mistakes_are_named(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    assert wrong(path, "kind: locl").startswith(
        "cluster.yaml:1: kind: 'locl' is not possible; did you mean 'local'? possible: address, "
    )
    assert "cpu.worker: unknown key; did you mean 'workers'?" in wrong(path, "kind: local\ncpu: {worker: 3}")
    assert "should be an amount of memory" in wrong(path, "cpu: {memory: much}")
    assert "give either address or scheduler_file" in wrong(path, "kind: address")
    with pytest.raises(ClusterError, match=r"nowhere\.yaml: no such file"):
        load_cluster(str(tmp_path / "nowhere.yaml"))


def test_nobody_at_the_address() -> None:
    with (
        pytest.raises(ClusterError, match=r"no scheduler answers at tcp://127\.0\.0\.1:1"),
        open_cluster(Address(address="tcp://127.0.0.1:1", wait_s=0.5)),
    ):
        pass


def test_local_cluster_is_processes_of_the_kinds_asked_for(client: Client) -> None:
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    offers = sorted((worker["name"], worker["resources"]) for worker in workers)
    assert offers == [("cpu-0", {"CPU": 1}), ("cpu-1", {"CPU": 1}), ("gpu-0", {"GPU": 1})]
    import os

    pids = client.run(os.getpid)
    assert len({*pids.values(), os.getpid()}) == 4


def test_a_cluster_that_nobody_needs_is_not_opened() -> None:
    spec = Address(address="tcp://127.0.0.1:1", connect_s=0.1)
    with ExecutorHandle(spec):
        pass
    with ExecutorHandle(spec) as handle, pytest.raises(ClusterError, match="no scheduler answers"):
        handle.executor()


@pytest.mark.parametrize("kind", ["[a]", "{a: 1}", "slurn"])
def test_a_kind_that_is_none(tmp_path: Path, kind: str) -> None:
    assert "is not possible; " in wrong(tmp_path / "cluster.yaml", f"kind: {kind}")


@pytest.mark.parametrize("memory", ["-1GB", "1MB", "much"])
def test_memory_that_no_worker_can_start_with(tmp_path: Path, memory: str) -> None:
    message = wrong(tmp_path / "cluster.yaml", f"cpu: {{memory: '{memory}'}}")
    assert "should be an amount of memory" in message


@pytest.mark.parametrize("address", ["tcp://", "tcp://host", "foo://host:1", "http://host:1"])
def test_an_address_that_is_none(address: str) -> None:
    with pytest.raises(ClusterError, match=r"should look like tcp://host:8786"):
        load_cluster(address)


def test_a_scheduler_file_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "scheduler.json"
    spec = Address(scheduler_file=str(path), wait_s=0.3)
    with pytest.raises(ClusterError, match="no such file after"), open_cluster(spec):
        pass
    path.write_text("[]")
    with pytest.raises(ClusterError, match="names no address"), open_cluster(spec):
        pass


def test_a_dashboard_that_cannot_be() -> None:
    with pytest.raises(ClusterError, match="no cluster can be started"), open_cluster(Local(dashboard="x y")):
        pass


@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")  # Distributed's first try
def test_a_dashboard_whose_port_is_taken_has_another() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        spec = Local(cpu=Workers(workers=1), gpu=Workers(workers=0), dashboard=f"127.0.0.1:{port}")
        with open_cluster(spec) as client:  # a warning is an error here
            assert client.dashboard_link.startswith("http://127.0.0.1:")
            assert f":{port}/" not in client.dashboard_link


def test_ctrl_c_is_not_for_workers(client: Client) -> None:
    """From their first moment on: before anything in them could say so."""

    def is_blocked() -> bool:
        return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])

    assert all(client.run(is_blocked).values())
    assert not is_blocked()


def test_cpu_workers_start_by_need_and_the_gpu_worker_stays() -> None:
    spec = Local(
        cpu=Workers(memory="500MB"),
        gpu=Workers(workers=1, memory="500MB"),
        adapt=Adapt(min=1, max=2),
        dashboard="127.0.0.1:0",
    )
    with open_cluster(spec) as client:

        def names() -> list[str]:
            return sorted(info["name"] for info in client.scheduler_info(n_workers=-1)["workers"].values())

        wait_until(lambda: names() == ["cpu-0", "gpu-0"])
        work = client.map(time.sleep, [1.0] * 14, pure=False, resources={"CPU": 1})
        wait_until(lambda: names() == ["cpu-0", "cpu-1", "gpu-0"])
        client.cancel(work)
        wait_until(lambda: len(names()) == 2)
        assert "gpu-0" in names()


def test_adapt_takes_one_worker_at_least() -> None:
    with pytest.raises(ValueError, match="min 3 is above max 2"):
        Adapt(min=3, max=2)
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        Adapt(min=0, max=2)
