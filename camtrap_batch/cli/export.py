"""camtrap export: a run's results as files that other programs read."""

from __future__ import annotations

import argparse
import threading
from collections.abc import Sequence

from camtrap_batch.cli.options import add_option, job_argument, load_job, whole_number
from camtrap_batch.cli.parser import Parser
from camtrap_batch.errors import UserError
from camtrap_batch.exports import EXPORTS, ExportInput, Images, write_export
from camtrap_batch.store.outputs import Outputs
from camtrap_batch.store.run import Run


def add(parser: Parser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    job_argument(parser)
    parser.add_argument("--to", required=True, metavar="FORMAT", help="what to write, see below")
    parser.add_argument("--out", required=True, metavar="PATH", help="where to write it")
    parser.add_argument(
        "--snapshot",
        type=whole_number,
        metavar="N",
        help="an earlier result of merge, as camtrap status lists them (default: the current predictions)",
    )
    parser.add_argument(
        "--exact-places",
        action="store_true",
        help="include exact positions of sensitive species (publish.sensitive): for those who may know them",
    )
    parser.set_defaults(call=_export)
    parser.late = _add_options


def _add_options(parser: Parser, arguments: Sequence[str]) -> None:
    """Add the options of the export that `arguments` name; for the help, list those of all exports."""
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    finder.add_argument("--to")
    finder.add_argument("--help", "-h", action="store_true")
    try:
        found, _ = finder.parse_known_args(list(arguments))
    except argparse.ArgumentError:
        return  # such as --to without a value, which the parser itself reports
    try:
        if found.help:
            parser.epilog = _describe()
        if found.to in EXPORTS:
            group = parser.add_argument_group(f"options of {found.to}")
            for option in EXPORTS[found.to].options:
                add_option(group, option)
    except UserError as problem:
        parser.error(str(problem))


def _describe() -> str:
    width = max(map(len, EXPORTS))
    lines = ["formats:"]
    for name in EXPORTS:
        try:
            export = EXPORTS[name]
        except UserError as problem:  # in another package: the other exports can still be used
            lines.append(f"  {name:{width}}  {problem}")
            continue
        lines.append(f"  {name:{width}}  {export.help}; --out: {export.out}")
        lines += [
            f"  {'':{width}}    --{option.name} {option.metavar or ''}".rstrip() for option in export.options
        ]
    lines.append("camtrap export --to FORMAT --help explains the options of one format.")
    return "\n".join(lines)


def _export(options: argparse.Namespace, stop: threading.Event) -> int:
    export = EXPORTS.choose(options.to, "--to")
    job = load_job(options)
    path = export.check(options.out, job)
    run = Run(job)
    outputs = Outputs(run.folder)
    source = ExportInput.find(run, options.snapshot)
    chosen = {option.name: getattr(options, option.name.replace("-", "_")) for option in export.options}
    images = Images(run, source, stop=stop, exact_places=options.exact_places)
    written = write_export(export, images, path, chosen, outputs)
    print(
        "\n".join([*written.lines(), *(images.shown.notes if images.has_merged and images.sensitive else ())])
    )
    return 0
