"""SpeciesNet's classifier as an ONNX file, and its answers for some pictures. Run as a separate program.

    python speciesnet.py REQUEST.json

Imports nothing from camtrap_batch: it runs in any Python that has what the weights need (onnx2torch).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def main(request: dict[str, Any]) -> dict[str, Any]:
    import numpy as np
    import torch

    network = torch.load(request["weights"], map_location="cpu", weights_only=False)
    if not isinstance(network, torch.nn.Module):
        return {"problem": f"should hold a network of torch, and holds a {type(network).__name__}"}
    network = network.float().eval().requires_grad_(False)
    found = []
    with torch.inference_mode():
        for picture in request["pictures"]:
            pixels = prepare(picture, request["type"], request["size"])
            found.append(torch.softmax(network(pixels)[0].flatten().float(), 0).numpy())
    np.save(request["original"], np.stack(found))
    example = torch.zeros(2, request["size"], request["size"], 3)
    torch.onnx.export(
        network,
        (example,),
        request["onnx"],
        dynamo=False,
        opset_version=17,
        input_names=["pictures"],
        output_names=["logits"],
        dynamic_axes={"pictures": {0: "n"}, "logits": {0: "n"}},
    )
    return {"outputs": len(found[0])}


def prepare(picture: str, kind: str, size: int) -> Any:
    """A picture prepared as in speciesnet 5.0: (1, size, size, 3), values 0 to 1 in steps of 1/255."""
    import torch
    import torchvision.transforms.functional as transforms
    from PIL import Image, ImageFile, ImageOps

    ImageFile.LOAD_TRUNCATED_IMAGES = True
    with Image.open(picture) as opened:
        image = ImageOps.exif_transpose(opened.convert("RGB"))
    pixels = transforms.convert_image_dtype(transforms.pil_to_tensor(image), torch.float32)
    if kind == "full_image":
        height = max(int(image.height * 0.7), image.height - 400)
        pixels = transforms.center_crop(pixels, [height, image.width])
    pixels = transforms.resize(pixels, [size, size], antialias=False)
    whole = transforms.convert_image_dtype(pixels, torch.uint8)
    return whole.permute(1, 2, 0)[None].float() / 255


if __name__ == "__main__":
    asked = json.loads(Path(sys.argv[1]).read_text())
    try:
        told = main(asked)
    except ModuleNotFoundError as problem:
        told = {"missing": problem.name}
    except Exception as problem:  # other people's code may raise anything: the caller reports it on one line
        told = {"problem": f"{type(problem).__name__}: {problem}"}
    Path(asked["result"]).write_text(json.dumps(told))
