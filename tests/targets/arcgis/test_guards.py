"""Layers that hide rows, want more than we have, or keep values differently: seen before anything is sent."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from support_arcgis import event_table, failures, require_equal

from camtrap_batch.errors import InputError
from camtrap_batch.portal import Portal, Service, connect
from camtrap_batch.rehearsal.layerserver import LayerServer
from camtrap_batch.targets import LayerRows
from camtrap_batch.targets.arcgis import ArcGISTarget
from camtrap_batch.targets.arcgis import push as push_
from camtrap_batch.targets.arcgis.definition import layer_definition
from camtrap_batch.targets.arcgis.push import LayerPush

N = 43
OWN_ROWS = {
    "editFieldsInfo": {"creatorField": "Creator", "editorField": "Editor"},
    "ownershipBasedAccessControlForFeatures": {"allowOthersToQuery": False},
}


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(push_, "_PAUSE_S", 0.01)


def edited(bench: Any) -> set[str]:
    """Requests that change something."""
    return {"applyEdits", "append", "addToDefinition"} & set(bench.server.requests())


@pytest.mark.parametrize("indexed", [True, False], ids=["indexed", "no index"])
def test_a_view_with_a_filter_is_refused(make_bench: Any, indexed: bool) -> None:
    """Without an index it took 43 more copies at every push, with one it failed for ever."""
    rows = event_table(N)
    bench = make_bench(rows, indexed=indexed, isView=True, viewDefinitionQuery="label = 'lion'")
    for call in (bench.target().check, bench.target().push):
        with pytest.raises(
            InputError, match=r"is a view that shows only rows where label = 'lion'"
        ) as caught:
            call([rows])
        assert "\n" not in str(caught.value)
    assert not edited(bench)
    assert bench.rows() == []


def test_a_view_without_a_filter_is_a_layer_as_others_are(make_bench: Any) -> None:
    rows = event_table(N)
    bench = make_bench(rows, isView=True)
    assert failures(bench.target().push([rows])) == []
    require_equal(bench, rows)


def service_of(server: LayerServer, user: str) -> Service:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CAMTRAP_ARCGIS_TOKEN", server.token(user))
        return Service(connect(Portal(server.url, timeout_s=5)))


def test_a_layer_that_shows_ones_own_rows_alone_takes_its_owner(make_bench: Any) -> None:
    rows = event_table(N)
    bench = make_bench(rows, **OWN_ROWS)
    assert failures(bench.target().push([rows])) == []  # the ranger owns it
    bench.server.reset_requests()
    bench.service = service_of(bench.server, "warden")
    with pytest.raises(InputError, match="ownership-based access"):
        bench.target().push([rows])
    assert not edited(bench)
    require_equal(bench, rows)


def hide_the_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    """A view's description no longer says which rows it shows."""
    describe = Service.describe
    monkeypatch.setattr(
        Service,
        "describe",
        lambda self, url: {**describe(self, url), "viewDefinitionQuery": None},
    )


def test_rows_that_a_layer_hides_without_saying_so_are_seen_at_the_first(
    make_bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = event_table(N)
    bench = make_bench(rows, indexed=False, viewDefinitionQuery="label = 'lion'")
    hide_the_filter(monkeypatch)
    for _ in range(2):
        push = bench.target().push([rows])
        assert "does not show a row that it has just taken" in str(push.stopped)
        assert bench.rows() == []


@pytest.mark.parametrize("indexed", [True, False], ids=["indexed", "no index"])
def test_rows_that_a_layer_hides_after_the_first_are_taken_back(
    make_bench: Any, monkeypatch: pytest.MonkeyPatch, indexed: bool
) -> None:
    """Without an index, each push added the hidden ones once more."""
    rows = event_table(N)
    bench = make_bench(rows, indexed=indexed, viewDefinitionQuery="event_id < 'event-00010'")
    hide_the_filter(monkeypatch)
    for hidden in ("33 rows that it has just taken", "a row that it has just taken"):
        push = bench.target().push([rows])
        assert f"does not show {hidden} ('event-00010'), which" in str(push.stopped)
        assert sorted(row["event_id"] for row in bench.rows()) == [f"event-{n:05d}" for n in range(10)]
        assert push.edits["result"].to_pylist().count("ok") == (10 if "33" in hidden else 0)


def foreign(rows: LayerRows, job: str) -> LayerRows:
    at = rows.columns.column_names.index("job")
    owner = pa.repeat(job, rows.columns.num_rows)
    return replace(rows, columns=rows.columns.set_column(at, "job", [owner]))


@pytest.mark.parametrize("indexed", [True, False], ids=["indexed", "no index"])
def test_a_row_that_another_job_adds_meanwhile_is_a_failed_row(make_bench: Any, indexed: bool) -> None:
    """It was overwritten, and taken over, with exit code 0."""
    rows, same = event_table(N), event_table(3, shift=7)
    bench = make_bench(rows, indexed=indexed)
    ours = LayerPush(bench.service, "test job's", rows, bench.url, {})
    ours.plan()
    theirs = foreign(same, "other")
    other = ArcGISTarget(bench.service, "other", {"events": bench.url})
    assert failures(other.push([theirs])) == []
    if not indexed:  # the outcome of the call is not known, and by key there is a row
        bench.server.faults.add("drop", "applyEdits", nth=2, when="before")
    ours.send()
    results = {row["key"]: row["result"] for row in ours.table().to_pylist()}
    failed = {key: result for key, result in results.items() if result != "ok"}
    assert set(failed) <= {"event-00000", "event-00001", "event-00002"}
    assert set(failed) >= {"event-00001", "event-00002"}
    assert {result for result in failed.values() if "belongs to job 'other'" in result} == set(
        failed.values()
    )
    held = {row["event_id"]: row["n_images"] for row in bench.rows() if row["job"] == "other"}
    assert held == {"event-00000": 7, "event-00001": 8, "event-00002": 9}


def test_a_field_that_another_push_adds_meanwhile(make_bench: Any) -> None:
    rows = event_table(N)
    fields = [field for field in layer_definition(rows, 0, [], {})["fields"] if field["name"] != "n_images"]
    bench = make_bench(rows, fields=fields)
    pushes = [LayerPush(bench.service, "test job's", rows, bench.url, {}) for _ in range(2)]
    for push in pushes:
        push.plan()
        assert [field["name"] for field in push.remote.lacking] == ["n_images"]
    for push in pushes:
        push.prepare()
        push.send()
    require_equal(bench, rows)


def test_dates_to_the_second_are_no_reason_to_edit(make_bench: Any) -> None:
    """Times have milliseconds: every push made 20 updates, and failed."""
    rows = event_table(20)
    bench = make_bench(rows, rehearsal={"datesToTheSecond": True})
    assert failures(bench.target().push([rows])) == []
    assert {row["start"] % 1000 for row in bench.rows() if row["start"] is not None} == {0}
    assert bench.target().push([rows]).edits.num_rows == 0
    at = rows.columns.column_names.index("start")
    later = pc.add(rows.columns["start"], pa.scalar(1_000_000, pa.duration("us")))
    moved = replace(rows, columns=rows.columns.set_column(at, "start", later))
    assert set(bench.target().push([moved]).edits["edit"].to_pylist()) == {"update"}
    assert bench.target().push([moved]).edits.num_rows == 0


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("🐘" * 200, "🐘" * 127),  # 254 units; another half elephant would be the 255th
        ("x" + "🐘" * 200, "x" + "🐘" * 127),
        ("é" * 300, "é" * 255),
        ("🐘" * 127 + "x", "🐘" * 127 + "x"),
    ],
    ids=["elephants", "odd", "accents", "fits"],
)
def test_text_is_cut_to_what_the_layer_counts(make_bench: Any, text: str, kept: str) -> None:
    rows = event_table(3)
    labels = pa.array([text, "lion", None])
    rows = replace(rows, columns=rows.columns.set_column(2, "label", labels))
    bench = make_bench(rows)
    push = bench.target().push([rows])
    assert failures(push) == []
    assert (" cut to " in " ".join(push.notes)) == (text != kept)
    assert [row["label"] for row in bench.rows()] == [kept, "lion", None]
    assert bench.target().push([rows]).edits.num_rows == 0


def test_what_refuses_everything_is_asked_some_times_and_not_thousands(make_bench: Any) -> None:
    rows = event_table(1500)
    bench = make_bench(rows)
    bench.server.faults.add("error", "applyEdits", code=400, message="schema lock", times=None)
    push = bench.target().push([rows])
    assert "schema lock" in str(push.stopped)
    assert "requests one after the other" in str(push.stopped)
    assert bench.server.requests()["applyEdits"] < 60
    assert bench.rows() == []
    bench.server.faults.clear()
    assert failures(bench.target().push([rows])) == []
    require_equal(bench, rows)


def test_one_bad_batch_does_not_stop_the_others(make_bench: Any) -> None:
    rows = event_table(600)
    bench = make_bench(rows)
    bench.server.faults.add("error", "applyEdits", nth=2, code=400, message="not this", times=6)
    assert failures(bench.target().push([rows])) == []
    require_equal(bench, rows)


def test_retry_after_is_heeded(make_bench: Any) -> None:
    rows = event_table(20)
    bench = make_bench(rows)
    bench.server.faults.add("http", "applyEdits", nth=2, status=429, retry_after=2)
    began = time.monotonic()
    assert failures(bench.target().push([rows])) == []
    assert time.monotonic() - began >= 2  # never less, however busy the machine is
    require_equal(bench, rows)
    bench.server.faults.add("http", "query.ids", status=503, retry_after=1)
    began = time.monotonic()
    assert bench.target().push([rows]).edits.num_rows == 0
    assert time.monotonic() - began >= 1


def test_keys_that_differ_in_case_alone(make_bench: Any) -> None:
    rows = event_table(4)
    at = rows.columns.column_names.index("event_id")
    keys = pa.array(["Cam1", "b", "CAM1", "c"])
    rows = replace(rows, columns=rows.columns.set_column(at, "event_id", keys))
    bench = make_bench(event_table(4), rehearsal={"ignoresCase": True})
    with pytest.raises(InputError, match="'Cam1' and 'CAM1' differ only in upper and lower case"):
        bench.target().push([rows])
    assert not edited(bench)


@pytest.mark.parametrize("append", [True, False], ids=["append", "batches"])
@pytest.mark.parametrize("ignores_case", [True, False], ids=["ignores case", "minds case"])
def test_a_key_that_gets_another_case_keeps_its_row(
    make_bench: Any, ignores_case: bool, append: bool
) -> None:
    """As a renamed camera does: it could never be added beside its own row."""
    rows = event_table(4)
    bench = make_bench(rows, rehearsal={"ignoresCase": ignores_case})
    assert failures(bench.target().push([rows])) == []
    at = rows.columns.column_names.index("event_id")
    keys = pa.chunked_array([["EVENT-00000", *rows.columns["event_id"].to_pylist()[1:]]])
    renamed = replace(rows, columns=rows.columns.set_column(at, "event_id", keys))
    push = bench.target(append=append).push([renamed])
    assert push.edits.select(["key", "edit", "result"]).to_pylist() == [
        {"key": "EVENT-00000", "edit": "update", "result": "ok"}
    ]
    require_equal(bench, renamed)
    assert bench.target(append=append).push([renamed]).edits.num_rows == 0


def test_a_key_that_another_jobs_row_has_in_other_case(make_bench: Any) -> None:
    rows = event_table(4)
    bench = make_bench(rows, rehearsal={"ignoresCase": True})
    bench.target().push([rows])
    at = rows.columns.column_names.index("event_id")
    keys = pc.utf8_upper(rows.columns["event_id"])
    theirs = foreign(replace(rows, columns=rows.columns.set_column(at, "event_id", keys)), "other")
    with pytest.raises(InputError, match="belongs to job"):
        ArcGISTarget(bench.service, "other", {"events": bench.url}).push([theirs])
    assert len(bench.rows()) == 4


def test_a_field_that_has_to_have_a_value(make_bench: Any) -> None:
    rows = event_table(4)
    fields = layer_definition(rows, 0, [], {})["fields"]
    park = {"name": "park", "type": "esriFieldTypeString", "length": 20, "nullable": False}
    bench = make_bench(rows, fields=[*fields, park])
    with pytest.raises(InputError, match="field park must have a value in every row"):
        bench.target().push([rows])
    assert not edited(bench)
    names = {"events": {"best_image_id": "park"}}
    urls = {"events": bench.url}
    filled = ArcGISTarget(bench.service, "test job's", urls, names)
    filled.check([rows])


def test_a_table_where_points_are_meant(make_bench: Any) -> None:
    rows = event_table(4)
    bench = make_bench(rows, type="Table")
    with pytest.raises(InputError, match="is a table, but events have coordinates"):
        bench.target().push([rows])
    assert not edited(bench)
