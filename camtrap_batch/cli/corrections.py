"""camtrap corrections: labels that people gave elsewhere, read into a run."""

from __future__ import annotations

import argparse
import csv
import datetime as dt
import hashlib
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from camtrap_batch.cli.options import job_argument, load_job, user_name
from camtrap_batch.cli.parser import Parser
from camtrap_batch.store.run import Run
from camtrap_batch.vocabulary import plural

if TYPE_CHECKING:
    from camtrap_batch.review.given import Given

_SHOWN = 10


def add(parser: Parser) -> None:
    job_argument(parser)
    parser.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help="what was exported there; your own table has columns label and image_id, file_name or event",
    )
    parser.add_argument("--who", help="who gave them, if the file does not say (default: you)")
    parser.add_argument(
        "--unmatched", metavar="FILE", help="write all rows that match no image to this .csv file"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be recorded, write nothing")
    parser.set_defaults(call=_corrections)


def _corrections(options: argparse.Namespace, stop: threading.Event) -> int:
    from camtrap_batch.review.given import read_given
    from camtrap_batch.review.matching import match
    from camtrap_batch.store.corrections import fold, record
    from camtrap_batch.store.outpath import check_file

    job = load_job(options)
    run = Run(job)
    known, empty = _labels(run)
    out = None if options.unmatched is None else check_file(options.unmatched, job, (".csv",))
    read = [(Path(name), *read_given(Path(name), order=job.dataset.dates)) for name in options.files]
    recorded = 0
    unmatched: list[Given] = []
    for path, kind, rows in read:
        matched = match(
            run,
            rows,
            known_labels=known,
            empty=empty,
            who=options.who or user_name(),
            when=dt.datetime.fromtimestamp(path.stat().st_mtime, dt.UTC),
            source=f"{kind}:{_content(path)}",
        )
        if not options.dry_run:
            recorded += record(run, matched.corrections)
        images = {image for correction in matched.corrections for image in correction.images}
        print(
            f"{path} ({kind}): {plural(len(rows), 'label')}; {len(matched.corrections):,} "
            f"{'would be recorded' if options.dry_run else 'recorded'}, of {plural(len(images), 'image')}; "
            f"{plural(matched.unchanged, 'repeats', 'repeat')} what is recorded; "
            f"{plural(len(matched.unmatched), 'matches', 'match')} no image"
        )
        if not rows:
            print("  it holds no labels given by people")
        for row in matched.unmatched[:_SHOWN]:
            named = row.event if row.event is not None else " or ".join(row.images[0])
            print(f"  no such image: {named!r} ({row.where})")
        if len(matched.unmatched) > _SHOWN:
            print(f"  ... and {len(matched.unmatched) - _SHOWN:,} more; --unmatched FILE.csv lists all")
        unknown = matched.unknown_labels.most_common(_SHOWN)
        more = len(matched.unknown_labels) - len(unknown)
        if known:
            for label, number in unknown:
                times = "once" if number == 1 else f"{number:,} times"
                print(f"  {label!r} is not a class or category of the data set: taken as it is, {times}")
            if more:
                print(f"  ... and {more:,} more such labels")
        elif unknown:
            listed = ", ".join(f"{label!r} ({number:,})" for label, number in unknown)
            listed += f" and {more:,} more" if more else ""
            print(f"  the data set has no classes: labels are taken as they are (rows): {listed}")
        if matched.at_odds:
            on = plural(len(matched.at_odds), "image")
            print(f"  on {on} people disagree: the later label counts, both are kept")
            for image, (who, label) in list(matched.at_odds.items())[:_SHOWN]:
                print(f"    {image}: {who} said {label}")
            if len(matched.at_odds) > _SHOWN:
                print("    ... and more: camtrap review --which disputed")
        unmatched += matched.unmatched
    if out is not None:
        _write_unmatched(out, unmatched)
        print(f"rows that match no image: {len(unmatched):,}, written to {out}")
    if not options.dry_run:
        fold(run)
        run.log("corrections", files=len(read), recorded=recorded)
        if recorded:
            print("`camtrap merge` makes them count")
    return 0


def _write_unmatched(out: Path, rows: Sequence[Given]) -> None:
    """The rows of files that match no image: where they stand, what they name, their label."""
    with out.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("where", "named", "label"))
        for row in rows:
            named = row.event if row.event is not None else " or ".join(row.images[0])
            writer.writerow((row.where, named, row.label))


def _labels(run: Run) -> tuple[list[str], str]:
    """The labels that the run knows, and the one that means that there is no animal."""
    from camtrap_batch.selection.classes import choose_classes
    from camtrap_batch.store.manifest import categories_of
    from camtrap_batch.vocabulary import EMPTY

    catalog = run.snapshot("catalog")
    categories = categories_of(catalog.meta)
    predictions = run.current("predictions")
    classes = list(predictions.meta.get("classes", [])) if predictions else []
    empty = choose_classes(run.job, categories).empty if categories else None
    return [*(name for _, name in categories), *classes], empty or EMPTY


def _content(path: Path) -> str:
    """Identifies the content of a file, or a folder of files: 12 hexadecimal digits."""
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*.csv")) if path.is_dir() else [path]:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]
