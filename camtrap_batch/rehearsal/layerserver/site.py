"""The existing services and layers, and every change to their definitions."""

from __future__ import annotations

import functools
import json
import re
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeVar, cast

from camtrap_batch.rehearsal.layerserver import database as store
from camtrap_batch.rehearsal.layerserver.accounts import Accounts
from camtrap_batch.rehearsal.layerserver.answers import Json, Refused, RowRefused
from camtrap_batch.rehearsal.layerserver.definition import DEFAULT_CAPABILITIES, MAX_RECORDS, Layer
from camtrap_batch.rehearsal.layerserver.faults import Faults

Anonymous = Literal["none", "read", "edit"]
_NAME = re.compile(r"\w{1,120}", re.ASCII)
_FAILED = "Unable to add feature service definition."


@dataclass(frozen=True, slots=True)
class Service:
    """A feature service; `anonymous` is what someone without a token may do."""

    name: str
    owner: str
    item: str
    capabilities: str = DEFAULT_CAPABILITIES
    anonymous: Anonymous = "none"
    max_records: int = MAX_RECORDS
    description: str = ""


_Method = TypeVar("_Method", bound=Callable[..., Any])


def _one_at_a_time(method: _Method) -> _Method:
    """Definitions are changed by one request at a time; readers see either the old ones or the new ones."""

    @functools.wraps(method)
    def locked(self: Site, *arguments: Any, **options: Any) -> Any:
        with self.changing:
            return method(self, *arguments, **options)

    return cast(_Method, locked)


class Site:
    """What the server serves."""

    def __init__(self, database: store.Database, accounts: Accounts, faults: Faults) -> None:
        self.database, self.accounts, self.faults = database, accounts, faults
        self.services: dict[str, Service] = {}
        self.layers: dict[tuple[str, int], Layer] = {}
        self.changing = threading.RLock()
        self.ending = threading.Event()
        self.jobs: list[threading.Thread] = []
        with database.reading() as db:
            self.services = {name: Service(**found) for name, found in store.load_services(db).items()}
            self.layers = {(layer.service, layer.id): layer for layer in store.load_layers(db)}

    # Looking up -------------------------------------------------------------------------------------

    def service(self, name: str) -> Service:
        """
        Raises:
            Refused: there is no service with this name.
        """
        for known, service in self.services.items():
            if known.lower() == name.lower():
                return service
        raise Refused(404, f"Service {name}/FeatureServer not found", [])

    def layer(self, service: str, number: str) -> Layer:
        """
        Raises:
            Refused: the service has no such layer.
        """
        found = self.layers.get((service, int(number))) if number.isdecimal() else None
        if found is None:
            raise Refused(400, "Invalid URL", [f"service '{service}' has no layer {number}"])
        return found

    def layers_of(self, service: str) -> list[Layer]:
        return [layer for (name, _), layer in sorted(self.layers.items()) if name == service]

    def capabilities(self, layer: Layer) -> str:
        own = layer.definition.get("capabilities")
        return str(own) if own else self.services[layer.service].capabilities

    def end(self, patience_s: float) -> None:
        """Let whatever waits because of a fault go on at once, and wait for jobs."""
        self.ending.set()
        for job in self.jobs:
            job.join(patience_s)

    # Services and layers come and go ------------------------------------------------------------------

    @_one_at_a_time
    def create_service(
        self,
        name: str,
        layers: Sequence[Json],
        owner: str,
        capabilities: str = DEFAULT_CAPABILITIES,
        anonymous: Anonymous = "none",
        max_records: int = MAX_RECORDS,
        description: str = "",
        item: str | None = None,
    ) -> Service:
        """A new service, and an item of the portal for it.

        Raises:
            Refused: the name is taken or not a valid one, or a definition is wrong.
        """
        if not _NAME.fullmatch(name):
            raise Refused(400, "Invalid service name", [f"'{name}': only letters, digits and _"])
        if name.lower() in (known.lower() for known in self.services):
            raise Refused(409, "Service name is not available", [f"a service '{name}' already exists"])
        service = Service(
            name, owner, item or uuid.uuid4().hex, capabilities, anonymous, max_records, description
        )
        made = self._new_layers(service, layers)
        with self.database.writing() as db:
            db.execute("INSERT INTO services VALUES(?, ?)", (name, json.dumps(asdict(service))))
            db.execute(
                "INSERT INTO items(id, owner, properties) VALUES(?, ?, ?)",
                (service.item, owner, json.dumps(_item(service))),
            )
            for layer in made:
                self._make(db, layer)
        self.layers = {**self.layers, **{(name, layer.id): layer for layer in made}}
        self.services = {**self.services, name: service}
        return service

    @_one_at_a_time
    def delete_service(self, name: str) -> None:
        service = self.service(name)
        with self.database.writing() as db:
            for layer in self.layers_of(service.name):
                store.drop_layer(db, layer)
            db.execute("DELETE FROM services WHERE name = ?", (service.name,))
            db.execute("DELETE FROM items WHERE id = ?", (service.item,))
        self.services = {key: other for key, other in self.services.items() if key != service.name}
        self.layers = {key: layer for key, layer in self.layers.items() if key[0] != service.name}

    @_one_at_a_time
    def add_layers(self, service: Service, definitions: Sequence[Json]) -> list[Layer]:
        made = self._new_layers(service, definitions)
        with self.database.writing() as db:
            for layer in made:
                self._make(db, layer)
        self.layers = {**self.layers, **{(service.name, layer.id): layer for layer in made}}
        return made

    @_one_at_a_time
    def delete_layers(self, service: Service, numbers: Sequence[int]) -> None:
        gone = [self.layer(service.name, str(number)) for number in numbers]
        with self.database.writing() as db:
            for layer in gone:
                store.drop_layer(db, layer)
        self.layers = {key: layer for key, layer in self.layers.items() if layer not in gone}

    @_one_at_a_time
    def update_service(self, service: Service, changes: Json) -> None:
        """`updateDefinition` of a service."""
        names = {
            "capabilities": "capabilities",
            "maxRecordCount": "max_records",
            "serviceDescription": "description",
        }
        self._save(replace(service, **{names[key]: value for key, value in changes.items() if key in names}))

    @_one_at_a_time
    def set_anonymous(self, service: Service, anonymous: Anonymous) -> None:
        """What someone without a token may do from now on."""
        self._save(replace(service, anonymous=anonymous))

    def _save(self, service: Service) -> None:
        with self.database.writing() as db:
            db.execute(
                "UPDATE services SET properties = ? WHERE name = ?",
                (json.dumps(asdict(service)), service.name),
            )
        self.services = {**self.services, service.name: service}

    # One layer changes --------------------------------------------------------------------------------

    @_one_at_a_time
    def add_to_layer(self, layer: Layer, changes: Json) -> None:
        """`addToDefinition` of a layer: fields and indexes are added, the rest is treated as in an update."""
        layer = self.layers[layer.service, layer.id]
        fields, indexes = _objects(changes, "fields"), _objects(changes, "indexes")
        known = {index.name.lower() for index in layer.indexes}
        for entry in fields:
            if str(entry.get("name", "")).lower() in layer.by_name:
                raise Refused(400, _FAILED, [f"field '{entry.get('name')}' already exists"])
            if entry.get("nullable") is False and entry.get("defaultValue") is None:
                reason = (
                    f"field '{entry.get('name')}' of a layer with rows must be nullable or have a default"
                )
                raise Refused(400, _FAILED, [reason])
        for entry in indexes:
            if str(entry.get("name", "")).lower() in known:
                raise Refused(400, _FAILED, [f"index '{entry.get('name')}' already exists"])
        related = _objects(changes, "relationships")
        for entry in related:
            self._check_relationship(layer, entry)
        rest = {
            key: value for key, value in changes.items() if key not in ("fields", "indexes", "relationships")
        }
        self._change(
            layer,
            {
                **layer.definition,
                **rest,
                "relationships": [*(layer.definition.get("relationships") or []), *related],
                "fields": [*layer.definition["fields"], *fields],
                "indexes": [*layer.definition["indexes"], *indexes],
            },
        )

    def _check_relationship(self, layer: Layer, entry: Json) -> None:
        """Check that a relationship is to an existing layer, by an existing field, unique at its origin."""
        key = str(entry.get("keyField", ""))
        if (layer.service, entry.get("relatedTableId")) not in self.layers:
            raise Refused(400, _FAILED, [f"relatedTableId: there is no layer {entry.get('relatedTableId')}"])
        if key.lower() not in layer.by_name:
            raise Refused(400, _FAILED, [f"keyField: there is no field '{key}'"])
        name = layer.field(key).name
        is_unique = any(index.is_unique and index.fields == (name,) for index in layer.indexes)
        if entry.get("role") == "esriRelRoleOrigin" and not is_unique:
            raise Refused(400, _FAILED, [f"keyField: '{key}' of the origin has no unique index"])
        numbers = {one.get("id") for one in layer.definition.get("relationships") or []}
        if entry.get("id") in numbers:
            raise Refused(400, _FAILED, [f"relationship {entry.get('id')} already exists"])

    @_one_at_a_time
    def update_layer(self, layer: Layer, changes: Json) -> None:
        """`updateDefinition` of a layer: what is given replaces what was; fields keep name and type."""
        layer = self.layers[layer.service, layer.id]
        definition = {
            **layer.definition,
            **{k: v for k, v in changes.items() if k not in ("fields", "indexes", "id")},
        }
        given = {str(entry.get("name", "")).lower(): entry for entry in _objects(changes, "fields")}
        for name, entry in given.items():
            old = layer.by_name.get(name)
            if old is None:
                raise Refused(
                    400, _FAILED, [f"there is no field '{entry.get('name')}'; addToDefinition adds one"]
                )
            if entry.get("type", old.type) != old.type or entry.get("length", old.length) != old.length:
                reason = f"field '{old.name}': type and length can't be changed"
                raise Refused(400, _FAILED, [reason])
        definition["fields"] = [
            {**entry, **given.get(entry["name"].lower(), {}), "name": entry["name"]}
            for entry in definition["fields"]
        ]
        self._change(layer, definition)

    @_one_at_a_time
    def delete_from_layer(self, layer: Layer, changes: Json) -> None:
        """`deleteFromDefinition` of a layer: fields and indexes."""
        layer = self.layers[layer.service, layer.id]
        fields = {str(entry.get("name", "")).lower() for entry in _objects(changes, "fields")}
        indexes = {str(entry.get("name", "")).lower() for entry in _objects(changes, "indexes")}
        used = {
            field.lower()
            for index in layer.indexes
            if index.name.lower() not in indexes
            for field in index.fields
        }
        for name in fields:
            if name not in layer.by_name:
                raise Refused(400, _FAILED, [f"there is no field '{name}'"])
            if name in (layer.oid.lower(), layer.globalid.lower()) or name in used:
                raise Refused(400, _FAILED, [f"field '{name}' can't be deleted: it is a key, or in an index"])
        if missing := indexes - {index.name.lower() for index in layer.indexes}:
            raise Refused(400, _FAILED, [f"there is no index '{missing.pop()}'"])
        definition = dict(layer.definition)
        definition["fields"] = [f for f in definition["fields"] if f["name"].lower() not in fields]
        definition["indexes"] = [
            i for i in definition["indexes"] if str(i.get("name", "")).lower() not in indexes
        ]
        self._change(layer, definition)

    def _change(self, old: Layer, definition: Json) -> None:
        new = Layer(old.service, old.id, definition)
        if new.geometry_type != old.geometry_type or new.wkid != old.wkid:
            raise Refused(400, _FAILED, ["geometry type and spatial reference can't be changed"])
        _check_defaults(new)
        with self.database.writing() as db:
            for field in old.fields:
                if field.name.lower() not in new.by_name:
                    store.drop_field(db, old, field)
            for field in new.fields:
                if field.name.lower() not in old.by_name:
                    store.add_field(db, new, field)
            store.set_indexes(db, old, new)
            store.save_layer(db, new)
        self.layers = {**self.layers, (new.service, new.id): new}

    def _make(self, db: sqlite3.Connection, layer: Layer) -> None:
        store.save_layer(db, layer)
        bare = Layer(layer.service, layer.id, {**layer.definition, "indexes": []})
        store.set_indexes(db, bare, layer)

    def _new_layers(self, service: Service, definitions: Sequence[Json]) -> list[Layer]:
        taken = {number for name, number in self.layers if name == service.name}
        made = []
        for definition in definitions:
            number = definition.get("id")
            if not isinstance(number, int) or isinstance(number, bool) or number < 0:
                number = max(taken, default=-1) + 1
            if number in taken:
                raise Refused(400, _FAILED, [f"service '{service.name}' has a layer {number} already"])
            taken.add(number)
            layer = Layer(service.name, number, {"maxRecordCount": service.max_records, **definition})
            _check_defaults(layer)
            made.append(layer)
        return made


def _check_defaults(layer: Layer) -> None:
    for field in layer.fields:
        if field.default is not None:
            try:
                field.check(field.default)
            except RowRefused as refusal:
                raise Refused(
                    400, _FAILED, [f"default of field '{field.name}': {refusal.description}"]
                ) from None


def _objects(changes: Json, key: str) -> list[Json]:
    value = changes.get(key) or []
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise Refused(400, _FAILED, [f"'{key}' must be a list of objects"])
    return value


def _item(service: Service) -> Json:
    now = int(time.time() * 1000)
    return {
        "title": service.name,
        "name": service.name,
        "type": "Feature Service",
        "typeKeywords": [
            "ArcGIS Server",
            "Data",
            "Feature Access",
            "Feature Service",
            "Hosted Service",
            "Service",
        ],
        "description": service.description,
        "tags": [],
        "access": "public" if service.anonymous != "none" else "private",
        "url": f"/server/rest/services/{service.name}/FeatureServer",
        "created": now,
        "modified": now,
    }
