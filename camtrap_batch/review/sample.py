"""Random samples of sequences, drawn once and kept, since the probability of each must never be lost.

A draw is a file of the run folder, `samples/<draw>.json`, written before anybody reviews it. Requesting the
same draw again returns the existing one, even if labels have changed since; another number or seed makes
another draw.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from camtrap_batch.codes import Ints
from camtrap_batch.errors import Damaged
from camtrap_batch.store import copies
from camtrap_batch.store.records import Unreadable, from_json, to_json
from camtrap_batch.store.run import Run
from camtrap_batch.survey.design import draw, make_strata

FOLDER = "samples"


@dataclass(frozen=True)
class Draw:
    """A sample of sequences.

    Attributes
    ----------
    name : name of the draw
    created : when it was made, ISO 8601
    strata, sizes : name of each stratum, and how many sequences it has
    location, seq_id, stratum, probability : of each drawn sequence, in the order to review them
    """

    name: str
    created: str
    strata: list[str]
    sizes: list[int]
    location: list[str]
    seq_id: list[str]
    stratum: list[int]
    probability: list[float]

    def __len__(self) -> int:
        return len(self.seq_id)


def bring_draw(
    run: Run,
    location: pa.Array,
    seq_id: pa.Array,
    label: pa.Array,
    confidence: npt.NDArray[np.float64],
    *,
    n: int,
    seed: int = 0,
) -> Draw:
    """The draw of this many sequences with this seed; it is made, and kept, if there is none yet.

    Parameters
    ----------
    location, seq_id, label, confidence : (sequences,) what is now known about all of them
    """
    name = f"random-{n}-{seed}"
    path = f"{FOLDER}/{name}.json"
    if not run.folder.exists(path):
        strata = make_strata([text or "" for text in label.to_pylist()], confidence, n)
        chosen = draw(strata, seed)
        of = strata.of[chosen]
        made = Draw(
            name,
            dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
            list(strata.names),
            strata.sizes.tolist(),
            location.take(pa.array(chosen)).to_pylist(),
            seq_id.take(pa.array(chosen)).to_pylist(),
            of.tolist(),
            (strata.drawn[of] / strata.sizes[of]).tolist(),
        )
        run.folder.create(path, to_json(made))
    drawn = _read(run, path)
    if not run.folder.exists(copies.path_of(path)):
        copies.keep(run.folder, [path])
    return drawn


def read_draws(run: Run) -> list[Draw]:
    """Every draw of the run, the newest first. Raises Damaged."""
    paths = [f"{FOLDER}/{name}" for name in run.folder.list(FOLDER) if name.endswith(".json")]
    return sorted((_read(run, path) for path in paths), key=lambda one: one.created, reverse=True)


def find_rows(drawn: Draw, location: pa.Array, seq_id: pa.Array) -> Ints:
    """The number of each drawn sequence among all of them; -1: it no longer exists."""
    row_of = {
        pair: row for row, pair in enumerate(zip(location.to_pylist(), seq_id.to_pylist(), strict=True))
    }
    pairs = zip(drawn.location, drawn.seq_id, strict=True)
    return np.array([row_of.get(pair, -1) for pair in pairs], np.int64)


def _read(run: Run, path: str) -> Draw:
    try:
        return from_json(run.folder.read(path), Draw)
    except Unreadable as problem:
        fault = f"is not a sample ({problem}): `camtrap check JOB --repair` restores it from its copy, if it "
        fault += "has one; otherwise move it away, and draw again"
        raise Damaged(run.folder.url, path, fault) from None
