"""CSV tables, folders, camera tables, locations of paths."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from camtrap_batch.catalog import reader_of
from camtrap_batch.catalog.cameras import read_cameras
from camtrap_batch.catalog.csv import CsvDataset, read_csv
from camtrap_batch.catalog.folder import FolderDataset, read_folder
from camtrap_batch.catalog.paths import location_of_path
from camtrap_batch.catalog.table import Catalog
from camtrap_batch.errors import InputError
from camtrap_batch.job import Label, Location

BY_FOLDER = location_of_path(0, None)


def csv(tmp_path: Path, text: str) -> str:
    path = tmp_path / "a.csv"
    path.write_text(text, encoding="utf-8-sig")
    return str(path)


def test_the_notebooks_subset(tmp_path: Path) -> None:
    path = csv(
        tmp_path, "file_name,category_id\nanimals/0402/1.jpg,7\nanimals/0402/2.jpg,0\n\nanimals/0403/1.jpg,\n"
    )
    catalog = read_csv(path, location_of_path(None, None))
    rows = catalog.table.to_pylist()
    assert [row["image_id"] for row in rows] == [
        "animals/0402/1.jpg",
        "animals/0402/2.jpg",
        "animals/0403/1.jpg",
    ]
    assert [row["location"] for row in rows] == ["animals/0402", "animals/0402", "animals/0403"]
    assert [[label["category_id"] for label in row["labels"]] for row in rows] == [[7], [0], []]
    assert catalog.categories == [(0, "empty"), (7, "7")]
    assert catalog.notes["images without an annotation"] == 1


def test_optional_columns_and_several_annotations(tmp_path: Path) -> None:
    path = csv(
        tmp_path,
        "image_id,file_name,species,location,datetime,seq_id,frame_num,count,other\n"
        'i1,"a,1.jpg",lion,here,2020-01-01 10:00:00,s,0,2,x\n'
        'i1,"a,1.jpg",zebra,here,2020-01-01 10:00:00,s,0,1,y\n'
        "i2,b.jpg,empty,,,,,,\n",
    )
    catalog = read_csv(path, BY_FOLDER)
    first, second = catalog.table.to_pylist()
    assert first["file_name"] == "a,1.jpg"
    assert [(label["name"], label["count"]) for label in first["labels"]] == [("lion", 2), ("zebra", 1)]
    assert (first["location"], first["seq_id"], first["frame_num"]) == ("here", "s", 0)
    assert second["labels"] == [{"category_id": 0, "name": "empty", "count": None}]
    assert catalog.categories == [(0, "empty"), (1, "lion"), (2, "zebra")]


def test_a_count_below_0_is_none(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("file_name,species,count\na.jpg,fox,-1\nb.jpg,fox,2\n")
    catalog = read_csv(str(path), location_of_path(0, None))
    assert [row["labels"][0]["count"] for row in catalog.table.to_pylist()] == [None, 2]
    assert catalog.notes[f"annotations whose count is below 0, taken as not counted: {path}:2: '-1'"] == 1


def test_widths_and_heights_of_images_or_of_boxes(tmp_path: Path) -> None:
    path = csv(
        tmp_path,
        "file_name,species,width,height\n"
        "a.jpg,lion,640,480\nb.jpg,,,\nc.jpg,lion,0.25,0.5\nc.jpg,zebra,0.75,0.5\n",
    )
    table = read_csv(path, BY_FOLDER).table
    assert table.select(["width", "height"]).to_pylist() == [
        {"width": 640, "height": 480},
        *[{"width": None, "height": None}] * 2,
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "name,category_id\na,1\n",
            r"a.csv:1: no column file_name; the columns, between commas, are: name, category_id",
        ),
        ("file_name,category_id\na.jpg,lion\n", r"a.csv:2: category_id: 'lion' should be a whole number"),
        ("file_name,category_id\n\na.jpg,1,2\n", r"a.csv:3: 3 values, the first line names 2 columns"),
        ("file_name,category_id\n,1\n", r"a.csv:2: file_name: empty"),
        ("file_name,location\na.jpg,x\na.jpg,y\n", r"a.csv:3: location: 'y' differs from line 2, 'x'"),
        ("file_name,datetime\na.jpg,tomorrow\n", r"datetime 'tomorrow' is not a date"),
        ("name;category_id\na;1\n", r"a.csv:1: no column file_name; .* semicolons, are: name, category_id"),
        ("file-name-x,species\na,1\n", r"no column file_name; .*; did you mean 'file_name_x'"),
        ('file_name,species\n"a.jpg,lion\nb.jpg,\n', r"a.csv:2: not CSV .*: a quote that is not closed"),
        ("file_name;count\na.jpg;2,5\n", r"a.csv:2: count: '2,5' should be a whole number"),
        ("file_name,count\nNA,1\n", r"a.csv:2: file_name: empty"),
        ("file_name,category_id\n", r"a.csv: lists no image"),
        ("file_name,category_id\na.jpg,3000000000\n", r"a.csv:2: category_id: '3000000000' should be"),
        ("file_name,count\na.jpg,1e30\n", r"a.csv:2: count: '1e30' should be"),
        (
            "file_name,category_id,species\na.jpg,7,lion\nb.jpg,7,\nc.jpg,7,puma\n",
            r"a.csv:4: category_id 7 is 'puma' here, 'lion' further up",
        ),
    ],
)
def test_mistakes_in_a_table_name_line_and_column(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_csv(csv(tmp_path, text), BY_FOLDER)


def test_folder() -> None:
    names = ["CAM1/a.jpg", "CAM1/notes.txt", "CAM2/x/b.PNG", "CAM2/c.avi", "d.jpg"]
    catalog = read_folder(names, BY_FOLDER, where="images")
    rows = {row["file_name"]: row["location"] for row in catalog.table.to_pylist()}
    assert rows == {"CAM1/a.jpg": "CAM1", "CAM2/x/b.PNG": "CAM2", "CAM2/c.avi": "CAM2", "d.jpg": None}
    assert catalog.notes["files that are neither image nor video, left out"] == 1
    with pytest.raises(InputError, match="no image in this folder"):
        read_folder(["a.txt"], BY_FOLDER, where="images")


def test_location_by_regular_expression() -> None:
    by_name = location_of_path(None, r"station_(?P<location>\w+?)_")
    assert by_name("2020/station_A7_0001.jpg") == "A7"
    assert by_name("2020/other.jpg") is None
    assert location_of_path(3, None)("a/b/c.jpg") == "a/b"


def test_cameras(tmp_path: Path) -> None:
    table = tmp_path / "cameras.csv"
    table.write_text("Location,Lat,Lon\nA,-24.5,31.25\n\nB,0,0\n")
    assert read_cameras(str(table)).to_pylist() == [
        {"location": "A", "longitude": 31.25, "latitude": -24.5},
        {"location": "B", "longitude": 0.0, "latitude": 0.0},
    ]
    points = tmp_path / "cameras.geojson"
    points.write_text(
        '{"type": "FeatureCollection", "features": [{"type": "Feature", "properties": {"name": "A"},'
        ' "geometry": {"type": "Point", "coordinates": [31.25, -24.5]}}]}'
    )
    assert read_cameras(str(points)).to_pylist() == [{"location": "A", "longitude": 31.25, "latitude": -24.5}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("location,lat\nA,1\n", r"cameras.csv:1: no column longitude"),
        (
            "location,lat,lon\nA,91,0\n",
            r"cameras.csv:2: latitude: '91' should be degrees, between -90 and 90",
        ),
        ("location,lat,lon\nA,1,1\nA,2,1\n", r"cameras.csv:3: location 'A' has other coordinates further up"),
        ("location,lat,lon\nA,north,1\n", r"cameras.csv:2: latitude: 'north' should be degrees"),
        ("location,lat,lon\n", r"cameras.csv: holds no camera"),
        (f"location,lat,lon\n{'A' * 200_000},1,1\n", r"cameras.csv:\d: not CSV"),
    ],
)
def test_mistakes_in_a_camera_table(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "cameras.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_cameras(str(path))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be"])
def test_geojson_that_windows_wrote(tmp_path: Path, encoding: str) -> None:
    feature = {"properties": {"location": "Süd"}, "geometry": {"type": "Point", "coordinates": [13, 52]}}
    path = tmp_path / "cameras.geojson"
    path.write_bytes(json.dumps({"features": [feature]}, ensure_ascii=False).encode(encoding))
    assert read_cameras(str(path))["location"].to_pylist() == ["Süd"]


def test_geojson_without_end(tmp_path: Path) -> None:
    path = tmp_path / "cameras.geojson"
    path.write_text("[" * 100_000)
    with pytest.raises(InputError, match="not GeoJSON"):
        read_cameras(str(path))


def test_a_location_that_no_path_names_is_refused(tmp_path: Path) -> None:
    (tmp_path / "CAM1").mkdir()
    (tmp_path / "CAM1" / "a.jpg").touch()

    def read(regex: str) -> list[str]:
        dataset = FolderDataset(format="folder", images=str(tmp_path), location=Location(regex=regex))
        locations: list[str] = reader_of(dataset).read().table["location"].to_pylist()
        return locations

    assert read(r"(CAM\d)") == ["CAM1"]
    with pytest.raises(InputError, match=r"dataset.location: .*none of the paths, such as 'CAM1/a.jpg'"):
        read(r"(station\d)")


def test_a_level_that_no_path_has_is_said(tmp_path: Path) -> None:
    for name in ("C1", "C2"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        (tmp_path / "photos" / name / "a.jpg").touch()
    dataset = FolderDataset(format="folder", images=str(tmp_path / "photos"), location=Location(level=1))
    text = "images without a folder level 1 in their path: their own folder is the location"
    text += "; the deepest is level 0"
    assert reader_of(dataset).read().notes[text] == 2
    dataset = FolderDataset(format="folder", images=str(tmp_path / "photos"), location=Location(level=0))
    assert not any("folder level" in text for text in reader_of(dataset).read().notes)


def test_a_table_of_r_or_of_a_european_spreadsheet(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    text = (
        "FileName;Station;Species;DateTimeOriginal;Count\n"
        "./CAM1/a.jpg;Süd;Vulpes vulpes;03/04/2022 9:52;2\n"
        "CAM1/a.jpg;Süd;Meles meles;03/04/2022 9:52;NA\n"
        "CAM1/b.jpg;NA;vulpes  vulpes (Linnaeus, 1758);31/03/2022 10:00;1\n"
        "CAM1/b.jpg;NA;vulpes  vulpes (Linnaeus, 1758);31/03/2022 10:00;1\n"
        f"{tmp_path}/CAM1/c.jpg;NA;NA;NA;NA\n"
    )
    path.write_bytes(text.encode("cp1252"))
    catalog = read_csv(str(path), BY_FOLDER, root=str(tmp_path))
    rows = {row["file_name"]: row for row in catalog.table.to_pylist()}
    assert list(rows) == ["CAM1/b.jpg", "CAM1/c.jpg", "CAM1/a.jpg"]
    assert [rows[name]["location"] for name in rows] == ["CAM1", "CAM1", "Süd"]
    found = {(name, label["name"], label["count"]) for name, row in rows.items() for label in row["labels"]}
    assert found == {
        ("CAM1/a.jpg", "Vulpes vulpes", 2),
        ("CAM1/a.jpg", "Meles meles", None),
        ("CAM1/b.jpg", "Vulpes vulpes", 1),
    }
    assert rows["CAM1/a.jpg"]["datetime"].isoformat() == "2022-04-03T09:52:00"
    assert catalog.notes["rows that are the same as one further up, left out"] == 1
    assert any("read as Windows-1252" in text for text in catalog.notes)
    assert any("spelt in several ways" in text for text in catalog.notes)


def test_a_row_that_says_the_same_in_other_words_does_not_add_up(tmp_path: Path) -> None:
    """Of another way to the file, or another spelling of the species."""
    path = tmp_path / "a.csv"
    path.write_text("file,label,count\n./c/a.jpg,Fox,1\nc/a.jpg,fox,1\nc//b.jpg,fox,1\nc/b.jpg,fox,2\n")
    catalog = read_csv(str(path), BY_FOLDER)
    assert [row["labels"][0]["count"] for row in catalog.table.to_pylist()] == [1, 3]
    assert catalog.notes["rows that are the same as one further up, left out"] == 1
    assert catalog.notes["files that rows write in several ways, such as './c/a.jpg' and 'c/a.jpg'"] == 2


def test_labels_from_paths(tmp_path: Path) -> None:
    names = [
        "C1/Vulpes vulpes/a.jpg",
        "C1/vulpes  vulpes/b.jpg",
        "C2/Blank/c.jpg",
        "C2/d.jpg",
        "C2/Lion/e.jpg",
    ]
    how = Label(level=1)
    catalog = read_folder(names, BY_FOLDER, how, where="images")
    found = {
        row["file_name"]: [label["name"] for label in row["labels"]] for row in catalog.table.to_pylist()
    }
    assert list(map(found.get, names)) == [["Vulpes vulpes"], ["Vulpes vulpes"], ["empty"], [], ["Lion"]]
    assert catalog.categories == [(0, "empty"), (1, "Lion"), (2, "Vulpes vulpes")]
    assert catalog.notes["images without an annotation"] == 1
    path = csv(tmp_path, "file_name\n" + "\n".join(names))
    table = read_csv(path, BY_FOLDER, Label(regex="/(?P<label>[^/]+)/[^/]+$", empty=["lion"]))
    assert table.categories == [(0, "empty"), (1, "Blank"), (2, "Vulpes vulpes")]
    with pytest.raises(InputError, match=r"dataset.label: level 3 finds a label in none of the paths"):
        read_folder(names, BY_FOLDER, Label(level=3), where="images")
    path = csv(tmp_path, "file_name,species\na/b.jpg,lion\n")
    with pytest.raises(InputError, match=r"a.csv:1: has the column species: leave out dataset.label"):
        read_csv(path, BY_FOLDER, Label(level=0))


def labels(catalog: Catalog) -> dict[str, list[tuple[str, int | None]]]:
    return {
        row["file_name"]: [(label["name"], label["count"]) for label in row["labels"]]
        for row in catalog.table.to_pylist()
    }


def test_words_for_empty_of_a_table_are_those_that_the_job_names(tmp_path: Path) -> None:
    path = csv(tmp_path, "file_name,species\na.jpg,fox\nb.jpg,Blank\nc.jpg,leer\nd.jpg,empty\n")
    assert read_csv(path, BY_FOLDER).categories == [(0, "empty"), (1, "Blank"), (2, "fox"), (3, "leer")]
    catalog = read_csv(path, BY_FOLDER, Label(empty=["blank", "Leer"]))
    assert catalog.categories == [(0, "empty"), (1, "fox")]
    assert labels(catalog)["b.jpg"] == labels(catalog)["d.jpg"] == [("empty", None)]
    path = csv(tmp_path, "file_name,category_id,category\na.jpg,4,fox\nb.jpg,7,blank\n")
    assert read_csv(path, BY_FOLDER, Label(empty=["blank"])).categories == [(0, "empty"), (4, "fox")]
    with pytest.raises(InputError, match=r"a.csv:1: has no column for the species, which dataset.label"):
        read_csv(csv(tmp_path, "file_name,place\na.jpg,x\n"), BY_FOLDER, Label(empty=["blank"]))
    with pytest.raises(ValidationError, match="give one of level, regex, keywords and hierarchy"):
        FolderDataset.model_validate({"format": "folder", "images": "x", "label": {"empty": ["leer"]}})


def test_cells_that_name_several_species(tmp_path: Path) -> None:
    text = "file_name,species,count\na.jpg,fox; badger,2;1\nb.jpg,fox,1\nc.jpg,fox;fox;badger,3\nd.jpg,,\n"
    path = csv(tmp_path, text)
    catalog = read_csv(path, BY_FOLDER)
    assert labels(catalog)["a.jpg"] == [("fox; badger", None)]
    note = (
        "cells that seem to hold several species, such as 'fox; badger', each a class of its own; "
        "dataset.label: {between: ';'} takes them apart"
    )
    assert catalog.notes[note] == 2
    catalog = read_csv(path, BY_FOLDER, Label(between=";"))
    assert labels(catalog) == {
        "a.jpg": [("fox", 2), ("badger", 1)],
        "b.jpg": [("fox", 1)],
        "c.jpg": [("fox", None), ("badger", None)],
        "d.jpg": [],
    }
    assert catalog.notes["counts of several species in one cell, taken as not counted"] == 1
    assert catalog.notes["images without an annotation"] == 1
    taxa = "990ae9dd;mammalia;carnivora;canidae;vulpes;vulpes;red fox"
    path = csv(tmp_path, f"file_name,species\na.jpg,{taxa}\nb.jpg,red fox\nc.jpg,grey fox/wolf\n")
    assert not any("several species" in note for note in read_csv(path, BY_FOLDER).notes)


def test_counts_as_people_write_them(tmp_path: Path) -> None:
    rows = "".join(f"{n}.jpg,fox,{cell}\n" for n, cell in enumerate(["two", "3", "4.0", "NA", "several"]))
    catalog = read_csv(csv(tmp_path, f"file_name,species,count\n{rows}"), BY_FOLDER)
    assert [count for ((_, count),) in labels(catalog).values()] == [2, 3, 4, None, None]
    note = f"counts that are not whole numbers, taken as not counted: {tmp_path}/a.csv:6: 'several'"
    assert catalog.notes[note] == 1
    rows += "x.jpg,fox,2-3\n"
    with pytest.raises(InputError, match=r"a.csv:6: count: 'several' should be a whole number"):
        read_csv(csv(tmp_path, f"file_name,species,count\n{rows}"), BY_FOLDER)


WILDLIFE_INSIGHTS = """\
project_id,deployment_id,image_id,filename,location,is_blank,genus,species,common_name,timestamp,number_of_objects
1,D1,i1,IMG_1.JPG,gs://bucket/D1/IMG_1.JPG,0,Vulpes,vulpes,Red Fox,2021-03-12 20:25:38,2
1,D1,i2,IMG_2.JPG,gs://bucket/D1/IMG_2.JPG,0,Urocyon,cinereoargenteus,Grey Fox,2021-03-12 20:26:38,1
1,D2,i3,IMG_3.JPG,gs://bucket/D2/IMG_3.JPG,1,,,Blank,2021-03-12 20:27:38,
1,D2,i4,IMG_4.JPG,gs://bucket/D2/IMG_4.JPG,0,Martes,,Martes Species,2021-03-12 20:28:38,1
1,D2,i5,IMG_5.JPG,gs://bucket/D2/IMG_5.JPG,0,,,Bird,2021-03-12 20:29:38,1
"""


def test_a_table_of_wildlife_insights(tmp_path: Path) -> None:
    path = csv(tmp_path, WILDLIFE_INSIGHTS)
    catalog = read_csv(path, BY_FOLDER)
    assert catalog.table["location"].null_count == 5  # URLs of files are no cameras
    notes = "\n".join(catalog.notes)
    assert "values of the column location that are files, not cameras: it is ignored" in notes
    assert "columns ignored: is_blank; if it has the is_empty: dataset.columns: {is_empty: is_blank}" in notes
    columns = {"location": "deployment_id", "is_empty": "is_blank", "count": "number_of_objects"}
    catalog = read_csv(path, BY_FOLDER, columns=columns)
    assert labels(catalog) == {
        "IMG_1.JPG": [("Vulpes vulpes", 2)],
        "IMG_2.JPG": [("Urocyon cinereoargenteus", 1)],
        "IMG_3.JPG": [("empty", None)],
        "IMG_4.JPG": [("Martes", 1)],
        "IMG_5.JPG": [("Bird", 1)],
    }
    assert catalog.table["location"].to_pylist() == ["D1", "D1", "D2", "D2", "D2"]
    assert "ignored" not in "\n".join(catalog.notes)


def test_names_of_columns_that_the_job_says(tmp_path: Path) -> None:
    path = csv(tmp_path, "Foto;Cámara;Especie;Fecha;Hora;Vacía\nx/a.jpg;C1;zorro;12-mar-2021;20:25;no\n")
    with pytest.raises(
        InputError, match=r"no column file_name; if foto has it: dataset.columns: \{file_name: fo"
    ):
        read_csv(path, BY_FOLDER)
    columns = {
        "file_name": "Foto",
        "location": "cámara",
        "category_name": "Especie",
        "date": "Fecha",
        "time": "Hora",
        "is_empty": "Vacía",
    }
    (row,) = read_csv(path, BY_FOLDER, columns=columns).table.to_pylist()
    assert (row["location"], row["datetime"].isoformat()) == ("C1", "2021-03-12T20:25:00")
    assert row["labels"][0]["name"] == "zorro"
    with pytest.raises(
        InputError, match=r"a.csv:1: no column 'Kamera' \(dataset.columns.location\); .*possible"
    ):
        read_csv(path, BY_FOLDER, columns={"file_name": "Foto", "location": "Kamera"})
    with pytest.raises(
        ValidationError, match=r"nothing is read that is called 'locaton'; did you mean 'loca"
    ):
        CsvDataset.model_validate(
            {"format": "csv", "metadata": "a", "images": "b", "columns": {"locaton": "x"}}
        )
    old = CsvDataset.model_validate({"format": "csv", "metadata": "a", "images": "b"})
    assert "columns" not in reader_of(old).settings()  # catalogs of earlier versions keep their ids


def test_date_and_time_of_a_workbook(tmp_path: Path) -> None:
    """As R reads a column of times: on a day before there were cameras."""
    path = csv(tmp_path, "file_name,date,time\na.jpg,2021-03-12 00:00:00,1899-12-31 20:25:38\n")
    assert read_csv(path, BY_FOLDER).table["datetime"][0].as_py().isoformat() == "2021-03-12T20:25:38"


def test_run_folders_hold_no_photos() -> None:
    names = ["CAM1/a.jpg", "runs/mine/job.yaml", "runs/mine/plans/catalog/x.json", "runs/mine/report/b.jpg"]
    catalog = read_folder([*names, "other/job.yaml", "other/c.jpg"], BY_FOLDER, where="images")
    assert catalog.table["file_name"].to_pylist() == ["CAM1/a.jpg", "other/c.jpg"]
    assert catalog.notes["files in run folders of jobs, left out"] == 3


def test_folders_that_name_several_species() -> None:
    how = Label(level=0, between="+")
    catalog = read_folder(["fox+badger/a.jpg", "fox/b.jpg", "c.jpg"], BY_FOLDER, how, where="images")
    assert [name for name, _ in labels(catalog)["fox+badger/a.jpg"]] == ["fox", "badger"]
    assert catalog.notes["images without an annotation"] == 1


def test_observation_types_of_trapper(tmp_path: Path) -> None:
    """`blank` is no animal, and what is no animal has its type as its label; a species counts before."""
    rows = ("blank,", "animal,lion", "Human,", "blank,lion", "unclassified,", "animal,")
    lines = [f"{number}.jpg,{row}" for number, row in enumerate(rows)]
    path = csv(tmp_path, "\n".join(["file_name,observation_type,species", *lines]))
    catalog = read_csv(path, location_of_path(None, None))
    labels = [[label["name"] for label in row["labels"]] for row in catalog.table.to_pylist()]
    assert labels == [["empty"], ["lion"], ["human"], ["lion"], [], []]
    assert catalog.notes["rows without a species whose observation_type says blank"] == 1
    assert catalog.notes["images without an annotation"] == 2
