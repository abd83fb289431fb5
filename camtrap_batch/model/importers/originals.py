"""Pictures as an original sees them, prepared by Pillow and torchvision alone, for comparing imports."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import torch
from PIL import Image, ImageOps
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as transforms

from camtrap_batch.images.framing import BAR
from camtrap_batch.model.info import ModelInfo


def open_upright(data: bytes) -> Image.Image:
    """An image file in RGB, turned as EXIF says."""
    with Image.open(io.BytesIO(data)) as image:
        return ImageOps.exif_transpose(image).convert("RGB")


def as_described(info: ModelInfo) -> Callable[[Image.Image], torch.Tensor]:
    """From an RGB picture to a normalised tensor (3, size, size), as a card describes it."""
    framing = info.framing
    how = InterpolationMode(framing.interpolation)

    def transform(image: Image.Image) -> torch.Tensor:
        size, side = framing.size, framing.side
        picture: Any = image
        if not framing.antialias:
            picture = transforms.convert_image_dtype(transforms.pil_to_tensor(image), torch.float32)
        if any(framing.trim):
            part, most = framing.trim
            kept = max(int(image.height * (1 - part)), image.height - most)
            picture = transforms.center_crop(picture, [kept, image.width])
        if framing.resize == "letterbox":
            scale = side / max(image.size)
            wanted = [max(1, int(image.height * scale)), max(1, int(image.width * scale))]
        else:
            wanted = [side, side] if framing.resize == "squash" else [side]
        picture = transforms.resize(picture, wanted, how, antialias=framing.antialias)
        if isinstance(picture, Image.Image):
            picture = transforms.to_tensor(picture)
        height, width = picture.shape[1:]
        left, top = max(0, size - width), max(0, size - height)
        edges = [left // 2, top // 2, left - left // 2, top - top // 2]
        picture = transforms.center_crop(transforms.pad(picture, edges, fill=BAR / 255), [size, size])
        normalised: torch.Tensor = transforms.normalize(picture, list(info.mean), list(info.std))
        return normalised

    return transform
