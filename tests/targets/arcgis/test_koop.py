"""Reading from a feature server of another make: Koop, on node, serves a GeoJSON file; it knows no edits."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from camtrap_batch.errors import InputError
from camtrap_batch.images.sources.attachments import Attachments, Photos
from camtrap_batch.portal import Portal, Service, connect
from camtrap_batch.portal.reading import X, Y, look_at, read_features, read_ids
from camtrap_batch.rehearsal.layerserver import LayerServer
from camtrap_batch.store.folder import Folder

KOOP = Path(os.environ.get("CAMTRAP_KOOP", Path.home() / ".cache" / "camtrap-koop"))
N = 4321
SCRIPT = """
const Koop = require('@koopjs/koop-core')
const koop = new Koop({ logLevel: 'error' })
koop.register(require('@koopjs/provider-file-geojson'), { dataDir: process.argv[1] })
const server = koop.server.listen(0, '127.0.0.1', () => console.log('port', server.address().port))
"""


@pytest.fixture(scope="module")
def layer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    if not (KOOP / "node_modules" / "@koopjs").is_dir():
        pytest.skip(
            f"Koop is not in {KOOP}: npm install --prefix {KOOP} @koopjs/koop-core "
            "@koopjs/provider-file-geojson"
        )
    folder = tmp_path_factory.mktemp("koop")
    features = [
        {
            "type": "Feature",
            "properties": {"OBJECTID": number + 1, "camera": f"K{number % 7} é"},
            "geometry": {"type": "Point", "coordinates": [31 + number / 10_000, -24 - number / 20_000]},
        }
        for number in range(N)
    ]
    content = json.dumps({"type": "FeatureCollection", "features": features})
    (folder / "cameras.geojson").write_text(content)
    koop = subprocess.Popen(
        # A path from where it runs is all that it takes.
        [node, "-e", SCRIPT, "."],
        cwd=folder,
        env={**os.environ, "NODE_PATH": str(KOOP / "node_modules"), "SUPPRESS_NO_CONFIG_WARNING": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert koop.stdout is not None
        port = next(line.split()[1] for line in koop.stdout if line.startswith("port"))
        yield f"http://127.0.0.1:{port}/file-geojson/rest/services/cameras/FeatureServer/0"
    finally:
        koop.terminate()
        koop.communicate(timeout=10)


def test_every_row_arrives_page_by_page(server: LayerServer, layer: str) -> None:
    service = Service(connect(Portal(server.url, anonymous=True), layer))
    info = look_at(service, layer)
    assert (info.object_id, info.has_points) == ("OBJECTID", True)
    assert read_ids(service, info, "1=1") == list(range(1, N + 1))
    rows = read_features(service, info, "1=1", ["camera"])
    assert [(row["OBJECTID"], row["camera"]) for row in rows] == [
        (number + 1, f"K{number % 7} é") for number in range(N)
    ]
    assert all(
        (row[X], row[Y]) == pytest.approx((31 + number / 10_000, -24 - number / 20_000), abs=1e-6)
        for number, row in enumerate(rows)
    )
    some = read_features(service, info, "camera = 'K3 é'", ["camera"], with_points=False)
    assert len(some) == len([number for number in range(N) if number % 7 == 3])


def test_a_layer_without_attachments_is_refused(server: LayerServer, layer: str, tmp_path: Path) -> None:
    photos = Photos(Portal(server.url, anonymous=True), Folder(str(tmp_path)))
    with pytest.raises(InputError, match="has no attachments"):
        Attachments(layer, photos).check()
