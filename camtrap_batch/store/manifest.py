"""The manifest: its usable rows, the findings in it, and the categories of the catalog it was made from."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.errors import InputError
from camtrap_batch.store.run import Run
from camtrap_batch.store.snapshots import Snapshot
from camtrap_batch.vocabulary import USABLE


def usable_rows(run: Run, columns: list[str]) -> pa.Table:
    """The manifest's rows that are classified, in its order; `columns` include status."""
    rows = run.table("manifest").to_table(columns=columns)
    return rows.filter(pc.is_in(rows["status"].cast(pa.string()), pa.array(USABLE)))


def categories_of(meta: dict[str, Any]) -> list[tuple[int, str]]:
    """The data set's categories, as a catalog snapshot keeps them."""
    return [(int(number), str(name)) for number, name in meta["categories"]]


def current_findings(store: Run) -> Snapshot | None:
    """The findings of the current manifest; None if they have not been made yet."""
    findings, manifest = store.current("findings"), store.current("manifest")
    if findings is None or manifest is None or findings.meta["manifest_plan"] != manifest.plan_id:
        return None
    return findings


def kind_counts(findings: Snapshot | None) -> dict[str, int]:
    """Findings by kind, in the order of `FINDING_KINDS`."""
    kinds: dict[str, Any] = findings.meta["kinds"] if findings else {}
    return {kind: int(n) for kind, n in kinds.items()}


def require_findings(store: Run) -> Snapshot:
    """The findings of the current manifest. Raises InputError if they have not been made yet."""
    findings = current_findings(store)
    if findings is None:
        raise InputError(
            f"{store.folder.url}: the table findings is not that of the current manifest; run validate first"
        )
    return findings
