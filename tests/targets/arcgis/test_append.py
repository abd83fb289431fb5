"""A push by append jobs through the real client: every row once, whatever becomes of a job."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from support import wait_until
from support_arcgis import Bench, event_table, failures, require_equal

from camtrap_batch.errors import InputError
from camtrap_batch.portal import Portal, Service, connect
from camtrap_batch.rehearsal.layerserver import LayerServer
from camtrap_batch.targets import LayerRows, Push
from camtrap_batch.targets.arcgis import append
from camtrap_batch.targets.arcgis import push as push_
from camtrap_batch.targets.arcgis.definition import layer_definition

N, ROWS = 620, 300  # three jobs


@pytest.fixture(autouse=True)
def _small_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(append, "ROWS", ROWS)
    monkeypatch.setattr(append, "_PAUSE_S", 0.02)
    monkeypatch.setattr(push_, "_PAUSE_S", 0.01)


def with_changes(rows: LayerRows) -> LayerRows:
    """Every other row with another number; the first 50 without a place."""
    n = rows.columns.num_rows
    number = pa.array([value + row % 2 for row, value in enumerate(rows.columns["n_images"].to_pylist())])
    place = rows.columns.column_names.index("n_images")
    columns = rows.columns.set_column(place, "n_images", number.cast(pa.int32()))
    known = pa.array([row >= 50 for row in range(n)])
    x, y = (pa.chunked_array([pc.if_else(known, axis, None)]) for axis in (rows.longitude, rows.latitude))
    return LayerRows("events", "event_id", columns, x, y, utc_offset=rows.utc_offset)


def test_first_second_changed_and_pruned_push(make_bench: Any) -> None:
    rows = event_table(N)
    bench = make_bench(rows)
    push = bench.target(append=True).push([rows])
    assert failures(push) == []
    require_equal(bench, rows)
    ids = {row["event_id"]: row["OBJECTID"] for row in bench.rows()}
    assert {row["key"]: row["object_id"] for row in push.edits.to_pylist()} == ids
    assert bench.server.requests()["append"] == 3
    assert "applyEdits" not in bench.server.requests()

    bench.server.reset_requests()
    assert bench.target(append=True).push([rows]).edits.num_rows == 0
    assert bench.target(append=True).push([with_changes(rows)], dry_run=True).edits.num_rows > 0
    assert not {"append", "applyEdits"} & set(bench.server.requests())

    changed = with_changes(rows)
    push = bench.target(append=True).push([changed])
    assert failures(push) == []
    assert set(push.edits["edit"].to_pylist()) == {"update"}
    require_equal(bench, changed)
    assert {row["event_id"]: row["OBJECTID"] for row in bench.rows()} == ids

    fewer = event_table(N - 40)
    assert failures(bench.target(append=True, prune=True).push([fewer])) == []
    require_equal(bench, fewer)


FAULTS: list[tuple[str, str, dict[str, Any]]] = [
    *(("append", "http", {"status": status}) for status in (500, 429)),
    ("append", "http", {"status": 503, "when": "after"}),
    ("append", "http", {"status": 413}),
    ("append", "error", {"code": 500}),
    ("append", "error", {"code": 400, "message": "no append today"}),
    ("append", "empty", {}),
    ("append", "empty", {"when": "after"}),
    ("append", "drop", {"when": "before"}),
    ("append", "drop", {"when": "after"}),
    ("append", "slow", {"seconds": 0.3}),
    ("append.job", "error", {"keep": 0, "message": "out of memory"}),
    ("append.job", "error", {"keep": 120, "message": "out of memory"}),
    ("append.job", "rows", {"rows": [3, 7], "message": "not these"}),
    ("append.job", "rows", {"message": "none of these"}),
    ("append.status", "http", {"status": 500}),
    ("append.status", "error", {"code": 404, "message": "no such job"}),
    ("append.status", "empty", {}),
    ("append.status", "drop", {"when": "before"}),
]


@pytest.mark.parametrize(("operation", "kind", "details"), FAULTS, ids=lambda value: str(value))
def test_a_fault_at_a_job(make_bench: Any, operation: str, kind: str, details: dict[str, Any]) -> None:
    rows = event_table(N)
    bench = make_bench(rows)
    bench.target(append=True).push([event_table(250, shift=1)])
    bench.server.faults.add(kind, operation, **details)
    push = bench.target(append=True).push([rows])
    assert failures(push) == []
    assert bench.server.faults.waiting() == []
    require_equal(bench, rows)
    assert bench.target(append=True).push([rows]).edits.num_rows == 0


def test_a_job_that_is_stuck_is_left_alone_and_its_rows_are_sent(
    make_bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(append, "_STILL_S", 0.1)
    rows = event_table(N)
    bench = make_bench(rows)
    bench.server.faults.add("stall", "append.job", seconds=2)
    push = bench.target(append=True).push([rows])
    assert failures(push) == []
    assert "300 rows were not done by append jobs" in (said := " ".join(push.notes))
    assert "stays pending" in said
    require_equal(bench, rows)
    # The job is done at last, beside a layer that has all of its rows.
    bench.server.wait_for_jobs()
    require_equal(bench, rows)


def test_after_three_jobs_that_fail_all_goes_in_batches(
    make_bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(append, "ROWS", 100)
    rows = event_table(N)
    bench = make_bench(rows)
    bench.server.reset_requests()
    bench.server.faults.add("http", "append", times=None)
    push = bench.target(append=True).push([rows])
    bench.server.faults.clear()
    assert failures(push) == []
    assert bench.server.requests()["append"] == 3
    assert "620 rows were not done by append jobs, now sent in batches: HTTP 503" in push.notes[0]
    require_equal(bench, rows)


def test_retry_after_is_heeded_between_jobs(make_bench: Any) -> None:
    rows = event_table(N)
    bench = make_bench(rows)
    bench.server.faults.add("http", "append", status=503, retry_after=2)
    began = time.monotonic()
    assert failures(bench.target(append=True).push([rows])) == []
    assert time.monotonic() - began >= 2
    require_equal(bench, rows)


def test_a_refused_row_is_named_with_the_servers_reason(make_bench: Any) -> None:
    rows = event_table(N)
    bench = make_bench(rows)
    bench.server.faults.add("rows", "append.job", rows=[3], message="not this one")
    bench.server.faults.add("rows", "applyEdits", rows=[0], times=None, code=1017, message="not this one")
    push = bench.target(append=True).push([rows])
    bad = push.edits.filter(pc.not_equal(push.edits["result"], "ok"))
    assert bad.select(["key", "result"]).to_pylist() == [
        {"key": "event-00003", "result": "not this one (1017)"}
    ]
    assert len(bench.rows()) == N - 1
    bench.server.faults.clear()
    assert bench.target(append=True).push([rows]).edits.num_rows == 1
    require_equal(bench, rows)


def test_ctrl_c_while_a_job_runs(make_bench: Any) -> None:
    rows = event_table(N)
    bench = make_bench(rows)
    bench.server.faults.add("stall", "append.job", nth=2, seconds=1.5)
    stop = threading.Event()
    bench.server.reset_requests()

    def interrupt() -> None:
        wait_until(lambda: bench.server.requests().get("append.job") == 2)
        stop.set()

    thread = threading.Thread(target=interrupt)
    thread.start()
    push = bench.target(append=True, stop=stop).push([rows])
    thread.join()
    assert push.edits["result"].to_pylist().count("ok") == ROWS
    assert push.edits["result"].null_count == N - ROWS
    assert failures(bench.target(append=True).push([rows])) == []
    bench.server.wait_for_jobs()
    require_equal(bench, rows)


_PUSH = """
import sys
from support_arcgis import event_table
from camtrap_batch.targets.arcgis import ArcGISTarget, append
from camtrap_batch.portal import Portal, Service, connect
append.ROWS = 300
portal, url = sys.argv[1:]
service = Service(connect(Portal(portal)))
ArcGISTarget(service, "test job's", {"events": url}, append=True).push([event_table(620)])
"""


def test_a_push_that_is_killed_and_repeated(make_bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = event_table(N)
    bench = make_bench(rows)
    monkeypatch.setenv("CAMTRAP_ARCGIS_TOKEN", bench.server.token("ranger"))
    bench.server.reset_requests()
    bench.server.faults.add("stall", "append.job", nth=2, seconds=1.5)
    path = os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])
    process = subprocess.Popen(
        [sys.executable, "-c", _PUSH, bench.server.url, bench.url], env={**os.environ, "PYTHONPATH": path}
    )
    wait_until(lambda: bench.server.requests().get("append.job") == 2)
    process.kill()
    process.wait()
    assert len(bench.rows()) == ROWS
    assert failures(bench.target(append=True).push([rows])) == []
    require_equal(bench, rows)
    bench.server.wait_for_jobs()
    require_equal(bench, rows)


@pytest.mark.parametrize(
    ("operation", "nth", "least"), [("append", 1, 0), ("append.status", 2, 0), ("query.ids", 3, N)]
)
def test_an_expired_token_stops_the_push_and_the_same_command_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str, nth: int, least: int
) -> None:
    rows = event_table(N)
    with LayerServer(tmp_path / "own") as server:
        server.create_service("open", [layer_definition(rows, 0, [], {})], anonymous="edit")

        def push() -> Push:
            monkeypatch.setenv("CAMTRAP_ARCGIS_TOKEN", server.token("ranger"))
            bench = Bench(server, Service(connect(Portal(server.url))), "open", server.layer_url(0, "open"))
            return bench.target(append=True).push([rows])

        server.faults.add("expire", operation, nth=nth)
        first = push()
        assert first.stopped is not None
        assert "sign in again" in str(first.stopped)
        done = first.edits["result"].to_pylist().count("ok")
        assert least <= done <= len(server.rows(0, "open"))  # in the ledger, as far as the server has said
        assert failures(push()) == []
        server.wait_for_jobs()
        assert len(server.rows(0, "open")) == N


def test_a_layer_without_an_index_is_refused_before_anything_is_changed(make_bench: Any) -> None:
    rows = event_table(5)
    bench = make_bench(rows, indexed=False)
    with pytest.raises(InputError, match=r"unique index on event_id; `camtrap layer create JOB` adds one"):
        bench.target(append=True).push([rows])
    with pytest.raises(InputError, match="unique index"):
        bench.target(append=True).check([rows])
    assert bench.rows() == []


@pytest.mark.parametrize(
    ("formats", "message"),
    [("", "takes no append jobs"), ("csv", "takes no featureCollection in append jobs, only csv")],
)
def test_a_layer_that_takes_no_such_job(make_bench: Any, formats: str, message: str) -> None:
    rows = event_table(5)
    bench = make_bench(rows, supportedAppendFormats=formats)
    with pytest.raises(InputError, match=f"{bench.url}: {message}.*leave out publish.append"):
        bench.target(append=True).push([rows], dry_run=True)
    assert failures(bench.target().push([rows])) == []
