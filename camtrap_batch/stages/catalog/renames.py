"""Files that were renamed since the last catalog, found by their content, keep their image id.

Only for data sets in which an image has no name but its path; ids given by the metadata are not changed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.errors import Damaged
from camtrap_batch.images import ImageRoot
from camtrap_batch.notices import say
from camtrap_batch.store.run import Run

_READERS = 8  # each may hold a file
_NO_FRAME = pc.field("video_s").is_null()  # a frame of a video is not a file


def keep_ids(run: Run, root: ImageRoot, table: pa.Table) -> tuple[pa.Table, int]:
    """The rows of a new catalog with the image ids of the current one, and how many files were renamed.

    A new path is a renamed file if its size and sha256 are those of an image that is gone. A new file with
    the path of a renamed one gets an id of its own.
    """
    before = run.current("catalog")
    if before is None:
        return table, 0
    known = _known_ids(run)
    ids = dict(zip(known["file_name"].to_pylist(), known["image_id"].to_pylist(), strict=True))
    names = table["file_name"].to_pylist()
    own = table["image_id"].to_pylist()
    fresh = [row for row, name in enumerate(names) if name not in ids and own[row] == name]
    renamed = _renamed(run, root, [names[row] for row in fresh], set(ids) - set(names))
    result = [ids.get(name, own[row]) for row, name in enumerate(names)]
    taken = {result[row] for row, name in enumerate(names) if name in ids}
    taken |= {ids[old] for old in renamed.values()}
    for row in fresh:
        old = renamed.get(names[row])
        result[row] = ids[old] if old is not None else _free(names[row], taken)
    if result == own:
        return table, 0
    column = table.column_names.index("image_id")
    return table.set_column(column, table.schema.field(column), pa.array(result, pa.string())), len(renamed)


def count_gone(run: Run, table: pa.Table) -> int:
    """How many images of the current catalog a new one, with the ids of `keep_ids`, no longer has."""
    if run.current("catalog") is None:
        return 0
    known = _known_ids(run)["image_id"]
    return len(known) - (pc.sum(pc.is_in(known, table["image_id"].combine_chunks())).as_py() or 0)


def _known_ids(run: Run) -> pa.Table:
    """Image ids and file names of the current catalog, or of the manifest if the catalog is damaged."""
    columns = ["image_id", "file_name"]
    try:
        return run.table("catalog").to_table(columns=columns, filter=_NO_FRAME)
    except Damaged as problem:
        if run.current("manifest") is None:
            raise
        say(f"{problem}; image ids are taken from the manifest")
        return run.table("manifest").to_table(columns=columns, filter=_NO_FRAME)


def _renamed(run: Run, root: ImageRoot, fresh: list[str], gone: set[str]) -> dict[str, str]:
    """New path -> path under which the same content was known."""
    if not fresh or not gone or run.current("manifest") is None:
        return {}
    known = run.table("manifest").to_table(columns=["file_name", "bytes", "sha256"], filter=_NO_FRAME)
    is_gone = pc.and_(pc.is_in(known["file_name"], pa.array(sorted(gone))), known["sha256"].is_valid())
    lost: dict[str, list[str]] = {}
    sizes = set()
    for record in known.filter(is_gone).sort_by("file_name").to_pylist():
        if record["bytes"]:  # all empty files have the same content
            lost.setdefault(record["sha256"], []).append(record["file_name"])
            sizes.add(record["bytes"])
    listing = root.listing(fresh)
    entries = listing.entries.to_pylist() if listing.entries is not None else [None] * len(fresh)
    alike = [
        (name, entry)
        for name, size, entry in zip(fresh, listing.sizes.tolist(), entries, strict=True)
        if size in sizes
    ]
    found = {}
    for name, sha256 in _hashes(root, alike):
        if copies := lost.get(sha256):
            # Of several copies, one with the same name in another folder is the most likely.
            same = [old for old in copies if old.rpartition("/")[2] == name.rpartition("/")[2]]
            found[name] = (same or copies)[0]
            copies.remove(found[name])
    return found


def _hashes(root: ImageRoot, files: list[tuple[str, dict[str, int] | None]]) -> Iterator[tuple[str, str]]:
    """Path and sha256 of each file that can be read. Raises InputError if the root is gone."""

    def hash_of(file: tuple[str, dict[str, int] | None]) -> tuple[str, str]:
        name, entry = file
        try:
            return name, hashlib.sha256(root.read(name, entry=entry)).hexdigest()
        except OSError:  # `validate` reports it, unless it is the disk that is gone
            root.check()
            return name, ""

    with ThreadPoolExecutor(_READERS) as pool:
        yield from pool.map(hash_of, files)


def _free(name: str, taken: set[str]) -> str:
    candidate, number = name, 1
    while candidate in taken:
        number += 1
        candidate = f"{name}#{number}"
    taken.add(candidate)
    return candidate
