"""Train the detector of the demo, and keep it as camtrap_batch/rehearsal/detector.onnx.

    python tools/demo_detector.py [--epochs N] [--out FILE]

It finds animals and people in the drawings of the synthetic data set, which is all that it is for: of
photographs it knows nothing. It learns from data sets of other seeds than the demo's, so that it has seen
none of the demo's cameras, and is judged on cameras that it has not learnt from. Seed and figures go into
camtrap_batch/rehearsal/detector.md, beside the file.

The network is a small one of its own: stages of 3 x 3 convolutions, features of three scales added from the
coarse to the fine, and on each scale, for each cell, four distances to the sides of a box and a score for
each category, trained as in FCOS (Tian et al. 2019, arXiv 1904.01355) with scores that learn the overlap of
their box (Li et al. 2020, arXiv 2006.04388). The file's output has the layout of YOLOv8's
(`detection.heads`), boxes in pixels.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import platform
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import simplejpeg
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image, ImageFile
from torch import nn
from torch.nn import functional

from camtrap_batch.detection.onnx import OnnxDetector
from camtrap_batch.model.device import choose_precision
from camtrap_batch.rehearsal import write_dataset

OUT = Path(__file__).parent.parent / "camtrap_batch" / "rehearsal" / "detector.onnx"
SEED = 20
TRAIN_SEED, VALID_SEED = 1001, 1002
"""Of the data sets that are drawn; the demo's seed is 42."""

CAMERAS, IMAGES = 60, 2400
VALID_CAMERAS, VALID_IMAGES = 12, 480
HEIGHT, WIDTH = 192, 256
NAMES = ("animal", "person")
STRIDES = (8, 16, 32)
_LARGEST = (56, 120, 10_000)  # longer side of the boxes of each stride, in pixels
IOU = 0.45
"""Overlap of boxes of one animal: several cells find each of them, some less well than others."""

_NEAR = 1.5  # cells around a box's middle that learn it, in strides
_CHANNELS = (16, 24, 32, 56, 80)


class Detector(nn.Module):
    """From (n, 3, HEIGHT, WIDTH), 0 to 1, to (n, 4 + categories, cells): centres, sizes, logits."""

    def __init__(self) -> None:
        super().__init__()
        stages: list[nn.ModuleList] = []
        before = 3
        for channels in _CHANNELS:
            stages.append(
                nn.ModuleList([_convolution(before, channels, 2), _convolution(channels, channels)])
            )
            before = channels
        self.stages = nn.ModuleList(stages)
        self.deep = _convolution(before, before)
        width = _CHANNELS[2]
        self.sides = nn.ModuleList([nn.Conv2d(channels, width, 1) for channels in _CHANNELS[2:]])
        self.heads = nn.ModuleList([_convolution(width, width) for _ in STRIDES])
        self.boxes = nn.ModuleList([nn.Conv2d(width, 4, 3, padding=1) for _ in STRIDES])
        self.scores = nn.ModuleList([nn.Conv2d(width, len(NAMES), 3, padding=1) for _ in STRIDES])
        for layer in self.scores:
            nn.init.constant_(layer.bias, -4.0)
        self.register_buffer("centres", torch.from_numpy(np.concatenate([_centres(s) for s in STRIDES])).T)
        cells = [np.full(len(_centres(stride)), stride, np.float32) for stride in STRIDES]
        self.register_buffer("stride", torch.from_numpy(np.concatenate(cells)))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        kept, x = [], images
        for number, (down, *more) in enumerate(self.stages):
            x = down(x)
            for layer in more:
                x = x + layer(x)
            if number >= 2:
                kept.append(x)
        kept[-1] = kept[-1] + self.deep(kept[-1])
        coarse: torch.Tensor | None = None
        rows = []
        for level in (2, 1, 0):
            side = self.sides[level](kept[level])
            if coarse is not None:
                side = side + functional.interpolate(coarse, scale_factor=2.0, mode="nearest")
            coarse = side
            features = self.heads[level](side)
            both = torch.cat([self.boxes[level](features), self.scores[level](features)], 1)
            rows.insert(0, both.flatten(2))
        values = torch.cat(rows, 2)
        reach = functional.softplus(values[:, :4]) * self.stride * 2
        middle = self.centres + (reach[:, 2:] - reach[:, :2]) / 2
        return torch.cat([middle, reach[:, :2] + reach[:, 2:], values[:, 4:]], 1)


def _convolution(before: int, after: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True)
    )


def _centres(stride: int) -> np.ndarray:
    rows, columns = np.indices((HEIGHT // stride, WIDTH // stride)).reshape(2, -1).astype(np.float32)
    return (np.stack([columns, rows], 1) + 0.5) * stride


def draw(folder: Path, cameras: int, images: int, seed: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Pictures (n, HEIGHT, WIDTH, 3), and of each its boxes (boxes, 5): corners in pixels, category."""
    drawn = write_dataset(folder, cameras=cameras, images=images, seed=seed, size=(2 * WIDTH, 2 * HEIGHT))
    pictures, boxes = [], []
    ImageFile.LOAD_TRUNCATED_IMAGES = True  # the data set has a few broken files, as people's have
    for entry in json.loads(drawn.truth_boxes.read_text())["images"]:
        with Image.open(drawn.images / entry["file"]) as image:
            pictures.append(np.asarray(image.convert("RGB").reduce(2)))
        found = np.array(
            [[*box["bbox"], int(box["category"]) - 1] for box in entry["detections"]], np.float32
        ).reshape(-1, 5)
        found[:, :4] *= (WIDTH, HEIGHT, WIDTH, HEIGHT)
        found[:, 2:4] += found[:, :2]
        boxes.append(found)
    return np.stack(pictures), boxes


def vary(pictures: torch.Tensor, boxes: list[np.ndarray], rng: np.random.Generator) -> Any:
    """Some mirrored, moved, larger or smaller, lit otherwise, without colour; their boxes with them."""
    n = len(pictures)
    scale = np.exp(rng.uniform(np.log(0.7), np.log(1.3), n)).astype(np.float32)
    move = rng.uniform(-0.15, 0.15, (n, 2)).astype(np.float32)
    mirror = np.where(rng.random(n) < 0.5, -1, 1).astype(np.float32)
    grid = np.zeros((n, 2, 3), np.float32)
    grid[:, 0, 0], grid[:, 1, 1], grid[:, :, 2] = scale * mirror, scale, move
    images = functional.grid_sample(
        pictures,
        functional.affine_grid(torch.from_numpy(grid), list(pictures.shape), align_corners=False),
        padding_mode="reflection",
        align_corners=False,
    )
    light = torch.from_numpy(rng.uniform(0.5, 1.4, (n, 1, 1, 1)).astype(np.float32))
    shade = torch.from_numpy(rng.uniform(-0.1, 0.1, (n, 1, 1, 1)).astype(np.float32))
    grey = torch.from_numpy(rng.random(n) < 0.15)
    images[grey] = images[grey].mean(1, keepdim=True)
    moved = []
    for number, found in enumerate(boxes):
        # The grid says where a pixel comes from; boxes go the other way.
        x = ((found[:, [0, 2]] / WIDTH * 2 - 1) - move[number, 0]) / (scale[number] * mirror[number])
        y = ((found[:, [1, 3]] / HEIGHT * 2 - 1) - move[number, 1]) / scale[number]
        x, y = np.sort((x + 1) / 2 * WIDTH, 1), (y + 1) / 2 * HEIGHT
        there = np.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1], found[:, 4]], 1)
        area = (there[:, 2] - there[:, 0]) * (there[:, 3] - there[:, 1])
        there[:, [0, 2]] = there[:, [0, 2]].clip(0, WIDTH)
        there[:, [1, 3]] = there[:, [1, 3]].clip(0, HEIGHT)
        seen = (there[:, 2] - there[:, 0]) * (there[:, 3] - there[:, 1]) > 0.3 * area
        moved.append(there[seen])
    return (images * light + shade).clamp_(0, 1), moved


def learn(
    model: Detector, pictures: np.ndarray, boxes: list[np.ndarray], epochs: int, batch: int = 32
) -> None:
    """Train on pictures and their boxes."""
    rng = np.random.default_rng(SEED)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3, weight_decay=0.02)
    steps = epochs * (len(pictures) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, steps, pct_start=0.15)
    centres = model.centres.T.numpy()
    strides = model.stride.numpy()
    in_bfloat16 = choose_precision(torch.device("cpu")) == torch.bfloat16
    model.train()
    for epoch in range(epochs):
        began, losses = time.monotonic(), []
        order = rng.permutation(len(pictures))
        for some in order[: len(order) // batch * batch].reshape(-1, batch):
            images = torch.from_numpy(pictures[some]).permute(0, 3, 1, 2).float().div_(255)
            images, wanted = vary(images, [boxes[number] for number in some], rng)
            with torch.autocast("cpu", torch.bfloat16, enabled=in_bfloat16):
                values = model(images.to(memory_format=torch.channels_last))
            loss = _loss(values.float(), wanted, centres, strides)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 10.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        print(f"epoch {epoch + 1}: loss {np.mean(losses):.3f}, {time.monotonic() - began:.0f} s", flush=True)
    model.eval()


def _loss(
    values: torch.Tensor, wanted: list[np.ndarray], centres: np.ndarray, strides: np.ndarray
) -> torch.Tensor:
    owner, target, category = [], [], []
    for number, boxes in enumerate(wanted):
        cells = _assign(boxes, centres, strides)
        mine = np.flatnonzero(cells >= 0)
        owner.append(np.stack([np.full(len(mine), number), mine], 1))
        target.append(boxes[cells[mine], :4])
        category.append(boxes[cells[mine], 4].astype(np.int64))
    at = torch.from_numpy(np.concatenate(owner))
    boxes = torch.from_numpy(np.concatenate(target))
    found = values[at[:, 0], :4, at[:, 1]]
    corners = torch.cat([found[:, :2] - found[:, 2:] / 2, found[:, :2] + found[:, 2:] / 2], 1)
    overlap, distance = _generalised_overlap(corners, boxes)
    scores = values[:, 4:]
    quality = torch.zeros_like(scores)
    quality[at[:, 0], torch.from_numpy(np.concatenate(category)), at[:, 1]] = overlap.detach()
    error = (scores.sigmoid() - quality).abs() ** 2
    of_scores = (error * functional.binary_cross_entropy_with_logits(scores, quality, reduction="none")).sum()
    n = max(1, len(at))
    return of_scores / n + 2 * distance.sum() / n


def _assign(boxes: np.ndarray, centres: np.ndarray, strides: np.ndarray) -> np.ndarray:
    """For each cell the box that it learns, the smallest of several; -1 for none."""
    found = np.full(len(centres), -1)
    size = (boxes[:, 2:4] - boxes[:, :2]).max(1, initial=0)
    for box in np.argsort(-size):
        stride = STRIDES[int(np.searchsorted(_LARGEST, size[box]))]
        middle = (boxes[box, :2] + boxes[box, 2:4]) / 2
        near = (np.abs(centres - middle) < _NEAR * stride).all(1) & (strides == stride)
        inside = ((centres > boxes[box, :2]) & (centres < boxes[box, 2:4])).all(1)
        found[near & inside] = box
        if not (near & inside).any():
            mine = np.flatnonzero(strides == stride)
            found[mine[np.abs(centres[mine] - middle).sum(1).argmin()]] = box
    return found


def _generalised_overlap(one: torch.Tensor, other: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Intersection over union, and 1 less the generalised one (Rezatofighi et al. 2019, arXiv 1902.09630)."""
    low, high = torch.maximum(one[:, :2], other[:, :2]), torch.minimum(one[:, 2:], other[:, 2:])
    both = (high - low).clamp(min=0).prod(1)
    union = (one[:, 2:] - one[:, :2]).prod(1) + (other[:, 2:] - other[:, :2]).prod(1) - both
    whole = torch.maximum(one[:, 2:], other[:, 2:]) - torch.minimum(one[:, :2], other[:, :2])
    overlap = both / union.clamp(min=1e-6)
    area = whole.prod(1).clamp(min=1e-6)
    return overlap, 1 - overlap + (area - union) / area


def write_onnx(model: Detector, path: Path, **said: Any) -> None:
    """The network with its normalisation folded into the convolutions, as an ONNX file."""
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []

    def add(kind: str, inputs: list[str], **attributes: Any) -> str:
        name = f"{kind.lower()}{len(nodes)}"
        nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def keep(value: Any, dtype: Any = np.float32) -> str:
        name = f"weight{len(weights)}"
        weights.append(numpy_helper.from_array(np.ascontiguousarray(value, dtype), name))
        return name

    def convolve(x: str, weight: torch.Tensor, bias: torch.Tensor, stride: int = 1) -> str:
        side = weight.shape[2]
        inputs = [x, keep(weight.detach()), keep(bias.detach())]
        return add(
            "Conv", inputs, kernel_shape=[side] * 2, strides=[stride] * 2, pads=[side // 2] * 4, group=1
        )

    def block(x: str, layers: nn.Sequential) -> str:
        convolution, norm = layers[0], layers[1]
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        weight = convolution.weight * scale.view(-1, 1, 1, 1)
        bias = norm.bias - norm.running_mean * scale
        return add("Relu", [convolve(x, weight, bias, convolution.stride[0])])

    kept, x = [], "images"
    for number, (down, *more) in enumerate(model.stages):
        x = block(x, down)
        for layer in more:
            x = add("Add", [x, block(x, layer)])
        if number >= 2:
            kept.append(x)
    kept[-1] = add("Add", [kept[-1], block(kept[-1], model.deep)])
    coarse, rows = "", []
    for level in (2, 1, 0):
        side = convolve(kept[level], model.sides[level].weight, model.sides[level].bias)
        if coarse:
            scales = keep([1, 1, 2, 2])
            larger = add(
                "Resize", [coarse, "", scales], mode="nearest", coordinate_transformation_mode="asymmetric",
                nearest_mode="floor",
            )  # fmt: skip
            side = add("Add", [side, larger])
        coarse = side
        features = block(side, model.heads[level])
        both = [convolve(features, m[level].weight, m[level].bias) for m in (model.boxes, model.scores)]
        joined = add("Concat", both, axis=1)
        rows.insert(0, add("Reshape", [joined, keep([0, 4 + len(NAMES), -1], np.int64)]))
    values = add("Concat", rows, axis=2)

    def part(start: int, stop: int) -> str:
        return add("Slice", [values, *(keep([number], np.int64) for number in (start, stop, 1))])

    scaled = keep(model.stride.numpy()[None, None] * 2)
    near, far = (add("Mul", [add("Softplus", [part(*p)]), scaled]) for p in ((0, 2), (2, 4)))
    half = add("Mul", [add("Sub", [far, near]), keep([0.5])])
    middle = add("Add", [keep(model.centres.numpy()[None]), half])
    scores = add("Sigmoid", [part(4, 4 + len(NAMES))])
    nodes.append(helper.make_node("Concat", [middle, add("Add", [near, far]), scores], ["output0"], axis=1))
    shape = ["batch", 4 + len(NAMES), len(model.stride)]
    graph = helper.make_graph(
        nodes,
        "demo detector",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, HEIGHT, WIDTH])],
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, shape)],
        weights,
    )
    built = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(built, {key: str(value) for key, value in said.items()})
    onnx.checker.check_model(built)
    onnx.save(built, path)


def judge(
    path: Path, pictures: np.ndarray, boxes: list[np.ndarray], threshold: float = 0.2
) -> dict[str, float]:
    """The file, through the program's own detector: recall and precision of animals at an overlap of 0.5."""
    detector = OnnxDetector.open(str(path))
    with TemporaryDirectory() as folder:
        (Path(folder) / "detector.onnx").write_bytes(path.read_bytes())
        finder = detector.load(Path(folder), "cpu", 2, 8, "float32")
        files = (_as_jpeg(picture) for picture in pictures)
        found = list(finder.find(files))
    hits = truth = said = with_animal = seen = quiet = empty = 0
    scale = np.array([WIDTH, HEIGHT, WIDTH, HEIGHT], np.float32)
    for wanted, one in zip(boxes, found, strict=True):
        sure = one.confidence >= threshold
        corners = one.boxes[sure] * scale
        corners[:, 2:] += corners[:, :2]
        free = np.ones(len(wanted), bool)
        for box, category in zip(corners, one.category[sure], strict=True):
            overlap, _ = _generalised_overlap(
                torch.from_numpy(np.repeat(box[None], len(wanted), 0)), torch.from_numpy(wanted[:, :4])
            )
            good = overlap.numpy() * free * (wanted[:, 4] == category)
            if len(good) and good.max() >= 0.5:
                free[good.argmax()] = False
                hits += 1
        truth, said = truth + len(wanted), said + len(corners)
        with_animal, seen = with_animal + bool(len(wanted)), seen + bool(len(wanted) and len(corners))
        empty, quiet = empty + (not len(wanted)), quiet + (not len(wanted) and not len(corners))
    return {
        "recall": hits / truth,
        "precision": hits / max(said, 1),
        "pictures with an animal where something is found": seen / with_animal,
        "empty pictures where nothing is": quiet / empty,
    }


def _as_jpeg(picture: np.ndarray) -> bytes:
    data: bytes = simplejpeg.encode_jpeg(np.ascontiguousarray(picture), 90)
    return data


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--judge", action="store_true", help="the file that is there, without training")
    parser.add_argument("--data", type=Path, help="keep the drawings there, and use them again")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    torch.manual_seed(SEED)
    with TemporaryDirectory(prefix="camtrap-detector-") as scratch:
        began = time.monotonic()
        data = options.data or Path(scratch)
        pictures, boxes = draw(data / "train", CAMERAS, options.images, TRAIN_SEED)
        unseen, their_boxes = draw(data / "valid", VALID_CAMERAS, VALID_IMAGES, VALID_SEED)
        print(f"{len(pictures)} pictures drawn in {time.monotonic() - began:.0f} s", flush=True)
        model = Detector().to(memory_format=torch.channels_last)
        if not options.judge:
            learn(model, pictures, boxes, options.epochs)
        said = {
            "names": dict(enumerate(NAMES)), "stride": max(STRIDES), "task": "detect",
            "description": "finds what is drawn in camtrap-batch's synthetic data set; not for photographs",
            "license": "Apache-2.0",
        }  # fmt: skip
        if not options.judge:
            write_onnx(model, options.out, **said)
        options.out.with_suffix(".json").write_text(json.dumps({"iou": IOU}) + "\n")
        figures = judge(options.out, unseen, their_boxes)
    note = options.out.with_suffix(".md")
    megabytes = options.out.stat().st_size / 1e6
    version = torch.__version__.partition("+")[0]
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    rows = "\n".join(f"| {name} | {value:.3g} |" for name, value in figures.items())
    note.write_text(
        f"""# The demo's detector

`{options.out.name}` finds animals and people in the drawings of the synthetic data set. **It knows drawings,
not photographs**: for a data set of one's own, see docs/detectors.md. It is a part of camtrap-batch, under
its licence (Apache-2.0).

Made by `tools/demo_detector.py` with seed {SEED}: {len(pictures):,} drawings of {CAMERAS} cameras (the data
set's seed is {TRAIN_SEED}), {options.epochs} epochs, {n_parameters:,} parameters, {megabytes:.2f} MB.
{dt.date.today():%Y-%m-%d}, torch {version}, {platform.machine()}.

On {len(unseen):,} drawings of {VALID_CAMERAS} other cameras (seed {VALID_SEED}); boxes of confidence 0.2 and
more, right where they overlap what is drawn by 0.5 or more:

| | |
|---|---|
{rows}
"""
    )
    print(note.read_text())


if __name__ == "__main__":
    main()
