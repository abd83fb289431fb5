from __future__ import annotations

import datetime as dt
from typing import Any

import pyarrow as pa

from camtrap_batch.report.sightings import events_by_hour, events_by_period, species_rows
from camtrap_batch.store.schemas import DEPLOYMENTS, EVENTS


def events(*rows: tuple[str | None, str, dt.datetime | None], **values: Any) -> pa.Table:
    return pa.Table.from_pylist(
        [
            {
                "event_id": str(number),
                "label": label,
                "location": location,
                "start": start,
                "end": start,
                "n_images": 3,
                "count": 2,
                "confidence": 0.5,
                "best_image_id": "i",
                **values,
            }
            for number, (label, location, start) in enumerate(rows)
        ],
        schema=EVENTS,
    )


NOON = dt.datetime(2023, 5, 4, 12, 59, 59)


def test_species_by_events_and_uncertain_last() -> None:
    table = events(
        ("lion", "A", NOON),
        (None, "A", NOON),
        ("uncertain", "B", NOON),
        ("uncertain", "B", NOON),
        ("hare", "A", NOON),
        ("lion", "B", None),
    )
    rows = species_rows(table)
    assert [(row.label, row.events, row.individuals, row.images, row.locations) for row in rows] == [
        ("lion", 2, 4, 6, 2),
        ("hare", 1, 2, 3, 1),
        ("uncertain", 3, 6, 9, 2),
    ]
    assert rows[0].share == 2 / 6
    assert [row.is_species for row in rows] == [True, True, False]


def test_hours_of_dated_events() -> None:
    table = events(
        ("lion", "A", NOON), ("lion", "A", NOON.replace(hour=0)), ("lion", "A", None), ("hare", "A", None)
    )
    ((label, hours),) = events_by_hour(table, ["lion", "hare"])
    assert label == "lion"
    assert (hours[0], hours[12], sum(hours), len(hours)) == (1, 1, 2, 24)


def test_no_events() -> None:
    assert species_rows(events()) == []
    assert events_by_hour(events(), []) == []
    assert events_by_period(events()) is None
    assert events_by_period(events(("lion", "A", None))) is None


def test_periods_without_an_event_are_zero() -> None:
    days = [NOON, NOON, NOON + dt.timedelta(days=3)]
    found = events_by_period(events(*(("lion", place, day) for place, day in zip("AAB", days, strict=True))))
    assert found is not None
    assert found.unit == "day"
    assert found.names == ["2023-05-04", "2023-05-05", "2023-05-06", "2023-05-07"]
    assert found.events == [2, 0, 0, 1]
    assert found.locations == [1, 0, 0, 1]


def test_cameras_in_the_field() -> None:
    of_a_week = events(*(("lion", "A", NOON + dt.timedelta(days=day)) for day in (0, 3)))

    def deployments(*rows: tuple[str, int, int | None, str]) -> pa.Table:
        return pa.Table.from_pylist(
            [
                {
                    "location": location,
                    "start": NOON + dt.timedelta(days=first),
                    "end": None if last is None else NOON + dt.timedelta(days=last),
                    "source": source,
                }
                for location, first, last, source in rows
            ],
            schema=DEPLOYMENTS,
        )

    def in_field(*rows: tuple[str, int, int | None, str]) -> list[int] | None:
        found = events_by_period(of_a_week, deployments(*rows))
        assert found is not None
        return found.in_field

    recorded = [
        ("A", -9, 1, "cameras"),
        ("A", 1, 2, "cameras"),
        ("B", 2, 9, "metadata"),
        ("C", 5, 9, "cameras"),
    ]
    assert in_field(*recorded) == [1, 1, 2, 1]
    assert in_field(*recorded, ("D", -9, -5, "cameras")) == [1, 1, 2, 1]
    assert in_field(*recorded, ("E", 0, 3, "images")) is None, "it stood there longer"
    assert in_field(*recorded, ("E", 0, None, "cameras")) is None
    assert in_field() is None


def test_unit_grows_with_the_span() -> None:
    for days, unit in ((40, "day"), (500, "week"), (2500, "month"), (9000, "year")):
        found = events_by_period(
            events(*(("lion", "A", NOON + dt.timedelta(days=days * n / 50)) for n in range(51)))
        )
        assert found is not None
        assert (found.unit, sum(found.events)) == (unit, 51)
        assert len(found.names) <= 125


def test_a_clock_that_was_never_set_does_not_squeeze_the_chart() -> None:
    days = [NOON + dt.timedelta(days=n / 10) for n in range(300)]
    found = events_by_period(events(*(("lion", "A", day) for day in [dt.datetime(1970, 1, 1), *days])))
    assert found is not None
    assert (found.unit, found.left_out, sum(found.events)) == ("day", 1, 300)
