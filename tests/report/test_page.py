from __future__ import annotations

import ast
import base64
import dataclasses
import datetime as dt
import hashlib
import itertools
import math
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import camtrap_batch.report
from camtrap_batch.report import (
    Dates,
    Detected,
    Example,
    Finding,
    Names,
    Photo,
    ReportData,
    render,
    render_files,
)
from camtrap_batch.report.accuracy import most_confused
from camtrap_batch.report.bundle import has_map
from camtrap_batch.report.pages import make_pages
from camtrap_batch.report.text import UNKNOWN
from camtrap_batch.store.schemas import EVENTS, LOCATIONS
from camtrap_batch.survey.grid import snap
from camtrap_batch.vocabulary import FINDING_KINDS

MakeData = Callable[..., ReportData]

_VOID = {"meta", "link", "img", "br", "hr"}
_OPTIONAL = [
    field.name
    for field in dataclasses.fields(ReportData)
    if field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
]


class Page(HTMLParser):
    """What is on a page; fails where an element is not closed in its turn."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(set(names)) == len(names)
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.texts))

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def references(self) -> list[str]:
        names = ("src", "href", "xlink:href", "action", "data", "poster", "srcset")
        return [attributes[name] for _, attributes in self.elements for name in names if name in attributes]


def replace_columns(table: pa.Table | None, **columns: list[Any]) -> pa.Table:
    assert table is not None
    for name, values in columns.items():
        index = table.column_names.index(name)
        table = table.set_column(
            index, table.schema.field(name), pa.array(values, table.schema.field(name).type)
        )
    return table


def test_whole_page(make_data: MakeData) -> None:
    page = Page(render(make_data()))
    for text in (
        "2,400",
        "99.1%",
        "900",
        "63.6%",
        "panthera onca",
        "C0003",
        "C0001/IMG_0000.JPG",
        "resnet34",
        "Classified in int8; near ties again: 464 in bfloat16",
    ):
        assert text in page.text
    assert "Accuracy on unseen cameras" in page.text


def test_the_order_a_reader_expects(make_data: MakeData) -> None:
    html = render(make_data())
    parts = ["glance", "map", "species", "cameras", "activity", "photos"]
    parts += ["images", "findings", "selection", "model", "mistakes", "provenance"]
    places = [html.index(f' id="{part}"') for part in parts]
    assert places == sorted(places)


def test_nothing_is_asked_of_the_network(make_data: MakeData) -> None:
    html = render(make_data())
    page = Page(html)
    assert page.all("img")
    assert all(
        reference.startswith(("data:", "#", "parts/")) or reference == "https://leafletjs.com"
        for reference in page.references()
    )
    (style,) = re.findall(r"<style>(.*?)</style>", html, re.S)
    assert not re.search(r"url\(|@import", style)
    assert all(script["src"].startswith("parts/") for script in page.all("script"))
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    (policy,) = (meta["content"] for meta in page.all("meta") if "http-equiv" in meta)
    assert policy.startswith("default-src 'none'; ")
    assert "http" not in policy
    assert "connect-src" not in policy


def test_map_tiles_that_the_job_names_are_all_that_is_asked_for(make_data: MakeData) -> None:
    if not has_map():
        pytest.skip("the package was built without npm (make assets)")
    html = render(make_data(tiles="https://{s}.tiles.example.org/{z}/{x}/{y}.png"))
    (policy,) = (meta["content"] for meta in Page(html).all("meta") if "http-equiv" in meta)
    assert re.findall(r"https://[^\s;]+", policy) == ["https://*.tiles.example.org"] * 2
    assert "map tiles come from https://*.tiles.example.org" in Page(html).text


def test_one_file_holds_all(make_data: MakeData) -> None:
    html, files = render_files(make_data(cameras=5, events=60, single_file=True))
    assert list(files) == []
    page = Page(html)
    assert all(
        reference.startswith(("data:", "#")) or reference == "https://leafletjs.com"
        for reference in page.references()
    )
    runs = re.findall(r"<script>(.*?)</script>", html, re.S)
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in runs]
    (policy,) = (meta["content"] for meta in page.all("meta") if "http-equiv" in meta)
    assert re.findall(r"'sha256-(.*?)'", policy) == hashes
    assert "'self'" not in policy
    assert "script-src 'unsafe-inline'" not in policy


def test_files_beside_the_page(make_data: MakeData) -> None:
    data = make_data(cameras=5, events=60)
    html, files = render_files(data, "parts-x")
    found = {path: content() for path, content in files}
    assert all(path.startswith("parts-x/") for path in found)
    assert {source["src"] for source in Page(html).all("script")} <= set(found)
    assert {image["src"] for image in Page(html).all("img")} <= {*found, ""} | {
        image["src"] for image in Page(html).all("img") if image["src"].startswith("data:")
    }
    assert found["parts-x/photos/0.jpg"] == next(iter(data.photos.values())).jpeg
    assert b"C0003" in found["parts-x/index.js"]


def test_without_the_map_of_npm_the_page_says_so(
    make_data: MakeData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(camtrap_batch.report.bundle, "_ASSETS", Path("/nowhere"))
    page = Page(render(make_data(cameras=5, events=60)))
    assert "The map does not move." in page.text
    assert "Leaflet" not in page.text
    assert [script["src"] for script in page.all("script")] == ["parts/index.js", "parts/app.js"]


def test_reads_without_sight(make_data: MakeData) -> None:
    html = render(make_data())
    page = Page(html)
    whole = Page(html.replace('id="summary"', "").split('<main id="view"')[0] + "</body></html>")
    levels = [int(tag[1]) for tag, _ in whole.elements if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert all(head.get("scope") in ("col", "row") for head in page.all("th"))
    assert len(page.all("table")) == len(page.all("caption"))
    assert all(image["alt"] for image in page.all("img"))
    drawings = [drawing for drawing in page.all("svg") if drawing.get("aria-hidden") != "true"]
    assert all(drawing["role"] == "img" for drawing in drawings)
    assert len(page.all("desc")) == len(drawings)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    anchors = {link["href"][1:] for link in page.all("a") if re.match(r"#[^/]", link["href"])}
    assert anchors <= set(ids)


HOSTILE = "<script>alert('x')</script>\"&<b>"


def test_names_are_text_wherever_they_stand(make_data: MakeData) -> None:
    data = make_data(cameras=6, classes=4)
    assert data.events is not None
    assert data.locations is not None
    assert data.metrics is not None
    names = data.events["label"].to_pylist()
    label = max(set(names) - {"uncertain"}, key=names.count)
    photo = Example("hostile", HOSTILE, 0.9, HOSTILE)
    rows = data.locations.to_pylist()
    by_label = [
        [
            {**entry, "label": HOSTILE if entry["label"] == label else entry["label"]}
            for entry in row["events_by_label"]
        ]
        for row in rows
    ]
    hostile = dataclasses.replace(
        data,
        job_name=HOSTILE,
        run_folder=HOSTILE,
        job_yaml=f"name: {HOSTILE}",
        dataset={HOSTILE: HOSTILE, "images": HOSTILE},
        notes={HOSTILE: 1},
        status_counts={**data.status_counts, HOSTILE: 1},
        status_examples=[(HOSTILE, HOSTILE, HOSTILE, HOSTILE)],
        selection_reasons={HOSTILE: 3},
        split_counts={HOSTILE: {"train": [1, 2, 3]}},
        model={**(data.model or {}), "arch": HOSTILE, "model_id": HOSTILE},
        metrics={
            **data.metrics,
            "classes": [HOSTILE, *data.metrics["classes"][1:]],
            "per_class": {HOSTILE: {"support": 3, "precision": 1.0, "recall": 1.0, "f1": 1.0}},
            "by_light": {HOSTILE: {"n": 1, "accuracy": 1.0}},
            "by_location": {HOSTILE: {"n": 1, "accuracy": 1.0}},
            "split": HOSTILE,
        },
        locations=replace_columns(
            data.locations,
            location=[HOSTILE + str(number) for number in range(6)],
            top_label=[HOSTILE] * 6,
            events_by_label=by_label,
        ),
        events=replace_columns(data.events, label=[HOSTILE if name == label else name for name in names]),
        best_photos=[photo],
        worst_mistakes=[photo],
        photos={"hostile": Photo(b"\xff\xd8", 4, 3, HOSTILE, HOSTILE)},
        job_file=HOSTILE,
        names=Names({HOSTILE: HOSTILE}, {}),
        detector=Detected(HOSTILE, HOSTILE, 0.2, 5, 1, {HOSTILE: 1}, {HOSTILE: 1}, HOSTILE),
        stages=[{"stage": HOSTILE, "shards": 1, "rows": 1, "rows_per_s": 1.0, "failed": 0}],
        versions={HOSTILE: HOSTILE},
        snapshots={HOSTILE: 1},
    )
    page = Page(render(hostile))
    assert all(set(script) == {"src", "defer"} for script in page.all("script"))
    assert page.text.count("<script>alert") > 40
    single = render(dataclasses.replace(hostile, single_file=True))
    assert single.count("<script>alert") == 0
    plain = Page(render(data))
    assert {tag for tag, _ in page.elements} <= {tag for tag, _ in plain.elements} | {"b", "i"}


@pytest.mark.parametrize("name", _OPTIONAL)
def test_each_part_may_be_missing(name: str, make_data: MakeData, bare: ReportData) -> None:
    data = make_data(cameras=5, events=100)
    text = Page(render(dataclasses.replace(data, **{name: getattr(bare, name)}))).text
    assert not re.search(r"\bNone\b|\bnan\b|Undefined", text)


@pytest.mark.parametrize("name", _OPTIONAL)
def test_each_part_alone(name: str, make_data: MakeData, bare: ReportData) -> None:
    data = make_data(cameras=5, events=100)
    text = Page(render(dataclasses.replace(bare, **{name: getattr(data, name)}))).text
    assert not re.search(r"\bNone\b|\bnan\b|Undefined", text)


def section_of(html: str, name: str) -> str:
    return html.split(f'<h2 id="{name}">')[1].split("</section>")[0]


def test_duplicates_stand_beside_their_originals(make_data: MakeData) -> None:
    section = section_of(render(make_data(cameras=5, events=100)), "findings")
    page = Page(f"<h2>{section}")
    assert len(page.all("img")) == 12
    assert [image["alt"] for image in page.all("img")][:2] == ["Photo a/0.jpg", "Photo b/0.jpg"]
    assert "6 of 40" in page.text
    assert "c/<1>.jpg" in page.text
    assert "later than the manifest" in page.text
    for kind in ("exact_duplicate", "date_in_future", "size_differs"):
        assert FINDING_KINDS[kind] in page.text
    assert "clock_reset" not in page.text


def test_duplicates_without_thumbnails_are_listed(make_data: MakeData) -> None:
    examples = [Finding("exact_duplicate", "b/1.avi", "C1", "the same bytes as a/1.avi")]
    data = make_data(cameras=5, events=100, finding_examples=examples)
    section = section_of(render(data), "findings")
    assert "<img" not in section
    assert "the same bytes as a/1.avi" in section


def test_no_finding_is_said_and_findings_not_made_are_not(make_data: MakeData, bare: ReportData) -> None:
    none = make_data(cameras=5, events=100, finding_counts={}, finding_examples=[])
    assert "None: no duplicates" in section_of(render(none), "findings")
    assert "Findings" not in Page(render(bare)).text


def test_only_validated(bare: ReportData) -> None:
    page = Page(render(bare))
    assert "97 of 100 images can be used" in page.text
    assert "no such file under the image root" in page.text
    for absent in ("Species", "Events", "Accuracy", "Model", "Selection"):
        assert absent not in page.text


def test_a_broken_clock_does_not_set_the_period_of_a_species(make_data: MakeData) -> None:
    data = make_data(cameras=4, classes=2, events=40)
    assert data.events is not None
    assert data.dates is not None
    rows = data.events.to_pylist()
    rows[0]["start"] = rows[0]["start"].replace(year=2091)
    events = pa.Table.from_pylist(rows, data.events.schema)

    def last_of(data: ReportData) -> list[int | None]:
        pages = make_pages(data)
        assert pages is not None
        return [
            page["last"] for name, part in pages.parts.items() if name[0] == "s" for page in part.values()
        ]

    in_2024 = (dt.datetime(2024, 1, 1) - dt.datetime(1970, 1, 1)).total_seconds() / 60
    assert all(
        last is not None and last < in_2024 for last in last_of(dataclasses.replace(data, events=events))
    )
    untrusted = Dates(None, None, {}, 40, 40)
    assert set(last_of(dataclasses.replace(data, dates=untrusted))) == {None}


def test_no_image_that_can_be_used(bare: ReportData) -> None:
    text = Page(render(dataclasses.replace(bare, status_counts={"missing": 60, "corrupt": 40}))).text
    assert "Which species there are: not one image can be used, see below." in text
    assert "0 of 100 images can be used." in text


def test_no_images_at_all(bare: ReportData) -> None:
    text = Page(render(dataclasses.replace(bare, n_images=0, status_counts={}))).text
    assert "0 of 0 images can be used" in text


def test_empty_tables(make_data: MakeData) -> None:
    data = make_data(events=0)
    Page(render(data))
    text = Page(
        render(
            dataclasses.replace(
                data, locations=LOCATIONS.empty_table(), events=EVENTS.empty_table(), metrics={}
            )
        )
    ).text
    assert "No event: no dated image is labelled as an animal." in text


def test_without_a_model_nothing_is_said_of_one(make_data: MakeData) -> None:
    """Boxes are animals that were seen, labels of people have no confidence, and nothing judges them."""
    nobody = {
        "model": None,
        "metrics": None,
        "locations": LOCATIONS.empty_table(),
        "n_undated": 7,
        "n_unlabelled": 9,
    }
    boxes = Detected("md.json", "d", 0.2, 30, 0, {"animal": 10, "person": 1}, {"animal": 12, "person": 1})
    text = Page(render(make_data(events=0, detector=boxes, **nobody))).text
    assert "No event yet: no dated image has a label. A detector found animals in 10 images" in text
    assert "camtrap review JOB" in text
    assert "7 images have no date and belong to no event." in text
    assert "What 9 images show: nobody has labelled them." in text
    data = make_data(**nobody)
    photos = [dataclasses.replace(photo, confidence=None) for photo in data.best_photos]
    text = Page(render(dataclasses.replace(data, best_photos=photos))).text
    assert "A photo of each species that people labelled." in text
    assert not any(
        phrase in text for phrase in ("the model is surest", "no photo labelled by people was kept aside")
    )


def test_unknown_figures_are_dashes(make_data: MakeData) -> None:
    data = make_data(cameras=3, classes=3, events=50)
    assert data.events is not None
    assert data.metrics is not None
    unknown = dict.fromkeys(("precision", "recall", "f1"))
    metrics = {
        **data.metrics,
        "accuracy": math.nan,
        "balanced_accuracy": None,
        "ece": math.nan,
        "per_class": {"lion": {**unknown, "support": 0}},
        "by_light": {"day": {"n": 0, "accuracy": None}},
        "by_location": {"A": {"n": 0, "accuracy": None}},
        "reliability": [{"n": 0, "confidence": math.nan, "accuracy": math.nan, "lower": 0, "upper": 1}],
    }
    events = replace_columns(data.events, confidence=[None] * 50)
    history = [{"epoch": 1.0, "train_loss": math.nan, "valid_loss": 1.0}]
    html = render(dataclasses.replace(data, metrics=metrics, events=events, history=history))
    text = Page(html).text
    assert not re.search(r"\bnan\b|\bNone\b", text)
    assert not re.search(r'[" ,]nan[" ,]', html)
    assert f"Accuracy on unseen cameras {UNKNOWN}" in text
    assert text.count(UNKNOWN) > 8


def test_events_without_label_or_date_are_counted(make_data: MakeData) -> None:
    data = make_data(cameras=3, events=40)
    events = replace_columns(data.events, label=[None] * 40, start=[None] * 40, end=[None] * 40)
    text = Page(render(dataclasses.replace(data, events=events))).text
    assert "40 of them uncertain" in text
    assert "Over the study period" not in text


def test_the_model_is_judged_by_common_names_too(make_data: MakeData) -> None:
    judged = pa.table({"label": ["all", "panthera onca"], "accuracy": ["93.0%", None]})
    data = make_data(names=Names({"panthera onca": "Jaguar"}), by_labels=judged)
    pairs = most_confused(data.metrics or {})
    n_mistakes = sum("panthera onca" in (pair.truth, pair.predicted) for pair in pairs)
    assert n_mistakes
    glance, _, model = render(data).partition('<h2 id="model">')
    named = 'Jaguar <i class="muted">panthera onca</i>'
    accuracy = glance.partition("Accuracy by labels")[2].partition("</table>")[0]
    assert f'<th scope="row">{named}</th>' in accuracy
    assert '<th scope="col">Label</th><th scope="col">Accuracy</th>' in accuracy
    assert f'<th scope="row">{named}</th>' in model
    mistakes = model.partition("Most frequent mistakes")[2].partition("</table>")[0]
    assert mistakes.count(named) == n_mistakes
    assert f"predicted <b>{named}</b>" in model
    _, _, activity = glance.partition('<h2 id="activity">')
    assert f"<figcaption>{named} <span" in activity


def test_light_without_images_is_left_out(make_data: MakeData) -> None:
    data = make_data()
    assert data.metrics is not None
    light = {"day": {"n": 0, "accuracy": None}, "night": {"n": 4, "accuracy": 1.0}}
    html = render(dataclasses.replace(data, metrics={**data.metrics, "by_light": light}))
    assert "Accuracy, night" in html
    assert "Accuracy, day" not in html


def test_random_split_is_called_optimistic(make_data: MakeData) -> None:
    data = make_data(cameras=3, events=40)
    warning = "frames of one burst on both sides"
    assert warning not in Page(render(data)).text
    page = Page(render(dataclasses.replace(data, metrics={**(data.metrics or {}), "split_by": "random"})))
    assert page.text.count(warning) == 3  # at the head, with the model, and where it is printed
    assert "unseen cameras" not in page.text
    assert page.all("div")[[e.get("class") for e in page.all("div")].index("warning")]


def test_leaky_split_is_named_with_what_leaks(make_data: MakeData) -> None:
    data = make_data(cameras=3, events=40)
    assert "No camera, sequence or duplicate is in two splits." in Page(render(data)).text
    across = {"sequences": [31, 300], "locations": [19, 20]}
    text = Page(render(dataclasses.replace(data, split_by="random", split_across=across))).text
    assert "31 of 300 sequences and 19 of 20 cameras have images in several splits" in text
    assert "No camera, sequence" not in text


def test_blurred_page_does_not_know_where_a_camera_stands(make_data: MakeData) -> None:
    data = make_data(cameras=30, events=200)
    assert data.locations is not None
    rng = np.random.default_rng(0)
    km = 4.0
    x, y = (data.locations[name].to_numpy() for name in ("longitude", "latitude"))
    x, y = snap(x, y, km)
    pages = []
    for _ in range(3):
        moved = {
            "longitude": (x + rng.uniform(-0.45, 0.45, 30) * km / 111.2).tolist(),
            "latitude": (y + rng.uniform(-0.45, 0.45, 30) * km / 111.2).tolist(),
        }
        locations = replace_columns(data.locations, **moved)
        pages.append(render(dataclasses.replace(data, locations=locations, blur_km=km)))
        exact = render(dataclasses.replace(data, locations=locations))
        for value in moved["longitude"] + moved["latitude"]:
            assert f"{value:.4f}" not in pages[-1]
            assert f"{value:.4f}" in exact
    assert pages[0] == pages[1] == pages[2]
    assert "rounded to a grid of 4 km" in Page(pages[0]).text


def test_people_are_no_species_on_the_map(make_data: MakeData) -> None:
    data = make_data(cameras=6, classes=4, events=90)
    assert data.events is not None
    assert data.locations is not None
    assert "panthera onca" in legend_of(render(data))
    events, locations = data.events.to_pylist(), data.locations.to_pylist()
    for entry in [*events, *(entry for row in locations for entry in row["events_by_label"])]:
        entry["label"] = "person" if entry["label"] == "panthera onca" else entry["label"]
    data = dataclasses.replace(
        data,
        events=pa.Table.from_pylist(events, data.events.schema),
        locations=pa.Table.from_pylist(locations, data.locations.schema),
    )
    assert "person" not in legend_of(render(data))


def legend_of(html: str) -> str:
    return html.partition('class="legend"')[2].partition("</ul>")[0]


def test_cameras_without_coordinates(make_data: MakeData) -> None:
    data = make_data(cameras=4, events=60)
    some = replace_columns(data.locations, longitude=[36.0, None, math.nan, 37.0])
    text = Page(render(dataclasses.replace(data, locations=some))).text
    assert "2 cameras at 2 places" in text
    assert "2 cameras have no known coordinates" in text
    none = replace_columns(data.locations, longitude=[None] * 4, latitude=[None] * 4)
    text = Page(render(dataclasses.replace(data, locations=none))).text
    assert "Where the cameras are" not in text
    assert "Cameras 4 no coordinates" in text


def test_events_of_cameras_corrected_by_a_review(make_data: MakeData) -> None:
    data = make_data(cameras=3, events=60)
    assert "Corrected" not in Page(render(data)).text
    by_sample = [{"label": name, "n": n, "low": 1, "high": 1234} for name, n in (("leo", 2.6), ("lynx", 9.8))]
    column = pa.array([by_sample, None, []], data.locations.schema.field("corrected_by_label").type)
    at = data.locations.schema.get_field_index("corrected_by_label")
    some = data.locations.set_column(at, "corrected_by_label", column)
    text = Page(render(dataclasses.replace(data, locations=some))).text
    assert "lynx 10 (1 to 1,234), leo 3 (1 to 1,234)" in text


def test_one_class(make_data: MakeData) -> None:
    assert "Figures by class" in Page(render(make_data(cameras=1, classes=1, events=5))).text


def test_many_classes(make_data: MakeData) -> None:
    page = Page(render(make_data(classes=300, events=4000)))
    assert "Confusion matrix" not in page.text
    assert "Most frequent mistakes" in page.text
    assert "species 298" in page.text
    assert re.search(r"The 24 species with the most events; \d+ more are left out", page.text)


def test_lists_are_capped(make_data: MakeData) -> None:
    examples = [("missing", f"file-{number:04}.jpg", None, None) for number in range(250)]
    data = make_data(
        cameras=230, events=1000, status_counts={"ok": 1, "missing": 27_599}, status_examples=examples
    )
    page = Page(render(data))
    assert "The 200 cameras with the most events; 30 more are left out" in page.text
    assert "camtrap table JOB locations --out locations.csv" in page.text
    assert "200 of 27,599" in page.text
    assert "file-0199.jpg" in page.text
    assert "file-0200.jpg" not in page.text


def test_four_thousand_cameras(make_data: MakeData) -> None:
    data = make_data(cameras=4000, classes=60, events=20_000, best_photos=[], worst_mistakes=[])
    html = render(data)
    assert len(html.encode()) < 3e6
    assert Page(html).text.count(" event") > 4000  # each camera has a tip


def test_photos_have_boxes_names_and_dates(make_data: MakeData) -> None:
    data = make_data(cameras=3, events=40, finding_examples=[])
    uncertain = Example("best0", "uncertain", 0.4)
    lost = Example("not there", "panthera leo", 0.4)
    html = render(dataclasses.replace(data, best_photos=[uncertain, lost, *data.best_photos[:1]]))
    section = section_of(html, "photos")
    page = Page(f"<h2>{section}")
    (image,) = page.all("img")
    assert image["src"] == f"parts/photos/{list(data.photos).index('best0')}.jpg"
    (box,) = (span["style"] for span in page.all("span") if span.get("class") == "box")
    assert box == "left: 20.00%; top: 30.00%; width: 40.00%; height: 50.00%"
    assert "C0000 · 2023-05-04 12:00" in page.text
    assert "best/0.jpg" in page.text


def test_a_name_that_is_not_unicode_can_be_written(bare: ReportData) -> None:
    render(dataclasses.replace(bare, run_folder="runs/\udcff")).encode()


def test_knows_nothing_of_dask_or_run_folders() -> None:
    for path in Path(camtrap_batch.report.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("camtrap_batch"):
                assert node.module in (
                    "camtrap_batch.report",
                    "camtrap_batch.catalog.labels",
                    "camtrap_batch.clocks",
                    "camtrap_batch.codes",
                    "camtrap_batch.events",
                    "camtrap_batch.events.codes",
                    "camtrap_batch.store.schemas",
                    "camtrap_batch.survey.grid",
                    "camtrap_batch.vocabulary",
                ) or str(node.module).startswith("camtrap_batch.report.")
            elif isinstance(node, ast.Import | ast.ImportFrom):
                names = (
                    [node.module or ""] if isinstance(node, ast.ImportFrom) else [n.name for n in node.names]
                )
                assert not {name.split(".")[0] for name in names} & {"dask", "distributed", "torch", "fsspec"}


def test_repeat_detections_are_listed(make_data: MakeData) -> None:
    places = [
        {"location": f"cam-{n}", "images": 900 - n, "box": [0.1, 0.25, 0.3, 0.4], "category": "animal"}
        for n in range(60)
    ]
    found = {"repeats": 52_230, "n_repeated_places": 60, "repeated_places": places}
    page = Page(render(make_data(detections=found)))
    assert "52,230 boxes of the detector sit where" in page.text
    assert "The 50 places with most images, of 60" in page.text
    assert {"cam-0", "cam-49"} <= set(page.texts)
    assert "cam-50" not in page.texts
    none = {"repeats": 0, "n_repeated_places": 0, "repeated_places": []}
    assert "Repeat detections" not in Page(render(make_data(detections=none))).text
