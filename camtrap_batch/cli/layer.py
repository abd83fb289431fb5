"""camtrap layer: create the portal layers that a job is pushed to, attach photos to those it reads."""

from __future__ import annotations

import argparse
import threading
from collections import Counter
from pathlib import Path
from typing import Any

from camtrap_batch.cli.options import job_argument, load_job
from camtrap_batch.cli.parser import Parser
from camtrap_batch.errors import Interrupted, StageError, UserError
from camtrap_batch.job.publish import KEY
from camtrap_batch.store.run import Run
from camtrap_batch.vocabulary import PEOPLE, UNCERTAIN, plural
from camtrap_batch.yamlfile import write_yaml

_SHOWN = 5


def add(parser: Parser) -> None:
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    create = actions.add_parser(
        "create", help="create the layers for which the job gives no URL, add to the others what they lack"
    )
    job_argument(create)
    create.set_defaults(call=_create)
    draw = actions.add_parser(
        "map", help="create or update a web map of the job's layers, with symbols by species and time"
    )
    job_argument(draw)
    draw.set_defaults(call=_map)
    attach = actions.add_parser("attach", help="attach photos to the features of cameras, each photo once")
    job_argument(attach)
    attach.add_argument(
        "--folder",
        metavar="DIR",
        help="holds a folder for each camera, named by its feature's object id, or by its location if the "
        "layer has a field for it (default: dataset.images of a job of format folder)",
    )
    attach.add_argument(
        "--layer",
        metavar="URL",
        help="layer to attach to (default: the feature layer that the job reads, otherwise publish.cameras)",
    )
    attach.add_argument(
        "--one-feature",
        action="store_true",
        help="attach all photos to the camera's own feature, instead of each but the first to a copy of it",
    )
    attach.set_defaults(call=_attach)


def _create(options: argparse.Namespace, stop: threading.Event) -> int:
    from camtrap_batch.stages.publish import empty_rows
    from camtrap_batch.targets.base import MakesLayers

    run = Run(load_job(options))
    block: dict[str, Any] = {}
    for its, target in _targets(run, MakesLayers, "layers are made for"):
        made, done = target.create(empty_rows(run.job.name), _labels(its))
        for line in done:
            print(line)
        if made:
            is_first = its.job.publish.key == KEY
            block |= made if is_first else {"public": made}
    if block:
        print("for the job file:")
        print(write_yaml({KEY: block}), end="")
    return 0


def _map(options: argparse.Namespace, stop: threading.Event) -> int:
    from camtrap_batch.targets.base import MakesMaps

    run = Run(load_job(options))
    for its, target in _targets(run, MakesMaps, "maps are made of"):
        for line in target.make_map(_labels(its)):
            print(line)
    return 0


def _targets(run: Run, able: Any, what: str) -> list[tuple[Run, Any]]:
    """Those of the job's targets that follow a protocol, as `targets_of` gives them. Raises UserError if none
    does."""
    from camtrap_batch.targets.base import TARGETS, targets_of

    found = [(its, target) for its, target in targets_of(run) if isinstance(target, able)]
    if not found:
        makers = [kind.section.form for kind in TARGETS.values() if issubclass(kind, able)]
        raise UserError(
            f"publish.target: is {run.job.publish.target}; {what} `target: {' or '.join(makers)}`"
        )
    return found


def _attach(options: argparse.Namespace, stop: threading.Event) -> int:
    from camtrap_batch.catalog.feature_layer import FeatureLayerDataset
    from camtrap_batch.portal import Portal, Service, connect
    from camtrap_batch.survey.places import hides_places
    from camtrap_batch.targets.arcgis import Attacher, cameras_layer, photos_in
    from camtrap_batch.targets.arcgis.items import resolve_layers
    from camtrap_batch.targets.arcgis.section import ITEM
    from camtrap_batch.targets.public import bare

    job = load_job(options)
    dataset = job.dataset
    cameras_url, cameras_field = cameras_layer(job.publish)
    is_layer = isinstance(dataset, FeatureLayerDataset)
    url = options.layer or (dataset.metadata if is_layer else cameras_url)
    if url is None:
        raise UserError(
            "layer attach: no layer to attach to: give --layer URL, or publish.cameras in the job file"
        )
    folder = options.folder or (dataset.images if dataset.metadata is None else None)
    if folder is None:
        raise UserError("layer attach: no photos: give --folder DIR, with a folder for each camera")
    if isinstance(dataset, FeatureLayerDataset) and url == dataset.metadata:
        portal, field = Portal.of(dataset.layer, "dataset.layer"), dataset.layer.location_field
    else:
        portal = Portal.of(job.publish, "publish")
        field = cameras_field if url == cameras_url else None
    given = url
    service = Service(connect(portal, *([] if ITEM.fullmatch(url) else [url])))
    url = resolve_layers(service, {"cameras": url})["cameras"]
    cameras = photos_in(Path(folder))
    # Any other layer may be the public one, under another name.
    may_be_public = job.publish.second is not None and given not in (cameras_url, dataset.metadata)
    if hides_places(job) or may_be_public:
        cameras = {name: [bare(photo) for photo in photos] for name, photos in cameras.items()}
    attacher = Attacher(service, url, location_field=field, one_feature=options.one_feature, stop=stop)
    done = attacher.attach(cameras)
    print(
        f"{url}: {plural(done.attached, 'photo')} attached, "
        f"{plural(done.there, 'was', 'were')} there already, "
        f"{plural(done.copies, 'feature')} added"
    )
    if done.left:
        raise Interrupted(
            f"layer attach: interrupted with {plural(done.left, 'photo')} left; the same command goes on"
        )
    if done.failed:
        some = "; ".join(f"{photo}: {why}" for photo, why in list(done.failed.items())[:_SHOWN])
        failed = plural(len(done.failed), "photo is", "photos are")
        raise StageError(f"layer attach: {failed} not attached: {some}")
    return 0


def _labels(run: Run) -> list[str]:
    """Labels of the events, most frequent first, then the model's; for the public without people."""
    events = run.current("events")
    counted: Counter[str] = Counter()
    if events is not None:
        counted.update(run.table("events").to_table(columns=["label"])["label"].to_pylist())
    predictions = run.current("predictions")
    classes = predictions.meta.get("classes", []) if predictions is not None else []
    labels = [*(label for label, _ in counted.most_common()), *classes]
    if run.job.publish.is_public:
        labels = [label for label in labels if label.lower() not in PEOPLE]
    return list(dict.fromkeys([*labels, UNCERTAIN])) if labels else []
