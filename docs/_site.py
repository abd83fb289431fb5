"""What mkdocs calls while it builds the site: pages made of the code, and pages that lie outside docs/.

Reference pages are made here and never committed, so that they can't differ from what the commands do.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from camtrap_batch.catalog.base import READERS
from camtrap_batch.cli import make_parser
from camtrap_batch.cluster import KINDS
from camtrap_batch.exports import EXPORTS
from camtrap_batch.job import Job
from camtrap_batch.monitor.counters import COUNTERS
from camtrap_batch.targets.base import TARGETS
from camtrap_batch.vocabulary import DEPLOYMENT_FINDINGS, FINDING_KINDS, Status
from camtrap_batch.yamlfile import Section, reference

ROOT = Path(__file__).parent.parent
OUTSIDE = {
    "cluster/README.md": "reference/clusters.md",
    "benchmarks/RESULTS.md": "reference/results.md",
    "ARCHITECTURE.md": "explanation/architecture.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
"""File of the repository -> page that shows it."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are no files of docs/."""
    made = {
        "reference/commands.md": commands(),
        "reference/job.md": job_keys(),
        "reference/cluster_file.md": cluster_keys(),
        "reference/statuses.md": statuses(),
        "reference/metrics.md": metrics(),
        "reference/formats.md": formats(),
        "reference/jobs.md": example_jobs(),
    }
    outside = {page: (ROOT / path).read_text() for path, page in OUTSIDE.items()}
    for uri, content in {**made, **outside}.items():
        files.append(File.generated(config, uri, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Let links to files of the repository lead to the pages that show them."""
    own = next((path for path, uri in OUTSIDE.items() if uri == page.file.src_uri), None)
    folder = posixpath.dirname(own or f"docs/{page.file.src_uri}")

    def pointed(found: re.Match[str]) -> str:
        path, anchor = found[1], found[2] or ""
        inside = posixpath.normpath(posixpath.join(folder, path))
        if inside in OUTSIDE:
            target = OUTSIDE[inside]
        elif own is not None and inside.startswith("docs/"):
            target = inside.removeprefix("docs/")
        else:
            return found[0]
        return f"]({posixpath.relpath(target, posixpath.dirname(page.file.src_uri) or '.')}{anchor})"

    return re.sub(r"\]\(([^)#:\s]+\.md)(#[^)\s]*)?\)", pointed, markdown)


def commands() -> str:
    """The help of every command, as it prints it."""
    parser = make_parser()
    lines = ["# Commands", "", "What each command prints with `--help`.", "", "```text"]
    lines += [parser.format_help().rstrip(), "```", ""]
    for name, command in parser.commands.choices.items():
        lines += [f"## camtrap {name}", "", "```text", command.format_help().rstrip(), "```", ""]
        for action in command._actions:
            if not isinstance(action.choices, dict):
                continue
            for below, part in action.choices.items():
                title = f"camtrap {name} {below}"
                lines += [f"### {title}", "", "```text", part.format_help().rstrip(), "```", ""]
    return "\n".join(lines)


def job_keys() -> str:
    """Every key of a job file."""
    text = (
        "A job file says what to process. Every path in it is relative to the job file. Unknown keys are "
        "refused, with the nearest known one; `--set a.b=value` overrides a key on the command line.\n"
    )
    return f"# Keys of the job file\n\n{text}\n" + _keys(Job)


def cluster_keys() -> str:
    """Every key of the cluster files, by kind."""
    lines = [
        "# Keys of the cluster file",
        "",
        "A cluster file says where to run: see [where a job runs](clusters.md).",
        "",
    ]
    for kind, section in KINDS.items():
        lines += [f"## kind: {kind}", "", _table(("key", "default", ""), _rows(reference(section))), ""]
    return "\n".join(lines)


def statuses() -> str:
    """Statuses of images, and kinds of findings."""
    rows = [
        (
            f"`{status.value}`",
            status.meaning,
            "yes" if status.is_usable else "",
            "yes" if status.is_retried else "",
        )
        for status in Status
    ]
    finding = [(f"`{kind}`", meaning) for kind, meaning in FINDING_KINDS.items()]
    deployment = [(f"`{kind}`", meaning) for kind, meaning in DEPLOYMENT_FINDINGS.items()]
    return "\n".join(
        [
            "# Statuses and findings",
            "",
            "Every row of the table `manifest` has a status.",
            "",
            _table(("status", "meaning", "trained on, classified", "`--retry` takes it"), rows),
            "",
            "A file may be sound and yet something about it wrong: a finding.",
            "",
            _table(("finding about an image", "meaning"), finding),
            "",
            _table(("finding about a deployment", "meaning"), deployment),
            "",
        ]
    )


def metrics() -> str:
    """What Prometheus can read."""
    rows = [
        (f"`{name}_total`", text, ", ".join(f"`{label}`" for label in labels))
        for name, (text, labels) in COUNTERS.items()
    ]
    return "\n".join(
        [
            "# Metrics",
            "",
            "Counters that workers and the scheduler serve at `/metrics`, beside Dask's own; sum those of "
            "the workers or those of the scheduler, not both. See [watching a job](../monitoring.md).",
            "",
            _table(("counter", "", "labels"), rows),
            "",
        ]
    )


def formats() -> str:
    """What is read, written and pushed to."""
    groups = (
        ("Metadata that is read: `dataset.format`", READERS),
        ("Exports: `camtrap export --to`", EXPORTS),
        ("Targets: `publish.target`", TARGETS),
    )
    lines = ["# Formats", ""]
    for title, registry in groups:
        rows = [(f"`{name}`", str(variant.help)) for name, variant in registry.items()]
        lines += [f"## {title}", "", _table(("name", ""), rows), ""]
    return "\n".join(lines)


def example_jobs() -> str:
    """The job files of the repository."""
    lines = ["# Job files that explain themselves", ""]
    for path in sorted((ROOT / "jobs").glob("*.yaml")):
        lines += [f"## {path.name}", "", "```yaml", path.read_text().rstrip(), "```", ""]
    return "\n".join(lines)


def _keys(model: type[Section]) -> str:
    groups: dict[str, list[tuple[str, str, str]]] = {}
    for row in reference(model):
        section, dot, _ = row[0].partition(".")
        groups.setdefault(section if dot else "At the top", []).append(row)
    parts = (
        f"## {section}\n\n{_table(('key', 'default', ''), _rows(rows))}" for section, rows in groups.items()
    )
    return "\n\n".join(parts) + "\n"


def _rows(rows: Iterable[tuple[str, str, str]]) -> list[tuple[str, ...]]:
    return [(f"`{key}`", f"`{default}`" if default else "", text) for key, default, text in rows]


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    return "\n".join([line(head), "|" + "---|" * len(head), *map(line, rows)])
