"""Pictures of a training run, as SVG files that hold their photos: a batch, and truth beside prediction.

They go wherever the model goes, so none of them shows a person.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import simplejpeg
import torch

from camtrap_batch.images import decode_upright
from camtrap_batch.images.pixels import Pixels
from camtrap_batch.model.batches import TrainBatches
from camtrap_batch.model.info import BATCH, RESULTS
from camtrap_batch.model.samples import Samples
from camtrap_batch.vocabulary import PERSONS

_CELLS, _COLUMNS = 24, 6
_WIDTH, _HEIGHT, _LINE, _GAP = 176, 132, 15, 10  # of a photo, of a line of text, between photos
_LONGEST = 27  # characters that fit under a photo
_QUALITY = 80


def draw_pictures(
    samples: Samples,
    batches: TrainBatches,
    mean: Sequence[float],
    std: Sequence[float],
    metrics: Mapping[str, Any],
) -> dict[str, str]:
    """File name -> SVG, for the model folder.

    Parameters
    ----------
    batches
        Batches of training images: the first one is shown.
    mean, std
        Normalisation of the batches, per channel, for pixel values between 0 and 1.
    metrics
        The result of `judging.judge`.
    """
    pictures = {}
    if (batch := next(iter(batches), None)) is not None:
        pictures[BATCH] = show_batch(*batch, mean, std, samples.classes)
    return pictures | draw_results(samples, metrics)


def draw_results(samples: Samples, metrics: Mapping[str, Any]) -> dict[str, str]:
    """Truth beside prediction, for the model folder."""
    judged = metrics.get("test") or metrics["valid"]
    return {RESULTS: show_results(samples, judged["worst"])}


def show_batch(
    images: torch.Tensor,
    truth: torch.Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    classes: Sequence[str],
) -> str:
    """The first images of a batch (n, 3, height, width), augmented and squeezed as the network sees them."""
    kept = [row for row, label in enumerate(truth.tolist()) if not _is_person(classes[label])][:_CELLS]
    shape = (1, 3, 1, 1)
    shown = images[kept].float().cpu() * torch.tensor(std).view(shape) + torch.tensor(mean).view(shape)
    pixels = (shown * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous().numpy()
    cells = [
        _Cell(picture, [(classes[label], "")])
        for picture, label in zip(pixels, truth[kept].tolist(), strict=True)
    ]
    return _sheet("A batch as the network sees it", cells)


def show_results(samples: Samples, worst: Sequence[Mapping[str, Any]]) -> str:
    """Truth beside prediction, the worst mistakes first; rows as in metrics.json's `worst`.

    For an image that crops were cut from, the first crop is shown; without crops there is nothing to show.
    """
    index_of: dict[str, int] = {}
    for index, image_id in enumerate(samples.image_ids):
        index_of.setdefault(image_id, index)
    rows = [row for row in worst if not (_is_person(row["truth"]) or _is_person(row["predicted"]))]
    cells = [
        _Cell(
            decode_upright(samples.jpegs[index_of[row["image_id"]]], _WIDTH),
            [
                (f"truth: {row['truth']}", ""),
                (f"predicted: {row['predicted']}", "right" if row["predicted"] == row["truth"] else "wrong"),
                (f"with {row['confidence']:.1%}; truth {row['p_truth']:.1%}", ""),
            ],
        )
        for row in [row for row in rows if row["image_id"] in index_of][:_CELLS]
    ]
    return _sheet("Truth and prediction, the worst mistakes first", cells)


def _is_person(label: str) -> bool:
    return label.casefold() in PERSONS


class _Cell(NamedTuple):
    picture: Pixels
    lines: list[tuple[str, str]]
    """Text and its style."""


def _sheet(title: str, cells: Sequence[_Cell]) -> str:
    columns = min(_COLUMNS, max(len(cells), 1))
    lines = max((len(cell.lines) for cell in cells), default=0)
    step_x, step_y = _WIDTH + _GAP, _HEIGHT + lines * _LINE + _GAP + 6
    width = _GAP + max(columns * step_x, 3 * step_x)
    height = 40 + -(-len(cells) // columns) * step_y
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}"'
        f' height="{height}" role="img">',
        "<style>text { font: 12px system-ui, sans-serif; fill: #1d2730 } .title { font-size: 15px;"
        " font-weight: 600 } .wrong, .right { font-size: 11px; font-weight: 600; fill: #0a5a4c }"
        " .wrong { fill: #b3261e }</style>",
        f"<title>{escape(title)}</title>",
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        f'<text class="title" x="{_GAP}" y="24">{escape(title)}</text>',
    ]
    for number, cell in enumerate(cells):
        x, y = _GAP + number % columns * step_x, 36 + number // columns * step_y
        parts.append(
            f'<image x="{x}" y="{y}" width="{_WIDTH}" height="{_HEIGHT}" href="{_data_url(cell.picture)}"/>'
        )
        for line, (text, style) in enumerate(cell.lines, 1):
            parts.append(
                f'<text class="{style}" x="{x}" y="{y + _HEIGHT + line * _LINE}">'
                f"<title>{escape(text)}</title>{escape(_shorten(text))}</text>"
            )
    return "\n".join([*parts, "</svg>", ""])


def _data_url(picture: Pixels) -> str:
    """A JPEG file, at most twice as large as it is displayed."""
    every = max(1, min(picture.shape[0] // (2 * _HEIGHT), picture.shape[1] // (2 * _WIDTH)))
    small: npt.NDArray[np.uint8] = np.ascontiguousarray(picture[::every, ::every])
    space = "GRAY" if small.shape[2] == 1 else "RGB"
    jpeg = simplejpeg.encode_jpeg(small, _QUALITY, colorspace=space)
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii")


def _shorten(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1].rstrip() + "…"
