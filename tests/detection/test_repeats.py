from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camtrap_batch.detection.repeats import find_spots, match_spots, overlap

STUMP = np.float32([0.3, 0.4, 0.1, 0.2])


def scene(n: int = 300, seed: int = 0) -> tuple[Any, Any, Any, Any]:
    """A stump in every frame of camera 0, a little elsewhere each time, and animals everywhere."""
    rng = np.random.default_rng(seed)
    stumps = STUMP + rng.normal(0, 0.0008, (n, 4))
    animals = np.concatenate([rng.uniform(0, 0.6, (2 * n, 2)), rng.uniform(0.05, 0.4, (2 * n, 2))], axis=1)
    boxes = np.concatenate([stumps, animals]).astype(np.float32)
    camera = np.repeat([0, 0, 1], n)
    frame = np.concatenate([np.arange(n), np.arange(n), n + np.arange(n)])
    return camera, frame, boxes, np.arange(3 * n) < n


def test_a_stump_is_found_and_animals_are_not() -> None:
    camera, frame, boxes, is_stump = scene()
    found, _ = find_spots(camera, frame, boxes, iou=0.9, min_frames=50)
    assert (found[is_stump] == 0).all()
    assert (found[~is_stump] >= 0).sum() <= 3  # animals that stood exactly there
    assert (find_spots(camera, frame, boxes, iou=0.9, min_frames=301)[0] == -1).all()


def test_another_camera_and_an_unknown_one_have_their_own() -> None:
    frame = np.arange(90)
    boxes = np.tile(STUMP, (90, 1))
    camera = np.repeat([0, 1, -1], 30)
    found, _ = find_spots(camera, frame, boxes, iou=0.9, min_frames=30)
    assert found.tolist() == [0] * 30 + [1] * 30 + [-1] * 30
    assert (find_spots(camera, frame, boxes, iou=0.9, min_frames=31)[0] == -1).all()


def test_frames_count_not_boxes() -> None:
    boxes = np.tile(STUMP, (60, 1))
    found, _ = find_spots(np.zeros(60, np.int64), np.repeat(np.arange(20), 3), boxes, iou=0.9, min_frames=21)
    assert (found == -1).all()


def test_what_fills_the_frame_is_no_repeat() -> None:
    boxes = np.tile(np.float32([0, 0.1, 1, 0.9]), (100, 1))
    found, _ = find_spots(np.zeros(100, np.int64), np.arange(100), boxes, iou=0.9, min_frames=10)
    assert (found == -1).all()


def test_nothing() -> None:
    none = np.empty(0, np.int64)
    assert len(find_spots(none, none, np.empty((0, 4), np.float32), iou=0.9, min_frames=1)[0]) == 0


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 1000), st.sampled_from([0.8, 0.9]))
def test_the_order_of_boxes_does_not_matter(seed: int, iou: float) -> None:
    camera, frame, boxes, _ = scene(60, seed)
    order = np.random.default_rng(seed).permutation(len(boxes))
    found, _ = find_spots(camera, frame, boxes, iou=iou, min_frames=20)
    again, _ = find_spots(camera[order], frame[order], boxes[order], iou=iou, min_frames=20)
    assert (again == found[order]).all()


def test_overlap() -> None:
    boxes = np.float32([[0.3, 0.4, 0.1, 0.2], [0.35, 0.4, 0.1, 0.2], [0.5, 0.4, 0.1, 0.2], [0.3, 0.4, 0, 0]])
    assert overlap(boxes, STUMP) == pytest.approx([1, 1 / 3, 0, 0], abs=1e-6)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 1000), st.sampled_from([0.7, 0.9]))
def test_a_part_of_the_boxes_is_matched_as_all_were(seed: int, iou: float) -> None:
    camera, frame, boxes, _ = scene(60, seed)
    # Two more that overlap each other, for which the first one counts.
    for start, x in ((60, 0.1), (61, 0.112)):
        boxes[start:120:3] = np.float32([x, 0.1, 0.2, 0.2]) + np.float32([0.0005, 0, 0, 0]) * (seed % 7)
    found, spots = find_spots(camera, frame, boxes, iou=iou, min_frames=8)
    assert found.max() >= 1
    some = np.random.default_rng(seed).permutation(len(boxes))[: len(boxes) // 2]
    assert (match_spots(camera[some], boxes[some], spots, iou=iou) == found[some]).all()
