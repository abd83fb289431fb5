"""What a command prints at the end of a job: images by status, accuracy, top species per camera, paths."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.table import Table as Grid

from camtrap_batch.events import count_wildlife
from camtrap_batch.job.publish import KEY
from camtrap_batch.model.info import read_card
from camtrap_batch.model.library import fetch_model, model_folder, read_metrics
from camtrap_batch.store.run import Run
from camtrap_batch.vocabulary import DEPLOYMENT_FINDINGS, FINDING_KINDS, STATUSES, plural

_MOST_LOCATIONS = 25


def summary(run: Run) -> Iterator[RenderableType]:
    """The parts of the summary, for a rich console; each leaves out what the run does not have."""
    yield from _statuses(run)
    yield from _findings(run)
    yield from _accuracy(run)
    yield from _locations(run)
    yield from _paths(run)


def _statuses(run: Run) -> Iterator[RenderableType]:
    manifest = run.current("manifest")
    if manifest is None:
        return
    grid = Grid(title="Images by status", title_justify="left", header_style="bold")
    grid.add_column("status", overflow="fold")
    grid.add_column("images", justify="right")
    grid.add_column("what it means", style="dim")
    for status, meaning in STATUSES.items():
        if manifest.counts.get(status):
            grid.add_row(status, f"{manifest.counts[status]:,}", meaning)
    grid.add_section()
    grid.add_row("all", f"{manifest.rows:,}", "one row per image in the manifest")
    yield grid


_MEANING = FINDING_KINDS | DEPLOYMENT_FINDINGS


def _findings(run: Run) -> Iterator[RenderableType]:
    findings = run.current("findings")
    if findings is None or not findings.rows:
        return
    grid = Grid(title="Findings", title_justify="left", header_style="bold")
    grid.add_column("kind", overflow="fold")
    grid.add_column("images", justify="right")
    grid.add_column("what it means", style="dim")
    for kind, n in findings.meta["kinds"].items():
        grid.add_row(kind, f"{n:,}", _MEANING[kind])
    yield grid


def _accuracy(run: Run) -> Iterator[RenderableType]:
    model = run.current("model")
    if model is None:
        return
    folder = model_folder(run, model.meta["model_id"])
    metrics, card = read_metrics(folder), read_card(fetch_model(folder))
    split_by = card.get("provenance", {}).get("split_by", "location")
    where = (
        "cameras never seen"
        if split_by == "location"
        else "random images (frames of one burst on both sides: optimistic)"
    )
    grid = Grid(title=f"Accuracy on {where}", title_justify="left", header_style="bold")
    for name in ("split", "images", "cameras", "accuracy", "balanced", "macro F1", "calibration error"):
        grid.add_column(name, justify="left" if name == "split" else "right")
    for split in ("valid", "test"):
        of_images = metrics.get(split)
        for name, judged in ((split, of_images), (f"{split}, by crop", (of_images or {}).get("by_crop"))):
            if judged is None:
                continue
            grid.add_row(
                name,
                f"{judged['n_images']:,}",
                f"{judged['n_locations']:,}",
                f"{judged['accuracy']:.3f}",
                f"{judged['balanced_accuracy']:.3f}",
                f"{judged['macro_f1']:.3f}",
                f"{judged['ece']:.3f}",
            )
    yield grid


def _locations(run: Run) -> Iterator[RenderableType]:
    if run.current("locations") is None:
        return
    columns = ["location", "n_images", "n_events", "richness", "events_by_label", "n_uncertain"]
    rows = run.table("locations").to_table(columns=columns).to_pylist()
    rows.sort(key=lambda row: (-row["n_events"], row["location"]))
    grid = Grid(title="Species per camera", title_justify="left", header_style="bold")
    for name in ("camera", "images", "events", "species", "most seen (events)", "uncertain"):
        is_text = name in ("camera", "most seen (events)")
        grid.add_column(name, justify="left" if is_text else "right", overflow="fold", no_wrap=not is_text)
    for row in rows[:_MOST_LOCATIONS]:
        most = ", ".join(f"{entry['label']} {entry['n']}" for entry in (row["events_by_label"] or [])[:3])
        grid.add_row(
            row["location"],
            f"{row['n_images']:,}",
            f"{row['n_events']:,}",
            f"{count_wildlife(row):,}",
            most,
            str(row["n_uncertain"]),
        )
    yield grid
    if len(rows) > _MOST_LOCATIONS:
        yield f"and {plural(len(rows) - _MOST_LOCATIONS, 'more camera')}, in the report"


def _paths(run: Run) -> Iterator[RenderableType]:
    if run.folder.exists("report/index.html"):
        yield f"report:      {run.folder.url}/report/index.html"
    if run.current("ledger") is not None:
        for job in run.job.by_target:
            what = "" if job.publish.key == KEY else "public "
            title = f"{what}{job.publish.title}:"
            yield f"{title:<12} {job.target_url}"
