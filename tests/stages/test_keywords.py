"""Labels of people from the keywords of their photos."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from support_keywords import photo, xmp
from support_runs import InlineJob

from camtrap_batch.errors import InputError, JobError
from camtrap_batch.images import ImageRoot

PHOTOS = {
    "A/1.jpg": photo(xmp(["Vulpes vulpes"], ["Species|Vulpes vulpes", "Count|2"]), shade=1),
    "A/2.jpg": photo(
        xmp(digikam=["Species/Mammals/vulpes vulpes", "Species/Mammals", "Place/North"]), shade=2
    ),
    "A/3.jpg": photo(xmp(lightroom=["Species|Meles meles", "Species|Vulpes vulpes", "Count|3"]), shade=3),
    "B/1.jpg": photo(xmp(lightroom=["species|Blank"]), shade=4),
    "B/2.jpg": photo(xmp(lightroom=["Place|South"]), shade=5),
    "B/3.jpg": photo(shade=6),
    "B/4.jpg": b"no photo at all",
}


class Made(InlineJob):
    def __init__(self, folder: Path, label: dict[str, Any], **sections: Any) -> None:
        for name, data in PHOTOS.items():
            (folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "images" / name).write_bytes(data)
        self.dataset = {"format": "folder", "images": "images", "location": {"level": 0}, "label": label}
        super().__init__(folder, dataset=self.dataset, **sections)

    def labels(self) -> dict[str, list[tuple[str, int | None]]]:
        rows = self.rows("catalog")
        return {row["file_name"]: [(each["name"], each["count"]) for each in row["labels"]] for row in rows}


def test_keywords_below_another(tmp_path: Path) -> None:
    job = Made(tmp_path, {"hierarchy": "Species", "count": "Count"})
    notes = job.do("catalog").notes
    assert job.labels() == {
        "A/1.jpg": [("Vulpes vulpes", 2)],
        "A/2.jpg": [("Vulpes vulpes", None)],
        "A/3.jpg": [("Meles meles", None), ("Vulpes vulpes", None)],
        "B/1.jpg": [("empty", None)],
        "B/2.jpg": [],
        "B/3.jpg": [],
        "B/4.jpg": [],
    }
    assert "3 images without an annotation" in notes
    assert "1 image whose keywords have a count and not one species: it is left out" in notes
    assert any("'vulpes vulpes'" in note and "several ways" in note for note in notes)
    snapshot = job.run.snapshot("catalog")
    assert snapshot.meta["categories"] == [[0, "empty"], [1, "Meles meles"], [2, "Vulpes vulpes"]]
    assert job.do("catalog").shards_run == 0


@pytest.mark.parametrize("keywords", [True, ["VULPES VULPES", "no such"]])
def test_keywords_that_stand_for_themselves(tmp_path: Path, keywords: Any) -> None:
    job = Made(tmp_path, {"keywords": keywords})
    job.do("catalog")
    assert {name: labels for name, labels in job.labels().items() if labels} == {
        "A/1.jpg": [("Vulpes vulpes", None)]
    }


@pytest.mark.parametrize("count", ["many", "99999999999999", "-1", "2.5", "٣"])
def test_a_count_that_is_none(tmp_path: Path, count: str) -> None:
    (tmp_path / "images" / "C").mkdir(parents=True)
    data = photo(xmp(lightroom=["Species|Lynx lynx", f"Count|{count}"]))
    (tmp_path / "images" / "C" / "1.jpg").write_bytes(data)
    job = Made(tmp_path, {"hierarchy": "Species", "count": "Count"})
    job.do("catalog")
    assert job.labels()["C/1.jpg"] == [("Lynx lynx", None)]


def test_what_was_tagged_meanwhile_is_asked_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A photo that was tagged again, and a .xmp file that a program left beside another."""
    job = Made(tmp_path, {"hierarchy": "Species"})
    monkeypatch.setattr("camtrap_batch.stages.catalog.keywords.AskKeywords.shard_size", 1)
    job.do("catalog")
    (tmp_path / "images" / "B" / "2.jpg").write_bytes(photo(xmp(lightroom=["Species|Sus scrofa"])))
    (tmp_path / "images" / "B" / "3.jpg.xmp").write_bytes(xmp(lightroom=["Species|Lynx lynx"]))
    (tmp_path / "images" / "B" / "4.xmp").write_bytes(xmp(lightroom=["Species|Lutra lutra"]))
    read, asked = ImageRoot.read, []

    def counted(root: ImageRoot, name: str, *rest: Any) -> bytes:
        asked.append(name)
        return read(root, name, *rest)

    monkeypatch.setattr(ImageRoot, "read", counted)
    job.do("catalog")
    assert sorted(asked) == ["B/2.jpg", "B/3.jpg", "B/3.jpg.xmp", "B/4.jpg", "B/4.xmp"]
    found = job.labels()
    assert [found[f"B/{n}.jpg"] for n in (2, 3, 4)] == [
        [("Sus scrofa", None)],
        [("Lynx lynx", None)],
        [("Lutra lutra", None)],
    ]


def test_a_hierarchy_that_no_photo_has(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"dataset\.label: hierarchy 'Specie': none of 7 images.*'Species\|"):
        Made(tmp_path, {"hierarchy": "Specie"}).do("catalog")


def test_a_dry_run_asks_nothing(tmp_path: Path) -> None:
    job = Made(tmp_path, {"hierarchy": "Species"}, select={"classes": ["Vulpes vulpes", "Meles meles"]})
    assert "7 files would be read (keywords)" in job.do("catalog", dry_run=True).notes
    assert not (tmp_path / "run").exists()


def test_classes_are_held_against_what_the_photos_say(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"select\.classes.*Lynx lynx"):
        Made(tmp_path, {"hierarchy": "Species"}, select={"classes": ["Lynx lynx", "Meles meles"]}).do(
            "catalog"
        )


def test_labels_in_a_table_and_in_photos(tmp_path: Path) -> None:
    job = Made(tmp_path, {"hierarchy": "Species"})
    (tmp_path / "images.csv").write_text("file_name,species\nA/1.jpg,fox\n")
    job.dataset |= {"format": "csv", "metadata": "images.csv"}
    job.file.write_text(yaml.safe_dump({"name": "run", "output": ".", "dataset": job.dataset}))
    with pytest.raises(InputError, match=r"images\.csv: has labels of its own: leave out dataset\.label"):
        job.do("catalog")
    (tmp_path / "images.csv").write_text("file_name\nA/1.jpg\nA/2.jpg\n")
    job.do("catalog")
    assert job.labels() == {"A/1.jpg": [("Vulpes vulpes", None)], "A/2.jpg": [("Vulpes vulpes", None)]}


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ({"keywords": True, "level": 1}, "give one of level, regex, keywords and hierarchy"),
        ({}, "give one of level, regex, keywords and hierarchy"),
        ({"keywords": True, "count": "Count"}, "count needs hierarchy"),
        ({"keywords": False}, "label"),
    ],
)
def test_what_a_job_file_may_say(tmp_path: Path, label: dict[str, Any], message: str) -> None:
    with pytest.raises(JobError, match=message):
        Made(tmp_path, label).do("catalog")
