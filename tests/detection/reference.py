"""Detectors of other people's packages, with random weights, and what their own software finds with them.

    python reference.py ultralytics|yolov5|rfdetr NAME,NAME OUT PHOTOS...

Run in a process of its own, with a folder on PYTHONPATH into which tests have installed the package; none is
a dependency. Writes OUT/NAME/NAME.onnx as the package's own exporter does, and OUT/NAME/NAME.json: for each
photo the boxes (left, top, right, bottom in pixels, confidence, class) that its own prediction gives.

Random weights find nothing: so the statistics of batch normalisation are taken from the photos, and the last
layers scaled, until the surest boxes of a photo have confidences from a few per cent up to nearly one.
"""

from __future__ import annotations

import copy
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFile, ImageOps
from torch import nn

SIZE = 320
LEAST = 0.25
_samples: dict[int, list[Any]] = {}
ImageFile.LOAD_TRUNCATED_IMAGES = True


def main(kind: str, names: str, out: str, *photos: str) -> None:
    for name in names.split(","):
        torch.manual_seed(7)
        np.random.seed(7)
        folder = Path(out, name)
        folder.mkdir(parents=True, exist_ok=True)
        os.chdir(folder)
        found = {"ultralytics": ultralytics, "yolov5": yolov5, "rfdetr": rfdetr}[kind](name, list(photos))
        Path(f"{name}.json").write_text(json.dumps(dict(zip(photos, found, strict=True))))


def sample(photos: list[str], size: int = SIZE) -> torch.Tensor:
    """Photos squeezed to squares: to see what values the layers have."""
    if size not in _samples:
        _samples[size] = [np.asarray(open_upright(photo).resize((size, size))) for photo in photos]
    some = _samples[size]
    return torch.from_numpy(np.stack(some)).permute(0, 3, 1, 2) / 255


def open_upright(photo: str) -> Image.Image:
    return ImageOps.exif_transpose(Image.open(photo)).convert("RGB")


def enliven(network: nn.Module, images: torch.Tensor) -> None:
    """Weights and statistics with which what a photo shows gets through all layers."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.weight.requires_grad:  # one that reads off boxes is fixed
            nn.init.kaiming_normal_(module.weight)
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
            module.reset_running_stats()
    network.eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train()
    with torch.no_grad():
        network(images)
    network.eval()


def scale(layers: list[nn.Module], logits: Any, share: float = 0.01) -> None:
    """Scale and shift last layers so that a share of the logits is above 0, few of them far."""
    with torch.no_grad():
        factor = 0.5 / float(logits().std())
        for layer in layers:
            layer.weight.mul_(factor)
            layer.bias.mul_(factor)
        values = logits().flatten().float()
        top = values.topk(max(1, int(share * len(values)))).values
        for layer in layers:
            layer.bias.sub_(top[-1])


def ultralytics(name: str, photos: list[str]) -> list[list[list[float]]]:
    from ultralytics import RTDETR, YOLO
    from ultralytics.nn.tasks import DetectionModel, RTDETRDetectionModel

    kind, build = (RTDETR, RTDETRDetectionModel) if "rtdetr" in name else (YOLO, DetectionModel)
    config = f"{name.partition('+')[0]}.yaml"
    model = kind(config)
    network = build(config, nc=3, verbose=False)
    network.args, network.task, model.model = model.model.args, "detect", network
    images = sample(photos)
    head = network.model[-1]
    enliven(network, images)
    if "rtdetr" in name:
        for part in head.dec_bbox_head:  # nought at first: all boxes would be where they are looked for
            nn.init.normal_(part.layers[-1].weight, std=0.1)
        scale([head.dec_score_head[-1]], lambda: torch.logit(network(images)[0][..., 4]), 0.1)
    else:
        for branch in ("cv3", "one2one_cv3"):
            if (sequences := getattr(head, branch, None)) is not None:
                layers = [sequence[-1] for sequence in sequences]
                scale(layers, lambda: torch.logit(scores_of(network, images, branch)))  # noqa: B023
    network.names = {0: "animal", 1: "person", 2: "vehicle"}
    save(network, name, {"task": "detect", "imgsz": SIZE})
    variant = name.partition("+")[2]
    options: dict[str, Any] = {"end2end": {"nms": False}, "suppressed": {"nms": True}}.get(variant, {})
    is_dynamic = variant not in ("fixed", "suppressed")
    path = model.export(format="onnx", imgsz=SIZE, opset=17, simplify=False, dynamic=is_dynamic, **options)
    Path(path).replace(f"{name}.onnx")
    # The exported network, by the package's own code for ONNX files.
    exported = kind(f"{name}.onnx")
    found = []
    for photo in photos:
        options = {"imgsz": SIZE, "conf": LEAST, "max_det": 300, "verbose": False}
        results = exported.predict(photo, **options)
        if not results:  # OpenCV reads no file that is cut off
            whole = np.asarray(open_upright(photo))
            results = exported.predict(np.ascontiguousarray(whole[..., ::-1]), **options)
        found.append(results[0].boxes.data.tolist())
    return found


def save(network: nn.Module, name: str, trained: dict[str, Any] | None = None) -> None:
    """Weights as the package keeps them after training: in short floats, the network's own classes."""
    short = copy.deepcopy(network).half()
    if trained:
        short.args = trained
    torch.save({"epoch": -1, "model": short, "ema": None, "train_args": trained}, f"{name}.pt")


def scores_of(network: nn.Module, images: torch.Tensor, branch: str) -> torch.Tensor:
    """Confidences of all boxes and classes in one branch of a head, before any is chosen."""
    raw = network(images)[1]
    raw = raw.get("one2one" if branch.startswith("one2one") else "one2many", raw)
    return raw["scores"].sigmoid()


def yolov5(name: str, photos: list[str]) -> list[list[list[float]]]:
    import functools

    from yolov5.export import export_onnx
    from yolov5.models import yolo
    from yolov5.utils.augmentations import letterbox
    from yolov5.utils.general import non_max_suppression, scale_boxes

    network = yolo.Model(str(Path(yolo.__file__).parent / f"{name}.yaml"), nc=3)
    images = sample(photos)
    enliven(network, images)
    network.names = {0: "animal", 1: "person", 2: "vehicle"}
    # Objectness and class both have to be sure. Before the sigmoid, which may be 1 to the last bit.
    scale(
        list(network.model[-1].m),
        lambda: torch.cat([level[..., 4:].flatten() for level in network(images)[1]]),
        0.4,
    )
    save(network, name)
    # Its export fuses and runs the network once, to fix what depends on sizes.
    network.fuse()
    network.model[-1].export = True
    torch.onnx.export = functools.partial(torch.onnx.export, dynamo=False)  # it knows the older one alone
    network.model[-1].dynamic = True
    network(images[:1])
    export_onnx(network, images[:1], Path(f"{name}.pt"), 17, True, False)
    network.model[-1].export = False
    found = []
    for photo in photos:
        image = open_upright(photo)
        whole = np.asarray(image)
        small = letterbox(whole, SIZE, stride=int(max(network.stride)), auto=True)[0]
        pixels = torch.from_numpy(np.ascontiguousarray(small.transpose(2, 0, 1))).float()[None] / 255
        with torch.no_grad():
            (boxes,) = non_max_suppression(network(pixels)[0], LEAST, 0.45, max_det=300)
        boxes[:, :4] = scale_boxes(pixels.shape[2:], boxes[:, :4], whole.shape)
        found.append(boxes.tolist())
    return found


def rfdetr(name: str, photos: list[str]) -> list[list[list[float]]]:
    from rfdetr import RFDETRNano

    # As many queries as there are cells, all alike: which cells are looked at, and in which order, hangs on
    # scores of random weights that are apart by less than two runtimes round.
    model = RFDETRNano(pretrain_weights=None, num_classes=3, num_queries=24 * 24)
    network = model.model.model.eval()
    with torch.no_grad():
        for queries in (network.refpoint_embed, network.query_feat):
            queries.weight.copy_(queries.weight[:1].expand_as(queries.weight))
    images = sample(photos, model.model.resolution)
    mean, std = torch.tensor(model.means), torch.tensor(model.stds)
    images = (images - mean[:, None, None]) / std[:, None, None]

    scale([network.class_embed], lambda: network(images)["pred_logits"], 0.05)
    found = []
    for photo in photos:
        image = open_upright(photo)
        result = model.predict(image, threshold=LEAST)
        rows = zip(result.xyxy.tolist(), result.confidence.tolist(), result.class_id.tolist(), strict=True)
        found.append([[*box, confidence, number] for box, confidence, number in rows])
    model.export(output_dir="rfdetr", verbose=False)
    (path,) = Path("rfdetr").glob("*.onnx")
    path.replace(f"{name}.onnx")
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
