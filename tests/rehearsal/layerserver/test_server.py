"""The server as a process: what it keeps when it is killed, and how it starts and ends."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import requests
from support import wait_until
from support_layerserver import CAMERAS, camera

from camtrap_batch.cli import main
from camtrap_batch.rehearsal.layerserver import LayerServer


@contextmanager
def serve(folder: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command, and the address of its host."""
    process = subprocess.Popen(
        [sys.executable, "-m", "camtrap_batch", "serve-layer", str(folder), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        lines = []
        while "Ctrl-C" not in "".join(lines[-1:]):
            lines.append(process.stdout.readline())
            assert lines[-1], process.communicate()
        found = re.search(r"portal: (http://127\.0\.0\.1:\d+)/portal\n", "".join(lines))
        assert found is not None
        yield process, found[1]
    finally:
        process.kill()
        process.communicate()


def test_a_kill_loses_no_edit_that_was_acknowledged(tmp_path: Path) -> None:
    with LayerServer(tmp_path) as server:
        server.create_service("s", [CAMERAS], anonymous="edit")
    acknowledged: list[str] = []
    with serve(tmp_path) as (process, address), ThreadPoolExecutor(4) as threads:

        def push(writer: int) -> None:
            with requests.Session() as session:
                for number in range(10_000):
                    keys = [f"{writer}.{number}.{row}" for row in range(5)]
                    form = {"f": "json", "adds": json.dumps([camera(key) for key in keys])}
                    url = f"{address}/server/rest/services/s/FeatureServer/0/applyEdits"
                    try:
                        results = session.post(url, data=form).json()["addResults"]
                    except requests.RequestException:  # the answer, or the half of it, is no acknowledgement
                        return
                    assert all(result["success"] for result in results)
                    acknowledged.extend(keys)
                    if len(acknowledged) > 400:
                        process.kill()

        list(threads.map(push, range(4)))
    with LayerServer(tmp_path) as server:
        keys = [row["key"] for row in server.rows(0, "s")]
    assert len(keys) == len(set(keys))
    assert set(acknowledged) <= set(keys)
    assert len(acknowledged) > 400
    assert len(keys) % 5 == 0  # whole calls alone


def test_ctrl_c_ends_the_command_in_order(tmp_path: Path) -> None:
    faults = tmp_path / "faults.json"
    faults.write_text('[{"kind": "http", "operation": "layer", "status": 504}]')
    with serve(tmp_path / "layers", "--faults", str(faults)) as (process, address):
        layer = f"{address}/server/rest/services/CameraTraps/FeatureServer/0"
        assert requests.get(layer).status_code == 504
        assert requests.get(layer).json()["name"] == "CameraTraps"
        form = {"username": "ranger", "password": "rehearsal", "f": "json"}
        token = requests.post(f"{address}/portal/sharing/rest/generateToken", data=form).json()["token"]
        requests.get(f"{address}/server/rest/services", params={"f": "json", "token": token})
        requests.get(f"{address}/nothing", params={"token": token})
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert process.returncode == 0
    assert token not in out + err


def test_one_server_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with LayerServer(tmp_path) as server:
        assert main(["serve-layer", str(tmp_path)]) == 2
        assert "another server serves this folder" in capsys.readouterr().err
        assert main(["serve-layer", str(tmp_path / "b"), "--port", str(server.port)]) == 2
        assert f"port {server.port}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["{tmp}/file"], "can't be served"),
        (["{tmp}/broken"], "not a database"),
        (["{tmp}/new", "--port", "70000"], "there is no such port"),
        (["{tmp}/new", "--faults", "{tmp}/nothing.json"], "nothing.json"),
        (["{tmp}/new", "--faults", "{tmp}/file"], "Invalid JSON"),
    ],
)
def test_wrong_arguments(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], reason: str
) -> None:
    (tmp_path / "file").write_text("{")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "layers.sqlite").write_bytes(b"no database" * 100)
    assert main(["serve-layer", *(argument.format(tmp=tmp_path) for argument in arguments)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert reason in line


def test_a_restart_keeps_layers_rows_and_tokens(tmp_path: Path) -> None:
    with LayerServer(tmp_path) as server:
        server.create_service("s", [CAMERAS], anonymous="none", max_records=7)
        token, rows = server.token(), server.rows()
    with LayerServer(tmp_path) as server:
        assert server.rows() == rows
        assert set(server.layer_urls()) == {"CameraTraps/CameraTraps", "s/cameras"}
        answer = requests.get(server.layer_url(0, "s"), params={"f": "json", "token": token}).json()
        assert (answer["name"], answer["maxRecordCount"]) == ("cameras", 7)
    assert oct((tmp_path / "key.pem").stat().st_mode & 0o777) == "0o600"


def test_a_request_in_flight_is_finished(tmp_path: Path) -> None:
    with LayerServer(tmp_path) as server:
        server.faults.add("slow", "query", seconds=1)
        answers: list[Any] = []
        asking = threading.Thread(
            target=lambda: answers.append(requests.get(f"{server.layer_url()}/query?where=1=1&f=json").json())
        )
        asking.start()
        while not server.requests():
            pass
    asking.join()
    assert len(answers[0]["features"]) == 5


def test_what_waits_because_of_a_fault_does_not_hold_up_the_end(tmp_path: Path) -> None:
    with LayerServer(tmp_path) as server:
        server.create_service("s", [CAMERAS], anonymous="edit")
        server.faults.add("stall", "append.job", seconds=100)
        edits = json.dumps({"features": [camera("a")]})
        form = {"f": "json", "appendUploadFormat": "featureCollection", "edits": edits}
        requests.post(f"{server.layer_url(0, 's')}/append", data=form)
        server.faults.add("stall", "applyEdits", seconds=100)
        pushing = threading.Thread(
            target=requests.post,
            args=(f"{server.layer_url(0, 's')}/applyEdits",),
            kwargs={"data": {"f": "json"}},
        )
        pushing.start()
        wait_until(lambda: "applyEdits" in server.requests())
        start = time.monotonic()
    assert time.monotonic() - start < 60  # the faults wait for 100 s
    pushing.join()


def test_readers_do_not_wait_for_a_writer(server: LayerServer, service: str) -> None:
    """Many at a time, each seeing whole calls."""
    url = server.layer_url(0, service)

    def write(writer: int) -> None:
        with requests.Session() as session:
            for number in range(15):
                adds = json.dumps([camera(f"{writer}.{number}.{row}") for row in range(10)])
                assert session.post(f"{url}/applyEdits", data={"f": "json", "adds": adds}).ok

    def read() -> set[int]:
        with requests.Session() as session:
            ask = {"f": "json", "where": "1=1", "returnCountOnly": "true"}
            return {session.get(f"{url}/query", params=ask).json()["count"] % 10 for _ in range(60)}

    with ThreadPoolExecutor(6) as threads:
        reading = [threads.submit(read) for _ in range(2)]
        list(threads.map(write, range(4)))
        assert [future.result() for future in reading] == [{0}, {0}]
    assert len(server.rows(0, service)) == 600


def test_half_a_request_is_none(server: LayerServer, service: str) -> None:
    body = f"f=json&adds={quote(json.dumps([camera('a')]))}&rollbackOnFailure=false".encode()
    head = (
        f"POST /server/rest/services/{service}/FeatureServer/0/applyEdits HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        f"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode()
    for cut, rows in ((5, 0), (0, 1)):
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(head + body[: len(body) - cut])
            if cut:
                connection.shutdown(socket.SHUT_WR)
            assert bool(connection.recv(1000)) == (cut == 0)
        assert len(server.rows(0, service)) == rows


def test_a_request_that_is_not_understood(server: LayerServer, service: str) -> None:
    url = f"{server.layer_url(0, service)}/applyEdits"
    broken = requests.post(url, data=b"--x", headers={"Content-Type": "multipart/form-data; boundary=y"})
    assert broken.json()["error"]["code"] == 400
    assert requests.get(url, params={"f": "json", "adds": "[]"}).json()["error"]["code"] == 405
    assert requests.post(url, data={"f": "json", "adds": "{"}).json()["error"]["code"] == 400
    assert requests.post(url, data={"f": "json", "adds": "[1]"}).json()["error"]["code"] == 400
    assert requests.post(f"{url}/more").json()["error"]["code"] == 404
    assert server.rows(0, service) == []


@pytest.mark.parametrize("path", ["/server/rest/info?f=json", "/nothing", "/rehearsal/faults"])
def test_head_has_the_headers_of_get_and_no_body(server: LayerServer, path: str) -> None:
    host = f"127.0.0.1:{server.port}"
    got = requests.get(f"http://{host}{path}", timeout=10)
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        for _ in range(2):  # a body would be read as the start of the second answer
            connection.sendall(f"HEAD {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            answer = b""
            while not answer.endswith(b"\r\n\r\n"):
                answer += (more := connection.recv(2**16))
                assert more, answer
            status, *headers = answer.decode().split("\r\n")
            assert status == f"HTTP/1.1 {got.status_code} {got.reason}"
            assert f"Content-Length: {len(got.content)}" in headers


def test_the_directory_for_someone_who_looks(server: LayerServer, service: str) -> None:
    page = requests.get(f"http://127.0.0.1:{server.port}/server/rest/services")
    assert page.text.count("\n") > 5
    names = [entry["name"] for entry in page.json()["services"]]
    assert service in names
    server.create_service(f"{service}_private", [CAMERAS])
    again = requests.get(page.url).json()["services"]
    assert [entry["name"] for entry in again] == names
    signed_in = requests.get(page.url, params={"token": server.token()}).json()["services"]
    assert f"{service}_private" in [entry["name"] for entry in signed_in]


def test_nothing_but_loopback(server: LayerServer) -> None:
    assert server._web.server_address[0] == "127.0.0.1"
    assert server.url.startswith("http://127.0.0.1:")
