"""Run folders of which everything before `merge` is done, without an image or a network."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from camtrap_batch import Job, Run, open_run
from camtrap_batch.cli import main
from camtrap_batch.engine.base import GivenExecutor
from camtrap_batch.engine.inline import InlineExecutor
from camtrap_batch.model.info import ModelInfo
from camtrap_batch.pipeline import Context, StageResult, run_one
from camtrap_batch.store.schemas import SCHEMAS
from camtrap_batch.store.shards import Plan, Shard
from camtrap_batch.store.tables import commit_plan, finish_shard
from camtrap_batch.vocabulary import USABLE

Row = dict[str, Any]


def write_run(folder: Path, rows: list[Row], **settings: Any) -> Path:
    """A job file in `folder`, with catalog and manifest of these images; returns the job's path.

    A row may have any column of the two, and `truth`: the label that it is annotated with, or several with
    their counts. `settings` are sections of the job, and `categories`: those of the data set, id and name.
    """
    categories = settings.pop("categories", [])
    (folder / "images").mkdir(parents=True, exist_ok=True)
    job = folder / "job.yaml"
    dataset = {"format": "cct", "metadata": "none.json", "images": "images", **settings.pop("dataset", {})}
    content = {"name": "run", "output": str(folder), "dataset": dataset, **settings}
    job.write_text(yaml.safe_dump(content, sort_keys=False))
    run = open_run(job)
    whole = [{"file_name": f"{row['image_id']}.jpg", "status": "ok", **row} for row in rows]
    for row in whole:
        truth = row.pop("truth", None)
        told = truth if isinstance(truth, dict) else {} if truth is None else {truth: 1}
        row["labels"] = [{"category_id": 1, "name": name, "count": count} for name, count in told.items()]
    commit(run, "catalog", "catalog", whole, {}, categories=categories)
    commit(run, "validate", "manifest", whole, {"catalog": run.snapshot("catalog").number})
    return job


def predict(
    job: Path, probs: dict[str, dict[str, float] | None], model: str = "a" * 16, **columns: Any
) -> None:
    """A model, and its predictions: image id -> label -> probability, in float32 as `infer` does.

    `columns`: more of the table's, image id -> value.
    """
    run = open_run(job)
    classes = sorted({label for entry in probs.values() for label in entry or ()} | {"empty"})
    numbers = tuple((number,) for number in range(len(classes)))
    info = ModelInfo(model, "resnet18", tuple(classes), numbers, 64, (0.5,) * 3, (0.2,) * 3, 1.0)
    run.folder.write(f"models/{model}/model.json", info.to_json().encode())
    rows = []
    for image in run.table("manifest").to_table(columns=["image_id", "status"]).to_pylist():
        if image["status"] not in USABLE:
            continue
        entry = probs[image["image_id"]]
        top = sorted((entry or {}).items(), key=lambda item: (-item[1], item[0]))[:5]
        rows.append(
            {
                "image_id": image["image_id"],
                "model_id": model,
                "label": top[0][0] if top else None,
                "confidence": top[0][1] if top else None,
                "top5": [{"label": label, "p": p} for label, p in top] if top else None,
                "status": "ok" if top else "unreadable",
                **{name: values.get(image["image_id"]) for name, values in columns.items()},
            }
        )
    inputs = {"manifest": run.snapshot("manifest").number, "model": model}
    commit(run, "infer", "predictions", rows, inputs)


def commit(run: Run, stage: str, name: str, rows: list[Row], inputs: dict[str, Any], **meta: Any) -> None:
    """Write a table as a stage of one shard would."""
    schema = SCHEMAS[name]
    table = pa.Table.from_pylist([{field: row.get(field) for field in schema.names} for row in rows], schema)
    plan = Plan.make(stage, [Shard(f"{stage}-{time.monotonic_ns()}", 0, len(rows))], inputs)
    plan.freeze(run.folder)
    done = finish_shard(
        run.folder,
        (stage, plan.id),
        plan.shards[0],
        {name: table},
        counts={},
        seconds={},
        started=time.monotonic(),
    )
    commit_plan(
        run.folder, plan, [done], (name,), inputs=inputs, meta={"categories": [], "notes": {}, **meta}
    )


def run_on_driver(
    job: Path, stage: str, *assignments: str, dry_run: bool = False, **options: Any
) -> StageResult:
    """Do a stage that needs no cluster; `options` are its own."""
    loaded = Job.load(job, list(assignments))
    nobody: Any = None
    return run_one(
        Context(loaded, Run(loaded), GivenExecutor(nobody), dry_run=dry_run, options=options), stage
    )


def answer_from_results(folder: Path, results: str, **sections: Any) -> Path:
    """A job on `folder`/photos/CAMERA/... whose answer is a detector's results, done up to `merge`."""
    content = {
        "name": "run",
        "output": "run",
        "dataset": {"format": "folder", "images": "photos", "location": {"level": 0}},
        "detect": {"results": results},
        "infer": {"model": "none"},
        **sections,
    }
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(content))
    up_to_merge(path)
    return path


def up_to_merge(job: Path) -> None:
    for stage in ("catalog", "validate", "detect", "infer", "merge"):
        assert main([stage, str(job), "--cluster", "inline", "--quiet"]) == 0


class InlineJob:
    """A job file, whose stages run in this process."""

    def __init__(self, folder: Path, **content: Any) -> None:
        self.folder, self.file = folder, folder / "job.yaml"
        self.content: dict[str, Any] = {"name": "run", "output": ".", **content}
        self.set()

    def set(self, **sections: Any) -> None:
        """Give the job other sections."""
        self.content |= sections
        self.file.write_text(yaml.safe_dump(self.content))

    def do(self, *stages: str, dry_run: bool = False) -> StageResult:
        """Do stages; returns the result of the last one."""
        for stage in stages:
            job = Job.load(self.file)
            context = Context(job, Run(job), GivenExecutor(InlineExecutor()), dry_run=dry_run)
            result = run_one(context, stage)
        return result

    @property
    def run(self) -> Run:
        return open_run(self.file)

    def rows(self, name: str) -> list[Row]:
        return table(self.file, name)


def table(job: Path, name: str, snapshot: int | None = None) -> list[Row]:
    rows: list[Row] = open_run(job).table(name, snapshot).to_table().to_pylist()
    return rows
