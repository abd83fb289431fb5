"""A Deep Learning Package as a portal item: added once, then updated in place."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from camtrap_batch.errors import StageError
from camtrap_batch.portal import without_secrets

if TYPE_CHECKING:
    from arcgis.gis import GIS, Item

ITEM_TYPE = "Deep Learning Package"
_OURS = "camtrap-batch:"  # beginning of our type keywords
_PART = 10_000_000  # bytes per part of an upload; by default the client keeps that of the path's first file


@dataclass(frozen=True)
class Published:
    """The portal item that now holds a package, and whether it was added or updated."""

    item_id: str
    url: str
    added: bool


def publish_package(gis: GIS, package: Path, *, name: str, model_id: str, summary: str) -> Published:
    """Put a package into the portal; an item that an earlier call made for `name` gets the new content.

    The item is identified by a type keyword that contains `name`; it keeps its title, sharing and folder.

    Parameters
    ----------
    gis
        A signed-in connection that does not resend changes by itself.
    package
        The .dlpk file.
    name
        The model's name; one of the user's items holds it.
    model_id
        Goes into a type keyword.
    summary
        A line about the model.

    Raises
    ------
    StageError
        The portal refuses, or holds something else afterwards.
    """
    keyword = f"{_OURS}{name}"
    properties = {
        "type": ITEM_TYPE,
        "snippet": summary[:2048],
        "tags": "camera traps,species,camtrap-batch",
    }
    keywords = [keyword, f"{_OURS}model:{model_id}"]
    try:
        item = find_item(gis, keyword, ITEM_TYPE)
        added = item is None
        if item is None:
            item = _add(
                gis, package, {**properties, "title": name, "typeKeywords": ",".join(keywords)}, keyword
            )
        else:
            kept = [word for word in item.typeKeywords if not word.startswith(_OURS)]
            _update(item, package, {**properties, "typeKeywords": ",".join([*kept, *keywords])})
        held = gis.content.get(item.id)
        size = getattr(held, "size", None)
    except StageError:
        raise
    except Exception as problem:  # the client raises bare Exceptions with the portal's words
        raise StageError(f"{gis.url}: the package can't be published: {without_secrets(problem)}") from None
    if held is None or held.type != ITEM_TYPE:
        raise StageError(f"{gis.url}: item {item.id} is not a {ITEM_TYPE} after publishing; publish again")
    # A portal that is still working on the file says -1.
    if isinstance(size, int) and size > 0 and size != package.stat().st_size:
        raise StageError(
            f"{gis.url}: item {item.id} holds {size:,} bytes, the package has"
            f" {package.stat().st_size:,}; publish again"
        )
    return Published(item.id, f"{gis.url}/home/item.html?id={item.id}", added)


def _add(gis: GIS, package: Path, properties: dict[str, Any], keyword: str) -> Item:
    # As bytes, because the client leaves a file open if the portal refuses.
    content = io.BytesIO(package.read_bytes())
    described = {**properties, "fileName": package.name}
    try:
        return gis.content.folders.get().add(described, file=content, upload_file_size=_PART).result()
    except Exception:
        # The answer may have been lost after the portal had done it; the next call would find it.
        if (found := find_item(gis, keyword, ITEM_TYPE)) is None:
            raise
        _update(found, package, properties)
        return found


def _update(item: Item, package: Path, properties: dict[str, Any]) -> None:
    if not item.update(properties, data=str(package)):
        raise StageError(f"item {item.id}: the portal did not take the update")


def find_item(gis: GIS, keyword: str, item_type: str) -> Item | None:
    """The oldest of the user's own items of a type that has the keyword."""
    found = {
        item.id: item for item in _candidates(gis, keyword, item_type) if keyword in (item.typeKeywords or [])
    }
    return min(found.values(), key=lambda item: (item.created, item.id), default=None)


def _candidates(gis: GIS, keyword: str, item_type: str) -> Iterator[Item]:
    owner = gis.users.me.username
    yield from gis.content.search(f'owner:"{owner}" AND typekeywords:"{keyword}"', item_type=item_type)
    # The search index lags by seconds or minutes; the folder to which items are added does not.
    yield from gis.content.folders.get().list(item_type=item_type)
