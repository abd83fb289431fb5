"""The page, its JSON and the metrics, of a real stage on real workers."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from dask.utils import key_split
from distributed import Client
from support import PATIENCE_S, wait_until
from support_browser import chromium
from support_cluster import Started

from camtrap_batch import Job, run_stage
from camtrap_batch.engine.dask.board import Board
from camtrap_batch.engine.dask.publisher import Publisher, page_url
from camtrap_batch.monitor.progress import Progress
from camtrap_batch.rehearsal import write_dataset
from camtrap_batch.store.shards import Plan, Receipt, Shard

IMAGES = 60
WORKERS = {"cpu-0", "cpu-1"}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A cluster whose scheduler has a process to itself: a process has one registry of metrics."""
    started = Started(tmp_path_factory.mktemp("dask"))
    try:
        address = started.scheduler("--host", "127.0.0.1")
        for name in WORKERS:
            dashboard = ["--host", "127.0.0.1", "--dashboard", "--dashboard-address", ":0"]
            started.worker(address, "--name", name, *dashboard)
        with Client(address, set_as_default=False) as client:
            client.wait_for_workers(len(WORKERS), timeout=PATIENCE_S)
            yield client
    finally:
        started.stop()


@pytest.fixture(scope="module")
def validated(client: Client, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A job that was validated on `client`."""
    folder = tmp_path_factory.mktemp("page")
    write_dataset(folder / "data", cameras=3, images=IMAGES, size=(160, 120))
    dataset = {"format": "folder", "images": str(folder / "data/images"), "location": {"level": 1}}
    job = Job.model_validate(
        {"name": "page", "output": str(folder), "dataset": dataset, "validate": {"shard_size": 10}}
    )
    run_stage(job, "catalog", client)
    run_stage(job, "validate", client)
    return job


def get(url: str) -> tuple[str, dict[str, str]]:
    with urllib.request.urlopen(url, timeout=20) as answer:
        return answer.read().decode(), dict(answer.headers)


def state_of(client: Client) -> dict[str, Any]:
    state: dict[str, Any] = json.loads(get(f"{page_url(client.dashboard_link)}.json")[0])
    return state


def test_json_has_what_the_receipts_say(client: Client, validated: Job) -> None:
    state = state_of(client)
    assert (state["job"], state["driver"]) == ("page", "finished")
    stage = next(stage for stage in state["stages"] if stage["stage"] == "validate")
    receipts = [
        json.loads(path.read_text()) for path in Path(validated.run_url).glob("receipts/validate/*/*.json")
    ]
    assert stage["state"] == "done"
    assert stage["rows"] == stage["rows_done"] == sum(receipt["rows"] for receipt in receipts)
    assert stage["shards"] == stage["shards_done"] == len(receipts)
    assert stage["cameras"] == stage["cameras_done"] > 1
    assert sum(stage["counts"].values()) == stage["rows"]
    for phase in ("read", "decode", "write", "total"):
        assert stage["seconds"][phase] == pytest.approx(
            sum(receipt["seconds"].get(phase, 0) for receipt in receipts), abs=0.01
        )
    assert {worker["name"] for worker in state["workers"]} == WORKERS


def test_page_loads_nothing_from_elsewhere(client: Client, validated: Job) -> None:
    page, headers = get(page_url(client.dashboard_link))
    addresses = set(re.findall(r"https?://[^\s\"'`)]+", page))
    assert addresses == {"http://www.w3.org/2000/svg"}, "the name of a language, not an address"
    assert "{nonce}" not in page
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; connect-src 'self'")
    nonce = re.search(r"script-src 'nonce-([^']+)'", policy)
    assert nonce is not None
    assert f'<script nonce="{nonce[1]}">' in page
    assert "innerHTML" not in page


def test_metrics_of_scheduler_and_workers_add_up(client: Client, validated: Job) -> None:
    dashboard = client.dashboard_link.removesuffix("/status")
    stage = next(stage for stage in state_of(client)["stages"] if stage["stage"] == "validate")
    theirs: dict[str, float] = {}
    for address, info in client.scheduler_info(n_workers=-1)["workers"].items():
        host = address.rpartition("/")[2].rpartition(":")[0]
        add_counts(theirs, get(f"http://{host}:{info['services']['dashboard']}/metrics")[0])
    ours = add_counts({}, get(f"{dashboard}/metrics")[0])
    for status, rows in stage["counts"].items():
        name = f'camtrap_images_total{{stage="validate",status="{status}"}}'
        assert ours[name] == rows
        assert theirs[name] == rows
    assert ours['camtrap_stage_images_done{stage="validate"}'] == stage["rows"]
    assert {'camtrap_queue{state="waiting"}', 'camtrap_queue{state="in_flight"}'} <= set(ours)


def add_counts(into: dict[str, float], text: str) -> dict[str, float]:
    for line in text.splitlines():
        if line.startswith("camtrap_"):
            name, _, value = line.rpartition(" ")
            into[name] = into.get(name, 0) + float(value)
    return into


def test_task_names_and_report_name_the_stage(client: Client, validated: Job) -> None:
    assert key_split("validate-99bc418948f649e3-dafc7b9d2e8b3456.0.1-0") == "validate"
    reports = list(Path(validated.run_url).glob("performance/*.html"))
    plans = {path.stem for path in Path(validated.run_url).glob("plans/validate/*.json")}
    assert {report.stem.removeprefix("validate-") for report in reports} == plans
    assert "Task Stream" in reports[0].read_text()


@pytest.fixture
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.mark.parametrize("width", [390, 1400])
def test_page_of_a_training_moves_and_says_what_comes_next(
    client: Client, browser: Any, tmp_path: Path, width: int
) -> None:
    """As the terminal shows it; the page of a phone hides nothing, and the report is one click away."""
    (tmp_path / "report" / "parts").mkdir(parents=True)
    (tmp_path / "report" / "index.html").write_text(
        "<title>its report</title><script src=parts/a.js></script>"
    )
    (tmp_path / "report" / "parts" / "a.js").write_text("document.title += '!'")
    (tmp_path / "secret.html").write_text("not of the report")
    progress = Progress("job", str(tmp_path))
    progress.expect(
        {"train": "train a classifier", "infer": "classify every usable image", "merge": "events"}
    )
    progress.begin("train")
    progress.planned(Plan.make("train", [Shard("t", 0, 1015)], {}), {}, None)
    publisher = Publisher(progress)
    publisher.open(client)
    page = browser.new_page(viewport={"width": width, "height": 900})
    wrong: list[str] = []
    page.on("pageerror", lambda problem: wrong.append(str(problem)))
    page.goto(page_url(client.dashboard_link))
    page.wait_for_selector("#whole .whole")
    assert "Next: infer, merge (infer: classify every usable image)" in page.inner_text("#whole")
    told = {
        "phase": "train",
        "epoch": 1,
        "epochs": 4,
        "batch": 5,
        "batches": 10,
        "images_per_s": 9.0,
        "train_loss": 2.0,
    }
    progress.trained("train", told, 0.28, "epoch 1/4, loss 2.000, 9 images/s")
    wait_until(lambda: "28 %" in page.inner_text("#stages"))
    assert "0 of 1,015 images" not in page.inner_text("#stages")
    assert page.evaluate("document.querySelector('#stages .bar i').style.width") == "28%"
    assert page.evaluate("document.querySelector('.whole b').style.width") == "28%"
    assert "epoch 1/4, loss 2.000" in page.inner_text("#stages")
    assert "GPU" not in page.inner_text("body")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    for name in ("cpu-0", "idle", "MB"):
        assert page.locator("#workers td", has_text=name).first.is_visible()
    progress.end("train", "done", 1015, 1)
    progress.begin("detect")
    plan = Plan.make("detect", [Shard("d", 0, 9)], {})
    progress.planned(plan, {}, None)
    seen = {"labels": {"animal": 5, "nothing": 4}}
    progress.shard_done(plan.shards[0], Receipt("detect", plan.id, "d", 9, (), {}, {}, {}, "w", "a", seen))
    wait_until(lambda: "animal" in page.inner_text("#species"))
    assert "Images in which the detector finds such a box" in page.inner_text("#species")
    progress.end("detect", "done", 9, 1)
    progress.begin("infer")
    plan = Plan.make("infer", [Shard("a", 0, 10), Shard("b", 10, 20)], {})
    progress.planned(plan, {}, None)
    named = {"labels": {"lion": 7, "empty": 3}}
    done = Receipt("infer", plan.id, "a", 10, (), {"ok": 10}, {}, {}, "w", "a", named)
    progress.shard_done(plan.shards[0], done)
    wait_until(lambda: "lion" in page.inner_text("#species"))
    assert page.locator("#species .species").inner_text().split() == ["lion", "7", "empty", "3"]
    with page.expect_navigation():
        page.click("text=the report")
    wait_until(lambda: page.title() == "its report!")
    link = page.url.rpartition("/")[0]
    with pytest.raises(urllib.error.HTTPError, match="404"):
        get(f"{link}/..%2Fsecret.html")
    assert wrong == []
    page.close()
    publisher.close()


@pytest.fixture
def foreign_scheduler(tmp_path: Path) -> Iterator[str]:
    """Address of a scheduler in whose Python there is no camtrap_batch."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class No:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] == 'camtrap_batch':\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, No())\n"
    )
    file = tmp_path / "scheduler.json"
    process = subprocess.Popen(
        [sys.executable, "-m", "dask", "scheduler", "--host", "127.0.0.1", "--port", "0",
         "--dashboard-address", "127.0.0.1:0", "--scheduler-file", str(file)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    with process:
        try:
            wait_until(lambda: file.exists() and bool(file.read_text().strip()))
            yield json.loads(file.read_text())["address"]
        finally:
            process.kill()


def test_a_scheduler_without_the_package_serves_the_page(foreign_scheduler: str) -> None:
    from camtrap_batch.engine.dask.publisher import Publisher
    from camtrap_batch.monitor.progress import Progress

    with Client(foreign_scheduler, set_as_default=False) as client:
        with pytest.raises(ModuleNotFoundError):
            client.run_on_scheduler(__import__, "camtrap_batch")
        progress = Progress("elsewhere", "/nowhere/run")
        progress.begin("validate")
        publisher = Publisher(progress)
        publisher.open(client)
        assert publisher.problem is None
        link = client.dashboard_link
        state = state_of(client)
        assert (state["job"], state["driver"]) == ("elsewhere", "connected")
        assert [stage["state"] for stage in state["stages"]] == ["running"]
        progress.end("validate", "failed")
        publisher.close()
        assert state_of(client)["stages"][0]["state"] == "failed"
    assert "<title>camtrap</title>" in get(page_url(link))[0]


def test_a_driver_that_goes_without_a_word_is_seen(foreign_scheduler: str) -> None:
    from camtrap_batch.engine.dask.publisher import Publisher
    from camtrap_batch.monitor.progress import Progress

    with Client(foreign_scheduler, set_as_default=False) as watcher:
        with Client(foreign_scheduler, set_as_default=False) as client:
            Publisher(Progress("gone", "/nowhere/run")).open(client)
            assert state_of(watcher)["driver"] == "connected"
        wait_until(lambda: state_of(watcher)["driver"] == "gone")
        page = get(watcher.dashboard_link.replace("/status", "/metrics"))[0]
        assert 'camtrap_driver{job_name="gone",state="gone"} 1.0' in page


def test_a_driver_of_which_nothing_is_heard_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its machine lost the network: the connection never ends."""
    import asyncio

    from camtrap_batch.monitor.counters import Totals

    board = Board("")
    board.totals, board.scheduler = Totals(), SimpleNamespace(workers={})
    state = {"job": "j", "folder": "/f", "stages": [], "totals": []}
    asyncio.run(board.receive(json.dumps(state), "client", "connected"))

    def drivers() -> dict[str, float]:
        (family,) = (one for one in board.collect() if one.name == "camtrap_driver")
        return {sample.labels["state"]: sample.value for sample in family.samples}

    assert board.as_record()["driver"] == "connected"
    assert drivers() == {"connected": 1, "finished": 0, "gone": 0}
    # Of the very module that the class is of, whatever other tests have imported meanwhile.
    monkeypatch.setitem(Board.as_record.__globals__, "_SILENT_S", -1.0)
    assert board.as_record()["driver"] == "gone"
    assert drivers() == {"connected": 0, "finished": 0, "gone": 1}
    asyncio.run(board.receive(json.dumps(state), "client", "finished"))
    assert board.as_record()["driver"] == "finished"


def test_counters_of_a_second_driver_go_on() -> None:
    """A counter that fell back would be read as a restart, and what was done before counted once more."""
    import asyncio

    board = Board("")
    from camtrap_batch.monitor.counters import Totals

    board.totals = Totals()

    def tell(client: str, images: int) -> None:
        totals = [["camtrap_images", ["validate", "ok"], images]]
        state = {"job": "j", "folder": "/f", "stages": [], "totals": totals}
        asyncio.run(board.receive(json.dumps(state), client, "connected"))

    for client, images in (("a", 10), ("a", 25), ("b", 0), ("b", 5)):
        tell(client, images)
    assert board.totals.items() == [("camtrap_images", ["validate", "ok"], 30)]


def test_of_many_jobs_the_last_ones_are_kept() -> None:
    import asyncio

    from camtrap_batch.monitor.counters import Totals

    board = Board("")
    board.totals = Totals()
    for number in range(40):
        state = {"job": f"j{number}", "folder": f"/f{number}", "stages": [], "totals": []}
        asyncio.run(board.receive(json.dumps(state), "client", "connected"))
    assert list(board.jobs) == [f"/f{number}" for number in range(32, 40)]
