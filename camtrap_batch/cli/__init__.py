"""The `camtrap` command: parse, call a stage, print.

Exit codes: 0 all done; 1 something failed that must not (the last line says what); 2 the command, the job
file or the cluster file is wrong; 130 interrupted.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from camtrap_batch import __version__
from camtrap_batch.cli import (
    corrections,
    diff,
    export,
    layer,
    model,
    review,
    serve_layer,
    stages,
    submit,
    tables,
)
from camtrap_batch.cli.options import Parser
from camtrap_batch.errors import CamtrapError, StoreUnreachable
from camtrap_batch.monitor.display import JsonLines
from camtrap_batch.notices import LOGGER

_COMMANDS = (stages, tables, review, corrections, export, diff, model, layer, submit, serve_layer)
"""Modules whose `add(commands)` adds commands, in the order in which `--help` lists them."""
_INTERRUPTED = 130
_NO_LOG = logging.NullHandler()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    stop = threading.Event()
    # What libraries log ends in a status or in an error of ours; without a handler it would be printed.
    logging.getLogger().addHandler(_NO_LOG)
    try:
        with _notices_told(options), _orderly_stop(options, stop):
            code: int = options.call(options, stop)
            return code
    except CamtrapError as problem:
        _say(options, str(problem))
        return problem.exit_code
    except KeyboardInterrupt:
        _say(options, "stopped at once; finished shards are kept: the same command goes on")
        return _INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except OSError as problem:  # of a disk or a file system that no stage can do without
        _say(options, f"{problem.filename}: {problem.strerror}" if problem.filename else str(problem))
        return problem.exit_code if isinstance(problem, StoreUnreachable) else 1


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="camtrap",
        description="From camera-trap images to species per camera on a feature layer, on a Dask cluster.",
        epilog="exit codes: 0 all done; 1 something failed, see the last lines; "
        "2 the command or a file is wrong; 130 interrupted",
    )
    parser.add_argument("--version", action="version", version=f"camtrap-batch {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    for module in _COMMANDS:
        module.add(commands)
    return parser


def _say(options: argparse.Namespace, text: str, event: str = "error") -> None:
    """What the command has to say for itself, on one line of standard error."""
    text = " ".join(text.split("\n"))
    if getattr(options, "log_json", False):
        JsonLines(sys.stderr).event(event, text=text)
    else:
        print(f"camtrap: {text}", file=sys.stderr, flush=True)


class _Teller(logging.Handler):
    """Prints what the package's logger says as the command says what it has to say."""

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__(logging.WARNING)
        self._options = options

    def emit(self, record: logging.LogRecord) -> None:
        _say(self._options, record.getMessage(), "notice")


@contextmanager
def _notices_told(options: argparse.Namespace) -> Iterator[None]:
    teller = _Teller(options)
    LOGGER.addHandler(teller)
    try:
        yield
    finally:
        LOGGER.removeHandler(teller)


@contextmanager
def _orderly_stop(options: argparse.Namespace, stop: threading.Event) -> Iterator[None]:
    """The first Ctrl-C (or SIGTERM) sets `stop`, the second one ends the command at once."""

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        _say(options, "finishing what is in flight; once more to stop at once")

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
