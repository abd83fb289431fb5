from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from camtrap_batch.detection.results import match_detections, read_detections
from camtrap_batch.errors import InputError

ANIMAL = {"category": "1", "conf": 0.9, "bbox": [0.1, 0.2, 0.3, 0.4]}
CATEGORIES = {"1": "animal", "2": "person", "3": "vehicle"}


def write(path: Path, images: list[dict[str, Any]], version: Any = "1.5", **more: Any) -> str:
    content = {"info": {"format_version": version}, "detection_categories": CATEGORIES, "images": images}
    path.write_text(json.dumps({**content, **more}))
    return str(path)


@pytest.mark.parametrize("version", ["1.0", "1.1", "1.2", "1.3", 1.4, "1.5", "1.6"])
def test_boxes_of_each_image(tmp_path: Path, version: str | float) -> None:
    images = [
        {"file": "b\\c.jpg", "detections": [ANIMAL, {**ANIMAL, "category": "3", "conf": 1}]},
        {"file": "./a.jpg", "detections": [], "classifications": [["0", 0.4]], "datetime": "2020"},
        {"file": "d.jpg", "failure": "image access failure", "detections": None},
        {"file": "e.jpg", "failure": "image access failure"},
    ]
    found = read_detections(write(tmp_path / "md.json", images, version))
    assert found.categories == ("animal", "person", "vehicle")
    assert found.images["file_name"].to_pylist() == ["b/c.jpg", "a.jpg", "d.jpg", "e.jpg"]
    boxes = found.images["boxes"].to_pylist()
    assert [box["category"] for box in boxes[0]] == [0, 2]
    assert boxes[0][0] == pytest.approx(
        {"x": 0.1, "y": 0.2, "w": 0.3, "h": 0.4, "confidence": 0.9, "category": 0}
    )
    assert boxes[1:] == [[], None, None]


def test_packed(tmp_path: Path) -> None:
    plain = Path(write(tmp_path / "md.json", [{"file": "a.jpg", "detections": [ANIMAL]}]))
    packed = tmp_path / "md.json.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert read_detections(str(packed)).images == read_detections(str(plain)).images


def test_no_images(tmp_path: Path) -> None:
    assert read_detections(write(tmp_path / "md.json", [])).images.num_rows == 0


def test_a_box_that_reaches_out_a_little_is_cut_off(tmp_path: Path) -> None:
    box = {**ANIMAL, "bbox": [-0.01, 0.5, 0.5, 0.51]}
    found = read_detections(write(tmp_path / "md.json", [{"file": "a.jpg", "detections": [box]}]))
    values = found.images["boxes"].to_pylist()[0][0]
    assert [values[name] for name in "xywh"] == pytest.approx([0, 0.5, 0.49, 0.5])


def test_an_entry_twice(tmp_path: Path) -> None:
    images = [
        {"file": "a.jpg", "detections": [ANIMAL]},
        {"file": "b.jpg", "detections": []},
        {"file": "a.jpg", "detections": []},
    ]
    found = read_detections(write(tmp_path / "md.json", images))
    assert found.n_repeated == 1
    assert [len(boxes) for boxes in found.images["boxes"].to_pylist()] == [1, 0]


@pytest.mark.parametrize(
    ("images", "more", "message"),
    [
        (
            [{"file": "a.jpg", "detections": [{**ANIMAL, "bbox": [10, 20, 300, 400]}]}],
            {},
            "parts of the image",
        ),
        ([{"file": "a.jpg", "detections": [{**ANIMAL, "conf": 90.0}]}], {}, "'a.jpg': bbox"),
        (
            [{"file": "a.jpg", "detections": [{**ANIMAL, "bbox": [0.1, 0.2, 0.3]}]}],
            {},
            r"not MegaDetector .*bbox",
        ),
        ([{"file_name": "a.jpg"}], {}, r"not MegaDetector results: images\[0\]: .*`file`"),
        ([], {"version": "2.0"}, "format_version '2.0' can't be read; possible: 1.0 to 1.6"),
        ([], {"detection_categories": None}, "not MegaDetector results"),
    ],
)
def test_what_is_wrong_is_said(
    tmp_path: Path, images: list[dict[str, Any]], more: dict[str, Any], message: str
) -> None:
    path = write(tmp_path / "md.json", images, **more)
    with pytest.raises(InputError, match=message) as problem:
        read_detections(path)
    assert "md.json (infer.detections)" in str(problem.value)


def test_a_list_is_none(tmp_path: Path) -> None:
    """As other programs of that name write it, with corners in pixels."""
    box = {"category": "animal", "confidence": 0.93, "bbox": [102.4, 88.1, 540.7, 470.2]}
    (tmp_path / "md.json").write_text(json.dumps([{"file": "a.jpg", "detections": [box]}]))
    with pytest.raises(InputError, match="not MegaDetector results: a list; should be an object with info"):
        read_detections(str(tmp_path / "md.json"))


def test_not_json_as_python_writes_it(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"images": [{"file": "a.jpg",\n"detections": NaN}]}')
    with pytest.raises(InputError, match="line 2 has NaN, which JSON does not have; it should be null"):
        read_detections(str(tmp_path / "a.json"))


def test_not_json_or_not_there(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"images": [')
    with pytest.raises(InputError, match="not JSON, or cut off"):
        read_detections(str(tmp_path / "a.json"))
    with pytest.raises(InputError, match=r"no such file \(infer\.detections\)"):
        read_detections(str(tmp_path / "b.json"))


def test_matched_by_file_name(tmp_path: Path) -> None:
    path = write(
        tmp_path / "md.json",
        [{"file": "a/1.jpg", "detections": [ANIMAL]}, {"file": "a/2.jpg", "detections": []}],
    )
    names = pa.chunked_array([["a/3.jpg", "a/2.jpg"], ["a/1.jpg", "a/1.jpg"]])
    lists = match_detections(read_detections(path), names, path).to_pylist()
    assert [boxes if boxes is None else len(boxes) for boxes in lists] == [None, 0, 1, 1]


def test_results_of_other_images(tmp_path: Path) -> None:
    path = write(tmp_path / "md.json", [{"file": "/data/a/1.jpg", "detections": []}])
    names = pa.chunked_array([["a/1.jpg"]])
    with pytest.raises(
        InputError, match=r"of other images: none of its 1 files .*'a/1\.jpg'.*'/data/a/1\.jpg'"
    ):
        match_detections(read_detections(path), names, path)


def test_of_the_real_photos(real_images: Path) -> None:
    path = str(real_images / "detections.json")
    names = [row["file_name"] for row in json.loads((real_images / "cct.json").read_text())["images"]]
    lists = match_detections(read_detections(path), pa.chunked_array([names]), path)
    assert sum(len(boxes) for boxes in lists.to_pylist() if boxes) > 0
