"""A cluster through a real sshd on loopback, with keys, host key and configuration of its own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from support import wait_until
from support_cluster import write_job

pytestmark = pytest.mark.timeout(180)

CONFIG = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/client_key.pub
PidFile {folder}/sshd.pid
PermitRootLogin prohibit-password
PasswordAuthentication no
UsePAM no
StrictModes no
SetEnv PYTHONPATH={pythonpath}
"""


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    """Port of an ssh server, and the folder with `client_key` and `known_hosts`."""
    program = shutil.which("sshd") or "/usr/sbin/sshd"
    if not Path(program).exists() or os.geteuid() != 0:
        pytest.skip("no sshd (openssh-server), or not root, who may start one")
    folder = tmp_path_factory.mktemp("sshd")
    for key in ("host_key", "client_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key], check=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    public = (folder / "host_key.pub").read_text()
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {public}")
    path = os.environ.get("PYTHONPATH", "")
    (folder / "config").write_text(CONFIG.format(port=port, folder=folder, pythonpath=path or "/nonexistent"))
    Path("/run/sshd").mkdir(exist_ok=True)
    server = subprocess.Popen([program, "-D", "-e", "-f", str(folder / "config")], stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: _answers(port))
        yield port, folder
    finally:
        server.terminate()
        server.wait()


def _answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def cluster(port: int, folder: Path, **connect: object) -> dict[str, object]:
    return {
        "kind": "ssh",
        "cpu": {"hosts": ["127.0.0.1"], "workers": 2, "memory": "1GiB"},
        "gpu": {"hosts": ["127.0.0.1"], "memory": "1GiB"},
        "connect": {
            "port": port,
            "client_keys": [str(folder / "client_key")],
            "known_hosts": str(folder / "known_hosts"),
            **connect,
        },
        "lifetime": "1h",
        "dashboard": "127.0.0.1:0",
    }


def validate(folder: Path, spec: dict[str, object]) -> subprocess.CompletedProcess[str]:
    (folder / "cluster.yaml").write_text(yaml.safe_dump(spec))
    files = [str(folder / "job.yaml"), "--cluster", str(folder / "cluster.yaml"), "--quiet"]
    return subprocess.run(
        [sys.executable, "-m", "camtrap_batch", "validate", *files],
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_images_are_validated_by_workers_that_ssh_started(sshd: tuple[int, Path], tmp_path: Path) -> None:
    port, keys = sshd
    run = write_job(tmp_path)
    done = validate(tmp_path, cluster(port, keys))
    assert done.returncode == 0, done.stderr
    manifest = run.table("manifest").to_table()
    assert manifest.num_rows == 40
    assert "ok" in manifest["status"].to_pylist()


def test_an_unknown_host_is_refused(sshd: tuple[int, Path], tmp_path: Path) -> None:
    port, keys = sshd
    write_job(tmp_path)
    (tmp_path / "none").touch()
    refused = validate(tmp_path, cluster(port, keys, known_hosts=str(tmp_path / "none")))
    assert refused.returncode == 2
    assert "no cluster can be started through ssh on 127.0.0.1, 127.0.0.1" in refused.stderr
    assert "Host key is not trusted" in refused.stderr
    assert refused.stderr.count("\n") == 1, refused.stderr
