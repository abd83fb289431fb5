"""People in pictures are made unrecognisable for good, or left out."""

from __future__ import annotations

import datetime as dt
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support_runs import commit, predict, run_on_driver, write_run

from camtrap_batch import open_run
from camtrap_batch.detection.people import WHOLE, People, blur, find_people
from camtrap_batch.images.pixels import Pixels
from camtrap_batch.store.corrections import Correction, record

BOX = (0.25, 0.25, 0.25, 0.5)


def jpeg(pixels: Pixels) -> bytes:
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x010E] = "Jane Doe walks by"
    Image.fromarray(pixels).save(file, "JPEG", quality=95, exif=exif)
    return file.getvalue()


def read(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("L")).astype(int)


def figure(inverted: bool) -> Pixels:
    """Grey, with a fine pattern where the box is: two of one mean, each the other's negative."""
    pixels = np.full((240, 320, 3), 128, np.uint8)
    rows, columns = np.indices((120, 80))
    pattern = ((rows // 2 + columns // 2) % 2 == inverted).astype(np.uint8) * 200 + 28
    pixels[60:180, 80:160] = pattern[..., None]
    return pixels


def test_nothing_of_a_person_is_left() -> None:
    one, other = (read(blur(jpeg(figure(inverted)), [BOX])) for inverted in (False, True))
    before = read(jpeg(figure(False)))[60:180, 80:160]
    assert before.std() > 90
    inside = one[60:180, 80:160]
    assert inside.std() < 12, "the pattern is gone"
    assert np.abs(one - other).max() <= 4, "what was different there is the same: nobody can tell them apart"


def test_a_margin_is_blurred_and_the_rest_stays() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (240, 320), dtype=np.uint8)
    data = jpeg(np.repeat(noise[..., None], 3, axis=2))
    before, after = read(data), read(blur(data, [BOX]))
    assert after[62:178, 66:174].std() < 25 < before.std(), "a quarter of the box more on each side"
    assert np.abs(after[:, 200:] - before[:, 200:]).mean() < 12


def test_metadata_and_grey_pictures() -> None:
    data = blur(jpeg(figure(False)), [BOX])
    assert b"Jane Doe" not in data
    file = io.BytesIO()
    Image.fromarray(figure(False)[..., 0]).save(file, "PNG")
    assert Image.open(io.BytesIO(blur(file.getvalue(), [WHOLE]))).mode == "L"
    turned = Image.Exif()
    turned[0x0112] = 6
    file = io.BytesIO()
    Image.fromarray(figure(False)).save(file, "JPEG", exif=turned)
    assert Image.open(io.BytesIO(blur(file.getvalue(), [BOX]))).size == (240, 320), "boxes are of the upright"


def test_what_is_handed_out() -> None:
    data = jpeg(figure(False))
    boxes = {"a": [BOX]}
    assert People("blur", boxes).picture("a", data) not in (data, None)
    assert People("leave_out", boxes).picture("a", data) is None
    assert People("show", boxes).picture("a", data) == data
    assert People("blur", boxes).picture("b", data) == data
    assert People("blur", boxes).picture("a", b"no picture") is None, "what can't be blurred is not shown"


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    ids = ["lion", "weak", "weaker", "told", "guessed", "boxed", "car"]
    rows = [{"image_id": name, "truth": "Homo sapiens" if name == "told" else "lion"} for name in ids]
    path = write_run(tmp_path_factory.mktemp("people"), rows, categories=[[0, "empty"], [1, "lion"]])
    labels = {"guessed": "human", "boxed": "Person", "car": "vehicle"}
    predict(path, {name: {labels.get(name, "lion"): 0.9} for name in ids})
    place = {"x": 0.1, "y": 0.1, "w": 0.2, "h": 0.2}
    boxes = [
        {"image_id": "lion", **place, "category": "animal", "confidence": 0.9},
        {"image_id": "weak", **place, "category": "person", "confidence": 0.06},
        {"image_id": "weaker", **place, "category": "person", "confidence": 0.01},
        {"image_id": "guessed", **place, "category": "human", "confidence": 0.06},
        {"image_id": "boxed", **place, "category": "human", "confidence": 0.8},
        {"image_id": "car", **place, "category": "vehicle", "confidence": 0.8},
    ]
    commit(open_run(path), "detect", "detections", boxes, {})
    return path


def test_who_is_a_person(job: Path) -> None:
    run = open_run(job)
    people = find_people(run, ["lion", "weak", "weaker", "told", "guessed", "boxed", "car", "none"])
    assert people.shown == "blur", "unless the job says otherwise"
    box = [pytest.approx((0.1, 0.1, 0.2, 0.2))]
    assert {name: list(boxes) for name, boxes in people.boxes.items()} == {
        "weak": box,
        "boxed": box,
        "told": [WHOLE],  # the metadata say so, and there is no box
        "guessed": [WHOLE],  # the one box is too weak to be sure that it is the person's
    }


def test_what_people_said_counts_before_a_merge(tmp_path: Path) -> None:
    ids = ["walker", "lion", "both", "taken back"]
    rows = [{"image_id": name, "sha256": f"hash {name}", "seq_id": name, "location": "A"} for name in ids]
    path = write_run(tmp_path, rows)
    predict(path, {name: {"person" if name == "lion" else "lion": 0.9} for name in ids})
    run = open_run(path)
    when = dt.datetime(2024, 6, 1, tzinfo=dt.UTC)

    def say(name: str, label: str | None, hour: int = 0) -> None:
        one = Correction(label, (name,), (f"hash {name}",), "ada", when.replace(hour=hour), "test")
        record(run, [one])

    for name, label in (("walker", "person"), ("lion", "lion"), ("taken back", "person")):
        say(name, label)
    for label in ("lion", "person"):
        say("both", label)
    say("taken back", None, 1)
    assert set(find_people(run, ids).boxes) == {"walker", "both"}
    run_on_driver(path, "merge")
    assert set(find_people(run, ids).boxes) == {"walker", "both"}, "of several species, too"


def test_job_says_what_is_done(job: Path) -> None:
    run = open_run(job)

    def people(shown: str) -> People:
        section = run.job.report.model_copy(update={"people": shown})
        return find_people(type(run)(run.job.model_copy(update={"report": section})), ["weak"])

    assert people("leave_out").picture("weak", b"") is None
    assert not people("show").boxes
