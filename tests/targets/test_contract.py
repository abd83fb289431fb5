"""What every target promises, on the real thing: a file, the rehearsal server with the real client."""

from __future__ import annotations

import itertools
import json
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from support_postgis import postgis
from support_runs import predict, run_on_driver, write_run
from support_targets import JOB, NAMES, events_table, kinds, layers_of, locations_table, photos_table

from camtrap_batch.errors import CamtrapError, InputError, StageError
from camtrap_batch.targets import LAYERS, TARGETS, LayerRows, Target, Wanted
from camtrap_batch.targets.points import register_functions

KEYS = {"cameras": "location", "events": "event_id", "photos": "image_id"}


class Place:
    """Somewhere to push to, and how to see and to change what it holds."""

    def target(self, job: str = JOB, **wanted: Any) -> Target:
        raise NotImplementedError

    def rows(self, layer: str) -> dict[str, dict[str, Any]]:
        """By key, without the names that only the target has."""
        raise NotImplementedError

    def drop(self, layer: str, column: str) -> None:
        raise NotImplementedError

    def disown(self, layer: str, key: str) -> None:
        """Make a row nobody's."""
        raise NotImplementedError

    @contextmanager
    def broken(self) -> Iterator[None]:
        """A push fails after it has begun to send."""
        raise NotImplementedError
        yield


class GeoPackage(Place):
    def __init__(self, folder: Path) -> None:
        pytest.importorskip("geopandas", reason="the extra 'geo' is not installed")
        self.path = folder / "layers.gpkg"

    def target(self, job: str = JOB, **wanted: Any) -> Target:
        return TARGETS[".gpkg"](self.path, job, Wanted(**wanted))  # type: ignore[call-arg]

    def _sql(self, statement: str, *values: object) -> list[dict[str, Any]]:
        with closing(sqlite3.connect(self.path)) as db, db:
            register_functions(db)
            db.row_factory = sqlite3.Row
            return [dict(row) for row in db.execute(statement, values)]

    def rows(self, layer: str) -> dict[str, dict[str, Any]]:
        return {row[KEYS[layer]]: row for row in self._sql(f"SELECT * FROM {layer}")}

    def drop(self, layer: str, column: str) -> None:
        self._sql(f"ALTER TABLE {layer} DROP COLUMN {column}")

    def disown(self, layer: str, key: str) -> None:
        self._sql(f"UPDATE {layer} SET job = NULL WHERE {KEYS[layer]} = ?", key)

    @contextmanager
    def broken(self) -> Iterator[None]:
        # SQLite refuses what comes last; cameras and events are edited before it.
        self._sql("CREATE TRIGGER full AFTER INSERT ON photos BEGIN SELECT RAISE(ABORT, 'disk full'); END")
        yield
        self._sql("DROP TRIGGER full")


class GeoParquet(Place):
    def __init__(self, folder: Path) -> None:
        self.path = folder / "layers.parquet"

    def target(self, job: str = JOB, **wanted: Any) -> Target:
        return TARGETS[".parquet"](self.path, job, Wanted(**wanted))  # type: ignore[call-arg]

    def file(self, layer: str) -> Path:
        return self.path if layer == "cameras" else self.path.with_stem(f"layers_{layer}")

    def rows(self, layer: str) -> dict[str, dict[str, Any]]:
        return {row[KEYS[layer]]: row for row in pq.read_table(self.file(layer)).to_pylist()}

    def drop(self, layer: str, column: str) -> None:
        pq.write_table(pq.read_table(self.file(layer)).drop_columns([column]), self.file(layer))

    def disown(self, layer: str, key: str) -> None:
        table = pq.read_table(self.file(layer))
        owner = pc.if_else(pc.equal(table[KEYS[layer]], key), None, table["job"])
        at = table.column_names.index("job")
        pq.write_table(table.set_column(at, "job", owner), self.file(layer))

    @contextmanager
    def broken(self) -> Iterator[None]:
        from camtrap_batch.targets import geoparquet

        write = geoparquet.pq.write_table

        def fail(table: pa.Table, file: Path, **options: Any) -> None:
            write(table, file, **options)
            if "photos" in str(file):
                raise OSError(28, "No space left on device")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(geoparquet.pq, "write_table", fail)
            yield


class PostGIS(Place):
    numbers = itertools.count()

    def __init__(self, url: str) -> None:
        self.url, self.schema = url, f"s{next(self.numbers)}"
        self._sql(f"CREATE SCHEMA {self.schema}")

    def target(self, job: str = JOB, **wanted: Any) -> Target:
        target: Target = TARGETS["postgresql"](self.url, job, self.schema, Wanted(**wanted))  # type: ignore
        return target

    def _sql(self, statement: str, *values: object) -> list[dict[str, Any]]:
        import psycopg
        from psycopg.rows import dict_row

        with psycopg.connect(self.url, row_factory=dict_row, autocommit=True) as db:
            cursor = db.execute(statement, values)  # type: ignore[arg-type]
            return cursor.fetchall() if cursor.description else []

    def rows(self, layer: str) -> dict[str, dict[str, Any]]:
        return {row[KEYS[layer]]: row for row in self._sql(f"SELECT * FROM {self.schema}.{layer}")}

    def drop(self, layer: str, column: str) -> None:
        self._sql(f"ALTER TABLE {self.schema}.{layer} DROP COLUMN {column}")

    def disown(self, layer: str, key: str) -> None:
        self._sql(f"UPDATE {self.schema}.{layer} SET job = NULL WHERE {KEYS[layer]} = %s", key)

    @contextmanager
    def broken(self) -> Iterator[None]:
        # The session is cut off by the server when photos, the last of the layers, are added.
        self._sql(
            f"CREATE FUNCTION {self.schema}.cut() RETURNS trigger LANGUAGE plpgsql AS"
            " 'BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NEW; END'"
        )
        self._sql(
            f"CREATE TRIGGER cut BEFORE INSERT ON {self.schema}.photos"
            f" FOR EACH ROW EXECUTE FUNCTION {self.schema}.cut()"
        )
        yield
        self._sql(f"DROP TRIGGER cut ON {self.schema}.photos")


class ArcGIS(Place):
    server: Any = None
    numbers = itertools.count()

    def __init__(self, folder: Path) -> None:
        pytest.importorskip("arcgis", reason="the extra 'arcgis' is not installed")
        from camtrap_batch.portal import Portal, Service, connect
        from camtrap_batch.rehearsal.layerserver import LayerServer
        from camtrap_batch.targets.arcgis.definition import layer_definition

        cls = type(self)
        if cls.server is None:
            cls.server = LayerServer(folder / "server").start()
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("HOME", str(folder))
                patch.setenv("CAMTRAP_ARCGIS_TOKEN", cls.server.token("ranger"))
                cls.service = Service(connect(Portal(cls.server.url, timeout_s=20)))
        self.name = f"contract{next(self.numbers)}"
        definitions = [layer_definition(rows, at, [], {}) for at, rows in enumerate(layers_of())]
        self.server.create_service(self.name, definitions)
        self.urls = {layer: self.server.layer_url(at, self.name) for at, layer in enumerate(LAYERS)}

    def target(self, job: str = JOB, **wanted: Any) -> Target:
        kind: Any = TARGETS["arcgis"]
        target: Target = kind(self.service, job, self.urls, wanted=Wanted(prune=True, **wanted))
        return target

    def rows(self, layer: str) -> dict[str, dict[str, Any]]:
        return {row[KEYS[layer]]: row for row in self.server.rows(LAYERS.index(layer), self.name)}

    def drop(self, layer: str, column: str) -> None:
        from camtrap_batch.portal.service import change_definition

        fields = {"fields": [{"name": column}]}
        change_definition(self.service, self.urls[layer], "deleteFromDefinition", fields)

    def disown(self, layer: str, key: str) -> None:
        row = self.rows(layer)[key]
        update = [{"attributes": {"OBJECTID": row["OBJECTID"], "job": None}}]
        self.service.send(f"{self.urls[layer]}/applyEdits", {"updates": update})

    @contextmanager
    def broken(self) -> Iterator[None]:
        self.server.faults.add("http", "applyEdits", nth=2, times=None, status=400)
        yield
        self.server.faults.clear()


@pytest.fixture(scope="module", autouse=True)
def _one_server() -> Iterator[None]:
    yield
    if ArcGIS.server is not None:
        ArcGIS.server.close()
        ArcGIS.server = None


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    with postgis() as url:
        yield url


PLACES: dict[str, Callable[[Any], Place]] = {
    ".gpkg": GeoPackage,
    ".parquet": GeoParquet,
    "postgresql": PostGIS,
    "arcgis": ArcGIS,
}


@pytest.fixture(params=TARGETS)  # one that is registered, and not in `PLACES`, fails
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    kind = PLACES[request.param]
    return kind(request.getfixturevalue("database") if kind is PostGIS else tmp_path)


def results(push: Any) -> set[str | None]:
    return set(push.edits["result"].to_pylist())


def test_a_first_push_adds_all_and_a_second_edits_nothing(place: Place) -> None:
    target = place.target()
    target.check(layers_of())
    dry = target.push(layers_of(), dry_run=True)
    push = target.push(layers_of())
    assert kinds(dry) == kinds(push)
    assert results(dry) == {None}
    assert results(push) == {"ok"}
    assert [edit for edit in push.edits["edit"].to_pylist() if edit != "add"] == []
    for layer, n in zip(LAYERS, (4, 6, 9), strict=True):
        assert len(place.rows(layer)) == n
    again = place.target().push(layers_of())
    assert again.edits.num_rows == 0
    assert sum(again.unchanged.values()) == 19
    assert place.rows("photos")["image 4"]["ClassLabel"] == "lion"
    assert place.rows("cameras")[NAMES[0]]["n_images"] == 3


def test_a_changed_row_is_one_edit(place: Place) -> None:
    place.target().push(layers_of())
    photos = photos_table().to_pylist()
    photos[5]["label"] = "tiger"
    changed = layers_of(photos=pa.Table.from_pylist(photos, photos_table().schema))
    push = place.target().push(changed)
    assert push.edits["edit"].to_pylist() == ["update"]
    assert push.edits["key"].to_pylist() == ["image 5"]
    assert place.rows("photos")["image 5"]["ClassLabel"] == "tiger"
    assert place.target().push(changed).edits.num_rows == 0


def test_a_stale_row_is_one_delete(place: Place) -> None:
    place.target().push(layers_of())
    push = place.target().push(layers_of(photos=photos_table(8)))
    assert push.edits["edit"].to_pylist() == ["delete"]
    assert set(place.rows("photos")) == {f"image {number}" for number in range(8)}


def without(layer: LayerRows, *columns: str) -> LayerRows:
    return LayerRows(
        layer.layer,
        layer.key,
        layer.columns.drop_columns(list(columns)),
        layer.longitude,
        layer.latitude,
        layer.description,
    )


def test_missing_columns_are_added(place: Place) -> None:
    """As after an update that knows one status more: it was refused at every push."""
    place.target().push(layers_of())
    place.drop("cameras", "n_damaged")
    place.drop("cameras", "run_time")
    dry = place.target().push(layers_of(), dry_run=True)
    assert "n_damaged" not in place.rows("cameras")[NAMES[0]]
    push = place.target().push(layers_of())
    assert kinds(dry) == kinds(push)
    assert set(push.edits["edit"].to_pylist()) == {"update"}
    assert push.edits.num_rows == 4
    assert "cameras: new fields: n_damaged, run_time" in push.notes
    assert {row["n_damaged"] for row in place.rows("cameras").values()} == {3}
    assert place.target().push(layers_of()).edits.num_rows == 0


def test_a_missing_column_without_a_value_is_no_reason_to_edit(place: Place) -> None:
    place.target().push(layers_of())
    place.drop("cameras", "n_empty")  # null in every row
    assert place.target().push(layers_of()).edits.num_rows == 0
    assert "n_empty" not in place.rows("cameras")[NAMES[0]]


def test_foreign_rows_stay(place: Place) -> None:
    place.target("pilot").push(
        layers_of(locations_table(["north"]), events_table(0), photos_table(0), job="pilot")
    )
    place.target().push(layers_of())
    before = place.rows("cameras")["north"]
    place.target(most_deleted=1).push(layers_of(locations_table(NAMES[:1]), events_table(0), photos_table(0)))
    assert set(place.rows("cameras")) == {NAMES[0], "north"}
    assert place.rows("cameras")["north"] == before
    with pytest.raises(InputError, match="location 'north' belongs to job 'pilot', not to job 'kruger'"):
        place.target().push(layers_of(locations_table(["north"]), events_table(0), photos_table(0)))
    place.disown("cameras", "north")
    with pytest.raises(InputError, match="location 'north' belongs to no job"):
        place.target().push(layers_of(locations_table(["north"]), events_table(0), photos_table(0)))
    assert len(place.rows("cameras")) == 2


def test_a_fault_in_the_middle_and_the_next_push_is_exact(place: Place) -> None:
    place.target().push(layers_of(photos=photos_table(3)))
    wanted = layers_of(locations_table(top="tiger"), photos=photos_table(9))
    with place.broken(), suppress(CamtrapError):
        assert results(place.target().push(wanted)) != {"ok"}
    place.target().push(wanted)
    assert {row["top_label"] for row in place.rows("cameras").values()} == {"tiger", None}
    assert len(place.rows("photos")) == 9
    assert place.target().push(wanted).edits.num_rows == 0


def test_more_deletions_than_the_limit_stop_the_push(place: Place) -> None:
    place.target().push(layers_of())
    fewer = layers_of(locations_table(top="tiger"), photos=photos_table(6))
    before = {layer: place.rows(layer) for layer in LAYERS}
    dry = place.target(most_deleted=0.2).push(fewer, dry_run=True)
    assert any("a push stops here" in note for note in dry.notes)
    with pytest.raises(StageError, match=r"photos: 3 of the 9 rows .* limits\.deleted \(0\.2\)") as caught:
        place.target(most_deleted=0.2).push(fewer)
    assert "\n" not in str(caught.value)
    assert {layer: place.rows(layer) for layer in LAYERS} == before
    assert place.target(most_deleted=0.4).push(fewer).edits.num_rows == 3 + 4 - 1


def test_a_row_or_two_stop_no_push(place: Place) -> None:
    """As after a correction: of a small layer they are a large part."""
    place.target().push(layers_of())
    fewer = layers_of(events=events_table().slice(2))
    push = place.target(most_deleted=0.2).push(fewer)
    assert push.edits.filter(pc.equal(push.edits["edit"], "delete")).num_rows == 2
    assert len(place.rows("events")) == 4


def test_events_that_another_model_replaces_are_not_lost(place: Place) -> None:
    place.target().push(layers_of())
    other = events_table().to_pylist()
    for row in other:
        row["event_id"], row["label"] = row["event_id"][::-1] + "x", "tiger"
    replaced = pa.Table.from_pylist(other, events_table().schema)
    push = place.target(most_deleted=0.2).push(layers_of(events=replaced))
    assert sorted(push.edits["edit"].to_pylist()) == ["add"] * 6 + ["delete"] * 6
    with pytest.raises(StageError, match=r"events: 4 of the 6 rows"):
        place.target(most_deleted=0.2).push(layers_of(events=replaced.slice(0, 2)))


def test_what_a_target_is_called(place: Place) -> None:
    assert type(place.target()).section.title in place.target().describe()


# A target of another package

_MODULE = """
import json, os
from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa
from pydantic import Field

from camtrap_batch.job.publish import PublishFile
from camtrap_batch.targets.base import Push
from camtrap_batch.targets.edits import STORED, acknowledged, plan_edits, row_hashes
from camtrap_batch.targets.files import FileTarget


class PublishLines(PublishFile):
    title: ClassVar[str] = "lines"
    form: ClassVar[str] = "a file name that ends in .jsonl"
    ending: ClassVar[str] = ".jsonl"
    spaces: int = Field(0, ge=0, description="spaces after each colon")


@dataclass(frozen=True)
class Lines(FileTarget):
    section: ClassVar = PublishLines
    help: ClassVar = "one line of JSON per row"

    def require_kind(self):
        pass

    def push_file(self, layers, *, dry_run):
        held = [json.loads(line) for line in self.path.read_text().splitlines()] if self.path.exists() else []
        edits, unchanged, lines = [], {}, []
        for rows in layers:
            names = rows.columns.column_names
            texts = pa.table({name: rows.columns[name].cast(pa.string()) for name in names})
            hashes = row_hashes(texts)
            own = [row for row in held if row["layer"] == rows.layer]
            stored = [{"key": one["key"], "row_hash": one["hash"], "location": "C"} for one in own]
            stored = pa.Table.from_pylist(stored, STORED)
            edits.append(plan_edits(rows, hashes, stored, f"{self.path.name}|{rows.layer}"))
            unchanged[rows.layer] = rows.columns.num_rows - edits[-1].num_rows
            for row, hash_ in zip(texts.to_pylist(), hashes.to_pylist()):
                lines.append({"layer": rows.layer, "key": row[rows.key], "hash": hash_, **row})
        edits = pa.concat_tables(edits)
        if dry_run or not edits.num_rows:
            return Push(edits, unchanged)
        staged = self.path.with_suffix(".new")
        staged.write_text("".join(json.dumps(line) + "\\n" for line in lines))
        os.replace(staged, self.path)
        return Push(acknowledged(edits, "ok"), unchanged)
"""


def test_a_target_of_another_package(
    tmp_path: Path,
    beside: Callable[..., None],
    camtrap: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    entries = ".a = nowhere:Target\n.jsonl = camtrap_lines:Lines"
    beside("camtrap_lines", _MODULE, "camtrap_batch.targets", entries)
    job = write_run(tmp_path, [{"image_id": f"i{n}", "location": "C"} for n in range(3)])
    predict(job, {f"i{n}": {"lion": 0.9} for n in range(3)})
    run_on_driver(job, "merge")
    settings = ["--set", "publish.target=map.jsonl", "--set", "publish.spaces=2"]
    done = camtrap("publish", job, *settings)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "run" / "map.jsonl").read_text().splitlines()]
    assert [line["key"] for line in lines if line["layer"] == "photos"] == ["i0", "i1", "i2"]
    again = camtrap("publish", job, *settings)
    assert "nothing to do" in again.stderr, again

    wrong = camtrap("publish", job, "--set", "publish.target=map.shp")
    assert wrong.returncode == 2
    assert "'map.shp': should be" in wrong.stderr
    assert "a file name that ends in .gpkg" in wrong.stderr
    assert "a file name that ends in .jsonl" in wrong.stderr
    assert "'.a' (nowhere:Target) can't be loaded" in wrong.stderr, "a broken package is in nobody's way"
    wrong = camtrap("publish", job, "--set", "publish.spaces=2")
    assert "spaces is for `target: .jsonl`; here it is locations.gpkg" in wrong.stderr
    wrong = camtrap("publish", job, "--set", "publish.target=m.jsonl", "--set", "publish.spices=2")
    assert "did you mean 'spaces'" in wrong.stderr
    assert "publish.spaces" in camtrap("publish", "--help").stdout
