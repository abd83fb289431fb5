"""The `camtrap` command: parse, call a stage, print.

Exit codes: 0 all done; 1 something failed that must not (the last line says what); 2 the command, the job
file or the cluster file is wrong; 3 a problem that may pass by itself (no worker came, nobody answers,
another driver is at work): try again; 130 interrupted.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import signal
import sys
import textwrap
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import FrameType

from camtrap_batch import __version__
from camtrap_batch.cli import (
    check,
    corrections,
    diff,
    export,
    init,
    layer,
    model,
    overview,
    review,
    serve_layer,
    stages,
    submit,
)
from camtrap_batch.cli.options import Commands, Parser
from camtrap_batch.errors import CamtrapError, UserError, choices, exit_code_of, explain
from camtrap_batch.monitor.display import JsonLines
from camtrap_batch.notices import LOGGER

_COMMANDS = (
    init,
    stages,
    overview,
    check,
    review,
    corrections,
    export,
    diff,
    model,
    layer,
    submit,
    serve_layer,
)
"""Modules whose `add(commands)` adds commands, in the order in which `--help` lists them."""

_GROUPS = {
    "begin": ("init", "demo"),
    "run a job": (
        "reprocess", "catalog", "validate", "detect", "select", "train", "infer", "merge", "publish",
        "report",
    ),
    "see what came of it": ("status", "table", "check", "diff"),
    "check and correct labels": ("review", "corrections"),
    "give results and models away": ("export", "layer", "model"),
    "clusters, upkeep, rehearsal": ("submit", "gc", "serve-layer"),
}  # fmt: skip
"""Commands by purpose; a command in no group is listed under the last."""
_NO_LOG = logging.NullHandler()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = make_parser()
    if not given or given == ["help"]:
        parser.print_help()
        return 0
    if given[0] == "help":
        given = [*given[1:], "--help"]
    try:
        _check_words(parser, given)
    except UserError as problem:
        print(f"camtrap: {problem}", file=sys.stderr)
        raise SystemExit(problem.exit_code) from None  # as the parser itself does
    options = parser.parse_args(given)
    stop = threading.Event()
    # What libraries log becomes a status or one of our errors; without a handler it would also be printed.
    logging.getLogger().addHandler(_NO_LOG)
    try:
        with _notices_told(options), _no_other_lines(options), _orderly_stop(options, stop):
            code: int = options.call(options, stop)
            return code
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except (CamtrapError, KeyboardInterrupt, OSError) as problem:
        _say(options, explain(problem))
        return exit_code_of(problem)
    except Exception as problem:
        if not getattr(options, "log_json", False):
            raise
        _say(options, explain(problem))
        return exit_code_of(problem)


def make_parser() -> _MainParser:
    parser = _MainParser(
        prog="camtrap",
        description="From camera-trap images to species per camera on a feature layer, on a Dask cluster.",
        epilog="exit codes: 0 all done; 1 something failed, see the last lines; "
        "2 the command or a file is wrong; 3 a problem that may pass by itself: try again; 130 interrupted",
    )
    parser.add_argument("--version", action="version", version=f"camtrap-batch {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=Parser)
    for module in _COMMANDS:
        module.add(commands)
    parser.commands = commands
    return parser


class _MainParser(Parser):
    """The parser of `camtrap`, whose help lists the commands by purpose."""

    commands: Commands

    def format_help(self) -> str:
        about = {action.dest: action.help or "" for action in self.commands._get_subactions()}
        grouped = {title: [name for name in names if name in about] for title, names in _GROUPS.items()}
        listed = {name for names in grouped.values() for name in names}
        last = list(grouped.values())[-1]
        last.extend(name for name in about if name not in listed)
        width = max(map(len, about))
        columns = shutil.get_terminal_size().columns
        fitted = partial(textwrap.fill, width=columns, subsequent_indent=" " * (width + 4))
        lines = [
            "usage: camtrap COMMAND ...        camtrap COMMAND --help says more about one",
            "",
            textwrap.fill(str(self.description), columns),
        ]
        for title, names in grouped.items():
            if names:
                lines += ["", f"{title}:", *(fitted(f"  {name:{width}}  {about[name]}") for name in names)]
        return "\n".join([*lines, "", textwrap.fill(str(self.epilog), columns), ""])


def _check_words(parser: _MainParser, given: Sequence[str]) -> None:
    """Raise UserError, with what would be right, when the parser's own message would not help."""
    known = list(parser.commands.choices)
    command = given[0]
    if not command.startswith("-") and command not in known:
        raise UserError(f"no command {command!r}; {choices(command, known, len(known))}")
    for at, word in enumerate(given[:-1]):
        if word == "--set" and "=" not in given[at + 1] and not given[at + 1].startswith("-"):
            key, value = given[at + 1], next(iter(given[at + 2 : at + 3]), "")
            if not value or value.startswith("-"):
                value = "VALUE"
            raise UserError(f"--set {key}: should be KEY=VALUE: --set {key}={value}")


def _say(options: argparse.Namespace, text: str, event: str = "error") -> None:
    """Print a message of the command itself, on one line of standard error."""
    text = " ".join(text.split("\n"))
    if getattr(options, "log_json", False):
        JsonLines(sys.stderr, getattr(options, "job_name", None)).event(event, text=text)
    else:
        print(f"camtrap: {text}", file=sys.stderr, flush=True)


class _Teller(logging.Handler):
    """Prints the package's log messages in the same form as the command's own."""

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
def _no_other_lines(options: argparse.Namespace) -> Iterator[None]:
    """With --log-json: keep warnings and tracebacks of threads out of the lines of JSON."""
    if not getattr(options, "log_json", False):
        yield
        return

    def tell(given: threading.ExceptHookArgs) -> None:
        where = f" in the thread {given.thread.name}" if given.thread else ""
        _say(options, f"{given.exc_type.__name__}: {given.exc_value}{where}")

    def tell_of_end(given: sys.UnraisableHookArgs) -> None:
        _say(options, f"{given.exc_type.__name__}: {given.exc_value} at the end of {given.object!r}")

    before = threading.excepthook, sys.unraisablehook
    threading.excepthook, sys.unraisablehook = tell, tell_of_end
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        threading.excepthook, sys.unraisablehook = before


@contextmanager
def _orderly_stop(options: argparse.Namespace, stop: threading.Event) -> Iterator[None]:
    """The first Ctrl-C (or SIGTERM) sets `stop`; the second ends the command at once."""

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        _say(options, "finishing what is in flight; press Ctrl-C again to stop at once")

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
