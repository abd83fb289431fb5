"""camtrap review: a page on which people check sequences of photos, the most useful first."""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import threading
from typing import TYPE_CHECKING

from camtrap_batch.cli.options import job_argument, load_job, user_name, whole_number
from camtrap_batch.cli.parser import Parser
from camtrap_batch.errors import UserError
from camtrap_batch.job import Job
from camtrap_batch.store.run import Run
from camtrap_batch.vocabulary import plural

if TYPE_CHECKING:
    from camtrap_batch.review.items import Wanted
    from camtrap_batch.review.opening import Ordering

_POLL_S = 0.2
_STATES = ("open", "done", "uncertain", "disagree", "disputed")


def add(parser: Parser) -> None:
    from camtrap_batch.review.order import HELP, ORDERS

    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "orders:\n" + "\n".join(f"  {name:11} {text}" for name, text in HELP.items())
    job_argument(parser)
    parser.add_argument(
        "--order", choices=ORDERS, default="useful", help="what to look at first (default: useful)"
    )
    parser.add_argument(
        "--n", type=whole_number, metavar="N", help="the first N of that order (default: all)"
    )
    parser.add_argument(
        "--until",
        type=float,
        metavar="X",
        help="as many as needed until fewer than X wrong species-at-camera records are expected",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="seed of the random order; another seed draws another sample (default: 0)",
    )
    parser.add_argument("--label", help="only sequences with this label")
    parser.add_argument("--camera", help="only sequences of this camera location")
    parser.add_argument(
        "--least", type=_part, metavar="P", help="only sequences with at least this confidence"
    )
    parser.add_argument("--most", type=_part, metavar="P", help="only sequences with at most this confidence")
    parser.add_argument("--from", dest="first", type=_date, metavar="DATE", help="taken on this day or later")
    parser.add_argument("--to", dest="last", type=_date, metavar="DATE", help="taken on this day or before")
    parser.add_argument("--light", choices=("day", "night"), help="taken by day, or in infrared light")
    parser.add_argument(
        "--which",
        choices=_STATES,
        help="not looked at yet, looked at, uncertain, at odds with the metadata, or disputed among people",
    )
    parser.add_argument("--who", help="who reviews (default: you); can be changed on the page")
    parser.add_argument(
        "--people", type=whole_number, default=1, metavar="N", help="links to print, one for each browser"
    )
    parser.add_argument("--port", type=int, default=0, help="default: a free one")
    parser.add_argument(
        "--address", default="127.0.0.1", help="default: this machine only; any other needs a certificate"
    )
    parser.add_argument("--tls-cert", metavar="FILE", help="certificate, to serve over TLS")
    parser.add_argument("--tls-key", metavar="FILE", help="its key")
    parser.add_argument("--out", metavar="FILE", help="write the list as .csv or .parquet, and serve nothing")
    parser.set_defaults(call=_review)


def _review(options: argparse.Namespace, stop: threading.Event) -> int:
    from camtrap_batch.review.items import Wanted

    job = load_job(options)
    wanted = Wanted(
        options.label,
        options.camera,
        options.least,
        options.most,
        options.first,
        options.last,
        {"day": False, "night": True}.get(options.light),
        options.which,
    )
    if options.out is not None:
        return _write(job, options, wanted)
    run = Run(job)
    asyncio.run(_serve(run, options, wanted, stop))
    from camtrap_batch.store.corrections import fold

    snapshot = fold(run)
    if snapshot is not None:
        print(f"corrections: {snapshot.rows:,}; `camtrap merge` makes them count")
    return 0


def _write(job: Job, options: argparse.Namespace, wanted: Wanted) -> int:

    from camtrap_batch.review.items import Items
    from camtrap_batch.review.server import listing
    from camtrap_batch.store.outfile import WRITERS, write_out
    from camtrap_batch.store.outpath import check_file
    from camtrap_batch.store.outputs import Outputs

    out = check_file(options.out, job, tuple(WRITERS))
    run = Run(job)
    outputs = Outputs(run.folder)
    table = listing(Items(run), _ordering(options), wanted)
    outputs.keep(out)
    write_out(table, out)
    outputs.record(out)
    print(f"{plural(table.num_rows, 'sequence')} written to {out}")
    return 0


def _ordering(options: argparse.Namespace) -> Ordering:
    from camtrap_batch.review.opening import Ordering

    return Ordering(options.order, options.n, options.seed, options.until)


async def _serve(run: Run, options: argparse.Namespace, wanted: Wanted, stop: threading.Event) -> None:
    from camtrap_batch.pipeline.images import image_root
    from camtrap_batch.review.server import Reviewing, serve

    if (options.tls_cert is None) != (options.tls_key is None):
        raise UserError("--tls-cert and --tls-key: give both, or neither")
    reviewing = Reviewing(
        run,
        image_root(run.job),
        _ordering(options),
        wanted,
        who=options.who or user_name(),
    )
    certificate = (options.tls_cert, options.tls_key) if options.tls_cert else None
    served = serve(
        reviewing, address=options.address, port=options.port, people=options.people, certificate=certificate
    )
    print(
        f"{plural(len(reviewing.opening), 'sequence')}. Open each link in one browser; Ctrl-C ends:",
        flush=True,
    )
    for link in served.links:
        print(f"  {link}", flush=True)
    opening = reviewing.opening
    while not stop.is_set():
        await asyncio.sleep(_POLL_S)
        if opening.is_whole:
            _ = opening.items  # raises what reading it raised
    served.server.stop()
    await served.server.close_all_connections()
    await asyncio.to_thread(opening.close)


def _part(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text}: should be between 0 and 1")
    return value


def _date(text: str) -> dt.date:
    try:
        return dt.date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: should be a date such as 2026-11-30") from None
