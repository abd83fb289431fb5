"""A Camtrap DP package goes through a run and comes back with nothing lost, and with ours added."""

from __future__ import annotations

import csv
import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import support_runs
from support_exports import MODEL, export, images_of
from support_runs import run_on_driver

from camtrap_batch import open_run
from camtrap_batch.catalog import reader_of
from camtrap_batch.errors import InputError
from camtrap_batch.job import Job
from camtrap_batch.store.run import Run

TABLES = ("deployments", "media", "observations")


@pytest.fixture
def package(camtrap_dp_example: Path, tmp_path: Path) -> Path:
    """A copy of the official example."""
    folder = tmp_path / "package"
    shutil.copytree(camtrap_dp_example, folder)
    for file in (folder, *folder.iterdir()):
        file.chmod(0o755)
    return folder


def write_run(folder: Path, package: Path, publish: dict[str, Any] | None = None, **dataset: Any) -> Run:
    """A run of the package, in which every picture is called a wild boar."""
    settings = {"format": "camtrap-dp", "metadata": str(package), "images": str(package), **dataset}
    sections = {"select": {"empty": {"class": "empty"}}, "publish": publish or {}}
    job = support_runs.write_run(folder, [], dataset=settings, **sections)
    catalog = reader_of(Job.load(job).dataset).read()
    rows = [
        row | {"status": "not_image" if row["file_name"].endswith("mp4") else "ok", "format": "JPEG"}
        for row in catalog.table.to_pylist()
    ]
    shutil.rmtree(folder / "run")
    run = open_run(job)
    support_runs.commit(run, "catalog", "catalog", rows, {}, categories=catalog.categories)
    number = run.snapshot("catalog").number
    support_runs.commit(run, "validate", "manifest", rows, {"catalog": number})
    support_runs.predict(job, {row["image_id"]: {"Sus scrofa": 0.75, "empty": 0.25} for row in rows}, MODEL)
    run_on_driver(job, "merge")
    return open_run(job)


def cells(folder: Path, name: str) -> list[dict[str, str]]:
    with (folder / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_nothing_is_lost(package: Path, tmp_path: Path, check_package: Callable[[Path], None]) -> None:
    run = write_run(tmp_path / "job", package)
    found = export(images_of(run), "camtrap-dp", tmp_path / "out")
    check_package(tmp_path / "out")
    for name in ("deployments", "media"):
        assert cells(tmp_path / "out", name) == cells(package, name)
    before, after = cells(package, "observations"), cells(tmp_path / "out", "observations")
    assert after[: len(before)] == before
    ours = after[len(before) :]
    assert Counter(row["observationLevel"] for row in ours) == {
        "media": found.images,
        "event": run.snapshot("events").rows,
    }
    assert {row["classificationMethod"] for row in ours} == {"machine"}
    assert {row["scientificName"] for row in ours} == {"Sus scrofa"}
    assert {row["mediaID"] for row in ours} - {""} == {row["mediaID"] for row in cells(package, "media")}
    assert not found.left_out
    source = json.loads((package / "datapackage.json").read_text())
    made = json.loads((tmp_path / "out" / "datapackage.json").read_text())
    kept = set(source) - {"resources", "created", "sources", "taxonomic", "project"}
    assert {name: made[name] for name in kept} == {name: source[name] for name in kept}
    assert made["sources"][:-1] == source["sources"]
    assert made["taxonomic"][: len(source["taxonomic"])] == source["taxonomic"]
    assert made["project"] | {"observationLevel": 0} == source["project"] | {"observationLevel": 0}


def test_through_again(package: Path, tmp_path: Path, check_package: Callable[[Path], None]) -> None:
    """Of a package that we wrote, our observations are replaced, not added to."""
    run = write_run(tmp_path / "job", package)
    export(images_of(run), "camtrap-dp", tmp_path / "out")
    again = write_run(tmp_path / "again", tmp_path / "out")
    found = export(images_of(again), "camtrap-dp", tmp_path / "second")
    check_package(tmp_path / "second")
    for name in TABLES:
        one, two = cells(tmp_path / "out", name), cells(tmp_path / "second", name)
        assert Counter(map(str, one)) == Counter(map(str, two)) or name == "observations"
        assert len(one) == len(two)
    assert found.notes["observations of an earlier export, which today's replace"] > 0


def test_other_tables_of_the_package(package: Path, tmp_path: Path) -> None:
    (package / "extra").mkdir()
    (package / "extra" / "weather.csv").write_text("day,rain\n1,3\n")
    descriptor = json.loads((package / "datapackage.json").read_text())
    descriptor["resources"].append({"name": "weather", "path": "extra/weather.csv"})
    (package / "datapackage.json").write_text(json.dumps(descriptor))
    run = write_run(tmp_path / "job", package)
    for _ in range(2):  # over the earlier one, too
        export(images_of(run), "camtrap-dp", tmp_path / "out")
        assert (tmp_path / "out" / "extra" / "weather.csv").read_text() == "day,rain\n1,3\n"
    from camtrap_batch.exports import EXPORTS

    assert EXPORTS["camtrap-dp"].check(str(tmp_path / "out"), run.job) == tmp_path / "out"


def test_a_package_that_has_changed(package: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "job", package)
    lines = (package / "media.csv").read_text().splitlines(keepends=True)
    (package / "media.csv").write_text("".join(lines[:5] + lines[6:]))
    with pytest.raises(InputError, match="the package has changed since; run catalog again"):
        export(images_of(run), "camtrap-dp", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_without_people_and_with_blurred_places(
    package: Path, tmp_path: Path, check_package: Callable[[Path], None]
) -> None:
    run = write_run(tmp_path / "job", package)
    options = {"without-people": True, "coordinate-decimals": 1}
    found = export(images_of(run), "camtrap-dp", tmp_path / "out", **options)
    check_package(tmp_path / "out")
    people = {row["eventID"] for row in cells(package, "observations") if row["observationType"] == "human"}
    shown = {
        row["mediaID"]
        for row in cells(package, "observations")
        if row["eventID"] in people and row["mediaID"]
    }
    assert shown
    left = {row["mediaID"] for row in cells(tmp_path / "out", "media")}
    assert left == {row["mediaID"] for row in cells(package, "media")} - shown
    observations = cells(tmp_path / "out", "observations")
    assert "human" not in {row["observationType"] for row in observations}
    assert not shown & {row["mediaID"] for row in observations}
    assert found.left_out == {"that show people (--without-people)": len(shown)}
    assert {row["latitude"] for row in cells(tmp_path / "out", "deployments")} <= {"51.5", "51.2", "50.7"}
    made = json.loads((tmp_path / "out" / "datapackage.json").read_text())
    assert made["coordinatePrecision"] == 0.1


def test_exact_places_of_a_sensitive_species_stay(
    package: Path, tmp_path: Path, check_package: Callable[[Path], None]
) -> None:
    """The package has a species at some deployments, as its own observations say; the model, wild boars."""
    (package / "stations.csv").write_text("station,lat\n1,51.4961\n")
    descriptor = json.loads((package / "datapackage.json").read_text())
    descriptor["resources"].append({"name": "stations", "path": "stations.csv"})
    (package / "datapackage.json").write_text(json.dumps(descriptor))
    observed = [row for row in cells(package, "observations") if row["scientificName"] == "Anas strepera"]
    where = {row["deploymentID"] for row in observed}
    deployments = {row["deploymentID"]: row for row in cells(package, "deployments")}
    assert 0 < len(where) < len(deployments)
    run = write_run(tmp_path / "job", package, publish={"sensitive": ["Anas strepera"], "sensitive_km": 5})
    found = export(images_of(run), "camtrap-dp", tmp_path / "out")
    check_package(tmp_path / "out")
    places = {deployments[name]["locationID"] for name in where}
    text = "\n".join(file.read_text() for file in (tmp_path / "out").iterdir())
    for row in cells(tmp_path / "out", "deployments"):
        before = deployments[row["deploymentID"]]
        if before["locationID"] in places:
            assert before["latitude"] not in text
            assert row["coordinateUncertainty"] == "3536"
            assert row | dict.fromkeys(MOVED, "") == before | dict.fromkeys(MOVED, "")
        else:
            assert row == before
    assert not (tmp_path / "out" / "stations.csv").exists()
    assert (
        found.notes["other tables of the package left out, as they may name places"] == 2
    )  # and the example's own
    exact = export(images_of(run, exact_places=True), "camtrap-dp", tmp_path / "exact")
    assert cells(tmp_path / "exact", "deployments") == cells(package, "deployments")
    assert exact.images == found.images


MOVED = ("latitude", "longitude", "coordinateUncertainty")


def test_what_the_job_says_of_the_project(package: Path, tmp_path: Path) -> None:
    about = {"contributors": [{"title": "A", "role": "contact"}], "project": {"title": "Ours"}}
    (tmp_path / "about.json").write_text(json.dumps(about))
    run = write_run(tmp_path / "job", package, about=str(tmp_path / "about.json"))
    export(images_of(run), "camtrap-dp", tmp_path / "out")
    made = json.loads((tmp_path / "out" / "datapackage.json").read_text())
    assert made["contributors"] == about["contributors"]
    assert (made["project"]["title"], made["project"]["acronym"]) == ("Ours", "MICA")
    (tmp_path / "about.json").write_text(json.dumps({"resources": []}))
    with pytest.raises(InputError, match=r"about\.json: resources: follows from the data"):
        export(images_of(run), "camtrap-dp", tmp_path / "out")
