"""Where training resumes after an interruption: the state at the end of the last epoch, in a folder."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from camtrap_batch.errors import StageError
from camtrap_batch.store.folder import Folder

LAST, BEST = "last.pt", "best.pt"


@dataclass
class Checkpoint:
    """The state of training at the end of an epoch. Randomness in an epoch depends only on its number.

    Attributes
    ----------
    network
        State dict of the network.
    optimizer
        `state`, one dict per parameter, and `hypers`, one dict per group, as in fastai's optimizers.
    history
        One row for each finished epoch, as in history.csv.
    rate, searched
        The learning rate, and the search for it, as in lr_find.csv.
    batch
        Images per step: fewer than requested if memory was too small.
    smooth
        What fastai's smooth training loss consists of: count, value.
    scaler
        State of float16's gradient scaling; empty in other precisions.
    notes
        What people should know about this training.
    """

    network: Mapping[str, torch.Tensor]
    optimizer: dict[str, Any]
    history: list[dict[str, Any]]
    rate: float
    searched: list[dict[str, float]]
    batch: int
    smooth: tuple[int, float] = (0, 0.0)
    scaler: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def epochs(self) -> int:
        """Number of finished epochs."""
        return len(self.history)


class Checkpoints:
    """The checkpoints of one training: that of the last epoch and, on request, the best epoch's weights.

    Each replaces the one before, completely or not at all. Reading one runs no code.

    Parameters
    ----------
    folder, prefix
        Where they are, and what their names begin with.
    """

    def __init__(self, folder: Folder, prefix: str = "") -> None:
        self._folder, self._prefix = folder, prefix

    def save(self, checkpoint: Checkpoint) -> None:
        self._write(LAST, {name: getattr(checkpoint, name) for name in asdict(_EMPTY)})

    def load(self) -> Checkpoint | None:
        """The last epoch's checkpoint; None if no epoch was finished. Raises StageError if it can't be
        read."""
        state = self._read(LAST)
        return None if state is None else Checkpoint(**state)

    def save_best(self, network: Mapping[str, torch.Tensor]) -> None:
        self._write(BEST, {"network": dict(network)})

    def load_best(self) -> Mapping[str, torch.Tensor]:
        """State dict of the network at the best epoch. Raises StageError if there is none."""
        state = self._read(BEST)
        if state is None:
            raise StageError(
                f"{self._folder.url}/{self._prefix}{BEST}: no such file; delete {self._prefix}{LAST}, too, "
                "to start training from the beginning"
            )
        found: Mapping[str, torch.Tensor] = state["network"]
        return found

    def _write(self, name: str, state: dict[str, Any]) -> None:
        self._folder.write_with(self._prefix + name, lambda file: torch.save(state, file))

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            data = self._folder.read(self._prefix + name)
        except FileNotFoundError:
            return None
        try:
            state: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
            with zipfile.ZipFile(io.BytesIO(data)) as packed:
                if packed.testzip() is not None:  # torch compares no checksums
                    raise zipfile.BadZipFile
        except Exception as problem:  # a wrong file fails anywhere in zip, pickle or tensor reading
            # torch's own text advises loading the file as code: not repeated here.
            raise StageError(
                f"{self._folder.url}/{self._prefix}{name}: not a checkpoint ({type(problem).__name__}): "
                "delete it to start training from the beginning"
            ) from None
        return state


_EMPTY = Checkpoint({}, {}, [], 0.0, [], 0)
