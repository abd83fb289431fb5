"""HTTP: requests are read, find their operation, meet their fault, and are answered; plain or by TLS."""

from __future__ import annotations

import json
import logging
import socket
import ssl
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from tornado.httputil import HTTPFile, HTTPInputError, parse_body_arguments

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
_PIECES = 20
_PATIENCE_S = 10.0


class WebServer(ThreadingHTTPServer):
    """Listens on loopback; `close` waits for the requests in flight."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, port: int, site: Site, is_online: bool, tls: ssl.SSLContext | None) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.site, self.tls = site, tls
        self.feature_server, self.portal = FeatureServer(site), Portal(site, is_online)
        self.control = Control(site)
        self._in_flight, self._changed = 0, threading.Condition()
        self._connections: set[socket.socket] = set()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        if self._thread.ident is not None:
            self.shutdown()
            self._thread.join()
        self.site.end(_PATIENCE_S)
        with self._changed:
            self._changed.wait_for(lambda: self._in_flight == 0, _PATIENCE_S)
            for connection in list(self._connections):
                _end(connection)
        self.server_close()

    def __enter__(self) -> WebServer:  # of this class, not of its base
        return self

    def busy(self, change: int) -> None:
        with self._changed:
            self._in_flight += change
            self._changed.notify_all()

    def finish_request(self, request: Any, client_address: Any) -> None:
        """In the connection's own thread: its first byte says whether TLS is spoken."""
        connection: socket.socket = request
        try:
            self._follow(connection)
            if connection.recv(1, socket.MSG_PEEK) == _TLS_HELLO:
                if self.tls is None:
                    return
                connection = self.tls.wrap_socket(connection, server_side=True)
                self._follow(connection)
            Handler(connection, client_address, self)
        except OSError:  # the client is gone, or does not trust the certificate
            return
        finally:
            with self._changed:
                self._connections -= {request, connection}
            if connection is not request:
                connection.close()

    def _follow(self, connection: socket.socket) -> None:
        with self._changed:
            self._connections.add(connection)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: WebServer

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_DELETE(self) -> None:
        self._serve()

    def log_message(self, *_: Any) -> None:
        """Nothing: addresses hold tokens."""

    def _serve(self) -> None:
        self.server.busy(1)
        try:
            self._answer()
        except ConnectionError:  # the client has gone
            self.close_connection = True
        finally:
            self.server.busy(-1)

    def _answer(self) -> None:
        length = self.headers.get("Content-Length", "0")
        if (
            not length.isdecimal()
            or int(length) > _LONGEST_BODY
            or "chunked" in self.headers.get("Transfer-Encoding", "")
        ):
            self.close_connection = True
            self._send(411, b"", "text/plain")
            return
        body = self.rfile.read(int(length))
        if len(body) < int(length):  # the client has gone, and half a request is none
            self.close_connection = True
            return
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
        """Do what was asked, with the fault before, in place of, or after it."""
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
        """Let it happen; True where the request has got its answer by that, or never will."""
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
            self.close_connection = True
            _end(self.connection)
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
        scheme = "https" if isinstance(self.connection, ssl.SSLSocket) else "http"
        host = self.headers.get("Host") or f"127.0.0.1:{self.server.server_port}"
        return Request(self.command, path, parts, parameters, files, token, f"{scheme}://{host}")

    def _send_answer(self, answer: Answer, form: str, slow: Fault | None = None) -> None:
        if isinstance(answer, Raw):
            self._send(answer.status, answer.content, answer.content_type, answer.headers, slow)
            return
        content = encode(answer)
        if form != "json":  # someone looks at it with a browser
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
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if slow is None:
            self.wfile.write(content)
            return
        size = max(1, -(-len(content) // _PIECES))
        for start in range(0, len(content), size):
            self.server.site.ending.wait(slow.seconds / _PIECES)
            self.wfile.write(content[start : start + size])


def _truncate(answer: Json, keep: int) -> None:
    """Leave the first rows, ids or attachments, and nothing that says that there are more."""
    answer.pop("exceededTransferLimit", None)
    for key in ("features", "objectIds", "attachmentInfos"):
        if key in answer:
            answer[key] = answer[key][:keep]
    for group in answer.get("attachmentGroups", []):
        if "attachmentInfos" in group:
            group["attachmentInfos"], left = group["attachmentInfos"][:keep], keep
            keep = max(0, left - len(group["attachmentInfos"]))


def _end(connection: socket.socket) -> None:
    """End a connection at once; the other side sees it reset."""
    try:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:  # it has ended already
        return
