"""scipy, which the package's core does not require: workers do not need its 140 MB."""

from __future__ import annotations

from functools import cache
from typing import Any

from camtrap_batch.errors import MissingExtra


@cache
def scipy() -> Any:
    """The package; its parts are loaded as they are used. Raises MissingExtra if it is not installed."""
    try:
        import scipy as package
    except ImportError:
        raise MissingExtra("survey", "estimating occupancy, activity and richness") from None
    return package
