"""The page `/camtrap`, `/camtrap.json` and the metrics of a job, on the scheduler that the job runs on.

A driver registers the `Board` and sends what it knows once a second; the last state of each job is kept. The
scheduler may be one that others started, without this package: what is needed there travels with the plugin,
so this module uses nothing of the package but `metrics`, which travels as well.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import os
import time
from typing import Any

import tornado.web
from distributed.diagnostics.plugin import SchedulerPlugin

from camtrap_batch.monitor.counters import Totals, gauges

NAME = "camtrap"
OPERATION = "camtrap_state"
"""The scheduler's handler that a driver calls, with `state` (text of `Progress.as_record`) and `client` (its
id)."""

_MOST_JOBS = 8
_SILENT_S = 60.0  # a driver that has sent nothing for this long counts as gone; it sends once a second
_SECONDS_KEPT = 1.0


class Board(SchedulerPlugin):
    """Keeps the last state of each job, and serves it.

    Parameters
    ----------
    page : the HTML of `/camtrap`; `{nonce}` is replaced at each request
    """

    name = NAME
    idempotent = True

    def __init__(self, page: str) -> None:
        self.page = page
        self.jobs: dict[str, dict[str, Any]] = {}
        self._made: tuple[float, str, bytes] = (0.0, "", b"")

    async def start(self, scheduler: Any) -> None:
        self.scheduler = scheduler
        self.totals = Totals()
        scheduler.handlers[OPERATION] = self.receive
        # Whatever prefix the dashboard has; rules added later are tried before the last one.
        routes = [
            (r"(?:/.*)?/camtrap", _PageHandler, {"board": self}),
            (r"(?:/.*)?/camtrap\.json", _JsonHandler, {"board": self}),
            (r"(?:/.*)?/camtrap-report/([0-9a-f]{8})/(.+)", _ReportHandler, {"board": self}),
        ]
        scheduler.http_application.add_handlers(r".*", routes)
        self._register_metrics()

    async def close(self) -> None:
        self._unregister_metrics()

    def remove_client(self, scheduler: Any, client: str) -> None:
        for job in self.jobs.values():
            if job["client"] == client and job["driver"] == "connected":
                job["driver"] = "gone"

    async def receive(self, state: str, client: str, driver: str) -> None:
        """Store what a driver sends."""
        record = json.loads(state)
        before = self.jobs.pop(record["folder"], None)
        known = {}
        if before is not None and before["client"] == client:
            known = {(name, *labels): number for name, labels, number in before["totals"]}
        for name, labels, number in record["totals"]:
            self.totals.add(name, tuple(labels), number - known.get((name, *labels), 0))
        self.jobs[record["folder"]] = {**record, "client": client, "driver": driver, "received": time.time()}
        while len(self.jobs) > _MOST_JOBS:
            del self.jobs[next(iter(self.jobs))]
        self._made = (0.0, "", b"")

    def as_json(self, name: str = "") -> bytes:
        """The newest job, or the one with this name or folder; computed at most once a second."""
        now = time.time()
        made, for_name, data = self._made
        if for_name == name and now - made < _SECONDS_KEPT:
            return data
        data = json.dumps(self.as_record(name), ensure_ascii=False).encode()
        self._made = (now, name, data)
        return data

    def as_record(self, name: str = "") -> dict[str, Any]:
        now = time.time()
        jobs = [job for job in self.jobs.values() if name in ("", job["job"], job["folder"])]
        workers = self._workers(now)
        record: dict[str, Any] = {
            "job": None, "folder": None, "driver": None, "updated_s": None, "stages": [], "queue": {},
            "report": None
        }  # fmt: skip
        if jobs:
            job = jobs[-1]
            record = {key: job[key] for key in ("job", "folder", "stages")}
            record["driver"] = _driver(job, now)
            record["updated_s"] = round(now - job["received"], 1)
            record["queue"] = self._queue(job)
            record["report"] = _report(job["folder"])
        others = [job["job"] for job in self.jobs.values() if not jobs or job is not jobs[-1]]
        return {**record, "workers": workers, "other_jobs": others}

    def collect(self) -> Any:
        """The counters and gauges of the jobs, in the form that prometheus_client expects of a collector."""
        yield from self.totals.collect()
        job = next(reversed(self.jobs.values()), None)
        stages = job["stages"] if job else []
        queue = self._queue(job) if job else {}
        busy: dict[str, int] = {}
        for worker in self._workers(time.time()):
            busy[worker["phase"] or "idle"] = busy.get(worker["phase"] or "idle", 0) + 1

        def each(key: str) -> list[tuple[list[str], float]]:
            return [([stage["stage"]], stage[key]) for stage in stages if stage["rows"]]

        now = time.time()
        drivers = [
            ([each_job["job"], state], float(_driver(each_job, now) == state))
            for each_job in self.jobs.values()
            for state in ("connected", "finished", "gone")
        ]
        silent = [([each_job["job"]], now - each_job["received"]) for each_job in self.jobs.values()]
        yield from gauges(
            {
                "camtrap_driver": (
                    "1 for the state of the job's driver: connected, finished, or gone without a word",
                    ("job_name", "state"),
                    drivers,
                ),
                "camtrap_driver_silent_seconds": (
                    "Seconds since the job's driver last reported",
                    ("job_name",),
                    silent,
                ),
                "camtrap_stage_images": ("Images of the stage's plan", ("stage",), each("rows")),
                "camtrap_stage_images_done": ("Images that are done", ("stage",), each("rows_done")),
                "camtrap_stage_images_per_second": ("Speed now", ("stage",), each("rows_per_s")),
                "camtrap_stage_shards": ("Shards of the stage's plan", ("stage",), each("shards")),
                "camtrap_stage_shards_done": ("Shards that are done", ("stage",), each("shards_done")),
                "camtrap_stage_cameras": ("Locations of the stage's images", ("stage",), each("cameras")),
                "camtrap_stage_cameras_done": ("Locations that are done", ("stage",), each("cameras_done")),
                "camtrap_queue": (
                    "Shards of the running stage: waiting on the driver, in flight on the cluster",
                    ("state",),
                    [([state], number) for state, number in queue.items()],
                ),
                "camtrap_workers": (
                    "Workers by what they are doing",
                    ("phase",),
                    [([phase], number) for phase, number in busy.items()],
                ),
            }
        )

    def _queue(self, job: dict[str, Any]) -> dict[str, int]:
        """Shards left of the running stage: still with the driver, and on the cluster."""
        running = next((stage for stage in job["stages"] if stage["state"] == "running"), None)
        if running is None:
            return {"waiting": 0, "in_flight": 0}
        prefix = f"{running['stage']}-"
        in_flight = sum(
            str(task.key).startswith(prefix)
            for worker in self.scheduler.workers.values()
            for task in worker.processing
        )
        left = running["shards"] - running["shards_done"]
        return {"waiting": max(0, left - in_flight), "in_flight": in_flight}

    def _workers(self, now: float) -> list[dict[str, Any]]:
        """What each worker is doing, those longest at their shard first."""
        found = []
        for worker in self.scheduler.workers.values():
            # Times are by the scheduler's clock: the last heartbeat, and what the worker said then.
            silent = max(0.0, now - worker.last_seen)
            doing = list(worker.metrics.get(NAME) or ())
            longest = max(doing, key=lambda entry: entry["seconds"], default=None)
            offers = ", ".join(f"{name}={number:g}" for name, number in worker.resources.items())
            found.append(
                {
                    "name": str(worker.name),
                    "address": worker.address,
                    "offers": offers,
                    "has_gpu": "gpu" in worker.metrics or "gpu_utilization" in worker.metrics,
                    "threads": worker.nthreads,
                    "status": worker.status.name,
                    "heard_s": round(silent, 1),
                    "memory": worker.metrics.get("memory", 0),
                    "memory_limit": worker.memory_limit,
                    "shards": len(doing),
                    "queued": max(0, len(worker.processing) - len(doing)),
                    "stage": longest["stage"] if longest else None,
                    "shard": longest["shard"] if longest else None,
                    "phase": longest["phase"] if longest else None,
                    "seconds": round(longest["seconds"] + silent, 1) if longest else None,
                    "phase_seconds": round(longest["phase_seconds"] + silent, 1) if longest else None,
                }
            )
        return sorted(found, key=lambda worker: (-(worker["seconds"] or 0), worker["name"]))

    def _register_metrics(self) -> None:
        try:
            from prometheus_client import REGISTRY
        except ImportError:  # then the scheduler has no /metrics
            return
        try:
            REGISTRY.register(self)
        except ValueError:  # another scheduler in this process, or a worker, has these names
            return

    def _unregister_metrics(self) -> None:
        try:
            from prometheus_client import REGISTRY

            REGISTRY.unregister(self)
        except (ImportError, KeyError):
            return


def _driver(job: dict[str, Any], now: float) -> str:
    """connected, finished, or gone: its connection ended without a last word, or it has fallen silent."""
    if job["driver"] == "connected" and now - job["received"] > _SILENT_S:
        return "gone"
    return str(job["driver"])


def _report(folder: str) -> dict[str, Any] | None:
    """Where a job's report is, as seen from this process, and when it was written; None if it can't be
    seen."""
    if "://" in folder:
        return None
    path = os.path.join(folder, "report", "index.html")  # noqa: PTH118 - only strings, without the package
    try:
        written = os.stat(path).st_mtime  # noqa: PTH116
    except OSError:
        return None
    return {"path": path, "link": f"camtrap-report/{_name(folder)}/index.html", "written": written}


def _name(folder: str) -> str:
    return hashlib.sha256(folder.encode()).hexdigest()[:8]


class _Handler(tornado.web.RequestHandler):
    def initialize(self, board: Board) -> None:
        self.board = board
        self.set_header("Cache-Control", "no-store")
        self.set_header("X-Content-Type-Options", "nosniff")


class _PageHandler(_Handler):
    def get(self) -> None:
        import secrets

        nonce = secrets.token_urlsafe(16)
        self.set_header(
            "Content-Security-Policy",
            f"default-src 'none'; connect-src 'self'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'",
        )
        self.write(self.board.page.replace("{nonce}", nonce))


class _JsonHandler(_Handler):
    def get(self) -> None:
        self.set_header("Content-Type", "application/json; charset=utf-8")
        self.write(self.board.as_json(self.get_query_argument("job", "")))


class _ReportHandler(_Handler):
    """The files of a job's report, only for browsers on this machine: they show photos and positions."""

    def get(self, name: str, path: str) -> None:
        if not ipaddress.ip_address(self.request.remote_ip or "0.0.0.0").is_loopback:  # noqa: S104
            raise tornado.web.HTTPError(403, "the report is shown only to this machine")
        folders = [folder for folder in self.board.jobs if _name(folder) == name and "://" not in folder]
        kind = _KINDS.get(os.path.splitext(path)[1])  # noqa: PTH122
        if not folders or kind is None:
            raise tornado.web.HTTPError(404)
        root = os.path.realpath(os.path.join(folders[0], "report"))  # noqa: PTH118
        file = os.path.realpath(os.path.join(root, path))  # noqa: PTH118
        if not file.startswith(root + os.sep):
            raise tornado.web.HTTPError(404)
        try:
            with open(file, "rb") as opened:  # noqa: PTH123
                data = opened.read()
        except OSError:
            raise tornado.web.HTTPError(404) from None
        self.set_header("Content-Type", kind)
        self.write(data)


_KINDS = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".txt": "text/plain; charset=utf-8",
    ".jpg": "image/jpeg",
}
