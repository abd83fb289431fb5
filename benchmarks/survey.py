"""Deployments, tables and detection histories of a survey of WCS Camera Traps' size: seconds of each step.

    python benchmarks/survey.py [--images N] [--days N] [--stand N]

1,369,991 images at 3,911 stations that stood for three months each, a third twice, some with an outage; one
image in two is an event of one of 600 species. No run folder: the functions that `merge`, `camtrap table`
and `camtrap export --to detection-history` call, on tables in memory; the histories are written to disk.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
from scale import IMAGES, LOCATIONS, Report

from camtrap_batch.catalog.cameras import OUTAGES, PERIODS
from camtrap_batch.exports.detection_history import write_matrices
from camtrap_batch.store.schemas import EVENTS
from camtrap_batch.survey.checks import check_deployments
from camtrap_batch.survey.derived import species_rows
from camtrap_batch.survey.effort import make_deployments
from camtrap_batch.survey.history import find_records, make_occasions

SPECIES = 600
STAND = 90
"""Days that a deployment lasts, unless `--stand` says so."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=IMAGES, metavar="N", help=f"default: {IMAGES:,}")
    parser.add_argument("--days", type=int, default=7, metavar="N", help="days in an occasion (default: 7)")
    parser.add_argument(
        "--stand", type=int, default=STAND, metavar="N", help=f"days of a deployment (default: {STAND})"
    )
    options = parser.parse_args()
    report, rng = Report(), np.random.default_rng(5)
    stations = max(2, round(LOCATIONS * options.images / IMAGES))
    names = np.array([f"CT-{number}" for number in range(stations)])
    start = np.datetime64("2012-01-01T12:00", "us") + rng.integers(0, 700, stations) * np.timedelta64(1, "D")
    of = np.concatenate([np.arange(stations), np.arange(0, stations, 3)])
    begin = start[of]
    begin[stations:] += np.timedelta64(options.stand + 110, "D")
    end = begin + np.timedelta64(options.stand, "D")
    periods = _table(PERIODS, location=names[of], start=begin, end=end, source=np.repeat("cameras", len(of)))
    off = np.arange(0, stations, 10)
    outages = _table(
        OUTAGES,
        location=names[off],
        start=start[off] + np.timedelta64(20, "D"),
        end=start[off] + np.timedelta64(30, "D"),
    )
    which = rng.integers(0, len(of), options.images)
    moment = begin[which] + rng.integers(0, options.stand * 86_400, options.images) * np.timedelta64(1, "s")
    images = pa.table(
        {
            "location": names[of[which]],
            "deployment": pa.nulls(options.images, pa.string()),
            "datetime": moment,
            "utc_offset_minutes": pa.nulls(options.images, pa.int32()),
            "is_night": rng.random(options.images) < 0.4,
        }
    )
    seen = rng.random(options.images) < 0.5
    label = np.minimum(rng.pareto(0.7, seen.sum()).astype(int), SPECIES - 1)
    events = _table(
        EVENTS,
        location=names[of[which]][seen],
        label=np.array([f"Species {number}" for number in range(SPECIES)])[label],
        start=moment[seen],
        end=moment[seen],
        count=np.ones(seen.sum(), np.int32),
    )
    print(f"{options.images:,} images, {stations:,} stations, {events.num_rows:,} events", flush=True)
    with report.timed("deployments from photos alone"):
        make_deployments(images)
    with report.timed("deployments from the camera table"):
        deployments, _ = make_deployments(images, periods, outages)
    with report.timed("checks"):
        checks = check_deployments(deployments, images, np.asarray(~seen))
    report.line("  of them", f"{len(checks):,}")
    with report.timed("occasions"):
        occasions = make_occasions(deployments, days=options.days)
    report.line("  of each station", f"{occasions.effort.shape[1]:,}")
    with report.timed("records"):
        records = find_records(events, occasions)
    with report.timed("table species"):
        species_rows(events, deployments)
    with tempfile.TemporaryDirectory() as folder, report.timed("histories written"):
        write_matrices(Path(folder), occasions, records)
        size = sum(file.stat().st_size for file in Path(folder).iterdir())
    report.line("  species, MB", f"{len(records.species):,}, {size / 1e6:,.0f}")
    return report.end()


def _table(schema: pa.Schema, **columns: object) -> pa.Table:
    n = len(columns["location"])  # type: ignore[arg-type]
    return pa.table(
        {
            field.name: pa.array(columns[field.name]).cast(field.type)
            if field.name in columns
            else pa.nulls(n, field.type)
            for field in schema
        }
    )


if __name__ == "__main__":
    raise SystemExit(main())
