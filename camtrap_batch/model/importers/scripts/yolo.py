"""A detector of YOLOv5 or ultralytics as an ONNX file, and what it finds in some pictures.

    python yolo.py REQUEST.json

A separate program, which imports nothing from camtrap_batch: it runs in any Python that has the package the
weights need, whose licence (AGPL) is not ours.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from pathlib import Path
from typing import Any

LEAST = 0.005


def main(request: dict[str, Any]) -> dict[str, Any]:
    import torch

    spec = importlib.util.find_spec("yolov5")
    if spec is not None and spec.submodule_search_locations and not _has_models():
        # Weights name the modules as a clone of YOLOv5's repository has them.
        sys.path.insert(0, next(iter(spec.submodule_search_locations)))
    try:
        content = torch.load(request["weights"], map_location="cpu", weights_only=False)
    except AttributeError as problem:  # a class that the package does not have
        program = "made by another program than yolov5 or ultralytics, or by another version of it"
        return {"problem": f"{program} ({problem}): export it there as ONNX, and import that file"}
    network = content.get("ema") or content.get("model") if isinstance(content, dict) else content
    if not isinstance(network, torch.nn.Module):
        return {"problem": f"should hold a network of YOLOv5 or ultralytics; it holds {kind_of(network)}"}
    if type(network).__module__.partition(".")[0] == "ultralytics":
        return of_ultralytics(request)
    return of_yolov5(request, network.float().eval())


def of_ultralytics(request: dict[str, Any]) -> dict[str, Any]:
    """Use the package's own exporter, and its own prediction from the weights themselves."""
    from ultralytics import RTDETR, YOLO

    # Its exporter writes beside the weights, over any file of that name: so not where the user keeps them.
    weights = f"{Path(request['weights']).stem}.pt"
    shutil.copyfile(request["weights"], weights)
    model = YOLO(weights)
    if model.task != "detect":
        return {"problem": f"not a detector: its task is {model.task!r}"}
    head = type(model.model.model[-1]).__name__
    if "RTDETR" in head:
        model = RTDETR(weights)
    size = request["size"] or model.overrides.get("imgsz") or 640
    size = max(size) if isinstance(size, list | tuple) else size
    found = []
    for picture in request["pictures"]:
        results = model.predict(
            pixels_of(picture)[..., ::-1], imgsz=size, conf=LEAST, max_det=300, device="cpu", verbose=False
        )
        found.append(results[0].boxes.data.tolist())
    keep_numbers(request, model.model.float().eval(), int(max(model.model.stride)))
    path = model.export(format="onnx", imgsz=size, opset=17, simplify=False, dynamic=True, device="cpu")
    shutil.move(path, request["onnx"])
    names = model.names
    return {
        "found": found,
        "way": "ultralytics' own prediction",
        "card": {"size": size, "names": [str(names[number]) for number in range(len(names))]},
    }


def of_yolov5(request: dict[str, Any], network: Any) -> dict[str, Any]:
    import torch

    mend(network)
    if hasattr(network, "fuse"):
        network.fuse()
    layers = network.model if hasattr(network, "model") else network
    head = list(layers.children())[-1]
    if not hasattr(head, "anchors") or not hasattr(head, "stride"):
        return {"problem": f"its last layer is not YOLOv5's, with anchors and stride: {kind_of(head)}"}
    stride = int(max(head.stride))
    size = request["size"] or (1280 if stride >= 64 else 640)
    names = network.names
    names = [names[number] for number in range(len(names))] if isinstance(names, dict) else list(names)
    found, way = [], "YOLOv5's own letterbox and suppression"
    try:
        from utils.augmentations import letterbox
        from utils.general import non_max_suppression

        try:
            from utils.general import scale_boxes
        except ImportError:
            from utils.general import scale_coords as scale_boxes
    except ModuleNotFoundError:
        return {"missing": "yolov5"}
    with torch.no_grad():
        for picture in request["pictures"]:
            whole = pixels_of(picture)
            small = letterbox(whole, size, stride=stride, auto=True)[0]
            pixels = torch.from_numpy(small.transpose(2, 0, 1).copy()).float()[None] / 255
            (boxes,) = non_max_suppression(network(pixels)[0], LEAST, 0.45, max_det=300)
            boxes[:, :4] = scale_boxes(pixels.shape[2:], boxes[:, :4], whole.shape)
            found.append(boxes.tolist())
    keep_numbers(request, network, stride)
    head.export = head.dynamic = True
    example = torch.zeros(1, 3, 2 * stride, 2 * stride)
    with torch.no_grad():
        outputs = network(example)
    n_outputs = len(outputs) if isinstance(outputs, list | tuple) else 1
    if n_outputs != 1:
        return {"problem": f"this YOLOv5 gives {n_outputs} outputs when it is exported; install yolov5 7.0"}
    torch.onnx.export(
        network,
        (example,),
        request["onnx"],
        dynamo=False,
        opset_version=17,
        input_names=["images"],
        output_names=["output0"],
        dynamic_axes={"images": {0: "n", 2: "height", 3: "width"}, "output0": {0: "n", 1: "boxes"}},
    )
    card = {"size": size, "stride": stride, "names": names, "layout": "yolov5", "iou": 0.45}
    return {"found": found, "way": way, "card": card}


def keep_numbers(request: dict[str, Any], network: Any, stride: int) -> None:
    """The network's own outputs for a frame of noise."""
    import numpy as np
    import torch

    generator = torch.Generator().manual_seed(1)
    frame = torch.rand(1, 3, 4 * stride, 6 * stride, generator=generator)
    with torch.no_grad():
        output = network(frame)
    while isinstance(output, list | tuple):
        output = output[0]
    if isinstance(output, torch.Tensor):
        np.savez(request["raw"], frame=frame.numpy(), output=output.numpy())


def mend(network: Any) -> None:
    """Add what modules saved by an earlier torch or YOLOv5 lack today."""
    import torch

    for module in network.modules():
        if isinstance(module, torch.nn.Upsample) and not hasattr(module, "recompute_scale_factor"):
            module.recompute_scale_factor = None
        if hasattr(module, "anchors") and hasattr(module, "nl"):
            module.inplace = False
            if not isinstance(getattr(module, "anchor_grid", []), list):  # a tensor before 6.0
                delattr(module, "anchor_grid")
                module.anchor_grid = [torch.zeros(1)] * module.nl
            if not isinstance(getattr(module, "grid", None), list):
                module.grid = [torch.zeros(1)] * module.nl


def pixels_of(picture: str) -> Any:
    """A picture turned as EXIF says: (height, width, 3), RGB."""
    import numpy as np
    from PIL import Image, ImageFile, ImageOps

    ImageFile.LOAD_TRUNCATED_IMAGES = True
    with Image.open(picture) as image:
        return np.ascontiguousarray(ImageOps.exif_transpose(image).convert("RGB"))


def kind_of(thing: object) -> str:
    return f"{type(thing).__module__}.{type(thing).__qualname__}"


def _has_models() -> bool:
    try:
        return importlib.util.find_spec("models.yolo") is not None
    except ModuleNotFoundError:
        return False


if __name__ == "__main__":
    asked = json.loads(Path(sys.argv[1]).read_text())
    try:
        told = main(asked)
    except ModuleNotFoundError as problem:
        told = {"missing": problem.name}
    except Exception as problem:  # other people's code may raise anything: the caller reports it on one line
        told = {"problem": f"{type(problem).__name__}: {problem}"}
    Path(asked["result"]).write_text(json.dumps(told))
