"""The table reference says what the schemas say."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from camtrap_batch.store import schemas
from camtrap_batch.store.folder import Folder
from camtrap_batch.store.schemas import SCHEMAS, describe
from camtrap_batch.store.tables import open_files, write_table

REFERENCE = Path(__file__).resolve().parents[2] / "docs" / "tables.md"


@pytest.mark.parametrize("table", SCHEMAS)
def test_reference_lists_every_column(table: str) -> None:
    section = REFERENCE.read_text().split(f"\n## {table}\n")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    assert rows == [f"| `{name}` | {kind} | {text} |" for name, kind, text in describe(table)]


def test_a_column_with_a_wider_type_keeps_the_ids_of_shards(
    monkeypatch: pytest.MonkeyPatch, folder: Folder
) -> None:
    """Old files are read with the new type."""
    old = schemas._schema(("days", pa.int32(), "days"))
    new = schemas._schema(("days", pa.float64(), "days"), widened={"days": "int32"})
    fingerprints = []
    for schema in (old, new):
        monkeypatch.setitem(schemas.SCHEMAS, "locations", schema)
        fingerprints.append(schemas.fingerprint("locations"))
    assert fingerprints[0] == fingerprints[1]
    monkeypatch.setitem(schemas.SCHEMAS, "locations", old)
    write_table(folder, "locations", "old.parquet", pa.table({"days": pa.array([3], pa.int32())}))
    monkeypatch.setitem(schemas.SCHEMAS, "locations", new)
    table = open_files(folder, "locations", ["old.parquet"]).to_table()
    assert table.schema.field("days").type == pa.float64()
    assert table.to_pylist() == [{"days": 3.0}]


def test_a_column_added_later_keeps_the_ids_of_shards(
    monkeypatch: pytest.MonkeyPatch, folder: Folder
) -> None:
    old = schemas._schema(("image_id", pa.string(), "an image"))
    new = schemas._schema(
        ("image_id", pa.string(), "an image"), ("video_s", pa.float64(), "seconds"), later=("video_s",)
    )
    other = schemas._schema(("image_id", pa.string(), "an image"), ("video_s", pa.float64(), "seconds"))
    fingerprints = []
    for schema in (old, new, other):
        monkeypatch.setitem(schemas.SCHEMAS, "manifest", schema)
        fingerprints.append(schemas.fingerprint("manifest"))
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]
    monkeypatch.setitem(schemas.SCHEMAS, "manifest", old)
    write_table(folder, "manifest", "old.parquet", pa.table({"image_id": ["a"]}))
    monkeypatch.setitem(schemas.SCHEMAS, "manifest", new)
    table = open_files(folder, "manifest", ["old.parquet"]).to_table()
    assert table.to_pylist() == [{"image_id": "a", "video_s": None}]
