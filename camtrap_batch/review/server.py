"""The review page's server: on loopback, for those who have a link with a token, over TLS elsewhere.

A link is valid for one browser: its token is exchanged for a cookie. Refused are requests with another Host
than the one served (a page elsewhere that resolves to this address), and changes without our header (a form
elsewhere). Only corrections are written.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import hmac
import io
import json
import secrets
import ssl
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np
import pyarrow as pa
import tornado.httpserver
import tornado.netutil
import tornado.web
from PIL import Image

from camtrap_batch.codes import Ints
from camtrap_batch.detection.people import blur
from camtrap_batch.errors import CamtrapError, UserError, explain
from camtrap_batch.images import ImageRoot, decode_upright
from camtrap_batch.images.pictures import read_pictures
from camtrap_batch.review.items import AtOdds, Items, Wanted
from camtrap_batch.review.order import ORDERS, Order, looks_until, rank
from camtrap_batch.store.corrections import TRAITS

_COOKIE = "camtrap_review"
_HEADER = "X-Camtrap-Review"
_PAGE_SIZE = 60
_PHOTO_SIDE = 1600
_MOST_BODY = 2**20
_CACHED = 400
_LISTS = 32


@dataclass(frozen=True)
class Served:
    """Where the page is: a link for each person, each valid for one browser."""

    links: tuple[str, ...]
    server: tornado.httpserver.HTTPServer


class Reviewing:
    """A run under review: its items, who has access, and what they request."""

    def __init__(
        self,
        items: Items,
        root: ImageRoot,
        *,
        order: Order,
        wanted: Wanted,
        n: int | None,
        who: str,
        seed: int = 0,
        until: float | None = None,
    ) -> None:
        self.items, self.root, self.who = items, root, who
        self.order, self.wanted, self.n = order, wanted, n
        self.seed, self.until = seed, until
        self.sessions: set[str] = set()
        self.tokens: set[str] = set()
        self.pool = ThreadPoolExecutor(4, thread_name_prefix="review")
        self.lock = threading.Lock()
        self._ranked: dict[str, Ints] = {}
        self._lists: OrderedDict[str, Ints] = OrderedDict()
        self._pictures: OrderedDict[tuple[int, bool, bool], bytes] = OrderedDict()

    def prepare(self) -> None:
        """Compute what the first page needs, so that it appears at once."""
        self.list(self.order, self.wanted, 0, "")
        if len(self.items):
            self.detail(0)

    def list(self, order: Order, wanted: Wanted, start: int, name: str) -> dict[str, Any]:
        """A page of the requested sequences, in an order; reviewed ones come last.

        Parameters
        ----------
        start : where the page begins
        name : name of the list it is a page of, as given with the first page: a list does not change while
            its sequences are reviewed
        """
        numbers = self._lists.get(name)
        if numbers is None:
            name, numbers = secrets.token_hex(8), self._listed(order, wanted)
            with self.lock:
                self._lists[name] = numbers
                while len(self._lists) > _LISTS:
                    self._lists.popitem(last=False)
        some = numbers[start : start + _PAGE_SIZE]
        return {
            "name": name,
            "total": len(numbers),
            "start": start,
            "done": int(np.isin(numbers, list(self.items.said)).sum()) if self.items.said else 0,
            "items": [self.describe(int(number)) for number in some],
        }

    def _listed(self, order: Order, wanted: Wanted) -> Ints:
        if order not in self._ranked:
            of = self.n if order == self.order else None
            self._ranked[order] = ordered(self.items, order, of, self.seed, self.until)
        numbers = self._ranked[order]
        numbers = numbers[self.items.select(wanted)[numbers]]
        if self.n is not None:
            numbers = numbers[: self.n]
        is_done = np.isin(numbers, list(self.items.said))
        return np.concatenate([numbers[~is_done], numbers[is_done]])

    def describe(self, number: int) -> dict[str, Any]:
        """A summary of a sequence."""
        items = self.items
        start, said = items.start[number].as_py(), items.said.get(number)
        confidence = float(items.confidence[number])
        frames = items.frames_of(number)
        return {
            "number": number,
            "seq_id": items.seq_id[number].as_py(),
            "camera": items.location[number].as_py(),
            "label": items.label[number].as_py(),
            "source": items.source[number].as_py() or "machine",
            "confidence": None if np.isnan(confidence) else round(confidence, 4),
            "start": start.isoformat(" ", "seconds") if start else None,
            "n_images": len(frames),
            "is_night": bool(items.is_night[number]),
            "first": int(frames[0]) if len(frames) else None,
            "said": said.as_json() if said else None,
        }

    def detail(self, number: int) -> dict[str, Any]:
        """A sequence with its frames."""
        items = self.items
        rows = items.frames_of(number)
        boxes = items.boxes(number)
        frames = [
            {
                "row": int(row),
                "file_name": items.frames["file_name"][int(row)].as_py(),
                "taken": str(items.images["datetime"][int(row)].as_py() or ""),
                "boxes": boxes.get(items.frames["image_id"][int(row)].as_py(), []),
                "people": bool(items.people_in(int(row))),
            }
            for row in rows
        ]
        truth = items.truth[number].as_py()
        likeliest = [{"label": label, "p": round(p, 4)} for label, p in items.likeliest(number)]
        earlier = [said.as_json() for said in items.earlier(number)]
        return {
            **self.describe(number),
            "earlier": earlier,
            "frames": frames,
            "truth": truth,
            "likeliest": likeliest,
        }

    def picture(self, row: int, large: bool, people: bool = False) -> bytes | None:
        """A frame's thumbnail, or its photo no larger than a screen, as JPEG; None if it can't be read.

        People are blurred, unless the job shows them (`report.people`), or the reviewer asks to see them.
        """
        hidden = [] if people or self.items.run.job.report.people == "show" else self.items.people_in(row)
        key = (row, large, bool(hidden))
        with self.lock:
            if key in self._pictures:
                self._pictures.move_to_end(key)
                return self._pictures[key]
        table = self.items.images.slice(row, 1).append_column(
            "file_name", self.items.frames["file_name"].slice(row, 1)
        )
        folder = self.items.run.folder
        ((_, data, _),) = read_pictures(folder, self.root, table, use_thumbnails=not large)
        if data is None and large:
            ((_, data, _),) = read_pictures(folder, self.root, table, use_thumbnails=True)
        if data is None:
            return None
        picture = blur(data, hidden) if hidden else data
        picture = _for_screen(picture) if large or not picture.startswith(b"\xff\xd8") else picture
        with self.lock:
            self._pictures[key] = picture
            while len(self._pictures) > _CACHED:
                self._pictures.popitem(last=False)
        return picture


def _for_screen(data: bytes) -> bytes:
    pixels = decode_upright(data, _PHOTO_SIDE)
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    image.thumbnail((_PHOTO_SIDE, _PHOTO_SIDE))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=88)
    return file.getvalue()


def serve(
    reviewing: Reviewing,
    *,
    address: str = "127.0.0.1",
    port: int = 0,
    people: int = 1,
    certificate: tuple[str, str] | None = None,
) -> Served:
    """Begin to serve on the running event loop.

    Parameters
    ----------
    address : address to listen on; anything but loopback requires a certificate
    port : 0: a free one
    people : number of links to make
    certificate : files of certificate and key, for TLS

    Raises
    ------
    UserError
        The address is not loopback and there is no certificate, or can't be listened on.
    """
    if address not in ("127.0.0.1", "::1", "localhost") and certificate is None:
        raise UserError(f"--address {address}: others could listen in: also give --tls-cert and --tls-key")
    context = None
    if certificate is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        try:
            context.load_cert_chain(*certificate)
        except (OSError, ssl.SSLError) as problem:
            raise UserError(f"--tls-cert, --tls-key: can't be used: {problem}") from None
    try:
        sockets = tornado.netutil.bind_sockets(port, address)
    except OSError as problem:
        raise UserError(
            f"--address {address}, --port {port}: can't be listened on: {problem.strerror}"
        ) from None
    bound = sockets[0].getsockname()[1]
    hosts = {f"{name}:{bound}" for name in (address, "localhost", "127.0.0.1", "[::1]")}
    reviewing.tokens |= {secrets.token_urlsafe(24) for _ in range(people)}
    given = {"reviewing": reviewing, "hosts": hosts if address in ("127.0.0.1", "::1", "localhost") else None}
    application = tornado.web.Application(
        [
            (r"/", _Page, given),
            (r"/api/start", _Start, given),
            (r"/api/list", _List, given),
            (r"/api/item/(\d+)", _Item, given),
            (r"/api/decide", _Decide, given),
            (r"/(thumb|photo)/(\d+)", _Picture, given),
        ],
        log_function=lambda handler: None,
    )
    server = tornado.httpserver.HTTPServer(application, ssl_options=context, max_body_size=_MOST_BODY)
    server.add_sockets(sockets)
    scheme = "https" if context else "http"
    host = f"[{address}]" if ":" in address else address
    links = tuple(f"{scheme}://{host}:{bound}/?token={token}" for token in sorted(reviewing.tokens))
    return Served(links, server)


class _Handler(tornado.web.RequestHandler):
    def initialize(self, reviewing: Reviewing, hosts: set[str] | None) -> None:
        self.reviewing, self.hosts = reviewing, hosts

    def set_default_headers(self) -> None:
        self.set_header("Cache-Control", "no-store")
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Referrer-Policy", "no-referrer")
        self.set_header("Server", "camtrap")

    def prepare(self) -> None:
        if self.hosts is not None and self.request.host not in self.hosts:
            raise tornado.web.HTTPError(403)
        session = self.get_cookie(_COOKIE) or ""
        if not any(hmac.compare_digest(session, known) for known in self.reviewing.sessions):
            self.refuse()
        elif self.request.method != "GET" and _HEADER not in self.request.headers:
            raise tornado.web.HTTPError(403)

    def refuse(self) -> None:
        raise tornado.web.HTTPError(403)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        self.finish({"error": "this link is not valid, or was used: run camtrap review again"})

    async def beside(self, work: Any, *arguments: Any) -> Any:
        """Run something that reads files on another thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.reviewing.pool, work, *arguments)

    def answer(self, content: Any) -> None:
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps(content, ensure_ascii=False, allow_nan=False, default=str))


class _Page(_Handler):
    def refuse(self) -> None:
        token = self.get_query_argument("token", "")
        for known in self.reviewing.tokens:
            if hmac.compare_digest(token, known):
                self.reviewing.tokens.discard(known)
                session = secrets.token_urlsafe(24)
                self.reviewing.sessions.add(session)
                secure = self.request.protocol == "https"
                self.set_cookie(_COOKIE, session, httponly=True, samesite="Strict", secure=secure, path="/")
                # Not a redirect by header: a SameSite=Strict cookie would not be sent with it.
                nonce = self._policy()
                self.finish(f'<!doctype html><script nonce="{nonce}">location.replace("/")</script>')
                return
        self.set_status(403)
        self.finish(
            "<!doctype html><title>camtrap</title><p>This link is not valid, or was used already in "
            "another browser. Run <code>camtrap review</code> again for a new one."
        )

    def _policy(self) -> str:
        nonce = secrets.token_urlsafe(16)
        self.set_header(
            "Content-Security-Policy",
            f"default-src 'none'; img-src 'self' data:; connect-src 'self'; script-src 'nonce-{nonce}'; "
            f"style-src 'nonce-{nonce}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        )
        return nonce

    def get(self) -> None:
        if self._finished:
            return
        page = (files(__package__) / "page.html").read_text("utf-8")
        self.finish(page.replace("{nonce}", self._policy()))


class _Start(_Handler):
    async def get(self) -> None:
        reviewing = self.reviewing
        items = reviewing.items
        cameras = await self.beside(lambda: sorted(items.location.drop_null().unique().to_pylist()))
        self.answer(
            {
                "job": items.run.job.name,
                "who": reviewing.who,
                "order": reviewing.order,
                "orders": list(ORDERS),
                "labels": items.labels,
                "names": items.other_names,
                "empty": items.empty,
                "has_model": items.run.job.infer.model != "none",
                "cameras": cameras,
                "wanted": {key: value for key, value in vars(reviewing.wanted).items() if value is not None},
            }
        )


class _List(_Handler):
    async def get(self) -> None:
        order = self.get_query_argument("order", self.reviewing.order)
        if order not in ORDERS:
            raise tornado.web.HTTPError(400)
        wanted = _wanted({key: self.get_query_argument(key) for key in self.request.query_arguments})
        start = int(self.get_query_argument("start", "0"))
        name = self.get_query_argument("name", "")
        self.answer(await self.beside(self.reviewing.list, order, wanted, start, name))


class _Item(_Handler):
    async def get(self, number: str) -> None:
        if int(number) >= len(self.reviewing.items):
            raise tornado.web.HTTPError(404)
        self.answer(await self.beside(self.reviewing.detail, int(number)))


class _Picture(_Handler):
    async def get(self, kind: str, row: str) -> None:
        if int(row) >= self.reviewing.items.frames.num_rows:
            raise tornado.web.HTTPError(404)
        try:
            people = self.get_query_argument("people", "") == "1"
            data = await self.beside(self.reviewing.picture, int(row), kind == "photo", people)
        except (CamtrapError, ValueError, OSError):
            data = None
        if data is None:
            raise tornado.web.HTTPError(404)
        self.set_header("Content-Type", "image/jpeg")
        self.set_header("Cache-Control", "private, max-age=3600")
        self.finish(data)


class _Decide(_Handler):
    async def post(self) -> None:
        """What a person says about some sequences is on disk before this is answered."""
        try:
            numbers, labels, who, seen = _decision(json.loads(self.request.body), len(self.reviewing.items))
        except (ValueError, KeyError, TypeError) as problem:
            self.set_status(400)
            self.answer({"error": str(problem)})
            return
        try:
            await self.beside(self._decide, numbers, labels, who, seen)
        except AtOdds as others:
            self.set_status(409)
            self.answer({"others": {number: said.as_json() for number, said in others.said.items()}})
            return
        except (CamtrapError, OSError) as problem:  # a disk that is full, or gone
            self.set_status(507)
            self.answer({"error": explain(problem)})
            return
        self.answer({"items": [self.reviewing.describe(number) for number in numbers]})

    def _decide(self, numbers: list[int], labels: list[dict[str, Any]], who: str, seen: Any) -> None:
        with self.reviewing.lock:
            self.reviewing.items.decide(numbers, labels, who, seen)


def _decision(
    content: dict[str, Any], n: int
) -> tuple[list[int], list[dict[str, Any]], str, dict[int, str | None] | None]:
    numbers = [int(number) for number in content["numbers"]]
    if not numbers or not all(0 <= number < n for number in numbers):
        raise ValueError("numbers: should be of sequences of this run")
    who = " ".join(str(content.get("who") or "").split())[:80]
    if not who:
        raise ValueError("who: should say who is looking")
    labels = []
    for one in content["labels"]:
        label = " ".join(str(one["label"]).split())
        if not label:
            raise ValueError("label: should not be blank")
        more = {name: one[name] for name in TRAITS if one.get(name) not in (None, "")}
        if "count" in more:
            more["count"] = int(more["count"])
            if more["count"] < 0:
                raise ValueError("count: should be 0 or more")
        labels.append(
            {
                "label": label,
                **{name: value if name == "count" else str(value) for name, value in more.items()},
            }
        )
    seen = content.get("seen")
    return numbers, labels, who, None if seen is None else {int(key): value for key, value in seen.items()}


def _wanted(given: dict[str, str]) -> Wanted:
    def number(name: str) -> float | None:
        return float(given[name]) if given.get(name) else None

    def date(name: str) -> dt.date | None:
        return dt.date.fromisoformat(given[name]) if given.get(name) else None

    try:
        return Wanted(
            label=given.get("label") or None,
            camera=given.get("camera") or None,
            least=number("least"),
            most=number("most"),
            first=date("first"),
            last=date("last"),
            is_night={"1": True, "0": False}.get(given.get("is_night", "")),
            state=given.get("state") or None,
            text=given.get("text") or None,
        )
    except ValueError:
        raise tornado.web.HTTPError(400) from None


def ordered(items: Items, order: Order, n: int | None, seed: int = 0, until: float | None = None) -> Ints:
    """Numbers of the sequences in an order.

    Parameters
    ----------
    n : for a random order: how many to draw, as a sample with known probabilities
    until : stop once fewer wrong presence records are expected
    """
    if order == "random" and n is not None:
        return items.draw(n, seed)
    truth = items.truth if order == "disagree" else pa.nulls(len(items), pa.string())
    numbers = rank(order, items.evidence, truth, seed)
    return numbers if until is None else numbers[: looks_until(items.evidence, numbers, until)]


def listing(
    items: Items, order: Order, wanted: Wanted, n: int | None, seed: int = 0, until: float | None = None
) -> pa.Table:
    """Only the list: sequences in an order, as a table."""
    numbers = ordered(items, order, n, seed, until)
    numbers = numbers[items.select(wanted)[numbers]][:n]
    rows: Sequence[int] = numbers.tolist()
    picked = pa.array(rows, pa.int64())
    firsts = [items.frames_of(number)[0] for number in rows]
    return pa.table(
        {
            "place": pa.array(range(1, len(rows) + 1)),
            "seq_id": items.seq_id.take(picked),
            "location": items.location.take(picked),
            "start": items.start.take(picked),
            "label": items.label.take(picked),
            "confidence": pa.array(items.confidence[numbers], from_pandas=True),
            "n_images": pa.array([len(items.frames_of(number)) for number in rows]),
            "first_file": items.frames["file_name"].take(pa.array(firsts, pa.int64())),
        }
    )
