"""What is checked against the formats' own schemas."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from support import data_folder


@pytest.fixture(scope="session")
def dp_schemas() -> Path:
    return data_folder("camtrap-dp-1.0.2")


@pytest.fixture(scope="session")
def check_package(dp_schemas: Path) -> Callable[[Path], None]:
    """Fails where a data package is not valid: its tables, and what the profile asks of the descriptor."""
    import jsonschema
    from frictionless import Package

    profile = json.loads((dp_schemas / "camtrap-dp-profile.json").read_text())
    ours = profile["allOf"][1] | {"$defs": profile["$defs"]}
    del ours["properties"]["spatial"]["$ref"]  # GeoJSON's schema is on the web

    def check(folder: Path) -> None:
        descriptor = json.loads((folder / "datapackage.json").read_text())
        jsonschema.validate(descriptor, ours)
        del descriptor["profile"]
        for resource in descriptor["resources"]:
            name = resource["schema"].rpartition("/")[2]
            resource["schema"] = json.loads((dp_schemas / name).read_text())
        limit = csv.field_size_limit()
        report = Package.from_descriptor(descriptor, basepath=str(folder)).validate()
        csv.field_size_limit(limit)  # Frictionless lifts it for all of the process
        assert report.valid, report.flatten(["type", "rowNumber", "fieldName", "note"])[:5]

    return check
