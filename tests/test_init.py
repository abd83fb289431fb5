"""camtrap init: from what somebody has to a job file that runs as it is."""

from __future__ import annotations

import csv
import json
import re
import shlex
import shutil
import sys
import zipfile
from importlib.abc import MetaPathFinder
from io import BytesIO
from pathlib import Path

import pytest
import support_keywords
import yaml
from openpyxl import Workbook
from PIL import Image

from camtrap_batch.cli import main
from camtrap_batch.job import Job
from camtrap_batch.store.run import open_run


def photo(path: Path, taken: str | None = "2020:05:01 10:00:00") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    if taken is not None:
        exif.get_ifd(0x8769)[0x9003] = taken
    Image.new("RGB", (40, 30), (len(path.name), 99, 20)).save(path, "JPEG", exif=exif)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (here := tmp_path / "here").mkdir()
    monkeypatch.chdir(here)
    return here


@pytest.fixture
def stations(tmp_path: Path) -> Path:
    for station in ("ST1", "ST2", "ST3"):
        for species in ("Vulpes vulpes", "Meles meles", "blank"):
            photo(tmp_path / "photos" / station / "DCIM" / species / "a.jpg")
    return tmp_path / "photos"


class NoTorch(MetaPathFinder):
    """As if torch were not installed."""

    def find_spec(self, name: str, path: object, target: object = None) -> None:
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def init(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> str:
    assert main(["init", *map(str, arguments)]) == code
    told = capsys.readouterr()
    return told.out if code == 0 else told.err


def runs(job: Path, capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    """The rows of the catalog that the job file gives, as it is."""
    assert main(["catalog", str(job), "--cluster", "inline"]) == 0
    capsys.readouterr()
    rows: list[dict[str, object]] = open_run(job).table("catalog").to_table().to_pylist()
    return rows


def test_folders_of_cameras_and_species(
    here: Path, stations: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = init(capsys, stations)
    assert "9 images (.jpg 9)" in told
    assert "9 of 9 images looked at have one in their EXIF, 2020-05-01 to 2020-05-01" in told
    assert "folder level 1: DCIM" in told
    assert "9 images of 3 camera locations, 3 labels" in told
    text = (here / "photos.yaml").read_text()
    assert len(text.splitlines()) <= 12
    assert all("  # " in line for line in text.splitlines()[1:] if line.strip() not in ("dataset:",))
    content = yaml.safe_load(text)
    assert content["dataset"] == {
        "format": "folder",
        "images": "../photos",
        "location": {"level": 0},
        "label": {"level": 2},
        "cameras": "cameras.csv",
    }
    assert (here / "cameras.csv").read_text().splitlines() == [
        "location,latitude,longitude",
        "ST1,,",
        "ST2,,",
        "ST3,,",
    ]
    rows = runs(here / "photos.yaml", capsys)
    assert {(row["location"], *(label["name"] for label in row["labels"])) for row in rows} == {  # type: ignore[attr-defined]
        (station, name)
        for station in ("ST1", "ST2", "ST3")
        for name in ("Vulpes vulpes", "Meles meles", "empty")
    }


def test_what_it_would_guess_wrong_is_said_by_options(
    here: Path, stations: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    init(capsys, stations, "--location", "none", "--label", "2", "--name", "mine", "--out", "job.yaml")
    content = yaml.safe_load((here / "job.yaml").read_text())
    assert content["name"] == "mine"
    assert "location" not in content["dataset"]
    assert "already exists" in init(capsys, stations, "--out", "job.yaml", code=2)
    assert "possible: 0, 1, 2, none" in init(capsys, stations, "--location", "7", code=2)
    assert "one or the other" in init(capsys, stations, "--location", "2", "--label", "2", code=2)
    assert "is among the images" in init(capsys, stations, "--out", stations / "x.yaml", code=2)


def test_it_asks_on_a_terminal(
    here: Path, stations: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter(["nine", "1", ""])
    asked: list[str] = []

    def answer(question: str) -> str:
        asked.append(question)
        return next(answers)

    monkeypatch.setattr("builtins.input", answer)
    for stream in ("stdin", "stdout"):
        monkeypatch.setattr(f"sys.{stream}.isatty", lambda: True)
    init(capsys, stations)
    assert asked == [
        *["which folder level names the camera? 0, 1, 2, none [0] "] * 2,
        "which folder level names the species? 0, 1, 2, none [2] ",
    ]
    assert yaml.safe_load((here / "photos.yaml").read_text())["dataset"]["location"] == {"level": 1}


def test_species_folders_alone_have_no_camera(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for species in ("fox", "badger", "empty"):
        photo(tmp_path / "sorted" / species / "a.jpg")
    init(capsys, tmp_path / "sorted")
    content = yaml.safe_load((here / "sorted.yaml").read_text())
    assert content["dataset"]["label"] == {"level": 0}
    assert content["infer"] == {"model": "none"}
    assert "# select: {split: {by: random}}" in (here / "sorted.yaml").read_text()
    assert not (here / "cameras.csv").exists()
    assert {row["location"] for row in runs(here / "sorted.yaml", capsys)} == {None}


def test_a_card_as_it_comes_out_of_a_camera(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    card = tmp_path / "card"
    for number, folder in enumerate(
        ("Kamera 1/DCIM/100RECNX", "Kamera 1/DCIM/101RECNX", "Kamera 2/DCIM/100RECNX")
    ):
        photo(card / folder / f"RCNX000{number}.JPG", None)
    (card / "Kamera 1" / "DCIM" / "100RECNX" / "RCNX0009.AVI").write_bytes(b"RIFF....AVI ")
    (card / "Thumbs.db").write_bytes(b"x")
    monkeypatch.chdir(card)
    told = init(capsys)
    assert "3 images, 1 video (" in told
    assert "1 other file, which is left out" in told
    assert "none of 3 images looked at has one in its EXIF" in told
    # Beside the card, since a job writes nothing among its images.
    job = tmp_path / "card.yaml"
    assert {row["location"] for row in runs(job, capsys)} == {"Kamera 1", "Kamera 2"}
    assert re.search(r"\ninfer: {model: none} .*camtrap review", job.read_text())
    assert "(to label the images)" in told
    assert main(["reprocess", str(job), "--cluster", "inline", "--dry-run"]) == 0


def test_a_coco_file_and_results_of_a_detector(
    here: Path, stations: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [path.relative_to(stations).as_posix() for path in sorted(stations.rglob("*.jpg"))]
    cct = {
        "images": [{"id": name, "file_name": name} for name in names],
        "annotations": [{"image_id": name, "category_id": 1} for name in names],
        "categories": [{"id": 1, "name": "x"}],
    }
    (stations.parent / "a.json").write_text(json.dumps(cct))
    assert "images: 9 of 9 names were found in" in init(capsys, stations.parent / "a.json")
    assert yaml.safe_load((here / "a.yaml").read_text())["dataset"]["images"] == "../photos"
    assert [row["location"] for row in runs(here / "a.yaml", capsys)] == sorted(["ST1", "ST2", "ST3"] * 3)
    results = {
        "info": {"format_version": "1.3"},
        "detection_categories": {"1": "animal"},
        "images": [{"file": name, "detections": []} for name in names],
    }
    (stations.parent / "md.json").write_text(json.dumps(results))
    assert "results of a detector for 9 images" in init(capsys, stations.parent / "md.json")
    assert yaml.safe_load((here / "md.yaml").read_text())["detect"] == {"results": "../md.json"}
    job = Job.load(here / "md.yaml")
    assert str(stations.parent / "md.json") in job.inputs().values()
    assert len(runs(here / "md.yaml", capsys)) == 9


def test_a_table_and_a_zip(here: Path, stations: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [path.relative_to(stations).as_posix() for path in sorted(stations.rglob("*.jpg"))]
    rows = "".join(f"{name};NA;{name.split('/')[2]}\n" for name in names)
    (stations / "list.csv").write_text(f"File;Comment;Species\n{rows}")
    told = init(capsys, stations / "list.csv")
    assert "columns that are read: file, species" in told
    assert "columns that are ignored: comment" in told
    assert {row["location"] for row in runs(here / "list.yaml", capsys)} == {"ST1", "ST2", "ST3"}
    with zipfile.ZipFile(stations.parent / "photos.zip", "w") as archive:
        for name in names:
            archive.write(stations / name, name)
    init(capsys, stations.parent / "photos.zip")
    assert len(runs(here / "photos.yaml", capsys)) == 9


def test_what_is_written_for_labels_runs_as_it_is_without_torch(
    here: Path, stations: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(sys, "meta_path", [NoTorch(), *sys.meta_path])
    names = [path.relative_to(stations).as_posix() for path in sorted(stations.rglob("*.jpg"))]
    rows = "".join(f"{name};{name.split('/')[2]}\n" for name in names)
    (stations / "list.csv").write_text(f"File;Species\n{rows}")
    told = init(capsys, stations / "list.csv")
    assert "camtrap reprocess list.yaml" in told
    assert yaml.safe_load((here / "list.yaml").read_text())["infer"] == {"model": "none"}
    assert main(["reprocess", "list.yaml", "--cluster", "inline", "--quiet"]) == 0
    capsys.readouterr()
    assert main(["status", "list.yaml", "--json"]) == 0
    states = {stage["stage"]: stage["state"] for stage in json.loads(capsys.readouterr().out)["stages"]}
    assert {name for name, state in states.items() if state == "not needed"} == {"detect", "select", "train"}
    assert states["report"] == "done"
    assert "waiting" not in states.values()
    merged = open_run(here / "list.yaml").table("frames").to_table()
    assert {"Vulpes vulpes", "Meles meles"} < set(merged["label"].to_pylist())


def test_a_camera_table_of_other_cameras_stays_and_is_not_used(
    here: Path, stations: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "cameras.csv").write_text("location,latitude,longitude\nST1,1,2\nother,3,4\n")
    told = init(capsys, stations)
    assert "cameras.csv already exists, stays as it is, and is not used: it has no row for ST2, ST3" in told
    assert yaml.safe_load((here / "photos.yaml").read_text())["dataset"]["cameras"] == "photos-cameras.csv"
    assert (here / "photos-cameras.csv").read_text().splitlines()[1:] == ["ST1,,", "ST2,,", "ST3,,"]
    assert (here / "cameras.csv").read_text().endswith("other,3,4\n")
    (here / "cameras.csv").write_text("location,latitude,longitude\nST1,1,2\nST2,1,2\nST3,1,2\n")
    assert "stays as it is\n" in init(capsys, stations, "--out", "b.yaml")
    assert yaml.safe_load((here / "b.yaml").read_text())["dataset"]["cameras"] == "cameras.csv"
    (here / "cameras.csv").write_text("location,latitude,longitude\n")
    (here / "photos-cameras.csv").write_text("location,latitude,longitude\nST1,1,2\n")
    assert "give the job another --name" in init(capsys, stations, "--out", "c.yaml", code=2)


def test_a_data_package(
    here: Path, camtrap_dp_example: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    told = init(capsys, camtrap_dp_example)
    assert "a Camtrap DP data package" in told
    assert "423 images of 4 camera locations" in told
    assert "can't tell where the images are: none of 40 names was found beside the file" in told
    assert not (here / "cameras.csv").exists()
    assert Job.load(here / "example.yaml").dataset.format == "camtrap-dp"


def test_the_media_of_a_data_package_are_looked_for(
    here: Path, camtrap_dp_example: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    package = tmp_path / "package"
    shutil.copytree(camtrap_dp_example, package)
    (package / "photos" / "media").mkdir(parents=True)
    with (package / "media.csv").open(newline="") as media:
        for row in csv.DictReader(media):
            name = row["fileName"] if "://" in row["filePath"] else row["filePath"]
            (package / "photos" / name).write_bytes(b"x")
    assert "images: 40 of 40 names were found in" in init(capsys, package)
    assert yaml.safe_load((here / "package.yaml").read_text())["dataset"]["images"].endswith("package/photos")
    assert len(runs(here / "package.yaml", capsys)) == 423


def test_real_photos_sorted_by_species(
    here: Path, real_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cct = json.loads((real_images / "cct.json").read_text())
    names = {category["id"]: category["name"] for category in cct["categories"]}
    labels = {mark["image_id"]: names[mark["category_id"]] for mark in cct["annotations"]}
    for number, image in enumerate(cct["images"]):
        folder = tmp_path / "sorted" / f"station {number % 3}" / labels.get(image["id"], "unsorted")
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(real_images / image["file_name"], folder / f"{number}.jpg")
    init(capsys, tmp_path / "sorted")
    rows = runs(here / "sorted.yaml", capsys)
    assert len(rows) == len(cct["images"])
    assert {row["location"] for row in rows} == {"station 0", "station 1", "station 2"}


def test_what_is_nothing_of_the_kind(here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.json").write_text('{"a": 1}')
    (tmp_path / "b.csv").write_text("x,y\n1,2\n")
    (tmp_path / "c.pdf").write_text("x")
    for name, message in (
        ("nowhere", "no such file or folder"),
        ("empty", "no image below it"),
        ("a.json", "no list of images"),
        ("b.csv", "no column file_name"),
        ("c.pdf", "is neither images nor a list of them"),
    ):
        told = init(capsys, tmp_path / name, code=2)
        assert message in told
        assert len(told.strip().splitlines()) == 1
    assert list(here.iterdir()) == []


def test_a_bucket_and_a_zip_in_it(
    here: Path, stations: Path, bucket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    import s3fs

    store = s3fs.S3FileSystem(anon=False)
    with zipfile.ZipFile(stations.parent / "photos.zip", "w") as archive:
        for path in stations.rglob("*.jpg"):
            name = path.relative_to(stations).as_posix()
            store.pipe_file(f"{bucket}/cards/{name}", path.read_bytes())
            archive.write(path, name)
    store.put_file(str(stations.parent / "photos.zip"), f"{bucket}/photos.zip")
    assert "9 of 9 images looked at have one in their EXIF" in init(capsys, f"{bucket}/cards")
    assert yaml.safe_load((here / "cards.yaml").read_text())["dataset"]["images"] == f"{bucket}/cards"
    assert {row["location"] for row in runs(here / "cards.yaml", capsys)} == {"ST1", "ST2", "ST3"}
    init(capsys, f"{bucket}/photos.zip")
    assert len(runs(here / "photos.yaml", capsys)) == 9
    assert "no image below it" in init(capsys, f"{bucket}/nothing", code=2)


def test_keywords_that_name_species(here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for camera in ("cam1", "cam2"):
        for number, species in enumerate(("Vulpes vulpes", "Meles meles")):
            path = tmp_path / "tagged" / camera / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(support_keywords.photo(support_keywords.xmp(lightroom=[f"Species|{species}"])))
    told = init(capsys, tmp_path / "tagged")
    assert "keywords: 4 of 4 images looked at have some: Species|" in told
    assert yaml.safe_load((here / "tagged.yaml").read_text())["dataset"]["label"] == {"hierarchy": "Species"}
    assert "camtrap reprocess tagged.yaml --dry-run" in told
    rows = runs(here / "tagged.yaml", capsys)
    assert {label["name"] for row in rows for label in row["labels"]} == {"Vulpes vulpes", "Meles meles"}  # type: ignore[attr-defined]


@pytest.mark.parametrize("is_installed", [True, False])
def test_videos(
    here: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    is_installed: bool,
) -> None:
    photo(tmp_path / "card" / "cam1" / "a.jpg")
    (tmp_path / "card" / "cam1" / "b.mp4").write_bytes(b"cut off")
    monkeypatch.setattr("camtrap_batch.cli.init.find_spec", lambda name: object() if is_installed else None)
    init(capsys, tmp_path / "card")
    text = (here / "card.yaml").read_text()
    assert ("video" in yaml.safe_load(text)["dataset"]) == is_installed
    line = next(line for line in text.splitlines() if "every_s" in line)
    assert (
        "frames of 1 video are" if is_installed else "with camtrap-batch[video] their frames are images"
    ) in line


def test_a_project_folder_with_photos_in_it(
    here: Path, stations: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without an argument: the photos are in a folder of the current one, and an earlier job ran there."""
    shutil.copytree(stations, here / "photos")
    told = init(capsys)
    assert "all images here are in photos, which is taken as the image root" in told
    dataset = yaml.safe_load((here / "here.yaml").read_text())["dataset"]
    assert dataset["images"] == "photos"
    assert dataset["location"] == {"level": 0}
    assert {row["location"] for row in runs(here / "here.yaml", capsys)} == {"ST1", "ST2", "ST3"}
    photo(here / "runs" / "here" / "report" / "thumbnail.jpg")
    told = init(capsys, "--out", "again.yaml")
    assert "9 images (.jpg 9)" in told
    assert re.search(r"\d+ files in run folders of jobs, left out", told)
    photo(here / "other" / "a.jpg")  # now there is no one folder that has them all
    told = init(capsys)
    assert f"the job file goes beside the images, to {here.parent / 'here.yaml'}" in told


def test_lists_that_lie_beside_the_images(
    here: Path, stations: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (stations / "md.json").write_text('{"images": [{"file": "a.jpg", "detections": []}]}')
    (stations / "cct.json").write_text('{"images": [{"file_name": "a.jpg"}], "annotations": []}')
    (stations / "list.csv").write_text("file\na.jpg\n")
    (stations / "sites.csv").write_text("location,latitude\nA,1\n")
    told = init(capsys, stations)
    results = "md.json lies beside the images and has results of a detector; to use them: camtrap init"
    assert f"{results} ../photos/md.json" in told
    assert (
        "cct.json lies beside the images and lists images; to use it: camtrap init ../photos/cct.json" in told
    )
    assert (
        "list.csv lies beside the images and lists images; to use it: camtrap init ../photos/list.csv" in told
    )
    assert "sites.csv" not in told


def test_a_table_with_columns_and_words_of_its_own(
    here: Path, stations: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [path.relative_to(stations).as_posix() for path in sorted(stations.rglob("*.jpg"))]
    species = ["zorro", "tejón+zorro", "vacío", "tejón"] * 3
    rows = "".join(
        f"{name};{name[:3]};{label};0{n + 1}/03/21;8:2{n} PM\n"
        for n, (name, label) in enumerate(zip(names, species, strict=False))
    )
    (stations / "tabla.csv").write_text(f"Foto;Cámara;Especie;Fecha;Hora\n{rows}")
    told = init(capsys, stations / "tabla.csv", code=2)
    assert "day or month first? no date in this column settles it" in told
    assert told.strip().endswith("camtrap init: --dates")
    told = init(capsys, stations / "tabla.csv", "--dates", "dmy")
    taken = "foto (file_name), especie (category_name), cámara (location), fecha (date), hora (time)"
    assert f"columns taken for what their names say: {taken}" in told
    assert "labels taken to mean that there is no animal: vacío" in told
    dataset = yaml.safe_load((here / "tabla.yaml").read_text())["dataset"]
    assert dataset["label"] == {"between": "+", "empty": ["vacío"]}
    found = runs(here / "tabla.yaml", capsys)
    assert {row["location"] for row in found} == {"ST1", "ST2", "ST3"}
    assert {label["name"] for row in found for label in row["labels"]} == {"zorro", "tejón", "empty"}  # type: ignore[attr-defined]
    assert min(row["datetime"] for row in found).isoformat() == "2021-03-01T20:20:00"  # type: ignore[type-var]


def test_words_for_empty_of_folders_and_of_a_coco_file(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for camera in ("A1", "A2", "A3"):
        for species in ("Vulpes vulpes", "Meles meles", "Leer"):
            photo(tmp_path / "sorted" / camera / species / "a.jpg")
    init(capsys, tmp_path / "sorted")
    label = yaml.safe_load((here / "sorted.yaml").read_text())["dataset"]["label"]
    assert label == {"level": 1, "empty": ["empty", "blank", "Leer"]}
    assert "empty" in {label["name"] for row in runs(here / "sorted.yaml", capsys) for label in row["labels"]}  # type: ignore[attr-defined]
    names = [f"A1/{name}/a.jpg" for name in ("Vulpes vulpes", "Leer")]
    cct = {
        "images": [{"id": name, "file_name": name} for name in names],
        "annotations": [{"image_id": name, "category_id": n} for n, name in enumerate(names, 1)],
        "categories": [{"id": 1, "name": "fox"}, {"id": 2, "name": "nothing"}],
    }
    (tmp_path / "sorted" / "a.json").write_text(json.dumps(cct))
    init(capsys, tmp_path / "sorted" / "a.json")
    assert yaml.safe_load((here / "a.yaml").read_text())["select"] == {"empty": {"class": "nothing"}}
    runs(here / "a.yaml", capsys)


def test_no_answer_on_a_terminal_is_one_line(
    here: Path, stations: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(question: str) -> str:
        raise EOFError

    monkeypatch.setattr("builtins.input", nothing)
    for stream in ("stdin", "stdout"):
        monkeypatch.setattr(f"sys.{stream}.isatty", lambda: True)
    told = init(capsys, stations, code=2)
    assert told.strip().endswith("0, 1, 2, none [0]; --location gives one")
    assert list(here.iterdir()) == []


PLACED = """\
file,station,lat,Longitud,installed,removed,species
A/1.jpg,A,"1,5",-2.25,01.04.2023,31.05.2023,fox
A/2.jpg,A,1.50,-2.25,01.04.2023,31.05.2023,
B/1.jpg,B,3,4,01.04.2023,31.05.2023,fox
B/2.jpg,B,3.1,4,02.04.2023,31.05.2023,fox
C/1.jpg,C,604000,523000,,,fox
D/1.jpg,D,,,,,fox
"""


def test_cameras_of_a_table_of_images(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "list.csv").write_text(PLACED)
    for line in PLACED.splitlines()[1:]:
        photo(here / "photos" / line.partition(",")[0])
    told = init(capsys, "list.csv").splitlines()
    assert "columns about cameras, for cameras.csv: lat, longitud, installed, removed" in told
    assert not any("ignored" in line for line in told)
    why = "'604000, 523000' should be degrees, between -90 and 90"
    assert f"1 row without a place in degrees (WGS 84): {here}/list.csv:6: {why}" in told
    places = "1 camera with several places in the table, left open: 'B' (3.0, 4.0; 3.1, 4.0)"
    assert places in told
    assert any("1 camera with several starts or ends in the table, left open: 'B'" in line for line in told)
    assert f"{here}/cameras.csv: latitude and longitude of 1 camera are from the table" in told
    assert f"{here}/cameras.csv: fill in latitude and longitude of 3 cameras" in told
    again = init(capsys, "list.csv", "--out", "again.yaml")
    assert "cameras.csv already exists, and stays as it is; the table knows where 1 camera is" in again
    assert (here / "cameras.csv").read_text().splitlines() == [
        "location,latitude,longitude,start,end",
        "A,1.5,-2.25,01.04.2023,31.05.2023",
        *("B,,,,", "C,,,,", "D,,,,"),
    ]
    assert main(["catalog", "list.yaml", "--quiet"]) == 0


def test_cards_of_one_camera_each(here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in ("card1/DCIM/100RECNX", "card2/DCIM/100RECNX", "card2/DCIM/101RECNX"):
        photo(tmp_path / "cards" / folder / "IMG_0001.JPG")
    init(capsys, tmp_path / "cards")
    assert {row["location"] for row in runs(here / "cards.yaml", capsys)} == {"card1", "card2"}


def test_names_without_folders_of_photos_in_folders(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As Wildlife Insights lists them: found below the folder beside the table."""
    (here / "images.csv").write_text("filename,species\nx1.jpg,fox\nX2.jpg,fox\nnone.jpg,fox\n")
    for name in ("A/x1.jpg", "B/x2.jpg"):
        photo(here / "cards" / name)
    assert f"images: 2 of 3 names were found in {here}/cards" in init(capsys, "images.csv")
    rows = runs(here / "images.yaml", capsys)
    assert {row["file_name"] for row in rows} == {"A/x1.jpg", "B/x2.jpg", "none.jpg"}


def test_a_table_as_exiftool_writes_it(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "exif.csv").write_text("SourceFile,DateTimeOriginal\n./photos/A/1.jpg,2023:05:01 10:00:00\n")
    photo(here / "photos" / "A" / "1.jpg")
    told = init(capsys, "exif.csv", "--out", "../job.yaml", "--location", "1")
    assert "columns taken for what their names say: sourcefile (file_name)" in told


def test_what_to_do_where_the_images_are_not_known(
    here: Path, camtrap_dp_example: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = init(capsys, camtrap_dp_example).splitlines()
    at = told.index(f"{here}/example.yaml: written; next:")
    assert (
        told[at + 1] == "  in example.yaml, set dataset.images to the folder, zip or bucket with the images"
    )


def test_videos_alone(here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "card" / "cam1").mkdir(parents=True)
    for name in ("a.mp4", "b.AVI"):
        (tmp_path / "card" / "cam1" / name).write_bytes(b"cut off")
    assert "\n2 videos of 1 camera location, 0 labels\n" in init(capsys, tmp_path / "card")


def test_an_out_that_cannot_be_written(
    here: Path, stations: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = init(capsys, stations, "--location", "none", "--out", "/proc/job.yaml", code=2)
    assert re.match(r"camtrap: /proc/\S+: can't be written: ", told)
    assert len(told.splitlines()) == 1


@pytest.mark.parametrize("name", ["list.csv", "cct.json"])
def test_a_server_that_does_not_answer(here: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    told = init(capsys, f"https://127.0.0.1:9/{name}?sig=hush", code=2)
    assert f"https://127.0.0.1:9/{name} (camtrap init): can't be reached" in told
    assert "check the host's name" in told
    assert "hush" not in told
    assert len(told.splitlines()) == 1


def _zipped(path: Path, photos: Path, top: str = "", **lists: bytes | str) -> None:
    """A zip of photos and of files that are named like keywords: `labels_csv` is labels.csv."""
    with zipfile.ZipFile(path, "w") as archive:
        for photo_ in sorted(photos.rglob("*.jpg")):
            archive.write(photo_, top + photo_.relative_to(photos).as_posix().replace("/", top[-1:] or "/"))
        for name, content in lists.items():
            archive.writestr(top + name.replace("_", "."), content)


def _lists(photos: Path) -> dict[str, bytes | str]:
    """What may list photos: a table, a workbook, a COCO file, results of a detector."""
    names = [path.relative_to(photos).as_posix() for path in sorted(photos.rglob("*.jpg"))]
    rows = [("File", "Species"), *((name, name.split("/")[2]) for name in names)]
    book = Workbook()
    for row in rows:
        book.active.append(row)
    book.save(sheet := BytesIO())
    cct = {
        "images": [{"id": name, "file_name": name} for name in names],
        "annotations": [{"image_id": name, "category_id": 1} for name in names],
        "categories": [{"id": 1, "name": "fox"}],
    }
    results = {
        "info": {"format_version": "1.3"},
        "detection_categories": {"1": "animal"},
        "images": [{"file": name, "detections": []} for name in names],
    }
    return {
        "labels_csv": "".join(f"{file};{species}\n" for file, species in rows),
        "labels_xlsx": sheet.getvalue(),
        "cct_json": json.dumps(cct).encode("utf-16"),
        "md_json": json.dumps(results),
    }


@pytest.mark.parametrize("top", ["", "card/", "card\\"], ids=["flat", "folder", "powershell"])
@pytest.mark.parametrize("kind", ["labels_csv", "labels_xlsx", "cct_json", "md_json"])
def test_a_list_in_the_zip_with_the_images(
    here: Path, stations: Path, top: str, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is named with the command that uses it, and that command writes a job that reads it from there."""
    _zipped(here / "sd card.zip", stations, top, **{kind: _lists(stations)[kind]})
    told = init(capsys, "sd card.zip", "--out", "photos.yaml")
    line = next(line for line in told.splitlines() if "lies in the zip" in line)
    command = shlex.split(line.partition("camtrap init ")[2])
    assert command == [f"zip://{top.replace(chr(92), '/')}{kind.replace('_', '.')}::sd card.zip"]
    told = init(capsys, *command, "--out", "job.yaml")
    assert "images: 9 of 9 names were found in" in told
    content = yaml.safe_load((here / "job.yaml").read_text())
    assert content["name"] == "sd-card"
    assert content["dataset"]["images"] == ("zip://card::sd card.zip" if top else "sd card.zip")
    named = content["detect"]["results"] if kind == "md_json" else content["dataset"]["metadata"]
    assert named == command[0]
    found = runs(here / "job.yaml", capsys)
    assert {row["location"] for row in found} == {"ST1", "ST2", "ST3"}
    assert any(row["labels"] for row in found) == (kind != "md_json")
    for stage in ("validate", *(["detect"] if kind == "md_json" else [])):
        assert main([stage, "job.yaml", "--cluster", "inline"]) == 0
    assert "0 of 9" not in capsys.readouterr().out


def test_a_zip_of_lists_alone_and_beside_the_images(
    here: Path, stations: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lists = _lists(stations)
    _zipped(stations / "table.zip", here, labels_csv=lists["labels_csv"], readme_txt="No list.")
    told = init(capsys, stations)
    assert "labels.csv in table.zip lies beside the images and lists images; to use it: camtrap init" in told
    init(capsys, stations / "table.zip")
    dataset = yaml.safe_load((here / "table.yaml").read_text())["dataset"]
    assert dataset["metadata"] == "zip://labels.csv::../photos/table.zip"
    assert len(runs(here / "table.yaml", capsys)) == 9
    _zipped(stations / "two.zip", here, labels_csv=lists["labels_csv"], md_json=lists["md_json"])
    told = init(capsys, stations / "two.zip", code=2)
    assert "holds 2 lists of images (camtrap init); choose: camtrap init 'zip://labels.csv::" in told or (
        "choose: camtrap init zip://labels.csv::../photos/two.zip or camtrap init zip://md.json::" in told
    )
    assert "gone.csv::" in (told := init(capsys, f"zip://gone.csv::{stations / 'two.zip'}", code=2))
    assert "no such file (camtrap init)" in told
    assert "gone.zip: no such file" in init(capsys, f"zip://a.csv::{stations / 'gone.zip'}", code=2)
    job = {"name": "x", "output": "runs", "dataset": {"format": "csv", "images": str(stations)}}
    job["dataset"]["metadata"] = str(stations / "table.zip")  # type: ignore[index]
    (here / "x.yaml").write_text(yaml.safe_dump(job))
    assert main(["catalog", "x.yaml"]) == 2
    assert f"it should be zip://labels.csv::{stations / 'table.zip'}" in capsys.readouterr().err


def test_a_folder_in_a_zip(here: Path, stations: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _zipped(here / "cards.zip", stations, "card/")
    init(capsys, "zip://card::cards.zip")
    assert yaml.safe_load((here / "cards.yaml").read_text())["dataset"]["images"] == "zip://card::cards.zip"
    assert {row["location"] for row in runs(here / "cards.yaml", capsys)} == {"ST1", "ST2", "ST3"}


def test_results_beside_a_zip_with_one_folder(
    here: Path, stations: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Names in results leave out the folder that the zip has: rows of the catalog have to fit them."""
    _zipped(here / "cards.zip", stations, "card/")
    (here / "md.json").write_text(str(_lists(stations)["md_json"]))
    init(capsys, "md.json", "--out", "job.yaml")
    assert yaml.safe_load((here / "job.yaml").read_text())["dataset"]["images"] == "zip://card::cards.zip"
    assert {row["location"] for row in runs(here / "job.yaml", capsys)} == {"ST1", "ST2", "ST3"}


def test_a_camera_of_which_only_some_dates_have_an_offset_is_named(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    times = ("2021-10-31T02:10:00+02:00", "2021-10-31T02:15:00", "2021-10-31T02:20:00+01:00")
    for station in ("A", "B"):
        for at in range(3):
            photo(here / "photos" / station / f"{at}.jpg", taken=None)
    rows = [f"{station}/{at}.jpg,fox,{time}" for station in "AB" for at, time in enumerate(times)]
    rows[4] += "+01:00"
    (here / "list.csv").write_text("\n".join(["file,species,datetime", *rows]))
    init(capsys, "list.csv")
    for stage in ("catalog", "validate", "infer", "merge"):
        assert main([stage, "list.yaml", "--cluster", "inline"]) == 0
    told = capsys.readouterr()
    line = "cameras of which only some dates have an offset from UTC, so that their clocks count: 1 (A)"
    assert f"{line}; dataset.utc_offset gives it to the others" in told.out + told.err


def test_json_with_numbers_that_json_does_not_have(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "a.json").write_text('{"images": [{"id": 1, "file_name": "a.jpg",\n"width": NaN}]}')
    told = init(capsys, "a.json", code=2)
    assert "a.json: no list of images (camtrap init): not JSON, or cut off: line 2 has NaN" in told
