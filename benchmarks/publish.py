"""How fast a push to a feature layer is, and how many requests it takes: ours, and `edit_features` in a loop.

    python benchmarks/publish.py [--cameras N] [--events N] [--photos N] [--plain N] [--append]

The rehearsal server runs in a process of its own on this machine. Three pushes: everything, nothing changed,
one camera changed. `--append` pushes everything once more, to new layers and by append jobs. `--plain` is how
many event rows the client's own `edit_features` sends, 250 a call, one call after the other, without reading
anything back.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from typing import Any

import numpy as np
import pyarrow as pa

from camtrap_batch.portal import Portal, Service, connect
from camtrap_batch.targets import LayerRows
from camtrap_batch.targets.arcgis import ArcGISTarget, create_layers

_SERVER = """
import sys
from camtrap_batch.rehearsal.layerserver import LayerServer
with LayerServer(sys.argv[1]) as server:
    print(server.url, server.token(minutes=600), flush=True)
    sys.stdin.read()
"""
_SPECIES = ("lion", "african elephant", "impala", "leopard", "plains zebra", "warthog")
_BATCH = 250


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cameras", type=int, default=3_911)
    parser.add_argument("--events", type=int, default=180_000)
    parser.add_argument("--photos", type=int, default=20_000)
    parser.add_argument("--plain", type=int, default=20_000)
    parser.add_argument("--append", action="store_true")
    options = parser.parse_args()
    sizes = {"cameras": options.cameras, "events": options.events, "photos": options.photos}
    rows = [make_rows(layer, number, options.cameras) for layer, number in sizes.items()]
    with tempfile.TemporaryDirectory() as folder:
        server = subprocess.Popen(
            [sys.executable, "-c", _SERVER, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        try:
            assert server.stdout is not None
            url, os.environ["CAMTRAP_ARCGIS_TOKEN"] = server.stdout.readline().split()
            measure(url, rows, options.plain, append=options.append)
        finally:
            server.communicate()


def measure(url: str, rows: list[LayerRows], plain: int, *, append: bool) -> None:
    service = Service(connect(Portal(url)))
    urls, _ = create_layers(service, "benchmark", rows, _SPECIES, {}, {})
    changed = [with_one_change(rows[0]), *rows[1:]]
    for name, layers in (("everything", rows), ("nothing changed", rows), ("one camera changed", changed)):
        measure_push(url, ArcGISTarget(service, "benchmark", urls), layers, name)
    if append:
        urls, _ = create_layers(service, "append", rows, _SPECIES, {}, {})
        target = ArcGISTarget(service, "benchmark", urls, append=True)
        measure_push(url, target, rows, "everything, by append jobs")
    if plain:
        measure_plain(url, service, rows[1], plain)


def measure_push(url: str, target: ArcGISTarget, layers: list[LayerRows], name: str) -> None:
    total = sum(layer.columns.num_rows for layer in layers)
    control(url, "DELETE")
    began = time.monotonic()
    push = target.push(layers)
    seconds = time.monotonic() - began
    bad = sum(result != "ok" for result in push.edits["result"].to_pylist())
    print(
        f"{name}: {push.edits.num_rows:,} edits ({bad} failed) of {total:,} rows in {seconds:.1f} s, "
        f"{total / seconds:,.0f} rows/s; requests: {requests(url)}",
        flush=True,
    )


def measure_plain(url: str, service: Service, events: LayerRows, number: int) -> None:
    """The client's `edit_features`, as it comes."""
    from arcgis.features import FeatureLayer

    urls, _ = create_layers(service, "plain", [events], _SPECIES, {}, {})
    layer = FeatureLayer(urls["events"], service.gis)
    features = plain_features(events, number)
    control(url, "DELETE")
    began = time.monotonic()
    for start in range(0, len(features), _BATCH):
        layer.edit_features(adds=features[start : start + _BATCH], rollback_on_failure=False)
    seconds = time.monotonic() - began
    print(
        f"edit_features in a loop: {len(features):,} adds in {seconds:.1f} s, "
        f"{len(features) / seconds:,.0f} rows/s; requests: {requests(url)}"
    )


def make_rows(layer: str, number: int, cameras: int) -> LayerRows:
    """Rows with as many columns as a job's have, of every type."""
    index = np.arange(number)
    key = {"cameras": "location", "events": "event_id", "photos": "image_id"}[layer]
    label = {"cameras": "top_label", "events": "label", "photos": "ClassLabel"}[layer]
    times = {"cameras": ("first", "last"), "events": ("start", "end"), "photos": ("datetime",)}[layer]
    moment = np.datetime64("2020-01-01", "us") + index * np.timedelta64(613, "s")
    columns: dict[str, Any] = {
        key: [f"{layer}-{place:07}" for place in index],
        label: pa.array(_SPECIES).take(pa.array(index % len(_SPECIES))),
        **{name: pa.array(moment + place * np.timedelta64(90, "s")) for place, name in enumerate(times)},
        **{f"number_{place}": pa.array((index * (place + 1)) % 997, pa.int32()) for place in range(6)},
        **{f"share_{place}": pa.array(index / (place + 7)) for place in range(3)},
        "job": pa.repeat("benchmark", number),
    }
    camera = index % cameras
    columns.setdefault("location", [f"cameras-{place:07}" for place in camera])
    return LayerRows(
        layer,
        key,
        pa.table(columns),
        pa.chunked_array([pa.array(camera % 360 - 179.5)]),
        pa.chunked_array([pa.array(camera % 170 - 84.5)]),
    )


def with_one_change(rows: LayerRows) -> LayerRows:
    place = rows.columns.column_names.index("number_0")
    values = rows.columns["number_0"].to_pylist()
    values[len(values) // 2] += 1
    columns = rows.columns.set_column(place, "number_0", pa.array(values, pa.int32()))
    return LayerRows(rows.layer, rows.key, columns, rows.longitude, rows.latitude)


def plain_features(rows: LayerRows, number: int) -> list[dict[str, Any]]:
    columns = rows.columns.slice(0, number)
    for place, field in enumerate(columns.schema):
        if pa.types.is_timestamp(field.type):
            ms = columns[place].cast(pa.timestamp("ms"), safe=False).cast(pa.int64())
            columns = columns.set_column(place, field.name, ms)
    points = zip(rows.longitude.to_pylist(), rows.latitude.to_pylist(), strict=True)
    return [
        {"attributes": row, "geometry": {"x": x, "y": y, "spatialReference": {"wkid": 4326}}}
        for row, (x, y) in zip(columns.to_pylist(), points, strict=False)
    ]


def requests(url: str) -> dict[str, int]:
    counts: dict[str, int] = json.loads(control(url, "GET"))
    return counts


def control(url: str, method: str) -> bytes:
    address = f"{url.removesuffix('/portal')}/rehearsal/requests"
    with urllib.request.urlopen(urllib.request.Request(address, method=method)) as answer:
        content: bytes = answer.read()
    return content


if __name__ == "__main__":
    main()
