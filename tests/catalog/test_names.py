"""File names as metadata, zips and disks have them."""

from __future__ import annotations

import os
import unicodedata
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml

from camtrap_batch import open_run
from camtrap_batch.catalog import as_photos_have_it, reader_of
from camtrap_batch.catalog.folder import FolderDataset
from camtrap_batch.catalog.names import as_files_have_it, outside_of_root, tidy_names, unmatched
from camtrap_batch.catalog.paths import location_finder
from camtrap_batch.cli import main
from camtrap_batch.images import ImageRoot
from camtrap_batch.job import Location


def test_ways_of_writing_a_path_are_one() -> None:
    notes: Counter[str] = Counter()
    written = ["./a.jpg", "a//b.jpg", "/root/c/d.jpg", "x\\y.jpg", "e/./f.jpg", ".../g.jpg", "h.jpg"]
    names = tidy_names(pa.array(written), notes, "/root").to_pylist()
    assert names == ["a.jpg", "a/b.jpg", "c/d.jpg", "x/y.jpg", "e/f.jpg", ".../g.jpg", "h.jpg"]
    assert notes == {"file names with backslashes, read as /": 1}


def test_case_and_accents_as_the_one_file_has_them(tmp_path: Path) -> None:
    nfd = unicodedata.normalize("NFD", "Süd")
    for name in (f"{nfd}/a.jpg", "CAM1/IMG.JPG", "two/a.jpg", "two/A.jpg", "same/x.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    notes: Counter[str] = Counter()
    given = ["Süd/a.jpg", "cam1/img.jpg", "Two/a.jpg", "same/x.jpg", "nowhere.jpg"]
    names = as_files_have_it(pa.chunked_array([given]), ImageRoot(str(tmp_path)), notes).to_pylist()
    # Of two files that differ only so, none is taken.
    assert names == [f"{nfd}/a.jpg", "CAM1/IMG.JPG", "Two/a.jpg", "same/x.jpg", "nowhere.jpg"]
    assert list(notes.values()) == [2]
    right = pa.chunked_array([["same/x.jpg"]])
    assert as_files_have_it(right, ImageRoot(str(tmp_path)), notes) is right


def test_names_without_a_folder_are_the_only_file_of_that_name(tmp_path: Path) -> None:
    for name in ("cam1/a.jpg", "cam1/DCIM/B.JPG", "cam2/c.jpg", "cam1/c.jpg", "cam2/d.jpg", "cam2/e.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    notes: Counter[str] = Counter()
    given = ["a.jpg", "b.jpg", "c.jpg", "c.JPG", "d.jpg", "e.jpg", "cam2/e.jpg", "x.jpg"]
    locations: list[str | None] = ["cam1", None, None, "CAM2", "cam1", None, None, None]
    names = as_files_have_it(
        pa.chunked_array([given]), ImageRoot(str(tmp_path)), notes, pa.chunked_array([locations])
    ).to_pylist()
    # c.jpg is in two folders; d.jpg is not in that of its camera; e.jpg has a row under its own name.
    assert names == ["cam1/a.jpg", "cam1/DCIM/B.JPG", "c.jpg", "cam2/c.jpg", *given[4:]]
    assert sorted(notes.values()) == [1, 3]
    assert any("'cam1/c.jpg' and 'cam2/c.jpg' for 'c.jpg': give their folders" in note for note in notes)


def test_a_location_is_that_of_the_path_that_the_file_has(tmp_path: Path) -> None:
    """Not that of the name as it was given; except for the encoding of accents."""
    nfd = unicodedata.normalize("NFD", "Süd")
    for name in ("cam1/IMG.JPG", "cam2/deep/B.JPG", f"{nfd}/c.jpg"):
        (tmp_path / "images" / name).parent.mkdir(parents=True)
        (tmp_path / "images" / name).write_bytes(b"x")
    (tmp_path / "m.csv").write_text("file;label\nCAM1/img.jpg;fox\nb.jpg;fox\nSüd/c.jpg;fox\n")
    dataset = {"format": "csv", "metadata": "m.csv", "images": "images", "location": {"level": 0}}
    job = {"name": "x", "output": "run", "dataset": dataset}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    assert main(["catalog", str(tmp_path / "job.yaml"), "--quiet"]) == 0
    table = open_run(tmp_path / "job.yaml").table("catalog").to_table()
    assert table["location"].to_pylist() == ["Süd", "cam1", "cam2"]
    assert table["file_name"].to_pylist() == [f"{nfd}/c.jpg", "cam1/IMG.JPG", "cam2/deep/B.JPG"]


def test_of_a_large_root_the_folders_of_missing_files_alone_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (*(f"CAM{number}/b/{number}.jpg" for number in range(9)), "cam3/B/x.JPG"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    listed: list[str] = []

    def scandir(path: str) -> Any:
        listed.append(Path(path).relative_to(tmp_path).as_posix())
        return there(path)

    there = os.scandir
    given = pa.chunked_array(
        [["CAM1/b/1.jpg", "CAM3/b/X.jpg", "Cam7/b/7.jpg", "CAM7/b/gone.jpg", "no/1.jpg"]]
    )
    root, notes = ImageRoot(str(tmp_path)), Counter[str]()
    with monkeypatch.context() as patch:
        patch.setattr("camtrap_batch.images.sources.disk.os.scandir", scandir)
        patch.setattr(type(root._source), "walk", lambda self: pytest.fail("walks the whole root"))
        names = as_files_have_it(given, root, notes).to_pylist()
    assert names == ["CAM1/b/1.jpg", "cam3/B/x.JPG", "CAM7/b/7.jpg", "CAM7/b/gone.jpg", "no/1.jpg"]
    others = {f"CAM{number}" for number in (0, 2, 4, 5, 6, 8)}
    assert others.isdisjoint(folder.split("/")[0] for folder in listed)


def test_a_zip_made_by_powershell(tmp_path: Path) -> None:
    path = tmp_path / "photos.zip"
    with zipfile.ZipFile(path, "w") as archive:
        info = zipfile.ZipInfo("x")
        info.filename = "card\\cam1\\IMG.JPG"
        archive.writestr(info, b"photo")
    dataset = FolderDataset(format="folder", images=str(path), location=Location(level=1))
    (row,) = reader_of(dataset).read().table.to_pylist()
    assert (row["file_name"], row["location"]) == ("card/cam1/IMG.JPG", "cam1")
    assert ImageRoot(str(path)).read("card/cam1/IMG.JPG") == b"photo"


def test_folders_of_systems_are_no_cameras(tmp_path: Path) -> None:
    ours = ("@eaDir", "$RECYCLE.BIN", "$Recycle.Bin", ".Trashes", "lost+found", "LOST.DIR", "__MACOSX")
    for name in ("CAM1", *ours, "System Volume Information"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.jpg").write_bytes(b"x")
    assert list(ImageRoot(str(tmp_path)).walk()) == ["CAM1/a.jpg"]


def test_a_name_that_is_not_utf_8_is_a_row(tmp_path: Path) -> None:
    try:
        (tmp_path / os.fsdecode(b"M\xfcnchen.jpg")).write_bytes(b"x")
    except OSError:
        pytest.skip("the file system takes no such name")
    (tmp_path / "a.jpg").write_bytes(b"x")
    catalog = reader_of(FolderDataset(format="folder", images=str(tmp_path))).read()
    assert set(catalog.table["file_name"].to_pylist()) == {"a.jpg", "M\ufffdnchen.jpg"}
    assert catalog.notes["file names that are not UTF-8 and can't be opened; convmv renames them"] == 1
    assert ImageRoot(str(tmp_path)).listing(["M\ufffdnchen.jpg"]).sizes.tolist() == [-1]


def test_a_path_that_no_disk_can_hold_is_a_row(tmp_path: Path) -> None:
    """Of a folder's name, or a whole path, that is too long; the others are found."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.jpg").write_bytes(b"x")
    names = ["a/1.jpg", f"{'x' * 300}/1.jpg", "/".join(["y" * 200] * 30), f"a/{'z' * 300}.jpg"]
    assert ImageRoot(str(tmp_path)).listing(names).sizes.tolist() == [1, -1, -1, -1]


def test_names_that_lead_out_of_the_root_are_told() -> None:
    def outside(*names: str) -> list[str] | None:
        return outside_of_root(pa.chunked_array([names], pa.string()))

    assert outside("a/1.jpg", "b..jpg", "cam: d.jpg") is None
    names = ["C:/a.jpg", "../a.jpg", "/a.jpg", "https://x/a.jpg", "~a.jpg"]
    assert outside("a/1.jpg", *names) == names


def test_excel_takes_the_zeros_of_a_name() -> None:
    assert unmatched(["007", "CAM 03"], ["7", "cam 3"], "cameras.csv").text == (
        "'007' (there is '7' in cameras.csv), 'CAM 03' (there is 'cam 3' in cameras.csv)"
    )


def test_names_that_another_list_does_not_have() -> None:
    found = unmatched(["CAM03", "Nord  1", "x"], ["cam03", "Nord 1", "CAM4"], "cameras.csv")
    assert found == ["CAM03", "Nord  1", "x"]
    assert (
        found.text
        == "'CAM03' (there is 'cam03' in cameras.csv), 'Nord  1' (there is 'Nord 1' in cameras.csv), 'x'"
    )


def test_camera_names_whose_accents_are_encoded_otherwise_are_those_of_the_photos() -> None:
    """A Mac names folders in NFD; a spreadsheet writes NFC."""
    table = pa.table({"location": ["Süd", "Nord", "Ost", None], "latitude": [1.0, 2.0, 3.0, 4.0]})
    photos = pa.chunked_array([["Su\u0308d", "nord", None, "Ost"]])
    assert as_photos_have_it(table, lambda: photos)["location"].to_pylist() == [
        "Su\u0308d",
        "Nord",
        "Ost",
        None,
    ]
    both = pa.chunked_array([["Su\u0308d", "Süd"]])  # two cameras, as far as anyone can tell
    assert as_photos_have_it(table, lambda: both).equals(table)
    none = table.slice(0, 0)
    assert as_photos_have_it(none, lambda: pytest.fail("nothing to look for")).equals(none)


def test_locations_of_folders_with_blanks_around_their_names() -> None:
    table = pa.table({"location": ["A", "B", "C"]})
    photos = pa.chunked_array([["A", "A ", " B", "C ", " C"]])
    assert as_photos_have_it(table, lambda: photos)["location"].to_pylist() == ["A", " B", "C"]


@pytest.mark.parametrize("name", ["../x.jpg", "/etc/passwd", "C:/x.jpg", "https://x.org/a.jpg"])
def test_a_name_outside_the_root_names_no_camera(name: str) -> None:
    assert location_finder(Location(level=0))(name) is None
    assert location_finder(None)(name) is None
