"""camtrap corrections: files of other programs, read into a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import support_runs
from support_exports import image, run_on_driver, write_run

from camtrap_batch import open_run
from camtrap_batch.cli import main
from camtrap_batch.store.corrections import fold, read_corrections, standing
from camtrap_batch.store.run import Run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Six photos of two cameras; two files have the same name."""
    rows = [
        image("i1", 0, file_name="camA/DCIM/IMG_1.JPG", sha256="a1"),
        image("i2", 5, file_name="camA/DCIM/IMG_2.JPG", sha256="a2"),
        image("i3", 9000, "oryx", file_name="camA/DCIM/IMG_3.JPG", sha256="a3"),
        image("i4", 0, location="B", file_name="camB/DCIM/IMG_1.JPG", sha256="b1"),
        image("i5", 5, location="B", file_name="camB/DCIM/IMG_5.JPG", sha256="b5"),
        image("i6", 9000, "empty", location="B", file_name="camB/Ünïcode 6.jpg", sha256=None),
    ]
    run = write_run(tmp_path, rows)
    run_on_driver(tmp_path / "job.yaml", "merge")
    return run


def read(run: Run, tmp_path: Path, *files: Path, code: int = 0, options: tuple[str, ...] = ()) -> None:
    arguments = ["corrections", str(tmp_path / "job.yaml"), *map(str, files), *options]
    assert main(arguments) == code


def stands(run: Run) -> dict[str, list[str]]:
    """Image -> labels that count."""
    images = run.table("manifest").to_table(columns=["image_id", "sha256"])
    found: dict[str, list[str]] = {}
    for row in standing(read_corrections(run), images).to_pylist():
        found.setdefault(images["image_id"][row["row"]].as_py(), []).append(row["label"])
    return {name: sorted(labels) for name, labels in sorted(found.items())}


def table(run: Run, *columns: str) -> list[tuple[Any, ...]]:
    rows = run.table("corrections").to_table().to_pylist()
    return sorted((tuple(row[name] for name in columns) for row in rows), key=str)


def test_a_table_of_ones_own(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "ours.csv"
    file.write_text(
        "file_name;Label;count;sex;when;who\n"
        "camA/DCIM/IMG_1.JPG;LION;2;F;2026-11-30 14:05;ada\n"
        "IMG_5.JPG;Blank;;NA;;\n"
        "nowhere.jpg;lion;;;;\n"
        "IMG_1.JPG;lion;;;;\n"
    )
    read(run, tmp_path, file, options=("--who", "ben"))
    assert stands(run) == {"i1": ["lion"], "i5": ["empty"]}
    assert table(run, "image_id", "count", "sex", "who") == [
        ("i1", 2, "female", "ada"),
        ("i5", None, None, "ben"),
    ]
    text = capsys.readouterr().out
    assert "4 labels; 2 recorded, of 2 images; 0 repeat what is recorded; 2 match no image" in text
    assert f"no such image: 'nowhere.jpg' ({file}:4)" in text
    assert f"no such image: 'IMG_1.JPG' ({file}:5)" in text  # two cameras have one: it is not guessed


def test_a_table_is_read_as_every_other_table_is(run: Run, tmp_path: Path) -> None:
    """Excel's encoding and separator, decimal commas, words for empty and for people, authors, accents."""
    file = tmp_path / "excel.csv"
    text = (
        "Dateiname;File_Path;Art;Label;count;when\n"
        "1;camA\\DCIM\\IMG_1.JPG;;Panthera leo (Linnaeus, 1758);2,0;30/11/2026 14:05\n"
        "2;./camA/DCIM//IMG_2.JPG;;panthera  leo;#N/A;01/12/2026 14:05\n"
        "3;CAMA/dcim/img_3.jpg;;Leer;None;NaN\n"
        "4;camB/U\u0308ni\u0308code 6.jpg;;Mensch;null;\n"
    )
    file.write_bytes(b"\xff\xfe" + text.encode("utf-16-le"))
    read(run, tmp_path, file)
    assert stands(run) == {
        "i1": ["Panthera leo"],
        "i2": ["Panthera leo"],
        "i3": ["empty"],
        "i6": ["person"],
    }
    said = {name: (count, when) for name, count, when in table(run, "image_id", "count", "when")}
    assert said["i1"][0] == 2
    assert [said[name][1].strftime("%Y-%m-%d") for name in ("i1", "i2")] == ["2026-11-30", "2026-12-01"]


def test_dates_whose_order_is_open_are_asked_about(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "open.csv"
    file.write_text("image_id,label,when\ni1,lion,02/03/2026 14:05\n")
    read(run, tmp_path, file, code=2)
    assert f"{file}:2: when: '02/03/2026 14:05': day or month first?" in capsys.readouterr().err
    read(run, tmp_path, file, options=("--set", "dataset.dates=dmy"))
    assert table(run, "when")[0][0].month == 3


def test_read_twice_changes_nothing_also_under_another_name(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "ours.csv"
    file.write_text("image_id,label\ni1,leopard\ni4,leopard\n")
    read(run, tmp_path, file)
    number = run.snapshot("corrections").number
    read(run, tmp_path, file)
    other = tmp_path / "copy.csv"
    other.write_bytes(file.read_bytes())
    read(run, tmp_path, other)
    assert run.snapshot("corrections").number == number
    assert stands(run) == {"i1": ["leopard"], "i4": ["leopard"]}


def test_an_old_file_read_again_does_not_undo_what_was_said_since(run: Run, tmp_path: Path) -> None:
    old, new = tmp_path / "old.csv", tmp_path / "new.csv"
    old.write_text("image_id,label\ni1,leopard\n")
    read(run, tmp_path, old)
    new.write_text("image_id,label,when\ni1,lion,2099-01-01\n")
    read(run, tmp_path, new)
    copied = tmp_path / "again.csv"
    copied.write_bytes(old.read_bytes())
    read(run, tmp_path, copied)
    assert stands(run) == {"i1": ["lion"]}


def test_an_event_and_a_sequence(run: Run, tmp_path: Path) -> None:
    event = run.table("frames").to_table().to_pylist()[0]
    file = tmp_path / "events.csv"
    file.write_text(f"event,label,count\n{event['event_id']},lion,3\n")
    read(run, tmp_path, file)
    assert stands(run) == {"i1": ["lion"], "i2": ["lion"]}
    assert table(run, "scope", "event", "images", "sha256") == [
        ("event", event["event_id"], ["i1", "i2"], ["a1", "a2"])
    ]


def test_two_people_at_odds(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for who, label, when in (("ada", "lion", "2026-01-02"), ("ben", "leopard", "2026-01-03")):
        file = tmp_path / f"{who}.csv"
        file.write_text(f"image_id,label,who,when\ni1,{label},{who},{when}\n")
        read(run, tmp_path, file)
    assert "on 1 image people disagree: the later label counts" in capsys.readouterr().out
    assert stands(run) == {"i1": ["leopard"]}
    rows = run.table("corrections").to_table().to_pylist()
    assert [(row["who"], row["label"]) for row in rows] == [("ada", "lion"), ("ben", "leopard")]
    assert rows[1]["replaces"] == rows[0]["decision"]


def test_a_label_of_no_list_is_taken_and_said(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "ours.csv"
    file.write_text("image_id,label\ni1,Panthera  pardus\ni2,Homo sapiens\n")
    read(run, tmp_path, file)
    assert stands(run) == {"i1": ["Panthera pardus"], "i2": ["person"]}
    text = capsys.readouterr().out
    assert "'Panthera pardus' is not a class or category of the data set: taken as it is, once" in text
    assert "'person' is not a class" not in text


def test_people_are_called_as_the_data_set_calls_them(tmp_path: Path) -> None:
    job = support_runs.write_run(
        tmp_path, [image("i1", label=None), image("i2", 60, None)], categories=[[0, "empty"], [1, "human"]]
    )
    file = tmp_path / "ours.csv"
    file.write_text("image_id,label\ni1,Homo sapiens\ni2,Person\n")
    assert main(["corrections", str(job), str(file)]) == 0
    assert {row[0] for row in table(open_run(job), "label")} == {"human"}


def test_another_way_of_writing_a_label_is_no_other_species(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = tmp_path / "first.csv", tmp_path / "second.csv"
    first.write_text("image_id,label\ni1,Panthera pardus\ni2,panthera  Pardus\n")
    read(run, tmp_path, first)
    capsys.readouterr()
    second.write_text("image_id,label\ni4,PANTHERA PARDUS\n")
    read(run, tmp_path, second)
    assert stands(run) == {name: ["Panthera pardus"] for name in ("i1", "i2", "i4")}
    assert "no class" not in capsys.readouterr().out


def test_without_classes_labels_are_named_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    support_runs.write_run(tmp_path, [image("i1", label=None), image("i2", 60, None)])
    file = tmp_path / "ours.csv"
    file.write_text("image_id,label\ni1,fox\ni2,Fox\ni2,badger\n")
    assert main(["corrections", str(tmp_path / "job.yaml"), str(file)]) == 0
    text = capsys.readouterr().out
    assert "the data set has no classes: labels are taken as they are (rows): 'fox' (2), 'badger' (1)" in text


def test_timelapse(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "TimelapseData.csv"
    file.write_text(
        "RootFolder,File,RelativePath,DateTime,DeleteFlag,Species,Count,Sex,Age,Comments,Empty,Analyst\n"
        r"cards,IMG_1.JPG,camA\DCIM,2021-04-11 20:00:00,false,lion,2,Male,Adult,by the pool,false,ada"
        "\n"
        r"cards,IMG_1.JPG,camB\DCIM,2021-04-11 20:00:00,false,,,,,,true,ada"
        "\n"
        r"cards,IMG_2.JPG,camA\DCIM,2021-04-11 20:00:05,false,,,,,,false,"
        "\n"
    )
    read(run, tmp_path, file)
    assert stands(run) == {"i1": ["lion"], "i4": ["empty"]}
    assert table(run, "image_id", "count", "sex", "life_stage", "comment", "who")[0] == (
        "i1", 2, "male", "adult", "by the pool", "ada",
    )  # fmt: skip


def test_label_studio(run: Run, tmp_path: Path) -> None:
    box = {"x": 10, "y": 20, "width": 30, "height": 40, "rectanglelabels": ["lion"]}
    tasks = [
        {
            "id": 1,
            "data": {"image": "/data/local-files/?d=cards/camA/DCIM/IMG_2.JPG"},
            "annotations": [
                {
                    "completed_by": {"email": "ada@example.org"},
                    "updated_at": "2026-11-30T10:00:00.000000Z",
                    "result": [
                        {"type": "choices", "value": {"choices": ["oryx", "lion"]}, "from_name": "species"},
                        {"type": "rectanglelabels", "value": box, "from_name": "box", "to_name": "image"},
                    ],
                },
                {"was_cancelled": True, "result": [{"type": "choices", "value": {"choices": ["empty"]}}]},
            ],
        },
        {"id": 2, "data": {"image": "https://example.org/camB/DCIM/IMG_5.JPG?token=x"}, "annotations": []},
    ]
    file = tmp_path / "export.json"
    file.write_text(json.dumps(tasks))
    read(run, tmp_path, file)
    assert stands(run) == {"i2": ["lion", "lion", "oryx"]}
    rows = table(run, "scope", "label", "who")
    assert ("box", "lion", "ada@example.org") in rows
    (box_row,) = [row for row in run.table("corrections").to_table().to_pylist() if row["scope"] == "box"]
    assert box_row["box"] == pytest.approx([0.1, 0.2, 0.3, 0.4])


def test_timelapse_below_a_folder_of_its_own(run: Run, tmp_path: Path) -> None:
    """Timelapse was opened in the folder of one camera: RootFolder tells which of two photos it is."""
    file = tmp_path / "TimelapseData.csv"
    file.write_text(
        "RootFolder,File,RelativePath,DateTime,DeleteFlag,Species\n"
        "camB,IMG_1.JPG,DCIM,2021-04-11 20:00:00,false,lion\n"
    )
    read(run, tmp_path, file)
    assert stands(run) == {"i4": ["lion"]}
    file.write_text(
        "File,RelativePath,Folder,Date,Time,ImageQuality,Species\n"
        "IMG_1.JPG,DCIM,camA,11-Apr-2021,20:00:00,Ok,oryx\n"
    )
    read(run, tmp_path, file)
    assert stands(run) == {"i1": ["oryx"], "i4": ["lion"]}


def test_label_studios_short_form(run: Run, tmp_path: Path) -> None:
    box = {"x": 50, "y": 0, "width": 25, "height": 40, "rotation": 0, "rectanglelabels": ["lion"]}
    about = {"annotator": 3, "updated_at": "2026-11-30T10:00:00Z", "lead_time": 4.2}
    tasks = [
        {
            "image": "/data/local-files/?d=camA/DCIM/IMG_2.JPG", "id": 1, "annotation_id": 8, "location": "A",
            "species": {"choices": ["oryx", "lion"]}, "box": [box], **about,
        },
        {
            "image": "x", "image_id": "i5", "id": 2, "annotation_id": 9, "species": "lion", "count": 3,
            "location": "B", **about,
        },
    ]  # fmt: skip
    file = tmp_path / "export.json"
    file.write_text(json.dumps(tasks), encoding="utf-16")
    read(run, tmp_path, file)
    assert stands(run) == {"i2": ["lion", "lion", "oryx"], "i5": ["lion"]}
    assert ("i5", 3, "3") in table(run, "image_id", "count", "who")


def test_rows_that_match_nothing_are_all_in_a_file(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "ours.csv", tmp_path / "rest.csv"
    lines = [f"nowhere{number}.jpg,lion" for number in range(14)]
    file.write_text("\n".join(["file_name,label", "camA/DCIM/IMG_2.JPG,lion", *lines]) + "\n")
    read(run, tmp_path, file, options=("--unmatched", str(out)))
    assert "... and 4 more" in capsys.readouterr().out
    listed = out.read_text().splitlines()
    assert len(listed) == 15
    assert listed[-1] == f"{file}:16,nowhere13.jpg,lion"


def test_wildlife_insights_as_it_is_downloaded(run: Run, tmp_path: Path) -> None:
    """Its own columns; what is identified less far than a species, people, and what nobody identified."""
    file = tmp_path / "images_2004252.csv"
    head = (
        "project_id,deployment_id,image_id,filename,location,is_blank,identified_by,wi_taxon_id,class,order,"
        "family,genus,species,common_name,uncertainty,timestamp,number_of_objects,age,sex,animal_recognizable,"
        "individual_id,individual_animal_notes,behavior,highlighted,markings,cv_confidence,license,"
        "bounding_boxes\n"
    )
    where = "gs://b/deployment/1/camA/DCIM"
    file.write_text(
        head
        + f"1,A,w1,IMG_2.JPG,{where}/IMG_2.JPG,0,Ada,u,Mammalia,Carnivora,Felidae,,,Cat Family,,2021,2,Adult,"
        "Female,Yes,C3,torn ear,Walking,false,,,CC-BY,\n"
        f"1,A,w2,IMG_3.JPG,{where}/IMG_3.JPG,0,Ada,u,Mammalia,Primates,Hominidae,Homo,sapiens,"
        "Human-Camera Trapper,,2021,1,,,,,,,false,,,CC-BY,\n"
        "1,B,w3,IMG_5.JPG,gs://b/camB/DCIM/IMG_5.JPG,0,Ada,u,,,,,,No CV Result,,2021,1,,,,,,,false,,,CC-BY,\n"
        "1,B,w4,Ünïcode 6.jpg,gs://b/camB/x,1,Ada,u,,,,,,Blank,,2021,1,,,,,,,false,,,CC-BY,\n"
    )
    read(run, tmp_path, file)
    assert stands(run) == {"i2": ["Cat Family"], "i3": ["person"], "i6": ["empty"]}
    rows = table(run, "image_id", "count", "behaviour", "individual", "comment")
    assert rows[0] == ("i2", 2, "Walking", "C3", "torn ear")
    assert ("i6", None, None, None, None) in rows


def test_wildlife_insights(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "images.csv"
    file.write_text(
        "project_id,deployment_id,image_id,filename,location,is_blank,identified_by,wi_taxon_id,genus,species,"
        "common_name,number_of_objects,sex,age\n"
        "1,A,w-1,IMG_2.JPG,gs://bucket/camA/DCIM/IMG_2.JPG,0,Ada,x,Panthera,leo,Lion,2,Female,Juvenile\n"
        "1,B,w-2,IMG_5.JPG,gs://bucket/camB/DCIM/IMG_5.JPG,1,Ada,x,,,Blank,1,,\n"
        "1,A,w-3,IMG_3.JPG,gs://bucket/camA/DCIM/IMG_3.JPG,0,Computer vision,x,Oryx,beisa,Oryx,1,,\n"
    )
    read(run, tmp_path, file)
    assert stands(run) == {"i2": ["Panthera leo"], "i5": ["empty"]}
    assert table(run, "image_id", "count", "sex", "life_stage")[0] == ("i2", 2, "female", "juvenile")


def test_camtrap_dp_observations_of_people(run: Run, tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    resources = [{"name": name, "path": f"{name}.csv"} for name in ("deployments", "media", "observations")]
    (package / "datapackage.json").write_text(json.dumps({"resources": resources}))
    (package / "deployments.csv").write_text("deploymentID,latitude,longitude\nA,1,2\n")
    (package / "media.csv").write_text(
        "mediaID,deploymentID,timestamp,filePath\n"
        "i1,A,2021-04-11T20:00:00Z,media/IMG_1.JPG\n"
        "m2,A,2021-04-11T20:00:05Z,camA/DCIM/IMG_2.JPG\n"
        "m3,A,2021-04-11T22:30:00Z,camA/DCIM/IMG_3.JPG\n"
    )
    (package / "observations.csv").write_text(
        "observationID,deploymentID,mediaID,eventID,eventStart,eventEnd,observationLevel,observationType,"
        "scientificName,count,sex,classificationMethod,classifiedBy,classificationTimestamp\n"
        "o1,A,,e9,2021-04-11T20:00:00Z,2021-04-11T20:00:30Z,event,animal,lion,2,male,human,Ada,2026-01-01T00:00:00Z\n"
        "o2,A,m3,,,,media,blank,,,,human,Ada,2026-01-01T00:00:00Z\n"
        "o3,A,i1,,,,media,animal,oryx,1,,machine,a model,2026-02-01T00:00:00Z\n"
    )
    read(run, tmp_path, package)
    assert stands(run) == {"i1": ["lion"], "i2": ["lion"], "i3": ["empty"]}
    assert ("event", "e9", 2, "male", "Ada") in table(run, "scope", "event", "count", "sex", "who")


def test_our_own_camtrap_dp_comes_back(run: Run, tmp_path: Path) -> None:
    assert (
        main(["export", str(tmp_path / "job.yaml"), "--to", "camtrap-dp", "--out", str(tmp_path / "dp")]) == 0
    )
    observations = tmp_path / "dp" / "observations.csv"
    observations.write_text(observations.read_text().replace('"machine"', '"human"'))
    read(run, tmp_path, tmp_path / "dp")
    assert stands(run)["i1"] == ["lion"]
    assert stands(run)["i3"] == ["oryx"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("none.csv", None, "no such file"),
        (".", None, "is a folder without datapackage.json; name a file with labels"),
        ("other.csv", "a,b\n1,2\n", "not a known kind of file with labels; its columns are: a, b; it should"),
        ("ours.csv", "image_id,label\nx1,lion\nx2,lion\n", "none of the file's 2 rows is about an image"),
        ("ours.csv", "image_id,label,count\ni1,lion,many\n", "ours.csv:2: count: 'many' should be a whole"),
        ("ours.csv", "image_id,label,count\ni1,lion,3000000000\n", "'3000000000' should be 2,147,483,647 at"),
        (
            "tasks.json",
            '[{"image": "i1.jpg", "choice": "lion", "count": 2.5, "annotation_id": 1}]',
            "2.5 should be a whole number",
        ),
        ("ours.csv", "image_id,label,when\ni1,lion,soon\n", "ours.csv:2: when: 'soon' should be a date"),
        ("ours.csv", "image_id,label\n,lion\n", "ours.csv:2: names neither an image"),
        ("tasks.json", "[1, 2]", "task 1: should be an object"),
        ("tasks.json", "[{", "can't be read as JSON"),
    ],
)
def test_what_is_wrong_is_one_line_and_records_nothing(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: str | None, words: str
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    read(run, tmp_path, tmp_path / name, code=2)
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert words in line
    assert fold(run) is None


def test_dry_run_writes_nothing(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "ours.csv"
    file.write_text("image_id,label\ni1,leopard\n")
    read(run, tmp_path, file, options=("--dry-run",))
    assert "1 would be recorded" in capsys.readouterr().out
    assert fold(run) is None


def test_what_is_said_counts_at_the_next_merge(run: Run, tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    before = run.snapshot("events").number
    assert run_on_driver(job, "merge").shards_run == 0
    file = tmp_path / "ours.csv"
    file.write_text("image_id,label,count,sex\ni1,leopard,2,male\ni2,leopard,2,male\ni3,Blank,,\n")
    read(run, tmp_path, file)
    run_on_driver(job, "merge")
    frames = {row["image_id"]: row for row in run.table("frames").to_table().to_pylist()}
    assert (frames["i1"]["label"], frames["i1"]["label_source"], frames["i1"]["sex"]) == (
        "leopard",
        "human",
        "male",
    )
    assert (frames["i3"]["label"], frames["i3"]["no_event"]) == ("empty", "empty")
    assert (frames["i4"]["label"], frames["i4"]["label_source"]) == ("lion", "machine")
    events = run.table("events").to_table().to_pylist()
    assert [
        (row["label"], row["count"], row["label_source"]) for row in events if row["location"] == "A"
    ] == [("leopard", 2, "human")]
    assert run.snapshot("events").number == before + 1
    assert run_on_driver(job, "merge").shards_run == 0
    # Taken over by the next decision, and still there for a new result.
    file.write_text("image_id,label,when\ni1,lion,2099-01-01\ni2,lion,2099-01-01\n")
    read(run, tmp_path, file)
    run_on_driver(job, "merge")
    labels = run.table("frames").to_table(columns=["label"])["label"].to_pylist()
    assert labels[:3] == ["lion", "lion", "empty"]
