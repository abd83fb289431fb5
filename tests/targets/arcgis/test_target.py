"""A push through the real client: every row once, whatever goes wrong."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from support import wait_until
from support_arcgis import event_table, failures, require_equal

from camtrap_batch.errors import InputError
from camtrap_batch.portal import Portal, Service, connect
from camtrap_batch.rehearsal.layerserver import LayerServer
from camtrap_batch.targets import LayerRows, Push
from camtrap_batch.targets.arcgis import ArcGISTarget
from camtrap_batch.targets.arcgis import push as push_
from camtrap_batch.targets.arcgis.definition import layer_definition

N = 620


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(push_, "_PAUSE_S", 0.01)


def test_first_second_and_changed_push(make_bench: Any) -> None:
    rows = event_table(N)
    bench = make_bench(rows)
    push = bench.target().push([rows])
    assert push.edits.num_rows == N
    assert failures(push) == []
    require_equal(bench, rows)
    ids = {row["event_id"]: row["OBJECTID"] for row in bench.rows()}
    edits = push.edits.to_pylist()
    assert {row["key"]: row["object_id"] for row in edits} == ids

    bench.server.reset_requests()
    again = bench.target().push([rows])
    assert again.edits.num_rows == 0
    assert again.unchanged == {bench.url: N}
    assert "applyEdits" not in bench.server.requests()

    changed = event_table(N, shift=1)
    one = pa.concat_tables([rows.columns.slice(0, 5), changed.columns.slice(5, 1), rows.columns.slice(6)])
    rows_one = LayerRows("events", "event_id", one, rows.longitude, rows.latitude, utc_offset=rows.utc_offset)
    push = bench.target().push([rows_one])
    assert push.edits["edit"].to_pylist() == ["update"]
    assert bench.server.requests()["applyEdits"] == 1
    require_equal(bench, rows_one)
    assert {row["event_id"]: row["OBJECTID"] for row in bench.rows()} == ids


def test_a_place_that_is_no_longer_known_is_taken_away(make_bench: Any) -> None:
    rows = event_table(20)
    bench = make_bench(rows)
    bench.target().push([rows])
    nowhere = pa.chunked_array([pa.nulls(20, pa.float64())])
    rows = LayerRows("events", "event_id", rows.columns, nowhere, nowhere, utc_offset=rows.utc_offset)
    assert failures(bench.target().push([rows])) == []
    require_equal(bench, rows)


def test_dry_run_changes_nothing(make_bench: Any) -> None:
    rows = event_table(30)
    bench = make_bench(rows)
    push = bench.target().push([rows], dry_run=True)
    assert push.edits["edit"].to_pylist() == ["add"] * 30
    assert bench.rows() == []


def test_rows_that_are_no_more_are_deleted_with_prune_alone(make_bench: Any) -> None:
    rows, fewer = event_table(30), event_table(21)
    bench = make_bench(rows)
    bench.target().push([rows])
    push = bench.target().push([fewer])
    assert push.edits.num_rows == 0
    assert "--prune" in " ".join(push.notes)
    assert len(bench.rows()) == 30
    push = bench.target(prune=True).push([fewer])
    assert push.edits["edit"].to_pylist() == ["delete"] * 9
    require_equal(bench, fewer)


FAULTS: list[tuple[str, dict[str, Any]]] = [
    *(("http", {"status": status, "times": 2}) for status in (500, 502, 504, 429)),
    ("http", {"status": 413, "times": 1}),
    ("http", {"status": 503, "times": 2, "when": "after"}),
    ("error", {"code": 500, "times": 2}),
    ("error", {"code": 400, "message": "Operation rolled back."}),
    ("error", {"code": 503, "when": "after"}),
    ("empty", {}),
    ("empty", {"when": "after"}),
    ("rollback", {}),
    ("drop", {"when": "before", "times": 2}),
    ("drop", {"when": "after", "times": 2}),
    ("slow", {"seconds": 0.3}),
]


@pytest.mark.parametrize(("kind", "details"), FAULTS, ids=lambda value: str(value))
@pytest.mark.parametrize("indexed", [True, False], ids=["indexed", "no index"])
def test_a_fault_in_the_middle_of_a_push(
    make_bench: Any, kind: str, details: dict[str, Any], indexed: bool
) -> None:
    rows = event_table(N)
    bench = make_bench(rows, indexed=indexed)
    bench.server.faults.add(kind, "applyEdits", nth=2, **details)
    push = bench.target().push([rows])
    assert failures(push) == []
    assert bench.server.faults.waiting() == []
    require_equal(bench, rows)


def test_a_stalled_call_that_is_done_late_adds_nothing_twice(
    make_bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = event_table(N)
    bench = make_bench(rows, indexed=False)
    monkeypatch.setenv("CAMTRAP_ARCGIS_TOKEN", bench.server.token("ranger"))
    bench.service = Service(connect(Portal(bench.server.url, timeout_s=1.5)))
    bench.server.faults.add("stall", "applyEdits", nth=2, seconds=2.5, when="before")
    push = bench.target().push([rows])
    assert failures(push) == []
    with suppress(AssertionError):  # it is done now, or was before it was repeated
        wait_until(lambda: len(bench.rows()) > N, patience=5)
    bench.target().push([rows])
    require_equal(bench, rows)


@pytest.mark.parametrize("kind", ["http", "error", "empty", "drop", "truncate"])
@pytest.mark.parametrize(("operation", "nth"), [("query.ids", 2), ("query.count", 1), ("query", 5)])
def test_a_fault_while_reading_is_no_reason_to_add_again(
    make_bench: Any, kind: str, operation: str, nth: int
) -> None:
    rows = event_table(N)
    bench = make_bench(rows, max_records=100)
    bench.target().push([rows])
    details = {"code": 500} if kind == "error" else {"keep": 3} if kind == "truncate" else {}
    bench.server.faults.add(kind, operation, nth=nth, **details)
    push = bench.target().push([rows])
    assert push.edits.num_rows == 0
    require_equal(bench, rows)


def test_a_refused_row_is_named_with_the_servers_reason_and_the_rest_goes_through(make_bench: Any) -> None:
    rows = event_table(N)
    bench = make_bench(rows)
    bench.server.faults.add("rows", "applyEdits", rows=[3], times=None, code=1017, message="not this one")
    push = bench.target().push([rows])
    bad = push.edits.filter(pc.not_equal(push.edits["result"], "ok"))
    assert 1 <= bad.num_rows <= 3
    assert set(bad["result"].to_pylist()) == {"not this one (1017)"}
    assert len(bench.rows()) == N - bad.num_rows
    bench.server.faults.clear()
    assert bench.target().push([rows]).edits.num_rows == bad.num_rows
    require_equal(bench, rows)


@pytest.mark.parametrize("indexed", [True, False])
def test_two_pushes_at_the_same_time(make_bench: Any, indexed: bool) -> None:
    rows = event_table(N)
    bench = make_bench(rows, indexed=indexed)
    with ThreadPoolExecutor(2) as pool:
        pushes = [pool.submit(bench.target().push, [rows]) for _ in range(2)]
        for push in pushes:
            assert failures(push.result()) == []
    bench.target().push([rows])
    require_equal(bench, rows)


def test_an_expired_token_stops_the_push_and_nothing_is_edited_anonymously(tmp_path: Path) -> None:
    rows = event_table(N)
    with LayerServer(tmp_path / "own") as server, pytest.MonkeyPatch.context() as patch:
        server.create_service("open", [layer_definition(rows, 0, [], {})], anonymous="edit")
        url = server.layer_url(0, "open")

        def push() -> Push:
            token = server.token("ranger")
            patch.setenv("CAMTRAP_ARCGIS_TOKEN", token)
            service = Service(connect(Portal(server.url, timeout_s=5)))
            pushed = ArcGISTarget(service, "test job's", {"events": url}).push([rows])
            assert token not in str(pushed)
            return pushed

        server.faults.add("expire", "applyEdits", nth=2)
        first = push()
        assert first.stopped is not None
        assert "sign in again" in str(first.stopped)
        assert first.edits["result"].null_count > 0
        assert len(server.rows(0, "open")) < N
        assert failures(push()) == []
        assert len(server.rows(0, "open")) == N


def test_keys_of_another_job_are_not_touched(make_bench: Any) -> None:
    rows = event_table(20)
    bench = make_bench(rows)
    bench.target().push([rows])
    other = ArcGISTarget(bench.service, "other", {"events": bench.url})
    theirs = rows.columns.set_column(
        rows.columns.column_names.index("job"), "job", [pa.repeat("other", rows.columns.num_rows)]
    )
    with pytest.raises(InputError, match='belongs to job "test job\'s"'):
        other.push([LayerRows("events", "event_id", theirs, rows.longitude, rows.latitude)])
    require_equal(bench, rows)


def test_a_text_that_is_too_long_is_cut_and_said(make_bench: Any) -> None:
    rows = event_table(3)
    bench = make_bench(rows)
    labels = pa.array(["x" * 300, "y" * 255, "z"])
    long = rows.columns.set_column(2, "label", labels)
    rows = LayerRows("events", "event_id", long, rows.longitude, rows.latitude)
    push = bench.target().push([rows])
    assert "1 text is cut to 255 characters in label" in " ".join(push.notes)
    assert [len(row["label"]) for row in bench.rows()] == [255, 255, 1]
    assert bench.target().push([rows]).edits.num_rows == 0
