"""The review page in a real browser, by keyboard; its server under requests of others."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import s3fs
import support_runs
import yaml
from support import wait_until
from support_browser import chromium
from support_exports import image, run_on_driver, write_run
from support_tls import make_certificates

from camtrap_batch.cli import main
from camtrap_batch.images.pixels import make_thumbnail
from camtrap_batch.store.corrections import read_corrections
from camtrap_batch.store.run import Run

SEQUENCES = 230


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of many sequences at three cameras; every photo is there as a file."""
    import numpy as np

    folder = tmp_path_factory.mktemp("review")
    rows = []
    for number in range(SEQUENCES):
        label = ("lion", "oryx", "empty")[number % 3]
        name = f"i{number:03}"
        rows.append(
            image(
                name,
                7200 * number,
                label,
                location="AB"[number % 2],
                seq_id=f"s{number:03}",
                sha256=f"h{number}",
            )
        )
    write_run(folder, rows)
    jpeg = make_thumbnail(np.full((48, 64, 3), 120, np.uint8), 48, 85).jpeg
    for row in rows:
        (folder / "images" / f"{row['image_id']}.jpg").write_bytes(jpeg)
    run_on_driver(folder / "job.yaml", "merge")
    return folder


@pytest.fixture
def job(folder: Path, tmp_path: Path) -> Path:
    shutil.copytree(folder, tmp_path / "job")
    path = tmp_path / "job" / "job.yaml"
    path.write_text(path.read_text().replace(str(folder), str(tmp_path / "job")))
    return path


@contextmanager
def served(job: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """The command, and the links that it prints."""
    command = [sys.executable, "-m", "camtrap_batch", "review", str(job), "--who", "ada", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        links: list[str] = []
        people = int(options[options.index("--people") + 1]) if "--people" in options else 1
        for line in process.stdout:
            links += re.findall(r"https?://\S+", line)
            if len(links) == people:
                break
        assert len(links) == people, line
        try:
            yield process, links
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                process.wait(30)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


def open_page(browser: Any, link: str) -> tuple[Any, list[str]]:
    context = browser.new_context(viewport={"width": 1300, "height": 800})
    page = context.new_page()
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: wrong.append(request.url) if "127.0.0.1" not in request.url else None)
    page.goto(link)
    page.wait_for_selector("body[data-ready]")
    return page, wrong


def decided(page: Any) -> int:
    return int(re.findall(r"(\d+) looked at", page.inner_text("#count"))[0])


def until(page: Any, condition: str) -> None:
    """Wait for JavaScript to be true; the page's policy forbids that the page itself evaluates text."""
    wait_until(lambda: bool(page.evaluate(condition)))


def looked_at(page: Any, number: int) -> None:
    """Wait for what was said to be kept, and the next sequence to show."""
    until(
        page,
        f"document.getElementById('count').textContent.includes(' {number} looked')"
        " && !state.busy && !state.undoing"
        " && (!state.detail || state.detail.number === state.items[state.at].number)",
    )


def press(page: Any, key: str, times: int = 1) -> None:
    """Press a key that decides."""
    for _ in range(times):
        before = decided(page)
        page.keyboard.press(key)
        looked_at(page, before + 1)


def rows_of(job: Path) -> list[dict[str, Any]]:
    from camtrap_batch import open_run

    return read_corrections(open_run(job)).to_pylist()


def test_two_hundred_decisions_by_keyboard_a_reload_and_a_kill(job: Path, browser: Any) -> None:
    with served(job) as (process, (link,)):
        page, wrong = open_page(browser, link)
        press(page, "Enter", 60)
        page.reload()
        page.wait_for_selector("body[data-ready]")
        assert decided(page) == 60
        press(page, "e", 40)
        assert wrong == []
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        page.keyboard.press("p")
        until(page, "document.getElementById('note').textContent.startsWith('Not kept')")
        assert len(rows_of(job)) == 100
    with served(job) as (_, (link,)):
        page, wrong = open_page(browser, link)
        assert decided(page) == 100
        press(page, "1", 60)
        press(page, "p", 40)
        assert wrong == []
    rows = rows_of(job)
    assert len(rows) == 200
    assert len({row["event"] for row in rows}) == 200
    labels = [row["label"] for row in rows]
    assert (labels.count("person"), {row["who"] for row in rows}) == (40, {"ada"})
    assert main(["table", str(job), "corrections", "--out", str(job.parent / "c.csv")]) == 0


def test_undo_several_species_counts_and_many_at_once(job: Path, browser: Any) -> None:
    with served(job, "--order", "least-sure") as (_, (link,)):
        page, wrong = open_page(browser, link)
        press(page, "e")
        page.keyboard.press("z")
        looked_at(page, 0)
        page.keyboard.press("a")
        page.fill("#search", "oryx")
        page.click("#traits summary")
        page.fill("#t-count", "4")
        page.click("#add")
        page.click("#accept")
        looked_at(page, 1)
        page.locator("#rows input").nth(3).check()
        page.locator("#rows input").nth(4).check()
        page.keyboard.press("p")
        looked_at(page, 3)
        assert wrong == []
    rows = rows_of(job)
    assert [row["label"] for row in rows[:2]] == ["empty", None]
    both = [row for row in rows if row["decision"] == rows[2]["decision"]]
    assert sorted((row["label"], row["count"] or 0) for row in both)[-1] == ("oryx", 4)
    assert len(both) == 2
    assert [row["label"] for row in rows[4:]] == ["person", "person"]


def test_where_nobody_said_anything_enter_says_nothing(folder: Path, tmp_path: Path, browser: Any) -> None:
    rows = [image(f"i{number}", 7200 * number, None, sha256=f"h{number}") for number in range(3)]
    job = support_runs.write_run(tmp_path, rows, infer={"model": "none"})
    (tmp_path / "images").mkdir(exist_ok=True)
    for row in rows:
        shutil.copy(folder / "images" / "i000.jpg", tmp_path / "images" / f"{row['image_id']}.jpg")
    for stage in ("infer", "merge"):
        run_on_driver(job, stage)
    with served(job) as (_, (link,)):
        page, wrong = open_page(browser, link)
        assert page.inner_text("#machine") == "Nobody has said yet"
        assert "model" not in page.inner_text("#form").lower()
        assert page.is_disabled("#accept")
        page.keyboard.press("Enter")
        until(page, "document.getElementById('note').textContent.startsWith('Nothing is suggested')")
        page.keyboard.press("a")
        assert page.evaluate("state.several.length") == 0
        page.fill("#search", "lion")
        page.click("#accept")
        looked_at(page, 1)
        assert wrong == []
    assert [row["label"] for row in rows_of(job)] == ["lion"]


def test_two_people_do_not_overwrite_each_other(job: Path, browser: Any) -> None:
    with served(job, "--people", "2") as (_, links):
        (ada, _), (ben, _) = (open_page(browser, link) for link in links)
        ben.fill("#who", "ben")
        ben.evaluate("document.activeElement.blur()")
        press(ada, "e")
        asked: list[str] = []
        ben.on("dialog", lambda dialog: (asked.append(dialog.message), dialog.dismiss()))
        ben.keyboard.press("p")
        until(ben, "document.getElementById('said').textContent.startsWith('ada said empty')")
        assert "ada: empty" in asked[0]
    assert [row["label"] for row in rows_of(job)] == ["empty"]


def small_job(folder: Path, *rows: dict[str, Any], **settings: Any) -> Path:
    """A job of a few photos; of noise, so that what is blurred differs."""
    import numpy as np

    write_run(folder, list(rows), **settings)
    noise = np.random.default_rng(0).integers(0, 255, (120, 160, 3), dtype=np.uint8)
    jpeg = make_thumbnail(noise, 120, 90).jpeg
    for row in rows:
        (folder / "images" / f"{row['image_id']}.jpg").write_bytes(jpeg)
    return folder / "job.yaml"


SHOWN = "document.getElementById('photo').complete && document.getElementById('photo').naturalWidth === 160"


@pytest.mark.parametrize("where", ["bucket", "zip"])
def test_photos_in_a_bucket_or_a_zip(
    tmp_path: Path, browser: Any, request: pytest.FixtureRequest, where: str
) -> None:
    rows = [image(f"i{n}", 7200 * n, seq_id=f"s{n}", sha256=f"h{n}") for n in range(4)]
    job = small_job(tmp_path, *rows)
    photos = sorted((tmp_path / "images").iterdir())
    if where == "bucket":
        images = f"{request.getfixturevalue('bucket')}/photos"
        bucket = s3fs.S3FileSystem()
        for path in photos:
            bucket.put_file(str(path), f"{images}/{path.name}")
    else:
        images = str(tmp_path / "photos.zip")
        with zipfile.ZipFile(images, "w") as archive:
            for path in photos:
                archive.write(path, path.name)
    shutil.rmtree(tmp_path / "images")
    content = yaml.safe_load(job.read_text())
    content["dataset"]["images"] = images
    job.write_text(yaml.safe_dump(content))
    with served(job) as (_, (link,)):
        page, wrong = open_page(browser, link)
        until(page, SHOWN)
        press(page, "Enter", 2)
        until(page, SHOWN)
        until(page, "document.querySelector('#strip img').naturalWidth > 0")
        until(page, "[...document.querySelectorAll('#list img')].every(picture => picture.naturalWidth > 0)")
        assert wrong == []
    assert len(rows_of(job)) == 2


def test_a_tablet_by_touch(job: Path, browser: Any) -> None:
    with served(job) as (_, (link,)):
        context = browser.new_context(
            viewport={"width": 820, "height": 1180}, has_touch=True, is_mobile=True, device_scale_factor=2
        )
        page = context.new_page()
        page.goto(link)
        page.wait_for_selector("body[data-ready]")
        assert page.evaluate("document.documentElement.scrollWidth") <= 820
        low = page.evaluate(
            "[...document.querySelectorAll('#form .keys button, header button')].filter(e => e.offsetParent "
            "&& e.offsetHeight < 44).map(e => e.id)"
        )
        assert low == [], "too small for a finger"
        hidden = page.evaluate(
            "['accept', 'empty', 'person', 'undo', 'search'].filter(id => { const box = "
            "document.getElementById(id).getBoundingClientRect(); "
            "return box.bottom > innerHeight || box.right > innerWidth; })"
        )
        assert hidden == [], "within reach without scrolling"
        page.tap("#empty")
        looked_at(page, 1)
        page.tap("#stage")
        assert page.evaluate("state.zoom") == 3
        page.tap("#stage")
        page.tap("#showlist")
        page.tap("#rows li:nth-child(5)")
        until(page, "state.at === 4 && !document.body.classList.contains('listing')")
        page.tap("#accept")
        looked_at(page, 2)
        context.close()


def test_people_are_blurred_until_asked_for(tmp_path: Path, browser: Any) -> None:
    job = small_job(tmp_path, image("i0", 0, "human", sha256="h0"), image("i1", 7200, "lion", sha256="h1"))
    with served(job, "--order", "people") as (_, (link,)):
        page, wrong = open_page(browser, link)
        until(page, SHOWN)

        def photo() -> bytes:
            body: bytes = page.request.get(page.evaluate("document.getElementById('photo').src")).body()
            return body

        blurred = photo()
        assert page.is_visible("#people")
        page.keyboard.press("h")
        until(page, SHOWN)
        clear = photo()
        assert len(clear) > 2 * len(blurred), "noise is there again"
        page.keyboard.press("h")
        until(page, SHOWN)
        assert photo() == blurred
        page.keyboard.press("ArrowRight")
        until(page, "state.at === 1 && state.detail.number === state.items[1].number")
        assert not page.is_visible("#people")
        assert wrong == []


def test_labels_are_found_by_any_of_their_names(tmp_path: Path, browser: Any) -> None:
    (tmp_path / "names.csv").write_text(
        "label,common_name,genus\nlion,African lion,Panthera\ncaracal,Desert lynx,Caracal\n"
    )
    rows = [image(f"i{n}", 7200 * n, seq_id=f"s{n}", sha256=f"h{n}") for n in range(5)]
    job = small_job(tmp_path, *rows, events={"taxonomy": "names.csv"})

    def say(page: Any, text: str, enters: int = 1) -> None:
        page.keyboard.press("/")
        page.keyboard.type(text)
        for _ in range(enters):
            page.keyboard.press("Enter")

    with served(job, "--order", "random") as (_, (link,)):
        page, wrong = open_page(browser, link)
        of_lion = [text for text in page.locator("#likeliest button").all_inner_texts() if "lion" in text]
        assert of_lion, "not among the likeliest"
        assert all("lion African lion" in " ".join(text.split()) for text in of_lion)
        say(page, "desert LYNX")
        looked_at(page, 1)
        say(page, "lyn")
        assert page.input_value("#search") == "caracal", "a part of its common name"
        page.keyboard.press("Enter")
        looked_at(page, 2)
        say(page, "Bat-eared  fox")
        looked_at(page, 3)
        assert "on no list" in page.inner_text("#note")
        say(page, "bat-eared FOX")
        looked_at(page, 4)
        page.keyboard.press("/")
        page.keyboard.type("african lion")
        page.click("#accept")
        looked_at(page, 5)
        assert wrong == []
    labels = [row["label"] for row in rows_of(job)]
    assert labels == ["caracal", "caracal", "Bat-eared fox", "Bat-eared fox", "lion"]


def test_the_page_fits_a_phone_and_has_names_for_all_that_can_be_pressed(job: Path, browser: Any) -> None:
    with served(job) as (_, (link,)):
        page, _ = open_page(browser, link)
        for width in (390, 768, 1400):
            page.set_viewport_size({"width": width, "height": 800})
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        nameless = page.evaluate(
            "[...document.querySelectorAll('button, input, select')].filter(e => !e.innerText?.trim() && "
            "!e.getAttribute('aria-label') && !e.labels?.length).map(e => e.outerHTML)"
        )
        assert nameless == []


def ask(link: str, path: str, **headers: str) -> int:
    request = urllib.request.Request(re.sub(r"/\?.*", path, link), headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as problem:
        return problem.code


def test_only_who_has_a_link_gets_in_and_a_link_is_good_once(job: Path) -> None:
    with served(job) as (_, (link,)):
        paths = ("/api/start", "/api/list", "/api/item/0", "/photo/0.0", "/thumb/0.0", "/")
        assert {ask(link, path) for path in paths} == {403}
        assert ask(link, "/api/start", Cookie="camtrap_review=x") == 403
        with urllib.request.urlopen(link, timeout=20) as answer:
            cookie = answer.headers["Set-Cookie"].partition(";")[0]
            assert "HttpOnly" in answer.headers["Set-Cookie"]
            assert "SameSite=Strict" in answer.headers["Set-Cookie"]
        assert ask(link, "/api/start", Cookie=cookie) == 200
        assert ask(link, "/photo/0.0", Cookie=cookie) == 200
        assert ask(link, "/photo/99999.0", Cookie=cookie) == 404
        assert ask(link, "/api/item/99999", Cookie=cookie) == 404
        assert ask(link, "/api/list?least=x", Cookie=cookie) == 400
        with pytest.raises(urllib.error.HTTPError, match="403") as refused:
            urllib.request.urlopen(link, timeout=20)
        assert "used already in another browser" in refused.value.read().decode()
        # A page elsewhere whose name was made to lead here.
        assert ask(link, "/api/start", Cookie=cookie, Host="evil.example:80") == 403
        body = json.dumps({"numbers": [0], "labels": [{"label": "lion"}], "who": "eve"}).encode()
        url = re.sub(r"/\?.*", "/api/decide", link)
        with pytest.raises(urllib.error.HTTPError, match="403"):  # a form elsewhere can't set the header
            urllib.request.urlopen(urllib.request.Request(url, body, {"Cookie": cookie}), timeout=20)
        mine = {"Cookie": cookie, "X-Camtrap-Review": "1"}
        assert ask(link, "/api/list?start=x", Cookie=cookie) == 400
        more = (b'"count": %s' % count for count in (b"3000000000", b"1e999", b"2.5", b"-1", b'"many"'))
        for wrong in (
            *(b"{", b"{}", body.replace(b"[0]", b"[99999]"), body.replace(b"[0]", b"[1e999]")),
            *(body.replace(b"eve", b" "), body.replace(b"lion", b"\\ud800"), body[:-1] + b', "seen": []}'),
            *(body.replace(b'"lion"', b'"lion", ' + one) for one in more),
        ):
            with pytest.raises(urllib.error.HTTPError, match="400"):
                urllib.request.urlopen(urllib.request.Request(url, wrong, mine), timeout=20)
        assert rows_of(job) == []


def test_on_another_address_over_tls(job: Path, tmp_path: Path) -> None:
    made = make_certificates(tmp_path, "camtrap")
    with served(job, "--address", "0.0.0.0", "--tls-cert", made.cert, "--tls-key", made.key) as (_, (link,)):
        assert link.startswith("https://0.0.0.0:")
        context = ssl.create_default_context(cafile=made.ca_file)
        context.check_hostname = False
        here = link.replace("0.0.0.0", "127.0.0.1")
        with urllib.request.urlopen(here, timeout=20, context=context) as answer:
            assert "Secure" in answer.headers["Set-Cookie"]
        with pytest.raises((urllib.error.URLError, ConnectionError)):
            urllib.request.urlopen(here.replace("https", "http"), timeout=20)


def test_the_list_alone(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = job.parent / "list.csv"
    assert (
        main(["review", str(job), "--order", "least-sure", "--n", "5", "--label", "lion", "--out", str(out)])
        == 0
    )
    lines = out.read_text().splitlines()
    assert len(lines) == 6
    assert all('"lion"' in line or ",lion," in line for line in lines[1:])
    assert "5 sequences written" in capsys.readouterr().out


def run(job: Path, *options: str) -> tuple[int, str]:
    """Exit code, and the one line of what is wrong; a browser has this process's event loop."""
    command = [sys.executable, "-m", "camtrap_batch", "review", str(job), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    (line,) = done.stderr.strip().splitlines()
    return done.returncode, line


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--address", "0.0.0.0"], "give --tls-cert and --tls-key"),
        (["--tls-cert", "x.pem"], "give both, or neither"),
        (["--tls-cert", "x.pem", "--tls-key", "y.pem"], "can't be used"),
        (["--out", "list.txt"], ".csv"),
    ],
)
def test_what_can_not_be_is_one_line(job: Path, options: list[str], words: str) -> None:
    code, line = run(job, *options)
    assert (code, words in line) == (2, True)


def test_without_a_result_of_merge(tmp_path: Path) -> None:
    write_run(tmp_path, [image("i1")])
    code, line = run(tmp_path / "job.yaml", "--set", f"output={tmp_path / 'other'}")
    assert (code, "the table sequences is not there yet; `camtrap reprocess`" in line) == (2, True)


def test_what_is_said_is_undone_by_nothing_else(job: Path) -> None:
    from camtrap_batch import open_run
    from camtrap_batch.review.items import AtOdds, Items

    found: Run = open_run(job)
    one, other = Items(found), Items(found)
    one.decide([0, 1], [{"label": "lion", "count": 2}], "ada", {0: None, 1: None})
    with pytest.raises(AtOdds) as odds:
        other.decide([1, 2], [{"label": "empty"}], "ben", {1: None, 2: None})
    assert list(odds.value.said) == [1]
    assert odds.value.said[1].labels == ({"label": "lion", "count": 2},)
    other.decide([1], [{"label": "empty"}], "ben", {1: other.said[1].decision})
    assert Items(found).said[1].labels == ({"label": "empty"},)
    assert len(rows_of(job)) == 3
