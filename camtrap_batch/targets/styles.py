"""How QGIS draws and names the layers of a GeoPackage, kept in the file itself.

`layer_styles` is QGIS's own table ("Save style in database"): a style with `useAsDefault` is applied when the
layer is opened. `gpkg_data_columns` is the standard's extension Schema (OGC 12-128r18, annex F.9): readable
names and meanings of fields, which GDAL reads from 3.7 on. Both are created for new layers; the user's own
stay.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from xml.sax.saxutils import escape, quoteattr

import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.targets.base import LayerRows
from camtrap_batch.targets.fields import COLOURS, LABELS, alias_of, meaning_of

_OTHER = (160, 160, 160)

_STYLES = """
CREATE TABLE layer_styles (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, f_table_catalog TEXT(256), f_table_schema TEXT(256),
    f_table_name TEXT(256), f_geometry_column TEXT(256), styleName TEXT(30), styleQML TEXT, styleSLD TEXT,
    useAsDefault BOOLEAN, description TEXT, owner TEXT(30), ui TEXT(30),
    update_time DATETIME DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ','now')))
"""
_COLUMNS = """
CREATE TABLE gpkg_data_columns (
    table_name TEXT NOT NULL, column_name TEXT NOT NULL, name TEXT, title TEXT, description TEXT,
    mime_type TEXT, constraint_name TEXT, CONSTRAINT pk_gdc PRIMARY KEY (table_name, column_name),
    CONSTRAINT gdc_tn UNIQUE (table_name, name))
"""
_CONSTRAINTS = """
CREATE TABLE gpkg_data_column_constraints (
    constraint_name TEXT NOT NULL, constraint_type TEXT NOT NULL, value TEXT, min NUMERIC,
    min_is_inclusive BOOLEAN, max NUMERIC, max_is_inclusive BOOLEAN, description TEXT,
    CONSTRAINT gdcc_ntv UNIQUE (constraint_name, constraint_type, value))
"""
_EXTENSIONS = """
CREATE TABLE IF NOT EXISTS gpkg_extensions (
    table_name TEXT, column_name TEXT, extension_name TEXT NOT NULL, definition TEXT NOT NULL,
    scope TEXT NOT NULL, CONSTRAINT ge_tce UNIQUE (table_name, column_name, extension_name))
"""
_SCHEMA = "http://www.geopackage.org/spec121/#extension_schema"


def frequent_labels(rows: LayerRows) -> list[str]:
    """Labels of a layer's rows, most frequent first; no more than there are colours."""
    counted = Counter(rows.columns[LABELS[rows.layer]].drop_null().to_pylist())
    most = sorted(counted.items(), key=lambda item: (-item[1], item[0]))
    return [label for label, _ in most[: len(COLOURS)]]


def add_style(db: sqlite3.Connection, rows: LayerRows, geometry: str) -> None:
    """Give a new layer a style by label, which QGIS applies by itself; a table that is not QGIS's is not
    touched."""
    if rows.layer not in LABELS:
        return
    if not _columns(db, "layer_styles"):
        db.execute(_STYLES)
        db.execute(
            "INSERT INTO gpkg_contents (table_name, data_type, identifier, description)"
            " VALUES ('layer_styles', 'attributes', 'layer_styles', 'styles of QGIS')"
        )
    if not {"f_table_name", "styleQML", "useAsDefault"} <= _columns(db, "layer_styles"):
        return
    label, labels = LABELS[rows.layer], frequent_labels(rows)
    db.execute("DELETE FROM layer_styles WHERE f_table_name = ? AND styleName = 'camtrap'", (rows.layer,))
    db.execute(
        "INSERT INTO layer_styles (f_table_catalog, f_table_schema, f_table_name, f_geometry_column, owner,"
        " styleName, styleQML, styleSLD, useAsDefault, description)"
        " VALUES ('', '', ?, ?, '', 'camtrap', ?, ?, 1, ?)",
        (rows.layer, geometry, qml(label, labels), sld(rows.layer, label, labels), "by label"),
    )


def name_fields(db: sqlite3.Connection, rows: LayerRows, names: list[str] | None = None) -> None:
    """Readable names and meanings of a layer's fields: all of them, or those in `names`."""
    if not _columns(db, "gpkg_data_columns"):
        db.execute(_EXTENSIONS)
        db.execute(_COLUMNS)
        if not _columns(db, "gpkg_data_column_constraints"):
            db.execute(_CONSTRAINTS)
        for table in ("gpkg_data_columns", "gpkg_data_column_constraints"):
            db.execute(
                "INSERT OR IGNORE INTO gpkg_extensions VALUES (?, NULL, 'gpkg_schema', ?, 'read-write')",
                (table, _SCHEMA),
            )
    chosen = rows.columns.column_names if names is None else names
    db.executemany(
        "INSERT OR IGNORE INTO gpkg_data_columns (table_name, column_name, name, title, description)"
        " VALUES (?, ?, ?, ?, ?)",
        [(rows.layer, name, alias_of(name), alias_of(name), _meaning(rows, name)) for name in chosen],
    )


def _meaning(rows: LayerRows, name: str) -> str | None:
    """What a field means; for camera time, with the zone if the cameras' clocks have one."""
    field = rows.columns.schema.field(name)
    meaning = meaning_of(field)
    is_camera_time = pa.types.is_timestamp(field.type) and field.type.tz is None
    if is_camera_time and rows.utc_offset is not None:
        offsets = pc.unique(rows.utc_offset).to_pylist()
        if len(offsets) == 1 and offsets[0] is not None:
            hours, minutes = divmod(abs(offsets[0]), 60)
            meaning += f" (UTC{'-' if offsets[0] < 0 else '+'}{hours:02}:{minutes:02})"
    return meaning or None


def qml(field: str, labels: list[str]) -> str:
    """A QGIS style: a point for each label in its colour, grey for all others."""
    looks = [*zip(labels, COLOURS, strict=False), ("", _OTHER)]
    categories = "".join(
        f'<category render="true" symbol="{number}" value={quoteattr(label)} type="string"'
        f" label={quoteattr(label or 'other')}/>"
        for number, (label, _) in enumerate(looks)
    )
    symbols = "".join(
        f'<symbol type="marker" name="{number}" alpha="1" clip_to_extent="1" force_rhr="0">'
        '<layer class="SimpleMarker" enabled="1" locked="0" pass="0"><Option type="Map">'
        f'<Option type="QString" name="color" value="{red},{green},{blue},255"/>'
        '<Option type="QString" name="name" value="circle"/>'
        '<Option type="QString" name="outline_color" value="255,255,255,255"/>'
        '<Option type="QString" name="outline_width" value="0.2"/>'
        '<Option type="QString" name="size" value="3"/>'
        '<Option type="QString" name="size_unit" value="MM"/>'
        "</Option></layer></symbol>"
        for number, (_, (red, green, blue)) in enumerate(looks)
    )
    return (
        "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"
        '<qgis styleCategories="Symbology" version="3.22.0">'
        f'<renderer-v2 type="categorizedSymbol" attr={quoteattr(field)} enableorderby="0" forceraster="0"'
        f' symbollevels="0"><categories>{categories}</categories><symbols>{symbols}</symbols></renderer-v2>'
        "<layerGeometryType>0</layerGeometryType></qgis>"
    )


def sld(layer: str, field: str, labels: list[str]) -> str:
    """The same as Styled Layer Descriptor (OGC 02-070), which other programs read."""
    rules = "".join(
        f"<se:Rule><se:Name>{escape(label)}</se:Name><ogc:Filter><ogc:PropertyIsEqualTo>"
        f"<ogc:PropertyName>{escape(field)}</ogc:PropertyName><ogc:Literal>{escape(label)}</ogc:Literal>"
        f"</ogc:PropertyIsEqualTo></ogc:Filter>{_point(colour)}</se:Rule>"
        for label, colour in zip(labels, COLOURS, strict=False)
    )
    return (
        '<StyledLayerDescriptor xmlns="http://www.opengis.net/sld" version="1.1.0"'
        ' xmlns:ogc="http://www.opengis.net/ogc" xmlns:se="http://www.opengis.net/se">'
        f"<NamedLayer><se:Name>{escape(layer)}</se:Name><UserStyle><se:FeatureTypeStyle>{rules}"
        f"<se:Rule><se:Name>other</se:Name><se:ElseFilter/>{_point(_OTHER)}</se:Rule>"
        "</se:FeatureTypeStyle></UserStyle></NamedLayer></StyledLayerDescriptor>"
    )


def _point(colour: tuple[int, int, int]) -> str:
    red, green, blue = colour
    return (
        "<se:PointSymbolizer><se:Graphic><se:Mark><se:WellKnownName>circle</se:WellKnownName><se:Fill>"
        f'<se:SvgParameter name="fill">#{red:02x}{green:02x}{blue:02x}</se:SvgParameter></se:Fill></se:Mark>'
        "<se:Size>11</se:Size></se:Graphic></se:PointSymbolizer>"
    )


def _columns(db: sqlite3.Connection, table: str) -> set[str]:
    return {name for (name,) in db.execute("SELECT name FROM pragma_table_info(?)", (table,))}
