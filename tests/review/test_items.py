"""What the review page is told: people are blurred until somebody asks, labels go by any of their names."""

from __future__ import annotations

import datetime as dt
import io
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from support_exports import image, write_run
from support_runs import commit

from camtrap_batch import open_run
from camtrap_batch.images import ImageRoot
from camtrap_batch.review import items as review_items
from camtrap_batch.review.items import Items, Wanted
from camtrap_batch.review.opening import Opening, Ordering
from camtrap_batch.review.server import Reviewing
from camtrap_batch.store.run import Run

TAXONOMY = """label,common_name,genus,family
lion,African lion,Panthera,Felidae
caracal,Desert lynx,Caracal,Felidae
"""


@pytest.fixture(scope="module")
def reviewing(tmp_path_factory: pytest.TempPathFactory) -> Reviewing:
    folder = tmp_path_factory.mktemp("items")
    (folder / "taxonomy.csv").write_text(TAXONOMY)
    rows = [
        image("plain", 0, "lion", seq_id="s0", sha256="h0"),
        image("walker", 7200, "lion", seq_id="s1", sha256="h1"),
        image("told", 14400, "human", seq_id="s2", sha256="h2"),
    ]
    run = write_run(folder, rows, events={"taxonomy": "taxonomy.csv"})
    noise = np.random.default_rng(0).integers(0, 255, (240, 320, 3), dtype=np.uint8)
    for row in rows:
        Image.fromarray(noise).save(folder / "images" / f"{row['image_id']}.jpg", quality=95)
    box = {"x": 0.0, "y": 0.0, "w": 0.5, "h": 1.0}
    found = [
        {"image_id": "plain", **box, "category": "animal", "confidence": 0.9},
        {"image_id": "walker", **box, "category": "person", "confidence": 0.07},
    ]
    commit(run, "detect", "detections", found, {})
    root = ImageRoot(str(folder / "images"))
    return Reviewing(open_run(folder / "job.yaml"), root, Ordering("useful"), Wanted(), who="mara")


def spread(data: bytes | None) -> tuple[float, float]:
    """How much the left and the right end of a photo vary."""
    assert data is not None
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("L")).astype(float)
    width = pixels.shape[1]
    return float(pixels[:, : width // 4].std()), float(pixels[:, -width // 8 :].std())


def test_people_are_shown_on_request(reviewing: Reviewing) -> None:
    items = reviewing.items
    ids = items.frames["image_id"].to_pylist()
    plain, walker, told = (int(items._of[ids.index(name)]) for name in ("plain", "walker", "told"))
    for large in (False, True):
        assert min(spread(reviewing.picture(plain, 0, large))) > 30
        left, right = spread(reviewing.picture(walker, 0, large))
        assert left < 15, "the box of a person, weak as it is"
        assert right > 30
        assert max(spread(reviewing.picture(told, 0, large))) < 15, "all of it: there is no box"
        assert min(spread(reviewing.picture(walker, 0, large, people=True))) > 30
    assert [frame["people"] for frame in reviewing.detail(walker)["frames"]] == [True]
    assert reviewing.picture(plain, 7, large=False) is None
    assert reviewing.picture(99, 0, large=False) is None


def test_labels_by_any_name(reviewing: Reviewing) -> None:
    items = reviewing.items
    assert {"lion", "caracal", "human"} <= set(items.labels), "what the taxonomy has can be said"
    assert items.person == "human", "as the model calls people"
    assert "person" not in items.labels
    assert items.other_names["lion"] == ["African lion", "Panthera", "Felidae"]
    assert items.other_names["caracal"][0] == "Desert lynx"


def test_boxes_and_likeliest_of_a_sequence(reviewing: Reviewing) -> None:
    items = reviewing.items
    ids = items.frames["image_id"].to_pylist()
    number = int(items._of[ids.index("plain")])
    (box,) = items.boxes(number)["plain"]
    assert (box["category"], box["w"]) == ("animal", 0.5)
    (label, p), *_ = items.likeliest(number)
    assert (label, round(p, 2)) == ("lion", 0.8)


def sequences_of_many(folder: Path) -> Run:
    """60 sequences of two images each at three cameras, with boxes."""
    rows = [
        image(
            f"i{number:03}",
            3600 * (number // 2) + number % 2,
            ("lion", "oryx", "empty")[number // 2 % 3],
            location="ABC"[number // 2 % 3],
            seq_id=f"s{number // 2:02}",
            sha256=f"h{number}",
        )
        for number in range(120)
    ]
    run = write_run(folder, rows)
    box = {"x": 0.1, "y": 0.2, "w": 0.3, "h": 0.4, "category": "animal", "confidence": 0.9}
    boxes = [
        {"image_id": row["image_id"], **box} for row in rows for _ in range(int(row["image_id"][1:]) % 3)
    ]
    commit(run, "detect", "detections", boxes, {})
    numbers = [{"image_id": row["image_id"], "n_boxes": int(row["image_id"][1:]) % 3} for row in rows]
    commit(run, "detect", "detected", numbers, {})
    return open_run(folder / "job.yaml")


def test_of_many_images_the_first_sequences_are_there_before_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = sequences_of_many(tmp_path)
    whole = Items(run)
    whole.decide([3], [{"label": "lion"}], "ada")
    go_on = threading.Event()
    read = Opening._read

    def read_later(opening: Opening) -> None:
        go_on.wait(60)
        read(opening)

    monkeypatch.setattr(Opening, "_read", read_later)
    monkeypatch.setattr("camtrap_batch.review.opening._AT_ONCE", 0)
    reviewing = Reviewing(
        run,
        ImageRoot(str(tmp_path / "images")),
        Ordering("useful"),
        Wanted(),
        who="mara",
    )
    first = reviewing.list("useful", Wanted(), 0, "")
    assert not reviewing.opening.is_whole
    numbers = [item["number"] for item in first["items"]]
    assert (len(numbers), first["total"], first["done"]) == (24, 60, 1)
    assert 3 not in numbers, "it was looked at"
    assert "lion" in reviewing.start()["labels"]
    for number in numbers[:5]:
        rows = whole.frames_of(number)
        names = whole.frames["file_name"].take(pa.array(rows)).to_pylist()
        shown = reviewing.detail(number)
        assert [frame["file_name"] for frame in shown["frames"]] == names
        assert [len(frame["boxes"]) for frame in shown["frames"]] == [row % 3 for row in rows.tolist()]
        expected = [{"label": label, "p": round(p, 4)} for label, p in whole.likeliest(number)]
        assert shown["likeliest"] == expected
        assert reviewing.describe(number)["n_images"] == 2
    reviewing.opening.of(numbers[0]).decide(numbers[:1], [{"label": "oryx"}], "mara")
    assert not reviewing.opening.is_whole, "decided before the rest was read"
    go_on.set()
    rest = reviewing.list("useful", Wanted(), 24, first["name"])
    assert reviewing.opening.is_whole
    found = [item["number"] for item in rest["items"]]
    assert sorted(numbers + found) == list(range(60)), "each of them once"
    assert found[-1] == 3, "what was looked at comes last"
    assert rest["done"] == 2
    assert reviewing.items.said[numbers[0]].labels == ({"label": "oryx"},)


def test_what_is_said_changes_what_comes_next(tmp_path: Path) -> None:
    """A camera's lions are borne out by the first page; the other lions of it are no news."""
    rows = [
        image(f"i{n:03}", 7200 * n, probs={"lion": 0.55, "empty": 0.45}, location="A", sha256=f"h{n}")
        for n in range(80)
    ]
    rows += [
        image(f"z{n}", 7200 * n, probs={"oryx": 0.6, "empty": 0.4}, location=f"B{n}", sha256=f"z{n}")
        for n in range(3)
    ]
    run = write_run(tmp_path, rows)
    reviewing = Reviewing(run, ImageRoot(str(tmp_path)), Ordering("useful"), Wanted(), who="mara")
    first = reviewing.list("useful", Wanted(), 0, "")
    shown = [item["number"] for item in first["items"]]
    reviewing.items.decide(shown[:1], [{"label": "oryx"}], "mara")
    before = reviewing._lists[first["name"]]
    reviewing.list("useful", Wanted(), 60, first["name"])
    after = reviewing._lists[first["name"]]
    assert before[:60].tolist() == after[:60].tolist(), "what was shown stays"
    assert sorted(before.tolist()) == sorted(after.tolist())


def test_a_label_is_written_as_somebody_wrote_it_first(reviewing: Reviewing) -> None:
    items = reviewing.items
    number = int(items._of[items.frames["image_id"].to_pylist().index("plain")])
    items.decide([number], [{"label": "Oryx  beisa"}], "ada")
    items.decide([number], [{"label": "oryx BEISA"}], "ben")
    assert items.said[number].labels == ({"label": "Oryx beisa"},)
    items.decide([number], [{"label": "LION"}, {"label": "Blank"}], "ben")
    assert [one["label"] for one in items.said[number].labels] == ["lion", items.empty]


def test_each_filter(tmp_path: Path) -> None:
    def one(name: str, days: int, label: str, p: float, **more: Any) -> dict[str, Any]:
        rest = {"other": (1 - p) / 2, "another": (1 - p) / 2}
        return image(
            name, 86400 * days, None, probs={label: p, **rest}, seq_id=name, sha256=f"h{name}", **more
        )

    rows = [
        one("a", 0, "lion", 0.9, is_night=True, truth="lion"),
        one("b", 1, "lion", 0.6, location="B", is_night=False, truth="oryx"),
        one("c", 2, "empty", 0.99, is_night=False),
        one("d", 3, "oryx", 0.4, location="B"),
    ]
    items = Items(write_run(tmp_path, rows))
    names = items.seq_id.to_pylist()
    items.decide([names.index("c")], [{"label": "empty"}], "ada")

    def of(**wanted: Any) -> str:
        found = items.select(Wanted(**wanted))
        return "".join(sorted(name for name, is_wanted in zip(names, found, strict=True) if is_wanted))

    day = dt.date(2021, 4, 11)
    assert of() == "abcd"
    assert of(label="lion") == "ab"
    assert of(camera="B") == "bd"
    assert (of(least=0.8), of(most=0.65)) == ("ac", "bd")
    assert of(first=day + dt.timedelta(1), last=day + dt.timedelta(2)) == "bc"
    assert (of(is_night=True), of(is_night=False)) == ("a", "bcd")
    assert of(state="uncertain") == "d"
    assert of(state="disagree") == "b", "of the others nothing is known, or it agrees"
    assert (of(state="open"), of(state="done")) == ("abd", "c")
    assert (of(text="LIO"), of(text="b")) == ("ab", "bd")
    assert of(label="lion", camera="B", least=0.5) == "b"


def test_where_people_disagree(tmp_path: Path) -> None:
    rows = [image(f"i{n}", 7200 * n, seq_id=f"s{n}", sha256=f"h{n}") for n in range(4)]
    items = Items(write_run(tmp_path, rows))
    items.decide([0, 1, 2], [{"label": "lion"}], "ada")
    items.decide([0], [{"label": "oryx"}], "ben")
    items.decide([1], [{"label": "lion", "count": 2}], "ben")
    items.decide([2], [{"label": "oryx"}], "ada")
    assert items.disputed() == [0]
    assert items.select(Wanted(state="disputed")).tolist() == [True, False, False, False]
    items.decide([0], [{"label": "lion"}], "ben")
    assert items.disputed() == []


def test_what_another_said_before_is_shown(reviewing: Reviewing) -> None:
    items = reviewing.items
    number = int(items._of[items.frames["image_id"].to_pylist().index("plain")])
    items.decide([number], [{"label": "oryx", "count": 2}], "ada")
    items.decide([number], [{"label": "lion"}], "ben")
    items.read_what_was_said()
    shown = reviewing.detail(number)
    assert (shown["said"]["who"], shown["said"]["labels"][0]["label"]) == ("ben", "lion")
    assert [(one["who"], one["labels"][0]["label"]) for one in shown["earlier"]] == [("ada", "oryx")]


def test_the_last_decision_counts_though_the_clock_was_set_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_run(tmp_path, [image("a", 0, truth="lion", seq_id="s0")], events={"labels": "human"})
    items = Items(run)
    said: list[dict[str, Any]] = [{"label": "oryx"}, {}, {"label": "hyena"}]
    for hour, one in zip((12, 11, 10), said, strict=True):
        monkeypatch.setattr(
            review_items, "_now", lambda hour=hour: dt.datetime(2026, 12, 1, hour, tzinfo=dt.UTC)
        )
        items.decide([0], [one] if one else [], "ada")
    again = Items(run)
    again.read_what_was_said()
    assert again.said[0].labels == items.said[0].labels == ({"label": "hyena"},)


def test_a_sequence_of_several_species_is_one_item_and_names_may_come_twice(tmp_path: Path) -> None:
    rows = [
        image("a", 0, truth={"lion": 1, "oryx": 2}, seq_id="s0"),
        image("b", 0, truth="lion", seq_id="s0", location="B"),
        image("c", 9000, truth=None, seq_id="s1"),
    ]
    run = write_run(tmp_path, rows, events={"labels": "human"})
    assert run.table("sequences").count_rows() == 4
    items = Items(run)
    assert len(items) == 3
    found = [[items.frames["image_id"][int(row)].as_py() for row in items.frames_of(n)] for n in range(3)]
    assert sorted(found) == [["a"], ["b"], ["c"]]
    reviewing = Reviewing(run, ImageRoot(str(tmp_path)), Ordering("useful"), Wanted(), who="mara")
    shown = reviewing.list("useful", Wanted(), 0, "")["items"]
    assert {(one["camera"], one["source"]) for one in shown} == {
        ("A", "human"),
        ("B", "human"),
        ("A", "machine"),
    }
