"""The `camtrap` command: parse, call a stage, print.

Exit codes: 0 all done; 1 something failed that must not (the last line says what); 2 the command, the job
file or the cluster file is wrong; 3 a problem that may pass by itself (no worker came, nobody answers,
another driver is at work): try again; 130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import shutil
import signal
import sys
import textwrap
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.metadata import entry_points
from types import FrameType
from typing import NamedTuple

from camtrap_batch import __version__
from camtrap_batch.cli.parser import Commands, Parser
from camtrap_batch.errors import CamtrapError, UserError, choices, exit_code_of, explain
from camtrap_batch.notices import LOGGER


class Command(NamedTuple):
    """A command of the command line.

    Attributes
    ----------
    where : `module:function` of this package; the function adds its arguments to its parser
    help : what it does, in one line
    """

    where: str
    help: str

    def add(self, parser: Parser, arguments: Sequence[str]) -> None:
        """Import it and add its arguments to its parser."""
        module, _, function = self.where.partition(":")
        getattr(importlib.import_module(f"{__name__}.{module}"), function)(parser)


COMMANDS = {
    "begin": {
        "init": Command("init:add", "look at a folder, a file or a URL and write a job file for it"),
        "demo": Command(
            "stages:add_demo", "a synthetic data set, the whole job, the report: needs nothing else"
        ),
    },
    "run a job": {
        "reprocess": Command(
            "stages:add_reprocess", "every stage in order; each does only what is not done yet"
        ),
        "catalog": Command("stages:add_stage", "read what describes the data set, one row per image"),
        "validate": Command(
            "stages:add_stage",
            "open every image once: status, size, hashes, EXIF, thumbnail; then what looks wrong",
        ),
        "detect": Command(
            "stages:add_stage", "find animals in every usable image, or take what others found"
        ),
        "select": Command("stages:add_stage", "choose the images to train on, and say why not the others"),
        "train": Command("stages:add_stage", "train a classifier on the selected images"),
        "infer": Command("stages:add_stage", "classify every usable image, fanned out over locations"),
        "merge": Command("stages:add_stage", "combine frames into sequences, events and locations"),
        "publish": Command("stages:add_stage", "push cameras, events and photos to the feature layer"),
        "report": Command(
            "stages:add_stage", "write the report: a page, and the files beside it that it opens"
        ),
    },
    "see what came of it": {
        "status": Command("overview:add_status", "what is done, running, failed; speeds; time left"),
        "table": Command("table:add", "one table as one .parquet or .csv file"),
        "check": Command("check:add", "read everything a run folder holds, and name what is damaged"),
        "diff": Command("diff:add", "what a new model, threshold or event rule changed"),
    },
    "check and correct labels": {
        "review": Command(
            "review:add",
            "a page on loopback: check events or images, most useful first; --out FILE: the list alone",
        ),
        "corrections": Command(
            "corrections:add",
            "read labels that people gave elsewhere: Timelapse, Label Studio, Camtrap DP, ..., CSV",
        ),
    },
    "give results and models away": {
        "export": Command(
            "export:add",
            "the result for other programs: data packages, detection histories, spreadsheets, ...",
        ),
        "layer": Command("layer:add", "create layers on a portal and a map of them, attach photos"),
        "model": Command(
            "model:add", "import a published model; export a run's model, publish it to a portal"
        ),
    },
    "clusters, upkeep, rehearsal": {
        "submit": Command(
            "submit:add", "hand `reprocess` to SLURM or Kubernetes, so that no laptop has to stay on"
        ),
        "gc": Command("overview:add_gc", "delete files that no snapshot refers to"),
        "serve-layer": Command(
            "serve_layer:add",
            "a feature server like ArcGIS's on this machine, to rehearse a push; Ctrl-C ends it",
        ),
    },
}
"""The commands of this package by purpose. Only the module of the one that is used is imported."""

_OF_OTHERS = "clusters, upkeep, rehearsal"  # what stages of other packages are listed with
_NO_LOG = logging.NullHandler()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        parser = _make_parser(_listed(given))
        if not given or given == ["help"]:
            parser.print_help()
            return 0
        if given[0] == "help":
            given = [*given[1:], "--help"]
        _check_words(parser, given)
        options = parser.parse_args(given)
    except UserError as problem:
        print(f"camtrap: {problem}", file=sys.stderr)
        raise SystemExit(problem.exit_code) from None  # as the parser itself does
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
    """The parser of every command, with all that they accept."""
    parser = _make_parser(_listed([]))
    for command in parser.commands.choices.values():
        command.complete()
    return parser


def _make_parser(listed: Mapping[str, Mapping[str, Command]]) -> _MainParser:
    """The parser of these commands, each of which is imported when it is used."""
    parser = _MainParser(
        prog="camtrap",
        description="From camera-trap images to species per camera on a feature layer, on a Dask cluster.",
        epilog="exit codes: 0 all done; 1 something failed, see the last lines; "
        "2 the command or a file is wrong; 3 a problem that may pass by itself: try again; 130 interrupted",
    )
    parser.add_argument("--version", action="version", version=f"camtrap-batch {__version__}")
    parser.listed = listed
    parser.commands = parser.add_subparsers(
        title="commands", metavar="COMMAND", required=True, parser_class=Parser
    )
    for commands in listed.values():
        for name, command in commands.items():
            below = parser.commands.add_parser(name)
            below.set_defaults(command=name)
            below.late = command.add
    return parser


def _listed(given: Sequence[str]) -> dict[str, dict[str, Command]]:
    """The commands by purpose; with stages of other packages, unless `given` begins with one of ours."""
    listed = {purpose: dict(commands) for purpose, commands in COMMANDS.items()}
    is_ours = any(given[:1] == [name] for commands in COMMANDS.values() for name in commands)
    if not is_ours and entry_points(group="camtrap_batch.stages"):
        from camtrap_batch.pipeline import STAGES  # a second of imports that few installations need

        for name in (name for name in STAGES if not STAGES.is_ours(name)):
            try:
                text = STAGES[name].help
            except UserError as problem:  # the other commands can still be used
                text = str(problem)
            listed[_OF_OTHERS][name] = Command("stages:add_stage", text)
    return listed


class _MainParser(Parser):
    """The parser of `camtrap`, whose help lists the commands by purpose."""

    commands: Commands
    listed: Mapping[str, Mapping[str, Command]]

    def format_help(self) -> str:
        width = max(len(name) for commands in self.listed.values() for name in commands)
        columns = shutil.get_terminal_size().columns
        fitted = partial(textwrap.fill, width=columns, subsequent_indent=" " * (width + 4))
        lines = [
            "usage: camtrap COMMAND ...        camtrap COMMAND --help says more about one",
            "",
            textwrap.fill(str(self.description), columns),
        ]
        for purpose, commands in self.listed.items():
            told = (fitted(f"  {name:{width}}  {command.help}") for name, command in commands.items())
            lines += ["", f"{purpose}:", *told]
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
        from camtrap_batch.monitor.display import JsonLines  # 0.3 s, of libraries that draw tables

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
