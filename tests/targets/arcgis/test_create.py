"""What people read on layers that are made: aliases, what fields mean, the zone in which dates are shown."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from support_targets import layers_of

from camtrap_batch.portal import Service
from camtrap_batch.portal.service import change_definition
from camtrap_batch.targets.arcgis import create_layers

_NUMBERS = itertools.count()


@pytest.fixture
def job() -> str:
    return f"made{next(_NUMBERS)}"


def fields_of(service: Service, url: str) -> dict[str, dict[str, Any]]:
    return {field["name"]: field for field in service.describe(url)["fields"]}


def test_fields_have_aliases_and_meanings_and_dates_are_utc(gis: Any, job: str) -> None:
    service = Service(gis)
    made, _ = create_layers(service, job, layers_of(), ["lion"], {}, {}, "+02:00")
    cameras = fields_of(service, made["cameras"])
    assert cameras["n_images"]["alias"] == "Images"
    assert cameras["detections_per_100_days"]["alias"] == "Events per 100 camera days"
    assert "images in the catalog" in json.loads(cameras["n_images"]["description"])["value"]
    for layer, dates in (
        ("cameras", ("first", "last")),
        ("events", ("start", "end")),
        ("photos", ("datetime",)),
    ):
        fields, about = fields_of(service, made[layer]), service.describe(made[layer])
        for name in dates:
            meaning = json.loads(fields[name]["description"])["value"]
            assert "UTC" in meaning
            assert "local camera time" not in meaning
        assert "local camera time" not in about["description"]
        assert about["preferredTimeReference"] == {
            "timeZone": "South Africa Standard Time",
            "respectsDaylightSaving": False,
        }
    (unknown, _) = create_layers(service, f"{job}x", layers_of(), [], {}, {}, None)
    assert "preferredTimeReference" not in service.describe(unknown["cameras"])


def test_a_layer_that_is_there_gets_aliases_and_keeps_its_own(gis: Any, job: str) -> None:
    service = Service(gis)
    made, _ = create_layers(service, job, layers_of(), [], {}, {})
    url = made["photos"]
    as_older_versions_made_it = [
        {"name": "file_name", "type": "esriFieldTypeString", "alias": "file_name", "description": None},
        {"name": "ClassLabel", "type": "esriFieldTypeString", "alias": "Art"},
    ]
    change_definition(service, url, "updateDefinition", {"fields": as_older_versions_made_it})
    assert fields_of(service, url)["file_name"]["alias"] == "file_name"
    _, done = create_layers(service, job, layers_of(), [], made, {})
    assert "photos: aliases and descriptions of 1 fields added" in done
    assert fields_of(service, url)["file_name"]["alias"] == "File"
    assert fields_of(service, url)["ClassLabel"]["alias"] == "Art"
    _, done = create_layers(service, job, layers_of(), [], made, {})
    assert not any("aliases" in line for line in done)
