"""A run's predictions as files that other programs read: one module a format.

`md-json` MegaDetector batch results, `camtrap-dp` a data package, `csv` one row an image, `cct` COCO Camera
Traps. docs/exports.md says what becomes what. All of them stream: 1.4 million images take under 1 GB.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from camtrap_batch.exports.camtrap_dp import is_package_of_ours, list_beside, write_camtrap_dp, write_zip
from camtrap_batch.exports.cct import write_cct
from camtrap_batch.exports.csv import write_csv
from camtrap_batch.exports.images import Images
from camtrap_batch.exports.md_json import write_md_json
from camtrap_batch.exports.place import check_file, check_folder, replacing
from camtrap_batch.exports.written import Written
from camtrap_batch.job import Job

__all__ = ["FORMATS", "Images", "Written", "check_out", "export"]

_FILES: dict[str, tuple[str, Callable[[Images, Path], Written]]] = {
    "md-json": (".json", write_md_json),
    "csv": (".csv", write_csv),
    "cct": (".json", write_cct),
}
_PACKAGE = "camtrap-dp"
FORMATS = ("md-json", _PACKAGE, "csv", "cct")


def check_out(to: str, out: str, job: Job) -> Path:
    """Where an export is to be written. Raises UserError where it may not; see `place`."""
    if to in _FILES:
        return check_file(out, job, _FILES[to][0])
    path = check_file(out, job, ".zip") if _is_zip(out) else check_folder(out, job, is_package_of_ours)
    check_file(str(list_beside(path)), job, ".csv")
    return path


def export(images: Images, to: str, path: Path) -> Written:
    """Write an export; what was at `path` stays until the new one is whole.

    Parameters
    ----------
    to : one of `FORMATS`
    path : as `check_out` gives it
    """
    with ExitStack() as names:
        staged = names.enter_context(replacing(path))
        if to in _FILES:
            written = _FILES[to][1](images, staged)
        else:
            listed = names.enter_context(replacing(list_beside(path)))
            write = write_zip if _is_zip(path.name) else write_camtrap_dp
            written = write(images, staged, listed)
            written.listed = list_beside(path)
    written.path = path
    return written


def _is_zip(out: str) -> bool:
    return out.lower().endswith(".zip")
