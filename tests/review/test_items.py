"""What the review page is told: people are blurred until somebody asks, labels go by any of their names."""

from __future__ import annotations

import datetime as dt
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support_exports import image, write_run
from support_runs import commit

from camtrap_batch import open_run
from camtrap_batch.images import ImageRoot
from camtrap_batch.review import items as review_items
from camtrap_batch.review.items import Items, Wanted
from camtrap_batch.review.server import Reviewing

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
    items = Items(open_run(folder / "job.yaml"))
    root = ImageRoot(str(folder / "images"))
    return Reviewing(items, root, order="useful", wanted=Wanted(), n=None, who="mara")


def spread(data: bytes | None) -> tuple[float, float]:
    """How much the left and the right end of a photo vary."""
    assert data is not None
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("L")).astype(float)
    width = pixels.shape[1]
    return float(pixels[:, : width // 4].std()), float(pixels[:, -width // 8 :].std())


def test_people_are_shown_on_request(reviewing: Reviewing) -> None:
    items = reviewing.items
    ids = items.frames["image_id"].to_pylist()
    plain, walker, told = (ids.index(name) for name in ("plain", "walker", "told"))
    for large in (False, True):
        assert min(spread(reviewing.picture(plain, large))) > 30
        left, right = spread(reviewing.picture(walker, large))
        assert left < 15, "the box of a person, weak as it is"
        assert right > 30
        assert max(spread(reviewing.picture(told, large))) < 15, "all of it: there is no box"
        assert min(spread(reviewing.picture(walker, large, people=True))) > 30
    number = int(items._of[walker])
    assert [frame["people"] for frame in reviewing.detail(number)["frames"]] == [True]


def test_labels_by_any_name(reviewing: Reviewing) -> None:
    items = reviewing.items
    assert {"lion", "caracal", "person"} <= set(items.labels), "what the taxonomy has can be said"
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


def test_first_page_is_ready(reviewing: Reviewing) -> None:
    reviewing.prepare()
    assert reviewing.order in reviewing._ranked


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
    reviewing = Reviewing(
        items, ImageRoot(str(tmp_path)), order="useful", wanted=Wanted(), n=None, who="mara"
    )
    reviewing.prepare()
    shown = reviewing.list("useful", Wanted(), 0, "")["items"]
    assert {(one["camera"], one["source"]) for one in shown} == {
        ("A", "human"),
        ("B", "human"),
        ("A", "machine"),
    }
