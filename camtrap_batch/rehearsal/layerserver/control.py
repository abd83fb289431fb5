"""The addresses under /rehearsal, for whoever rehearses: faults, counts of requests, all rows."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from camtrap_batch.errors import InputError
from camtrap_batch.rehearsal.layerserver.answers import Json, Refused
from camtrap_batch.rehearsal.layerserver.faults import describe, read_faults
from camtrap_batch.rehearsal.layerserver.site import Site


class Control:
    """Answers requests that are not part of ArcGIS; they are neither counted nor hit by faults."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self._calls: dict[tuple[str, str], Callable[[Mapping[str, str], bytes], Any]] = {
            ("GET", "faults"): lambda _, __: describe(site.faults.waiting()),
            ("POST", "faults"): self._add_faults,
            ("DELETE", "faults"): lambda _, __: site.faults.clear(),
            ("GET", "requests"): lambda _, __: site.faults.counts(),
            ("DELETE", "requests"): lambda _, __: site.faults.reset_counts(),
            ("GET", "rows"): lambda p, _: rows(site, p.get("service", ""), p.get("layer", "0")),
            ("POST", "expire"): lambda _, __: site.accounts.expire_tokens(),
        }

    def answer(self, method: str, what: str, parameters: Mapping[str, str], body: bytes) -> tuple[int, bytes]:
        """HTTP status and JSON."""
        call = self._calls.get(("GET" if method == "HEAD" else method, what))
        if call is None:
            known = ", ".join(f"{verb} /rehearsal/{name}" for verb, name in self._calls)
            return 404, msgspec.json.encode({"error": f"there is: {known}"})
        try:
            return 200, msgspec.json.encode(call(parameters, body))
        except (InputError, Refused) as problem:
            return 400, msgspec.json.encode({"error": str(problem)})

    def _add_faults(self, parameters: Mapping[str, str], body: bytes) -> list[Json]:
        faults = read_faults(body.decode("utf-8", "replace"), "faults")
        for fault in faults:
            self.site.faults.add(fault)
        return describe(faults)


def rows(site: Site, service: str, number: str) -> list[Json]:
    """Every row of a layer by object id: its attributes, and `SHAPE`, its geometry (None in a table)."""
    layer = site.layer(site.service(service).name, number)
    columns = ", ".join(field.column for field in layer.fields)
    with site.database.reading() as db:
        found = db.execute(f'SELECT {columns}, _shape FROM {layer.table} ORDER BY "{layer.oid}"').fetchall()
    names = [field.name for field in layer.fields]
    return [
        {**dict(zip(names, row, strict=False)), "SHAPE": msgspec.json.decode(row[-1]) if row[-1] else None}
        for row in found
    ]


def attachments(site: Site, service: str, number: str) -> list[Json]:
    """Every attachment of a layer, with its content, in the order in which they were added."""
    layer = site.layer(site.service(service).name, number)
    with site.database.reading() as db:
        db.row_factory = sqlite3.Row
        try:
            found = db.execute(
                "SELECT id, parent, globalid, name, content_type, size, keywords, content FROM attachments"
                " WHERE service = ? AND layer = ? ORDER BY id",
                (layer.service, layer.id),
            ).fetchall()
        finally:
            db.row_factory = None
    return [dict(row) for row in found]
