"""Two hosts, as network namespaces, and a cluster between them that speaks TLS alone."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from support_cluster import Started, camtrap, two_hosts, why_no_hosts, write_job
from support_tls import Certificates, make_certificates

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Certificates]:
    folder = tmp_path_factory.mktemp("tls")
    return {name: make_certificates(folder, name) for name in ("ours", "other")}


@pytest.fixture(scope="module")
def hosts() -> Iterator[dict[str, list[str]]]:
    if (reason := why_no_hosts()) is not None:
        pytest.skip(reason)
    with two_hosts() as hosts:
        yield hosts


@pytest.fixture(scope="module")
def scheduler(
    hosts: dict[str, list[str]],
    certificates: dict[str, Certificates],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[str]:
    """Address of a scheduler on one host; a worker runs on each."""
    started = Started(tmp_path_factory.mktemp("started"))
    tls = certificates["ours"].options()
    try:
        first, _ = hosts
        address = started.scheduler("--host", first, "--protocol", "tls", *tls, inside=hosts[first])
        for host, inside in hosts.items():
            started.worker(address, "--host", host, *tls, inside=inside)
        yield address
    finally:
        started.stop()


def validate(
    folder: Path, inside: list[str], address: str, security: dict[str, str] | None
) -> subprocess.CompletedProcess[str]:
    spec = {"kind": "address", "address": address, **({"security": security} if security else {})}
    (folder / "cluster.yaml").write_text(yaml.safe_dump(spec))
    options = ["--cluster", str(folder / "cluster.yaml"), "--quiet"]
    return subprocess.run(
        [*inside, *camtrap("validate", folder, *options)], capture_output=True, text=True, timeout=120
    )


def test_only_who_has_the_certificate_gets_in(
    hosts: dict[str, list[str]], certificates: dict[str, Certificates], scheduler: str, tmp_path: Path
) -> None:
    ours, other = certificates["ours"], certificates["other"]
    second = list(hosts.values())[1]
    run = write_job(tmp_path)
    plain = scheduler.replace("tls://", "tcp://")
    for address, security, line in (
        (scheduler, {**ours.section(), "cert": other.cert, "key": other.key}, "refuses the certificate"),
        (plain, None, f"give `security` and {scheduler}"),
    ):
        refused = validate(tmp_path, second, address, security)
        assert refused.returncode == 2, refused.stderr
        assert line in refused.stderr
        assert refused.stderr.count("\n") == 1, refused.stderr

    done = validate(tmp_path, second, scheduler, ours.section())
    assert done.returncode == 0, done.stderr
    assert run.table("manifest").to_table().num_rows == 40


OPEN = """\
import sys
from camtrap_batch.cluster import load_cluster, open_cluster
from camtrap_batch.errors import ClusterError

for file in sys.argv[1:]:
    try:
        with open_cluster(load_cluster(file)):
            print("open")
    except ClusterError as problem:
        print(problem)
"""


def test_each_mistake_with_certificates_has_a_line_of_its_own(
    hosts: dict[str, list[str]], certificates: dict[str, Certificates], scheduler: str, tmp_path: Path
) -> None:
    ours, other = certificates["ours"], certificates["other"]
    missing = str(tmp_path / "none.pem")
    mistakes = {
        f"{scheduler}: its certificate is not signed by {other.ca_file}": (scheduler, other.section()),
        "no certificate that matches its key": (scheduler, {**ours.section(), "key": other.key}),
        f"{missing}: no such file (security.cert)": (scheduler, {**ours.section(), "cert": missing}),
        f"{scheduler}: needs `security`": (scheduler, None),
        "not encrypted, but there is `security`": (scheduler.replace("tls", "tcp", 1), ours.section()),
    }
    files = []
    for number, (address, security) in enumerate(mistakes.values()):
        files.append(tmp_path / f"{number}.yaml")
        spec = {"kind": "address", "address": address, **({"security": security} if security else {})}
        files[-1].write_text(yaml.safe_dump(spec))
    second = list(hosts.values())[1]
    done = subprocess.run(
        [*second, sys.executable, "-c", OPEN, *map(str, files)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(mistakes), done
    for line, expected in zip(lines, mistakes, strict=True):
        assert expected in line
