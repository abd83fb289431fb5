"""A Camtrap DP package goes through a run and comes back with nothing lost, and with ours added."""

from __future__ import annotations

import csv
import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import support_exports
import support_runs
from support_exports import MODEL, export, image, images_of
from support_runs import run_on_driver

from camtrap_batch import open_run
from camtrap_batch.catalog import reader_of
from camtrap_batch.catalog.camtrap_dp import read_camtrap_dp
from camtrap_batch.cli import main
from camtrap_batch.errors import InputError
from camtrap_batch.images import ImageRoot
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


def test_columns_that_the_format_does_not_have_are_told(package: Path, tmp_path: Path) -> None:
    lines = (package / "deployments.csv").read_text().splitlines()
    (package / "deployments.csv").write_text(
        "\n".join([f"{lines[0]},slope", *(f"{line},3" for line in lines[1:])])
    )
    found = export(images_of(write_run(tmp_path / "job", package)), "camtrap-dp", tmp_path / "out")
    assert found.notes["columns of deployments that Camtrap DP does not have, left out: slope"] == 1


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


def test_without_a_model_nothing_is_added(
    package: Path, tmp_path: Path, check_package: Callable[[Path], None]
) -> None:
    """A machine's labels are the package's own, and so is what nobody could say."""
    run = write_run(tmp_path / "job", package)
    job = run.job.model_copy(update={"infer": run.job.infer.model_copy(update={"model": "none"})})
    path = tmp_path / "job" / "job.yaml"
    path.write_text(job.to_yaml())
    run_on_driver(path, "infer")
    run_on_driver(path, "merge")
    assert open_run(path).snapshot("predictions").meta["from_metadata"]
    export(images_of(open_run(path)), "camtrap-dp", tmp_path / "out")
    check_package(tmp_path / "out")
    for name in TABLES:
        assert cells(tmp_path / "out", name) == cells(package, name)


def test_without_people_and_with_blurred_places(
    package: Path, tmp_path: Path, check_package: Callable[[Path], None]
) -> None:
    run = write_run(tmp_path / "job", package)
    options = {"without-people": True, "coordinate-decimals": 1}
    found = export(images_of(run), "camtrap-dp", tmp_path / "out", **options)
    check_package(tmp_path / "out")
    kinds = ("human", "vehicle")
    people = {row["eventID"] for row in cells(package, "observations") if row["observationType"] in kinds}
    shown = {
        row["mediaID"]
        for row in cells(package, "observations")
        if row["eventID"] in people and row["mediaID"]
    }
    assert len(people) == 2
    left = {row["mediaID"] for row in cells(tmp_path / "out", "media")}
    assert left == {row["mediaID"] for row in cells(package, "media")} - shown
    observations = cells(tmp_path / "out", "observations")
    assert not {row["observationType"] for row in observations} & set(kinds)
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
        found.notes["other tables of the package left out, as they may reveal positions"] == 2
    )  # and the example's own
    exact = export(images_of(run, exact_places=True), "camtrap-dp", tmp_path / "exact")
    assert cells(tmp_path / "exact", "deployments") == cells(package, "deployments")
    assert exact.images == found.images


MOVED = ("latitude", "longitude", "coordinateUncertainty")


def test_names_of_the_package_are_those_of_the_list(package: Path, tmp_path: Path) -> None:
    """What people call a species in its `taxonomic`, and a Red List category where there is one."""
    descriptor = json.loads((package / "datapackage.json").read_text())
    for taxon in descriptor["taxonomic"]:
        if taxon["scientificName"] == "Mustela putorius":
            taxon["redList"] = "VU"
    (package / "datapackage.json").write_text(json.dumps(descriptor))
    rows = cells(package, "observations")
    location = {row["deploymentID"]: row["locationID"] for row in cells(package, "deployments")}
    for names, species in ((["krakeend"], "Anas strepera"), (["VU", "EN"], "Mustela putorius")):
        where = {location[row["deploymentID"]] for row in rows if row["scientificName"] == species}
        run = write_run(tmp_path / species, package, publish={"sensitive": names, "sensitive_km": 5})
        export(images_of(run), "camtrap-dp", tmp_path / species / "out")
        after = {row["locationID"]: row for row in cells(tmp_path / species / "out", "deployments")}
        before = {row["locationID"]: row for row in cells(package, "deployments")}
        assert 0 < len(where) < len(before)
        assert {name for name in before if before[name]["latitude"] != after[name]["latitude"]} == where


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


SAID = "file,label,count,sex,life_stage,behaviour,individual,who\n"


def test_what_people_said_stands_beside_the_machine(
    tmp_path: Path, check_package: Callable[[Path], None]
) -> None:
    rows = [
        image("a", 0, "lion"),
        image("b", 10, "lion"),
        image("c", 7200, "oryx", location="B"),
        image("d", 9000, "empty", location="B"),
    ]
    about = {
        "title": "Lions",
        "licenses": [{"name": "CC0-1.0", "scope": scope} for scope in ("data", "media")],
    }
    run = support_exports.write_run(tmp_path, rows, about=about)
    job = str(tmp_path / "job.yaml")
    (tmp_path / "said.csv").write_text(
        SAID
        + "a.jpg,oryx,2,Female,adult,grazing,O-7,Ann\nb.jpg,oryx,1,,,,,Ann\nd.jpg,lion,,unknown,unknown,,,\n"
    )
    assert main(["corrections", job, str(tmp_path / "said.csv")]) == 0
    support_runs.run_on_driver(tmp_path / "job.yaml", "merge")
    found = export(images_of(run), "camtrap-dp", tmp_path / "out", parquet=True)
    check_package(tmp_path / "out")
    assert (found.notes["observations of media by people"], found.notes["of them labelled by people"]) == (
        3,
        2,
    )
    by_level: dict[str, list[dict[str, str]]] = {}
    for row in cells(tmp_path / "out", "observations"):
        by_level.setdefault(f"{row['observationLevel']} {row['classificationMethod']}", []).append(row)
    told = {row["mediaID"]: row for row in by_level["media human"]}
    names = ("scientificName", "count", "sex", "lifeStage", "behavior", "individualID", "classifiedBy")
    assert [told["a"][name] for name in names] == ["oryx", "2", "female", "adult", "grazing", "O-7", "Ann"]
    assert [told["b"][name] for name in names] == ["oryx", "1", "", "", "", "", "Ann"]
    assert [told["d"][name] for name in names[:-1]] == ["lion", "", "", "", "", ""]
    assert {row["classificationProbability"] for row in told.values()} == {""}
    assert all(row["classificationTimestamp"].endswith("Z") for row in told.values())
    machine = {row["mediaID"]: row["scientificName"] for row in by_level["media machine"]}
    assert machine == {"a": "lion", "b": "lion", "c": "oryx", "d": ""}
    events = {row["deploymentID"]: row for row in by_level["event human"]}
    assert {name: events["A"][name] for name in names[:1] + names[2:]} == {
        "scientificName": "oryx", "sex": "female", "lifeStage": "adult", "behavior": "grazing",
        "individualID": "O-7", "classifiedBy": "Ann",
    }  # fmt: skip
    assert events["A"]["classificationProbability"] == ""
    assert [row["scientificName"] for row in by_level["event machine"]] == ["oryx"]
    read = read_camtrap_dp(str(tmp_path / "out"), ImageRoot(str(tmp_path / "images"), {}))
    labels = {row["image_id"]: [one["name"] for one in row["labels"]] for row in read.table.to_pylist()}
    assert labels == {"a": ["oryx"], "b": ["oryx"], "c": ["oryx"], "d": ["lion"]}
    assert read.notes["observations by a machine of what people observed too, left out"] == 3
    made = json.loads((tmp_path / "out" / "datapackage.json").read_text())
    assert (made["title"], made["licenses"], made["project"]["individualAnimals"]) == (
        "Lions",
        about["licenses"],
        True,
    )
    for name in TABLES:  # the same in Parquet
        table = pq.read_table(tmp_path / "out" / f"{name}.parquet")
        assert table.num_rows == len(cells(tmp_path / "out", name))
    assert pq.read_table(tmp_path / "out" / "observations.parquet")["count"].type == pa.int64()


def test_what_people_said_stays_in_a_package_that_goes_on(
    package: Path, tmp_path: Path, check_package: Callable[[Path], None]
) -> None:
    """Of two runs, one after the other, what people said in either is there, once."""
    run = write_run(tmp_path / "job", package)
    files = [row["file_name"] for row in support_runs.table(tmp_path / "job" / "job.yaml", "manifest")]
    names = [name for name in files if not name.endswith("mp4")]
    (tmp_path / "said.csv").write_text(SAID + f"{names[0]},Vulpes vulpes,1,,,,,Ann\n")
    job = tmp_path / "job" / "job.yaml"
    assert main(["corrections", str(job), str(tmp_path / "said.csv")]) == 0
    run_on_driver(job, "merge")
    export(images_of(run), "camtrap-dp", tmp_path / "out")
    check_package(tmp_path / "out")
    first = [row for row in cells(tmp_path / "out", "observations") if row["classifiedBy"] == "Ann"]
    assert {row["observationLevel"] for row in first} == {"media", "event"}
    again = write_run(tmp_path / "again", tmp_path / "out")
    (tmp_path / "said.csv").write_text(SAID + f"{names[-1]},Vulpes vulpes,1,,,,,Bea\n")
    assert main(["corrections", str(tmp_path / "again" / "job.yaml"), str(tmp_path / "said.csv")]) == 0
    run_on_driver(tmp_path / "again" / "job.yaml", "merge")
    export(images_of(again), "camtrap-dp", tmp_path / "second")
    check_package(tmp_path / "second")
    after = cells(tmp_path / "second", "observations")
    assert [row for row in after if row["classifiedBy"] == "Ann"] == first
    assert len([row for row in after if row["classifiedBy"] == "Bea"]) == 2


def test_rules_of_gbif(tmp_path: Path) -> None:
    """What GBIF's IPT demands of datapackage.json (its classes for Camtrap DP), beside the profile."""
    run = support_exports.write_run(tmp_path, [image("a", 0, "lion")])
    export(images_of(run), "camtrap-dp", tmp_path / "out")
    made = json.loads((tmp_path / "out" / "datapackage.json").read_text())
    assert [one["name"] for one in made["resources"]] == list(TABLES)  # three, no more
    assert all(one["path"] and one["schema"].startswith("https://") for one in made["resources"])
    assert made["contributors"]
    assert all(one["title"] for one in [*made["contributors"], *made["sources"], made["project"]])
    assert {"samplingDesign", "captureMethod", "individualAnimals", "observationLevel"} <= set(
        made["project"]
    )
    assert made["spatial"]["type"] in ("Point", "Polygon")
    assert made["temporal"]["start"] <= made["temporal"]["end"]
    assert all(one["scientificName"] for one in made["taxonomic"])
    assert "licenses" not in made or len(made["licenses"]) >= 2
    assert made["created"].endswith("Z")


@pytest.mark.parametrize("about", [{"resources": []}, {"spatial": {}}])
def test_what_the_job_can_not_say(tmp_path: Path, about: dict[str, Any]) -> None:
    run = support_exports.write_run(tmp_path, [image("a", 0, "lion")], about=about)
    with pytest.raises(InputError, match=rf"dataset\.about: {next(iter(about))}: follows from the data"):
        export(images_of(run), "camtrap-dp", tmp_path / "out")
