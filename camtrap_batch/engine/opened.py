"""An executor that is opened when the first stage needs it, and closed at the end of the command."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from camtrap_batch.engine.base import EXECUTORS, Executor

if TYPE_CHECKING:
    from camtrap_batch.cluster import Cluster


class ExecutorHandle:
    """The executor that a cluster file describes.

    Parameters
    ----------
    spec : what the file says
    """

    def __init__(self, spec: Cluster) -> None:
        self.spec = spec
        self._stack = ExitStack()
        self._executor: Executor | None = None

    def executor(self) -> Executor:
        """The executor. Raises ClusterError if it can't be opened."""
        if self._executor is None:
            self._executor = self._stack.enter_context(EXECUTORS[self.spec.executor](self.spec))
        return self._executor

    @property
    def memory(self) -> dict[str, int]:
        return self.spec.worker_memory()

    def __enter__(self) -> ExecutorHandle:
        return self

    def __exit__(self, *exception: Any) -> None:
        self._stack.close()
