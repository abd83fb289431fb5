"""A rehearsal server with a signed-in client, and layers on it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("arcgis", reason="the extra 'arcgis' is not installed")

from support_arcgis import Bench

from camtrap_batch.portal import Portal, Service, connect
from camtrap_batch.rehearsal.layerserver import LayerServer
from camtrap_batch.targets import LayerRows
from camtrap_batch.targets.arcgis.definition import layer_definition


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LayerServer]:
    with LayerServer(tmp_path_factory.mktemp("layers")) as server:
        yield server


@pytest.fixture(scope="session")
def gis(server: LayerServer) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CAMTRAP_ARCGIS_USERNAME", "ranger")
        patch.setenv("CAMTRAP_ARCGIS_PASSWORD", "rehearsal")
        return connect(Portal(server.url, timeout_s=5))


_NUMBERS = itertools.count()


@pytest.fixture
def make_bench(server: LayerServer, gis: Any) -> Any:
    def make(rows: LayerRows, *, indexed: bool = True, max_records: int = 2000, **definition: Any) -> Bench:
        name = f"bench{next(_NUMBERS)}"
        layer = {**layer_definition(rows, 0, [], {}), **definition}
        if not indexed:
            layer["indexes"] = []
        server.create_service(name, [layer], max_records=max_records)
        return Bench(server, Service(gis), name, server.layer_url(0, name))

    server.faults.clear()
    server.reset_requests()
    yield make
    server.faults.clear()


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("TOKEN", "API_KEY", "USERNAME", "PASSWORD", "CLIENT_ID", "CLIENT_SECRET"):
        monkeypatch.delenv(f"CAMTRAP_ARCGIS_{name}", raising=False)
