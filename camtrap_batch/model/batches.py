"""Batches of images for a network: shuffled and varied for training, in order for judging."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from camtrap_batch.images.pixels import Pixels
from camtrap_batch.model.device import Normalise
from camtrap_batch.model.pixels import Decoder, ahead

_FLIP, _GREY = 0.5, 0.15
_ROTATE, _SHIFT = 0.15, 0.08  # radians; part of the half frame
_NEAREST, _FARTHEST = 0.85, 1.12  # how much of the frame is seen, on each axis
_CONTRAST, _BRIGHTNESS = 0.25, 38.0  # factor and its inverse; of 255
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as JPEG and Pillow have it

Batch = tuple[torch.Tensor, torch.Tensor]


class TrainBatches:
    """One pass gives every image about as often as its weight says, in a new order each time.

    With equal weights each image comes exactly once. Else images are drawn by systematic resampling: an image
    with k times the mean weight comes k times, rounded up or down, never by luck much more or less.

    Parameters
    ----------
    decoder
        Where pixels come from.
    indices
        Shape (n,): the training images' places in the decoder's files.
    truth
        Shape (n,): index of the right class of each.
    weights
        Shape (n,): how often each is shown, relative to the others.
    batch
        Most images in a batch; batches of one pass are of nearly the same size.
    normalise
        From pixels to the network's input.
    seed
        Of order and augmentation.
    """

    def __init__(
        self,
        decoder: Decoder,
        indices: npt.NDArray[np.int64],
        truth: npt.NDArray[np.int64],
        weights: npt.NDArray[np.float32],
        batch: int,
        normalise: Normalise,
        seed: int,
    ) -> None:
        self._decoder = decoder
        self._indices = indices
        self._truth = truth
        self._weights = np.asarray(weights, np.float64)
        self._batches = -(-len(indices) // batch)
        self._normalise = normalise
        self.device = normalise.device
        self._order = np.random.default_rng(seed)
        self._variation = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return self._batches

    def __iter__(self) -> Iterator[Batch]:
        drawn = resample(self._weights, self._order)
        for places, pixels in load(self._decoder, self._indices, np.array_split(drawn, self._batches)):
            if len(places) < 2:
                continue  # batch normalisation can't learn from one image
            images = self._normalise(torch.from_numpy(pixels), self._vary)
            yield images, torch.from_numpy(self._truth[places]).to(images.device)

    def _vary(self, images: torch.Tensor) -> torch.Tensor:
        return vary(images, self._variation)


class EvalBatches:
    """The images in order, unvaried; `truth` follows them. Parameters as for `TrainBatches`."""

    def __init__(
        self,
        decoder: Decoder,
        indices: npt.NDArray[np.int64],
        truth: npt.NDArray[np.int64],
        batch: int,
        normalise: Normalise,
    ) -> None:
        self._decoder = decoder
        self._indices = indices
        self._truth = truth
        self._batches = max(1, -(-len(indices) // batch))
        self._normalise = normalise

    def __len__(self) -> int:
        return self._batches

    def __iter__(self) -> Iterator[Batch]:
        parts = np.array_split(np.arange(len(self._indices)), self._batches)
        for places, pixels in load(self._decoder, self._indices, parts):
            if len(places):
                images = self._normalise(torch.from_numpy(pixels))
                yield images, torch.from_numpy(self._truth[places]).to(images.device)


def load(
    decoder: Decoder, indices: npt.NDArray[np.int64], parts: list[npt.NDArray[np.int64]]
) -> Iterator[tuple[npt.NDArray[np.int64], Pixels]]:
    """For each part (places in `indices`): the places that decode, and their pixels; one part ahead."""

    def work(places: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], Pixels]:
        good, pixels = decoder.get(indices[places])
        if len(good) < len(places):
            places = places[np.isin(indices[places], good)]
        return places, pixels

    return ahead(work, parts)


def resample(weights: npt.NDArray[np.float64], random: np.random.Generator) -> npt.NDArray[np.int64]:
    """As many places in `weights` as it has, drawn in proportion to it and shuffled.

    Systematic resampling: one random offset, then equal steps (Douc, Cappé, Moulines 2005, Comparison of
    resampling schemes for particle filtering).
    """
    n = len(weights)
    order = random.permutation(n)
    if np.all(weights == weights[0]):
        return order
    edges = np.cumsum(weights[order]) / weights.sum() * n
    drawn = order[np.minimum(np.searchsorted(edges, np.arange(n) + random.random(), side="right"), n - 1)]
    return random.permutation(drawn)


def vary(images: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """Each image mirrored, turned, moved, zoomed, lit a little differently; some grey, as in infrared light.

    Nothing that cuts much off: the animal may be at the border. One resampling of the whole batch takes 2 ms
    an image of 224 x 224 on two cores, a fifth of what fastai's `aug_transforms` takes.

    Parameters
    ----------
    images
        Shape (n, 3, height, width), float32 between 0 and 255.
    random
        Generator on the CPU, so that a seed means the same on every device.
    """
    n = len(images)

    def between(low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(n, generator=random)

    angle, seen = between(-_ROTATE, _ROTATE), between(_NEAREST, _FARTHEST)
    mirror = torch.where(torch.rand(n, generator=random) < _FLIP, -1.0, 1.0)
    across, down = between(-_SHIFT, _SHIFT), between(-_SHIFT, _SHIFT)
    top = torch.stack([seen * angle.cos() * mirror, -seen * angle.sin(), across], 1)
    bottom = torch.stack([seen * angle.sin() * mirror, seen * angle.cos(), down], 1)
    contrast = (1 + _CONTRAST) ** between(-1, 1)
    brightness = between(-_BRIGHTNESS, _BRIGHTNESS)
    grey = torch.rand(n, generator=random) < _GREY

    device = images.device
    grid = functional.affine_grid(
        torch.stack([top, bottom], 1).to(device), list(images.shape), align_corners=False
    )
    images = functional.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    luma = torch.tensor(_LUMA, device=device).view(1, 3, 1, 1)
    grey = grey.to(device)
    images[grey] = (images[grey] * luma).sum(1, keepdim=True).expand(-1, 3, -1, -1)
    images = (images - 127.5).mul_(contrast.view(n, 1, 1, 1).to(device))
    return images.add_((brightness + 127.5).view(n, 1, 1, 1).to(device)).clamp_(0, 255)
