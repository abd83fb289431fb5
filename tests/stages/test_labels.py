"""Labels of people as the result: without a model, and before what a model says."""

from __future__ import annotations

import csv
import datetime as dt
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support_exports import export, images_of
from support_runs import predict, run_on_driver, write_run

from camtrap_batch import open_run
from camtrap_batch.cli import main
from camtrap_batch.errors import InputError
from camtrap_batch.events import combine, find_events
from camtrap_batch.events.human import overrule
from camtrap_batch.events.labels import Names, of_corrections, of_metadata, one_of_each
from camtrap_batch.stages.publish import layer_rows
from camtrap_batch.store.corrections import Correction, record
from camtrap_batch.store.merged import MergeResult
from camtrap_batch.vocabulary import NO_MODEL

START = dt.datetime(2024, 5, 1, 8)
NAMES = ["empty", "impala", "zebra", "leopard"]


def photo(name: str, seconds: float, truth: Any = None, location: str = "A", **other: Any) -> dict[str, Any]:
    taken = START + dt.timedelta(seconds=seconds)
    return {
        "image_id": name, "location": location, "datetime": taken, "truth": truth, "sha256": f"hash-{name}",
        "width": 64, "height": 48, **other,
    }  # fmt: skip


def burst() -> list[dict[str, Any]]:
    return [
        photo("a0", 0, {"impala": 2}),
        photo("a1", 30, {"impala": 3, "zebra": None}),
        photo("a2", 55),
        photo("a3", 70, "empty"),
        photo("a4", 7200, {"Impala": None}),
        photo("b0", 0, "leopard", "B"),
        photo("b1", 3000, "empty", "B"),
        photo("b2", 9000, None, "B"),
    ]


def labelled(folder: Path, **sections: Any) -> Path:
    job = write_run(
        folder, burst(), categories=[[number, name] for number, name in enumerate(NAMES)], **sections
    )
    (folder / "cameras.csv").write_text("location,latitude,longitude\nA,-24.1,31.5\nB,-24.2,31.6\n")
    content = yaml.safe_load(job.read_text())
    content["dataset"]["cameras"] = "cameras.csv"
    job.write_text(yaml.safe_dump(content))
    return job


@pytest.fixture(scope="module")
def unaided(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job without a model, merged."""
    job = labelled(tmp_path_factory.mktemp("labels"), infer={"model": "none"})
    assert run_on_driver(job, "infer").notes == ["no model: the labels of people are the result"]
    run_on_driver(job, "merge")
    return job


def rows(job: Path, table: str, *names: str) -> list[tuple[Any, ...]]:
    found = open_run(job).table(table).to_table().to_pylist()
    return [tuple(row[name] for name in names) for row in found]


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("metrics", "`camtrap merge` has run without making it; docs/tables.md"),
        ("boxes", "it needs a section detect in the job file"),
        ("selection", "run `camtrap select JOB` first"),
    ],
)
def test_a_table_that_the_job_does_not_make(unaided: Path, table: str, words: str) -> None:
    with pytest.raises(InputError, match=f"the table {table} is not there yet; {words}"):
        open_run(unaided).table(table)


def test_labels_are_the_result(unaided: Path) -> None:
    assert rows(unaided, "frames", "image_id", "label", "count", "no_event", "label_source") == [
        ("a0", "impala", 2, None, "human"),
        ("a1", "impala", 3, None, "human"),
        ("a2", None, None, "not classified", None),
        ("a3", "empty", 1, "empty", "human"),
        ("a4", "impala", None, None, "human"),
        ("b0", "leopard", 1, None, "human"),
        ("b1", "empty", 1, "empty", "human"),
        ("b2", None, None, "not classified", None),
    ]
    (line,) = (note for note in run_on_driver(unaided, "merge").notes if "nobody" in note)
    assert line.startswith("images that nobody has labelled, in no event (table frames, no_event): 2;")
    assert rows(unaided, "sequences", "location", "label", "n_images", "best_image_id", "label_source") == [
        ("A", "impala", 4, "a0", "human"),
        ("A", "zebra", 4, "a1", "human"),
        ("A", "impala", 1, "a4", "human"),
        ("B", "leopard", 1, "b0", "human"),
        ("B", "empty", 1, "b1", "human"),
        ("B", None, 1, None, None),
    ]
    # a2 and a3 are in the burst, and show no impala: the event ends with a1.
    end = START + dt.timedelta(seconds=30)
    assert rows(unaided, "events", "location", "label", "n_images", "count", "end")[:2] == [
        ("A", "impala", 2, 3, end),
        ("A", "zebra", 1, 1, end),
    ]
    assert rows(unaided, "events", "location", "label")[2:] == [("A", "impala"), ("B", "leopard")]
    located = rows(
        unaided, "locations", "n_events", "richness", "n_empty", "model_id", "predictions_snapshot"
    )
    assert located == [(3, 2, 0, None, 1), (1, 1, 1, None, 1)]


def test_further_species_of_an_image(unaided: Path) -> None:
    (more,) = [more for (more,) in rows(unaided, "frames", "more") if more]
    zebra = rows(unaided, "events", "event_id", "label")[1]
    assert [(one["label"], one["count"], one["event_id"]) for one in more] == [("zebra", None, zebra[0])]


def test_nothing_is_done_twice(unaided: Path) -> None:
    run = open_run(unaided)
    before = [run.snapshot(name).number for name in ("predictions", "locations")]
    run_on_driver(unaided, "infer")
    run_on_driver(unaided, "merge")
    assert [run.snapshot(name).number for name in ("predictions", "locations")] == before
    assert run.snapshot("predictions").inputs["model"] == NO_MODEL


def test_layers_say_whose_a_label_is(unaided: Path) -> None:
    run = open_run(unaided)
    cameras, events, photos = layer_rows(MergeResult.find(run), run.job)
    assert set(events.columns["label_source"].to_pylist()) == {"human"}
    assert photos.columns["label_source"].to_pylist()[:3] == ["human", "human", None]
    assert photos.columns["ClassLabel"].to_pylist()[:3] == ["impala", "impala", None]
    assert set(photos.columns["model_id"].to_pylist()) == {None}, "no model made these"
    assert not {"classified_by", "classified_at"} & set(events.columns.column_names), "names stay inside"
    assert cameras.columns["top_label"].to_pylist() == ["impala", "leopard"]


# --- beside a model


def with_model(folder: Path, labels: str) -> Path:
    job = labelled(folder, events={"labels": labels})
    says = {row["image_id"]: {"zebra": 0.9} for row in burst()}
    predict(job, {**says, "a0": {"empty": 0.9}}, model="b" * 16)
    run_on_driver(job, "merge")
    return job


def test_machine_alone(tmp_path: Path) -> None:
    job = with_model(tmp_path, "machine")
    assert set(rows(job, "events", "label", "label_source")) == {("zebra", "machine")}


def test_people_before_the_machine(tmp_path: Path) -> None:
    job = with_model(tmp_path, "human_first")
    assert rows(job, "frames", "image_id", "label", "label_source") == [
        ("a0", "impala", "human"),
        ("a1", "impala", "human"),
        ("a2", "impala", "human"),  # nobody labelled it; its sequence was
        ("a3", "impala", "human"),  # an empty frame of it
        ("a4", "impala", "human"),
        ("b0", "leopard", "human"),
        ("b1", "empty", "human"),
        ("b2", "zebra", "machine"),
    ]
    assert ("B", "zebra", "machine") in rows(job, "events", "location", "label", "label_source")


def test_people_alone(tmp_path: Path) -> None:
    job = with_model(tmp_path, "human")
    assert rows(job, "frames", "label")[2] == (None,)
    assert {label for (label,) in rows(job, "events", "label")} == {"impala", "zebra", "leopard"}
    assert {model for (model,) in rows(job, "locations", "model_id")} == {"b" * 16}


@pytest.mark.parametrize("labels", ["human_first", "human"])
def test_a_correction_counts_before_the_metadata(tmp_path: Path, labels: str) -> None:
    job = with_model(tmp_path, labels)
    when = dt.datetime(2024, 6, 1, 12, tzinfo=dt.UTC)
    said = Correction("leopard", ("a4",), ("hash-a4",), "mara", when, "test", count=2, sex="female")
    record(open_run(job), [said])
    run_on_driver(job, "merge")
    frames = rows(job, "frames", "image_id", "label", "count", "sex", "classified_by", "classified_at")
    assert frames[4] == ("a4", "leopard", 2, "female", "mara", when)
    assert frames[1][1:3] == ("impala", 3), "others keep what the metadata say"
    event = [row for row in rows(job, "events", "label", "classified_by", "count") if row[1]]
    assert event == [("leopard", "mara", 2)]
    record(open_run(job), [Correction(None, ("a4",), ("hash-a4",), "mara", when.replace(hour=13), "test")])
    run_on_driver(job, "merge")
    assert rows(job, "frames", "image_id", "label")[4] == ("a4", "impala"), "it is taken back"


def test_boxes_of_one_label_are_so_many_animals() -> None:
    when = dt.datetime(2024, 6, 1, tzinfo=dt.UTC)
    boxes = [(0.0, 0.0, 0.1, 0.1), (0.5, 0.5, 0.1, 0.1)]
    told = pa.Table.from_pylist(
        [
            {
                **Correction("zebra", ("x",), (None,), "me", when, "test", scope="box", box=box).as_row(),
                "row": 0,
            }
            for box in boxes
        ]
    )
    found = of_corrections(told.set_column(told.column_names.index("when"), "when", pa.array([when] * 2)))
    assert found.select(["row", "label", "count", "classified_by"]).to_pylist() == [
        {"row": 0, "label": "zebra", "count": 2, "classified_by": "me"}
    ]


# --- the field's own rule


def record_table(photos: pd.DataFrame, minutes: float) -> list[tuple[str, str, dt.datetime]]:
    """camtrapR's recordTable(minDeltaTime=minutes, deltaTimeComparedTo="lastRecord"), by its documentation.

    One after the other: a photo begins a record where the one before of that species at that station is more
    than this many minutes back.
    """
    found = []
    last: dict[tuple[str, str], dt.datetime] = {}
    for row in photos.sort_values("datetime", kind="stable").itertuples():
        for species in row.species:
            key = (row.station, species)
            if key not in last or row.datetime - last[key] > dt.timedelta(minutes=minutes):
                found.append((*key, row.datetime.to_pydatetime()))
            last[key] = row.datetime
    return sorted(found)


some_photos = st.lists(
    st.tuples(
        st.sampled_from("AB"),
        st.integers(0, 400),
        st.lists(st.sampled_from(["impala", "zebra", "leopard"]), max_size=2, unique=True),
        st.booleans(),
    ),
    min_size=1,
    max_size=40,
)


@settings(deadline=None, max_examples=60)
@given(some_photos, st.sampled_from([1, 30, 60]))
def test_events_are_the_record_table_of_camtrapr(photos: list[Any], gap: int) -> None:
    frame = pd.DataFrame(photos, columns=["station", "minute", "species", "is_empty"])
    frame["datetime"] = [pd.Timestamp(START) + pd.Timedelta(minutes=m) for m in frame["minute"]]
    labels = [
        [{"category_id": 1, "name": name, "count": 1} for name in species or (["empty"] if is_empty else [])]
        for species, is_empty in zip(frame["species"], frame["is_empty"], strict=True)
    ]
    n = len(frame)
    images = pa.table(
        {
            "image_id": [f"i{number:02}" for number in range(n)],
            "location": frame["station"].tolist(),
            "seq_id": pa.nulls(n, pa.string()),
            "datetime": pa.array(frame["datetime"].tolist(), pa.timestamp("us")),
            "label": pa.nulls(n, pa.string()),
            "confidence": pa.nulls(n, pa.float32()),
        }
    )
    kind = pa.list_(pa.struct([("category_id", pa.int32()), ("name", pa.string()), ("count", pa.int32())]))
    catalog = pa.table(
        {
            "image_id": images["image_id"],
            "labels": pa.array(labels, kind),
            "labelled_by": pa.nulls(n, pa.string()),
        }
    )
    told = of_metadata(catalog, images["image_id"], Names("empty", []))
    found = combine(images, empty="empty", min_confidence=0.5, classes=[])
    _, shown = overrule(found, one_of_each(told, None), empty="empty", alone=True)
    events = find_events(shown, empty="empty", gap_min=gap).events
    ours = sorted((row["location"], row["label"], row["start"]) for row in events.to_pylist())
    assert ours == record_table(frame, gap)


# --- what others read


def test_exports_have_what_people_say(unaided: Path, tmp_path: Path) -> None:
    images = images_of(open_run(unaided))
    export(images, "csv", tmp_path / "o.csv")
    with (tmp_path / "o.csv").open() as file:
        table = list(csv.DictReader(file))
    told = [(row["label"], row["label_source"], row["count"], row["more_labels"]) for row in table[:3]]
    assert told == [("impala", "human", "2", ""), ("impala", "human", "3", "zebra"), ("", "", "", "")]
    assert table[0]["confidence"] == ""

    export(images, "cct", tmp_path / "o.json")
    content = json.loads((tmp_path / "o.json").read_text())
    names = {category["id"]: category["name"] for category in content["categories"]}
    of_a1 = [mark for mark in content["annotations"] if mark["image_id"] == "a1"]
    assert [(names[mark["category_id"]], mark.get("count"), mark["label_source"]) for mark in of_a1] == [
        ("impala", 3, "human"),
        ("zebra", None, "human"),
    ]

    export(images, "md-json", tmp_path / "md.json")
    content = json.loads((tmp_path / "md.json").read_text())
    classes = content["classification_categories"]
    a0, a1, a2, a3 = content["images"][:4]
    assert [classes[box["classifications"][0][0]] for box in a1["detections"]] == ["impala", "zebra"]
    assert (a0["detections"][0]["conf"], a2["failure"], a3["detections"]) == (1.0, "inference failure", [])

    export(images, "timelapse", tmp_path / "t.csv")
    with (tmp_path / "t.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [(row["Species"], row["Count"], row["MachineLabel"]) for row in table[:3]] == [
        ("impala", "2", ""),
        ("impala", "3", ""),
        ("zebra", "", ""),
    ]

    export(images, "speciesnet", tmp_path / "sn.json")
    first = json.loads((tmp_path / "sn.json").read_text())["predictions"][0]
    assert (first["prediction"].rpartition(";")[2], first["prediction_score"]) == ("impala", 1.0)
    assert first["prediction_source"] == "human"


def test_camtrap_dp_says_who_classified(tmp_path: Path) -> None:
    job = with_model(tmp_path, "human_first")
    when = dt.datetime(2024, 6, 1, 12, tzinfo=dt.UTC)
    traits = {"sex": "female", "life_stage": "adult", "behaviour": "resting", "individual": "F7"}
    said = [
        Correction("leopard", ("a4",), ("hash-a4",), "mara", when, "test", count=2, **traits),
        Correction("impala", ("a4",), ("hash-a4",), "mara", when, "test", count=1),
    ]
    record(open_run(job), said)
    run_on_driver(job, "merge")
    export(images_of(open_run(job)), "camtrap-dp", tmp_path / "dp")
    with (tmp_path / "dp" / "observations.csv").open() as file:
        table = list(csv.DictReader(file))
    whose = ("classificationMethod", "classifiedBy", "classificationTimestamp", "classificationProbability")
    of = {(row["mediaID"], row["scientificName"]): row for row in table if row["observationLevel"] == "media"}
    leopard, impala = of["a4", "leopard"], of["a4", "impala"]
    assert [leopard[name] for name in whose] == ["human", "mara", "2024-06-01T12:00:00Z", ""]
    assert [leopard[name] for name in ("count", "sex", "lifeStage", "behavior", "individualID")] == [
        "2", "female", "adult", "resting", "F7",
    ]  # fmt: skip
    assert impala["count"] == "1"
    assert leopard["eventID"] != impala["eventID"]
    assert leopard["observationID"] != impala["observationID"]
    assert [of["b0", "leopard"][name] for name in whose] == ["human", "", "", ""], "of the metadata"
    machine = of["b2", "zebra"]
    assert [machine[name] for name in whose][:2] == ["machine", "b" * 16]
    assert float(machine["classificationProbability"]) == pytest.approx(0.9)
    events = {row["eventID"]: row for row in table if row["observationLevel"] == "event"}
    assert events[leopard["eventID"]]["classifiedBy"] == "mara"
    assert {leopard["eventID"], impala["eventID"]} <= set(events)


# --- the whole job


WITHOUT_TORCH = """
import sys
from importlib.machinery import PathFinder

class Core(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        extra = ("torch", "torchvision", "fastai", "fastcore", "timm", "sklearn", "safetensors")
        return None if name.partition(".")[0] in extra else PathFinder.find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Core
from camtrap_batch.cli import main
for arguments in {commands!r}:
    code = main(arguments)
    assert code == 0, (arguments, code)
"""


def test_a_whole_job_without_torch(tmp_path: Path) -> None:
    """A csv of labels goes to a map, a report and a package where the train extra is not installed."""
    photos = tmp_path / "photos"
    table = [["file_name", "location", "datetime", "label", "count"]]
    random = np.random.default_rng(0)
    for number, (location, label) in enumerate([("A", "impala"), ("A", "zebra"), ("B", ""), ("B", "empty")]):
        (photos / location).mkdir(parents=True, exist_ok=True)
        name = f"{location}/{number}.jpg"
        Image.fromarray(random.integers(0, 255, (48, 64, 3), np.uint8)).save(photos / name)
        table.append([name, location, f"2024-05-01 {8 + number:02}:00:00", label, "2" if label else ""])
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows(table)
    (tmp_path / "cameras.csv").write_text("location,latitude,longitude\nA,-24.1,31.5\nB,-24.2,31.6\n")
    content = {
        "name": "run",
        "output": ".",
        "dataset": {
            "format": "csv", "metadata": "labels.csv", "images": "photos", "cameras": "cameras.csv",
        },
        "infer": {"model": "none"},
        "publish": {"target": "locations.parquet"},
    }  # fmt: skip
    job = tmp_path / "job.yaml"
    job.write_text(yaml.safe_dump(content))
    commands = [
        ["reprocess", str(job), "--cluster", "inline", "--quiet"],
        ["status", str(job)],
        ["check", str(job)],
        ["export", str(job), "--to", "camtrap-dp", "--out", str(tmp_path / "dp")],
        ["review", str(job), "--out", str(tmp_path / "list.csv")],
        ["infer", str(job), "--cluster", "inline", "--quiet"],
    ]
    script = WITHOUT_TORCH.format(commands=commands)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert rows(job, "events", "label", "count", "label_source") == [
        ("impala", 2, "human"),
        ("zebra", 2, "human"),
    ]
    page = (tmp_path / "run" / "report" / "index.html").read_text()
    assert "impala" in page
    assert "zebra" in (tmp_path / "list.csv").read_text()


def package(folder: Path, further: int = 0) -> Path:
    """A Camtrap DP package, observed by people and by a machine, and a job without a model.

    `further`: images of lions and impalas that people observed.
    """
    (folder / "media").mkdir(parents=True)
    random = np.random.default_rng(1)
    media, seen = ["mediaID,deploymentID,timestamp,filePath"], []
    for number in range(6 + further):
        picture = Image.fromarray(random.integers(0, 255, (48, 64, 3), np.uint8))
        picture.save(folder / "media" / f"{number}.jpg")
        media.append(f"m{number},A,2024-05-01T{8 + number:02}:00:00Z,media/{number}.jpg")
    people, machine = "human,Ada,2024-06-01T00:00:00Z,", "machine,SpeciesNet 4,2024-06-01T00:00:00Z,"
    event = "2024-05-01T10:00:00Z,2024-05-01T10:00:00Z"
    seen += [
        f"o0,A,m0,e0,,,media,animal,lion,2,{people}",
        f"o1,A,m1,e1,,,media,animal,zebra,1,{machine}0.8",
        f"o2,A,,e2,{event},event,animal,impala,3,{people}",
        f"o3,A,m2,e2,,,media,animal,zebra,1,{machine}0.9",  # of an event that people observed
        f"o4,A,m3,e3,,,media,animal,zebra,1,{machine}0.1",
        f"o5,A,m4,e4,,,media,blank,,,{machine}0.99",
        *(
            f"o{number},A,m{number},e{number},,,media,animal,{('lion', 'impala')[number % 2]},1,{people}"
            for number in range(6, 6 + further)
        ),
    ]
    head = (
        "observationID,deploymentID,mediaID,eventID,eventStart,eventEnd,observationLevel,observationType,"
        "scientificName,count,classificationMethod,classifiedBy,classificationTimestamp,"
        "classificationProbability"
    )
    (folder / "media.csv").write_text("\n".join(media) + "\n")
    (folder / "observations.csv").write_text("\n".join([head, *seen]) + "\n")
    (folder / "deployments.csv").write_text("deploymentID,latitude,longitude\nA,-24.1,31.5\n")
    resources = [{"name": name, "path": f"{name}.csv"} for name in ("deployments", "media", "observations")]
    (folder / "datapackage.json").write_text(json.dumps({"resources": resources}))
    dataset = {"format": "camtrap-dp", "metadata": "datapackage.json", "images": "."}
    job = folder / "job.yaml"
    job.write_text(
        yaml.safe_dump({"name": "run", "output": "../out", "dataset": dataset, "infer": {"model": "none"}})
    )
    return job


def test_what_a_machine_observed_is_a_machines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = package(tmp_path / "dp")
    for stage in ("catalog", "validate", "infer", "merge"):
        assert main([stage, str(job), "--cluster", "inline"]) == 0
    told = capsys.readouterr()
    assert "of 3 images that no person labelled those of a machine" in " ".join((told.out + told.err).split())
    assert rows(job, "frames", "image_id", "label", "label_source") == [
        ("m0", "lion", "human"),
        ("m1", "zebra", "machine"),
        ("m2", "impala", "human"),
        ("m3", "uncertain", "machine"),
        ("m4", "empty", "machine"),
        ("m5", None, "machine"),
    ]
    assert rows(job, "predictions", "image_id", "label", "source")[1:3] == [
        ("m1", "zebra", "metadata"),
        ("m2", None, None),
    ]
    assert sorted(rows(job, "events", "label", "label_source")) == [
        ("impala", "human"), ("lion", "human"), ("uncertain", "machine"), ("zebra", "machine"),
    ]  # fmt: skip
    assert main(["export", str(job), "--to", "csv", "--out", str(tmp_path / "o.csv")]) == 0
    with (tmp_path / "o.csv").open() as file:
        table = [(row["label"], row["confidence"], row["label_source"]) for row in csv.DictReader(file)]
    assert table[:2] == [("lion", "", "human"), ("zebra", "0.8", "machine")]
    assert main(["export", str(job), "--to", "camtrap-dp", "--out", str(tmp_path / "again")]) == 0
    with (tmp_path / "again" / "observations.csv").open() as file:
        of = {row["observationID"]: row for row in csv.DictReader(file)}
    by = {(row["scientificName"], row["classificationMethod"]) for row in of.values()}
    assert {("lion", "human"), ("zebra", "machine"), ("impala", "human")} <= by
    assert ("zebra", "human") not in by
    assert of["o1"]["classifiedBy"] == "SpeciesNet 4"
    assert float(of["o1"]["classificationProbability"]) == pytest.approx(0.8)


def test_asked_for_people_alone_a_machine_has_no_say(tmp_path: Path) -> None:
    job = package(tmp_path / "dp")
    for stage in ("catalog", "validate", "infer", "merge"):
        assert main([stage, str(job), "--set", "events.labels=human", "--cluster", "inline", "--quiet"]) == 0
    assert {label for (label,) in rows(job, "events", "label")} == {"lion", "impala"}


def job_of_table(folder: Path, text: str) -> Path:
    """A job file for images that a .csv lists."""
    (folder / "images").mkdir()
    (folder / "images" / "a.jpg").write_bytes(b"")
    (folder / "table.csv").write_text(text)
    dataset = {"format": "csv", "metadata": "table.csv", "images": "images"}
    (job := folder / "job.yaml").write_text(
        yaml.safe_dump({"name": "run", "output": ".", "dataset": dataset})
    )
    return job


def test_the_catalog_says_that_no_label_means_no_animal(tmp_path: Path) -> None:
    job = job_of_table(tmp_path, "file_name,species\na.jpg,leer\nb.jpg,fox\n")
    line = (
        "none of the labels (fox, leer) is taken to mean that there is no animal; if one does, name it in "
        "select.empty.class"
    )
    assert line in run_on_driver(job, "catalog").notes
    assert line in run_on_driver(job, "catalog").notes  # also where the table stands already
    assert not any(
        "no animal" in note for note in run_on_driver(job, "catalog", "select.empty.class=leer").notes
    )
    (tmp_path / "table.csv").write_text("file_name,species\na.jpg,Empty\nb.jpg,fox\n")
    assert not any("no animal" in note for note in run_on_driver(job, "catalog").notes)


def test_the_catalog_asks_about_usual_words_for_empty(tmp_path: Path) -> None:
    """They stay what they were in jobs that there are, and it takes one key to say otherwise."""
    job = job_of_table(tmp_path, "file_name,species\na.jpg,blank\nb.jpg,fox\nc.jpg,empty\n")
    line = "the label 'blank' counts as an animal; if it means that there is none: "
    line += "dataset.label: {empty: [blank]}"
    assert line in run_on_driver(job, "catalog").notes
    assert line in run_on_driver(job, "catalog").notes
    assert line not in run_on_driver(job, "catalog", "select.empty.class=blank").notes
    found = rows(job, "catalog", "file_name", "labels")
    assert {label["name"] for _, labels in found for label in labels} == {"blank", "fox", "empty"}
    content = yaml.safe_load(job.read_text())
    content["dataset"]["label"] = {"empty": ["blank"]}
    job.write_text(yaml.safe_dump(content))
    assert not any("counts as an animal" in note for note in run_on_driver(job, "catalog").notes)
    found = rows(job, "catalog", "file_name", "labels")
    assert {label["category_id"] for file, labels in found for label in labels if file != "b.jpg"} == {0}


def test_the_catalog_says_where_the_category_0_is_an_animal(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").write_bytes(b"")
    content = {
        "images": [{"id": "a", "file_name": "a.jpg"}],
        "annotations": [{"image_id": "a", "category_id": 0}],
        "categories": [{"id": 0, "name": "lion"}, {"id": 1, "name": "zebra"}],
    }
    (tmp_path / "cct.json").write_text(json.dumps(content))
    dataset = {"format": "cct", "metadata": str(tmp_path / "cct.json"), "images": str(tmp_path / "images")}
    job = tmp_path / "job.yaml"
    job.write_text(yaml.safe_dump({"name": "run", "output": str(tmp_path), "dataset": dataset}))
    line = "the category 0 is 'lion' and counts as: no animal"
    assert any(note.startswith(line) for note in run_on_driver(job, "catalog").notes)
    content["categories"][0] = {"id": 0, "name": "Blank"}
    (tmp_path / "cct.json").write_text(json.dumps(content))
    assert not any("category 0" in note for note in run_on_driver(job, "catalog").notes)


def test_what_a_machine_observed_is_not_learnt_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = package(tmp_path / "dp", further=10)
    learn = ["--set", "infer.model=latest", "--set", "select.classes=[lion, impala]", "--set",
             "select.split={by: random, valid: 0.5}"]  # fmt: skip
    for stage in ("catalog", "validate", "select"):
        assert main([stage, str(job), "--cluster", "inline", *(learn if stage == "select" else ())]) == 0
    told = capsys.readouterr()
    assert "3 images with the label of a machine alone: left out" in told.out + told.err
    assert rows(job, "selection", "image_id", "label", "reason")[:6] == [
        ("m0", "lion", "kept"),
        ("m1", None, "labelled by a machine alone"),
        ("m2", "impala", "kept"),
        ("m3", None, "labelled by a machine alone"),
        ("m4", None, "labelled by a machine alone"),
        ("m5", None, "no annotation"),
    ]
