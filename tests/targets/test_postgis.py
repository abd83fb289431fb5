"""A PostGIS database: what the tables hold, what of the user's stays, two pushes at once, what is refused."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import support_targets
from support import wait_until
from support_postgis import postgis
from support_runs import predict, run_on_driver, write_run
from support_targets import JOB, NAMES, START, layers_of, locations_table, photos_table

from camtrap_batch import open_run
from camtrap_batch.cli import main
from camtrap_batch.errors import InputError, JobError, StorageError, TargetUnreachable
from camtrap_batch.job import Job
from camtrap_batch.targets.postgis import PostGISTarget

_NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    with postgis() as url:
        yield url


@pytest.fixture
def target(database: str) -> PostGISTarget:
    schema = f"t{next(_NUMBERS)}"
    sql(database, f"CREATE SCHEMA {schema}")
    return PostGISTarget(database, JOB, schema)


def sql(url: str, statement: str) -> list[Any]:
    import psycopg

    with psycopg.connect(url, autocommit=True) as db:
        cursor = db.execute(statement)  # type: ignore[arg-type]
        return cursor.fetchall() if cursor.description else []


def test_values_come_back_as_sent(target: PostGISTarget) -> None:
    target.push(layers_of())
    rows = sql(
        target.url,
        f"SELECT location, ST_X(geom), ST_Y(geom), ST_SRID(geom), first, run_time, n_images, events_by_label"
        f" FROM {target.schema}.cameras ORDER BY fid",
    )
    wanted = [
        (name, row["longitude"], row["latitude"], None if row["longitude"] is None else 4326)
        for name, row in zip(NAMES, locations_table().to_pylist(), strict=True)
    ]
    assert [row[:4] for row in rows] == wanted
    assert {row[4] for row in rows} == {START}
    assert {row[5] for row in rows} == {datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)}
    assert {row[6] for row in rows} == {3}
    assert rows[0][7] == 'lion: 12; grey "fox": 3'
    (about,) = sql(target.url, f"SELECT obj_description('{target.schema}.cameras'::regclass)")
    assert "Camera locations" in about[0]
    photos = sql(target.url, f'SELECT image_id, "ClassLabel", "Confidence" FROM {target.schema}.photos')
    assert ("image 4", "lion", 0.7) in photos


def test_the_ledger_has_the_numbers_of_the_rows(target: PostGISTarget) -> None:
    edits = target.push(layers_of()).edits.to_pylist()
    edits += target.push(layers_of(photos=photos_table(11))).edits.to_pylist()
    ids = {edit["key"]: edit["object_id"] for edit in edits if edit["layer"].endswith(".photos")}
    assert ids == dict(sql(target.url, f"SELECT image_id, fid FROM {target.schema}.photos"))
    assert len(ids) == 11


def test_what_the_user_keeps_in_the_tables_stays(target: PostGISTarget) -> None:
    target.push(layers_of())
    sql(target.url, f"ALTER TABLE {target.schema}.cameras ADD COLUMN note text DEFAULT 'mine'")
    sql(target.url, f"INSERT INTO {target.schema}.cameras (note) VALUES ('planned')")
    sql(target.url, f"CREATE VIEW {target.schema}.mine AS SELECT location, note FROM {target.schema}.cameras")
    assert target.push(layers_of()).edits.num_rows == 0
    target.push(layers_of(locations_table(top="tiger")))
    notes = sql(target.url, f"SELECT note FROM {target.schema}.mine ORDER BY note")
    assert notes == [("mine",)] * 4 + [("planned",)]


def test_two_pushes_at_the_same_time_add_every_row_once(target: PostGISTarget) -> None:
    both = threading.Barrier(2)

    def push() -> int:
        both.wait(30)
        return int(target.push(layers_of()).edits.num_rows)

    with ThreadPoolExecutor(2) as pool:
        done = [future.result() for future in [pool.submit(push) for _ in range(2)]]
    assert sorted(done) == [0, 19]
    assert sql(target.url, f"SELECT count(*) FROM {target.schema}.photos") == [(9,)]


PUSH = """
import sys
sys.path.insert(0, sys.argv[3])
from support_targets import JOB, layers_of, locations_table, photos_table
from camtrap_batch.targets.postgis import PostGISTarget
rows = layers_of(locations_table(top="tiger"), photos=photos_table(11))
PostGISTarget(sys.argv[1], JOB, sys.argv[2]).push(rows)
"""


def test_a_push_that_is_killed_and_repeated(target: PostGISTarget) -> None:
    """Killed while the database adds photos: nothing of it is there, and the next push is exact."""
    import psycopg

    schema = target.schema
    target.push(layers_of())
    sql(
        target.url,
        f"CREATE FUNCTION {schema}.wait() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN PERFORM pg_advisory_xact_lock_shared(23); RETURN NEW; END'",
    )
    sql(
        target.url,
        f"CREATE TRIGGER wait BEFORE INSERT ON {schema}.photos FOR EACH ROW EXECUTE FUNCTION {schema}.wait()",
    )
    waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND objid = 23"
    with psycopg.connect(target.url, autocommit=True) as held:
        held.execute("SELECT pg_advisory_lock(23)")
        arguments = [target.url, schema, str(Path(support_targets.__file__).parent)]
        with subprocess.Popen([sys.executable, "-c", PUSH, *arguments]) as pushing:
            try:
                wait_until(lambda: pushing.poll() is not None or sql(target.url, waiting) == [(1,)])
                assert pushing.poll() is None
            finally:
                pushing.kill()
    tops = f"SELECT DISTINCT top_label FROM {schema}.cameras WHERE top_label IS NOT NULL"
    count = f"SELECT count(*), count(DISTINCT image_id) FROM {schema}.photos"
    assert (sql(target.url, tops), sql(target.url, count)) == ([("lion",)], [(9, 9)])
    wanted = layers_of(locations_table(top="tiger"), photos=photos_table(11))
    assert set(target.push(wanted).edits["result"].to_pylist()) == {"ok"}
    assert (sql(target.url, tops), sql(target.url, count)) == ([("tiger",)], [(11, 11)])
    assert target.push(wanted).edits.num_rows == 0


def test_a_kill_between_the_two_targets_leaves_only_the_second_to_do(tmp_path: Path, database: str) -> None:
    """Killed while it changes the public tables, when the full ones are done."""
    import psycopg

    for name in ("ours", "everyone"):
        sql(database, f"CREATE SCHEMA {name}")
    rows = [{"image_id": f"i{n}", "location": "C"} for n in range(4)]
    second = {"target": database.replace("127.0.0.1", "localhost"), "schema": "everyone"}
    job = write_run(tmp_path, rows, publish={"target": database, "schema": "ours", "public": second})

    def merged(label: str) -> None:
        predict(job, {f"i{n}": {label if n else "human": 0.9} for n in range(4)}, label[0] * 16)
        run_on_driver(job, "merge")

    merged("lion")
    assert main(["publish", str(job), "--quiet"]) == 0
    merged("tiger")
    wait = "BEGIN PERFORM pg_advisory_xact_lock_shared(24); RETURN NEW; END"
    sql(database, f"CREATE FUNCTION everyone.wait() RETURNS trigger LANGUAGE plpgsql AS '{wait}'")
    sql(
        database,
        "CREATE TRIGGER wait BEFORE UPDATE ON everyone.photos FOR EACH ROW EXECUTE FUNCTION everyone.wait()",
    )
    waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND objid = 24"
    command = [sys.executable, "-m", "camtrap_batch", "publish", str(job), "--quiet"]
    with psycopg.connect(database, autocommit=True) as held:
        held.execute("SELECT pg_advisory_lock(24)")
        with subprocess.Popen(command) as pushing:
            try:
                wait_until(lambda: pushing.poll() is not None or sql(database, waiting) == [(1,)])
                assert pushing.poll() is None
            finally:
                pushing.kill()

    def labels(schema: str) -> list[Any]:
        return sql(database, f'SELECT image_id, "ClassLabel" FROM {schema}.photos ORDER BY image_id')

    full = [("i0", "human"), *((f"i{n}", "tiger") for n in (1, 2, 3))]
    assert labels("ours") == full
    assert labels("everyone") == [(f"i{n}", "lion") for n in (1, 2, 3)]
    before = open_run(job).table("ledger").count_rows()
    assert main(["publish", str(job), "--quiet"]) == 0
    assert labels("ours") == full
    assert labels("everyone") == full[1:]
    added = open_run(job).table("ledger").to_table().slice(before).to_pylist()
    assert {row["layer"].split(" table ")[1].partition(".")[0] for row in added} == {"everyone"}
    assert {row["edit"] for row in added if row["layer"].endswith(".photos")} == {"update"}
    assert main(["publish", str(job), "--quiet"]) == 0
    assert open_run(job).table("ledger").count_rows() == before + len(added)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_schema_can_not_be_both_targets(
    tmp_path: Path, database: str, capsys: pytest.CaptureFixture[str], host: str
) -> None:
    job = write_run(
        tmp_path,
        [{"image_id": "i", "location": "C"}],
        publish={"target": database, "public": database.replace("127.0.0.1", host)},
    )
    predict(job, {"i": {"lion": 0.9}})
    run_on_driver(job, "merge")
    for more in ([], ["--dry-run"]):
        assert main(["publish", str(job), "--quiet", *more]) == 2
        assert "schema public is also publish.target" in capsys.readouterr().err
    nowhere = ["--set", "publish.public.target=postgresql://ranger@127.0.0.1:9/map"]
    assert main(["publish", str(job), "--quiet", *nowhere]) == 3
    assert "(publish.public.target)" in capsys.readouterr().err
    assert sql(database, "SELECT to_regclass('public.photos')") == [(None,)]


def test_what_is_written_differently_is_undone(target: PostGISTarget) -> None:
    target.push(layers_of())
    sql(
        target.url,
        f"CREATE FUNCTION {target.schema}.meddle() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN NEW.model_id := ''mine''; RETURN NEW; END'",
    )
    sql(
        target.url,
        f"CREATE TRIGGER meddle BEFORE UPDATE ON {target.schema}.cameras"
        f" FOR EACH ROW EXECUTE FUNCTION {target.schema}.meddle()",
    )
    with pytest.raises(StorageError, match="3 rows read back differ"):
        target.push(layers_of(locations_table(top="tiger"), photos=photos_table(5)))
    assert sql(target.url, f"SELECT count(*) FROM {target.schema}.photos") == [(9,)]
    tops = sql(target.url, f"SELECT DISTINCT top_label FROM {target.schema}.cameras")
    assert set(tops) == {("lion",), (None,)}


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("CREATE TABLE {}.cameras (fid bigint, location text)", "has 0 columns of geometry"),
        ("CREATE TABLE {}.cameras (fid bigint, geom geometry(Polygon, 4326))", "holds POLYGON"),
        ("CREATE TABLE {}.cameras (fid bigint, geom geometry(Point, 3857))", "is in SRID 3857"),
        ("CREATE TABLE {}.cameras (fid bigint, geom geometry(Point, 4326))", "has no column location"),
        (
            "CREATE TABLE {}.cameras (fid bigint, location int, job text, geom geometry(Point, 4326))",
            "column location is integer; it should be text",
        ),
        (
            "CREATE TABLE {}.cameras (location text, job text, geom geometry(Point, 4326))",
            "has no column fid",
        ),
        ("DROP SCHEMA {}", "no schema"),
    ],
)
def test_wrong_tables(target: PostGISTarget, statement: str, message: str) -> None:
    sql(target.url, statement.format(target.schema))
    for call in (target.check, target.push):
        with pytest.raises(InputError, match=message) as caught:
            call(layers_of())
        assert "\n" not in str(caught.value)


def test_a_database_without_postgis(target: PostGISTarget) -> None:
    other = PostGISTarget(target.url.replace("/map", "/postgres"), JOB)
    with pytest.raises(InputError, match="has no PostGIS"):
        other.push(layers_of())


def test_a_database_that_does_not_answer() -> None:
    pytest.importorskip("psycopg", reason="the extra 'postgis' is not installed")
    with pytest.raises(TargetUnreachable, match="refused") as caught:
        PostGISTarget("postgresql://ranger@127.0.0.1:9/map", JOB).push(layers_of())
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 3


def test_a_job_and_its_passwords(
    tmp_path: Path, database: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSWORD", "s3cret")
    job = write_run(
        tmp_path,
        [{"image_id": f"i{n}", "location": "C"} for n in range(3)],
        publish={"target": database, "schema": "kruger"},
    )
    predict(job, {f"i{n}": {"lion": 0.9} for n in range(3)})
    run_on_driver(job, "merge")
    sql(database, "CREATE SCHEMA kruger")
    assert main(["publish", str(job), "--quiet"]) == 0
    assert main(["publish", str(job), "--quiet"]) == 0
    assert sql(database, 'SELECT image_id, "ClassLabel" FROM kruger.photos') == [
        (f"i{n}", "lion") for n in range(3)
    ]
    for target in ("postgresql://ranger:s3cret@h/map", "postgresql://ranger@h/map?password=s3cret"):
        with pytest.raises(JobError, match="has no place in a job file: set PGPASSWORD") as caught:
            Job.load(job, [f"publish.target={target}"])
        assert "s3cret" not in str(caught.value)
    with pytest.raises(JobError, match="should name a database"):
        Job.load(job, ["publish.target=postgresql://h"])
    for file in (path for path in tmp_path.rglob("*") if path.is_file()):
        assert b"s3cret" not in file.read_bytes()
    assert "s3cret" not in "".join(capsys.readouterr())
