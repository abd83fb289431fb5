"""Reads a run's tables: all of them, or only what belongs to a few sequences, without reading the rest.

For a million images the former takes half a minute, the latter a second. A table has its rows in the order of
the table that it was made from, so row numbers lead from one to the next.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.codes import Ints, one_chunk
from camtrap_batch.errors import InputError
from camtrap_batch.store.run import Run
from camtrap_batch.store.tables import take_rows
from camtrap_batch.vocabulary import USABLE


class RunRows:
    """Rows of a run's current tables.

    Parameters
    ----------
    some : location and seq_id of the sequences whose images are read; None: all of them
    """

    def __init__(self, run: Run, some: pa.Table | None = None) -> None:
        self.run = run
        self._some = some

    def read(self, name: str, columns: list[str]) -> pa.Table:
        """Like `get`, for a table that has to exist. Raises InputError."""
        found = self.get(name, columns)
        if found is None:
            raise InputError(f"{self.run.folder.url}: the table {name} is not there")
        return found

    def get(self, name: str, columns: list[str]) -> pa.Table | None:
        """Columns of a table of images, or of their boxes; None if it does not exist yet.

        Raises
        ------
        InputError
            Only some rows are to be read, and the tables do not belong together: `merge` has to run first.
        """
        snapshot = self.run.current(name)
        if snapshot is None:
            return None
        table = self.run.table(name)
        if self._some is None:
            return table.to_table(columns=columns)
        if not self._some.num_rows:
            return table.schema.empty_table().select(columns)
        if name == "detections":
            found = take_rows(table, self._boxes, [*dict.fromkeys(["image_id", *columns])])
            self._require(
                name, pc.all(pc.is_in(found["image_id"], one_chunk(self._ids))).as_py() is not False
            )
            return found.select(columns)
        rows = self._frames if name in ("frames", "predictions") else self._usable[self._frames]
        found = take_rows(table, rows, [*dict.fromkeys(["image_id", *columns])])
        self._require(name, found["image_id"].equals(self._ids))
        return found.select(columns)

    def _require(self, name: str, is_ours: bool) -> None:
        if not is_ours:
            raise InputError(f"{self.run.folder.url}: the table {name} is of other images than frames")

    @cached_property
    def _frames(self) -> Ints:
        """Numbers of the frames that are read."""
        some = [] if self._some is None else self._some.to_pylist()
        table = self.run.table("frames").to_table(columns=["location", "seq_id"])
        wanted: dict[str, set[str]] = {}
        for row in some:
            wanted.setdefault(row["seq_id"], set()).add(row["location"])
        rows = np.flatnonzero(pc.is_in(table["seq_id"], pa.array(sorted(wanted))).to_numpy())
        few = table.take(pa.array(rows)).to_pylist()
        return rows[[row["location"] in wanted[row["seq_id"]] for row in few]]

    @cached_property
    def _ids(self) -> pa.ChunkedArray:
        return take_rows(self.run.table("frames"), self._frames, ["image_id"])["image_id"]

    @cached_property
    def _usable(self) -> Ints:
        """Numbers of the manifest's usable rows, to which frames and predictions correspond."""
        status = self.run.table("manifest").to_table(columns=["status"])["status"].cast(pa.string())
        return np.flatnonzero(pc.is_in(status, pa.array(USABLE)).to_numpy())

    @cached_property
    def _boxes(self) -> Ints:
        """Row numbers of the frames' boxes: `detected` says how many each image has, in the same order."""
        counts = self.run.table("detected").to_table(columns=["n_boxes"])["n_boxes"]
        n = one_chunk(counts).fill_null(0).to_numpy().astype(np.int64)
        ends = np.cumsum(n)
        is_whole = ends[-1:].sum() == self.run.snapshot("detections").rows
        self._require("detected", bool(is_whole and len(n) > self._frames.max(initial=-1)))
        return np.concatenate(
            [np.arange(ends[row] - n[row], ends[row]) for row in self._frames] or [np.array([], np.int64)]
        )
