"""What an export is, and which exports there are.

An export is one module with a class that follows this protocol and one line in `EXPORTS`; a package installed
beside ours adds one through an entry point of the group `camtrap_batch.exports`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

from camtrap_batch.exports.images import Images
from camtrap_batch.exports.written import Written
from camtrap_batch.job import Job
from camtrap_batch.options import Option
from camtrap_batch.registry import Registry
from camtrap_batch.store.outpath import replacing
from camtrap_batch.store.outputs import Outputs


class Out:
    """Where an export writes: hidden names, which replace what was there once everything is complete.

    Attributes
    ----------
    final : what the user asked for
    path : of the file or the folder to write, which is not there yet
    written : what is there in the end: `final`, and what is beside it
    """

    def __init__(self, final: Path, names: ExitStack, outputs: Outputs) -> None:
        self.final, self._names, self._outputs = final, names, outputs
        self.written: list[Path] = []
        self.path = self._begin(final)

    def beside(self, ending: str) -> Path:
        """A file to write beside it: its name will be that of the export and `ending`."""
        return self._begin(self.final.with_name(f"{self.final.name}{ending}"))

    def _begin(self, path: Path) -> Path:
        self._outputs.keep(path)
        self.written.append(path)
        return self._names.enter_context(replacing(path))


class Export(Protocol):
    """A way to write a run's results for other programs.

    Attributes
    ----------
    name : its name for `--to`
    help : what it is and who reads it, in a few words
    out : what `--out` names, such as: a file that ends in .csv
    options : its own settings
    """

    name: str
    help: str
    out: str
    options: Sequence[Option]

    def check(self, out: str, job: Job) -> Path:
        """Where it is to be written. Raises UserError if that is not allowed; see `store.outpath`."""
        ...

    def write(self, images: Images, out: Out, options: Mapping[str, Any]) -> Written:
        """Write it. The result accounts for each image of the catalog: it is included, or left out for a
        reason.

        Parameters
        ----------
        options : value of each of the export's options, by name

        Raises
        ------
        InputError
            Something that it needs has not been made yet, or it would be empty.
        """
        ...


EXPORTS: Registry[Export] = Registry(
    "camtrap_batch.exports",
    {
        "md-json": "camtrap_batch.exports.md_json:EXPORT",
        "camtrap-dp": "camtrap_batch.exports.camtrap_dp:EXPORT",
        "csv": "camtrap_batch.exports.csv:EXPORT",
        "cct": "camtrap_batch.exports.cct:EXPORT",
        "detection-history": "camtrap_batch.exports.detection_history:EXPORT",
        "speciesnet": "camtrap_batch.exports.speciesnet:EXPORT",
        "timelapse": "camtrap_batch.exports.timelapse:EXPORT",
        "label-studio": "camtrap_batch.exports.label_studio:EXPORT",
    },
)


def write_export(
    export: Export,
    images: Images,
    path: Path,
    options: Mapping[str, Any] | None = None,
    outputs: Outputs | None = None,
) -> Written:
    """Write an export; what was at `path` stays until the new one is complete.

    Parameters
    ----------
    path : as the export's `check` gives it
    options : by name; those that are not given have their defaults
    outputs : of the run; what no command of it wrote is kept
    """
    outputs = outputs or Outputs(images.run.folder)
    chosen = {option.name: option.default for option in export.options} | dict(options or {})
    with ExitStack() as names:
        out = Out(path, names, outputs)
        written = export.write(images, out, chosen)
    for file in out.written:
        outputs.record(file)
    written.path = path
    return written
