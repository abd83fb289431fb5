"""A synthetic camera-trap data set, for demos, tests and dry runs."""

from __future__ import annotations

from camtrap_batch.rehearsal.dataset import Rehearsal, write_dataset

__all__ = ["Rehearsal", "write_dataset"]
