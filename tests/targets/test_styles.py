"""A GeoPackage opens with symbols by species, names of fields and what they mean; QGIS itself says so."""

from __future__ import annotations

import ctypes
import json
import shutil
import sqlite3
import subprocess
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pyarrow as pa
import pytest
from support_targets import JOB, events_table, layers_of, locations_table, photos_table

from camtrap_batch.targets.geopackage import GeoPackageTarget
from camtrap_batch.targets.styles import qml, sld

pyogrio = pytest.importorskip("pyogrio", reason="the extra 'geo' is not installed")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    target = GeoPackageTarget(tmp_path / "map.gpkg", JOB)
    labels = ["tiger", 'lion & "cub" <x>', "tiger", None, "tiger", "érable"]
    events = events_table().set_column(2, "label", pa.array(labels))
    target.push(layers_of(events=events))
    return target.path


def sql(path: Path, statement: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as db:
        return db.execute(statement).fetchall()


def test_styles_are_by_label_the_most_frequent_first(path: Path) -> None:
    styles = dict(sql(path, "SELECT f_table_name, styleQML FROM layer_styles WHERE useAsDefault"))
    assert set(styles) == {"cameras", "events", "photos"}
    root = ElementTree.fromstring(styles["events"].partition("\n")[2])
    renderer = root.find("renderer-v2")
    assert renderer is not None
    assert renderer.get("attr") == "label"
    values = [category.get("value") for category in root.iter("category")]
    assert values == ["tiger", 'lion & "cub" <x>', "érable", ""]
    assert len(list(root.iter("symbol"))) == 4
    ElementTree.fromstring(sld("events", "label", values[:-1]))
    ElementTree.fromstring(qml("label", []).partition("\n")[2])


def test_fields_have_names_and_meanings(path: Path) -> None:
    rows = {
        (table, column): (name, meaning)
        for table, column, name, meaning in sql(
            path, "SELECT table_name, column_name, name, description FROM gpkg_data_columns"
        )
    }
    assert rows["cameras", "n_images"][0] == "Images"
    assert "images in the catalog" in rows["cameras", "n_images"][1]
    assert rows["photos", "ClassLabel"][0] == "Label"
    assert ("gpkg_schema",) in sql(path, "SELECT extension_name FROM gpkg_extensions")


@pytest.mark.parametrize(
    ("offsets", "zone"),
    [([120], " (UTC+02:00)"), ([-570], " (UTC-09:30)"), ([120, 60], ""), ([120, None], "")],
)
def test_the_meaning_of_camera_time_has_its_zone(
    tmp_path: Path, offsets: list[int | None], zone: str
) -> None:
    cameras, *_ = layers_of()
    minutes = [offsets[at % len(offsets)] for at in range(cameras.columns.num_rows)]
    cameras = replace(cameras, utc_offset=pa.chunked_array([pa.array(minutes, pa.int32())]))
    target = GeoPackageTarget(tmp_path / "map.gpkg", JOB)
    target.push([cameras])
    meanings = dict(sql(target.path, "SELECT column_name, description FROM gpkg_data_columns"))
    assert meanings["first"] == f"local camera time of the first usable image{zone}"
    assert "(" not in meanings["run_time"]
    assert target.push([cameras]).edits.num_rows == 0


def test_a_file_of_an_older_version_stays_as_it_is_until_there_is_something_to_do(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        for statement in (
            "DROP TABLE layer_styles",
            "DELETE FROM gpkg_contents WHERE table_name = 'layer_styles'",
            "DROP TABLE gpkg_data_columns",
            "DROP TABLE gpkg_data_column_constraints",
            "DELETE FROM gpkg_extensions WHERE extension_name = 'gpkg_schema'",
        ):
            db.execute(statement)
    target = GeoPackageTarget(path, JOB)
    target.push(layers_of())
    before = path.read_bytes()
    assert target.push(layers_of()).edits.num_rows == 0
    assert path.read_bytes() == before
    target.push(layers_of(locations_table(top="tiger"), photos=photos_table(11)))
    assert sql(path, "SELECT count(*) FROM photos") == [(11,)]


def test_gdal_gives_names_and_meanings(path: Path) -> None:
    """The GDAL that pyogrio brings, asked as QGIS does; older ones than 3.7 leave them alone."""
    found = list((Path(pyogrio.__file__).parent.parent / "pyogrio.libs").glob("libgdal*"))
    if not found or pyogrio.__gdal_version__ < (3, 7):
        pytest.skip("pyogrio was installed without a GDAL of its own, or with one before 3.7")
    gdal = ctypes.CDLL(str(found[0]))

    def pointer(name: str, *arguments: Any) -> ctypes.c_void_p:
        call = getattr(gdal, name)
        call.restype = ctypes.c_void_p
        return ctypes.c_void_p(call(*arguments))

    def text(name: str, field: ctypes.c_void_p) -> str:
        call = getattr(gdal, name)
        call.restype = ctypes.c_char_p
        return bytes(call(field)).decode()

    gdal.GDALAllRegister()
    file = pointer("GDALOpenEx", str(path).encode(), 4, None, None, None)
    layer = pointer("OGR_L_GetLayerDefn", pointer("GDALDatasetGetLayerByName", file, b"cameras"))
    number = gdal.OGR_FD_GetFieldIndex(layer, b"n_images")
    field = pointer("OGR_FD_GetFieldDefn", layer, number)
    assert text("OGR_Fld_GetAlternativeNameRef", field) == "Images"
    assert "images in the catalog" in text("OGR_Fld_GetComment", field)
    gdal.GDALClose(file)


_QGIS = """
import json, sys
from qgis.core import QgsApplication, QgsVectorLayer
application = QgsApplication([], False)
application.initQgis()
layer = QgsVectorLayer(sys.argv[1] + "|layername=events", "events", "ogr")
renderer = layer.renderer()
print(json.dumps({"valid": layer.isValid(), "type": renderer.type(), "rows": layer.featureCount(),
    "attribute": getattr(renderer, "classAttribute", str)(),
    "values": [c.value() for c in renderer.categories()] if renderer.type() == "categorizedSymbol" else []}))
"""


def test_qgis_draws_it_by_label_by_itself(path: Path) -> None:
    python = shutil.which("python3", path="/usr/bin:/usr/local/bin")
    probe = [python or "python3", "-c", "import qgis.core"]
    if python is None or subprocess.run(probe, capture_output=True).returncode:
        pytest.skip("QGIS for Python is not installed: apt install python3-qgis")
    environment = {"QT_QPA_PLATFORM": "offscreen", "HOME": str(path.parent), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [python, "-c", _QGIS, path], capture_output=True, text=True, env=environment, check=False
    )
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["valid"]
    assert (said["type"], said["attribute"]) == ("categorizedSymbol", "label")
    assert said["values"] == ["tiger", 'lion & "cub" <x>', "érable", ""]
