"""report: a page for exploring the run, made from its tables. Runs on the driver.

`collect` reads the tables, `photos` the pictures; the room `report` makes the page from them.
"""

from __future__ import annotations

import os
import time

from camtrap_batch import __version__
from camtrap_batch.pipeline.context import Context
from camtrap_batch.pipeline.stage import Stage, StageResult, shard_id
from camtrap_batch.report import FINGERPRINT, render_files
from camtrap_batch.stages.report.collect import TABLES, collect
from camtrap_batch.store import sums
from camtrap_batch.store.folder import Folder
from camtrap_batch.store.run import Run

PAGE = "report/index.html"

_PARTS = "parts-"


class ReportStage(Stage):
    name = "report"
    help = "write the report: a page, and the files beside it that it opens"
    sections = ("report",)
    version = 5
    tables = ()

    def is_made(self, run: Run) -> bool:
        """Whether the page is there, of the tables as they are now, by this version of the program."""
        return run.folder.exists(PAGE) and _is_page_of(run.folder, self._made_of(run)[1])

    def _made_of(self, run: Run) -> tuple[dict[str, int], str]:
        snapshots = {name: found.number for name in TABLES if (found := run.current(name)) is not None}
        return snapshots, shard_id(self, snapshots, run.job.to_yaml(), FINGERPRINT, __version__, table="html")

    def run(self, context: Context) -> StageResult:
        """Write `report/index.html` and its parts. Raises InputError if there is not even a manifest."""
        started = time.monotonic()
        run = context.run
        run.snapshot("manifest")
        snapshots, id_ = self._made_of(run)
        result = StageResult(self.name, shards=1)
        # No lease is needed, and nothing is committed: the page says of itself what it was made of.
        if run.folder.exists(PAGE) and _is_page_of(run.folder, id_):
            return result
        if context.dry_run:
            result.notes.append(f"{PAGE} would be written")
            return result
        parts = f"{_PARTS}{id_}"
        page, files = render_files(collect(context, snapshots), parts)
        written = {}
        for path, make in files:
            content = make()
            run.folder.write(f"report/{path}", content)
            written[path] = sums.sha256_of(content)
        run.folder.write(PAGE, sums.seal(page.encode(), written) + _mark(id_))
        _delete_others(run.folder, parts)
        result.shards_run, result.seconds = 1, time.monotonic() - started
        return result


STAGE = ReportStage()


def _mark(id_: str) -> bytes:
    """How a page ends that is made of just these tables."""
    return f"<!-- {id_} -->".encode()


def _is_page_of(folder: Folder, id_: str) -> bool:
    mark = _mark(id_)
    with folder.open(PAGE) as page:  # of megabytes: its end alone is read
        page.seek(-min(len(mark), page.seek(0, os.SEEK_END)), os.SEEK_END)
        return page.read() == mark


def _delete_others(folder: Folder, parts: str) -> None:
    """Delete the parts of earlier reports, which the present page does not open."""
    for name in folder.list("report"):
        if name.startswith(_PARTS) and name != parts:
            for path in list(folder.walk(f"report/{name}")):
                folder.delete(path)
            if folder.is_local:
                _remove_empty(folder, f"report/{name}")


def _remove_empty(folder: Folder, path: str) -> None:
    for inside in folder.list(path):
        _remove_empty(folder, f"{path}/{inside}")
    folder.local(path).rmdir()
