"""The report in a real browser, from disk: moved, sorted, printed, by keyboard; with the tables' figures."""

from __future__ import annotations

import dataclasses
import gzip
import http.server
import io
import re
import struct
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image
from support import wait_until
from support_browser import chromium

from camtrap_batch.report import ReportData, render_files
from camtrap_batch.report.bundle import has_map

WIDTHS = (1400, 768, 390)
AXE = Path(__file__).parents[2] / "tools" / "web" / "node_modules" / "axe-core" / "axe.min.js"
HOSTILE = "<img src=x onerror=\"document.title='broken in'\">"

MakeData = Callable[..., ReportData]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


class Opened:
    """A page of the report, and what went wrong: errors, and requests for anything but its own files."""

    def __init__(self, browser: Any, address: str, width: int = 1400, **options: Any) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        self.page = self.context.new_page()
        self.address, self.wrong = address, list[str]()
        own = address.rpartition("/")[0]
        self.page.on("console", lambda said: self.wrong.append(said.text) if said.type == "error" else None)
        self.page.on("pageerror", lambda problem: self.wrong.append(str(problem)))
        self.page.on(
            "request",
            lambda asked: (
                None if asked.url.startswith((own, "data:", "blob:")) else self.wrong.append(asked.url)
            ),
        )
        self.go("")

    def go(self, where: str) -> Any:
        self.page.goto("about:blank")
        self.page.goto(self.address + where)
        self.page.wait_for_selector("body[data-ready]")
        if "/camera/" in where or "/species/" in where:
            self.page.wait_for_selector("#view[data-ready]")
        return self.page

    def until(self, condition: str) -> None:
        """Wait for JavaScript to be true; the page's policy forbids that the page itself evaluates text."""
        wait_until(lambda: bool(self.page.evaluate(condition)))

    def close(self) -> None:
        self.context.close()
        assert self.wrong == []


def write(data: ReportData, folder: Path) -> str:
    """Write a report; its address on disk."""
    html, files = render_files(data)
    for path, content in files:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content())
    (folder / "index.html").write_text(html, encoding="utf-8")
    return (folder / "index.html").as_uri()


@pytest.fixture(scope="module")
def data(request: pytest.FixtureRequest) -> ReportData:
    make: MakeData = request.getfixturevalue("make_whole")
    return make()


@pytest.fixture(scope="module")
def report(data: ReportData, tmp_path_factory: pytest.TempPathFactory) -> str:
    return write(data, tmp_path_factory.mktemp("report"))


def needs_map() -> None:
    if not has_map():
        pytest.skip("the package was built without npm (make assets)")


def test_map_moves_zooms_and_opens_a_camera_by_keyboard_alone(browser: Any, report: str) -> None:
    needs_map()
    opened = Opened(browser, report)
    page = opened.page
    page.wait_for_selector("#map-all .pin")
    assert page.locator("#map-all .pin").count() == 20
    assert page.locator("#map-all path.land").count() > 0
    page.locator("#map-all").focus()
    before = page.evaluate("document.querySelector('#map-all .leaflet-map-pane').style.transform")
    page.keyboard.press("ArrowRight")
    opened.until(f"document.querySelector('#map-all .leaflet-map-pane').style.transform !== {before!r}")
    scale = page.inner_text("#map-all .leaflet-control-scale-line")
    page.keyboard.press("+")
    opened.until(f"document.querySelector('#map-all .leaflet-control-scale-line').textContent !== {scale!r}")
    page.keyboard.press("Tab")
    while not page.evaluate("document.activeElement.matches('.pin')"):
        page.keyboard.press("Tab")
    name = page.evaluate("document.activeElement.getAttribute('aria-label')").partition(":")[0]
    page.keyboard.press("Enter")
    page.wait_for_selector("#view[data-ready]")
    assert page.inner_text("#view h1") == name
    opened.close()


def test_a_mark_that_is_clicked_opens_its_page_and_the_way_back(browser: Any, report: str) -> None:
    needs_map()
    opened = Opened(browser, report)
    page = opened.page
    page.locator('#map-all .pin[aria-label^="C0003:"]').click()
    page.wait_for_selector("#view[data-ready='C0003']")
    page.click("nav a[rel=next]")
    page.wait_for_selector("#view[data-ready='C0004']")
    page.go_back()
    page.wait_for_selector("#view[data-ready='C0003']")
    page.click("text=← All cameras")
    opened.until("!document.getElementById('main').hidden")
    page.select_option("#map-species", label=page.inner_text("#map-species option:nth-child(3)"))
    opened.until("document.getElementById('map-legend').textContent.includes('its page')")
    opened.close()


def test_a_species_that_was_seen_where_no_place_is_known_leaves_the_map(
    browser: Any, make_whole: MakeData, tmp_path: Path
) -> None:
    needs_map()
    data = make_whole(cameras=3, classes=4, events=60)
    assert data.events is not None
    assert data.locations is not None
    events = [
        {**row, "label": "meles meles"} if row["location"] == "C0002" else row
        for row in data.events.to_pylist()
    ]
    n = sum(row["location"] == "C0002" for row in events)
    unplaced = {"longitude": None, "latitude": None, "events_by_label": [{"label": "meles meles", "n": n}]}
    locations = [
        {**row, **unplaced} if row["location"] == "C0002" else row for row in data.locations.to_pylist()
    ]
    data = dataclasses.replace(
        data,
        events=pa.Table.from_pylist(events, data.events.schema),
        locations=pa.Table.from_pylist(locations, data.locations.schema),
    )
    opened = Opened(browser, write(data, tmp_path))
    page = opened.page
    page.wait_for_selector("#map-all .pin")
    page.select_option("#map-species", label=f"meles meles ({n})")
    opened.until("document.getElementById('map-legend').textContent.includes('no camera that saw it')")
    page.select_option("#map-species", value="")
    page.wait_for_selector("#map-all .pin")
    assert "No camera that saw it has known coordinates." in opened.go("#/species/meles%20meles").inner_text(
        "#view"
    )
    opened.close()


def test_figures_of_a_camera_are_those_of_the_tables(browser: Any, report: str, data: ReportData) -> None:
    assert data.events is not None
    opened = Opened(browser, report)
    page = opened.go("#/camera/C0003")
    here = [row for row in data.events.to_pylist() if row["location"] == "C0003"]
    cards = dict(
        zip(
            page.locator("#view dt").all_inner_texts(),
            page.locator("#view dd").all_inner_texts(),
            strict=True,
        )
    )
    assert cards["Events"] == str(len(here))
    assert cards["First to last image"] == "2023-02-11 to 2023-10-28"
    rows = [row.split("\t") for row in page.locator("#view table").nth(0).inner_text().splitlines()[2:]]
    labels = [row["label"] for row in here]
    assert {row[0]: int(row[1]) for row in rows if len(row) > 1} == {
        label: labels.count(label) for label in set(labels)
    }
    events = page.locator("#view table", has_text="Best image").locator("tbody tr")
    assert events.count() == min(len(here), 200)
    species = opened.go("#/species/panthera%20onca")
    seen = [row for row in data.events.to_pylist() if row["label"] == "panthera onca"]
    at_cameras = species.locator("#view table", has_text="Mean confidence").last.locator("tbody tr")
    assert at_cameras.count() == len({row["location"] for row in seen})
    assert sum(int(cell) for cell in at_cameras.locator("td:nth-child(2)").all_inner_texts()) == len(seen)
    opened.close()


def test_tables_sort_filter_and_copy(browser: Any, report: str) -> None:
    opened = Opened(browser, report, permissions=["clipboard-read", "clipboard-write"])
    page = opened.page
    table = page.locator("#cameras-table")
    table.locator("th button", has_text="Events").first.focus()
    page.keyboard.press("Enter")
    counts = [int(cell.replace(",", "")) for cell in table.locator("td:nth-child(5)").all_inner_texts()]
    assert counts == sorted(counts, reverse=True)
    page.keyboard.press("Enter")
    assert table.locator("th[aria-sort]").get_attribute("aria-sort") == "ascending"
    assert table.locator("td:nth-child(5)").first.inner_text() == str(min(counts))
    page.get_by_label("Filter: Images and events by camera").fill("c0003")
    assert table.locator("tbody tr").count() == 1
    page.locator("section", has=table).get_by_role("button", name="Copy table").press("Enter")
    opened.until("document.getElementById('said').textContent === 'Copied'")
    copied = page.evaluate("navigator.clipboard.readText()").splitlines()
    assert len(copied) == 2
    assert copied[1].split("\t")[0] == "C0003"
    opened.close()


def test_a_photo_opens_large_and_steps_to_the_next(browser: Any, report: str) -> None:
    opened = Opened(browser, report)
    page = opened.page
    page.locator("section", has=page.locator("#photos")).locator(".frame").first.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("#viewer[open]")
    assert "best/0.jpg" in page.inner_text("#viewer")
    assert page.locator("#viewer .box").count() == 1
    page.keyboard.press("ArrowRight")
    assert "best/1.jpg" in page.inner_text("#viewer")
    page.keyboard.press("Escape")
    assert page.locator("#viewer[open]").count() == 0
    opened.close()


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_cut(browser: Any, make_whole: MakeData, tmp_path: Path, width: int) -> None:
    long = "a-name-of-a-file-without-a-space/" * 5
    data = make_whole(classes=40, status_examples=[("corrupt", long, long, long)], run_folder=long)
    data = dataclasses.replace(data, job_name=long, versions={long: "1"}, notes={long: 1}, job_file=long)
    opened = Opened(browser, write(data, tmp_path), width)
    for where in ("", "#/camera/C0001", "#/species/panthera%20onca", "#/summary"):
        page = opened.go(where)
        page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
        assert page.evaluate("document.documentElement.scrollWidth") == width, where
        cut = page.evaluate(
            "[...document.querySelectorAll('.scroll')].filter(part => part.offsetParent && !part.scrollLeft"
            " && part.scrollWidth > part.clientWidth + 2 && !part.classList.contains('cut')).length"
        )
        assert cut == 0, "what scrolls says so"
        squeezed = page.evaluate(
            "[...document.querySelectorAll('.strip')].filter(part => part.offsetParent"
            " && getComputedStyle(part, '::before').content !== 'none').length"
        )
        assert squeezed == 0, "and takes no room among the frames of an event"
        torn = page.evaluate(
            "[...document.querySelectorAll('.command code')].filter(part => part.offsetParent).flatMap("
            "code => [...code.textContent.matchAll(/--[a-z]+|\\d{4}-\\d\\d-\\d\\d/g)].filter(found => {"
            "  const walk = document.createTreeWalker(code, NodeFilter.SHOW_TEXT), range = new Range();"
            "  for (let start = 0, text; text = walk.nextNode(); start += text.length) {"
            "    const from = found.index - start, to = from + found[0].length;"
            "    if (from < 0 || to > text.length) continue;"
            "    range.setStart(text, from); range.setEnd(text, to);"
            "    return range.getClientRects().length > 1;"
            "  }"
            "})).length"
        )
        assert torn == 0, "no option or date of a command is on two lines"
    opened.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(browser: Any, make_whole: MakeData, tmp_path: Path, scheme: str) -> None:
    if not AXE.exists():
        pytest.skip("axe-core is not there (make assets)")
    data = make_whole(cameras=5, classes=5, events=60)  # its time grows with the elements of the page
    opened = Opened(browser, write(data, tmp_path), color_scheme=scheme, bypass_csp=True)
    for where in ("", "#/camera/C0003", "#/species/panthera%20onca", "#/summary"):
        page = opened.go(where)
        page.add_script_tag(path=str(AXE))
        found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
        serious = [
            (one["id"], one["nodes"][0]["html"][:200], one["nodes"][0]["failureSummary"][:300])
            for one in found
            if one["impact"] in ("serious", "critical")
        ]
        assert serious == [], where
    opened.close()


def test_two_pages_for_a_funder(browser: Any, report: str) -> None:
    opened = Opened(browser, report)
    page = opened.go("#/summary")
    pdf = page.pdf(prefer_css_page_size=True, print_background=True)
    assert len(re.findall(rb"/Type\s*/Page\b", pdf)) == 2
    opened.close()


def test_from_a_web_server(browser: Any, report: str) -> None:
    folder = report.removeprefix("file://").rpartition("/")[0]

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        opened = Opened(browser, f"http://127.0.0.1:{server.server_port}/index.html")
        assert opened.go("#/camera/C0003").inner_text("#view h1") == "C0003"
        opened.close()
        server.shutdown()


def varint(n: int) -> bytes:
    return bytes([n & 127 | 128]) + varint(n >> 7) if n > 127 else bytes([n])


def archive(tile: bytes, kind: int) -> bytes:
    """A PMTiles archive, version 3, of one tile: the whole world. `kind` 1: a vector tile, 2: a PNG."""
    content = gzip.compress(tile) if kind == 1 else tile
    directory = gzip.compress(b"".join(map(varint, (1, 0, 1, len(content), 1))))
    metadata = gzip.compress(b"{}")
    at = 127 + len(directory), 127 + len(directory) + len(metadata)
    offsets = (127, len(directory), at[0], len(metadata), at[1], 0, at[1], len(content), 1, 1, 1)
    flags = bytes([1, 2, 2 if kind == 1 else 1, kind, 0, 0])
    bounds = struct.pack("<iiii", -1_800_000_000, -850_000_000, 1_800_000_000, 850_000_000)
    head = b"PMTiles\x03" + struct.pack("<11Q", *offsets) + flags + bounds + struct.pack("<bii", 0, 0, 0)
    return head + directory + metadata + content


def vector_tile() -> bytes:
    """Land from edge to edge, as Protomaps names it."""

    def part(number: int, data: bytes) -> bytes:
        return varint(number << 3 | 2) + varint(len(data)) + data

    side = 2 * 4096
    geometry = b"".join(map(varint, (9, 0, 0, 3 << 3 | 2, side, 0, 0, side, side - 1, 0, 15)))
    feature = varint(3 << 3) + varint(3) + part(4, geometry)
    layer = varint(15 << 3) + varint(2) + part(1, b"earth") + part(2, feature) + varint(5 << 3) + varint(4096)
    return part(3, layer)


def png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (256, 256), (200, 40, 40)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("kind", [1, 2])
def test_tiles_of_an_archive_need_no_server(
    browser: Any, make_whole: MakeData, tmp_path: Path, kind: int
) -> None:
    needs_map()
    tiles = archive(vector_tile() if kind == 1 else png(), kind)
    opened = Opened(browser, write(make_whole(cameras=5, events=60, tiles=tiles), tmp_path))
    tile = opened.page.locator("#map-all .leaflet-tile-pane canvas, #map-all .leaflet-tile-pane img").first
    tile.wait_for()
    shown = Image.open(io.BytesIO(opened.page.locator("#map-all").screenshot())).convert("RGB")
    most, _ = max((n, color) for n, color in shown.getcolors(1 << 20) or [])
    wanted = (226, 223, 218) if kind == 1 else (200, 40, 40)
    assert (most, wanted) in (shown.getcolors(1 << 20) or [])
    opened.close()


def test_tiles_of_a_server_that_the_job_names(browser: Any, make_whole: MakeData, tmp_path: Path) -> None:
    needs_map()
    asked: list[str] = []

    class Tiles(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(png())

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Tiles) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        host = f"http://127.0.0.1:{server.server_port}"
        data = make_whole(cameras=5, events=60, tiles=f"{host}/{{z}}/{{x}}/{{y}}.png")
        opened = Opened(browser, write(data, tmp_path))
        opened.page.wait_for_selector("#map-all img.leaflet-tile-loaded")
        opened.context.close()
        server.shutdown()
    assert asked
    assert all(re.fullmatch(r"/\d+/\d+/\d+\.png", path) for path in asked)
    assert {address.rpartition(":")[0] for address in opened.wrong} == {"http://127.0.0.1"}


def test_one_file_alone(browser: Any, make_whole: MakeData, tmp_path: Path) -> None:
    opened = Opened(browser, write(make_whole(cameras=6, events=80, single_file=True), tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["index.html"]
    if has_map():
        opened.page.wait_for_selector("#map-all .pin")
        opened.until("document.querySelectorAll('#map-all path.land').length > 0")
    page = opened.go("#/camera/C0001")
    assert page.inner_text("#view h1") == "C0001"
    page = opened.go("#/species/panthera%20onca")
    if page.locator("#view .frame img").count():
        assert page.locator("#view .frame img").first.evaluate("image => image.decode().then(() => true)")
    opened.close()


def test_names_that_are_html_are_text(browser: Any, make_whole: MakeData, tmp_path: Path) -> None:
    data = make_whole(cameras=5, events=80)
    assert data.events is not None
    assert data.locations is not None
    place, label = data.events["location"][0].as_py(), data.events["label"][0].as_py()

    def renamed(table: Any, column: str, old: str) -> Any:
        values = [HOSTILE if value == old else value for value in table[column].to_pylist()]
        at = table.column_names.index(column)
        return table.set_column(at, table.schema.field(column), [values])

    events = renamed(renamed(data.events, "location", place), "label", label)
    locations = renamed(renamed(data.locations, "location", place), "top_label", label)
    rows = locations.to_pylist()
    for row in rows:
        for entry in row["events_by_label"] or []:
            entry["label"] = HOSTILE if entry["label"] == label else entry["label"]
    data = dataclasses.replace(
        data, events=events, locations=type(locations).from_pylist(rows, locations.schema)
    )
    opened = Opened(browser, write(data, tmp_path))
    path = re.sub(r"[^\w]", lambda letter: f"%{ord(letter[0]):02X}", HOSTILE)
    for where in (f"#/camera/{path}", f"#/species/{path}", ""):
        page = opened.go(where)
        if has_map():
            page.wait_for_selector(
                ".map .pin" if where else "#map-all .pin"
            ) if "camera" not in where else None
        assert page.title() != "broken in"
        assert page.locator("img[src='x']").count() == 0
    assert HOSTILE in opened.go(f"#/camera/{path}").inner_text("#view h1")
    opened.close()


def test_many_cameras_are_marked_together_and_all_are_in_the_table(
    browser: Any, make_whole: MakeData, tmp_path: Path
) -> None:
    data = make_whole(cameras=4000, classes=60, events=8_000, best_photos=[], worst_mistakes=[], photos={})
    address = write(data, tmp_path)
    size = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert size < 20e6
    opened = Opened(browser, address)
    page = opened.page
    if has_map():
        page.wait_for_selector("#map-all .pin")
        assert 10 < page.locator("#map-all .pin").count() <= 300
    assert "are left out" not in page.inner_text("section:has(#cameras)")
    page.get_by_label("Filter: Images and events by camera").fill("c3999")
    page.click("#cameras-table a")
    page.wait_for_selector("#view[data-ready='C3999']")
    opened.close()
