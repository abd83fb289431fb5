"""A real Prometheus with the scrape configuration of compose.yaml: every panel of the dashboard has data."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from distributed import Client
from support import PATIENCE_S, wait_until
from support_cluster import Started, camtrap, write_job

REPOSITORY = Path(__file__).resolve().parents[2]
COMPOSE = REPOSITORY / "cluster" / "compose"
DOCUMENTATION = REPOSITORY / "docs" / "monitoring.md"

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="not installed: prometheus"),
]


def scrape_configuration(address: str) -> dict[str, Any]:
    """That of compose.yaml, with the names of its services replaced by ports of this machine."""
    with Client(address, set_as_default=False) as client:
        client.wait_for_workers(1, timeout=60)
        info = client.scheduler_info(n_workers=-1)
    config: dict[str, Any] = yaml.safe_load((COMPOSE / "prometheus.yaml").read_text())
    config["global"]["scrape_interval"] = "500ms"
    ports = {
        "scheduler": [info["services"]["dashboard"]],
        "workers": [worker["services"]["dashboard"] for worker in info["workers"].values()],
    }
    for scrape in config["scrape_configs"]:
        for key in [key for key in scrape if key.endswith("_sd_configs") or key == "static_configs"]:
            del scrape[key]
        targets = [f"127.0.0.1:{port}" for port in ports[scrape["job_name"]]]
        scrape["static_configs"] = [{"targets": targets}]
    return config


def ask(port: int, expression: str) -> list[dict[str, Any]]:
    query = urllib.parse.urlencode({"query": expression})
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/query?{query}", timeout=10) as answer:
        found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
    return found


@pytest.fixture
def prometheus(started: Started, tmp_path: Path) -> Iterator[tuple[str, int]]:
    """Address of a scheduler with a worker, and the port of a Prometheus that scrapes them."""
    address = started.scheduler("--host", "127.0.0.1")
    started.worker(address, "--host", "127.0.0.1", "--dashboard", "--dashboard-address", ":0")
    (tmp_path / "prometheus.yaml").write_text(yaml.safe_dump(scrape_configuration(address)))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        "prometheus",
        f"--config.file={tmp_path / 'prometheus.yaml'}",
        f"--storage.tsdb.path={tmp_path / 'prometheus'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (
        (tmp_path / "prometheus.log").open("wb") as log,
        subprocess.Popen(command, stdout=log, stderr=log) as process,
    ):
        try:
            yield address, port
        finally:
            process.terminate()


def test_every_panel_has_data(prometheus: tuple[str, int], tmp_path: Path) -> None:
    address, port = prometheus
    run = write_job(tmp_path)
    validate = camtrap("validate", tmp_path, "--cluster", address, "--quiet")
    subprocess.run(validate, check=True, timeout=PATIENCE_S)
    rows = run.table("manifest").count_rows()

    def has_scraped() -> bool:
        counted = ask(port, 'sum(camtrap_images_total{job="scheduler"})')
        theirs = ask(port, 'sum(camtrap_images_total{job="workers"})')
        return [float(one["value"][1]) for one in (*counted, *theirs)] == [rows, rows]

    wait_until(has_scraped)
    # A rate wants two samples of a counter.
    wait_until(lambda: bool(ask(port, 'rate(camtrap_images_total{job="scheduler"}[1m])')))
    for panel in json.loads((COMPOSE / "dashboard.json").read_text())["panels"]:
        for target in panel["targets"]:
            found = ask(port, target["expr"])
            assert found, f"{panel['title']} is empty"
            label = target["legendFormat"].strip("{}")
            assert all(label in series["metric"] for series in found), panel["title"]
    for query in queries_of_the_documentation():
        assert ask(port, query), query


def queries_of_the_documentation() -> list[str]:
    _, _, after = DOCUMENTATION.read_text().partition("Queries for a dashboard")
    block = after.split("\n\n")[1]
    queries = [re.split(r"  +", line.strip())[0] for line in block.splitlines()]
    assert len(queries) > 4
    return queries


def test_the_configuration_is_one_that_prometheus_takes() -> None:
    done = subprocess.run(
        ["promtool", "check", "config", COMPOSE / "prometheus.yaml"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_alerts_are_raised_when_they_should_be(tmp_path: Path) -> None:
    tests = (Path(__file__).parent / "alerts_test.yaml").read_text()
    (tmp_path / "tests.yaml").write_text(tests.replace("ALERTS", str(COMPOSE / "alerts.yaml")))
    done = subprocess.run(
        ["promtool", "test", "rules", tmp_path / "tests.yaml"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    named = {
        rule["alert"] for rule in yaml.safe_load((COMPOSE / "alerts.yaml").read_text())["groups"][0]["rules"]
    }
    assert all(f"alertname: {name}" in tests for name in named)
