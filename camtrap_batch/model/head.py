"""A new last layer on an unchanged network: its features, and how they are classified.

Multinomial logistic regression with weights for rare classes, by scikit-learn. The regularisation is chosen
on cameras of the training split that the layer is not fitted on; the split that judges the model takes no
part.
"""

from __future__ import annotations

import dataclasses
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import GroupKFold
from torch import nn

from camtrap_batch.detection.crops import Picture, decode_picture
from camtrap_batch.errors import JobError
from camtrap_batch.images.framing import Framing
from camtrap_batch.model.architectures import create_model, evaluation, head_parameters
from camtrap_batch.model.decoding import ahead
from camtrap_batch.model.device import Autocast, Normalise, choose_device
from camtrap_batch.model.info import ModelInfo
from camtrap_batch.model.judging import judge_logits, keep_random_images, summary
from camtrap_batch.model.package import load_model, save_model
from camtrap_batch.model.samples import Samples
from camtrap_batch.model.sheets import draw_results
from camtrap_batch.runtime import count_threads

_STRENGTHS = (0.01, 0.1, 1.0, 10.0)
"""scikit-learn's C: a larger value means less regularisation."""

_MOST_ITERATIONS = 300
_FOLDS, _MOST_TO_CHOOSE = 3, 6000

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Backbone:
    """A network without its last layer.

    Attributes
    ----------
    network : the whole network, in evaluation mode on the CPU
    info : the model that it comes from; for published or other weights, what is known about them
    layer : name of the last layer, which is linear
    """

    network: nn.Module
    info: ModelInfo
    layer: str


def open_backbone(folder: Path | None, arch: str, weights: str, size: int) -> Backbone:
    """The network whose features are taken.

    Parameters
    ----------
    folder : a model folder; None: published or other weights
    arch, weights, size : for these weights, as in the job's `train`

    Raises
    ------
    JobError
        Its last layer is not linear, or it has several.
    """
    if folder is not None:
        network, info = load_model(folder)
    else:
        published = evaluation(arch)
        network = create_model(arch, 2, weights, size).eval()
        info = ModelInfo("", arch, (), (), size, published.mean, published.std, 1.0)
    head = head_parameters(network)
    (layer, *others) = {name.rpartition(".")[0] for name in head}
    found = network.get_submodule(layer)
    if others or not isinstance(found, nn.Linear) or found.bias is None:
        raise JobError(f"train.method: head: the last layer of {info.arch} is not a linear one; use finetune")
    return Backbone(network, info, layer)


class Featurer:
    """Computes features of pictures, on a worker."""

    def __init__(self, backbone: Backbone, device: str, threads: int, batch: int) -> None:
        self.info = backbone.info
        self._device = choose_device(device)
        self._threads, self._batch = count_threads(threads), batch
        # In full precision: a last layer is fitted to the result, and predictions are compared with that.
        self._network = Autocast.on(self._device, backbone.network, torch.float32).eval()
        self._normalise = Normalise(self.info.mean, self.info.std, self._device)
        self._given: list[torch.Tensor] = []
        backbone.network.get_submodule(backbone.layer).register_forward_pre_hook(
            lambda _, inputs: self._given.append(inputs[0])
        )

    def compute(self, pictures: Iterable[tuple[int, Picture]]) -> Iterator[tuple[int, Floats]]:
        """For each picture that decodes: its number, and the features (boxes or 1, width) of what is seen in
        it."""
        torch.set_num_threads(self._threads)
        with ThreadPoolExecutor(self._threads) as pool:

            def decode(some: tuple[tuple[int, Picture], ...]) -> list[tuple[int, npt.NDArray[np.uint8]]]:
                found = pool.map(lambda one: (one[0], _decode(one[1], self.info.framing)), some)
                return [(number, squares) for number, squares in found if squares is not None]

            for decoded in ahead(decode, _chunks(pictures, self._batch)):
                if not decoded:
                    continue
                squares = np.concatenate([squares for _, squares in decoded])
                features = np.concatenate(
                    [self._forward(squares[i : i + self._batch]) for i in range(0, len(squares), self._batch)]
                )
                start = 0
                for number, mine in decoded:
                    yield number, features[start : start + len(mine)]
                    start += len(mine)

    def _forward(self, squares: npt.NDArray[np.uint8]) -> Floats:
        self._given.clear()
        with torch.inference_mode():
            self._network(self._normalise(torch.from_numpy(squares)))
        features: Floats = self._given.pop().float().cpu().numpy()
        if features.ndim != 2:
            raise JobError(f"train.method: head: {self.info.arch} gives its last layer no list of features")
        return features


def _chunks(pictures: Iterable[tuple[int, Picture]], size: int) -> Iterator[tuple[tuple[int, Picture], ...]]:
    waiting = iter(pictures)
    while some := tuple(islice(waiting, size)):
        yield some


def _decode(picture: Picture, framing: Framing) -> npt.NDArray[np.uint8] | None:
    try:
        return decode_picture(picture, framing)
    except (ValueError, OSError):
        return None


@dataclass(frozen=True)
class HeadResult:
    """The result of fitting a head: the model's id, and its figures as in metrics.json."""

    model_id: str
    metrics: dict[str, Any]


def train_head(
    samples: Samples,
    features: Floats,
    backbone: Backbone,
    folder: str | Path,
    provenance: Mapping[str, Any],
    *,
    balance: str,
    seed: int,
    tell: Callable[[dict[str, Any]], None] = lambda event: None,
) -> HeadResult:
    """Fit a last layer, judge it, and save the network with it as `<folder>/<model id>`.

    Parameters
    ----------
    features
        Shape (n, width): features of each sample.
    balance
        "none": all images count the same; otherwise according to their weights.
    tell
        Like `on_progress` of `learner.train`.

    Raises
    ------
    JobError
        Nothing to train or validate on.
    """
    samples.check()
    samples = keep_random_images(samples, seed)
    began = time.perf_counter()
    training = samples.of_split("train")
    weights = np.ones(len(training)) if balance == "none" else samples.weights[training].astype(np.float64)
    locations = np.asarray([samples.locations[index] for index in training.tolist()], object)
    tell({"phase": "note", "text": f"a last layer is fitted to the features of {len(training):,} samples"})
    strength, weight, bias = fit_head(features[training], samples.truth[training], weights, locations)

    def logits_of(indices: npt.NDArray[np.int64]) -> tuple[Floats, npt.NDArray[np.int64]]:
        return features[indices] @ weight.T + bias, indices

    metrics = judge_logits(logits_of, samples)
    metrics["training"] = {
        "method": "head",
        "images": len({samples.image_ids[index] for index in training.tolist()}),
        **({"crops": len(training)} if samples.frames is not None else {}),
        "strength": strength,
        "seconds": round(time.perf_counter() - began, 1),
        "device": "cpu",
        "notes": [],
    }
    info = dataclasses.replace(
        backbone.info,
        model_id="",
        classes=tuple(samples.classes),
        category_ids=tuple(tuple(samples.category_ids[label]) for label in samples.classes),
        temperature=metrics["temperature"],
        provenance=dict(provenance),
        metrics=summary(metrics),
        on=metrics["on"],
    )
    network = with_head(backbone, weight, bias)
    pictures = draw_results(samples, metrics)
    saved = save_model(folder, network, info, metrics, [], pictures=pictures)
    return HeadResult(saved.model_id, metrics)


def fit_head(
    features: Floats,
    truth: npt.NDArray[np.int64],
    weights: npt.NDArray[np.float64],
    groups: npt.NDArray[Any],
) -> tuple[float, Floats, Floats]:
    """Fit a linear layer: its regularisation (C), weight (classes, width) and bias (classes,).

    Parameters
    ----------
    features
        Shape (n, width).
    truth
        Shape (n,): index of the right class; every class occurs.
    weights
        Shape (n,): how much each counts.
    groups
        Shape (n,): camera of each sample.
    """
    mean, spread = features.mean(axis=0), features.std(axis=0)
    spread[spread < 1e-6] = 1.0
    scaled = (features - mean) / spread
    weights = weights / weights.mean()
    strength = _choose(scaled, truth, weights, groups)
    model = _regression(strength, scaled, truth, weights)
    weight, bias = model.coef_, model.intercept_
    if len(bias) == 1:  # for two classes it returns the second's advantage
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    weight = weight / spread
    return strength, weight.astype(np.float32), (bias - weight @ mean).astype(np.float32)


def _choose(
    scaled: Floats, truth: npt.NDArray[np.int64], weights: npt.NDArray[np.float64], groups: npt.NDArray[Any]
) -> float:
    """The member of `_STRENGTHS` that is best on cameras that the layer was not fitted on."""
    n_groups = len(set(groups.tolist()))
    if n_groups < 2:
        return 1.0
    some = np.random.default_rng(0).permutation(len(truth))[:_MOST_TO_CHOOSE]
    labels = np.unique(truth)
    losses = np.zeros(len(_STRENGTHS))
    for fitted, judged in GroupKFold(min(_FOLDS, n_groups)).split(some, groups=groups[some]):
        inside, outside = some[fitted], some[judged]
        if len(np.unique(truth[inside])) < len(labels):  # a class with few cameras: no comparison is possible
            outside = outside[np.isin(truth[outside], truth[inside])]
        if not len(outside) or len(np.unique(truth[inside])) < 2:
            continue
        for number, strength in enumerate(_STRENGTHS):
            model = _regression(strength, scaled[inside], truth[inside], weights[inside])
            probs = model.predict_proba(scaled[outside])
            losses[number] += log_loss(
                truth[outside], probs, sample_weight=weights[outside], labels=model.classes_
            ) * len(outside)
    return _STRENGTHS[int(losses.argmin())] if losses.any() else 1.0


def _regression(
    strength: float, scaled: Floats, truth: npt.NDArray[np.int64], weights: npt.NDArray[np.float64]
) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the result is then close enough
        return LogisticRegression(C=strength, max_iter=_MOST_ITERATIONS).fit(
            scaled, truth, sample_weight=weights
        )


def with_head(backbone: Backbone, weight: Floats, bias: Floats) -> nn.Module:
    """A copy of the network with another last layer."""
    info = backbone.info
    network = create_model(info.arch, len(bias), size=info.size, pool=info.pool)
    state = dict(backbone.network.state_dict())
    state[f"{backbone.layer}.weight"] = torch.from_numpy(weight)
    state[f"{backbone.layer}.bias"] = torch.from_numpy(bias)
    network.load_state_dict(state)
    return network.eval()


def carry_over(folder: Path, classes: list[str]) -> dict[str, torch.Tensor]:
    """The tensors of a model folder, to continue from with other classes.

    The last layer has those of the classes that both have; a new class begins with their mean. With no class
    in common the last layer is left out.
    """
    network, info = load_model(folder)
    state = dict(network.state_dict())
    if list(info.classes) == classes:
        return state
    rows = [info.classes.index(label) if label in info.classes else -1 for label in classes]
    known = [row for row in rows if row >= 0]
    for name in head_parameters(network):
        old = state.pop(name)
        if known and old.shape[0] == len(info.classes):
            mean = old[known].mean(dim=0)
            state[name] = torch.stack([old[row] if row >= 0 else mean for row in rows])
    return state
