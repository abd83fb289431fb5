"""Damage to files that no receipt names: each is named, and made again by what made it, or put aside."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pytest
from support_store import make_plan, run

from camtrap_batch.store import copies, sums
from camtrap_batch.store.check import check
from camtrap_batch.store.folder import Folder
from camtrap_batch.store.records import Unreadable, dict_to_json, to_json
from camtrap_batch.store.schemas import MANIFEST
from camtrap_batch.store.shards import Plan, Shard, digest
from camtrap_batch.store.tables import commit_plan, finish_shard


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


HARMS: dict[str, Callable[[bytes], bytes]] = {
    "flipped": lambda data: flipped(data, len(data) // 3),
    "cut off": lambda data: data[: len(data) // 2],
    "zeros": lambda data: bytes(len(data)),
    "empty": lambda data: b"",
}


def packed(content: bytes) -> bytes:
    """As torch packs a checkpoint."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data/0", content)
    return file.getvalue()


PART, PHOTO = b"hand_over('index', {});\n" * 9, b"a photo " * 60
PAGE = b"<!DOCTYPE html><html><body>" + b"<p>lions</p>" * 30 + b"</body></html>"
SAMPLE = dict_to_json({"name": "random-9-0", "seq_id": [f"s{n}" for n in range(40)]})
LOOSE = {
    "job.yaml": sums.seal(sums.SEALED + b"name: job\n" * 30, comment=sums.HASH_SIGN),
    "detectors/d1/detector.onnx": b"weights " * 99,
    "detectors/d1/detector.json": b'{"names": ["animal"]}',
    "checkpoints/t1-last.pt": packed(b"weights " * 99),
    "checkpoints/t1-best.pt": packed(b"others " * 99),
    "report/index.html": sums.seal(
        PAGE, {"parts-1/index.js": sums.sha256_of(PART), "parts-1/photos/0.jpg": sums.sha256_of(PHOTO)}
    )
    + b"<!-- 0123 -->",
    "report/parts-1/index.js": PART,
    "report/parts-1/photos/0.jpg": PHOTO,
    "performance/infer-p.html": sums.seal(PAGE),
    "samples/random-9-0.json": SAMPLE,
    "copies/samples/random-9-0.json": SAMPLE,
    "outputs/0123.json": dict_to_json({"file": "/events.csv", "bytes": 7}),
    f"attachments/0123/31-{len(PHOTO)}": PHOTO,
}


@pytest.fixture
def made(tmp_path: Path) -> Folder:
    folder = Folder(str(tmp_path / "run"))
    run(folder, make_plan())
    for path, data in LOOSE.items():
        folder.write(path, data)
    of_detector = {
        path.rpartition("/")[2]: sums.sha256_of(data)
        for path, data in LOOSE.items()
        if path.startswith("detectors/")
    }
    sums.write_sums(Folder(f"{folder.url}/detectors/d1"), of_detector)
    row = dict.fromkeys(MANIFEST.names) | {
        "image_id": "i1",
        "file_name": f"7/31-{len(PHOTO)}/lion.jpg",
        "sha256": sums.sha256_of(PHOTO),
        "status": "ok",
    }
    shard = Shard("m1", 0, 1)
    plan = Plan.make("validate", [shard], {})
    plan.freeze(folder)
    rows = pa.Table.from_pylist([row], MANIFEST)
    receipt = finish_shard(
        folder, (plan.stage, plan.id), shard, {"manifest": rows}, counts={}, seconds={}, started=0.0
    )
    commit_plan(folder, plan, [receipt], ("manifest",), inputs={})
    assert check(folder).faults == []
    return folder


KEPT_ASIDE = ("job.yaml", "detectors/", "checkpoints/", "performance/")
RESTORED = ("samples/", "copies/")
REPORT = "report/"


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("path", LOOSE)
def test_damage_is_named_and_mended(made: Folder, path: str, harm: str) -> None:
    damaged = HARMS[harm](made.read(path))
    made.write(path, damaged)
    before = sorted(made.walk())
    found = check(made)
    assert [fault.file for fault in found.faults] == [path]
    assert not found.is_sound
    assert sorted(made.walk()) == before, "nothing is written unless it is to be repaired"
    assert check(made, repair=True).again == {}
    left = set(LOOSE) - set(made.walk())
    if path.startswith(RESTORED):
        assert made.read(path) == LOOSE[path]
    elif path.startswith("checkpoints/"):
        assert left == {"checkpoints/t1-last.pt", "checkpoints/t1-best.pt"}, "no use without each other"
    elif path.startswith(REPORT):
        assert left == {path, "report/index.html"}, "so that the next run writes the report again"
    else:
        assert left == {path}
    if path.startswith(KEPT_ASIDE + RESTORED):
        assert made.read(f"damaged/{path}") == damaged
    assert check(made).faults == []


@pytest.mark.parametrize(
    "path", ["detectors/d1/detector.onnx", "report/parts-1/index.js", "samples/random-9-0.json"]
)
def test_what_is_missing_is_named(made: Folder, path: str) -> None:
    made.delete(path)
    assert [(fault.file, fault.what) for fault in check(made, repair=True).faults] == [(path, "is missing")]
    assert check(made).faults == []
    assert made.exists(path) == path.startswith(RESTORED)
    assert made.exists("report/index.html") == (not path.startswith(REPORT))
    assert made.exists("detectors/d1/sha256.json") == (not path.startswith("detectors/"))


def test_a_sample_without_a_good_copy_is_left_to_people(made: Folder) -> None:
    for path in ("samples/random-9-0.json", "copies/samples/random-9-0.json"):
        made.write(path, SAMPLE[:100])
    (fault,) = check(made, repair=True).faults
    assert (fault.file, fault.then) == ("samples/random-9-0.json", "move it away, and draw again")
    assert made.read("samples/random-9-0.json") == SAMPLE[:100]


def test_records_of_a_detector_and_detectors_of_earlier_versions(made: Folder) -> None:
    made.write("detectors/d1/sha256.json", b'{"files": ')
    (fault,) = check(made, repair=True).faults
    assert (fault.file, fault.what) == ("detectors/d1/sha256.json", "is cut off")
    asked = []

    def fault_of(folder: Folder) -> str:
        asked.append(folder.list(""))
        return "is damaged (the file is empty)"

    (fault,) = check(made, repair=True, detector_fault=fault_of).faults
    assert (fault.file, fault.what) == ("detectors/d1", "is damaged (the file is empty)")
    assert asked == [["detector.json", "detector.onnx"]]
    assert made.list("detectors/d1") == []
    assert made.list("damaged/detectors/d1") == ["detector.json", "detector.onnx"]


@pytest.mark.parametrize("path", ["report/index.html", "performance/infer-p.html", "job.yaml"])
def test_what_an_earlier_version_wrote_has_no_seal(made: Folder, path: str) -> None:
    text = b"name: job\n" if path == "job.yaml" else PAGE + b"<!-- 0123456789abcdef -->"
    made.write(path, text)
    assert check(made).faults == []
    for harm in (bytes(len(text)), b"", b"name: [lion", text[:20]):
        made.write(path, harm)
        if not (path == "job.yaml" and harm == text[:20]):
            assert [fault.file for fault in check(made).faults] == [path]


def test_a_photo_that_the_manifest_does_not_know(made: Folder) -> None:
    path = "attachments/0123/32-5"
    made.write(path, b"photo")
    assert check(made).faults == []
    for harm in (b"phot", bytes(5)):
        made.write(path, harm)
        (fault,) = check(made, repair=True).faults
        assert fault.file == path
        assert not made.exists(path)


@dataclass
class Point:
    x: int
    label: str = "-"
    more: dict[str, object] = field(default_factory=dict)


def test_no_flipped_bit_of_a_record_changes_what_it_says() -> None:
    from camtrap_batch.store.records import from_json

    data = to_json(Point(1, "lion"))
    for at in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[at // 8] ^= 1 << at % 8
        try:
            found = from_json(bytes(flipped), Point)
        except Unreadable:
            continue
        assert (found.x, found.label) == (1, "lion"), bytes(flipped)
    formatted = data.replace(b":", b": ").replace(b"lion", b"puma")
    assert from_json(formatted, Point).label == "puma", "somebody has reformatted it"


def test_a_seal_goes_by_every_byte() -> None:
    sealed = sums.seal(PAGE, {"a--b.js": digest(["a"])})
    assert sums.read_seal(sealed + b"<!-- mark -->") == {"a--b.js": digest(["a"])}
    assert b"--" not in sealed[len(PAGE) + 5 : -4]
    for at in range(len(PAGE)):
        with pytest.raises(Unreadable, match="not the bytes that were written"):
            sums.read_seal(flipped(sealed, at))
    assert sums.read_seal(PAGE) is None


def test_a_pointer_to_an_older_snapshot(made: Folder) -> None:
    """A driver that is killed in its commit leaves one."""
    run(made, make_plan(2))
    made.write("snapshots/selection/CURRENT", b"1")
    report = check(made, repair=True)
    assert [(fault.file, fault.what) for fault in report.faults] == [
        ("snapshots/selection/CURRENT", "names 1, and 2 is the newest")
    ]
    assert report.is_sound
    assert made.read("snapshots/selection/CURRENT") == b"2"


@pytest.mark.parametrize("kind", ["snapshots/selection/1.json", "receipts", "plans"])
def test_a_flipped_byte_in_a_record(made: Folder, kind: str) -> None:
    """JSON of the right form nevertheless."""
    path = kind if kind.endswith(".json") else next(path for path in made.walk(kind) if "select" in path)
    data = made.read(path)
    at = data.index(b'"stage":"select') + 12
    made.write(path, flipped(data, at))
    assert (path, sums.OTHER_BYTES) in {(fault.file, fault.what) for fault in check(made).faults}
    check(made, repair=True)
    run(made, make_plan(), even_if_current=True)
    assert [fault for fault in check(made).faults if fault.counts] == []


def test_a_missing_copy_is_made_again(made: Folder) -> None:
    path = copies.path_of("samples/random-9-0.json")
    made.delete(path)
    assert check(made).faults == [], "a draw that was killed has none yet"
