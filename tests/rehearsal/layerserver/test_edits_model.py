"""Any sequence of edits leaves what a dictionary would hold."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support_layerserver import EVENTS

from camtrap_batch.rehearsal.layerserver.accounts import Accounts
from camtrap_batch.rehearsal.layerserver.control import rows
from camtrap_batch.rehearsal.layerserver.database import Database
from camtrap_batch.rehearsal.layerserver.edits import Edits, RolledBack, apply
from camtrap_batch.rehearsal.layerserver.faults import Faults
from camtrap_batch.rehearsal.layerserver.site import Site

KEYS = st.sampled_from("abcd")
NUMBERS = st.sampled_from([1, 2, "no number"])
OIDS = st.integers(1, 6)
ADD = st.tuples(KEYS, NUMBERS)
UPDATE = st.tuples(OIDS, KEYS, NUMBERS)
CALL = st.tuples(
    st.lists(ADD, max_size=3), st.lists(UPDATE, max_size=3), st.lists(OIDS, max_size=2), st.booleans()
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    database = Database(tmp_path_factory.mktemp("model"))
    yield Site(database, Accounts(database, {}, 1.0), Faults())
    database.close()


class Model:
    """The table as a dictionary: object id to key and number."""

    def __init__(self) -> None:
        self.rows: dict[int, tuple[str, int]] = {}
        self.given = 0

    def call(self, adds: Any, updates: Any, deletes: Any, rollback: bool) -> list[bool]:
        before, given, done = dict(self.rows), self.given, []
        for key, number in adds:
            # A row that the unique index refuses has used no object id.
            done.append(self._fits(None, key, number))
            if done[-1]:
                self.given += 1
                self.rows[self.given] = (key, number)
        for oid, key, number in updates:
            done.append(oid in self.rows and self._fits(oid, key, number))
            if done[-1]:
                self.rows[oid] = (key, number)
        for oid in deletes:
            done.append(self.rows.pop(oid, None) is not None)
        if rollback and not all(done):
            self.rows, self.given = before, given
            return [False] * len(done)
        return done

    def _fits(self, oid: int | None, key: str, number: object) -> bool:
        return isinstance(number, int) and all(
            key != k for other, (k, _) in self.rows.items() if other != oid
        )


@given(st.lists(CALL, max_size=5))
@settings(deadline=None, max_examples=60)
def test_edits_leave_what_a_dictionary_holds(site: Site, calls: list[Any]) -> None:
    unique = {**EVENTS, "indexes": [{"name": "u", "fields": "key", "isUnique": True}]}
    service = site.create_service("model", [unique], "nobody")
    try:
        layer, model = site.layers["model", 0], Model()
        for adds, updates, deletes, rollback in calls:
            edits = Edits(
                [{"attributes": {"key": key, "n": number}} for key, number in adds],
                [{"attributes": {"OBJECTID": oid, "key": key, "n": number}} for oid, key, number in updates],
                deletes,
                rollback=rollback,
            )
            try:
                with site.database.writing() as db:
                    results = apply(db, layer, edits)
            except RolledBack as rolled_back:
                results = rolled_back.results
            done = [result["success"] for found in results.values() for result in found]
            assert done == model.call(adds, updates, deletes, rollback)
            assert {row["OBJECTID"]: (row["key"], row["n"]) for row in rows(site, "model", "0")} == model.rows
    finally:
        site.delete_service(service.name)
