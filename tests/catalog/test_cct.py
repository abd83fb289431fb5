from __future__ import annotations

import gzip
import itertools
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from camtrap_batch.catalog import cct_columns
from camtrap_batch.catalog.cct import read_cct
from camtrap_batch.catalog.paths import location_finder
from camtrap_batch.errors import InputError
from camtrap_batch.job import Location
from camtrap_batch.store.schemas import CATALOG
from camtrap_batch.vocabulary import MISSING

CATEGORIES = [{"id": 0, "name": "empty"}, {"id": 1, "name": "lion"}, {"id": 2, "name": "lion"}]


def write(
    path: Path, images: list[dict[str, Any]], annotations: list[dict[str, Any]] = (), **more: Any
) -> str:  # type: ignore[assignment]
    path.write_text(
        json.dumps({"images": images, "annotations": list(annotations), "categories": CATEGORIES, **more})
    )
    return str(path)


def image(id_: Any, **more: Any) -> dict[str, Any]:
    return {"id": id_, "file_name": f"{id_}.jpg", **more}


def test_columns(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.json",
        [
            image(
                "b",
                location=402,
                seq_id=9,
                frame_num=1,
                seq_num_frames=2,
                datetime="2020-01-01 00:00:01",
                width=640,
                height=480,
            ),
            image(
                "a",
                location="402",
                seq_id="9",
                frame_num=0.0,
                datetime="2020-01-01T00:00:00+02:00",
                rights="x",
            ),
            image("c", location=402.0),
            image("d"),
        ],
        [
            {"id": 1, "image_id": "a", "category_id": 2, "count": 3, "bbox": [0, 0, 1, 1]},
            {"id": 2, "image_id": "a", "category_id": 0},
            {"id": 3, "image_id": "nowhere", "category_id": 1},
            {"id": 4, "image_id": "a", "category_id": 2, "count": 1},
            {"id": 5, "image_id": "d", "category_id": 7},
        ],
    )
    catalog = read_cct(path, utc_offset="+01:00")
    assert catalog.table.schema.equals(CATALOG)
    rows = catalog.table.to_pylist()
    assert [row["image_id"] for row in rows] == ["a", "b", "c", "d"]
    assert [row["location"] for row in rows] == ["402", "402", "402", None]
    assert [row["seq_id"] for row in rows] == ["9", "9", None, None]
    assert [row["frame_num"] for row in rows] == [0, 1, None, None]
    assert [row["utc_offset_minutes"] for row in rows] == [120, 60, 60, 60]
    assert [(row["width"], row["height"]) for row in rows] == [(None, None), (640, 480), *[(None, None)] * 2]
    assert rows[0]["labels"] == [
        {"category_id": 2, "name": "lion", "count": 4},
        {"category_id": 0, "name": "empty", "count": None},
    ]
    assert rows[3]["labels"] == [{"category_id": 7, "name": "category 7", "count": None}]
    assert rows[1]["labels"] == []
    assert catalog.categories == [(0, "empty"), (1, "lion"), (2, "lion"), (7, "category 7")]
    assert catalog.notes["annotations without an image, left out"] == 1
    assert catalog.notes["images without an annotation"] == 2


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (640, 640),
        (640.0, 640),
        ("640", 640),
        (0, None),
        (-1, None),
        (0.25, None),
        (2**40, None),
        (10**400, None),
        ("wide", None),
        ([640], None),
    ],
)
def test_a_width_that_is_none_is_not_known(tmp_path: Path, width: Any, expected: int | None) -> None:
    """Nothing but a check hangs on it, so that no file is refused for it."""
    path = write(tmp_path / "a.json", [image("a", width=width, height=480), image("b", width=320)])
    assert read_cct(path).table["width"].to_pylist() == [expected, 320]


def test_zip_and_gzip(tmp_path: Path) -> None:
    plain = Path(write(tmp_path / "a.json", [image("a")]))
    with zipfile.ZipFile(tmp_path / "a.json.zip", "w") as archive:
        archive.write(plain, "inside.json")
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(plain.read_bytes()))
    expected = read_cct(str(plain)).table
    assert read_cct(str(tmp_path / "a.json.zip")).table.equals(expected)
    assert read_cct(str(tmp_path / "a.json.gz")).table.equals(expected)


def test_quirks_are_noted(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.json",
        [
            image("a", corrupt=True, datetime="unknown"),
            image("b", datetime=None),
            {"id": "c", "file_name": "CAM1\\c.jpg"},
            {"id": "d", "file_name": "a.jpg"},
            image("a", corrupt=True, datetime="unknown"),
        ],
    )
    catalog = read_cct(path)
    assert catalog.table.num_rows == 4
    assert "CAM1/c.jpg" in catalog.table["file_name"].to_pylist()
    for text in (
        "flagged corrupt",
        "'unknown', taken as no date",
        "backslashes",
        "another image id",
        "listed twice",
    ):
        assert any(text in note for note in catalog.notes), text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"images": [', "Input data was truncated"),
        ('{"images": [}', "invalid character"),
        ('{"images": []}', "missing required field `annotations`"),
        (
            '{"images": [{"id": "a", "file_name": 3}], "annotations": [], "categories": []}',
            r"\$.images\[0\].file_name",
        ),
        ("[]", "Expected `object`"),
        ('{"images": [], "annotations": [], "categories": []}', "lists no image"),
        ('{"info": ' + "[" * 100_000, "not JSON, or cut off"),
        (
            '{"images": [{"id": 1, "file_name": "a", "frame_num": 3e10}], "annotations": [],'
            ' "categories": []}',
            r"< 2147483648.*\$.images\[0\].frame_num",
        ),
        (
            '{"images": [{"id": 1, "file_name": "a"}], "categories": [],'
            ' "annotations": [{"image_id": 1, "category_id": 3000000000}]}',
            r"<= 2147483647.*\$.annotations\[0\].category_id",
        ),
        (
            '{"images": [{"id": 1, "file_name": "a"}], "annotations": [],'
            ' "categories": [{"id": 7, "name": "lion"}, {"id": 7, "name": "puma"}]}',
            "category id 7 stands for 'lion' and 'puma'",
        ),
    ],
)
def test_malformed_metadata(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        read_cct(str(path))
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_missing_and_wrong_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_cct(str(tmp_path / "a.json"))
    (tmp_path / "a.zip").write_bytes(b"PK no")
    with pytest.raises(InputError, match="not a zip file"):
        read_cct(str(tmp_path / "a.zip"))
    whole = gzip.compress(b"[" * 1000)
    (tmp_path / "a.json.gz").write_bytes(whole[:-10])
    with pytest.raises(InputError, match="damaged gzip file"):
        read_cct(str(tmp_path / "a.json.gz"))
    (tmp_path / "b.json.gz").write_bytes(whole[:10] + b"\xff\xff\xff" + whole[13:])
    with pytest.raises(InputError, match="damaged gzip file"):
        read_cct(str(tmp_path / "b.json.gz"))


def test_zip_files_that_cannot_be_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.json", "[" * 1000)
    whole = path.read_bytes()
    directory = whole.rfind(b"PK\x01\x02")
    for at, byte, message in (
        (len(b"PK\x01\x02") + 4, 1, "encrypted"),  # general purpose flags
        (len(b"PK\x01\x02") + 6, 97, "compression method is not supported"),
    ):
        changed = bytearray(whole)
        changed[directory + at] = changed[at - 2] = byte
        path.write_bytes(changed)
        with pytest.raises(InputError, match=message):
            read_cct(str(path))
    path.write_bytes(whole[:36] + b"\xff\xff\xff" + whole[39:])
    with pytest.raises(InputError, match="damaged zip file"):
        read_cct(str(path))


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", [image("a")])
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf" + (tmp_path / "a.json").read_bytes())
    assert read_cct(path).table["image_id"].to_pylist() == ["a"]


def test_malformed_date_is_named_with_the_forms(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.json", [image("a", datetime="last week"), image("b", datetime="2020-13-01 00:00:00")]
    )
    with pytest.raises(
        InputError, match=r"image 'a': datetime 'last week' .* and 1 more .* possible: 2022-12-31"
    ):
        read_cct(path)


def test_one_id_for_two_images_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", [image("a"), {"id": "a", "file_name": "other.jpg"}])
    with pytest.raises(InputError, match=r"image id 'a' stands for the files 'a.jpg' and 'other.jpg'"):
        read_cct(path)


ids = st.one_of(st.integers(0, 30), st.text("ab", min_size=1, max_size=3))
images = st.lists(
    st.fixed_dictionaries(
        {"id": ids, "file_name": st.just("x.jpg")},
        optional={
            "location": st.one_of(st.none(), st.integers(0, 3), st.sampled_from(["a", "b", ""])),
            "datetime": st.sampled_from(
                [None, "2020-01-01 00:00:00", "2020:01:02 00:00:00", "0000-00-00 00:00:00"]
            ),
            "seq_id": st.one_of(st.none(), st.integers(0, 2)),
            "frame_num": st.one_of(st.none(), st.integers(0, 3)),
            "corrupt": st.booleans(),
        },
    ),
    unique_by=lambda entry: str(entry["id"]),
    min_size=1,
    max_size=30,
)
annotations = st.lists(
    st.fixed_dictionaries({"image_id": ids, "category_id": st.integers(0, 4)}), max_size=30
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(images, annotations)
def test_every_image_is_one_row_with_its_annotations(
    tmp_path: Path, images: list[dict[str, Any]], annotations: list[dict[str, Any]]
) -> None:
    table = read_cct(write(tmp_path / "a.json", images, annotations)).table
    expected: dict[str, set[int]] = {str(entry["id"]): set() for entry in images}
    for mark in annotations:
        if str(mark["image_id"]) in expected:
            expected[str(mark["image_id"])].add(mark["category_id"])
    found = {row["image_id"]: {label["category_id"] for label in row["labels"]} for row in table.to_pylist()}
    assert found == expected
    assert table.num_rows == len(images)
    reversed_table = read_cct(write(tmp_path / "b.json", images[::-1], annotations)).table
    assert reversed_table["image_id"].equals(table["image_id"]), (
        "the order of rows depends on the file's order"
    )


def test_real_photos(real_images: Path) -> None:
    table = read_cct(str(real_images / "cct.json")).table
    files = [path for path in real_images.rglob("*") if path.suffix.lower() == ".jpg"]
    assert table.num_rows == len(files)
    heron = [row for row in table.to_pylist() if row["labels"][0]["name"] == "heron"]
    assert len(heron) == len(list((real_images / "tdwg-camtrap-dp").iterdir())) > 1
    assert len({row["seq_id"] for row in heron}) == 1


def test_ids_and_texts_of_mixed_kinds(tmp_path: Path) -> None:
    """Numbers and texts are the same to ids and names, however they come together in a file."""
    padded = [" 4 ", "4", "\u00a04", "", " ", "caf\u00e9"]
    path = write(
        tmp_path / "a.json",
        [image(str(n), location=value, seq_id=value) for n, value in enumerate(padded)],
        [{"image_id": 0, "category_id": 1}, {"image_id": "1", "category_id": 1}],
    )
    table = read_cct(path).table.sort_by("image_id")
    assert table["location"].to_pylist() == ["4", "4", "4", None, None, "caf\u00e9"]
    assert [len(labels) for labels in table["labels"].to_pylist()] == [1, 1, 0, 0, 0, 0]
    mixed = [7, "7", 7.0, 7.5, None, -0.0]
    path = write(
        tmp_path / "b.json",
        [image(n, location=value, seq_id=value, frame_num=value) for n, value in enumerate(mixed) if n != 1],
        [{"image_id": "0", "category_id": 1, "count": 1.5}, {"image_id": 2, "category_id": 1, "count": -0.5}],
    )
    table = read_cct(path).table.sort_by("image_id")
    assert table["location"].to_pylist() == ["7", "7", "7.5", None, "0"]
    assert table["seq_id"].to_pylist() == table["location"].to_pylist()
    assert table["frame_num"].to_pylist() == [7, 7, 7, None, 0]
    assert [labels[0]["count"] if labels else "" for labels in table["labels"].to_pylist()] == [
        1,
        None,
        "",
        "",
        "",
    ]


def test_a_double_id_has_its_annotations_once(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.json",
        [image("a"), image("b"), image("a"), image("c")],
        [{"image_id": "a", "category_id": 1}, {"image_id": "c", "category_id": 0}],
    )
    catalog = read_cct(path)
    assert [[label["category_id"] for label in labels] for labels in catalog.table["labels"].to_pylist()] == [
        [1],
        [],
        [0],
    ]
    assert catalog.notes["images listed twice, the same each time"] == 1
    assert catalog.notes["images without an annotation"] == 2


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(images, annotations, st.integers(1, 5))
def test_ids_of_one_hash_are_told_apart(
    tmp_path: Path, images: list[dict[str, Any]], annotations: list[dict[str, Any]], hashes: int
) -> None:
    path = write(tmp_path / "a.json", images, annotations)
    expected = read_cct(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "camtrap_batch.catalog.cct._hashes",
            lambda *columns: np.concatenate([pc.binary_length(ids) for ids in columns]) % hashes,
        )
        found = read_cct(path)
    assert found.table.equals(expected.table)
    assert found.notes == expected.notes


def many(n_images: int, n_annotations: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    images = [
        image(f"a{n}", location=n, width=n, seq_id=None if n % 3 else f"s{n}", corrupt=n % 5 == 0)
        for n in range(n_images)
    ]
    return images, [{"image_id": f"a{n}", "category_id": n % 2, "count": n} for n in range(n_annotations)]


def is_whole(found: cct_columns.Columns, data: bytes) -> bool:
    whole = cct_columns._whole(data)
    return all(
        getattr(found, name).equals(getattr(whole, name)) for name in ("images", "annotations", "categories")
    )


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cct_columns, "PIECE_BYTES", 300)


@pytest.mark.parametrize(
    "order", [*itertools.permutations(["images", "annotations", "categories"]), ("info", "images", "more")]
)
@pytest.mark.usefixtures("small_pieces")
def test_pieces_are_the_whole(order: tuple[str, ...]) -> None:
    images, annotations = many(40, 50)
    content = {"images": images, "annotations": annotations, "categories": CATEGORIES}
    content |= {"info": {"a": [{"b": 1}, {"b": 2}]}, "more": [{"id": n} for n in range(5)]}
    data = json.dumps({name: content[name] for name in dict.fromkeys([*order, *content])}, indent=1).encode()
    pieces = list(cct_columns._pieces(data))
    assert len(pieces) > 3
    assert is_whole(cct_columns._join(list(map(cct_columns._columns, pieces))), data)


@pytest.mark.usefixtures("small_pieces")
@given(
    images=st.lists(st.integers(0, 9), max_size=60),
    annotations=st.lists(st.integers(0, 9), max_size=60),
    padding=st.text(alphabet='}{, "\\[]', max_size=40),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
def test_what_looks_like_a_cut_is_none(images: list[int], annotations: list[int], padding: str) -> None:
    """Ends of objects in texts and in objects, as many as there are pieces."""
    content = {
        "images": [image(n, note=padding, boxes=[{"x": n}] * n) for n in images],
        "annotations": [{"image_id": n, "category_id": 1, "boxes": [[{}, {}]] * n} for n in annotations],
        "categories": CATEGORIES,
    }
    data = json.dumps(content).encode()
    assert is_whole(cct_columns.read_columns(data, Path("a.json")), data)


@pytest.mark.usefixtures("small_pieces")
def test_two_processes_read_what_one_does(tmp_path: Path) -> None:
    path = Path(write(tmp_path / "a.json", *many(60, 20)))
    data = path.read_bytes()
    assert is_whole(cct_columns._join(cct_columns._read_by_two(data, path)), data)


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("wrong", ["first part", "second part", "cut among annotations", "other process"])
def test_what_two_processes_cannot_read_is_said_of_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    images, annotations = many(60, 400 if wrong == "cut among annotations" else 20)
    is_wrong = wrong.endswith("part")
    if is_wrong:
        images[3 if wrong == "first part" else -3]["datetime"] = 7
    path = write(tmp_path / "a.json", images, annotations)
    monkeypatch.setattr(cct_columns, "FOR_TWO_BYTES", 0)
    if wrong == "other process":
        monkeypatch.setattr("camtrap_batch.catalog.cct_columns.sys.executable", "/bin/false")
    if is_wrong:
        with pytest.raises(InputError, match=r"not COCO Camera Traps: .*images\[\d+\]\.datetime"):
            read_cct(path)
    else:
        assert read_cct(path).table.num_rows == 60


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("url", ["{}", "file://{}", "simplecache::file://{}"])
def test_two_processes_by_any_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    path = write(tmp_path / "a.json", *many(60, 20))
    expected = read_cct(path)
    monkeypatch.setattr(cct_columns, "FOR_TWO_BYTES", 0)
    assert read_cct(url.format(path)).table.equals(expected.table)


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("name", ["images", "annotations", "categories"])
def test_a_list_that_no_piece_has_is_missing(tmp_path: Path, name: str) -> None:
    images, annotations = many(40, 50)
    content = {"images": images, "annotations": annotations, "categories": CATEGORIES}
    del content[name]
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=f"missing required field `{name}`"):
        read_cct(str(path))


def test_a_zip_file_by_another_name(tmp_path: Path) -> None:
    plain = Path(write(tmp_path / "a.json", [image("a")]))
    with zipfile.ZipFile(tmp_path / "b.json", "w") as archive:
        archive.write(plain, "a.json")
    assert read_cct(str(tmp_path / "b.json")).table.equals(read_cct(str(plain)).table)


def test_counts_that_are_none_are_said(tmp_path: Path) -> None:
    images = [{"id": name, "file_name": f"{name}.jpg"} for name in "abc"]
    marks = [
        {"image_id": name, "category_id": 1, "count": count}
        for name, count in zip("abc", (2.5, -1, 3), strict=True)
    ]
    catalog = read_cct(write(tmp_path / "a.json", images, marks))
    assert [row["labels"][0]["count"] for row in catalog.table.to_pylist()] == [2, None, 3]
    assert catalog.notes["annotations whose count is not a whole number, rounded down: 2.5 of image 'a'"] == 1
    assert catalog.notes["annotations whose count is below 0, taken as not counted: -1 of image 'b'"] == 1


def test_json_with_nan_is_named_as_such(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"images": [],\n "annotations": [{"image_id": "a", "category_id": 1, "count": NaN}]}')
    with pytest.raises(InputError, match=r"a.json: not JSON.*: line 2 has NaN, which JSON does not have"):
        read_cct(str(path))


@pytest.mark.parametrize("word", ["NA", "None", "undefined", "True"])
def test_values_of_other_languages_are_named_as_such(tmp_path: Path, word: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(f'{{"images": [\n{{"id": "a", "file_name": "a", "location": {word}}}]}}')
    right = "true" if word == "True" else "null"
    with pytest.raises(
        InputError, match=rf"line 2 has {word}, which JSON does not have; it should be {right}"
    ):
        read_cct(str(path))


@pytest.mark.parametrize("word", sorted(MISSING))
def test_words_for_no_value_are_none(tmp_path: Path, word: str) -> None:
    assert MISSING == cct_columns.MISSING
    images = [{"id": "a", "file_name": "a.jpg", **dict.fromkeys(("location", "seq_id", "datetime"), word)}]
    images[0] |= {"frame_num": word, "seq_num_frames": "2", "width": word, "height": word}
    marks = [{"image_id": "a", "category_id": n, "count": count} for n, count in ((1, word), (2, "3"))]
    (row,) = read_cct(write(tmp_path / "a.json", images, marks)).table.to_pylist()
    for name in ("location", "seq_id", "datetime", "frame_num", "width", "height"):
        assert row[name] is None, name
    assert row["seq_num_frames"] == 2
    assert [label["count"] for label in row["labels"]] == [None, 3]


def test_a_count_that_is_a_word_is_refused(tmp_path: Path) -> None:
    marks = [{"image_id": "a", "category_id": 1, "count": "two"}]
    path = write(tmp_path / "a.json", [{"id": "a", "file_name": "a"}], marks)
    with pytest.raises(InputError, match=r"not COCO Camera Traps: count: 'two' should be a number"):
        read_cct(path)


def test_utf_16(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    text = Path(write(tmp_path / "b.json", [{"id": "é", "file_name": "a"}], [])).read_text()
    path.write_bytes(text.encode("utf-16"))
    assert read_cct(str(path)).table["image_id"].to_pylist() == ["é"]


def test_location_from_the_path_where_the_file_has_none(tmp_path: Path) -> None:
    images = [{"id": "a", "file_name": "C1/a.jpg"}, {"id": "b", "file_name": "C2/b.jpg", "location": 7}]
    path = write(tmp_path / "a.json", images, [])
    table = read_cct(path, lambda name: name[:2]).table
    assert dict(zip(*(table[name].to_pylist() for name in ("image_id", "location")), strict=True)) == {
        "a": "C1",
        "b": "7",
    }


def test_locations_of_paths_as_people_write_them(tmp_path: Path) -> None:
    """An absolute path, and one with backslashes, had no camera."""
    names = [f"{tmp_path}/photos/CAM1/a.jpg", "CAM2\\b.jpg", "./CAM3//c.jpg", "../CAM4/d.jpg"]
    images = [{"id": str(at), "file_name": name} for at, name in enumerate(names)]
    path = write(tmp_path / "a.json", images)
    catalog = read_cct(path, location_finder(Location(level=0)), root=f"{tmp_path}/photos")
    ids, locations = (catalog.table[name].to_pylist() for name in ("image_id", "location"))
    assert dict(zip(ids, locations, strict=True)) == {"0": "CAM1", "1": "CAM2", "2": "CAM3", "3": None}
