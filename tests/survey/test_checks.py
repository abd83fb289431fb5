"""What looks wrong in deployments."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from support_survey import cameras, outages

from camtrap_batch.store.schemas import FINDINGS
from camtrap_batch.survey.checks import Check, check_deployments, check_findings, check_texts
from camtrap_batch.survey.effort import make_deployments
from camtrap_batch.vocabulary import DEPLOYMENT_FINDINGS

START = dt.datetime(2021, 3, 1)


def images(*hours: float, location: str = "A", night: bool | None = True, **other: Any) -> pa.Table:
    """Photos this many hours after 1 March 2021."""
    n = len(hours)
    times = [START + dt.timedelta(hours=hour) for hour in hours]
    columns = {
        "image_id": [f"{location}{number}" for number in range(n)],
        "file_name": [f"{location}{number}.jpg" for number in range(n)],
        "location": [location] * n,
        "datetime": pa.array(times, pa.timestamp("us")),
        "deployment": pa.nulls(n, pa.string()),
        "is_night": pa.array([night] * n, pa.bool_()),
        "utc_offset_minutes": pa.nulls(n, pa.int32()),
    }
    return pa.table(columns | other)


def found(photos: pa.Table, periods: pa.Table | None, off: pa.Table | None = None) -> list[Check]:
    deployments, _ = make_deployments(photos, periods, off)
    return check_deployments(deployments, photos)


def test_images_outside(tmp_path: Path) -> None:
    """A date alone leaves the whole day open; each image is told of with the nearest deployment."""
    periods = cameras(
        tmp_path, "A,0,0,2021-03-02,2021-03-10", "A,0,0,2021-03-20 06:00,2021-03-25 06:00", "B,1,1,,"
    )
    photos = images(20, 25, 100, 9 * 24 + 23, 12 * 24, 19 * 24 + 5, 22 * 24, 24 * 24 + 7)
    checks = found(photos, periods)
    assert {check.kind for check in checks} == {"outside_deployment"}
    assert [(check.deployment, check.image) for check in checks] == [(0, 0), (0, 4), (1, 5), (1, 7)]
    assert checks[0].detail == "2021-03-01 20:00: before the start, 2021-03-02 12:00, of the deployment"
    assert checks[3].detail == "2021-03-25 07:00: after the end, 2021-03-25 06:00, of the deployment"
    deployments, _ = make_deployments(photos, periods)
    assert check_texts(checks, deployments.num_rows) == [["2 images before the start or after the end"]] * 2
    table = check_findings(checks, deployments, photos.select(["image_id", "file_name"]))
    assert table.schema == FINDINGS
    assert table["image_id"].to_pylist() == ["A0", "A4", "A5", "A7"]
    assert set(table["kind"].to_pylist()) <= set(DEPLOYMENT_FINDINGS)


def test_a_date_alone_is_not_judged_by_the_clock(tmp_path: Path) -> None:
    periods = cameras(tmp_path, "A,0,0,2021-03-02 09:00,2021-03-04 11:00")
    photos = images(0, 24, 72, 96, 26, date_only=pa.array([True] * 4 + [None]))
    checks = found(photos, periods)
    assert [(check.image, check.detail) for check in checks] == [
        (0, "2021-03-01: before the start, 2021-03-02 09:00, of the deployment"),
        (4, "2021-03-02 02:00: before the start, 2021-03-02 09:00, of the deployment"),
        (3, "2021-03-05: after the end, 2021-03-04 11:00, of the deployment"),
    ]
    alone = cameras(tmp_path, "A,0,0,2021-03-02 09:00,2021-03-02 11:00")
    assert found(images(24, date_only=pa.array([True])), alone) == []
    assert [check.kind for check in found(images(24), alone)] == ["outside_deployment", "no_images"]


def test_no_images_and_a_wrong_clock(tmp_path: Path) -> None:
    periods = cameras(
        tmp_path,
        "A,0,0,2021-03-01,2021-03-10",
        "B,0,0,2022-03-01,2022-03-10",
        "C,0,0,1970-01-01,1970-02-01",
    )
    photos = pa.concat_tables([images(30), images(30, location="B")])
    checks = found(photos, periods)
    kinds = [(check.deployment, check.kind) for check in checks]
    assert kinds == [
        (1, "outside_deployment"),
        (1, "no_images"),
        (1, "wrong_clock"),
        (2, "wrong_clock"),
        (2, "no_images"),
    ]
    deployments, _ = make_deployments(photos, periods)
    rows = check_findings(checks, deployments, photos.select(["image_id", "file_name"])).to_pylist()
    assert [(row["location"], row["image_id"]) for row in rows] == [
        ("B", "B0"),
        ("B", None),
        ("B", "B0"),
        ("C", None),
        ("C", None),
    ]


def test_silence(tmp_path: Path) -> None:
    """After the last photo, too; what an outage explains is none."""
    periods = cameras(tmp_path, "A,0,0,2021-03-01,2021-06-01")
    photos = images(24, 24 * 30, 24 * 45)
    checks = found(photos, periods)
    assert [check.kind for check in checks] == ["silence", "silence"]
    assert [(check.other, check.image) for check in checks] == [(0, 1), (2, -1)]
    assert checks[0].detail.startswith("no image for 29 days from 2021-03-02 00:00")
    off = outages(tmp_path, "A,2021-03-05,2021-03-15", "A,2021-04-20,2021-05-31")
    assert found(photos, periods, off) == []


def test_no_night(tmp_path: Path) -> None:
    periods = cameras(tmp_path, "A,0,0,2021-03-01,2021-03-20")
    many = [float(hour) for hour in range(24, 74)]
    [check] = found(images(*many, night=False), periods)
    assert (check.kind, check.detail) == (
        "no_night_pictures",
        "none of 50 images was taken at night: does the flash work?",
    )
    assert found(images(*many[1:], night=False), periods) == []
    assert found(images(*many, night=None), periods) == []
    assert found(images(*many, night=True), periods) == []


def test_vegetation(tmp_path: Path) -> None:
    periods = cameras(tmp_path, "A,0,0,2021-03-01,2021-03-20")
    photos = images(*(24 + number / 10 for number in range(101)))
    deployments, _ = make_deployments(photos, periods)
    empty = np.ones(101, bool)
    [check] = check_deployments(deployments, photos, empty)
    assert check.kind == "many_empty"
    assert check.detail.startswith("more than 100 empty images on 1 of 1 days, at most 101")
    empty[3] = False
    assert check_deployments(deployments, photos, empty) == []


def test_photos_of_an_hour_that_clocks_were_put_back_are_in_their_deployment() -> None:
    minutes = pa.array([120, 60, 60], pa.int32())
    photos = images(2.9, 2.1, 2.95, utc_offset_minutes=minutes)
    deployments, _ = make_deployments(photos, None)
    assert deployments["n_images"].to_pylist() == [3]
    assert check_deployments(deployments, photos) == []


def test_silence_by_the_time_that_passed(tmp_path: Path) -> None:
    """An hour that clocks were put back passed, too."""
    periods = cameras(tmp_path, "A,0,0,2021-03-01 00:00,2021-04-01 00:00")
    hours = (0, 21 * 24 - 0.5, 30 * 24)
    assert found(images(*hours), periods) == []
    offsets = pa.array([120, 60, 60], pa.int32())
    [check] = found(images(*hours, utc_offset_minutes=offsets), periods)
    assert (check.kind, check.detail[:20]) == ("silence", "no image for 21 days")
