"""What is checked against the formats' own schemas."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from support import data_folder
from support_exports import START, image, images_of, write_run

from camtrap_batch.exports import Images
from camtrap_batch.store.run import Run
from camtrap_batch.vocabulary import STATUSES, USABLE


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
            if not isinstance(resource.get("schema"), str):
                continue  # a table of its own
            name = resource["schema"].rpartition("/")[2]
            resource["schema"] = json.loads((dp_schemas / name).read_text())
        limit = csv.field_size_limit()
        report = Package.from_descriptor(descriptor, basepath=str(folder)).validate()
        csv.field_size_limit(limit)  # Frictionless lifts it for all of the process
        assert report.valid, report.flatten(["type", "rowNumber", "fieldName", "note"])[:5]

    return check


def _a_run(folder: Path) -> Run:
    """Two cameras that stand somewhere, one that does not, none; every kind of image there is."""
    rows = [
        image("i00", 0, "lion", seq_id="s1", frame_num=0, seq_num_frames=2, utc_offset_minutes=120),
        image("i01", 2, "empty", seq_id="s1", frame_num=1, seq_num_frames=2, utc_offset_minutes=120),
        image("i02", 3600, "oryx", utc_offset_minutes=120, deployment="d1"),
        image("i03", 3601, "oryx", utc_offset_minutes=60, deployment="d1", datetime=START.replace(day=20)),
        image("i04", 7200, "empty", location="B"),
        image("i05", 7300, "human", location="B", camera_make="Reconyx", camera_model="HF2X"),
        image("i06", 9000, None, location="B"),
        image("i07", 9100, "lion", location="C"),
        image("i08", 9100, "lion", location=None),
        image("i09", None, "lion"),
        image("i10", 9200, "lion", status="truncated", file_name="sub/é 🦁,'\"=.jpg"),
        image("i11", 9300, "lion", file_name="..odd..jpg"),
        *(
            image(f"bad{number}", 60, None, status=status, format=None, width=None, height=None)
            for number, status in enumerate(STATUSES)
            if status not in USABLE
        ),
        image(
            "clip", 60, None, status="not_image", file_name="clip.AVI", format="AVI", width=None, height=None
        ),
    ]
    return write_run(folder, rows)


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return _a_run(tmp_path_factory.mktemp("formats"))


@pytest.fixture(scope="session")
def images(run: Run) -> Images:
    return images_of(run)
