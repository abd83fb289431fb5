"""The SQL of conditions: what it means, and that nothing else gets through."""

from __future__ import annotations

import sqlite3

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camtrap_batch.rehearsal.layerserver.answers import Refused
from camtrap_batch.rehearsal.layerserver.where import Expression, parse_where

COLUMNS = {
    "name": Expression('"name"', (), "text"),
    "n": Expression('"n"', (), "number"),
    "seen": Expression('"seen"', (), "date"),
    "globalid": Expression('"globalid"', (), "guid"),
}
DAY_MS = 86_400_000
ROWS = [
    ("lion", 1, 0, "6f9619ff-8b86-d011-b42d-00cf4fc964ff"),
    ("Lion's cub", 2, DAY_MS, "aaaaaaaa-8b86-d011-b42d-00cf4fc964ff"),
    ("100%", 3, 2 * DAY_MS, "bbbbbbbb-8b86-d011-b42d-00cf4fc964ff"),
    (None, None, None, None),
]


def chosen(where: str) -> list[int]:
    """Numbers of the rows that a condition chooses."""
    db = sqlite3.connect(":memory:")
    try:
        db.execute("PRAGMA case_sensitive_like=ON")
        db.execute("CREATE TABLE t(name TEXT, n INTEGER, seen INTEGER, globalid TEXT)")
        db.executemany("INSERT INTO t VALUES(?, ?, ?, ?)", ROWS)
        found = parse_where(where, COLUMNS)
        return [row - 1 for (row,) in db.execute(f"SELECT rowid FROM t WHERE {found.sql}", found.values)]
    finally:
        db.close()


@pytest.mark.parametrize(
    ("where", "rows"),
    [
        ("1=1", [0, 1, 2, 3]),
        ("1=0", []),
        ("n = 2", [1]),
        ("N <> 2", [0, 2]),
        ("n != 2 AND n >= 1", [0, 2]),
        ("n = 1 OR n = 2 AND n = 3", [0]),
        ("(n = 1 OR n = 2) AND NOT n = 1", [1]),
        ("NOT NOT n = 1", [0]),
        ("n IN (1, 3)", [0, 2]),
        ("n NOT IN (1, 3)", [1]),
        ("n IN (n, 7)", [0, 1, 2]),
        ("n BETWEEN 2 AND 3", [1, 2]),
        ("n NOT BETWEEN 2 AND 3", [0]),
        ("n + 1 = 2 * 2", [2]),
        ("n = -1 + 2", [0]),
        ("n > -.5e1", [0, 1, 2]),
        ("name IS NULL", [3]),
        ("name IS NOT NULL", [0, 1, 2]),
        ("name = 'Lion''s cub'", [1]),
        ("name = N'lion'", [0]),
        ("\"name\" = 'lion'", [0]),
        ("name IN ('lion', '100%')", [0, 2]),
        ("name LIKE 'L%'", [1]),
        ("UPPER(name) LIKE 'LION%'", [0, 1]),
        ("name LIKE '100|%' ESCAPE '|'", [2]),
        ("name NOT LIKE '%i%'", [2]),
        ("CHAR_LENGTH(name) = 4", [0, 2]),
        ("name || '!' = 'lion!'", [0]),
        ("COALESCE(n, 9) = 9", [3]),
        ("ROUND(n / 2, 0) = 1", [1, 2]),
        ("seen = DATE '1970-01-02'", [1]),
        ("seen >= TIMESTAMP '1970-01-01 12:00:00'", [1, 2]),
        ("seen = '1970-01-03'", [2]),
        ("seen < CURRENT_TIMESTAMP", [0, 1, 2]),
        ("globalid = '{6F9619FF-8B86-D011-B42D-00CF4FC964FF}'", [0]),
        ("globalid IN ('6F9619FF-8B86-D011-B42D-00CF4FC964FF')", [0]),
        ("name = ''; DROP TABLE t; --'", None),
    ],
)
def test_conditions(where: str, rows: list[int] | None) -> None:
    if rows is None:
        with pytest.raises(Refused):
            chosen(where)
    else:
        assert chosen(where) == rows


@pytest.mark.parametrize(
    ("where", "reason"),
    [
        ("nmae = 'lion'", "there is no field 'nmae'"),
        ("n = 'lion'", "can't be compared"),
        ("name = 1", "can't be compared"),
        ("name", "truth is needed"),
        ("n AND n", "truth is needed"),
        ("1", "truth is needed"),
        ("n = 1 n", "not expected"),
        ("n = ", "ends too early"),
        ("(n = 1", "missing"),
        ("n = 1)", "not expected"),
        ("n IN ()", "not expected"),
        ("n NOT 1", "IN, BETWEEN or LIKE"),
        ("name = 'lion", "not understood"),
        ("n = 1; DELETE FROM t", "not understood"),
        ("n = 1 -- x", "number is needed|not expected|no field"),
        ("n = (SELECT 1)", "no field|not expected|missing"),
        ("load_extension('x') = 1", "no field"),
        ("UPPER(n) = 'A'", "text or guid or null is needed"),
        ("UPPER(name, name) = 'A'", "takes one argument"),
        ("seen = 'yesterday'", "is no TIMESTAMP"),
        ("name LIKE 'a' ESCAPE 'bc'", "ESCAPE"),
        ("rowid = 1", "no field"),
        ("(" * 60 + "n" + ")" * 60 + " = 1", "nested too deeply"),
    ],
)
def test_what_is_refused(where: str, reason: str) -> None:
    with pytest.raises(Refused) as refused:
        chosen(where)
    assert refused.value.code == 400
    (detail,) = refused.value.details
    assert any(part in detail for part in reason.split("|"))


@given(st.text(alphabet="a'\"%_\\;- N🐘é\n\0"))
@settings(deadline=None)
def test_every_text_can_be_asked_for(text: str) -> None:
    """As a literal it finds the row that holds it, whatever signs are in it, and no other."""
    quoted = text.replace("'", "''")
    found = parse_where(f"name = '{quoted}' OR name IN ('{quoted}', 'x')", COLUMNS)
    assert "'" not in found.sql
    assert found.values[0] == text


@given(st.text(alphabet="n=<>()'\"10 ANDORINLIKE,-;*/", max_size=40))
@settings(deadline=None, max_examples=300)
def test_whatever_is_sent_is_read_or_refused(text: str) -> None:
    try:
        found = parse_where(text, COLUMNS)
    except Refused:
        return
    db = sqlite3.connect(":memory:")
    try:
        db.execute("CREATE TABLE t(name TEXT, n INTEGER, seen INTEGER, globalid TEXT)")
        db.execute(f"SELECT 1 FROM t WHERE {found.sql}", found.values).fetchall()
    finally:
        db.close()
