"""Tables as files."""

from __future__ import annotations

import csv
import json
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pytest

from camtrap_batch.errors import StorageError
from camtrap_batch.store import schemas
from camtrap_batch.store.outfile import write_out
from camtrap_batch.store.outpath import replacing

_TIME = datetime(2021, 3, 1, 12)


def value_of(kind: pa.DataType) -> object:
    """A value of a type, with something in each list and field."""
    if pa.types.is_list(kind):
        return [value_of(kind.value_type)]
    if pa.types.is_struct(kind):
        return {field.name: value_of(field.type) for field in kind}
    if pa.types.is_dictionary(kind):
        return "text"
    plain = {"string": "text", "binary": b"x", "bool": True, "double": 0.5, "float": 0.5}
    return plain.get(str(kind), _TIME if pa.types.is_timestamp(kind) else 1)


@pytest.mark.parametrize("name", list(schemas.SCHEMAS))
def test_every_table_can_be_written_as_csv(tmp_path: Path, name: str) -> None:
    schema = schemas.SCHEMAS[name]
    row = {field.name: value_of(field.type) for field in schema}
    assert write_out(pa.Table.from_pylist([row], schema), tmp_path / "out.csv") == 1
    with (tmp_path / "out.csv").open(newline="") as file:
        [found] = csv.DictReader(file)
    for field in schema:
        if pa.types.is_nested(field.type):
            assert json.loads(found[field.name])
    if name == "deployments":
        time = "2021-03-01 12:00:00"
        assert json.loads(found["outages"]) == [{"start": time, "end": time}]


def test_a_full_disk_is_named_with_the_file(tmp_path: Path) -> None:
    (tmp_path / "events.csv").write_text("before")

    def fill() -> None:
        with replacing(tmp_path / "events.csv") as staged:
            staged.symlink_to("/dev/full")
            staged.write_text("after")

    with pytest.raises(StorageError, match=r"--out .*/events\.csv: No space left on device"):
        fill()
    assert [path.read_text() for path in tmp_path.iterdir()] == ["before"]
