"""GeoParquet files: what other programs read of them, what of the user's stays, and what is refused."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support_targets import JOB, NAMES, START, layers_of, locations_table, photos_table

from camtrap_batch.errors import InputError
from camtrap_batch.store.folder import Folder
from camtrap_batch.store.schemas import GEO
from camtrap_batch.targets.geoparquet import GeoParquetTarget
from camtrap_batch.targets.points import decode_wkb, encode_wkb


@pytest.fixture
def target(tmp_path: Path) -> GeoParquetTarget:
    return GeoParquetTarget(tmp_path / "map.parquet", JOB)


def state(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}


def test_geopandas_reads_what_was_sent(target: GeoParquetTarget) -> None:
    gpd = pytest.importorskip("geopandas", reason="the extra 'geo' is not installed")
    target.push(layers_of())
    assert sorted(state(target.path.parent)) == [
        "map.parquet",
        "map_events.parquet",
        "map_photos.parquet",
    ]
    cameras = gpd.read_parquet(target.path).set_index("location")
    assert cameras.crs.to_string() in ("OGC:CRS84", "EPSG:4326")
    assert list(cameras.index) == NAMES
    for row in locations_table().to_pylist():
        point = cameras.geometry[row["location"]]
        assert (None if point is None else (point.x, point.y)) == (
            None if row["longitude"] is None else (row["longitude"], row["latitude"])
        )
    assert set(cameras["first"]) == {START}
    photos = gpd.read_parquet(target.path.with_stem("map_photos")).set_index("image_id")
    assert photos.loc["image 4", "file_name"] == "a/é 4.jpg"
    assert photos.loc["image 4", "Confidence"] == 0.7
    assert photos.geometry["image 4"].equals(cameras.geometry[NAMES[0]])


def test_a_second_push_changes_not_one_byte(target: GeoParquetTarget) -> None:
    target.push(layers_of())
    before = state(target.path.parent)
    assert target.push(layers_of()).edits.num_rows == 0
    assert state(target.path.parent) == before


def test_what_the_user_keeps_in_the_file_stays(target: GeoParquetTarget) -> None:
    target.push(layers_of())
    table = pq.read_table(target.path)
    notes = pa.array([f"note on {name}" for name in table["location"].to_pylist()])
    metadata = {**table.schema.metadata, b"mine": b"kept"}
    pq.write_table(table.append_column("note", notes).replace_schema_metadata(metadata), target.path)
    target.push(layers_of(locations_table(["new", *reversed(NAMES)], top="tiger")))
    after = pq.read_table(target.path)
    assert after.schema.metadata[b"mine"] == b"kept"
    assert {row["location"]: row["note"] for row in after.to_pylist()} == {
        "new": None,
        **{name: f"note on {name}" for name in NAMES},
    }
    assert target.push(layers_of(locations_table(["new", *reversed(NAMES)], top="tiger"))).edits.num_rows == 0


def not_parquet(path: Path) -> None:
    path.write_text("location,latitude\n")


def without_geometry(path: Path) -> None:
    pq.write_table(pa.table({"location": ["a"]}), path)


def with_columns(geo: str = GEO, **columns: Any) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        table = pa.table({**columns, "geometry": pa.array([b""], pa.binary())})
        pq.write_table(table.replace_schema_metadata({"geo": geo}), path)

    return make


def mercator(path: Path) -> None:
    crs = '{"id": {"authority": "EPSG", "code": 3857}}'
    with_columns(GEO.replace('"encoding"', f'"crs": {crs}, "encoding"'))(path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (not_parquet, "is not a Parquet file"),
        (Path.mkdir, "is a folder; it should be a GeoParquet file"),
        (without_geometry, "without a column geometry of GeoParquet"),
        (mercator, r"is in EPSG:3857; it should be in OGC:CRS84 \(WGS 84\)"),
        (with_columns(location=["a"]), "has no column job"),
        (
            with_columns(location=["a"], job=[JOB], n_images=["many"]),
            "field n_images is string; it should be int32",
        ),
    ],
)
def test_wrong_file(tmp_path: Path, make: Callable[[Path], None], message: str) -> None:
    target = GeoParquetTarget(tmp_path / "wrong.parquet", JOB)
    make(target.path)
    before = target.path.is_dir() or state(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        target.push(layers_of())
    assert str(target.path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (target.path.is_dir() or state(tmp_path)) == before


def test_a_wrong_file_beside_it_is_seen_before_anything_is_written(target: GeoParquetTarget) -> None:
    not_parquet(target.path.with_stem("map_photos"))
    with pytest.raises(InputError, match=r"map_photos\.parquet: is not a Parquet file"):
        target.push(layers_of(photos=photos_table(2)))
    assert not target.path.exists()


@given(st.lists(st.tuples(st.floats(-180, 180), st.floats(-90, 90)) | st.none()))
def test_points_come_back(points: list[tuple[float, float] | None]) -> None:
    x = pa.chunked_array([pa.array([point and point[0] for point in points], pa.float64())])
    y = pa.chunked_array([pa.array([point and point[1] for point in points], pa.float64())])
    wkb = encode_wkb(x, y)
    wkb.validate(full=True)
    there = decode_wkb(pa.chunked_array([wkb]))
    assert list(zip(*(side.to_pylist() for side in there), strict=True)) == [
        point or (None, None) for point in points
    ]


def test_files_in_a_bucket_are_fetched_and_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Folder("memory://bucket/geoparquet")
    target = GeoParquetTarget(Path("map.parquet"), JOB, bucket=folder, in_run=True)
    dry = target.push(layers_of(), dry_run=True)
    assert not folder.exists("map.parquet")
    assert target.push(layers_of()).edits.num_rows == dry.edits.num_rows == 19
    names = ("map.parquet", "map_events.parquet", "map_photos.parquet")
    before = {name: folder.read(name) for name in names}
    written = []
    write = Folder.write

    def note(self: Folder, path: str, data: bytes) -> None:
        written.append(path)
        write(self, path, data)

    monkeypatch.setattr(Folder, "write", note)
    assert target.push(layers_of()).edits.num_rows == 0
    assert written == []
    assert target.push(layers_of(photos=photos_table(11))).edits.num_rows == 2
    assert written == ["map_photos.parquet"]
    assert {name: folder.read(name) for name in names[:2]} == {name: before[name] for name in names[:2]}
    assert target.describe() == "GeoParquet memory://bucket/geoparquet/map.parquet"
