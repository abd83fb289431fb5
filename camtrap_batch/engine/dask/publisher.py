"""Sends what the driver knows of its job to the scheduler, once a second, for the page there."""

from __future__ import annotations

import json
import threading
from contextlib import suppress
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from camtrap_batch.monitor.progress import Progress

if TYPE_CHECKING:
    from distributed import Client

_EVERY_S = 1.0
_PATIENCE_S = 5.0  # patience with a busy scheduler


class Publisher:
    """Puts the page on a client's scheduler, and keeps it up to date until `close`.

    A page that can't be shown is no reason to end a job: `problem` says why, and the job goes on without it.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._client: Client | None = None
        self.problem: str | None = None

    def open(self, client: Client) -> None:
        """Begin on this client's scheduler; calling it again for the same one does nothing."""
        if self._client is client:
            return
        self.close()
        self._client, self.problem = client, None
        try:
            register(client)
        except Exception as problem:
            self.problem = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
            return
        with suppress(Exception):  # the next attempt is a second away
            self._send("connected")
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(self._stop,), name="camtrap-publisher", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Send the last state, if the scheduler is still there, and end."""
        if self._thread is None:
            return
        self._stop.set()
        self._thread.join(_PATIENCE_S)
        self._thread = None
        try:
            self._send("finished")
        except Exception:  # the cluster is gone, and so is the page
            return
        finally:
            self._client = None

    def _run(self, stop: threading.Event) -> None:
        while not stop.wait(_EVERY_S):
            try:
                self._send("connected")
            except Exception:  # the fan-out notices by itself that the scheduler is lost
                if self._client is None or self._client.status not in ("running", "connecting"):
                    return

    def _send(self, driver: str) -> None:
        client = self._client
        if client is None or client.status != "running":
            return
        state = json.dumps(self._progress.as_record(), ensure_ascii=False)
        scheduler: Any = client.scheduler
        client.sync(
            scheduler.camtrap_state,
            state=state,
            client=client.id,
            driver=driver,
            callback_timeout=_PATIENCE_S,
        )


def register(client: Client) -> None:
    """Put the page on the scheduler, unless it is there already. Raises whatever prevents it."""
    import cloudpickle  # Dask requires it

    from camtrap_batch.engine.dask import board
    from camtrap_batch.monitor import counters

    page = (files("camtrap_batch.engine.dask") / "page.html").read_text("utf-8")
    modules = (counters, board)
    # The scheduler may have another version of this package, or not have it at all.
    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    try:
        client.register_plugin(board.Board(page))
    finally:
        for module in modules:
            cloudpickle.unregister_pickle_by_value(module)


def page_url(dashboard_link: str) -> str:
    """Where the page is, from the address of Dask's dashboard.

    >>> page_url("http://127.0.0.1:8787/status")
    'http://127.0.0.1:8787/camtrap'
    """
    return f"{dashboard_link.removesuffix('/').removesuffix('/status')}/camtrap"
