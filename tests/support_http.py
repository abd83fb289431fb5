"""A web server on loopback, in a process of its own, that serves a folder and misbehaves as the path says.

`/503x2/a/1.jpg` is the file `a/1.jpg`, after two answers of 503. In place of a status:

    stall   sends nothing for a long while          cut     ends the body half-way
    reset   resets the connection                   slow    sends the body in small parts
    nohead  answers HEAD with 405                   quiet   tells neither size nor version
    norange ignores Range                           plain   does what it should

`/_requests` is what was asked for so far. S3's clients understand the errors, too.
"""

from __future__ import annotations

import json
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import urlopen

STALL_S = 20.0
CODES = {
    400: "ExpiredToken",
    403: "AccessDenied",
    301: "PermanentRedirect",
    503: "SlowDown",
    500: "InternalError",
}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    folder: Path
    seen: Counter[str]
    requests: list[tuple[str, str, str | None]]
    lock = threading.Lock()

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def do_PUT(self) -> None:
        """Takes anything, and keeps nothing."""
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.answer()

    def do_POST(self) -> None:
        self.do_PUT()

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if path == "/_requests":
            self.send(200, json.dumps(self.requests).encode())
            return
        fault, _, file_name = path.lstrip("/").partition("/")
        match = re.fullmatch(r"(\w+?)x(\d+)", fault)
        kind, times = (match[1], int(match[2])) if match else (fault, 0)
        with self.lock:
            condition = self.headers.get("Range") or self.headers.get("If-None-Match")
            self.requests.append((self.command, self.path, condition))
            self.seen[f"{self.command} {path}"] += 1
            is_faulty = self.seen[f"{self.command} {path}"] <= times
        if is_faulty and kind.isdecimal():
            self.refuse(int(kind))
        elif is_faulty and kind == "stall":
            time.sleep(STALL_S)
            self.close_connection = True
        elif is_faulty and kind == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True
        elif is_faulty and kind == "nohead" and self.command == "HEAD":
            self.refuse(405)
        elif self.command in ("PUT", "POST"):
            self.send(201, b"{}", {"Content-Type": "application/json"})
        else:
            # Azure's listing of a container is asked for at the container's own address.
            ending = ".xml" if "comp=list" in self.path else ""
            self.serve(self.folder / f"{file_name}{ending}", kind if is_faulty else "plain")

    def refuse(self, status: int) -> None:
        code = CODES.get(status, str(status))
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>as told</Message></Error>".encode()
        headers = {"Content-Type": "application/xml"}
        if status == 429:
            headers["Retry-After"] = "1"
        if status == 301:
            headers["x-amz-bucket-region"] = "eu-north-1"
        self.send(status, body, headers)

    def serve(self, path: Path, kind: str) -> None:
        if path.is_dir() and "x-ms-version" not in self.headers:  # Azure has no folders
            names = sorted(f"{entry.name}/" if entry.is_dir() else entry.name for entry in path.iterdir())
            body = "".join(f'<a href="{name}">{name}</a>\n' for name in ["?C=N;O=D", "../", *names]).encode()
            self.send(200, body, {"Content-Type": "text/html"})
            return
        if not path.is_file():
            self.refuse(404)
            return
        data = path.read_bytes()
        headers = {} if kind == "quiet" else {"ETag": f'"{path.stat().st_mtime_ns:x}-{len(data)}"'}
        if path.suffix == ".xml":
            headers["Content-Type"] = "application/xml"
        # Azure's client names its ranges otherwise.
        status, asked = 200, self.headers.get("Range") or self.headers.get("x-ms-range")
        if asked and kind != "norange":
            first, _, last = asked.removeprefix("bytes=").partition("-")
            whole, start = len(data), int(first)
            if start >= whole:
                self.refuse(416)
                return
            data = data[start : int(last) + 1 if last else None]
            headers["Content-Range"] = f"bytes {start}-{start + len(data) - 1}/{whole}"
            status = 206
        self.send(status, data, headers, kind)

    def send(
        self, status: int, body: bytes, headers: dict[str, str] | None = None, kind: str = "plain"
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if kind == "quiet":
            self.send_header("Connection", "close")
            self.close_connection = True
        else:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if kind == "cut":
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        if kind == "slow":
            for start in range(0, len(body), 1000):
                self.wfile.write(body[start : start + 1000])
                self.wfile.flush()
                time.sleep(0.02)
            return
        try:
            self.wfile.write(body)
        except ConnectionError:  # it has read enough
            self.close_connection = True


class Server(ThreadingHTTPServer):
    daemon_threads = True
    # Of some 64 requests at once, five can wait by default, and a dropped one waits for its time-out.
    request_queue_size = 1024


class WebServer:
    """The server, as a test sees it."""

    def __init__(self, folder: Path, address: str) -> None:
        self.folder, self.address = folder, address

    def url(self, fault: str = "plain", path: str = "") -> str:
        return f"{self.address}/{fault}/{path}".rstrip("/")

    def requests(self) -> list[tuple[str, str, str | None]]:
        """Method, path, and Range or If-None-Match, of every request so far."""
        with urlopen(f"{self.address}/_requests") as answer:
            return [tuple(request) for request in json.load(answer)]


@contextmanager
def web_server(folder: Path) -> Iterator[WebServer]:
    process = subprocess.Popen(
        [sys.executable, __file__, str(folder)], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        yield WebServer(folder, process.stdout.readline().strip())
    finally:
        process.kill()
        process.communicate()


def main() -> None:
    Handler.folder, Handler.seen, Handler.requests = Path(sys.argv[1]), Counter(), []
    server = Server(("127.0.0.1", 0), Handler)
    print(f"http://127.0.0.1:{server.server_address[1]}", flush=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()  # until the test is gone


if __name__ == "__main__":
    main()
