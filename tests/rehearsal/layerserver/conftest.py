"""One rehearsal server for the tests of this folder, and the real client."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support_layerserver import CAMERAS, EVENTS, arcgis, sign_in

from camtrap_batch.rehearsal.layerserver import LayerServer

_numbers = itertools.count()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LayerServer]:
    with LayerServer(tmp_path_factory.mktemp("layers")) as server:
        yield server


@pytest.fixture(scope="session")
def gis(server: LayerServer) -> Any:
    return sign_in(server)


@pytest.fixture(scope="session")
def warden(server: LayerServer) -> Any:
    """An editor."""
    return sign_in(server, "warden")


@pytest.fixture(scope="session")
def visitor(server: LayerServer) -> Any:
    """Someone who may read alone."""
    return sign_in(server, "visitor")


@pytest.fixture(scope="session")
def nobody(server: LayerServer) -> Any:
    """Someone without a token."""
    return sign_in(server, None)


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[LayerServer]:
    """One whose tokens a test may let expire: it has the services `private` and `public`."""
    with LayerServer(tmp_path / "own") as server:
        server.create_service("private", [CAMERAS])
        server.create_service("public", [CAMERAS], anonymous="edit")
        yield server


@pytest.fixture
def service(server: LayerServer) -> str:
    """Name of a new service with the layer `cameras` (0) and the table `events` (1)."""
    name = f"s{next(_numbers)}"
    server.create_service(name, [CAMERAS, EVENTS], anonymous="edit")
    return name


@pytest.fixture
def open_layer(server: LayerServer, gis: Any) -> Callable[..., Any]:
    """A layer of a service, by the real client."""

    def open_it(service: str, number: int = 0, gis: Any = gis) -> Any:
        return arcgis().features.FeatureLayer(server.layer_url(number, service), gis)

    return open_it


@pytest.fixture
def cameras(open_layer: Callable[..., Any], service: str) -> Any:
    return open_layer(service)


@pytest.fixture
def no_faults_left(server: LayerServer) -> Iterator[None]:
    yield
    left = server.faults.waiting()
    server.faults.clear()
    assert left == []
