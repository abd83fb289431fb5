"""A result of `merge`: the snapshots of its tables that belong together, and those they were made from.

It goes by the number of its snapshot of `locations`, the last one that `merge` commits.
"""

from __future__ import annotations

from dataclasses import dataclass

from camtrap_batch.errors import Damaged, InputError
from camtrap_batch.notices import say
from camtrap_batch.store import snapshots
from camtrap_batch.store.run import Run
from camtrap_batch.store.snapshots import Snapshot
from camtrap_batch.store.tables import Table


@dataclass(frozen=True)
class MergeResult:
    """`snapshot` is that of locations; its `meta` holds the settings that `merge` used."""

    run: Run
    snapshot: Snapshot

    @classmethod
    def find(cls, run: Run, number: int | None = None) -> MergeResult:
        """The result with a number, or the current one. Raises InputError if there is none."""
        snapshot = run.snapshot("locations", number)
        if "frames" not in snapshot.inputs:
            raise InputError(
                f"{run.folder.url}: snapshot {snapshot.number} of locations was made by an older version, "
                "without the table frames; it can be read, but not compared or pushed; run merge"
            )
        return cls(run, snapshot)

    @property
    def number(self) -> int:
        return self.snapshot.number

    def table(self, name: str) -> Table:
        """A table of this result (locations, frames, sequences, events), or one it was made from."""
        return self.run.table(name, self.number if name == "locations" else self.snapshot.inputs[name])

    def describe(self) -> str:
        """Text for people: what distinguishes it from the others."""
        meta, inputs = self.snapshot.meta, self.snapshot.inputs
        rules = [f"gap {meta['gap_min']:g} min", f"min_confidence {meta['min_confidence']:g}"]
        rules += [name for name in ("taxonomy", "species") if meta[name]]
        return (
            f"snapshot {self.number} (of predictions {inputs['predictions']}, model {inputs['model']}, "
            f"{', '.join(rules)}, {self.snapshot.created[:16].replace('T', ' ')})"
        )


def list_merged(run: Run) -> list[MergeResult]:
    """Every result of `merge`, the newest first."""
    found = []
    for number in reversed(snapshots.numbers(run.folder, "locations")):
        try:
            snapshot = snapshots.load(run.folder, "locations", number)
        except Damaged as problem:
            say(f"{problem}; ignored")
            continue
        if "frames" in snapshot.inputs:
            found.append(MergeResult(run, snapshot))
    return found
