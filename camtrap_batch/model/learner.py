"""Train a classifier with fastai, judge it on cameras it has not seen, keep it as a model folder."""

from __future__ import annotations

import contextlib
import math
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from torch import nn

from camtrap_batch.errors import StageError
from camtrap_batch.model.architectures import create_model, head_parameters, normalisation
from camtrap_batch.model.batches import EvalBatches, TrainBatches
from camtrap_batch.model.config import TrainConfig
from camtrap_batch.model.device import (
    Autocast,
    Normalise,
    choose_device,
    choose_precision,
    choose_threads,
)
from camtrap_batch.model.figures import draw_pictures
from camtrap_batch.model.info import ModelInfo
from camtrap_batch.model.judging import REPORT_EVERY_S, Progress, judge, keep_random_images, summary
from camtrap_batch.model.package import save_model
from camtrap_batch.model.pixels import Decoder
from camtrap_batch.model.samples import Samples

with warnings.catch_warnings():
    # fastai 2.8 uses torch.jit.script, which torch deprecates
    warnings.simplefilter("ignore", FutureWarning)
    import fastai.callback.schedule  # noqa: F401 - gives Learner lr_find, fit_one_cycle and fine_tune
    from fastai.callback.core import Callback, CancelFitException
    from fastai.callback.fp16 import AMPMode, MixedPrecision
    from fastai.callback.progress import ProgressCallback
    from fastai.data.core import DataLoaders
    from fastai.learner import Learner
    from fastai.optimizer import Adam

LABEL_SMOOTHING = 0.05
_LR_STEPS = 100
_FEW_FAILED, _MOST_FAILED = 3, 0.02
"""How many images, and what part of them, may fail to decode: more is a wrong folder, not a few bad files."""


@dataclass(frozen=True)
class TrainResult:
    """What a training run gave: the model's id, its figures as in metrics.json, and how long it took."""

    model_id: str
    metrics: dict[str, Any]
    seconds: float


def train(
    samples: Samples,
    config: TrainConfig,
    folder: str | Path,
    provenance: Mapping[str, Any],
    on_progress: Progress = lambda event: None,
) -> TrainResult:
    """Train a classifier and save it as `<folder>/<model id>`.

    From random weights the whole network learns under a one-cycle schedule (Smith 2018, arXiv 1803.09820).
    With given weights it is fastai's `fine_tune`: one epoch for the head alone, the others for everything,
    the early layers with a smaller learning rate. Same seed, machine and library versions: same model.

    Parameters
    ----------
    samples
        Images of the splits train, valid and, if there are any, test.
    config
        Settings.
    folder
        Folder of models.
    provenance
        Where the samples come from; goes into model.json as it is.
    on_progress
        Called about once a second and at the end of each epoch with a dict: `phase` ("lr_find", "train" or
        "evaluate": the finished model), `epoch` and `epochs`, `batch` and `batches`, `images_per_s`; after
        a training step `train_loss` and `lr`; at an epoch's end `valid_loss`, `accuracy` and
        `balanced_accuracy` too. An exception from it ends the training.

    Raises
    ------
    JobError
        Nothing to train or validate on, an unknown architecture, a device that is not there.
    InputError
        The given weights can't be had.
    StageError
        The loss is no longer a finite number, or too many images don't decode. No model is left behind.
    """
    samples.check()
    samples = keep_random_images(samples, config.seed)
    began = time.perf_counter()
    device = choose_device(config.device)
    threads = choose_threads(config.threads)
    torch.set_num_threads(threads)  # Dask's nanny sets OMP_NUM_THREADS=1
    torch.manual_seed(config.seed)
    network = create_model(config.arch, len(samples.classes), config.weights, config.size)
    mean, std = normalisation(config.arch)
    normalise = Normalise(mean, std, device)
    cache = psutil.virtual_memory().available // 4 if config.cache_bytes is None else config.cache_bytes
    with Decoder(samples.jpegs, config.size, threads, cache) as decoder, _reproducible():
        truth = samples.truth
        training, valid = samples.of_split("train"), samples.of_split("valid")
        weights = samples.weights[training]
        reporter = _Reporter(len(samples.classes), lambda: _check_failed(decoder, samples), on_progress)
        learn = _learner(
            network,
            TrainBatches(decoder, training, truth[training], weights, config.batch, normalise, config.seed),
            EvalBatches(decoder, valid, truth[valid], config.batch, normalise),
            device,
            reporter,
        )
        rate, searched = _fit(learn, reporter, config)
        metrics = judge(learn.model, decoder, samples, config.batch, normalise, on_progress)
        shown = TrainBatches(
            decoder, training, truth[training], weights, config.batch, normalise, config.seed
        )
        pictures = draw_pictures(samples, shown, mean, std, metrics)
    seconds = time.perf_counter() - began
    metrics["training"] = {
        "images": len(training),
        "epochs": config.epochs,
        "lr": rate,
        "seconds": round(seconds, 1),
        "device": device.type,
        "precision": str(choose_precision(device)).removeprefix("torch."),
    }
    metrics["not_decoded"] = {samples.image_ids[index]: why for index, why in sorted(decoder.failed.items())}
    info = ModelInfo(
        model_id="",
        arch=config.arch,
        classes=tuple(samples.classes),
        category_ids=tuple(tuple(samples.category_ids[label]) for label in samples.classes),
        size=config.size,
        mean=mean,
        std=std,
        temperature=metrics["temperature"],
        provenance=dict(provenance),
        metrics=summary(metrics),
    )
    saved = save_model(folder, network, info, metrics, reporter.history, searched, pictures)
    return TrainResult(saved.model_id, metrics, seconds)


class _Reporter(Callback):  # type: ignore[misc]
    """Keeps the history, tells how far training is, stops it when the loss is lost.

    fastai rewrites the message of an exception from a callback: failures are kept and raised after the fit.
    """

    order = 70  # after the Recorder has the batch's and the epoch's figures

    def __init__(self, n_classes: int, check: Callable[[], None], on_progress: Progress) -> None:
        self._n_classes = n_classes
        self._check = check
        self._on_progress = on_progress
        self.history: list[dict[str, Any]] = []
        self.failure: Exception | None = None
        self.phase = "train"
        self.epochs = 1
        self._confusion = np.zeros((0, 0), np.int64)
        self._epoch_began = self._pass_began = self._told = 0.0
        self._images = self._images_told = 0
        self._speed = 0.0

    def before_epoch(self) -> None:
        if self.failure is not None:
            raise CancelFitException
        self._epoch_began = time.perf_counter()

    def before_train(self) -> None:
        self._begin_pass()

    def after_train(self) -> None:
        self._speed = self._images / (time.perf_counter() - self._pass_began)

    def before_validate(self) -> None:
        self._begin_pass()
        self._confusion = np.zeros((self._n_classes, self._n_classes), np.int64)

    def after_batch(self) -> None:
        truth = self.learn.yb[0]
        self._images += len(truth)
        if not self.learn.training:
            predicted = self.learn.pred.argmax(1).cpu().numpy()
            np.add.at(self._confusion, (truth.cpu().numpy(), predicted), 1)
        now = time.perf_counter()
        if now - self._told < REPORT_EVERY_S:
            return
        speed = (self._images - self._images_told) / (now - self._told)
        self._told, self._images_told = now, self._images
        batches = len(self.dls.train)
        if not self.learn.training:
            self._tell({"batch": batches, "batches": batches, "images_per_s": speed})
            return
        rate, loss = self._rate(), float(self.learn.smooth_loss)
        searching = self.phase == "lr_find"
        if not searching and not math.isfinite(loss):
            self._fail(_lost(rate))
        self._tell(
            {
                "batch": self.learn.train_iter if searching else self.learn.iter + 1,
                "batches": _LR_STEPS if searching else batches,
                "images_per_s": speed,
                "train_loss": loss if math.isfinite(loss) else None,
                "lr": rate,
            }
        )

    def after_epoch(self) -> None:
        try:
            self._check()
        except StageError as problem:
            self._fail(problem)
        if self.phase != "train":
            return
        hits, support = np.diag(self._confusion), self._confusion.sum(1)
        seen = support > 0
        if not seen.any():
            self._fail(StageError("none of the images to validate on can be decoded; validate them again"))
        train_loss, valid_loss = map(float, self.learn.recorder.values[-1][:2])
        if not (math.isfinite(train_loss) and math.isfinite(valid_loss)):
            self._fail(_lost(max(self.learn.recorder.lrs)))
        figures = {
            "train_loss": train_loss,
            "valid_loss": valid_loss,
            "accuracy": float(hits.sum() / support.sum()),
            "balanced_accuracy": float((hits[seen] / support[seen]).mean()),
            "lr": self._rate(),
        }
        batches = len(self.dls.train)
        self._tell({"batch": batches, "batches": batches, "images_per_s": self._speed, **figures})
        seconds = time.perf_counter() - self._epoch_began
        self.history.append({"epoch": len(self.history) + 1, **figures, "seconds": round(seconds, 3)})

    def _begin_pass(self) -> None:
        self._pass_began = self._told = time.perf_counter()
        self._images = self._images_told = 0

    def _rate(self) -> float:
        """The head's learning rate now."""
        return float(self.learn.opt.hypers[-1]["lr"])

    def _tell(self, event: dict[str, Any]) -> None:
        position = {"phase": self.phase, "epoch": len(self.history) + 1, "epochs": self.epochs}
        try:
            self._on_progress({**position, **event})
        except Exception as problem:
            self._fail(problem)

    def _fail(self, failure: Exception) -> None:
        self.failure = failure
        raise CancelFitException


class _ScaledGradients(MixedPrecision):  # type: ignore[misc]
    """fastai's gradient scaling for float16; autocast itself is the model's, see `device.Autocast`."""

    def before_batch(self) -> None:
        pass

    def after_pred(self) -> None:
        pass

    def after_loss(self) -> None:
        pass


def _learner(
    network: nn.Module, training: TrainBatches, valid: EvalBatches, device: torch.device, reporter: _Reporter
) -> Any:
    head = head_parameters(network)

    def groups(model: Autocast) -> list[list[nn.Parameter]]:
        """Early layers, late layers, head: what is frozen and how fast each learns."""
        named = list(model.network.named_parameters())
        body = [parameter for name, parameter in named if name not in head]
        half = len(body) // 2
        return [body[:half], body[half:], [parameter for name, parameter in named if name in head]]

    learn = Learner(
        # fastai asks the loaders for `device` and `train`; it needs nothing else of its own DataLoader
        DataLoaders(training, valid),
        Autocast.on(device, network),
        loss_func=nn.CrossEntropyLoss(label_smoothing=LABEL_SMOOTHING),
        opt_func=Adam,
        splitter=groups,
        cbs=[reporter],
    )
    learn.remove_cbs([callback for callback in learn.cbs if isinstance(callback, ProgressCallback)])
    learn.logger = lambda row: None
    if learn.model.precision == torch.float16:
        learn.add_cb(_ScaledGradients(AMPMode.FP16))
    return learn


def _fit(learn: Any, reporter: _Reporter, config: TrainConfig) -> tuple[float, list[dict[str, float]]]:
    """Train; returns the learning rate and, if it was searched, the search: rows with `lr` and `loss`."""
    pretrained = config.weights != "none"
    searched: list[dict[str, float]] = []
    if config.lr == "find":
        rate, searched = _find_rate(learn, reporter, pretrained)
    else:
        rate = config.lr
    reporter.phase, reporter.epochs = "train", config.epochs
    if not pretrained:
        learn.fit_one_cycle(config.epochs, rate)
    elif config.epochs == 1:
        learn.fit_one_cycle(1, slice(rate / 100, rate))
    else:
        learn.fine_tune(config.epochs - 1, rate)
    if reporter.failure is not None:
        raise reporter.failure
    return rate, searched


def _find_rate(learn: Any, reporter: _Reporter, pretrained: bool) -> tuple[float, list[dict[str, float]]]:
    """fastai's learning-rate finder: of the head alone where the body is given, as `fine_tune` begins."""
    reporter.phase = "lr_find"
    if pretrained:
        learn.freeze()
    with tempfile.TemporaryDirectory(prefix="camtrap-lr-") as folder, warnings.catch_warnings():
        # fastai 2.8 reads its own temporary file by names that numpy deprecates
        warnings.simplefilter("ignore", DeprecationWarning)
        learn.path = Path(folder)
        try:
            rate = float(learn.lr_find(num_it=_LR_STEPS, show_plot=False).valley)
        except (IndexError, RuntimeError, ValueError) as problem:
            if reporter.failure is None:
                raise StageError(f"no learning rate was found ({problem}); give one: train.lr") from problem
            rate = math.nan
    if reporter.failure is not None:
        raise reporter.failure
    rows = [
        {"lr": float(lr), "loss": float(loss)}
        for lr, loss in zip(learn.recorder.lrs, learn.recorder.losses, strict=True)
    ]
    if pretrained:
        learn.unfreeze()
    return rate, rows


@contextlib.contextmanager
def _reproducible() -> Iterator[None]:
    """cuDNN without its choice of the fastest algorithm by trial, which differs from run to run."""
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=True):
        yield


def _check_failed(decoder: Decoder, samples: Samples) -> None:
    if len(decoder.failed) > max(_FEW_FAILED, _MOST_FAILED * len(samples)):
        index, why = next(iter(decoder.failed.items()))
        raise StageError(
            f"{len(decoder.failed)} of {len(samples)} images can't be decoded, the first is"
            f" {samples.image_ids[index]}: {why}; validate them again"
        )


def _lost(rate: float) -> StageError:
    return StageError(
        f"the training loss is not a finite number any more at learning rate {rate:.2g}:"
        " lower train.lr, or set it to find"
    )
