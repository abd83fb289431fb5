"""Pushing to a GeoPackage: what is written is what was sent, once, and what else is in the file stays."""

from __future__ import annotations

import hashlib
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support_targets import (
    JOB,
    NAMES,
    START,
    events_table,
    kinds,
    layers_of,
    locations_table,
    photos_table,
)

from camtrap_batch.errors import InputError, MissingExtra, StorageError
from camtrap_batch.store.schemas import LOCATIONS
from camtrap_batch.targets import (
    PHOTOS,
    LayerRows,
    featuretable,
    geopackage,
)
from camtrap_batch.targets.featuretable import FeatureTable
from camtrap_batch.targets.geopackage import GeoPackageTarget
from camtrap_batch.targets.points import register_functions

gpd = pytest.importorskip("geopandas", reason="the extra 'geo' is not installed")
shapely = pytest.importorskip("shapely", reason="the extra 'geo' is not installed")
pytestmark = pytest.mark.filterwarnings("ignore:Geometry is in a geographic CRS")


def state(path: Path) -> tuple[str, int]:
    return hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns


def read(path: Path, layer: str) -> Any:
    return gpd.read_file(path, layer=layer)


def sql(path: Path, *statements: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as db, db:
        register_functions(db)
        return [row for statement in statements for row in db.execute(statement)]


def check_file(path: Path) -> None:
    """SQLite, the spatial index and GDAL agree on what is there."""
    assert sql(path, "PRAGMA integrity_check") == [("ok",)]
    for layer in ("cameras", "events", "photos"):
        frame = read(path, layer)
        has_point = frame.geometry.notna()
        ((indexed,),) = sql(path, f"SELECT count(*) FROM rtree_{layer}_geom")
        assert indexed == has_point.sum()
        counted = sql(path, f"SELECT feature_count FROM gpkg_ogr_contents WHERE table_name = '{layer}'")
        assert counted == [(len(frame),)]
        extent = sql(
            path, f"SELECT min_x, min_y, max_x, max_y FROM gpkg_contents WHERE table_name = '{layer}'"
        )
        if has_point.any():
            assert extent == [tuple(frame.total_bounds)]
            point = frame.geometry[has_point].iloc[0]
            found = gpd.read_file(path, layer=layer, bbox=point.buffer(0.01).bounds)
            assert set(found.iloc[:, 0]) == set(frame[has_point & (frame.distance(point) < 0.01)].iloc[:, 0])


@pytest.fixture
def target(tmp_path: Path) -> GeoPackageTarget:
    return GeoPackageTarget(tmp_path / "locations.gpkg", JOB)


@pytest.fixture
def pushed(target: GeoPackageTarget) -> GeoPackageTarget:
    target.push(layers_of())
    return target


# What is written


def test_values_come_back_as_sent(target: GeoPackageTarget) -> None:
    push = target.push(layers_of())
    assert kinds(push) == {("cameras", "add"): 4, ("events", "add"): 6, ("photos", "add"): 9}
    assert set(push.edits["result"].to_pylist()) == {"ok"}
    check_file(target.path)
    assert list(target.path.parent.iterdir()) == [target.path]

    cameras = read(target.path, "cameras").set_index("location")
    assert list(cameras.index) == NAMES
    assert cameras.crs.to_epsg() == 4326
    for row in locations_table().to_pylist():
        point = cameras.geometry[row["location"]]
        assert (None if point is None else (point.x, point.y)) in (None, (row["longitude"], row["latitude"]))
        assert (point is None) == (row["longitude"] is None)
    assert cameras["first"].dt.tz is None
    assert set(cameras["first"]) == {START}
    assert cameras["last"].isna().tolist() == [False, False, False, True]
    assert set(cameras["run_time"]) == {datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)}
    assert cameras["events_by_label"].tolist() == ['lion: 12; grey "fox": 3'] * 3 + [""]
    assert cameras["top_label"].isna().tolist() == [False, False, False, True]
    assert set(cameras["n_truncated"]) == {3}
    assert cameras["n_empty"].isna().all()

    events = read(target.path, "events").set_index("event_id")
    assert events.loc[f"{1:016x}", "start"] == START + timedelta(hours=1)
    assert events.geometry[f"{5:016x}"].equals(cameras.geometry[NAMES[1]])
    assert set(events["confidence"]) == {0.9}

    photos = read(target.path, "photos").set_index("image_id")
    assert (
        photos["ClassLabel"].isna().sum()
        == photos["Confidence"].isna().sum()
        == photos["datetime"].isna().sum()
        == 1
    )
    assert photos.loc["image 4", "file_name"] == "a/é 4.jpg"
    assert set(photos["Confidence"].dropna()) == {0.7}
    assert photos["event_id"].isna().all()

    ids = {(row["layer"].rpartition("=")[2], row["key"]): row["object_id"] for row in push.edits.to_pylist()}
    for layer, key in (("cameras", "location"), ("events", "event_id"), ("photos", "image_id")):
        for fid, name in sql(target.path, f"SELECT fid, {key} FROM {layer}"):
            assert ids[layer, name] == fid


@given(
    texts=st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20), min_size=1, max_size=5
    ),
    places=st.lists(
        st.tuples(st.floats(-180, 180), st.floats(-90, 90))
        | st.just((None, None))
        | st.just((1.0, float("nan"))),
        min_size=5,
        max_size=5,
    ),
    times=st.lists(
        st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31)) | st.none(), min_size=5, max_size=5
    ),
    numbers=st.lists(st.floats() | st.none(), min_size=5, max_size=5),
)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_whatever_is_sent_a_second_push_finds_it(
    tmp_path: Path, texts: list[str], places: list[Any], times: list[Any], numbers: list[Any]
) -> None:
    n = len(texts)
    columns = {
        "key": [str(number) for number in range(n)],
        "location": texts,
        "job": [JOB] * n,
        "time": pa.array(times[:n], pa.timestamp("us")),
        "number": pa.array(numbers[:n], pa.float64()),
    }
    x, y = (pa.chunked_array([pa.array([place[at] for place in places[:n]], pa.float64())]) for at in (0, 1))
    rows = [LayerRows("things", "key", pa.table(columns), x, y)]
    path = tmp_path / "any.gpkg"
    path.unlink(missing_ok=True)
    target = GeoPackageTarget(path, JOB)
    assert target.push(rows).edits.num_rows == n
    assert target.push(rows).edits.num_rows == 0


# A second push


def test_second_push_changes_not_one_byte(pushed: GeoPackageTarget) -> None:
    before = state(pushed.path)
    push = pushed.push(layers_of())
    assert push.edits.num_rows == 0
    assert push.unchanged == {"cameras": 4, "events": 6, "photos": 9}
    assert state(pushed.path) == before


def test_only_what_differs_is_edited(pushed: GeoPackageTarget) -> None:
    photos = photos_table(10).slice(1).to_pandas()
    photos.loc[0, "label"] = "tiger"
    changed = pa.Table.from_pandas(photos, PHOTOS, preserve_index=False)
    moved = locations_table().to_pydict()
    moved["longitude"][0], moved["longitude"][3], moved["latitude"][3] = None, 10.0, 20.0
    push = pushed.push(layers_of(pa.table(moved, LOCATIONS), photos=changed))
    found = kinds(push)
    assert found["cameras", "update"] == 2
    assert (found["photos", "delete"], found["photos", "add"]) == (1, 1)
    after = read(pushed.path, "photos").set_index("image_id")
    assert sorted(after.index) == sorted(changed["image_id"].to_pylist())
    assert after.loc["image 1", "ClassLabel"] == "tiger"
    assert after.geometry["image 3"].coords[0] == (10.0, 20.0)
    assert after.geometry["image 4"] is None
    check_file(pushed.path)
    assert pushed.push(layers_of(pa.table(moved, LOCATIONS), photos=changed)).edits.num_rows == 0


def test_object_ids_are_not_used_again(pushed: GeoPackageTarget) -> None:
    pushed.push(layers_of(photos=photos_table(8)))
    push = pushed.push(layers_of(photos=photos_table(9)))
    assert push.edits["object_id"].to_pylist() == [10]


def test_a_value_edited_by_hand_is_put_right(pushed: GeoPackageTarget) -> None:
    sql(pushed.path, "UPDATE photos SET ClassLabel = 'cow' WHERE image_id = 'image 1'")
    assert kinds(pushed.push(layers_of())) == {("photos", "update"): 1}
    assert set(read(pushed.path, "photos")["ClassLabel"].dropna()) == {"lion"}


def test_dry_run_says_the_same_and_writes_nothing(target: GeoPackageTarget) -> None:
    dry = target.push(layers_of(), dry_run=True)
    assert not target.path.exists()
    assert kinds(dry) == {("cameras", "add"): 4, ("events", "add"): 6, ("photos", "add"): 9}
    assert dry.edits["result"].null_count == dry.edits.num_rows
    target.push(layers_of())
    before = state(target.path)
    changed = layers_of(photos=photos_table(7), events=events_table(8, "tiger"))
    dry = target.push(changed, dry_run=True)
    assert state(target.path) == before
    real = target.push(changed)
    assert (
        kinds(dry) == kinds(real) == {("events", "update"): 6, ("events", "add"): 2, ("photos", "delete"): 2}
    )
    assert dry.counts() == real.counts()


# What else is in the file


def test_what_the_user_keeps_in_the_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "mine.gpkg"
    parks = gpd.GeoDataFrame({"park": ["Krüger"]}, geometry=[shapely.Point(1, 2).buffer(1)], crs=32736)
    parks.to_file(path, layer="parks", engine="pyogrio")
    sql(path, "CREATE TABLE layer_styles (name TEXT)", "INSERT INTO layer_styles VALUES ('mine')")
    target = GeoPackageTarget(path, JOB)
    target.push(layers_of())
    check_file(path)
    sql(path, "ALTER TABLE cameras ADD COLUMN note TEXT")
    sql(path, "UPDATE cameras SET note = 'battery'")
    sql(path, "INSERT INTO cameras (note) VALUES ('planned')")
    target.push(layers_of(locations_table(top="tiger"), photos=photos_table(3)))
    cameras = read(path, "cameras")
    assert cameras["note"].tolist() == ["battery"] * 4 + ["planned"]
    assert read(path, "parks").geometry.geom_equals_exact(parks.geometry, 0).all()
    assert read(path, "parks").crs == parks.crs
    assert sql(path, "SELECT name FROM layer_styles") == [("mine",)]
    assert Counter(sql(path, "SELECT top_label FROM cameras")) == {("tiger",): 3, (None,): 2}
    check_file(path)


def test_another_jobs_rows_stay(pushed: GeoPackageTarget) -> None:
    other = GeoPackageTarget(pushed.path, "pilot")
    locations = locations_table(["north"])
    events = events_table(0)
    photos = photos_table(0)
    other.push(layers_of(locations, events, photos, job="pilot"))
    assert pushed.push(layers_of()).edits.num_rows == 0
    pushed.push(layers_of(locations_table(NAMES[:1]), events, photos))
    assert read(pushed.path, "cameras")["location"].tolist() == [NAMES[0], "north"]
    with pytest.raises(InputError, match="location 'north' belongs to job 'pilot', not to job 'kruger'"):
        pushed.push(layers_of(locations_table(["north"]), events, photos))
    sql(pushed.path, "UPDATE cameras SET job = NULL WHERE location = 'north'")
    with pytest.raises(InputError, match="belongs to no job"):
        other.push(layers_of(locations, events, photos, job="pilot"))


# What must not happen


@pytest.mark.parametrize("is_there", [True, False])
def test_interrupted_push_leaves_the_old_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_there: bool
) -> None:
    target = GeoPackageTarget(tmp_path / "locations.gpkg", JOB)
    if is_there:
        target.push([layers_of()[0]])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for step in range(1, 4):
        calls = 0

        def fail(table: FeatureTable, step: int = step) -> None:
            nonlocal calls
            calls += 1
            if calls == step:
                raise KeyboardInterrupt

        monkeypatch.setattr(FeatureTable, "update_contents", fail)
        with pytest.raises(KeyboardInterrupt):
            target.push(layers_of(locations_table(top="tiger")))
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    monkeypatch.undo()
    target.push(layers_of(locations_table(top="tiger")))
    check_file(target.path)


def test_killed_in_the_middle_of_a_transaction(pushed: GeoPackageTarget) -> None:
    before = read(pushed.path, "photos")
    script = (
        "import os, sqlite3, sys; db = sqlite3.connect(sys.argv[1], isolation_level=None);"
        "db.execute('PRAGMA cache_size = 1'); db.execute('PRAGMA cache_spill = 1'); db.execute('BEGIN');"
        "db.execute('CREATE TABLE junk AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n"
        " WHERE i < 20000) SELECT i, randomblob(90) AS b FROM n');"
        "db.execute(\"DELETE FROM gpkg_contents WHERE table_name = 'photos'\"); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", script, str(pushed.path)]).returncode == 9
    assert pushed.path.with_name("locations.gpkg-journal").stat().st_size > 0
    assert pushed.push(layers_of()).edits.num_rows == 0
    assert read(pushed.path, "photos").equals(before)
    assert not pushed.path.with_name("locations.gpkg-journal").exists()


def test_written_differently_is_undone(pushed: GeoPackageTarget) -> None:
    sql(
        pushed.path,
        "CREATE TRIGGER meddle AFTER UPDATE OF top_label ON cameras"
        " BEGIN UPDATE cameras SET model_id = 'mine' WHERE fid = NEW.fid; END",
    )
    before = state(pushed.path)
    with pytest.raises(StorageError, match=r"3 rows read back differ from what was sent.*layername=cameras"):
        pushed.push(layers_of(locations_table(top="tiger")))
    assert state(pushed.path) == before


def test_locked_file(pushed: GeoPackageTarget, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(geopackage, "_BUSY_S", 0.05)
    with closing(sqlite3.connect(pushed.path, isolation_level=None)) as db:
        db.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StorageError, match=r"locations\.gpkg: database is locked; nothing was changed"):
            pushed.push(layers_of())


def not_sqlite(path: Path) -> None:
    path.write_text("location,latitude\n")


def not_geopackage(path: Path) -> None:
    sql(path, "CREATE TABLE cameras (location TEXT)")


def not_spatial(path: Path) -> None:
    GeoPackageTarget(path, JOB).push([layers_of()[0]])
    sql(path, "CREATE TABLE photos (fid INTEGER PRIMARY KEY, image_id TEXT)")


def with_fields(**kinds: Any) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        frame = gpd.GeoDataFrame(kinds, geometry=[shapely.Point(1, 2)], crs=4326)
        frame.to_file(path, layer="cameras", engine="pyogrio")

    return make


def polygons(path: Path) -> None:
    gpd.GeoDataFrame({"a": [1]}, geometry=[shapely.Point(1, 2).buffer(1)], crs=4326).to_file(
        path, layer="cameras"
    )


def projected(path: Path) -> None:
    gpd.GeoDataFrame({"a": [1]}, geometry=[shapely.Point(1, 2)], crs=3857).to_file(path, layer="cameras")


def odd_value(path: Path) -> None:
    GeoPackageTarget(path, JOB).push(layers_of())
    sql(path, "UPDATE cameras SET n_images = 'many' WHERE fid = 1")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (not_sqlite, "is not a GeoPackage file"),
        (Path.touch, "is not a GeoPackage file"),
        (Path.mkdir, "is a folder"),
        (not_geopackage, "is an SQLite file, but not a GeoPackage"),
        (not_spatial, "layer photos: is a table without geometry; it should be a layer of points"),
        (with_fields(n_images=[1]), "layer cameras: has no field location; add it as TEXT"),
        (with_fields(location=[7]), "layer cameras: field location is INTEGER; it should be TEXT"),
        (polygons, "layer cameras: holds POLYGON; it should hold POINT"),
        (projected, "layer cameras: is in epsg:3857; it should be in epsg:4326"),
        (odd_value, "layer cameras: field n_images should hold int64"),
    ],
)
def test_wrong_file(tmp_path: Path, make: Callable[[Path], None], message: str) -> None:
    target = GeoPackageTarget(tmp_path / "wrong.gpkg", JOB)
    make(target.path)
    before = None if target.path.is_dir() else state(target.path)
    with pytest.raises(InputError, match=message) as caught:
        target.push(layers_of())
    assert str(target.path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert before is None or state(target.path) == before


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no folder"):
        GeoPackageTarget(tmp_path / "nowhere" / "locations.gpkg", JOB).push(layers_of())


def test_folder_that_takes_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create = geopackage._create
    # A name below a file: the same error as in a folder without write permission, for root too.
    monkeypatch.setattr(geopackage, "_create", lambda path, layers: create(path / "x.gpkg", layers))
    with pytest.raises(StorageError, match=r"x\.gpkg: .*; nothing was written"):
        GeoPackageTarget(tmp_path / "locations.gpkg", JOB).push(layers_of())
    assert list(tmp_path.iterdir()) == []


def test_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyogrio", None)
    with pytest.raises(MissingExtra, match=r"camtrap-batch\[geo\]"):
        GeoPackageTarget(tmp_path / "locations.gpkg", JOB)


def test_rows_in_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(featuretable, "_BATCH", 7)
    target = GeoPackageTarget(tmp_path / "locations.gpkg", JOB)
    assert target.push(layers_of(photos=photos_table(45))).edits.num_rows == 55
    assert target.push(layers_of(photos=photos_table(45))).edits.num_rows == 0
    assert kinds(target.push(layers_of(photos=photos_table(20)))) == {("photos", "delete"): 25}
    assert read(target.path, "photos")["image_id"].tolist() == photos_table(20)["image_id"].to_pylist()
