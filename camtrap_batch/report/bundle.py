"""The files of a report: a page, and the files beside it that it loads on demand; or everything in one file.

Everything opens from disk: what loads later is a script that hands over JSON, since a page opened from disk
may not fetch a file.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit

from markupsafe import Markup

from camtrap_batch.report.data import ReportData
from camtrap_batch.report.pages import Pages, make_pages

_ASSETS = files("camtrap_batch.report").joinpath("assets")
_TEMPLATES = files("camtrap_batch.report").joinpath("templates")
_MAP_SCRIPTS = ("leaflet.js", "topojson-client.js")
_TILE_SCRIPTS = ("pmtiles.js", "protomaps-leaflet.js")


Content = Callable[[], bytes]
"""Makes the content of a file when it is written: a report may have more photos than fit into memory."""


def asset(name: str) -> str | None:
    """A file from npm (see tools/web/build.py); None if the package was built without it."""
    file = _ASSETS.joinpath(name)
    return file.read_text(encoding="utf-8") if file.is_file() else None


def _stamp() -> str:
    parts = [(asset("stamp") or "").encode()]
    parts += [file.read_bytes() for file in sorted(_TEMPLATES.iterdir(), key=lambda file: file.name)]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def has_map() -> bool:
    """Whether an interactive map can be made."""
    return all(_ASSETS.joinpath(name).is_file() for name in (*_MAP_SCRIPTS, "leaflet.css", "world.json"))


FINGERPRINT = _stamp()
"""Identifies the templates, styles and scripts of reports: another value means another report."""


@dataclass
class Bundle:
    """The files beside the page of a report, and what the page says about them.

    Parameters
    ----------
    folder : folder of the parts, relative to the page
    """

    data: ReportData
    folder: str = "parts"
    is_single: bool = field(init=False)

    def __post_init__(self) -> None:
        self.is_single = self.data.single_file

    @cached_property
    def pages(self) -> Pages | None:
        return make_pages(self.data)

    @cached_property
    def moves(self) -> bool:
        """Whether the map is interactive."""
        return self.pages is not None and has_map()

    @property
    def is_archive(self) -> bool:
        """Whether the map tiles come from a PMTiles archive."""
        tiles = self.data.tiles
        return isinstance(tiles, bytes) or (tiles is not None and urlsplit(tiles).path.endswith(".pmtiles"))

    @property
    def host(self) -> str | None:
        """The host that map tiles are requested from."""
        if not self.moves or not isinstance(self.data.tiles, str):
            return None
        address = urlsplit(self.data.tiles)
        return f"{address.scheme}://{address.netloc}".replace("{s}", "*")

    @cached_property
    def scripts(self) -> dict[str, str]:
        """Name and text of the scripts that run when the page opens, in order."""
        names = [
            *(_MAP_SCRIPTS if self.moves else ()),
            *(_TILE_SCRIPTS if self.moves and self.is_archive else ()),
        ]
        found = {name: asset(name) or "" for name in names}
        if self.pages is not None:
            found["index.js"] = _hand_over("index", self.pages.index)
        found["app.js"] = _TEMPLATES.joinpath("app.js").read_text(encoding="utf-8")
        return found

    @property
    def policy(self) -> str:
        """What the page may do: no network access, except for map tiles that the job names."""
        host = f" {self.host}" if self.host else ""
        script = " ".join(map(_hash, self.scripts.values())) if self.is_single else "'self' file:"
        own = "" if self.is_single else " 'self' file:"
        parts = [
            "default-src 'none'",
            f"img-src data: blob:{own}{host}",
            f"style-src 'unsafe-inline'{own}",
            f"script-src {script}",
        ]
        return "; ".join([*parts, f"connect-src{host}"] if host else parts)

    @property
    def styles(self) -> Markup:
        return Markup((asset("leaflet.css") or "") if self.moves else "")  # noqa: S704 - a file of the package

    def script_tags(self) -> Markup:
        """The scripts, and for a single file also the parts, which run nothing."""
        if not self.is_single:
            tags = [f'<script src="{self.folder}/{name}" defer></script>' for name in self.scripts]
            return Markup("\n".join(tags))  # noqa: S704 - names of ours
        tags = [
            f'<script type="application/json" id="part-{name}">{_no_tags(json_of(content))}</script>'
            for name, content in self._parts()
        ]
        tags += [
            f'<script type="text/plain" id="photo-{number}">{_base64(photo.jpeg)}</script>'
            for number, photo in enumerate(self.data.photos.values())
        ]
        tags += [f"<script>{_in_html(script)}</script>" for script in self.scripts.values()]
        return Markup("\n".join(tags))  # noqa: S704 - nothing in them ends a script

    def photo_url(self, image_id: str) -> str:
        """Where the page finds a photo."""
        if self.is_single:
            return "data:image/jpeg;base64," + base64.b64encode(self.data.photos[image_id].jpeg).decode(
                "ascii"
            )
        return f"{self.folder}/photos/{self._numbers[image_id]}.jpg"

    def files(self) -> Iterator[tuple[str, Content]]:
        """Path of each file beside the page, and what makes its content; none if everything is in one
        file."""
        if self.is_single:
            return
        for name, script in self.scripts.items():
            yield f"{self.folder}/{name}", script.encode
        for name, content in self._parts():
            yield f"{self.folder}/{name}.js", functools.partial(_handed_over, name, content)
        for number, photo in enumerate(self.data.photos.values()):
            yield f"{self.folder}/photos/{number}.jpg", functools.partial(bytes, photo.jpeg)
        if self.moves and (licences := asset("LICENSES.txt")) is not None:
            yield f"{self.folder}/LICENSES.txt", licences.encode

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {image_id: number for number, image_id in enumerate(self.data.photos)}

    def _parts(self) -> Iterator[tuple[str, Any]]:
        """Name and content of what loads on demand."""
        if self.pages is None:
            return
        yield from self.pages.parts.items()
        if self.moves:
            yield "world", json.loads(asset("world.json") or "null")
            if isinstance(self.data.tiles, bytes):
                yield "tiles", _base64(self.data.tiles)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def json_of(content: Any) -> str:
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    # a path that is not UTF-8 is a lone surrogate in Python, which no file can hold
    return text.encode("utf-8", "replace").decode("utf-8")


def _hand_over(name: str, content: Any) -> str:
    """A script that hands the page a part as text, which is parsed when it is needed."""
    text = _no_tags(json_of(json_of(content)))
    return f"(window.camtrapParts ??= {{}})[{json.dumps(name)}] = {text};\n"


def _handed_over(name: str, content: Any) -> bytes:
    return _hand_over(name, content).encode()


def _no_tags(text: str) -> str:
    """JSON that can't begin or end an element, wherever it is."""
    return text.replace("<", "\\u003c")


def _in_html(script: str) -> str:
    """A script in a form that is safe within a page: nothing in it ends the element."""
    return script.replace("</script", "<\\/script")


def _hash(script: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(_in_html(script).encode()).digest()).decode() + "'"
