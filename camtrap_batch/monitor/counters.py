"""Receipts as Prometheus counters, with the same names on workers and on the scheduler.

A worker counts what it did itself; the scheduler counts what drivers report, whoever did it. Sum one or the
other, not both.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # this module is sent to the scheduler, which may have nothing else of the package
    from camtrap_batch.store.shards import Receipt

COUNTERS = {
    "camtrap_images": ("Images done, by stage and status", ("stage", "status")),
    "camtrap_bytes": ("Bytes of the tables that shards wrote", ("stage",)),
    "camtrap_seconds": ("Seconds that shards took, by phase; total is their wall-clock", ("stage", "phase")),
    "camtrap_shards": ("Shards done, lost with their worker, halved, erred, failed", ("stage", "result")),
}
"""Name (without `_total`) -> help, labels."""


class Totals:
    """Counters: name -> label values -> number."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers: dict[str, dict[tuple[str, ...], float]] = {name: {} for name in COUNTERS}

    def add(self, name: str, labels: tuple[str, ...], number: float) -> None:
        with self._lock:
            found = self._numbers[name]
            found[labels] = found.get(labels, 0) + number

    def add_receipt(self, receipt: Receipt) -> None:
        """Count a shard that is done."""
        stage = receipt.stage
        # If a stage has no statuses, all of its rows are done.
        for status, rows in (receipt.counts or {"ok": receipt.rows}).items():
            self.add("camtrap_images", (stage, status), rows)
        for phase, seconds in receipt.seconds.items():
            self.add("camtrap_seconds", (stage, phase), seconds)
        self.add("camtrap_bytes", (stage,), sum(file.bytes for file in receipt.files))
        self.add("camtrap_shards", (stage, "done"), 1)

    def items(self) -> list[tuple[str, list[str], float]]:
        """Name, label values and number of each counter, as JSON can hold them."""
        with self._lock:
            return [
                (name, list(labels), number)
                for name, found in self._numbers.items()
                for labels, number in found.items()
            ]

    def collect(self) -> Iterator[Any]:
        """The counters in the form that prometheus_client expects of a collector."""
        from prometheus_client.core import CounterMetricFamily

        items = self.items()
        for name, (text, label_names) in COUNTERS.items():
            family = CounterMetricFamily(name, text, labels=label_names)
            for other, labels, number in items:
                if other == name:
                    family.add_metric(labels, number)
            yield family


def gauges(
    values: Mapping[str, tuple[str, tuple[str, ...], Iterable[tuple[list[str], float]]]],
) -> Iterator[Any]:
    """Gauges from name -> (help, labels, [(label values, number)])."""
    from prometheus_client.core import GaugeMetricFamily

    for name, (text, label_names, numbers) in values.items():
        family = GaugeMetricFamily(name, text, labels=label_names)
        for labels, number in numbers:
            family.add_metric(labels, number)
        yield family


_here: Totals | None = None
_lock = threading.Lock()


def count_here(receipt: Receipt) -> None:
    """Count a shard that this process did; the first call registers the counters with prometheus_client."""
    global _here
    with _lock:
        if _here is None:
            _here = Totals()
            from prometheus_client import REGISTRY

            with suppress(ValueError):  # the scheduler in this same process counts the same shards
                REGISTRY.register(_here)
    _here.add_receipt(receipt)
