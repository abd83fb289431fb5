"""Creates the layers that a job is pushed to, and adds to existing ones what they lack."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from camtrap_batch.errors import InputError
from camtrap_batch.job.publish import KEY
from camtrap_batch.portal.service import Service, change_definition
from camtrap_batch.targets.arcgis.definition import (
    RELATED,
    field_definition,
    key_index,
    layer_definition,
    relationship,
)
from camtrap_batch.targets.arcgis.items import NEW, ItemText, describe_item, item_of
from camtrap_batch.targets.base import LayerRows

_MAX_RECORDS = 2000


def create_layers(
    service: Service,
    job: str,
    layers: Sequence[LayerRows],
    labels: Sequence[str],
    urls: Mapping[str, str],
    names: Mapping[str, Mapping[str, str]],
    utc_offset: str | None = None,
    text: ItemText | None = None,
    key: str = KEY,
) -> tuple[dict[str, str], list[str]]:
    """Layers for `layers`: those with a URL get what they lack, the others are created in a hosted service.

    The service is named after the job. If the user already has one with that name, it is extended, so that a
    second call, or one after an interruption, makes nothing twice.

    Parameters
    ----------
    labels : species and others, most frequent first; see `layer_definition`
    urls : layer -> URL, for existing ones
    names : layer -> column -> field
    utc_offset : offset of the cameras' clocks, such as "+02:00"; see `layer_definition`
    text : description of a new service's item; existing text stays
    key : section of the job file that the layers are for; those for everyone get a service of their own

    Returns
    -------
    layer -> URL, for all layers; and what was done, one line each

    Raises
    ------
    InputError
        The portal does not allow it, or a service with that name belongs to somebody else.
    """
    made, done = dict(urls), []
    for rows in layers:
        if rows.layer in urls:
            done += _complete(service, urls[rows.layer], rows, dict(names.get(rows.layer, {})))
    new = [rows for rows in layers if rows.layer not in urls]
    if not new:
        return made, [*done, *_relate(service, made, names)]
    home, there = _home(service, job, key)
    numbers = {layer["name"]: int(layer["id"]) for layer in there}
    for rows in new:
        its = dict(names.get(rows.layer, {}))
        if rows.layer not in numbers:
            number = max(numbers.values(), default=-1) + 1
            definition = layer_definition(rows, number, labels, its, utc_offset)
            del definition["indexes"]
            change_definition(service, home, "addToDefinition", {"layers": [definition]})
            numbers[rows.layer] = number
            done.append(f"{rows.layer}: made as {home}/{number}")
        made[rows.layer] = f"{home}/{numbers[rows.layer]}"
        done += _complete(service, made[rows.layer], rows, its)
    done += _relate(service, made, names)
    if text is not None and (item := item_of(service, home)) is not None:
        filled = describe_item(item, text)
        done += [f"item {item.id}: {', '.join(filled)} added"] if filled else []
    return made, done


def _relate(service: Service, urls: Mapping[str, str], names: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Add the relationship classes that the layers of one service lack.

    If a portal does not make one, that is only reported: nothing depends on them.
    """
    done = []
    for origin, key, destination, field in RELATED:
        if origin not in urls or destination not in urls:
            continue
        homes, numbers = zip(*(_split(urls[layer]) for layer in (origin, destination)), strict=True)
        if homes[0] != homes[1]:
            continue
        ends = (origin, destination)
        sides = (
            (urls[origin], numbers[1], names.get(origin, {}).get(key, key), True),
            (urls[destination], numbers[0], names.get(destination, {}).get(field, field), False),
        )
        made = 0
        for url, other, name, is_origin in sides:
            there = service.describe(url).get("relationships") or []
            if any(int(one.get("relatedTableId", -1)) == other for one in there):
                continue
            number = max((int(one.get("id", 0)) for one in there), default=-1) + 1
            side = relationship(number, other, name, ends, is_origin=is_origin)
            try:
                change_definition(service, url, "addToDefinition", {"relationships": [side]})
            except InputError as problem:
                done.append(f"{origin} and {destination} are not related: {problem}")
                break
            made += 1
        if made:
            done.append(f"{origin} and {destination} are related by {sides[1][2]}")
    return done


def _split(url: str) -> tuple[str, int]:
    home, _, number = url.rstrip("/").rpartition("/")
    return home, int(number)


def _complete(service: Service, url: str, rows: LayerRows, names: dict[str, str]) -> list[str]:
    """Add to a layer the fields, the index on the key and the attachments that it lacks."""
    about = service.describe(url)
    if about.get("type") not in ("Feature Layer", "Table"):
        raise InputError(
            f"{url}: is {about.get('type') or 'no layer'}; it should be .../FeatureServer/<number>"
        )
    there = {field["name"].lower() for field in about.get("fields") or []}
    missing = [
        field_definition(column, names.get(column.name, column.name), rows.key)
        for column in rows.columns.schema
        if names.get(column.name, column.name).lower() not in there
    ]
    for field in missing:  # rows that are there already have no value
        field["nullable"] = True
    done = []
    if missing:
        change_definition(service, url, "addToDefinition", {"fields": missing})
        done.append(f"{rows.layer}: fields added: {', '.join(field['name'] for field in missing)}")
    key = names.get(rows.key, rows.key)
    is_unique = any(
        index.get("isUnique") and str(index.get("fields", "")).lower() == key.lower()
        for index in about.get("indexes") or []
    )
    if not is_unique:
        change_definition(service, url, "addToDefinition", {"indexes": [key_index(key)]})
        done.append(f"{rows.layer}: unique index on {key} added")
    plain = _without_alias(rows, names, about)
    if plain:
        change_definition(service, url, "updateDefinition", {"fields": plain})
        done.append(f"{rows.layer}: aliases and descriptions of {len(plain)} fields added")
    if not about.get("hasAttachments"):
        change_definition(service, url, "updateDefinition", {"hasAttachments": True})
        done.append(f"{rows.layer}: attachments allowed")
    return done or [f"{rows.layer}: {url} has everything that is needed"]


def _without_alias(rows: LayerRows, names: dict[str, str], about: dict[str, Any]) -> list[dict[str, Any]]:
    """Our aliases for fields that have none but their name; the user's own aliases stay."""
    there: dict[str, dict[str, Any]] = {field["name"].lower(): field for field in about.get("fields") or []}
    changed = []
    for column in rows.columns.schema:
        wanted = field_definition(column, names.get(column.name, column.name), rows.key)
        field = there.get(wanted["name"].lower())
        if field is None or field.get("alias") not in (None, "", field["name"]):
            continue
        if wanted["alias"] != field["name"]:
            change = {"name": field["name"], "type": field["type"]}
            changed.append(change | {key: wanted[key] for key in ("alias", "description") if key in wanted})
    return changed


def _home(service: Service, job: str, key: str) -> tuple[str, list[dict[str, Any]]]:
    """The job's own hosted service, created if it does not exist: its URL, and its layers."""
    content = service.gis.content
    title = "camtrap_" + "".join(letter if letter.isalnum() else "_" for letter in job)
    if key != KEY:  # before the name: after it, it could be another job's
        title = f"public_{title}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        me = service.gis.users.me
        if me is None:
            raise InputError("layers can't be created without signing in")
        found = [
            item
            for item in content.search(
                f'title:"{title}" AND owner:{me.username}', item_type="Feature Service"
            )
            if item.title == title
        ]
        if found:
            url = str(found[0].url)
        elif not content.is_service_name_available(title, "featureService"):
            raise InputError(
                f"a service named {title} already exists, but is not among your items; give the URLs of "
                f"its layers in {key}.cameras, {key}.events and {key}.photos, or rename the job"
            )
        else:
            url = _make(content, title, job)
    return url, list(service.describe(url).get("layers") or [])


def _make(content: Any, title: str, job: str) -> str:
    parameters = {
        "name": title,
        "serviceDescription": f"{NEW}{job}",
        "hasStaticData": False,
        "maxRecordCount": _MAX_RECORDS,
        "supportedQueryFormats": "JSON",
        "capabilities": "Query,Editing,Create,Update,Delete,Sync",
        "spatialReference": {"wkid": 4326},
        "allowGeometryUpdates": True,
    }
    try:
        item = content.create_service(
            title, create_params=parameters, tags=["camera traps"], service_type="featureService"
        )
    except Exception as problem:  # the client raises bare exceptions
        said = " ".join(str(problem).split())
        raise InputError(f"the portal does not make a feature service: {said[:200]}") from None
    if item is None:
        raise InputError("the portal does not make a feature service, and does not say why")
    return str(item.url)
