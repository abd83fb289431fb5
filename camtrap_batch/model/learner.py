"""Trains a classifier with fastai, judges it on cameras it has not seen, keeps it as a model folder."""

from __future__ import annotations

import contextlib
import gc
import math
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import psutil
import torch
from torch import nn
from torch.nn import functional

from camtrap_batch.errors import StageError
from camtrap_batch.model.architectures import create_model, evaluation, head_parameters
from camtrap_batch.model.batches import IGNORED, EvalBatches, TrainBatches
from camtrap_batch.model.checkpoints import Checkpoint, Checkpoints
from camtrap_batch.model.config import TrainConfig
from camtrap_batch.model.decoding import Decoder
from camtrap_batch.model.device import Autocast, Normalise, choose_device, choose_precision
from camtrap_batch.model.info import ModelInfo
from camtrap_batch.model.judging import REPORT_EVERY_S, OnProgress, judge, keep_random_images, summary
from camtrap_batch.model.package import save_model
from camtrap_batch.model.samples import Samples
from camtrap_batch.model.sheets import draw_pictures
from camtrap_batch.model.team import SoloTeam, TeamLost
from camtrap_batch.runtime import count_threads
from camtrap_batch.store.folder import Folder

with warnings.catch_warnings():
    # fastai 2.8 uses torch.jit.script, which torch deprecates
    warnings.simplefilter("ignore", FutureWarning)
    import fastai.callback.schedule  # noqa: F401 - gives Learner lr_find, fit_one_cycle and fine_tune
    from fastai.callback.core import Callback, CancelEpochException, CancelFitException
    from fastai.callback.fp16 import AMPMode, MixedPrecision
    from fastai.callback.progress import ProgressCallback
    from fastai.data.core import DataLoaders
    from fastai.learner import Learner
    from fastai.optimizer import Adam
    from fastcore.foundation import L

LABEL_SMOOTHING = 0.05
_LR_STEPS = 100
_LOST = 4.0
"""A multiple of the chance-level loss; above it at the end of an epoch, training has diverged."""
_OUT_OF_MEMORY = ("CUDA out of memory", "not enough memory", "can't allocate memory")
_FEW_FAILED, _MOST_FAILED = 3, 0.02
"""How many images, and what fraction, may fail to decode: more means a wrong folder, not a few bad files."""


@dataclass(frozen=True)
class TrainResult:
    """The result of a training run: the model's id, its figures as in metrics.json, and how long it took."""

    model_id: str
    metrics: dict[str, Any]
    seconds: float


def train(
    samples: Samples,
    config: TrainConfig,
    folder: str | Path,
    provenance: Mapping[str, Any],
    on_progress: OnProgress = lambda event: None,
    checkpoints: Checkpoints | None = None,
    team: SoloTeam | None = None,
) -> TrainResult:
    """Train a classifier and save it as `<folder>/<model id>`.

    From random weights the whole network learns under a one-cycle schedule (Smith 2018, arXiv 1803.09820).
    With given weights it is fastai's `fine_tune`: one epoch for the head alone, the others for everything,
    the early layers with a smaller learning rate. The same seed, machine and library versions give the
    same model, even if training was interrupted and resumed from a checkpoint.

    If training diverges after an epoch or more, it stops with the last good epoch. If memory is too small,
    the batch is halved and training resumes from the last epoch.

    Parameters
    ----------
    samples
        Images of the splits train, valid and, if there are any, test.
    config
        Settings.
    folder
        Folder of models.
    provenance
        Where the samples come from; copied into model.json.
    on_progress
        Called about once a second and at the end of each epoch with a dict: `phase` ("lr_find", "train" or
        "evaluate": the finished model), `epoch` and `epochs`, `batch` and `batches`, `images_per_s`; after
        a training step `train_loss` and `lr`; at an epoch's end also `valid_loss`, `accuracy` and
        `balanced_accuracy`. With the phase "note" it has only a `text` for people. An exception from it ends
        the training.
    checkpoints
        Where the state after each epoch is kept, and training resumes from; by default nowhere.
    team
        The processes that train this model together, of which this is the first: the others `join`.

    Raises
    ------
    JobError
        Nothing to train or validate on, an unknown architecture, a missing device.
    InputError
        The given weights are not available.
    StageError
        Training diverges in the first epoch, too many images don't decode, or memory is too small for two
        images. No model is left behind.
    TeamLost
        Another process of the team is gone.
    """
    samples.check()
    samples = keep_random_images(samples, config.seed)
    began = time.perf_counter()
    with _training(samples, config, checkpoints, team or SoloTeam(), on_progress) as training:
        fitted = training.run()
        decoder, normalise, mean, std = training.decoder, training.normalise, training.mean, training.std
        metrics = judge(fitted.model, decoder, samples, fitted.batch, normalise, on_progress)
        pictures = draw_pictures(samples, training.batches(fitted.batch), mean, std, metrics)
    seconds = time.perf_counter() - began
    metrics["training"] = _figures(training, fitted, seconds)
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
        on=metrics["on"],
    )
    saved = save_model(folder, fitted.model.network, info, metrics, fitted.history, fitted.searched, pictures)
    return TrainResult(saved.model_id, metrics, seconds)


def join(samples: Samples, config: TrainConfig, checkpoints: Checkpoints, team: SoloTeam) -> None:
    """Take part in the training of a team whose first process calls `train` with the same arguments."""
    samples = keep_random_images(samples, config.seed)
    with _training(samples, config, checkpoints, team, lambda event: None) as training:
        training.run()


@contextlib.contextmanager
def _training(
    samples: Samples,
    config: TrainConfig,
    checkpoints: Checkpoints | None,
    team: SoloTeam,
    on_progress: OnProgress,
) -> Iterator[_Training]:
    device = choose_device(config.device)
    threads = count_threads(config.threads)
    torch.set_num_threads(threads)  # Dask's nanny sets OMP_NUM_THREADS=1
    cache = psutil.virtual_memory().available // 4 if config.cache_bytes is None else config.cache_bytes
    with (
        Decoder(samples.jpegs, config.size, threads, cache, samples.margin) as decoder,
        TemporaryDirectory(prefix="camtrap-train-") as scratch,
        _reproducible(),
    ):
        checkpoints = checkpoints or Checkpoints(Folder(scratch))
        yield _Training(samples, config, decoder, device, checkpoints, team, on_progress)


@dataclass
class _Fitted:
    model: Autocast
    history: list[dict[str, Any]]
    kept_epoch: int
    rate: float
    searched: list[dict[str, float]]
    batch: int
    notes: list[str]


def _figures(training: _Training, fitted: _Fitted, seconds: float) -> dict[str, Any]:
    """What metrics.json says about how the model was trained."""
    samples, indices = training.samples, training.indices
    return {
        "images": len({samples.image_ids[index] for index in indices.tolist()}),
        **({"crops": len(indices)} if samples.frames is not None else {}),
        "epochs": len(fitted.history),
        "kept_epoch": fitted.kept_epoch,
        "lr": fitted.rate,
        "batch": fitted.batch,
        "notes": fitted.notes,
        "seconds": round(seconds, 1),
        "device": training.device.type,
        "workers": training.team.size,
        "precision": str(choose_precision(training.device)).removeprefix("torch."),
    }


class _Training:
    """One training, in as many attempts as memory requires."""

    def __init__(
        self,
        samples: Samples,
        config: TrainConfig,
        decoder: Decoder,
        device: torch.device,
        checkpoints: Checkpoints,
        team: SoloTeam,
        on_progress: OnProgress,
    ) -> None:
        self.samples, self.config, self.decoder, self.device = samples, config, decoder, device
        self.checkpoints, self.team, self.on_progress = checkpoints, team, on_progress
        published = evaluation(config.arch)
        self.mean, self.std = published.mean, published.std
        self.normalise = Normalise(self.mean, self.std, device)
        self.indices = samples.of_split("train")
        self.valid = samples.of_split("valid")[team.rank :: team.size]
        self.truth = samples.truth

    def run(self) -> _Fitted:
        batch, notes = self.config.batch, list[str]()
        while True:
            try:
                return self._attempt(batch, notes)
            except (MemoryError, RuntimeError) as problem:
                # A team restarts with a smaller batch where it was assembled.
                if not is_out_of_memory(problem) or self.team.size > 1:
                    raise
            # Here the attempt's tensors have been freed.
            gc.collect()
            torch.cuda.empty_cache()
            before = self.checkpoints.load()
            batch = min(batch, before.batch) if before else batch
            halved, text = halve(batch)
            self.note(text)
            batch, notes = halved, [*notes, text]

    def note(self, text: str) -> None:
        self.on_progress({"phase": "note", "text": text})

    def batches(self, batch: int) -> TrainBatches:
        """The training images in batches for a team with this many images per step."""
        samples, is_drawn = self.samples, self.config.balance == "sampling"
        weights = samples.weights[self.indices]
        return TrainBatches(
            self.decoder,
            self.indices,
            self.truth[self.indices],
            weights if is_drawn else np.ones_like(weights),
            batch,
            self.normalise,
            self.config.seed,
            blocks=None if samples.blocks is None else samples.blocks[self.indices],
            window=samples.window,
            part=self.team.rank,
            parts=self.team.size,
        )

    def _attempt(self, batch: int, notes: list[str]) -> _Fitted:
        config, team = self.config, self.team
        torch.manual_seed(config.seed)
        network = create_model(config.arch, len(self.samples.classes), config.weights, config.size)
        before = self.checkpoints.load()
        if before:
            batch = min(batch, before.batch)
            notes = [*before.notes, *(note for note in notes if note not in before.notes)]
        loss = _Loss(self._class_weights()).to(self.device)
        reporter = _Reporter(
            len(self.samples.classes),
            lambda: _check_failed(self.decoder, self.samples),
            self.on_progress,
            team,
        )
        keeper = _Keeper(self.checkpoints, config, reporter, batch, notes)
        learn = _learner(
            network,
            self.batches(batch),
            EvalBatches(
                self.decoder, self.valid, self.truth[self.valid], -(-batch // team.size), self.normalise
            ),
            loss,
            self.device,
            [reporter, keeper, *([_Together(team, reporter)] if team.size > 1 else [])],
        )
        if before:
            network.load_state_dict(before.network)
            reporter.history = list(before.history)
            keeper.rate, keeper.searched = before.rate, before.searched
            self.note(f"goes on after epoch {before.epochs} of {config.epochs}, from the checkpoint")
        else:
            keeper.rate, keeper.searched = self._rate(learn, reporter)
        reporter.phase, reporter.epochs = "train", config.epochs
        _fit(learn, reporter, keeper, config, before)
        return _Fitted(
            learn.model,
            reporter.history,
            keeper.restore_best(network) if team.rank == 0 else 0,
            keeper.rate,
            keeper.searched,
            batch,
            keeper.notes,
        )

    def _rate(self, learn: Any, reporter: _Reporter) -> tuple[float, list[dict[str, float]]]:
        """The learning rate and, if it was searched for, the search: rows with `lr` and `loss`."""
        if self.config.lr != "find":
            return self.config.lr, []
        searched: list[dict[str, float]] = []

        def find() -> str:
            # The first member of a team searches on its part of the batches; no other takes part in these
            # steps.
            together = [callback for callback in learn.cbs if isinstance(callback, _Together)]
            with learn.removed_cbs(together):
                rate, rows = _find_rate(learn, reporter, self.config.weights != "none")
            searched.extend(rows)
            return repr(rate)

        return float(self.team.first("lr", find)), searched

    def _class_weights(self) -> torch.Tensor:
        """Shape (classes,): how much the loss of an image of each class counts."""
        n_classes = len(self.samples.classes)
        if self.config.balance != "weights":
            return torch.ones(n_classes)
        truth, weights = self.truth[self.indices], self.samples.weights[self.indices]
        counts = np.bincount(truth, minlength=n_classes)
        sums = np.bincount(truth, weights, minlength=n_classes)
        return torch.from_numpy((sums / np.maximum(counts, 1)).astype(np.float32))


def is_out_of_memory(problem: BaseException) -> bool:
    """Whether memory, of a GPU or the machine, was too small."""
    return isinstance(problem, MemoryError | torch.OutOfMemoryError) or (
        isinstance(problem, RuntimeError) and any(text in str(problem) for text in _OUT_OF_MEMORY)
    )


def halve(batch: int) -> tuple[int, str]:
    """Half of a batch that was too large for memory, and a message. Raises StageError at two images."""
    if batch <= 2:
        raise StageError(
            "memory is too small to train on two images at a time: lower train.size, or choose a smaller "
            "train.arch"
        )
    return batch // 2, f"out of memory with {batch} images per step: goes on with {batch // 2} (train.batch)"


class _Loss(nn.Module):
    """Cross entropy with smoothed labels, the mean over images weighted by class.

    `counted` is the weight of the last batch, by which a team's means are weighted.
    """

    def __init__(self, weights: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("weights", weights)
        self.counted = 0.0

    def forward(self, logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        weights: torch.Tensor = self.weights  # type: ignore[assignment]
        losses = functional.cross_entropy(
            logits,
            truth,
            weights,
            reduction="none",
            ignore_index=IGNORED,
            label_smoothing=LABEL_SMOOTHING,
        )
        weight = torch.where(truth == IGNORED, 0.0, weights[truth.clamp(min=0)]).sum()
        self.counted = weight.detach()  # type: ignore[assignment]
        return losses.sum() / weight.clamp(min=1e-12)


class _Reporter(Callback):  # type: ignore[misc]
    """Keeps the history, reports progress, stops training when it diverges.

    fastai rewrites the message of an exception from a callback, so failures are kept and raised after the
    fit.
    """

    order = 70  # after the Recorder, which has the batch's and the epoch's figures

    def __init__(
        self, n_classes: int, check: Callable[[], None], on_progress: OnProgress, team: SoloTeam
    ) -> None:
        self._n_classes = n_classes
        self._check = check
        self.on_progress = on_progress
        self.team = team
        self.history: list[dict[str, Any]] = []
        self.failure: Exception | None = None
        self.lost: str | None = None
        self.phase = "train"
        self.epochs = 1
        self._confusion = np.zeros((0, 0), np.int64)
        self._valid_loss = 0.0
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
        self._valid_loss = 0.0

    def after_batch(self) -> None:
        truth = self.learn.yb[0]
        self._images += len(truth) * self.team.size
        if not self.learn.training:
            predicted = self.learn.pred.argmax(1).cpu().numpy()
            np.add.at(self._confusion, (truth.cpu().numpy(), predicted), 1)
            self._valid_loss += float(self.learn.loss) * len(truth)
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
        # A team checks together at the end of the epoch: whoever left earlier would leave the others waiting.
        if not searching and not math.isfinite(loss) and self.team.size == 1:
            self._lose(rate)
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
        if self.failure is not None or self.lost is not None:
            return
        with self.raising(StageError):
            self._check()
        if self.phase != "train":
            return
        figures = self._figures()
        batches = len(self.dls.train)
        self._tell({"batch": batches, "batches": batches, "images_per_s": self._speed, **figures})
        seconds = time.perf_counter() - self._epoch_began
        self.history.append({"epoch": len(self.history) + 1, **figures, "seconds": round(seconds, 3)})

    def _figures(self) -> dict[str, float]:
        """Figures of the finished epoch, over the whole team; stops the training if it has diverged."""
        own = [self._valid_loss, float(self.learn.recorder.values[-1][0]), *self._confusion.flatten()]
        with self.raising(TeamLost):
            summed = self.team.add(torch.tensor(own, dtype=torch.float64)).numpy()
        confusion = summed[2:].reshape(self._n_classes, self._n_classes)
        hits, support = np.diag(confusion), confusion.sum(1)
        seen = support > 0
        if not seen.any():
            self._fail(StageError("none of the images to validate on can be decoded; validate them again"))
        valid_loss, train_loss = float(summed[0] / support.sum()), float(summed[1] / self.team.size)
        # Chance level is log(classes). No epoch that learns anything ends at a multiple of it.
        if not math.isfinite(valid_loss) or not train_loss < _LOST * math.log(self._n_classes):
            self._lose(max(self.learn.recorder.lrs))
        return {
            "train_loss": train_loss,
            "valid_loss": valid_loss,
            "accuracy": float(hits.sum() / support.sum()),
            "balanced_accuracy": float((hits[seen] / support[seen]).mean()),
            "lr": self._rate(),
        }

    def _begin_pass(self) -> None:
        self._pass_began = self._told = time.perf_counter()
        self._images = self._images_told = 0

    def _rate(self) -> float:
        """The head's present learning rate."""
        return float(self.learn.opt.hypers[-1]["lr"])

    def _tell(self, event: dict[str, Any]) -> None:
        position = {"phase": self.phase, "epoch": len(self.history) + 1, "epochs": self.epochs}
        with self.raising(Exception):
            self.on_progress({**position, **event})

    @contextlib.contextmanager
    def raising(self, kind: type[Exception]) -> Iterator[None]:
        """Make an exception of this kind end the fit, and leave it unchanged."""
        try:
            yield
        except kind as problem:
            self._fail(problem)

    def _lose(self, rate: float) -> None:
        """End the training: it has diverged."""
        self.lost = f"the training diverged at learning rate {rate:.2g}: lower train.lr, or set it to find"
        if not self.history:
            self.failure = StageError(self.lost)
        raise CancelFitException

    def _fail(self, failure: Exception) -> None:
        self.failure = failure
        raise CancelFitException


class _Keeper(Callback):  # type: ignore[misc]
    """Keeps the state after each epoch, resumes from it, stops when epochs no longer help."""

    order = 80  # after the _Reporter, which has the epoch's figures

    def __init__(
        self,
        checkpoints: Checkpoints,
        config: TrainConfig,
        reporter: _Reporter,
        batch: int,
        notes: list[str],
    ) -> None:
        self._checkpoints, self._patience, self._reporter = checkpoints, config.patience, reporter
        self._seed = config.seed
        self._batch, self.notes = batch, notes
        self.rate = math.nan
        self.searched: list[dict[str, float]] = []
        self.before: Checkpoint | None = None

    def before_fit(self) -> None:
        if self._reporter.phase == "train" and self.before is not None:
            smooth = self.learn.recorder.smooth_loss
            smooth.count, smooth.val = self.before.smooth[0], torch.tensor(self.before.smooth[1])
            if self.before.scaler:
                self.learn.scaler.load_state_dict(self.before.scaler)

    def before_epoch(self) -> None:
        if self._reporter.phase == "train":
            done = len(self._reporter.history)
            self.dls.train.next_pass = done
            torch.manual_seed(self._seed + done)  # for dropout

    def after_epoch(self) -> None:
        reporter = self._reporter
        if reporter.phase != "train" or reporter.failure is not None or reporter.lost is not None:
            return
        network, smooth = self.learn.model.network, self.learn.recorder.smooth_loss
        losses = [row["valid_loss"] for row in reporter.history]
        is_best = losses[-1] <= min(losses)
        if reporter.team.rank == 0:
            if self._patience is not None and is_best:
                self._checkpoints.save_best(network.state_dict())
            state = self.learn.opt.state_dict()
            self._checkpoints.save(
                Checkpoint(
                    network=dict(network.state_dict()),
                    optimizer={
                        "state": [dict(row) for row in state["state"]],
                        "hypers": [
                            {name: _plain(value) for name, value in row.items()} for row in state["hypers"]
                        ],
                    },
                    history=reporter.history,
                    rate=self.rate,
                    searched=self.searched,
                    batch=self._batch,
                    smooth=(int(smooth.count), float(smooth.val)),
                    scaler=_scaler_state(self.learn),
                    notes=self.notes,
                )
            )
        if self.is_over:
            raise CancelFitException

    @property
    def is_over(self) -> bool:
        """Whether the last epochs have not helped."""
        losses = [row["valid_loss"] for row in self._reporter.history]
        if self._patience is None or not losses:
            return False
        return len(losses) - 1 - int(np.argmin(losses)) >= self._patience

    def restore_best(self, network: nn.Module) -> int:
        """Load the weights of the epoch that is kept into `network`; returns the epoch."""
        reporter = self._reporter
        kept = len(reporter.history)
        if reporter.lost is not None:
            before = self._checkpoints.load()
            assert before is not None  # noqa: S101 - otherwise the reporter has failed
            network.load_state_dict(before.network)
            self._note(f"{reporter.lost}; epoch {kept}, the last good one, is kept")
        if self._patience is not None:
            losses = [row["valid_loss"] for row in reporter.history]
            kept = int(np.argmin(losses)) + 1
            if self.is_over:
                self._note(
                    f"stopped early: {self._patience} epochs without a smaller valid loss than epoch {kept}"
                )
            network.load_state_dict(self._checkpoints.load_best())
        return kept

    def _note(self, text: str) -> None:
        self.notes = [*self.notes, text]
        self._reporter.on_progress({"phase": "note", "text": text})


class _Together(Callback):  # type: ignore[misc]
    """Averages a team's gradients in each step, and its running statistics at the end of each pass."""

    order = 5  # before gradients are scaled back

    def __init__(self, team: SoloTeam, reporter: _Reporter) -> None:
        self.team, self._reporter = team, reporter

    def after_backward(self) -> None:
        learn = self.learn
        with self._reporter.raising(TeamLost):
            self.team.average_gradients(list(learn.model.parameters()), float(learn.loss_func.counted))

    def after_train(self) -> None:
        with self._reporter.raising(TeamLost):
            self.team.average_buffers(self.learn.model)


class _Learner(Learner):  # type: ignore[misc]
    """fastai's, able to begin a fit at a later epoch: the position in one-cycle follows from the epoch's
    number."""

    first_epoch = 0

    def _do_fit(self) -> None:
        for epoch in range(self.first_epoch, self.n_epoch):
            self.epoch = epoch
            self._with_events(self._do_epoch, "epoch", CancelEpochException)


class _ScaledGradients(MixedPrecision):  # type: ignore[misc]
    """fastai's gradient scaling for float16; autocast itself is part of the model, see `device.Autocast`."""

    def before_batch(self) -> None:
        pass

    def after_pred(self) -> None:
        pass

    def after_loss(self) -> None:
        pass


def _learner(
    network: nn.Module,
    training: TrainBatches,
    valid: EvalBatches,
    loss: _Loss,
    device: torch.device,
    callbacks: list[Callback],
) -> Any:
    head = head_parameters(network)

    def groups(model: Autocast) -> list[list[nn.Parameter]]:
        """Early layers, late layers, head: what is frozen and how fast each learns."""
        named = list(model.network.named_parameters())
        body = [parameter for name, parameter in named if name not in head]
        half = len(body) // 2
        return [body[:half], body[half:], [parameter for name, parameter in named if name in head]]

    learn = _Learner(
        # fastai asks the loaders for `device` and `train`; it needs nothing else of its own DataLoader
        DataLoaders(training, valid),
        Autocast.on(device, network),
        loss_func=loss,
        opt_func=Adam,
        splitter=groups,
        cbs=callbacks,
    )
    learn.remove_cbs([callback for callback in learn.cbs if isinstance(callback, ProgressCallback)])
    learn.logger = lambda row: None
    if learn.model.precision == torch.float16:
        learn.add_cb(_ScaledGradients(AMPMode.FP16))
    return learn


def _fit(
    learn: Any, reporter: _Reporter, keeper: _Keeper, config: TrainConfig, before: Checkpoint | None
) -> None:
    """Train, starting from the checkpoint `before`; like fastai's `fine_tune` if weights are given."""
    done, rate = len(reporter.history), keeper.rate
    phases: list[tuple[int, bool, Any, dict[str, float]]]
    if config.weights == "none":
        phases = [(config.epochs, False, rate, {})]
    elif config.epochs == 1:
        phases = [(1, False, slice(rate / 100, rate), {})]
    else:
        phases = [
            (1, True, slice(rate), {"pct_start": 0.99}),
            (config.epochs - 1, False, slice(rate / 200, rate / 2), {"pct_start": 0.3, "div": 5.0}),
        ]
    first = 0
    for epochs, is_frozen, rates, options in phases:
        is_resumed = first < done
        if done < first + epochs and not keeper.is_over:
            if is_frozen:
                learn.freeze()
            elif config.weights != "none":
                learn.unfreeze()
            keeper.before = before if is_resumed else None
            if before is not None and is_resumed:
                _restore(learn, before)
            learn.first_epoch = done - first
            learn.fit_one_cycle(epochs, rates, **options)
            if reporter.failure is not None:
                raise reporter.failure
            if reporter.lost is not None:
                return
            done = len(reporter.history)
        first += epochs


def _restore(learn: Any, before: Checkpoint) -> None:
    """Restore the optimizer."""
    if learn.opt is None:
        learn.create_opt()
    device = next(learn.model.parameters()).device
    state = [
        {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in row.items()}
        for row in before.optimizer["state"]
    ]
    learn.opt.load_state_dict({"state": state, "hypers": L(before.optimizer["hypers"])})


def _plain(value: Any) -> Any:
    """A number from fastai's schedule without its NumPy or tensor type."""
    return value.item() if hasattr(value, "item") else value


def _scaler_state(learn: Any) -> dict[str, Any]:
    scaler = getattr(learn, "scaler", None)
    return scaler.state_dict() if scaler is not None else {}


def _find_rate(learn: Any, reporter: _Reporter, pretrained: bool) -> tuple[float, list[dict[str, float]]]:
    """fastai's learning-rate finder: for the head alone if the body is given, as `fine_tune` begins."""
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
    """cuDNN without choosing the fastest algorithm by trial, which differs from run to run."""
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=True):
        yield


def _check_failed(decoder: Decoder, samples: Samples) -> None:
    if len(decoder.failed) > max(_FEW_FAILED, _MOST_FAILED * len(samples)):
        index, why = next(iter(decoder.failed.items()))
        raise StageError(
            f"{len(decoder.failed)} of {len(samples)} images can't be decoded, the first is"
            f" {samples.image_ids[index]}: {why}; validate them again"
        )
