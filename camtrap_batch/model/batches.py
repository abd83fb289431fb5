"""Batches of images for a network: shuffled and varied for training, in order for judging."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from camtrap_batch.images.pixels import Pixels
from camtrap_batch.model.decoding import Decoder, ahead
from camtrap_batch.model.device import Normalise

_FLIP, _INFRARED, _BANNER = 0.5, 0.15, 0.3
_FALLOFF = 0.6  # largest fraction of light missing in the corners of a picture taken with an infrared flash
_AT_BOTTOM = 0.8  # fraction of strips with date and temperature; the others are at the top
_STRIP = 0.03, 0.12  # their height, as fractions of the frame's
_ROTATE, _SHIFT = 0.15, 0.08  # radians; fraction of half the frame
_NEAREST, _FARTHEST = 0.85, 1.12  # fraction of the frame that is seen, on each axis
_FARTHEST_OF_CROPS = 1.25  # detectors draw boxes more or less tightly
_CONTRAST, _BRIGHTNESS = 0.25, 38.0  # factor and its inverse; of 255
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as in JPEG and Pillow

IGNORED = -100
"""In place of a class: the image counts for nothing (torch's default)."""

Batch = tuple[torch.Tensor, torch.Tensor]


class TrainBatches:
    """One pass yields every image about as often as its weight says, in a new order each time.

    With equal weights each image occurs exactly once. Otherwise images are drawn by systematic resampling: an
    image with k times the mean weight occurs k times, rounded up or down, never by chance much more or less
    often.

    Randomness in a pass depends only on the seed and the number of the pass.

    Parameters
    ----------
    decoder
        Where pixels come from.
    indices
        Shape (n,): indices of the training images in the decoder's files.
    truth
        Shape (n,): index of the right class of each.
    weights
        Shape (n,): how often each is shown, relative to the others.
    batch
        Maximum number of images in a batch; batches of one pass have nearly the same size.
    normalise
        From pixels to the network's input.
    seed
        Seed of order and augmentation.
    blocks, window
        Shape (n,) and a number: as in `Samples`. The order is random within a window that moves over blocks.
    part, parts
        Which part of each batch to yield, of how many: the others belong to other processes.
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
        *,
        blocks: npt.NDArray[np.int64] | None = None,
        window: int = 1,
        part: int = 0,
        parts: int = 1,
    ) -> None:
        self._decoder = decoder
        self._indices = indices
        self._truth = truth
        self._weights = np.asarray(weights, np.float64)
        self._batches = -(-len(indices) // batch)
        self._normalise = normalise
        self._seed = seed
        self._blocks, self._window = blocks, window
        self._part, self._parts = part, parts
        self.device = normalise.device
        self.next_pass = 0

    def __len__(self) -> int:
        return self._batches

    def __iter__(self) -> Iterator[Batch]:
        order = np.random.default_rng([self._seed, self.next_pass])
        variation = torch.Generator().manual_seed(int(order.integers(2**62)) + self._part)
        self.next_pass += 1
        margin = self._decoder.margin
        drawn = resample(self._weights, order)
        if self._blocks is not None:
            drawn = in_window(drawn, self._blocks, self._window, order)
        mine = [rows[self._part :: self._parts] for rows in np.array_split(drawn, self._batches)]
        for rows, pixels in load(self._decoder, self._indices, mine):
            if len(rows) < 2:  # batch normalisation can't learn from one image
                if self._parts > 1:
                    # The other processes wait for this one in every step, so it gets two images that count
                    # for nothing.
                    shape = (2, self._decoder.size, self._decoder.size, 3)
                    yield self._normalise(torch.zeros(shape, dtype=torch.uint8)), torch.tensor([IGNORED] * 2)
                continue
            images = self._normalise(torch.from_numpy(pixels), lambda images: vary(images, variation, margin))
            yield images, torch.from_numpy(self._truth[rows]).to(images.device)


class EvalBatches:
    """The images in order, unvaried; `truth` is in the same order. Parameters as for `TrainBatches`."""

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
        inside = slice(self._decoder.margin, self._decoder.side - self._decoder.margin)
        for rows, pixels in load(self._decoder, self._indices, parts):
            if len(rows):
                pixels = np.ascontiguousarray(pixels[:, inside, inside])
                images = self._normalise(torch.from_numpy(pixels))
                yield images, torch.from_numpy(self._truth[rows]).to(images.device)


def load(
    decoder: Decoder, indices: npt.NDArray[np.int64], parts: list[npt.NDArray[np.int64]]
) -> Iterator[tuple[npt.NDArray[np.int64], Pixels]]:
    """For each part (rows in `indices`): the images that decode, and their pixels; one part ahead."""

    def work(rows: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], Pixels]:
        good, pixels = decoder.get(indices[rows])
        if len(good) < len(rows):
            rows = rows[np.isin(indices[rows], good)]
        return rows, pixels

    return ahead(work, parts)


def resample(weights: npt.NDArray[np.float64], random: np.random.Generator) -> npt.NDArray[np.int64]:
    """As many indices as `weights` has entries, drawn in proportion to them and shuffled.

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


def in_window(
    drawn: npt.NDArray[np.int64], blocks: npt.NDArray[np.int64], window: int, random: np.random.Generator
) -> npt.NDArray[np.int64]:
    """The same indices in a different random order, in which about `window` blocks are in use at any time.

    Blocks begin one after another, in random order; the images of each are spread over the time in which as
    many blocks begin as the window holds. So one block is read at a time, just before it is needed.
    """
    _, number = np.unique(blocks[drawn], return_inverse=True)
    n_blocks = int(number.max()) + 1
    if n_blocks <= window:
        return drawn
    begins = random.permutation(n_blocks)[number]
    return drawn[np.argsort(begins + (window - 1) * random.random(len(drawn)), kind="stable")]


def vary(images: torch.Tensor, random: torch.Generator, margin: int = 0) -> torch.Tensor:
    """Each image mirrored, turned, moved, zoomed and lit a little differently, and some changed the way
    cameras change them.

    Some lose their colours as in infrared light: what reflects it is bright whatever its colour, and the
    flash reaches the corners less. Some have a strip at the top or bottom covered, where cameras print date,
    temperature and their maker's name: a model that reads those has learnt the camera.

    Nothing cuts much off: the animal may be at the border. One resampling of the whole batch takes 2 ms per
    image of 224 x 224 on two cores, a fifth of what fastai's `aug_transforms` takes.

    Parameters
    ----------
    images
        Shape (n, 3, height, width), float32 between 0 and 255.
    random
        Generator on the CPU, so that a seed means the same on every device.
    margin
        Extra pixels on each side, to move and widen what is seen; the result does not have them.
    """
    n, device = len(images), images.device

    def between(low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(n, generator=random)

    farthest = _FARTHEST_OF_CROPS if margin else _FARTHEST
    angle, seen = between(-_ROTATE, _ROTATE), between(_NEAREST, farthest)
    mirror = torch.where(torch.rand(n, generator=random) < _FLIP, -1.0, 1.0)
    across, down = between(-_SHIFT, _SHIFT), between(-_SHIFT, _SHIFT)
    top = torch.stack([seen * angle.cos() * mirror, -seen * angle.sin(), across], 1)
    bottom = torch.stack([seen * angle.sin() * mirror, seen * angle.cos(), down], 1)
    contrast = (1 + _CONTRAST) ** between(-1, 1)
    brightness = between(-_BRIGHTNESS, _BRIGHTNESS)
    infrared = torch.rand(n, generator=random) < _INFRARED
    banner = torch.rand(n, generator=random) < _BANNER
    strips = torch.stack([between(*_STRIP), between(0, 1), between(0, 255)], 1)[banner].tolist()
    mixes = torch.tensor(_LUMA) * torch.exp(torch.stack([between(-0.5, 0.5) for _ in range(3)], 1))
    falloff = between(0, _FALLOFF)

    for index, (height, where, shade) in zip(banner.nonzero().flatten().tolist(), strips, strict=True):
        rows = max(1, round(height * images.shape[2]))
        (images[index, :, -rows:] if where < _AT_BOTTOM else images[index, :, :rows]).fill_(shade)
    transform, shape = torch.stack([top, bottom], 1), list(images.shape)
    if margin:
        inside = [side - 2 * margin for side in shape[2:]]
        # From coordinates in the middle part to those in the whole picture: width first.
        transform *= torch.tensor([[inside[1] / shape[3]], [inside[0] / shape[2]]])
        shape[2:] = inside
    grid = functional.affine_grid(transform.to(device), shape, align_corners=False)
    images = functional.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    if infrared.any():
        images[infrared.to(device)] = _as_infrared(
            images[infrared.to(device)], mixes[infrared].to(device), falloff[infrared].to(device)
        )
    images = (images - 127.5).mul_(contrast.view(n, 1, 1, 1).to(device))
    return images.add_((brightness + 127.5).view(n, 1, 1, 1).to(device)).clamp_(0, 255)


def _as_infrared(images: torch.Tensor, mixes: torch.Tensor, falloff: torch.Tensor) -> torch.Tensor:
    """Grey images (n, 3, height, width) of channels mixed by `mixes` (n, 3), darker away from the middle."""
    mixes = mixes / mixes.sum(1, keepdim=True)
    grey = (images * mixes[:, :, None, None]).sum(1, keepdim=True)
    down = torch.linspace(-1, 1, images.shape[2], device=images.device)
    across = torch.linspace(-1, 1, images.shape[3], device=images.device)
    distance = (down[:, None] ** 2 + across[None, :] ** 2) / 2
    light = 1 - falloff.view(-1, 1, 1, 1) * distance
    return (grey * light).expand(-1, 3, -1, -1)
