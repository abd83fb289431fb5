"""Whom a cluster that we start lets in: every socket on which a real job listens, and a stranger."""

from __future__ import annotations

import os
import socket
import ssl
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from distributed import Client
from distributed.security import Security
from support import PATIENCE_S, wait_until
from support_cluster import write_job

from camtrap_batch.cluster import Local, Slurm, Workers, open_cluster
from camtrap_batch.cluster.certificates import make_certificate, temporary_certificate

pytestmark = pytest.mark.timeout(180)

Address = tuple[str, int]


def listening(family: list[psutil.Process]) -> dict[Address, int]:
    """Addresses on which processes listen, with the process."""
    found: dict[Address, int] = {}
    for process in family:
        try:
            for one in process.net_connections("inet"):
                if one.status == psutil.CONN_LISTEN:
                    found[one.laddr.ip, one.laddr.port] = process.pid
        except psutil.NoSuchProcess:
            continue
    return found


def answers_http(address: Address) -> bool:
    with socket.create_connection(address, timeout=10) as plain:
        plain.settimeout(5)
        plain.sendall(b"GET /health HTTP/1.0\r\n\r\n")
        try:
            return plain.recv(5) == b"HTTP/"
        except (TimeoutError, ConnectionError):
            return False


def lets_in(address: Address, certificate: Path | None) -> bool:
    """Whether who connects with TLS hears anything; `certificate` is that of somebody else, or none."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if certificate is not None:
        context.load_cert_chain(certificate)
    with socket.create_connection(address, timeout=10) as plain, context.wrap_socket(plain) as secured:
        try:
            secured.settimeout(10)
            return bool(secured.recv(1))  # a Dask server says hello first
        except ssl.SSLError as problem:
            if "ALERT" in str(problem).upper():
                return False
            raise


WAITS_BEFORE_IT_ENDS = """\
import sys
import time
from pathlib import Path

from camtrap_batch.cli import main
from camtrap_batch.monitor import display

end, flag = display.Plain.end, Path(sys.argv.pop(1))

def waits(self):
    flag.touch()
    while flag.exists():
        time.sleep(0.05)
    end(self)

display.Plain.end = waits
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[psutil.Process]]:
    """The processes of a real job on the default cluster, whose shards are done and whose stage is not."""
    folder = tmp_path_factory.mktemp("job")
    write_job(folder)
    cluster = folder / "cluster.yaml"
    cluster.write_text("kind: local\ncpu: {workers: 2, memory: 1GiB}\ngpu: {workers: 1, memory: 1GiB}\n")
    flag = folder / "flag"
    options = ["validate", str(folder / "job.yaml"), "--cluster", str(cluster)]
    command = [sys.executable, "-c", WAITS_BEFORE_IT_ENDS, str(flag), *options]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as driver:
        try:
            wait_until(lambda: flag.exists() or driver.poll() is not None)
            process = psutil.Process(driver.pid)
            yield [process, *process.children(recursive=True)]
            flag.unlink()
            _, said = driver.communicate(timeout=PATIENCE_S)
            assert driver.returncode == 0, said
        finally:
            driver.kill()


def test_every_door_is_on_loopback_and_none_opens_to_a_stranger(
    job: list[psutil.Process], tmp_path: Path
) -> None:
    doors = listening(job)
    # Of the scheduler, three workers and their nannies; and the pages of the scheduler and each worker.
    assert len(doors) == 7 + 4, doors
    assert {host for host, _ in doors} == {"127.0.0.1"}
    pages = {door for door in doors if answers_http(door)}
    assert len(pages) == 4
    other = tmp_path / "other.pem"
    other.write_bytes(make_certificate())
    for door in doors.keys() - pages:
        assert not lets_in(door, None), door
        assert not lets_in(door, other), door


def test_a_client_without_the_certificate_gets_nowhere(job: list[psutil.Process], tmp_path: Path) -> None:
    (tmp_path / "other.pem").write_bytes(make_certificate())
    other = str(tmp_path / "other.pem")
    strange = Security(
        tls_ca_file=other, tls_client_cert=other, tls_client_key=other, require_encryption=True
    )
    doors = listening(job)
    for host, port in [door for door in doors if not answers_http(door)]:
        with pytest.raises(OSError):  # noqa: PT011 - whatever Distributed says
            Client(f"tcp://{host}:{port}", timeout=0.5, set_as_default=False)
        with pytest.raises(OSError):  # noqa: PT011
            Client(f"tls://{host}:{port}", security=strange, timeout=0.5, set_as_default=False)


def test_the_certificate_is_private_and_goes_with_the_cluster() -> None:
    with temporary_certificate() as tls:
        file = Path(tls.key)
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
        assert b"PRIVATE KEY" in file.read_bytes()
    assert not file.parent.exists()


def test_who_has_the_certificate_is_let_in(tmp_path: Path) -> None:
    """Two clusters at a time do not know each other."""
    spec = Local(cpu=Workers(workers=1), gpu=Workers(workers=0), dashboard="127.0.0.1:0")
    with open_cluster(spec) as client:
        assert client.scheduler_info()["address"].startswith("tls://127.0.0.1:")
        assert set(client.run(os.getpid)) == set(client.scheduler_info()["workers"])


def test_certificates_of_slurm_are_where_its_nodes_see_them(tmp_path: Path) -> None:
    spec = Slurm.model_validate({"kind": "slurm", "cpu": {"workers": 1}, "logs": str(tmp_path / "my logs")})
    with spec.secured() as secured:
        assert secured.security is not None
        folder = Path(secured.security.key).parent
        assert folder.parent == tmp_path / "my logs"
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        exports = "\n".join(secured.worker_specs()["cpu-0"]["options"]["job_script_prologue"])
        assert f"export DASK_DISTRIBUTED__COMM__TLS__WORKER__KEY='{secured.security.key}'\n" in exports
        assert "PRIVATE" not in exports
    assert not folder.exists()
