"""Every fault does what it says, and to the request that it is meant for."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from pydantic import ValidationError
from support_layerserver import camera

from camtrap_batch.errors import InputError
from camtrap_batch.rehearsal.layerserver import Fault, Faults, LayerServer
from camtrap_batch.rehearsal.layerserver.faults import read_faults

pytestmark = pytest.mark.usefixtures("no_faults_left")


@pytest.fixture
def plain() -> Iterator[requests.Session]:
    """What does not try again by itself."""
    with requests.Session() as session:
        yield session


@pytest.fixture
def push(server: LayerServer, service: str, plain: requests.Session) -> Any:
    """Sends adds with these keys, and gives back the answer."""

    def push(*keys: str, scheme: str = "http", **options: Any) -> requests.Response:
        form = {"f": "json", "adds": json.dumps([camera(key) for key in keys]), "rollbackOnFailure": "false"}
        url = f"{server.layer_url(0, service)}/applyEdits".replace("http:", f"{scheme}:")
        return plain.post(url, data=form, **{"timeout": 10, **options})

    return push


@pytest.fixture
def keys(server: LayerServer, service: str) -> Any:
    return lambda: [row["key"] for row in server.rows(0, service)]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("status", [500, 502, 504, 413, 429])
def test_http(server: LayerServer, push: Any, keys: Any, status: int, when: str) -> None:
    server.faults.add(
        "http", "applyEdits", status=status, when=when, retry_after=7 if status == 429 else None
    )
    answer = push("a")
    assert answer.status_code == status
    assert answer.headers.get("Retry-After") == ("7" if status == 429 else None)
    assert keys() == (["a"] if when == "after" else [])
    assert push("b").json()["addResults"][0]["success"]


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_error_in_200(server: LayerServer, push: Any, keys: Any, when: str) -> None:
    server.faults.add("error", "applyEdits", code=504, message="Timeout", details=("later",), when=when)
    answer = push("a")
    assert answer.status_code == 200
    assert answer.json() == {"error": {"code": 504, "message": "Timeout", "details": ["later"]}}
    assert keys() == (["a"] if when == "after" else [])


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_empty_200(server: LayerServer, push: Any, keys: Any, when: str) -> None:
    server.faults.add("empty", "applyEdits", when=when)
    answer = push("a")
    assert (answer.status_code, answer.content) == (200, b"")
    assert keys() == (["a"] if when == "after" else [])


def test_rows_that_fail(server: LayerServer, push: Any, keys: Any) -> None:
    server.faults.add("rows", "applyEdits", rows=[1], code=1019, message="busy")
    results = push("a", "b", "c").json()["addResults"]
    assert [result["success"] for result in results] == [True, False, True]
    assert results[1]["error"] == {"code": 1019, "description": "busy"}
    assert keys() == ["a", "c"]
    server.faults.add("rows", "applyEdits")
    assert [result["success"] for result in push("d", "e").json()["addResults"]] == [False, False]


def test_a_call_that_is_rolled_back(server: LayerServer, push: Any, keys: Any) -> None:
    server.faults.add("rollback", "applyEdits", details=["row 1"])
    assert push("a").json()["error"]["details"] == ["Operation rolled back.", "row 1"]
    assert keys() == []


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_dropped_connection(server: LayerServer, push: Any, keys: Any, when: str, scheme: str) -> None:
    server.faults.add("drop", "applyEdits", when=when)
    with pytest.raises(requests.ConnectionError) as dropped:
        push("a", scheme=scheme, verify=str(server.ca_file))
    assert not isinstance(dropped.value, requests.exceptions.SSLError)
    assert keys() == (["a"] if when == "after" else [])


def test_a_stall_before_is_done_late(server: LayerServer, push: Any, keys: Any) -> None:
    server.faults.add("stall", "applyEdits", seconds=0.5)
    with pytest.raises(requests.Timeout):
        push("a", timeout=0.2)
    assert keys() == []
    deadline = time.monotonic() + 10
    while not keys() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert keys() == ["a"]


def test_a_stall_after_has_been_done(server: LayerServer, push: Any, keys: Any) -> None:
    server.faults.add("stall", "applyEdits", seconds=0.5, when="after")
    with pytest.raises(requests.Timeout):
        push("a", timeout=0.3)
    assert keys() == ["a"]


def test_a_slow_body(server: LayerServer, push: Any, keys: Any) -> None:
    server.faults.add("slow", "applyEdits", seconds=0.4)
    start = time.monotonic()
    assert push("a").json()["addResults"][0]["success"]
    assert time.monotonic() - start >= 0.35


def test_a_truncated_page(server: LayerServer, service: str, push: Any, plain: requests.Session) -> None:
    push(*"abcd")
    server.faults.add("truncate", "query.rows", keep=3)
    url = f"{server.layer_url(0, service)}/query"
    page = plain.get(url, params={"f": "json", "where": "1=1", "resultRecordCount": 4}).json()
    assert len(page["features"]) == 3
    assert "exceededTransferLimit" not in page
    server.faults.add("truncate", "query.ids", keep=1)
    assert (
        len(plain.get(url, params={"f": "json", "where": "1=1", "returnIdsOnly": "true"}).json()["objectIds"])
        == 1
    )
    assert plain.get(url, params={"f": "json", "where": "1=1", "returnCountOnly": "true"}).json() == {
        "count": 4
    }


def test_expired_tokens(own_server: LayerServer, plain: requests.Session) -> None:
    token = own_server.token()
    own_server.faults.add("expire", "query", when="after")
    ask = {"f": "json", "where": "1=1", "returnCountOnly": "true", "token": token}
    answers = [plain.get(f"{own_server.layer_url()}/query", params=ask).json() for _ in range(2)]
    assert answers[0] == {"count": 5}
    assert answers[1]["error"]["code"] == 498


def test_the_real_client_sends_again_by_itself(server: LayerServer, service: str, open_layer: Any) -> None:
    """Why a push turns its retries off: without a unique key a dropped answer doubles the row."""
    table = open_layer(service, 1)
    server.faults.add("drop", "applyEdits", when="after")
    table.edit_features(adds=[{"attributes": {"key": "a"}}])
    assert [row["key"] for row in server.rows(1, service)] == ["a", "a"]


def test_failing_attachments(server: LayerServer, service: str, push: Any, plain: requests.Session) -> None:
    push("a")
    url = f"{server.layer_url(0, service)}/1/addAttachment"
    server.faults.add("rows", "addAttachment", message="full")
    answer = plain.post(url, data={"f": "json"}, files={"attachment": ("a.jpg", b"x")}).json()
    assert answer["addAttachmentResult"]["error"] == {"code": 1000, "description": "full"}
    assert server.attachments(0, service) == []


# Which request meets which fault ------------------------------------------------------------------------


def test_nth_and_times() -> None:
    faults = Faults()
    fault = faults.add("empty", "query", nth=2, times=2)
    met = [faults.meet("query.rows", "/x/0/query") for _ in range(5)]
    assert met == [None, fault, fault, None, None]
    assert faults.waiting() == []
    assert faults.counts() == {"query.rows": 5}


def test_always() -> None:
    faults = Faults()
    fault = faults.add("empty", times=None)
    assert [faults.meet(name, "/") for name in ("query.rows", "applyEdits")] == [fault, fault]
    faults.clear()
    assert faults.meet("applyEdits", "/") is None


def test_operation_and_path() -> None:
    faults = Faults()
    fault = faults.add("empty", "query.count", path="/1/")
    assert faults.meet("query.rows", "/s/1/query") is None
    assert faults.meet("query.count", "/s/0/query") is None
    assert faults.meet("query.countless", "/s/1/query") is None
    assert faults.meet("query.count", "/s/1/query") == fault


def test_two_faults_that_are_due_take_turns() -> None:
    faults = Faults()
    first, second = faults.add("empty", "applyEdits"), faults.add("drop", "applyEdits")
    assert [faults.meet("applyEdits", "/") for _ in range(3)] == [first, second, None]


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "explode"},
        {"kind": "http", "status": 200},
        {"kind": "empty", "nth": 0},
        {"kind": "empty", "tmies": 1},
    ],
)
def test_wrong_faults(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Fault.model_validate(wrong)
    with pytest.raises(InputError, match=r"faults\.json: 0\."):
        read_faults(json.dumps([wrong]), "faults.json")


# The addresses of the one who rehearses -------------------------------------------------------------------


def test_faults_and_counts_over_http(
    server: LayerServer, service: str, push: Any, plain: requests.Session
) -> None:
    control = f"http://127.0.0.1:{server.port}/rehearsal"
    fault = {"kind": "empty", "operation": "applyEdits"}
    assert plain.post(f"{control}/faults", json=[fault]).json() == [fault]
    assert plain.get(f"{control}/faults").json() == [fault]
    plain.delete(f"{control}/requests")
    assert push("a").content == b""
    assert plain.get(f"{control}/faults").json() == []
    assert push("b").json()["addResults"][0]["success"]
    assert plain.get(f"{control}/requests").json() == {"applyEdits": 2}
    assert plain.get(f"{control}/rows", params={"service": service, "layer": 0}).json() == server.rows(
        0, service
    )
    plain.post(f"{control}/faults", json=[fault])
    plain.delete(f"{control}/faults")
    assert server.faults.waiting() == []
    wrong = plain.post(f"{control}/faults", json=[{"kind": "explode"}])
    assert (wrong.status_code, "explode" in wrong.text or "kind" in wrong.text) == (400, True)
    assert plain.get(f"{control}/nothing").status_code == 404
    assert plain.get(f"{control}/rows", params={"service": "nothing"}).status_code == 400


def test_tokens_expire_over_http(own_server: LayerServer, plain: requests.Session) -> None:
    token = own_server.token()
    plain.post(f"http://127.0.0.1:{own_server.port}/rehearsal/expire")
    answer = plain.get(
        f"{own_server.url}/sharing/rest/community/self", params={"f": "json", "token": token}
    ).json()
    assert answer["error"]["code"] == 498
