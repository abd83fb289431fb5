from __future__ import annotations

from collections import Counter, defaultdict
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camtrap_batch.rehearsal.plan import (
    Frame,
    images_per_camera,
    plan_cameras,
    plan_frames,
    web_mercator_to_wgs84,
)
from camtrap_batch.rehearsal.species import DISTRACTORS, EMPTY_ID, SELECTED


def plan(seed: int, cameras: int = 20, images: int = 2400) -> list[Frame]:
    shares = images_per_camera(cameras, images, seed)
    return [frame for camera, share in enumerate(shares) for frame in plan_frames(camera, share, seed)]


@pytest.mark.parametrize("seed", [0, 1, 42])
def test_every_species_is_at_several_cameras(seed: int) -> None:
    cameras = defaultdict(set)
    for frame in plan(seed):
        cameras[frame.category_id].add(frame.camera)
    for species in SELECTED:
        assert 5 <= len(cameras[species.category_id]) < 20, species.name
    for species in DISTRACTORS:
        assert cameras[species.category_id], species.name


@pytest.mark.parametrize("seed", [0, 1, 42])
def test_frequencies_are_uneven(seed: int) -> None:
    frames = plan(seed)
    counts = Counter(frame.category_id for frame in frames)
    assert 0.28 < counts[EMPTY_ID] / len(frames) < 0.42
    animals = [counts[species.category_id] for species in SELECTED]
    assert 2 < max(animals) / min(animals) < 8
    assert 0.2 < sum(frame.night for frame in frames) / len(frames) < 0.45


def test_more_images_begin_with_the_same_ones() -> None:
    short, long = plan_frames(3, 40, 42), plan_frames(3, 90, 42)
    whole = [frame for frame in short if frame.burst != short[-1].burst]
    assert long[: len(whole)] == whole


def test_bursts_are_one_second_apart_and_complete() -> None:
    for camera in range(5):
        bursts = defaultdict(list)
        for frame in plan_frames(camera, 120, 42):
            bursts[frame.burst].append(frame)
        assert {len(burst) for burst in bursts.values()} <= {1, 2, 3, 4, 5}
        for burst in bursts.values():
            assert [frame.position for frame in burst] == list(range(len(burst)))
            assert {frame.burst_frames for frame in burst} == {len(burst)}
            assert all((b.time - a.time).total_seconds() == 1 for a, b in pairwise(burst))


def test_an_animal_that_has_left_stays_away() -> None:
    for frame, later in pairwise(plan(42)):
        if frame.burst == later.burst and frame.camera == later.camera and frame.category_id == EMPTY_ID:
            assert later.category_id == EMPTY_ID
        if frame.category_id == EMPTY_ID:
            assert frame.count == 0
            assert frame.second is None


def test_gaps_fall_on_both_sides_of_the_half_hour() -> None:
    last = {}
    gaps = []
    for frame in plan(42):
        if frame.category_id:
            key = frame.camera, frame.category_id
            if key in last:
                gaps.append((frame.time - last[key]).total_seconds() / 60)
            last[key] = frame.time
    assert all(gap > 0 for gap in gaps)
    assert sum(1 < gap < 30 for gap in gaps) > 50
    assert sum(30 < gap < 120 for gap in gaps) > 20
    # None so close to the half hour that a second decides.
    assert not [gap for gap in gaps if 27 < gap < 33]


def test_some_photos_show_two() -> None:
    frames = plan(42)
    assert sum(frame.count == 2 for frame in frames) > 50
    assert 3 <= sum(frame.second is not None for frame in frames) < 60
    assert all(frame.second != frame.category_id for frame in frames if frame.second is not None)


def test_kruger_cameras_are_in_kruger() -> None:
    cameras = plan_cameras(20, 42)
    assert [camera.location for camera in cameras[:5]] == [f"KNP-0{number}" for number in range(1, 6)]
    # What PROJ gives for EPSG:3857 to EPSG:4326.
    assert (cameras[0].longitude, cameras[0].latitude) == pytest.approx((31.844582, -24.174767), abs=1e-6)
    assert all(30.8 < camera.longitude < 32.1 and -25.6 < camera.latitude < -22.3 for camera in cameras)
    assert len({camera.location for camera in cameras}) == 20
    assert any(camera.numeric for camera in cameras)
    assert plan_cameras(8, 42) == cameras[:8]


@pytest.mark.parametrize(
    ("point", "expected"),
    [((0.0, 0.0), (0.0, 0.0)), ((20037508.342789244, 20037508.342789244), (180.0, 85.0511287798))],
)
def test_web_mercator(point: tuple[float, float], expected: tuple[float, float]) -> None:
    assert web_mercator_to_wgs84(*point) == pytest.approx(expected)


@settings(max_examples=40, deadline=None)
@given(cameras=st.integers(1, 30), more=st.integers(0, 500), seed=st.integers(0, 9))
def test_every_camera_takes_a_photo(cameras: int, more: int, seed: int) -> None:
    shares = images_per_camera(cameras, cameras + more, seed)
    assert len(shares) == cameras
    assert min(shares) >= 1
    assert sum(shares) == cameras + more
