"""Detectors of the size of published ones, with random weights: what a benchmark computes, written by torch.

How long a network takes does not depend on what its weights are.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

Stage = tuple[int, int, int]
"""Channels in, channels out, how many pairs of convolutions."""

SHAPES: Mapping[str, tuple[Stage, tuple[Stage, ...]]] = {
    # 6.8M weights and 18.6 GFLOPs at 640 pixels; YOLO11s has 9.4M and 21.5.
    "yolo11s": ((32, 64, 1), ((64, 160, 2), (160, 256, 2), (256, 512, 2))),
    # 135M weights and 830 GFLOPs at 1280 pixels; YOLOv5x6, MegaDetector v5's, has 140.7M and 839.
    "yolov5x6": ((80, 160, 3), ((160, 320, 7), (320, 640, 10), (640, 960, 8), (960, 1280, 6))),
    "tiny": ((8, 8, 1), ((8, 8, 1), (8, 8, 1), (8, 8, 1))),
}
"""Name -> stem (channels of its two convolutions, residuals) and stages, each of half the side."""


class Block(nn.Module):
    def __init__(self, n_in: int, n_out: int, stride: int = 1, kernel: int = 3) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(n_in, n_out, kernel, stride, kernel // 2)
        self.activation = nn.SiLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.activation(self.convolution(x))


class Residual(nn.Module):
    def __init__(self, n: int, times: int) -> None:
        super().__init__()
        self.parts = nn.ModuleList(
            nn.Sequential(Block(n, n // 2, kernel=1), Block(n // 2, n)) for _ in range(times)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for part in self.parts:
            x = x + part(x)
        return x


class Detector(nn.Module):
    """Outputs as of YOLOv8 and YOLO11, [4 + 3 classes, boxes]; few of them are sure."""

    def __init__(self, name: str) -> None:
        super().__init__()
        (first, second, times), stages = SHAPES[name]
        self.stem = nn.Sequential(Block(3, first, 2), Block(first, second, 2), Residual(second, times))
        self.stages = nn.ModuleList(
            nn.Sequential(Block(n_in, n_out, 2), Residual(n_out, times)) for n_in, n_out, times in stages
        )
        self.boxes = nn.ModuleList(nn.Sequential(Block(n, 64), nn.Conv2d(64, 4, 1)) for _, n, _ in stages)
        self.classes = nn.ModuleList(nn.Sequential(Block(n, 128), nn.Conv2d(128, 3, 1)) for _, n, _ in stages)

    @property
    def stride(self) -> int:
        return 4 * 2 ** len(self.stages)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x, rows = self.stem(x), []
        for level, (stage, boxes, classes) in enumerate(
            zip(self.stages, self.boxes, self.classes, strict=True)
        ):
            x = stage(x)
            stride = 8 * 2**level
            sides = (boxes(x).sigmoid() * 4 + 1) * stride
            rows.append(torch.cat([sides, (classes(x) - 6).sigmoid()], 1).flatten(2))
        return torch.cat(rows, 2)


def random_detector(name: str) -> Detector:
    torch.manual_seed(0)
    return Detector(name).eval().requires_grad_(False)


def count_work(network: nn.Module, size: int) -> tuple[float, float]:
    """Millions of weights, and GFLOPs (two for each product) of its convolutions at that size."""
    flops = 0

    def count(module: nn.Module, _: Any, output: torch.Tensor) -> None:
        nonlocal flops
        assert isinstance(module, nn.Conv2d)
        flops += 2 * output[0].numel() * module.weight[0].numel()

    hooks = [m.register_forward_hook(count) for m in network.modules() if isinstance(m, nn.Conv2d)]
    with torch.inference_mode():
        network(torch.zeros(1, 3, 128, 128))
    for hook in hooks:
        hook.remove()
    weights = sum(parameter.numel() for parameter in network.parameters())
    return weights / 1e6, flops * (size / 128) ** 2 / 1e9


def write_onnx(network: Detector, path: Path, size: int) -> Path:
    """As an ONNX file for any number and size of pictures, with a `detector.json` beside it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (torch.zeros(1, 3, size, size),),
            str(path),
            dynamo=False,
            opset_version=17,
            input_names=["images"],
            output_names=["output0"],
            dynamic_axes={
                "images": {0: "batch", 2: "height", 3: "width"},
                "output0": {0: "batch", 2: "boxes"},
            },
        )
    path.with_name("detector.json").write_text(
        f'{{"names": ["animal", "person", "vehicle"], "stride": {network.stride}, "size": {size}}}'
    )
    return path
