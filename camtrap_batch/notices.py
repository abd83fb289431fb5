"""What deserves a line although the work goes on, such as a damaged file that is ignored.

A notice is a warning of the logger `camtrap_batch`: the command prints it on standard error, a worker in its
own log, and a program that uses the package decides for itself. Each line is reported once per process.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

LOGGER = logging.getLogger("camtrap_batch")

_MOST = 5
_told: set[str] = set()


def say(text: str) -> None:
    """Report a line to people, once."""
    if text not in _told:
        _told.add(text)
        LOGGER.warning("%s", text)


def say_all(texts: Sequence[str]) -> None:
    """Report the first few of many lines of a kind, and how many more there are."""
    for text in texts[:_MOST]:
        say(text)
    if len(texts) > _MOST:
        say(f"... and {len(texts) - _MOST:,} more")
