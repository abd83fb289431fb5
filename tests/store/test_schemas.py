"""The table reference says what the schemas say."""

from __future__ import annotations

from pathlib import Path

import pytest

from camtrap_batch.store.schemas import SCHEMAS, describe

REFERENCE = Path(__file__).resolve().parents[2] / "docs" / "tables.md"


@pytest.mark.parametrize("table", SCHEMAS)
def test_reference_lists_every_column(table: str) -> None:
    section = REFERENCE.read_text().split(f"\n## {table}\n")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    assert rows == [f"| `{name}` | {kind} | {text} |" for name, kind, text in describe(table)]
