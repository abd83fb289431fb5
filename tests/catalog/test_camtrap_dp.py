"""Camtrap DP: the official example, and packages that the tests write."""

from __future__ import annotations

import csv
import datetime as dt
import gzip
import http.server
import io
import json
import os
import threading
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import fsspec
import pytest
import yaml
from distributed import Client
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from support import run_of
from support_runs import run_on_driver

import camtrap_batch
from camtrap_batch.catalog import Catalog, read_dataset_cameras, reader_of
from camtrap_batch.catalog.camtrap_dp import CamtrapDpDataset, CamtrapDpReader
from camtrap_batch.catalog.found import Given
from camtrap_batch.errors import InputError
from camtrap_batch.job import Dataset
from camtrap_batch.store.schemas import CATALOG

PROFILE = "https://raw.githubusercontent.com/tdwg/camtrap-dp/{}/camtrap-dp-profile.json"
COLUMNS = {
    "deployments": "deploymentID,locationID,locationName,latitude,longitude,deploymentStart,deploymentEnd",
    "media": "mediaID,deploymentID,timestamp,filePath,filePublic,fileName,fileMediatype,exifData,"
    "mediaComments",
    "observations": "observationID,deploymentID,mediaID,eventID,eventStart,eventEnd,observationLevel,"
    "observationType,scientificName,count,observationComments",
}
Rows = list[dict[str, Any]]


def deployment(id_: str = "d", **more: Any) -> dict[str, Any]:
    return {"deploymentID": id_, "latitude": -24.5, "longitude": 31.25, **more}


def medium(id_: str, at: str = "2020-01-01T10:00:00+02:00", **more: Any) -> dict[str, Any]:
    return {"mediaID": id_, "deploymentID": "d", "timestamp": at, "filePath": f"media/{id_}.jpg", **more}


def seen(media_id: str | None, name: str | None = None, **more: Any) -> dict[str, Any]:
    """An observation: of a medium, or of an event where `media_id` is None."""
    kind = more.pop("observationType", "animal")
    return {
        "deploymentID": "d",
        "mediaID": media_id,
        "observationLevel": "event" if media_id is None else "media",
        "observationType": kind,
        "scientificName": name,
        **more,
    }


def during(start: str, end: str, name: str | None = None, **more: Any) -> dict[str, Any]:
    return seen(None, name, eventStart=start, eventEnd=end, **more)


def table(rows: Rows, columns: list[str], delimiter: str = ",") -> str:
    file = io.StringIO()
    writer = csv.DictWriter(file, columns, delimiter=delimiter, lineterminator="\n", extrasaction="raise")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def write(
    folder: Path, media: Rows, observations: Rows = (), deployments: Rows | None = None, **more: Any
) -> Path:  # type: ignore[assignment]
    """A package in a folder; `more` are keys of the descriptor, `media__path` one of the resource media."""
    folder.mkdir(parents=True, exist_ok=True)
    marks = [{"observationID": f"o{number}", **row} for number, row in enumerate(observations)]
    tables = {
        "deployments": [deployment()] if deployments is None else deployments,
        "media": media,
        "observations": marks,
    }
    resources = []
    for name, rows in tables.items():
        (folder / f"{name}.csv").write_text(table(rows, COLUMNS[name].split(",")))
        of_it = [key for key in more if key.startswith(f"{name}__")]
        changed = {key.removeprefix(f"{name}__"): more.pop(key) for key in of_it}
        resources.append({"name": name, "path": f"{name}.csv", **changed})
    content = {"profile": PROFILE.format("1.0.2"), "resources": resources, **more}
    (folder / "datapackage.json").write_text(json.dumps(content))
    return folder


def dataset(package: Path | str, images: Path | str | None = None, **more: Any) -> Dataset:
    return CamtrapDpDataset(format="camtrap-dp", metadata=str(package), images=str(images or package), **more)


def rows_of(catalog: Catalog) -> dict[str, dict[str, Any]]:
    return {row["image_id"]: row for row in catalog.table.to_pylist()}


def read(package: Path | str, images: Path | str | None = None, **more: Any) -> dict[str, dict[str, Any]]:
    return rows_of(reader_of(dataset(package, images, **more)).read())


def labels(row: dict[str, Any]) -> list[tuple[str, int | None]]:
    return [(label["name"], label["count"]) for label in row["labels"]]


# --- the official example


def test_the_official_example(camtrap_dp_example: Path) -> None:
    catalog = reader_of(dataset(camtrap_dp_example / "datapackage.json", camtrap_dp_example)).read()
    assert catalog.table.schema.equals(CATALOG)
    rows = rows_of(catalog)
    with (camtrap_dp_example / "media.csv").open() as file:
        media = {row["mediaID"]: row for row in csv.DictReader(file)}
    with (camtrap_dp_example / "observations.csv").open() as file:
        observations = list(csv.DictReader(file))
    assert rows.keys() == media.keys()
    for image_id, row in rows.items():
        assert row["datetime"].isoformat() == media[image_id]["timestamp"][:19]
        offset = dt.datetime.fromisoformat(media[image_id]["timestamp"]).utcoffset()
        assert dt.timedelta(minutes=row["utc_offset_minutes"]) == offset
    assert Counter(row["utc_offset_minutes"] for row in rows.values()) == {120: 363, 60: 60}
    assert {row["location"] for row in rows.values()} == {"e254a13c", "2df5259b", "ff1535c0", "ce943ced"}
    assert rows["07840dcc"]["deployment"] == "00a2c20d"

    # Every medium was looked at, so that event observations add nothing.
    expected: dict[str, Counter[str]] = {image_id: Counter() for image_id in rows}
    names = {"blank": "empty", "human": "human", "vehicle": "vehicle"}
    for row in observations:
        if row["mediaID"] and row["observationType"] != "unknown":
            name = names.get(row["observationType"], row["scientificName"])
            expected[row["mediaID"]][name] += int(row["count"] or 0)
    assert {id_: {name: n or 0 for name, n in labels(row)} for id_, row in rows.items()} == expected
    assert catalog.categories[:2] == [(0, "empty"), (1, "Anas platyrhynchos")]
    assert catalog.categories[-2:] == [(10, "human"), (11, "vehicle")]
    assert catalog.notes["images without an annotation"] == 11
    assert {row["source"] for row in rows.values()} == {"camtrap-dp"}

    events = {row["mediaID"]: row["eventID"] for row in observations if row["mediaID"]}
    assert {image_id: row["seq_id"] for image_id, row in rows.items()} == events
    first = sorted(
        (row for row in rows.values() if row["seq_id"] == "4bb69c45"), key=lambda row: row["frame_num"]
    )
    assert [row["frame_num"] for row in first] == list(range(10))
    assert {row["seq_num_frames"] for row in first} == {10}
    files = [media[row["image_id"]]["fileName"] for row in first]
    assert files == sorted(files), "within a second, the order of the file names"


def test_events_of_the_example_are_found_by_their_time(camtrap_dp_example: Path, tmp_path: Path) -> None:
    for name in ("datapackage.json", "deployments.csv", "media.csv"):
        (tmp_path / name).write_bytes((camtrap_dp_example / name).read_bytes())
    with (camtrap_dp_example / "observations.csv").open() as file:
        observations = list(csv.DictReader(file))
    by_event = [row for row in observations if row["observationLevel"] == "event"]
    (tmp_path / "observations.csv").write_text(table(by_event, list(observations[0])))
    rows = read(tmp_path)
    # The event's times are in UTC there, the media's in the time of Belgium.
    spans = {row["eventID"] for row in by_event}
    events = {row["mediaID"]: row["eventID"] for row in observations if row["mediaID"]}
    assert {image_id: row["seq_id"] for image_id, row in rows.items()} == {
        image_id: event if event in spans else None for image_id, event in events.items()
    }
    assert labels(rows["07840dcc"]) == [("Anas platyrhynchos", 1)]
    assert rows["07840dcc"]["source"] == "camtrap-dp-event"


def test_the_examples_media_are_found_by_url_path_or_name(
    camtrap_dp_example: Path, real_images: Path, tmp_path: Path
) -> None:
    package = camtrap_dp_example / "datapackage.json"
    agouti = read(package, "https://multimedia.agouti.eu/assets/")
    assert agouti["07840dcc"]["file_name"] == "07840dcc-0d99-4ab4-973b-7e4a8e20b56d/file"
    assert agouti["7ab33b3a"]["file_name"] == "media/20210531082538-RCNX0031.JPG"
    photos = real_images / "tdwg-camtrap-dp"
    catalog = reader_of(dataset(package, photos)).read()
    there = [row["file_name"] for row in rows_of(catalog).values() if (photos / row["file_name"]).exists()]
    assert sorted(there) == sorted(path.name for path in photos.iterdir())
    assert catalog.notes[f"media that {photos} has by their fileName, not their filePath"] == 10
    assert catalog.notes[f"media with a URL as filePath that {photos} does not have"] == 413


def test_places_of_the_example(camtrap_dp_example: Path) -> None:
    places = read_dataset_cameras(dataset(camtrap_dp_example))
    assert places is not None
    assert places.to_pylist()[0] == {"location": "2df5259b", "longitude": 5.655, "latitude": 51.181}
    assert places.num_rows == 4


# --- what its terms become


def test_columns(tmp_path: Path) -> None:
    package = write(
        tmp_path,
        [
            medium("a", "2020-01-01T10:00:00+02:00", filePublic="false"),
            medium("b", "2020-01-01T10:00:00Z", fileMediatype="video/mp4", deploymentID="named"),
            medium("c", "2020-01-01T10:00:00", deploymentID="bare"),
            medium("x", "2020-01-01T10:00:00-03:30", deploymentID="unheard of", filePath="media\\x.jpg"),
            medium("y", deploymentID="", filePath="NA"),
        ],
        deployments=[
            deployment("d", locationID="L", locationName="by the river"),
            deployment("named", locationName="by the hill"),
            deployment("bare", locationID="NA"),
        ],
    )
    catalog = reader_of(dataset(package, utc_offset="+01:00")).read()
    rows = rows_of(catalog)
    assert {id_: row["location"] for id_, row in rows.items()} == {
        "a": "L", "b": "by the hill", "c": "bare", "x": None,
    }  # fmt: skip
    assert [rows[id_]["utc_offset_minutes"] for id_ in "abcx"] == [120, 0, 60, -210]
    assert {row["datetime"] for row in rows.values()} == {dt.datetime(2020, 1, 1, 10)}
    assert rows["x"]["file_name"] == "media/x.jpg"
    assert rows["x"]["deployment"] == "unheard of"
    assert all(row["seq_id"] is None and row["frame_num"] is None for row in rows.values())
    assert catalog.notes == {
        "media without a filePath, left out": 1,
        "media of a deployment that the package does not list": 1,
        "file names with backslashes, read as /": 1,
        "images without a location": 1,
        "images without an annotation": 4,
    }


def test_observations_of_media_become_labels(tmp_path: Path) -> None:
    package = write(
        tmp_path,
        [medium(id_) for id_ in "abcdefgh"],
        [
            seen("a", "Panthera leo", count=2),
            seen("a", "Equus quagga"),
            seen("a", "Panthera leo", count=1),
            seen("b", observationType="blank"),
            seen("c", "Homo sapiens", observationType="human", count=1),
            seen("c", observationType="vehicle"),
            seen("d", observationType="unknown"),
            seen("e", observationType="unclassified"),
            seen("f", None, count=3),
            seen("g", observationType="ghost"),
            seen("nowhere", "Panthera leo"),
            {**seen("h", "Panthera leo"), "observationLevel": "sequence"},
        ],
    )
    catalog = reader_of(dataset(package)).read()
    rows = rows_of(catalog)
    assert {id_: labels(row) for id_, row in rows.items()} == {
        "a": [("Panthera leo", 3), ("Equus quagga", None)],
        "b": [("empty", None)],
        "c": [("human", 1), ("vehicle", None)],
        "d": [],
        "e": [],
        "f": [("animal", 3)],
        "g": [],
        "h": [],
    }
    assert catalog.categories == [
        (0, "empty"), (1, "Equus quagga"), (2, "Panthera leo"), (3, "animal"), (4, "human"), (5, "vehicle"),
    ]  # fmt: skip
    assert [label["category_id"] for label in rows["a"]["labels"]] == [2, 1]
    assert catalog.notes["observations of media that the package does not list, left out"] == 1
    strange = "observations of an observationType that Camtrap DP does not have, left out"
    assert catalog.notes[strange] == 1
    assert catalog.notes["observations whose observationLevel is neither media nor event, left out"] == 1


def test_observations_of_events_hold_for_their_media(tmp_path: Path) -> None:
    package = write(
        tmp_path,
        [
            medium("before", "2020-01-01T09:59:59Z"),
            medium("start", "2020-01-01T12:00:00+02:00"),
            medium("end", "2020-01-01T10:00:10Z"),
            medium("after", "2020-01-01T10:00:11Z"),
            medium("elsewhere", "2020-01-01T10:00:05Z", deploymentID="other"),
            medium("undated", ""),
        ],
        [
            during("2020-01-01T10:00:00Z", "2020-01-01T10:00:10Z", "Panthera leo", count=2, eventID="e"),
            during("2020-01-01T10:00:00Z", "2020-01-01T10:00:10Z", "Panthera leo", count=1, eventID="e"),
            during("2020-01-01T10:00:11Z", "", observationType="blank"),
            during("2020-01-01T10:00:00Z", "2020-01-01T11:00:00Z", "Panthera leo", deploymentID="none"),
            during("", "2020-01-01T11:00:00Z", "Panthera pardus"),
        ],
        [deployment("d"), deployment("other")],
    )
    catalog = reader_of(dataset(package)).read()
    rows = rows_of(catalog)
    assert {id_: labels(row) for id_, row in rows.items() if row["labels"]} == {
        "start": [("Panthera leo", 3)],
        "end": [("Panthera leo", 3)],
        "after": [("empty", None)],
    }
    assert {id_: row["seq_id"] for id_, row in rows.items() if row["seq_id"]} == {"start": "e", "end": "e"}
    assert (rows["end"]["frame_num"], rows["end"]["seq_num_frames"]) == (1, 2)
    assert {id_ for id_, row in rows.items() if row["source"] == "camtrap-dp-event"} == {
        "start", "end", "after",
    }  # fmt: skip
    assert catalog.notes["observations of a deployment that the package does not list, left out"] == 1
    assert catalog.notes["observations of an event without a time or an eventID, left out"] == 1


def test_what_was_seen_in_the_medium_itself_wins(tmp_path: Path) -> None:
    whole = ("2020-01-01T08:00:00Z", "2020-01-01T08:00:10Z")
    package = write(
        tmp_path,
        [medium(id_, f"2020-01-01T08:00:0{n}Z") for n, id_ in enumerate(("a", "b", "c", "d", "late"))]
        + [medium("outside", "2020-01-01T09:00:00Z")],
        [
            during(*whole, "Panthera leo", count=2, eventID="whole"),
            during("2020-01-01T08:00:04Z", whole[1], "Equus quagga", eventID="part"),
            seen("a", "Panthera leo", count=1, eventID="whole"),
            seen("b", observationType="blank", eventID="own"),
            seen("c", observationType="unknown"),
            seen("d", observationType="unclassified"),
            seen("outside", observationType="unclassified", eventID="whole"),
        ],
    )
    rows = read(package)
    assert {id_: labels(row) for id_, row in rows.items()} == {
        "a": [("Panthera leo", 1)],
        "b": [("empty", None)],
        "c": [],
        "d": [("Panthera leo", 2)],
        "late": [("Panthera leo", 2), ("Equus quagga", None)],
        "outside": [("Panthera leo", 2)],
    }
    assert {id_: row["seq_id"] for id_, row in rows.items()} == {
        "a": "whole", "b": "own", "c": "whole", "d": "whole", "late": "part", "outside": "whole",
    }  # fmt: skip
    assert rows["outside"]["seq_num_frames"] == 4


def test_an_event_id_is_of_one_deployment(tmp_path: Path) -> None:
    package = write(
        tmp_path,
        [medium("a"), medium("b", deploymentID="e")],
        [seen("a", "Panthera leo", eventID="1"), seen("b", "Panthera leo", eventID="1", deploymentID="e")],
        [deployment("d"), deployment("e")],
    )
    assert [row["seq_num_frames"] for row in read(package).values()] == [1, 1]


times = st.datetimes(dt.datetime(1950, 1, 1), dt.datetime(2100, 1, 1))
zones = st.one_of(st.none(), st.integers(-12 * 60, 14 * 60))


@given(st.lists(st.tuples(times, zones), min_size=1, max_size=30))
@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_timestamps_come_back_with_their_offset(
    tmp_path: Path, stamps: list[tuple[dt.datetime, int | None]]
) -> None:
    stamps = [(at.replace(microsecond=0), zone) for at, zone in stamps]
    aware = [
        at if zone is None else at.replace(tzinfo=dt.timezone(dt.timedelta(minutes=zone)))
        for at, zone in stamps
    ]
    texts = [at.isoformat().replace("+00:00", "Z") for at in aware]
    rows = read(write(tmp_path, [medium(str(n), text) for n, text in enumerate(texts)]))
    found = [(rows[str(n)]["datetime"], rows[str(n)]["utc_offset_minutes"]) for n in range(len(stamps))]
    assert found == stamps


@given(
    st.lists(st.tuples(st.sampled_from("de"), st.integers(0, 40), zones), min_size=1, max_size=15),
    st.lists(
        st.tuples(st.sampled_from("def"), st.integers(-5, 45), st.integers(-3, 15), st.sampled_from("xyz")),
        max_size=8,
    ),
)
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_spans_hold_what_the_clock_says(
    tmp_path: Path, media: list[tuple[str, int, int | None]], spans: list[tuple[str, int, int, str]]
) -> None:
    noon = dt.datetime(2020, 6, 1, 12, tzinfo=dt.UTC)

    def text(second: int, zone: int | None) -> str:
        return (
            (noon + dt.timedelta(seconds=second))
            .astimezone(dt.timezone(dt.timedelta(minutes=zone or 0)))
            .isoformat()
        )

    package = write(
        tmp_path,
        [medium(str(n), text(at, zone), deploymentID=where) for n, (where, at, zone) in enumerate(media)],
        [
            during(text(start, 0), text(start + length, 90), name, deploymentID=where, eventID=f"{n}")
            for n, (where, start, length, name) in enumerate(spans)
        ],
        [deployment(id_) for id_ in "def"],
    )
    rows = read(package)
    for n, (where, at, _) in enumerate(media):
        inside = [
            (start, -length, -number, name)
            for number, (there, start, length, name) in enumerate(spans)
            if there == where and start <= at <= start + length
        ]
        assert {name for name, _ in labels(rows[str(n)])} == {name for *_, name in inside}
        assert rows[str(n)]["seq_id"] == (str(-max(inside)[2]) if inside else None)


# --- where media are


@pytest.mark.parametrize(
    ("layout", "by"),
    [
        ("{name}", "fileName"),
        ("{deployment}/{name}", "deploymentID/fileName"),
        ("host.org/as sets/{id}", "URL's host and path"),
        ("as sets/{id}", "URL's path"),
    ],
)
def test_media_with_urls_are_found_by_what_the_folder_has(tmp_path: Path, layout: str, by: str) -> None:
    def url(id_: str) -> str:
        return f"https://host.org/as%20sets/{id_}?download=1"

    # A name that two deployments use does not tell their files apart.
    second = "a.jpg" if by != "fileName" else "b.jpg"
    package = write(
        tmp_path / "package",
        [
            medium("1", filePath=url("1"), fileName="a.jpg"),
            medium("2", filePath=url("2"), fileName=second, deploymentID="e"),
        ],
        deployments=[deployment("d"), deployment("e")],
    )
    expected = [
        layout.format(name="a.jpg", deployment="d", id="1"),
        layout.format(name=second, deployment="e", id="2"),
    ]
    images = tmp_path / "images"
    (images / expected[0]).parent.mkdir(parents=True)
    (images / expected[0]).write_bytes(b"x")  # the other one is missing
    catalog = reader_of(dataset(package, images)).read()
    assert [row["file_name"] for row in rows_of(catalog).values()] == expected
    assert catalog.notes[f"media with a URL as filePath that {images} has by their {by}"] == 2


def test_media_below_the_image_root(tmp_path: Path) -> None:
    urls = [f"https://host.org/a/{n}/file" for n in "12"]
    package = write(tmp_path / "package", [medium(url[-6], filePath=url) for url in urls])
    assert read(package, "https://host.org/a")["1"]["file_name"] == "1/file"
    mine = write(tmp_path / "mine", [medium("1", filePath=f"{tmp_path}/images/1.jpg")])
    assert read(mine, tmp_path / "images")["1"]["file_name"] == "1.jpg"
    bucket = f"memory://{tmp_path.name}"
    with fsspec.open(f"{bucket}/images/a.jpg", "wb") as file:
        file.write(b"x")
    named = write(tmp_path / "named", [medium("1", filePath="https://host.org/1", fileName="a.jpg")])
    assert read(named, f"{bucket}/images")["1"]["file_name"] == "a.jpg"


def test_media_that_are_nowhere(tmp_path: Path) -> None:
    urls = [f"https://host.org/assets/{n}/file" for n in "12"]
    package = write(tmp_path, [medium(url[-6], filePath=url, fileName=f"{url[-6]}.jpg") for url in urls])
    for images in (tmp_path, "https://elsewhere.org/assets", "https://host.org/asse"):
        with pytest.raises(
            InputError,
            match=r"media.csv:2: filePath: 'https://host.org/assets/1/file' is a URL that is not below "
            r"dataset.images, .*; dataset.images should be 'https://host.org/assets', or a folder that has "
            r"the files by their fileName \('1.jpg'\) or ",
        ):
            read(package, images)


# --- how packages are packed


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return write(tmp_path / "package", [medium("a")], [seen("a", "Panthera leo")])


def pack(package: Path, to: Path, folder: str = "") -> Path:
    with zipfile.ZipFile(to, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in package.iterdir():
            archive.write(path, folder + path.name)
        archive.writestr(f"__MACOSX/{folder}datapackage.json", b"\0")
    return to


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_a_descriptor_that_windows_wrote(package: Path, encoding: str) -> None:
    expected = read(package)
    path = package / "datapackage.json"
    path.write_bytes(path.read_bytes().decode().encode(encoding))
    assert read(package) == expected
    assert CamtrapDpReader.recognise(Given(str(path))) is not None


def test_a_file_a_folder_a_zip(package: Path, tmp_path: Path) -> None:
    expected = read(package)
    assert labels(expected["a"]) == [("Panthera leo", None)]
    for place in (
        package / "datapackage.json",
        pack(package, tmp_path / "flat.zip"),
        pack(package, tmp_path / "deep.ZIP", "export/"),
        pack(package, tmp_path / "export"),
    ):
        assert read(place, package) == expected
    bucket = f"memory://{tmp_path.name}/zips/package.zip"
    with fsspec.open(bucket, "wb") as file:
        file.write((tmp_path / "deep.ZIP").read_bytes())
    assert read(bucket, package) == expected
    assert len(reader_of(dataset(bucket, package)).fingerprint()["files"]) == 1


def test_a_package_on_a_server(package: Path, tmp_path: Path) -> None:
    pack(package, package / "package.zip")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(package))

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}"
            expected = read(package)
            assert read(f"{url}/datapackage.json", package) == expected
            assert read(f"{url}/", package) == expected
            mixed = write(
                tmp_path / "mixed",
                [],
                media__path=f"{url}/media.csv",
                observations__path=f"{url}/observations.csv",
            )
            assert read(mixed, package) == expected
            with pytest.raises(InputError, match=r"nothing.json: no such file \(dataset.metadata\)"):
                read(f"{url}/nothing.json", package)
        finally:
            server.shutdown()
            thread.join()


def test_dialect_encoding_compression_and_parts(tmp_path: Path) -> None:
    names = ["Lynx lynx", "Ursus árctos", 'a "quoted", name', "two\nlines"]
    package = write(
        tmp_path,
        [medium(str(n)) for n in range(4)],
        [seen(str(n), name, observationID=str(n)) for n, name in enumerate(names)],
        deployments=[deployment()],
        media__path=["media.csv", "more.csv", "last.csv"],
        observations__path="observations.csv.gz",
        observations__dialect={"delimiter": ";", "quoteChar": '"', "header": True},
        observations__encoding="ISO-8859-1",
    )
    media = (package / "media.csv").read_text().splitlines(keepends=True)
    (package / "media.csv").write_text("\ufeff" + "".join(media[:2]) + "\n", encoding="utf-8")
    (package / "more.csv").write_text("".join([media[0], *media[2:4]]))  # with a header
    (package / "last.csv").write_text("".join(media[4:]).rstrip())  # and without
    with (package / "observations.csv").open() as file:
        rows = list(csv.DictReader(file))
    content = table(rows, list(rows[0]), ";")
    (package / "observations.csv.gz").write_bytes(gzip.compress(content.encode("latin-1")))
    plain = [" ".join(name.split()) for name in names]  # as labels are, wherever they come from
    assert [labels(row)[0][0] for row in read(package).values()] == plain


def test_extra_and_missing_columns_do_not_matter(package: Path) -> None:
    (package / "media.csv").write_text(
        "x,timestamp,extra,mediaID,filePath,deploymentID,extra,,\n"
        f"1,2020-01-01T10:00:00Z,{'long ' * 100_000},a, media/a.jpg ,d,y,,\n"
    )
    (package / "observations.csv").write_text(
        "observationID,deploymentID,observationLevel,observationType,eventStart,eventEnd\n"
    )
    (package / "deployments.csv").write_text("deploymentID,latitude,longitude\nd,,\n")
    catalog = reader_of(dataset(package)).read()
    (row,) = rows_of(catalog).values()
    assert (row["file_name"], row["location"], row["labels"]) == ("media/a.jpg", "d", [])
    assert catalog.notes["deployments without coordinates"] == 1


# --- mistakes

MEDIA_HEADER = COLUMNS["media"] + "\n"
GOOD = "a,d,2020-01-01T10:00:00Z,media/a.jpg,true,,image/jpeg,,\n"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("media.csv", "mediaID,deploymentID\na,d\n", r"media.csv:1: no column timestamp; .*: mediaID, dep"),
        ("media.csv", "", r"media.csv:1: no column mediaID; the columns, between commas, are: none"),
        ("media.csv", "mediaID;deploymentID\n", r'its resource needs: "dialect": {"delimiter": ";"}'),
        (
            "media.csv",
            MEDIA_HEADER.replace("fileName", "mediaID"),
            r"media.csv:1: the column mediaID is ther",
        ),
        ("media.csv", MEDIA_HEADER, r"media.csv: lists no media"),
        ("media.csv", MEDIA_HEADER.strip(), r"media.csv: lists no media"),
        (
            "media.csv",
            MEDIA_HEADER + GOOD + "b,d\n",
            r"media.csv:3: 2 values, the first line names 9 columns",
        ),
        (
            "media.csv",
            MEDIA_HEADER + GOOD.replace("-01T", "-32T"),
            r"media.csv:2: timestamp: '2020-01-32T10:00:00Z' is not a date that can be read; possible: ",
        ),
        (
            "media.csv",
            MEDIA_HEADER + GOOD.replace("Z", "+99:00"),
            r"media.csv:2: timestamp: '2020-01-01T10:00:00\+99:00' is not a date",
        ),
        (
            "media.csv",
            MEDIA_HEADER + GOOD + GOOD.replace("a.jpg", "b.jpg"),
            r"media.csv:3: mediaID: 'a' is also at .*media.csv:2, with other values; an id should name one",
        ),
        ("media.csv", MEDIA_HEADER + GOOD + GOOD[1:], r"media.csv:3: mediaID: empty"),
        ("media.csv", MEDIA_HEADER + GOOD.replace("media/a.jpg", ""), r"media.csv: no medium has a filePath"),
        (
            "media.csv",
            MEDIA_HEADER + GOOD[:-1] + '"cut off\n' + GOOD.replace("a,", "b,"),
            r"media.csv:2: can't be read as CSV in UTF-8: unexpected end of data",
        ),
        ("media.csv", b"\xff" + GOOD.encode(), r"media.csv:1: can't be read as CSV in UTF-8: 'utf-8' codec"),
        (
            "media.csv",
            MEDIA_HEADER.encode() + GOOD.encode() + b"\xff" + GOOD.encode(),
            r"media.csv.*: can't be read as CSV in UTF-8",
        ),
        (
            "deployments.csv",
            "deploymentID,latitude,longitude\nd,1,181\n",
            r"deployments.csv:2: longitude: '181' should be degrees, between -180 and 180",
        ),
        (
            "deployments.csv",
            "deploymentID,latitude,longitude\ne,1,1\nd,north,1\n",
            r"deployments.csv:3: latitude: 'north' should be degrees",
        ),
        (
            "deployments.csv",
            "deploymentID,latitude,longitude\nd,1,1\nd,1,2\n",
            r"deployments.csv:3: deploymentID: 'd' is also at .*deployments.csv:2",
        ),
        (
            "observations.csv",
            COLUMNS["observations"] + "\n1,d,a,,,,media,animal,Lynx,2.5,\n",
            r"observations.csv:2: count: '2.5' should be a whole number",
        ),
        (
            "observations.csv",
            COLUMNS["observations"] + "\n1,d,a,,,,media,animal,Lynx,2,\n2,d,,,now,,event,animal,Lynx,2,\n",
            r"observations.csv:3: eventStart: 'now' is not a date",
        ),
        ("datapackage.json", "{", r"datapackage.json: not JSON, or cut off"),
        ("datapackage.json", "[]", r"datapackage.json: should be an object"),
        ("datapackage.json", "{}", r"datapackage.json: resources: should be a list"),
        (
            "datapackage.json",
            '{"resources": [{"name": "media"}, {"name": "media"}, {"name": "deployments", "path": []}]}',
            r"datapackage.json: deployments: path: should be a path or a URL",
        ),
    ],
)
def test_mistakes_in_a_file_name_line_and_column(
    package: Path, name: str, text: str | bytes, message: str
) -> None:
    (package / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=message):
        read(package)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"media__path": "../media.csv"}, r"media: path: '../media.csv' leads out of the package"),
        ({"media__path": "/etc/passwd"}, r"media: path: '/etc/passwd' leads out of the package"),
        ({"media__path": "file:///etc/passwd"}, r"media: path: 'file:///etc/passwd' leads out of"),
        ({"media__path": ["media.csv", "a/../../b.csv"]}, r"'a/../../b.csv' leads out of the package"),
        ({"media__path": "none.csv"}, r"none.csv: no such file \(datapackage.json\)"),
        ({"media__path": "datapackage.json"}, r"datapackage.json:1: (no column|can't be read)"),
        (
            {"media__path": "media.csv", "media__name": "photos"},
            r"resources: no resource named media; .*photos",
        ),
        ({"media__name": "deployments"}, r"resources: 2 resources named deployments"),
        ({"media__dialect": {"delimiter": "||"}}, r"media: dialect.delimiter: '\|\|' should be one"),
        ({"media__dialect": {"delimiter": ";"}}, r"media.csv:1: no column mediaID"),
        ({"media__dialect": {"header": False}}, r"media: dialect: a table without header"),
        ({"media__encoding": "utf-9"}, r"media: encoding: 'utf-9' is not known"),
        ({"media__compression": "rar"}, r"media: compression: 'rar' should be one of gz"),
        ({"media__compression": "gz"}, r"media.csv: (damaged|can't be read)"),
        ({"profile": PROFILE.format("0.1.6")}, r"profile: Camtrap DP 0.1.6 can't be read; it should be 1.0"),
        ({"profile": PROFILE.format("2.0")}, r"profile: Camtrap DP 2.0 can't be read"),
    ],
)
def test_mistakes_in_the_descriptor(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(write(tmp_path, [medium("a")], **change))


def test_inline_data_is_refused(tmp_path: Path) -> None:
    package = write(tmp_path, [medium("a")])
    content = json.loads((package / "datapackage.json").read_text())
    content["resources"][1] = {"name": "media", "data": [medium("a")]}
    (package / "datapackage.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"media: its rows are inline \(`data`\)"):
        read(package)


@pytest.mark.parametrize("version", ["1.0", "1.0.1", "1.0-rc.1"])
def test_versions_that_are_read(tmp_path: Path, version: str) -> None:
    assert "a" in read(write(tmp_path, [medium("a")], profile=PROFILE.format(version)))


def test_a_later_version_is_noted(tmp_path: Path) -> None:
    package = write(tmp_path, [medium("a")], profile=PROFILE.format("1.1-dev"))
    assert reader_of(dataset(package)).read().notes["package of Camtrap DP 1.1-dev, read as 1.0"] == 1


def test_rows_that_are_there_twice(tmp_path: Path) -> None:
    catalog = reader_of(
        dataset(
            write(
                tmp_path,
                [medium("a"), medium("b"), medium("a")],
                [
                    seen("a", "Lynx", count=1, observationID="1"),
                    seen("a", "Lynx", count=1, observationID="1"),
                ],
            )
        )
    ).read()
    assert labels(rows_of(catalog)["a"]) == [("Lynx", 1)]
    assert catalog.notes["rows with the mediaID of a row before, the same each time"] == 1
    assert catalog.notes["rows with the observationID of a row before, the same each time"] == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK\x03\x04 cut off", r"a.zip: damaged or cut off"),
        (None, r"a.zip: no such file \(dataset.metadata\)"),
    ],
)
def test_broken_zips(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read(tmp_path / "a.zip", tmp_path)


def test_a_zip_of_something_else(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(InputError, match=r"a.zip: should hold one datapackage.json, it holds 0"):
        read(tmp_path / "a.zip", tmp_path)
    with pytest.raises(InputError, match=r"datapackage.json: no such file \(dataset.metadata\)"):
        read(tmp_path)


# --- places


def test_places(tmp_path: Path) -> None:
    package = write(
        tmp_path,
        [medium("a")],
        deployments=[
            deployment("1", locationID="B", latitude=2, deploymentStart="2021-01-01T00:30:00+02:00"),
            deployment("2", locationID="B", latitude=3, deploymentStart="2020-12-31T23:00:00Z"),
            deployment("3", locationID="B", latitude=1),
            deployment("4", locationID="A", latitude="", longitude=""),
            deployment("5", locationID="A", latitude=4, deploymentStart="2019-01-01T00:00:00Z"),
            deployment("d", locationID="C", latitude=""),
        ],
    )
    assert read_dataset_cameras(dataset(package)).to_pylist() == [  # type: ignore[union-attr]
        {"location": "A", "longitude": 31.25, "latitude": 4.0},
        {"location": "B", "longitude": 31.25, "latitude": 3.0},
    ]
    notes = reader_of(dataset(package)).read().notes
    assert notes["locations whose deployments have different coordinates; the latest are used"] == 1
    assert notes["deployments without coordinates"] == 2
    (tmp_path / "cameras.csv").write_text("location,latitude,longitude\nB,0,0\n")
    explicit = read_dataset_cameras(dataset(package, cameras=str(tmp_path / "cameras.csv")))
    assert explicit is not None
    assert explicit["latitude"].to_pylist() == [0.0]


# --- as a stage


def test_a_change_of_any_file_is_noticed(package: Path, tmp_path: Path) -> None:
    before = reader_of(dataset(package)).fingerprint()
    assert reader_of(dataset(package)).fingerprint() == before
    for name in ("datapackage.json", "deployments.csv", "media.csv", "observations.csv"):
        info = (package / name).stat()
        os.utime(package / name, ns=(info.st_atime_ns, info.st_mtime_ns + 1_000_000))
        after = reader_of(dataset(package)).fingerprint()
        assert after != before, name
        before = after
    assert reader_of(dataset(package, tmp_path)).fingerprint() != before
    (package / "observations.csv").unlink()
    with pytest.raises(InputError, match=r"observations.csv: no such file"):
        reader_of(dataset(package)).fingerprint()


def test_the_command_reads_a_package_and_reads_it_again_when_it_changed(tmp_path: Path) -> None:
    media = [medium("1", filePath="media/1.jpg"), medium("2", filePath="media/2.jpg")]
    package = write(
        tmp_path / "package", media, [seen("1", "Panthera leo"), seen("2", observationType="blank")]
    )
    (package / "media").mkdir()
    for row in media:
        Image.new("RGB", (64, 48), "gray").save(package / row["filePath"])
    job = {
        "name": "run",
        "output": str(tmp_path),
        "dataset": {
            "format": "camtrap-dp", "metadata": "package/datapackage.json", "images": "package",
        },
    }  # fmt: skip
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))

    def catalog() -> list[dict[str, Any]]:
        run_on_driver(tmp_path / "job.yaml", "catalog")
        return list(run_of(tmp_path).table("catalog").to_table().to_pylist())

    first = catalog()
    assert [(row["file_name"], labels(row), row["location"]) for row in first] == [
        ("media/1.jpg", [("Panthera leo", None)], "d"),
        ("media/2.jpg", [("empty", None)], "d"),
    ]
    assert catalog() == first
    assert run_of(tmp_path).snapshot("catalog").number == 1
    write(package, media, [seen("1", "Panthera pardus"), seen("2", observationType="blank")])
    assert [labels(row)[0][0] for row in catalog()] == ["Panthera pardus", "empty"]


def test_places_reach_the_locations_without_a_camera_file(
    undisturbed: Path, tmp_path: Path, client: Client
) -> None:
    images = undisturbed / "data" / "images"
    files = sorted(images.rglob("*.jpg"))[:6]
    write(
        tmp_path / "package",
        [
            medium(str(n), f"2020-01-01T10:{n:02}:00+02:00", filePath=path.relative_to(images).as_posix())
            for n, path in enumerate(files)
        ],
        deployments=[deployment("d", locationID="here")],
    )
    model = next(path for path in (undisturbed / "run" / "models").iterdir() if path.is_dir())
    job = {
        "name": "run",
        "output": str(tmp_path),
        "dataset": {"format": "camtrap-dp", "metadata": "package", "images": str(images)},
        "infer": {"model": str(model), "min_confidence": 0.0},
    }
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    for stage in ("catalog", "validate", "infer", "merge"):
        camtrap_batch.run_stage(tmp_path / "job.yaml", stage, client)
    (location,) = run_of(tmp_path).table("locations").to_table().to_pylist()
    assert (location["location"], location["latitude"], location["longitude"]) == ("here", -24.5, 31.25)
    assert location["n_images"] == 6


def test_one_medium_does_not_refuse_a_package(tmp_path: Path) -> None:
    package = write(tmp_path / "p", [medium("a"), medium("b", at="2020-01-32T10:00:00Z"), medium("c", at="")])
    catalog = reader_of(dataset(package)).read()
    assert catalog.table["datetime"].null_count == 2
    noted = [text for text in catalog.notes if "can't be read, taken as no date" in text]
    assert len(noted) == 1
    assert "media.csv:3: timestamp: '2020-01-32T10:00:00Z'" in noted[0]


def event(start: str, end: str, **more: Any) -> dict[str, Any]:
    of = {"deploymentID": "d", "observationLevel": "event", "observationType": "animal", "eventID": "e"}
    return {**of, "eventStart": start, "eventEnd": end, "scientificName": "Lynx lynx", **more}


@pytest.mark.parametrize("zone_of", ["media", "observations"])
def test_where_one_table_alone_has_a_time_zone_clocks_are_compared(tmp_path: Path, zone_of: str) -> None:
    media_zone, event_zone = ("+02:00", "") if zone_of == "media" else ("", "+02:00")
    package = write(
        tmp_path / "p",
        [
            medium("a", at=f"2020-06-01T10:00:05{media_zone}"),
            medium("b", at=f"2020-06-01T12:00:05{media_zone}"),
        ],
        [event(f"2020-06-01T10:00:00{event_zone}", f"2020-06-01T10:00:10{event_zone}")],
    )
    catalog = reader_of(dataset(package)).read()
    rows = {row["image_id"]: row for row in catalog.table.to_pylist()}
    assert [label["name"] for label in rows["a"]["labels"]] == ["Lynx lynx"]
    assert rows["b"]["labels"] == []
    assert {row["utc_offset_minutes"] for row in rows.values()} == {120}
    assert any("without a time zone, taken to be in that of the" in text for text in catalog.notes)


def test_observations_of_events_that_no_medium_is_in_are_counted(tmp_path: Path) -> None:
    times = ("2021-06-01T10:00:00Z", "2021-06-01T10:00:10Z")
    package = write(tmp_path / "p", [medium("a")], [event(*times), event(*times, eventID="f")])
    notes = reader_of(dataset(package)).read().notes
    assert notes["observations of events without media, left out"] == 2
