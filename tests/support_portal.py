"""A small ArcGIS portal on loopback: one user's items, as far as adding and updating packages needs."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

USER, TOKEN = "ranger", "token-of-the-ranger"


@dataclass
class Portal:
    """What the portal holds and was asked.

    Attributes
    ----------
    items
        Item id -> properties; `data` is the item's file.
    indexed
        Whether the search finds items; a real portal's index is behind.
    lose_answers
        So many answers to addItem are not sent: the connection is closed after the item was added.
    refuse
        What addItem and update answer instead, for want of a privilege.
    """

    url: str = ""
    items: dict[str, dict[str, Any]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    indexed: bool = True
    lose_answers: int = 0
    refuse: str | None = None
    parts: dict[str, dict[int, bytes]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, method: str, path: str, form: dict[str, str], file: tuple[str, bytes] | None) -> Any:
        """JSON for a request below /sharing/rest/; None closes the connection."""
        steps = path.removeprefix("/sharing/rest").strip("/").split("/")
        match steps:
            case [_, *_] if steps != ["info"] and form.get("token") != TOKEN:
                return _error(498, "Invalid token.")
            case [""]:
                return {"currentVersion": "2025.2"}
            case ["info"]:
                rest = f"{self.url}/sharing/rest"
                return {
                    "owningSystemUrl": self.url,
                    "authInfo": {"isTokenBasedSecurity": True, "tokenServicesUrl": f"{rest}/generateToken"},
                }
            case ["portals", "self"]:
                return {
                    "id": "org",
                    "name": "test",
                    "isPortal": True,
                    "portalName": "test",
                    "currentVersion": "2025.2",
                    "portalHostname": urlsplit(self.url).netloc,
                    "user": {"username": USER},
                    "helperServices": {},
                }
            case ["community", "self"] | ["community", "users", _]:
                return {"username": USER, "role": "org_user", "privileges": [], "groups": []}
            case ["content", "users", _]:
                found = [item for item in self.items.values() if form.get("types") in (None, item["type"])]
                return {"items": [_shown(item) for item in found], "folders": [], "nextStart": -1}
            case ["content", "users", _, "addItem"]:
                return self._add(form, file)
            case ["content", "users", _, "items", item_id, "update"]:
                return self._update(item_id, form, file)
            case ["content", "users", _, "items", item_id, "addPart"]:
                with self.lock:
                    self.parts.setdefault(item_id, {})[int(form["partNum"])] = file[1] if file else b""
                return {"success": True, "id": item_id}
            case ["content", "users", _, "items", item_id, "commit"]:
                parts = self.parts.pop(item_id)
                self._set(item_id, form, ("", b"".join(parts[number] for number in sorted(parts))))
                return {"success": True, "id": item_id, "itemId": item_id}
            case ["content", "users", _, "items", item_id, "status"]:
                return {"status": "completed", "itemId": item_id}
            case ["content", "items", item_id]:
                return _shown(self.items[item_id]) if item_id in self.items else _error(400, "no such item")
            case ["search"]:
                words = form["q"]
                found = [
                    item
                    for item in self.items.values()
                    if self.indexed and any(f'"{keyword}"' in words for keyword in item["typeKeywords"])
                ]
                shown = [_shown(item) for item in found]
                return {"results": shown, "total": len(found), "start": 1, "num": 100, "nextStart": -1}
        return _error(404, f"not in this portal: {method} {path}")

    def _add(self, form: dict[str, str], file: tuple[str, bytes] | None) -> Any:
        if self.refuse:
            return _error(403, self.refuse)
        with self.lock:
            item_id = f"{len(self.items) + 1:032x}"
            self.items[item_id] = {
                "id": item_id,
                "owner": USER,
                "created": 1000 * len(self.items),
                "ownerFolder": None,
                "typeKeywords": [],
                "data": b"",
                "size": -1,
            }
        self._set(item_id, form, file)
        if self.lose_answers:
            self.lose_answers -= 1
            return None
        return {"success": True, "id": item_id, "folder": None}

    def _update(self, item_id: str, form: dict[str, str], file: tuple[str, bytes] | None) -> Any:
        if self.refuse:
            return _error(403, self.refuse)
        self._set(item_id, form, file)
        return {"success": True, "id": item_id}

    def _set(self, item_id: str, form: dict[str, str], file: tuple[str, bytes] | None) -> None:
        item = self.items[item_id]
        for name in ("title", "type", "snippet", "description"):
            if name in form:
                item[name] = form[name]
        for name in ("tags", "typeKeywords"):
            if name in form:
                item[name] = form[name].split(",")
        if file is not None:
            item["data"], item["size"] = file[1], len(file[1])


@contextmanager
def serve_portal() -> Iterator[Portal]:
    """A portal that answers until the block ends."""
    portal = Portal()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._do("GET")

        def do_POST(self) -> None:
            self._do("POST")

        def _do(self, method: str) -> None:
            url = urlsplit(self.path)
            form = {name: values[-1] for name, values in parse_qs(url.query, keep_blank_values=True).items()}
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            posted, file = _read_form(self.headers.get("Content-Type") or "", body)
            path = url.path.rstrip("/")
            portal.requests.append(f"{method} {path}")
            header = self.headers.get("X-Esri-Authorization") or self.headers.get("Authorization") or ""
            form["token"] = form.get("token") or header.removeprefix("Bearer ")
            answer = portal.answer(method, path, {**form, **posted}, file)
            if answer is None:
                self.close_connection = True
                return
            content = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    portal.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield portal
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _read_form(kind: str, body: bytes) -> tuple[dict[str, str], tuple[str, bytes] | None]:
    if kind.startswith("application/x-www-form-urlencoded"):
        return {
            name: values[-1] for name, values in parse_qs(body.decode(), keep_blank_values=True).items()
        }, None
    if not kind.startswith("multipart/form-data"):
        return {}, None
    form: dict[str, str] = {}
    file = None
    boundary = b"--" + kind.partition("boundary=")[2].strip('"').encode()
    for part in body.split(b"\r\n" + boundary):  # a parser of mail takes seconds for a large file
        head, _, content = part.removeprefix(boundary).partition(b"\r\n\r\n")
        if not (name := re.search(rb'[ ;]name="([^"]*)"', head)):
            continue
        if named := re.search(rb'filename="([^"]*)"', head):
            file = (named[1].decode(), content)
        else:
            form[name[1].decode()] = content.decode()
    return form, file


def _shown(item: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in item.items() if key != "data"}


def _error(code: int, message: str) -> dict[str, Any]:
    return {"error": {"code": code, "message": message, "details": []}}
