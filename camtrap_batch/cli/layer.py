"""camtrap layer: the layers of a portal that a job is pushed to."""

from __future__ import annotations

import argparse
import threading
from collections import Counter

from camtrap_batch.cli.options import Commands, job_argument
from camtrap_batch.errors import UserError
from camtrap_batch.job import ARCGIS, Job
from camtrap_batch.store.run import Run
from camtrap_batch.store.schemas import UNCERTAIN


def add(commands: Commands) -> None:
    """Add the commands."""
    layer = commands.add_parser("layer", help="make the layers of a portal that a job is pushed to")
    actions = layer.add_subparsers(title="actions", metavar="ACTION", required=True)
    create = actions.add_parser(
        "create", help="make the layers that the job names no URL for, add to the others what they lack"
    )
    job_argument(create)
    create.set_defaults(call=_create)


def _create(options: argparse.Namespace, stop: threading.Event) -> int:
    from camtrap_batch.layers.arcgis import create_layers
    from camtrap_batch.portal import Service, connect
    from camtrap_batch.stages.publish import empty_rows, layer_urls, portal_of

    job = Job.load(options.job, options.assignments)
    if job.publish.target != ARCGIS:
        raise UserError(f"publish.target: is {job.publish.target}; layers are made for `target: arcgis`")
    urls = layer_urls(job)
    made, done = create_layers(
        Service(connect(portal_of(job))),
        job.name,
        empty_rows(job.name),
        _labels(Run(job)),
        urls,
        job.publish.fields,
    )
    for line in done:
        print(line)
    if made != urls:
        print("for the job file:")
        print("publish:")
        print("  target: arcgis")
        print(f"  portal: {job.publish.portal}")
        for name, url in made.items():
            print(f"  {name}: {url}")
    return 0


def _labels(run: Run) -> list[str]:
    """Labels of the events there are, most frequent first, then the model's."""
    events = run.current("events")
    counted: Counter[str] = Counter()
    if events is not None:
        counted.update(run.table("events").to_table(columns=["label"])["label"].to_pylist())
    predictions = run.current("predictions")
    classes = predictions.meta.get("classes", []) if predictions is not None else []
    labels = [label for label, _ in counted.most_common()]
    return list(dict.fromkeys([*labels, *classes, UNCERTAIN])) if labels or classes else []
