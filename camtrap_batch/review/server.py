"""The review page's server: on loopback for those who have a link with a token; elsewhere over TLS.

A link is valid for one browser: its token is exchanged for a cookie. Two kinds of requests are refused: those
with another Host than the one served (a page elsewhere that resolves to this address), and changes without
our header (a form elsewhere). Only corrections are written.
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
from dataclasses import dataclass, replace
from http import HTTPStatus
from importlib.resources import files
from typing import Any

import numpy as np
import pyarrow as pa
import tornado.httpserver
import tornado.netutil
import tornado.web
from PIL import Image

from camtrap_batch.catalog.numbers import whole_number
from camtrap_batch.codes import Ints
from camtrap_batch.detection.people import blur
from camtrap_batch.errors import CamtrapError, InputError, UserError, explain
from camtrap_batch.images import ImageRoot, decode_upright
from camtrap_batch.images.pictures import read_pictures
from camtrap_batch.review.items import AtOdds, Items, Wanted
from camtrap_batch.review.opening import Opening, Ordering
from camtrap_batch.review.order import ORDERS, Order
from camtrap_batch.store.corrections import MOST_COUNTED, TRAITS
from camtrap_batch.store.run import Run

_COOKIE = "camtrap_review"
_HEADER = "X-Camtrap-Review"
PAGE_SIZE = 60
"""Sequences per page of the list; after each page, the order `useful` is recomputed."""

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
    """A run under review: its items, who may look, and what they ask for.

    Raises
    ------
    InputError
        There is no result of `merge` yet.
    """

    def __init__(
        self,
        run: Run,
        root: ImageRoot,
        ordering: Ordering,
        wanted: Wanted,
        *,
        who: str,
    ) -> None:
        self.run, self.root, self.who = run, root, who
        self.ordering, self.wanted = ordering, wanted
        self.sessions: set[str] = set()
        self.tokens: set[str] = set()
        self.pool = ThreadPoolExecutor(4, thread_name_prefix="review")
        self.lock = threading.Lock()
        self.opening = Opening(run, ordering, wanted, lock=self.lock)
        self._ranked: dict[tuple[str, int], Ints] = {}
        self._lists: OrderedDict[str, Ints] = OrderedDict()
        self._partial: set[str] = set()
        self._pictures: OrderedDict[tuple[int, int, bool, bool], bytes] = OrderedDict()

    @property
    def items(self) -> Items:
        """All sequences; waits until they are read."""
        return self.opening.items

    def start(self) -> dict[str, Any]:
        """What the page needs to know first."""
        items = self.opening.soon
        return {
            "job": self.run.job.name,
            "who": self.who,
            "order": self.ordering.order,
            "orders": list(ORDERS),
            "labels": items.labels,
            "names": items.other_names,
            "common": items.common_names,
            "empty": items.empty,
            "person": items.person,
            "has_model": self.run.job.infer.model != "none",
            "cameras": sorted(items.location.drop_null().unique().to_pylist()),
            "wanted": {key: value for key, value in vars(self.wanted).items() if value is not None},
        }

    def list(self, order: Order, wanted: Wanted, start: int, name: str) -> dict[str, Any]:
        """A page of the requested sequences, in an order; reviewed ones come last.

        Parameters
        ----------
        start : where the page begins
        name : name of the list that it is a page of, as given with the first page: what was shown of a list
            stays the same while its sequences are looked at; what comes next follows from what was said
        """
        opening = self.opening
        is_asked_for = (order, wanted, start) == (self.ordering.order, self.wanted, 0)
        if is_asked_for and len(opening.first) and not opening.is_whole:
            name = self._keep(secrets.token_hex(8), opening.first)
            self._partial.add(name)
            return {
                "name": name,
                "total": opening.total,
                "start": 0,
                "done": opening.done + len(opening.soon.said),
                "items": [self.describe(number) for number in opening.first.tolist()],
            }
        numbers = self._lists.get(name)
        if numbers is None:
            name, numbers = secrets.token_hex(8), self._listed(order, wanted)
        elif start and (order == "useful" or name in self._partial):
            shown = numbers[:start]
            rest = (
                self._listed(order, wanted) if name in self._partial else self._again(order, numbers[start:])
            )
            numbers = np.concatenate([shown, rest[~np.isin(rest, shown)]])
            self._partial.discard(name)
        self._keep(name, numbers)
        said = self.items.said
        return {
            "name": name,
            "total": len(numbers),
            "start": start,
            "done": int(np.isin(numbers, list(said)).sum()) if said else 0,
            "items": [self.describe(int(number)) for number in numbers[start : start + PAGE_SIZE]],
        }

    def _keep(self, name: str, numbers: Ints) -> str:
        with self.lock:
            self._lists[name] = numbers
            while len(self._lists) > _LISTS:
                self._partial.discard(self._lists.popitem(last=False)[0])
        return name

    def _order(self, order: Order) -> Ints:
        key = order, len(self.items.said) if order == "useful" else 0
        if key not in self._ranked:
            asked = self.ordering
            if order != asked.order:
                asked = replace(asked, order=order, n=None)
            is_known = asked is self.ordering and (order != "useful" or not self.items.said)
            found = self.opening.ranked if is_known else asked.of(self.items)
            self._ranked = {known: one for known, one in self._ranked.items() if known[0] != order}
            self._ranked[key] = found
        return self._ranked[key]

    def _listed(self, order: Order, wanted: Wanted) -> Ints:
        numbers = self._order(order)
        numbers = numbers[self.items.select(wanted)[numbers]]
        return self._open_first(numbers[: self.ordering.n])

    def _again(self, order: Order, numbers: Ints) -> Ints:
        """These sequences in the order that follows from what has been said so far."""
        at = np.full(len(self.items), len(self.items))
        ranked = self._order(order)
        at[ranked] = np.arange(len(ranked))
        return self._open_first(numbers[np.argsort(at[numbers], kind="stable")])

    def _open_first(self, numbers: Ints) -> Ints:
        is_done = np.isin(numbers, list(self.items.said))
        return np.concatenate([numbers[~is_done], numbers[is_done]])

    def describe(self, number: int) -> dict[str, Any]:
        """A sequence in short."""
        items = self.opening.of(number)
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
            "first": f"{number}.0" if len(frames) else None,
            "said": said.as_json() if said else None,
        }

    def detail(self, number: int) -> dict[str, Any]:
        """A sequence with its frames; each `row` identifies the picture to request."""
        items = self.opening.of(number)
        rows = items.frames_of(number)
        boxes = items.boxes(number)
        frames = [
            {
                "row": f"{number}.{position}",
                "file_name": items.frames["file_name"][int(row)].as_py(),
                "taken": str(items.images["datetime"][int(row)].as_py() or ""),
                "boxes": boxes.get(items.frames["image_id"][int(row)].as_py(), []),
                "people": bool(items.people_in(int(row))),
            }
            for position, row in enumerate(rows)
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

    def picture(self, number: int, position: int, large: bool, people: bool = False) -> bytes | None:
        """A frame's thumbnail, or its photo no larger than a screen, as JPEG; None if it can't be read.

        People are blurred, unless the job shows them (`report.people`), or the viewer asks for it.

        Parameters
        ----------
        number, position : number of the sequence, and position of the frame in it
        """
        if not 0 <= number < len(self.opening):
            return None
        items = self.opening.of(number)
        rows = items.frames_of(number)
        if position >= len(rows):
            return None
        row = int(rows[position])
        hidden = [] if people or self.run.job.report.people == "show" else items.people_in(row)
        key = (number, position, large, bool(hidden))
        with self.lock:
            if key in self._pictures:
                self._pictures.move_to_end(key)
                return self._pictures[key]
        table = items.images.slice(row, 1).append_column("file_name", items.frames["file_name"].slice(row, 1))
        folder = self.run.folder
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
            (r"/(thumb|photo)/(\d+)\.(\d+)", _Picture, given),
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
        text = "this link is not valid, or was used: run camtrap review again"
        if status_code != HTTPStatus.FORBIDDEN:
            text = "there is no such sequence or picture"
        if status_code not in (HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND):
            problem = kwargs.get("exc_info", (None, None))[1]
            is_ours = problem is not None and not isinstance(problem, tornado.web.HTTPError)
            text = explain(problem) if is_ours else f"error {status_code}: the request can't be answered"
        self.finish({"error": text})

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
        self._send("refused.html")

    def _send(self, page: str) -> None:
        self.finish((files(__package__) / page).read_text("utf-8").replace("{nonce}", self._policy()))

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
        self._send("page.html")


class _Start(_Handler):
    async def get(self) -> None:
        self.answer(await self.beside(self.reviewing.start))


class _List(_Handler):
    async def get(self) -> None:
        order = self.get_query_argument("order", self.reviewing.ordering.order)
        if order not in ORDERS:
            raise tornado.web.HTTPError(400)
        wanted = _wanted({key: self.get_query_argument(key) for key in self.request.query_arguments})
        start = self.get_query_argument("start", "0")
        if not (start.isascii() and start.isdigit()):
            raise tornado.web.HTTPError(400)
        name = self.get_query_argument("name", "")
        self.answer(await self.beside(self.reviewing.list, order, wanted, int(start), name))


class _Item(_Handler):
    async def get(self, number: str) -> None:
        if int(number) >= len(self.reviewing.opening):
            raise tornado.web.HTTPError(404)
        self.answer(await self.beside(self.reviewing.detail, int(number)))


class _Picture(_Handler):
    async def get(self, kind: str, number: str, position: str) -> None:
        try:
            people = self.get_query_argument("people", "") == "1"
            large = kind == "photo"
            data = await self.beside(self.reviewing.picture, int(number), int(position), large, people)
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
            content = json.loads(self.request.body)
            numbers, labels, who, seen = _decision(content, len(self.reviewing.opening))
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as problem:
            self.set_status(400)
            self.answer({"error": str(problem)})
            return
        try:
            await self.beside(self._decide, numbers, labels, who, seen)
        except AtOdds as others:
            self.set_status(409)
            self.answer({"others": {number: said.as_json() for number, said in others.said.items()}})
            return
        except (CamtrapError, OSError) as problem:  # what can't be recorded; a disk that is full, or gone
            self.set_status(400 if isinstance(problem, InputError) else 507)
            self.answer({"error": explain(problem)})
            return
        found = await self.beside(lambda: [self.reviewing.describe(number) for number in numbers])
        self.answer({"items": found})

    def _decide(self, numbers: list[int], labels: list[dict[str, Any]], who: str, seen: Any) -> None:
        reviewing = self.reviewing
        reviewing.opening.of(*numbers)  # waits here if it must, without holding the lock
        with reviewing.lock:
            reviewing.opening.of(*numbers).decide(numbers, labels, who, seen)


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
            count = whole_number(str(more["count"]))
            if count is None or not 0 <= count <= MOST_COUNTED:
                raise ValueError(f"count: should be a whole number, from 0 to {MOST_COUNTED:,}")
            more["count"] = count
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


def listing(items: Items, ordering: Ordering, wanted: Wanted) -> pa.Table:
    """Only the list: sequences in an order, as a table."""
    numbers = ordering.of(items)
    numbers = numbers[items.select(wanted)[numbers]][: ordering.n]
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
