"""HTTP: requests are read, find their operation, meet their fault, and are answered; plain or by TLS.

Tornado reads and writes, on a loop on the server's own thread; operations, which wait for SQLite, run on
others.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.client import responses
from typing import Any, cast
from urllib.parse import parse_qsl, unquote, urlsplit

from tornado.http1connection import HTTP1Connection
from tornado.httpserver import HTTPServer
from tornado.httputil import (
    HTTPConnection,
    HTTPFile,
    HTTPHeaders,
    HTTPInputError,
    HTTPMessageDelegate,
    HTTPServerConnectionDelegate,
    RequestStartLine,
    ResponseStartLine,
    parse_body_arguments,
)
from tornado.iostream import IOStream, SSLIOStream, StreamClosedError
from tornado.netutil import add_accept_handler, ssl_wrap_socket

from camtrap_batch.rehearsal.layerserver.answers import Answer, Json, Raw, Refused, encode
from camtrap_batch.rehearsal.layerserver.control import Control
from camtrap_batch.rehearsal.layerserver.faults import Fault
from camtrap_batch.rehearsal.layerserver.featureserver import FeatureServer
from camtrap_batch.rehearsal.layerserver.portal import Portal
from camtrap_batch.rehearsal.layerserver.request import Operation, Request, Upload, no_such_address
from camtrap_batch.rehearsal.layerserver.site import Site

_log = logging.getLogger(__name__)
_TLS_HELLO = b"\x16"
_LONGEST_BODY = 2**31
_AT_ONCE = 64
_PIECES = 20
_PATIENCE_S = 10.0


class WebServer(HTTPServerConnectionDelegate):
    """Listens on loopback; `close` waits for the requests in flight."""

    def __init__(self, port: int, site: Site, is_online: bool, tls: ssl.SSLContext) -> None:
        if not 0 <= port < 2**16:
            raise OverflowError(port)
        self._socket = socket.create_server(("127.0.0.1", port), backlog=128)
        self._socket.setblocking(False)
        self.server_address: tuple[str, int] = self._socket.getsockname()
        self.site, self._tls = site, tls
        self.feature_server, self.portal = FeatureServer(site), Portal(site, is_online)
        self.control = Control(site)
        self._in_flight, self._changed = 0, threading.Condition()
        self.threads = ThreadPoolExecutor(_AT_ONCE, "rehearsal")
        self.loop = asyncio.new_event_loop()
        self._connections: set[IOStream] = set()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self.site.end(_PATIENCE_S)
        with self._changed:
            self._changed.wait_for(lambda: self._in_flight == 0, _PATIENCE_S)
        if self._thread.ident is not None:
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join()
        self.threads.shutdown(wait=False, cancel_futures=True)
        self.loop.close()
        self._socket.close()

    def busy(self, change: int) -> None:
        with self._changed:
            self._in_flight += change
            self._changed.notify_all()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.call_soon(self._listen)
        self.loop.run_forever()
        for stream in list(self._connections):
            _end(stream)
        self.loop.run_until_complete(asyncio.sleep(0))

    def _listen(self) -> None:
        self._http = HTTPServer(self, max_body_size=_LONGEST_BODY, max_buffer_size=_LONGEST_BODY)
        add_accept_handler(self._socket, self._accept)

    def _accept(self, connection: socket.socket, address: Any) -> None:
        """Wait for a connection's first byte, which shows whether it speaks TLS."""

        def look() -> None:
            self.loop.remove_reader(connection)
            try:
                is_tls = connection.recv(1, socket.MSG_PEEK) == _TLS_HELLO
            except OSError:  # the client is gone
                connection.close()
                return
            stream: IOStream
            if is_tls:
                wrapped = ssl_wrap_socket(
                    connection, self._tls, server_side=True, do_handshake_on_connect=False
                )
                stream = SSLIOStream(wrapped, max_buffer_size=_LONGEST_BODY)
            else:
                stream = IOStream(connection, max_buffer_size=_LONGEST_BODY)
            stream.set_nodelay(True)
            self._connections.add(stream)
            stream.set_close_callback(lambda: self._connections.discard(stream))
            self._http.handle_stream(stream, address)

        self.loop.add_reader(connection, look)

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        return _Exchange(self, cast(HTTP1Connection, request_conn))

    def on_close(self, server_conn: object) -> None:
        """Nothing: whatever is in flight ends by itself."""


class _Exchange(HTTPMessageDelegate):
    """One request and its answer. Tornado calls on the loop; `_answer` and what it calls run on a thread."""

    def __init__(self, server: WebServer, connection: HTTP1Connection) -> None:
        self.server, self._connection = server, connection
        self._body: list[bytes] = []

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> None:
        line = cast(RequestStartLine, start_line)
        self.command, self.path, self.headers = line.method, line.path, headers

    def data_received(self, chunk: bytes) -> None:
        self._body.append(chunk)

    def finish(self) -> None:
        self.server.busy(1)
        self.server.threads.submit(self._serve)

    def on_connection_close(self) -> None:
        """Nothing: half a request is no request."""

    def _serve(self) -> None:
        try:
            self._answer()
        except (ConnectionError, StreamClosedError):  # the client has gone
            pass
        except Exception:
            _log.exception("the rehearsal server failed at %s", urlsplit(self.path).path)
        finally:
            self.server.busy(-1)

    def _answer(self) -> None:
        body = b"".join(self._body)
        address = urlsplit(self.path)
        parts = [unquote(part) for part in address.path.split("/") if part]
        if parts[:1] == ["rehearsal"] and len(parts) == 2:
            status, content = self.server.control.answer(
                self.command, parts[1], dict(parse_qsl(address.query)), body
            )
            self._send(status, content, "application/json")
            return
        try:
            request = self._read(address.path, parts, address.query, body)
        except (HTTPInputError, ValueError) as problem:
            self._send_answer(Refused(400, "Unable to read the request.", [str(problem)]).body(), "json")
            return
        operation = self._route(parts, request)
        request.fault = self.server.site.faults.meet(operation.name, address.path)
        self._meet(operation, request)

    def _route(self, parts: list[str], request: Request) -> Operation:
        if parts[:1] == ["portal"]:
            return self.server.portal.route(parts[1:], request)
        if parts[:2] == ["server", "rest"]:
            return self.server.feature_server.route(parts[2:], request)
        return Operation("unknown", no_such_address)

    def _meet(self, operation: Operation, request: Request) -> None:
        """Do what was asked, with the fault before it, in its place, or after it."""
        fault = request.fault
        if fault is not None and fault.when == "before" and self._happen(fault):
            return
        answer = self._call(operation, request)
        if fault is not None and fault.when == "after" and self._happen(fault):
            return
        if fault is not None and fault.kind == "truncate" and isinstance(answer, dict):
            _truncate(answer, fault.keep)
        slow = fault if fault is not None and fault.kind == "slow" else None
        self._send_answer(answer, request.text("f"), slow)

    def _call(self, operation: Operation, request: Request) -> Answer:
        try:
            return operation.call(request)
        except Refused as refusal:
            return refusal.body()
        except Exception as problem:  # whatever it is, the client must get an answer
            _log.exception("the rehearsal server failed at %s", operation.name)
            reason = f"{type(problem).__name__}: {problem}"
            return Raw(
                encode(Refused(500, "the rehearsal server failed", [reason]).body()), "application/json", 500
            )

    def _happen(self, fault: Fault) -> bool:
        """Make the fault happen; True if that has answered the request, or it will never be answered."""
        if fault.kind == "expire":
            self.server.site.accounts.expire_tokens()
        elif fault.kind == "stall":
            self.server.site.ending.wait(fault.seconds)
        if fault.kind == "http":
            headers = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
            self._send(fault.status, f"<p>HTTP error {fault.status}</p>".encode(), "text/html", headers)
        elif fault.kind == "error":
            self._send_answer(Refused(fault.code or 500, fault.message, fault.details).body(), "json")
        elif fault.kind == "rollback":
            details = ["Operation rolled back.", *fault.details]
            self._send_answer(Refused(400, fault.message, details).body(), "json")
        elif fault.kind == "empty":
            self._send(200, b"", "application/json")
        elif fault.kind == "drop":
            self._on_loop(lambda: _end(self._connection.stream))
        else:
            return False
        return True

    # Reading and writing ------------------------------------------------------------------------------

    def _read(self, path: str, parts: list[str], query: str, body: bytes) -> Request:
        parameters = dict(parse_qsl(query, keep_blank_values=True))
        arguments: dict[str, list[bytes]] = {}
        sent: dict[str, list[HTTPFile]] = {}
        if body:
            parse_body_arguments(self.headers.get("Content-Type", ""), body, arguments, sent)
        parameters |= {name: values[-1].decode() for name, values in arguments.items()}
        files = {
            name: Upload(entries[-1]["filename"], entries[-1]["content_type"], entries[-1]["body"])
            for name, entries in sent.items()
        }
        bearer = self.headers.get("X-Esri-Authorization") or self.headers.get("Authorization") or ""
        token = (
            bearer.removeprefix("Bearer ") if bearer.startswith("Bearer ") else parameters.get("token", "")
        )
        scheme = "https" if isinstance(self._connection.stream, SSLIOStream) else "http"
        host = self.headers.get("Host") or f"127.0.0.1:{self.server.server_address[1]}"
        return Request(self.command, path, parts, parameters, files, token, f"{scheme}://{host}")

    def _send_answer(self, answer: Answer, form: str, slow: Fault | None = None) -> None:
        if isinstance(answer, Raw):
            self._send(answer.status, answer.content, answer.content_type, answer.headers, slow)
            return
        content = encode(answer)
        if form != "json":  # someone is looking at it with a browser
            content = json.dumps(json.loads(content), indent=1, ensure_ascii=False).encode()
        self._send(200, content, "application/json;charset=UTF-8", {}, slow)

    def _send(
        self,
        status: int,
        content: bytes,
        content_type: str,
        headers: dict[str, str] | None = None,
        slow: Fault | None = None,
    ) -> None:
        answer = HTTPHeaders(
            {
                "Content-Type": content_type,
                "Content-Length": str(len(content)),
                "Cache-Control": "no-store",
                **(headers or {}),
            }
        )
        line = ResponseStartLine("HTTP/1.1", status, responses.get(status, ""))
        if self.command == "HEAD":
            content = b""
        if slow is None:
            self._on_loop(lambda: self._connection.write_headers(line, answer, content))
        else:
            self._on_loop(lambda: self._connection.write_headers(line, answer))
            size = max(1, -(-len(content) // _PIECES))
            for start in range(0, len(content), size):
                self.server.site.ending.wait(slow.seconds / _PIECES)
                self._on_loop(partial(self._connection.write, content[start : start + size]))
        self._on_loop(self._connection.finish)

    def _on_loop(self, act: Callable[[], object]) -> None:
        """Let the loop's thread do something to the connection, and wait for it. Raises what that raises."""

        async def done() -> None:
            act()

        asyncio.run_coroutine_threadsafe(done(), self.server.loop).result(_PATIENCE_S)


def _truncate(answer: Json, keep: int) -> None:
    """Keep the first rows, ids or attachments, and nothing that says that there are more."""
    answer.pop("exceededTransferLimit", None)
    for key in ("features", "objectIds", "attachmentInfos"):
        if key in answer:
            answer[key] = answer[key][:keep]
    for group in answer.get("attachmentGroups", []):
        if "attachmentInfos" in group:
            group["attachmentInfos"], left = group["attachmentInfos"][:keep], keep
            keep = max(0, left - len(group["attachmentInfos"]))


def _end(stream: IOStream) -> None:
    """End a connection at once; the other side sees a reset."""
    if stream.socket is not None:
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.close()
