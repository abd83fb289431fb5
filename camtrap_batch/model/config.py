"""How a classifier is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class TrainConfig:
    """Settings of one training run; the first eight are the job file's `train` block.

    Attributes
    ----------
    arch
        A torchvision or timm classification architecture.
    weights
        "imagenet" (downloaded by torchvision or timm), "none", or the path of a .safetensors file or of a
        torch state dict. The head's own tensors are left out if the number of classes differs.
    size
        Side of the model's square input, in pixels.
    epochs
        Passes over the training images.
    batch
        Images per training step.
    lr
        Highest learning rate of the one-cycle schedule, or "find".
    balance
        What makes rare classes count: "sampling" (an image is shown as often as its weight says), "weights"
        (each is shown once an epoch, its loss counts as its weight says) or "none".
    patience
        Epochs without a smaller loss on valid after which training stops; then the best epoch is kept. None:
        train all epochs and keep the last one.
    seed
        Seed of initial weights, order of images and augmentation.
    threads
        Threads of torch and of decoding; None: one for each CPU this process may use.
    device
        "auto": CUDA if torch finds it.
    cache_bytes
        Memory for decoded images, in bytes; what does not fit is decoded again in each epoch.
        None: a quarter of the memory that is free at the start.
    """

    arch: str = "resnet34"
    weights: str = "imagenet"
    size: int = 224
    epochs: int = 5
    batch: int = 64
    lr: float | Literal["find"] = "find"
    balance: Literal["sampling", "weights", "none"] = "sampling"
    patience: int | None = None
    seed: int = 42
    threads: int | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    cache_bytes: int | None = None
