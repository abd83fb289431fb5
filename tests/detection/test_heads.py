from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camtrap_batch.detection.heads import MOST_BOXES, Raw, count_classes, read_boxes, suppress, tell_layout

FRAME = (320, 320)
CELLS = 40**2 + 20**2 + 10**2  # 2,100


def zeros(*shape: int) -> npt.NDArray[np.float32]:
    return np.zeros(shape, np.float32)


@pytest.mark.parametrize(
    ("outputs", "metadata", "n_names", "layout"),
    [
        ([zeros(1, 3 * CELLS, 8)], {}, 3, "yolov5"),
        ([zeros(1, 3 * CELLS, 6)], {}, 1, "yolov5"),
        ([zeros(1, 3 * (CELLS + 25), 8)], {}, 3, "yolov5"),  # with a stride of 64, as MegaDetector v5
        ([zeros(1, 3 * CELLS, 85), zeros(1, 3, 40, 40, 85)], {}, None, "yolov5"),
        ([zeros(1, 84, CELLS)], {}, 80, "yolov8"),
        ([zeros(1, 6, CELLS)], {}, 2, "yolov8"),
        ([zeros(1, 7, 525)], {}, 3, "yolov8"),
        ([zeros(1, 7, 1234)], {}, 3, "yolov8"),
        ([zeros(1, 1234, 8)], {}, 3, "yolov5"),
        ([zeros(1, 300, 6) + 100], {}, 3, "end2end"),
        ([zeros(1, 300, 6)], {"end2end": "True"}, 3, "end2end"),
        ([zeros(1, 300, 7) + 0.5], {}, 3, "rtdetr"),
        ([zeros(1, 300, 6) + 0.5], {}, 2, "rtdetr"),
        ([zeros(1, 300, 6) + 0.5], {"head": "RTDETRDecoder"}, 2, "rtdetr-top"),
        ([np.concatenate([zeros(1, 300, 5) + 0.5, zeros(1, 300, 1) + 1], 2)], {}, 3, "rtdetr-top"),
        ([zeros(1, 300, 4), zeros(1, 300, 91)], {}, 90, "rf-detr"),
        ([zeros(1, 300, 91), zeros(1, 300, 4)], {}, 90, "rf-detr"),
        ([zeros(1, 300, 4), zeros(1, 300, 4)], {}, 3, "rf-detr"),
        ([zeros(1, 1000)], {}, 1000, None),  # a classifier
        ([zeros(1, 3, 320, 320)], {}, 3, None),
        ([zeros(1, 5000, 9)], {}, 3, None),
        ([zeros(1, CELLS, 4), zeros(1, CELLS, 3)], {}, 3, None),
        ([zeros(1, 300, 4)], {}, None, None),
    ],
)
def test_told_apart(
    outputs: list[npt.NDArray[np.float32]], metadata: dict[str, str], n_names: int | None, layout: str | None
) -> None:
    assert tell_layout(outputs, FRAME, metadata, n_names) == layout


@pytest.mark.parametrize(
    ("layout", "outputs", "n"),
    [
        ("yolov5", [zeros(1, 6300, 8)], 3),
        ("yolov8", [zeros(1, 7, 2100)], 3),
        ("rtdetr", [zeros(1, 300, 7)], 3),
        ("end2end", [zeros(1, 300, 6)], None),
        ("rf-detr", [zeros(1, 300, 4), zeros(1, 300, 4)], 4),
    ],
)
def test_classes_are_counted(layout: str, outputs: list[npt.NDArray[np.float32]], n: int | None) -> None:
    assert count_classes(layout, outputs) == n  # type: ignore[arg-type]


BOX = (32.0, 64.0, 96.0, 128.0)
"""Left, top, right, bottom in the frame."""


def one_box(layout: str) -> list[npt.NDArray[np.float32]]:
    """Outputs with one box, of class 1, confidence 0.6; a second one of class 3, which has no name."""
    centre = np.array([64, 96, 64, 64], np.float32)
    if layout == "yolov5":
        rows = zeros(1, 6300, 8 + 1)
        rows[0, 7, :4], rows[0, 7, 4], rows[0, 7, 6] = centre, 0.75, 0.8
        rows[0, 9, :4], rows[0, 9, 4], rows[0, 9, 8] = centre, 0.9, 0.9
        return [rows]
    if layout == "yolov8":
        columns = zeros(1, 8, 2100)
        columns[0, :4, 7], columns[0, 5, 7] = centre, 0.6
        columns[0, :4, 9], columns[0, 7, 9] = centre, 0.9
        return [columns]
    rows = zeros(1, 300, 6)
    rows[0, 3, :4] = rows[0, 5, :4] = BOX if layout == "end2end" else centre / 320
    rows[0, 3, 4:], rows[0, 5, 4:] = (0.6, 1), (0.9, 3)
    if layout in ("end2end", "rtdetr-top"):
        return [rows]
    scores = zeros(1, 300, 4)
    scores[0, 3, 1], scores[0, 5, 3] = 0.6, 0.9
    if layout == "rtdetr":
        return [np.concatenate([rows[..., :4], scores], axis=2)]
    scores = np.clip(scores, 1e-6, 1)
    return [rows[..., :4], np.log(scores / (1 - scores))]


@pytest.mark.parametrize("layout", ["yolov5", "yolov8", "end2end", "rtdetr", "rtdetr-top", "rf-detr"])
def test_a_box_in_each_layout(layout: str) -> None:
    (found,) = read_boxes(layout, one_box(layout), FRAME, n_categories=3, least=0.01, iou=0.5)  # type: ignore[arg-type]
    assert found.corners == pytest.approx(np.array([BOX]), abs=1e-3)
    assert found.confidence == pytest.approx([0.6], abs=1e-5)
    assert found.category.tolist() == [1]


def raw(*boxes: tuple[float, float, float, float, float, int]) -> Raw:
    values = np.array(boxes, np.float32).reshape(-1, 6)
    return Raw(values[:, :4].copy(), values[:, 4].copy(), values[:, 5].astype(np.int16))


def test_what_overlaps_a_surer_box_is_left_out() -> None:
    found = suppress(
        raw((0, 0, 10, 10, 0.5, 0), (1, 0, 11, 10, 0.9, 0), (0, 0, 10, 10, 0.4, 1), (20, 0, 30, 10, 0.1, 0)),
        0.5,
    )
    assert found.confidence == pytest.approx([0.9, 0.4, 0.1])
    assert len(suppress(raw(), 0.5).confidence) == 0
    of_each_category = [(0, 0, 1, 1, 0.5, n) for n in range(MOST_BOXES + 9)]
    assert len(suppress(raw(*of_each_category), 0.5).confidence) == MOST_BOXES


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**16), n=st.integers(0, 200), iou=st.sampled_from([0.3, 0.45, 0.7]))
def test_as_torchvision_suppresses(seed: int, n: int, iou: float) -> None:
    torch = pytest.importorskip("torch")
    ops = pytest.importorskip("torchvision").ops
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 100, (n, 4)).astype(np.float32)
    corners[:, 2:] = corners[:, :2] + rng.uniform(-2, 60, (n, 2))
    found = Raw(
        corners, rng.permutation(n).astype(np.float32) / max(n, 1), rng.integers(0, 3, n).astype(np.int16)
    )
    mine = suppress(found, iou)
    apart = torch.from_numpy(corners + found.category[:, None].astype(np.float32) * 7680)
    kept = ops.nms(apart, torch.from_numpy(found.confidence), iou)[:300].numpy()
    assert (mine.corners == corners[kept]).all()
