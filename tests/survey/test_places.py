"""Exact places of sensitive species leave by no path, and those of all others stay as they are."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import support_runs
import yaml
from support_exports import FORMATS, MODEL, add_boxes, image, write_run
from support_runs import run_on_driver

from camtrap_batch import open_run
from camtrap_batch.catalog.labels import Taxon
from camtrap_batch.cli import main
from camtrap_batch.errors import InputError
from camtrap_batch.events import make_taxonomy
from camtrap_batch.job import Job
from camtrap_batch.store.merged import MergeResult
from camtrap_batch.store.run import Run
from camtrap_batch.survey.grid import KM_PER_DEGREE
from camtrap_batch.survey.places import Sensitive, sensitive_of, shown_locations
from camtrap_batch.targets.points import decode_wkb

PLACES = {
    "A": (31.543217, -24.254321),
    "B": (12.987654, 51.512345),
    "C": (31.544017, -24.254321),  # 81 m from A
    "D": (31.546217, -24.254321),  # 304 m from A
}
TAXONOMY = {
    "lion": {"genus": "panthera", "family": "felidae", "IUCN category": "VU"},
    "leopard": {"genus": "panthera", "family": "felidae"},
    "oryx": {"genus": "oryx antelopes", "family": "bovidae"},
}


def a_run(folder: Path, labels: dict[str, str], sensitive: Any = ("lion",), **settings: Any) -> Run:
    """A run with an image at each location, labelled so."""
    rows = [image(f"i{at}", 3600, label, location=at, probs={label: 0.9}) for at, label in labels.items()]
    publish = {
        "sensitive": list(sensitive) if isinstance(sensitive, tuple) else sensitive,
        **settings.pop("publish", {}),
    }
    return write_run(folder, rows, places=PLACES, publish=publish, **settings)


def moved(run: Run) -> set[str]:
    """Locations whose exact place is not shown, which differ from those of the table as they say."""
    merged = MergeResult.find(run)
    shown = shown_locations(merged)
    exact = {row["location"]: row for row in merged.table("locations").to_table().to_pylist()}
    for row, km in zip(shown.locations.to_pylist(), shown.grid_km.tolist(), strict=True):
        before = exact[row["location"]]
        is_exact = all(row[name] == before[name] for name in ("longitude", "latitude", "geometry"))
        assert is_exact == (km == 0)
    return set(shown.moved)


@pytest.mark.parametrize(
    ("names", "label", "is_covered"),
    [
        (["Panthera leo"], "panthera leo (Linnaeus, 1758)", True),
        (["panthera leo"], "Panthera pardus", False),
        (["lion"], "panthera", True),  # may be one
        (["lion"], "felidae", True),
        (["lion"], "bovidae", False),
        (["lion"], "leopard", False),
        (["felidae"], "leopard", True),
        (["vu"], "lion", True),
        (["VU"], "leopard", False),
        (["VU"], "panthera", True),
        (["panthera leo"], "1a2b;mammalia;carnivora;felidae;panthera;leo;lion", True),
        (["felidae"], "1a2b;mammalia;carnivora;felidae;panthera;leo;lion", True),
        (["lion"], "1a2b;mammalia;carnivora;felidae;panthera;pardus;leopard", False),
    ],
)
def test_which_labels_are_sensitive(names: list[str], label: str, is_covered: bool) -> None:
    sensitive = Sensitive(frozenset(name.casefold() for name in names), 10, make_taxonomy(TAXONOMY))
    assert sensitive.covers(label) is is_covered


def test_a_location_is_hidden_with_its_neighbours(tmp_path: Path) -> None:
    labels = {"A": "lion", "B": "oryx", "C": "oryx", "D": "oryx"}
    assert moved(a_run(tmp_path, labels)) == {"A", "C"}


def test_a_place_on_the_grid_does_not_depend_on_where_in_its_cell_it_is(tmp_path: Path) -> None:
    run = a_run(tmp_path, {"A": "lion", "B": "oryx"}, publish={"sensitive_km": 20})
    shown = shown_locations(MergeResult.find(run)).locations.to_pylist()[0]
    assert abs(shown["latitude"] - PLACES["A"][1]) * 111.2 < 10.1
    step = 20 / 111.195
    assert shown["latitude"] / step == pytest.approx(round(shown["latitude"] / step))


def test_whoever_recorded_it(tmp_path: Path) -> None:
    """An annotation of the source, a box, an image that is in no event: each hides its location."""
    rows = [
        image("i0", None, location="A", probs={"oryx": 0.9}),
        image("i1", 0, location="B", probs={"oryx": 0.9}, truth="Lion"),
        image("i2", 0, location="D", probs={"oryx": 0.9}),
    ]
    run = write_run(tmp_path, rows, places=PLACES, publish={"sensitive": ["lion"]})
    assert moved(run) == {"B"}
    box = {"x": 0.1, "y": 0.1, "w": 0.2, "h": 0.2, "category": "animal", "confidence": 0.9}
    add_boxes(
        tmp_path / "job.yaml", [{"image_id": "i2", "label": "lion", "label_confidence": 0.3, **box}], 0.2
    )
    assert moved(run) == {"B", "D"}
    rows[0]["probs"] = {"lion": 0.95}
    support_runs.predict(tmp_path / "job.yaml", {row["image_id"]: row["probs"] for row in rows}, MODEL)
    run_on_driver(tmp_path / "job.yaml", "merge")
    assert {event["label"] for event in support_runs.table(tmp_path / "job.yaml", "events")} == {"oryx"}
    assert moved(run) == {"A", "B", "C"}  # C, a camera without an image, stands beside A


def test_what_a_person_said(tmp_path: Path) -> None:
    run = a_run(tmp_path, {"A": "oryx", "B": "oryx"})
    assert not moved(run)
    given = tmp_path / "given.csv"
    given.write_text("file,label\niB.jpg,lion\n")
    job = str(tmp_path / "job.yaml")
    assert main(["corrections", job, str(given)]) == 0
    run_on_driver(tmp_path / "job.yaml", "merge")
    assert moved(open_run(job)) == {"B"}


def test_categories_of_a_taxonomy_file(tmp_path: Path) -> None:
    (tmp_path / "taxa.csv").write_text("label,genus,red_list\nlion,panthera,VU\noryx,oryxes,LC\n")
    run = a_run(tmp_path, {"A": "lion", "B": "oryx"}, ("CR", "VU"), events={"taxonomy": "taxa.csv"})
    shown = shown_locations(MergeResult.find(run))
    assert shown.moved == {"A", "C"}
    assert any("neither a label of this job nor in events.taxonomy: cr" in note for note in shown.notes)
    chain = MergeResult.find(run).snapshot.meta["taxonomy"]["lion"]
    assert chain == [["genus", "panthera"]]  # a category is no rank


def test_what_a_taxonomy_and_a_data_package_say_of_a_species() -> None:
    """Common names in any language, ranks, categories; a genus may be the species, a class says nothing."""
    taxonomy = make_taxonomy({"oryx gazella": {"genus": "oryx", "common name": "gemsbok"}})
    above = {"genus": "Panthera", "family": "Felidae", "class": "Mammalia"}
    common = {"eng": "lion", "nld": "leeuw"}
    taxa = (Taxon("Panthera leo", above, common, "VU"), Taxon("Vulpes vulpes", {"class": "Mammalia"}))

    def covered(*names: str) -> set[str]:
        sensitive = Sensitive(frozenset(names), 10, taxonomy, taxa)
        assert not sensitive.unknown([])
        labels = ("panthera leo", "Panthera", "Felidae", "Mammalia", "Vulpes vulpes", "Oryx gazella", "Oryx")
        return {label for label in labels if sensitive.covers(label)}

    lions = {"panthera leo", "Panthera", "Felidae"}
    assert covered("leeuw") == covered("lion") == covered("vu") == covered("panthera leo") == lions
    assert covered("felidae") == lions
    assert covered("gemsbok") == {"Oryx gazella", "Oryx"}
    assert covered("mammalia") == {*lions, "Mammalia", "Vulpes vulpes"}


def test_names_that_say_where_a_camera_stands_are_told(tmp_path: Path) -> None:
    """A name of a place leaves by every path; so it is said that it tells too much."""
    at = "S24.25432 E31.54321"
    rows = [
        image("i0", 0, "lion", location=at),
        image("i1", 0, "lion", location="B", file_name="cards/12.9876_51.5123/1.jpg"),
        image("i2", 0, "lion", location="D"),
    ]
    places = {at: PLACES["A"], "B": PLACES["B"], "D": PLACES["D"]}
    run = write_run(tmp_path, rows, places=places, publish={"sensitive": ["lion"]})
    [line] = [note for note in shown_locations(MergeResult.find(run)).notes if "coordinates" in note]
    assert "or of its files, has its coordinates in it (such locations: 2)" in line


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("species,why\n,rare\n", "list.csv:2: species: empty (publish.sensitive)"),
        ("name\nlion\n", "list.csv:1: no column label (publish.sensitive)"),
        ("label\n", "list.csv: holds no label (publish.sensitive)"),
    ],
)
def test_a_list_that_can_not_be(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "list.csv").write_text(text)
    job = support_runs.write_run(tmp_path, [], publish={"sensitive": "list.csv"})
    with pytest.raises(InputError) as caught:
        sensitive_of(Job.load(job))
    assert message in str(caught.value)


def test_a_list_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("species,why\nLion (Linnaeus 1758),poached\n\n")
    job = support_runs.write_run(tmp_path, [], publish={"sensitive": "list.csv"})
    found = sensitive_of(Job.load(job))
    assert found is not None
    assert not found.covers("oryx")


EXACT = [f"{value:.4f}"[:-1] for value in PLACES["A"]]
"""What no file may hold: 31.543 and -24.254, a place to a hundred metres."""


def texts_of(path: Path) -> str:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            return "\n".join(archive.read(name).decode() for name in archive.namelist())
    return "\n".join(file.read_text() for file in files)


@pytest.mark.parametrize("to", FORMATS)
def test_no_export_has_an_exact_place(to: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    camera = f"A,{PLACES['A'][1]},{PLACES['A'][0]},352345.67,7316543.21,120\nB,51.5,12.9,1.0,2.0,7\n"
    (tmp_path / "cameras.csv").write_text(f"location,latitude,longitude,utm_e,utm_n,height_cm\n{camera}")
    a_run(tmp_path, {"A": "lion", "B": "oryx"}, cameras="cameras.csv")
    job = str(tmp_path / "job.yaml")
    endings = {"csv": "out.csv", "timelapse": "out.csv", "camtrap-dp": "out.zip"}
    folders = {"detection-history": "out"}
    out = tmp_path / (endings | folders).get(to, "out.json")
    assert main(["export", job, "--to", to, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "publish.sensitive: 1 of 2 locations are on a grid of 10 km" in said
    content = texts_of(out)
    assert not any(value in content for value in [*EXACT, "352345.67", "7316543.21"])
    assert main(["export", job, "--to", to, "--out", str(out), "--exact-places"]) == 0
    exact = texts_of(out)
    has_places = to in ("csv", "camtrap-dp", "detection-history")
    assert all(value in exact for value in EXACT) is has_places
    if has_places:
        assert "12.9" in content  # where the oryx is
    if to == "detection-history":
        assert "120" in content
        assert "352345.67" in exact
    if to == "camtrap-dp":
        assert "7072" in content  # coordinateUncertainty, in metres: half the diagonal of 10 km


def test_a_public_layer_is_coarser_there(tmp_path: Path) -> None:
    publish = {"public": True, "target": "locations.parquet", "sensitive_km": 50}
    a_run(tmp_path, {"A": "lion", "B": "oryx"}, publish=publish, report={"blur_km": 1})
    assert main(["publish", str(tmp_path / "job.yaml"), "--quiet"]) == 0
    found = 0
    for file in (tmp_path / "run").glob("*.parquet"):
        table = pq.read_table(file)
        _, latitudes = decode_wkb(table["geometry"])
        for location, latitude in zip(table["location"].to_pylist(), latitudes.to_pylist(), strict=True):
            step = (50 if location in ("A", "C") else 1) / KM_PER_DEGREE
            assert latitude / step == pytest.approx(round(latitude / step), abs=1e-6)
            found += 1
    assert found == 8  # four cameras, two events and photos


def test_keys_that_can_not_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = support_runs.write_run(tmp_path, [])
    content = yaml.safe_load(job.read_text())
    job.write_text(yaml.safe_dump({**content, "publish": {"sensitive": ["lion", 3]}}))
    assert main(["status", str(job)]) == 2
    assert "should be a list of names such as [panthera leo], or a .csv file" in capsys.readouterr().err
    job.write_text(yaml.safe_dump({**content, "publish": {"sensitive": ["lion"], "sensitive_km": 0}}))
    assert main(["status", str(job)]) == 2


def test_the_report_has_no_exact_place(tmp_path: Path) -> None:
    (tmp_path / "cameras.csv").write_text(
        "location,latitude,longitude\n" + "".join(f"{at},{PLACES[at][1]},{PLACES[at][0]}\n" for at in "AB")
    )
    a_run(tmp_path, {"A": "lion", "B": "oryx"}, cameras="cameras.csv")
    job = str(tmp_path / "job.yaml")
    assert main(["report", job, "--quiet"]) == 0
    page = (tmp_path / "run" / "report" / "index.html").read_text()
    assert "51.51" in page  # where the oryx is
    assert not any(value in page for value in [*EXACT, "24.25", "31.54"])
    assert main(["report", job, "--quiet", "--set", "publish.sensitive=null"]) == 0
    page = (tmp_path / "run" / "report" / "index.html").read_text()
    assert "24.25" in page
