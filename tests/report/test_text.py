from __future__ import annotations

import doctest
import importlib

import pytest


@pytest.mark.parametrize("name", ["text", "svg", "charts", "maps"])
def test_examples(name: str) -> None:
    result = doctest.testmod(importlib.import_module(f"camtrap_batch.report.{name}"))
    assert result.attempted
    assert not result.failed
