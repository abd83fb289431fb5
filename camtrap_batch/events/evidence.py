"""What the frames of each sequence say together: its label, how probable it is, and why it is not another.

Probabilities are added up as integers in units of 2^-40: such a sum is exact, and so independent of the order
of frames. Frames arrive in batches, and a sequence is judged after its last one, so that the probabilities of
a million images with many classes need not be in memory at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.codes import Ints, one_chunk
from camtrap_batch.errors import BrokenPromise
from camtrap_batch.events.codes import Bools, Floats, starts_of_groups
from camtrap_batch.events.species import SpeciesLists, possible_classes
from camtrap_batch.events.taxonomy import Taxonomy, Tree
from camtrap_batch.vocabulary import UNCERTAIN

_ONE = 2.0**40
_CELLS = 2_000_000
"""Images per batch times classes."""

_MOST_BYTES = 512 * 2**20
"""Limit on probabilities held back; if there would be more, the table is read several times, in parts."""

_UNSURE = -2
"""Code of a sequence for which neither a class nor a group is probable enough."""


@dataclass(frozen=True)
class Found:
    """What `Evidence.judge` finds: for each sequence, except `own`, which is for each image.

    Attributes
    ----------
    label : string array; null if nothing was classified
    confidence : probability of the label, or of the best possible guess if it is uncertain; otherwise NaN
    rank, set_aside, reason : string arrays, as in schemas.SEQUENCES
    own : the image's own probability of its sequence's label or guess; NaN: not classified
    """

    label: pa.Array
    confidence: Floats
    rank: pa.Array
    set_aside: pa.Array
    reason: pa.Array
    own: Floats


class Evidence:
    """The predictions of some images, in the form that `sequences.combine` receives."""

    def __init__(
        self,
        frames: pa.Table,
        scores: Callable[[], Iterable[pa.RecordBatch]] | None,
        *,
        classes: Sequence[str] | None,
        empty: str,
        min_confidence: float,
        taxonomy: Taxonomy | None,
        species: SpeciesLists | None,
        locations: list[str],
    ) -> None:
        self.min_confidence = np.float32(min_confidence)
        label = frames["label"].cast(pa.string())
        # A detector's labels need not be the model's: without a box, an image is empty for any model.
        told = {*label.drop_null().unique().to_pylist(), empty}
        # In alphabetical order, so that the first among equals is alphabetically first.
        self.classes = sorted(told.union(_top5_labels(frames) if classes is None else classes))
        self.names = pa.array(self.classes, pa.string())
        self.empty = self.classes.index(empty)
        self.column = None if classes is None else np.array([self.classes.index(name) for name in classes])
        self.tree = Tree(self.classes, taxonomy)
        self.possible: Bools | None = None
        self.lists: list[str | None] = []
        if species is not None:
            self.possible, self.lists = possible_classes(species, locations, self.classes, taxonomy, empty)
        self.label = _codes(label, self.names)
        self.is_classified = one_chunk(label.is_valid()).to_numpy(zero_copy_only=False)
        self.confidence = frames["confidence"].cast(pa.float32()).fill_null(0).to_numpy()
        kept = [name for name in ("label", "top5", "probs") if name in frames.column_names]
        self.scores = frames.select(kept).to_batches if scores is None else scores

    def judge(self, group: Ints, location: Ints) -> Found:
        """The labels of the sequences.

        Parameters
        ----------
        group : number of each image's sequence, from 0 without gaps
        location : index of each sequence's location in the given list
        """
        n = len(location)
        code = np.full(n, -1, np.int64)  # a class; from len(classes) on a group; -1: nothing is known
        guess = np.full(n, -1, np.int64)  # the most probable possible class
        most = np.full(n, -1, np.int64)  # the most probable class
        confidence, most_p = np.full(n, np.nan, np.float32), np.zeros(n, np.float32)
        own = np.full(len(group), np.nan, np.float32)
        for image, weights in self._whole_sequences(group, n):
            begins = np.flatnonzero(starts_of_groups(group[image]))
            size = np.diff(begins, append=len(image))
            here = group[image[begins]]
            sums, n_speaking = self._add_up(image, weights, begins, size)
            is_known = n_speaking > 0
            here, sums, n_speaking = here[is_known], sums[is_known], n_speaking[is_known]
            p = self._mean(sums, n_speaking)
            most[here], most_p[here] = p.argmax(axis=1), p.max(axis=1)
            may_be = (
                p if self.possible is None else np.where(self.possible[location[here]], p, np.float32(-1))
            )
            guess[here] = may_be.argmax(axis=1)
            confidence[here] = np.maximum(may_be.max(axis=1), 0)
            is_sure = (confidence[here] >= self.min_confidence) & (confidence[here] > 0)
            code[here] = np.where(is_sure, guess[here], _UNSURE)
            p[:, self.empty] = -1  # groups are above animals
            self._roll_up(
                here[~is_sure],
                p[~is_sure].argmax(axis=1),
                sums[~is_sure],
                n_speaking[~is_sure],
                location,
                code,
                confidence,
            )
            of = group[image]
            own[image] = self._own(weights, np.where(code[of] == _UNSURE, guess[of], code[of]))
            own[image[~self.is_classified[image]]] = np.nan
        return self._describe(code, guess, most, confidence, most_p, own, location)

    def _whole_sequences(self, group: Ints, n: int) -> Iterator[tuple[Ints, Ints]]:
        """Images by sequence, with their probabilities (images, classes); each sequence is yielded whole."""
        last = np.zeros(n, np.int64)
        np.maximum.at(last, group, np.arange(len(group)))
        # Images waiting for the last one of their sequence: few in a sorted table, most in a shuffled one.
        closed = np.cumsum(np.bincount(last[group], minlength=len(group)))
        most = (np.arange(1, len(group) + 1) - closed).max(initial=0)
        n_passes = 1 + int(most) * len(self.classes) * 8 // _MOST_BYTES
        for number in range(n_passes):
            yield from self._one_pass(group, last, group % n_passes == number)

    def _one_pass(self, group: Ints, last: Ints, is_wanted: Bools) -> Iterator[tuple[Ints, Ints]]:
        """Like `_whole_sequences`, for the wanted images."""
        waiting: list[tuple[Ints, Ints]] = []
        done = n_open = n_new = 0
        for batch in self._batches():
            wanted = np.flatnonzero(is_wanted[done : done + batch.num_rows])
            image = done + wanted
            done += batch.num_rows
            part = batch if len(wanted) == batch.num_rows else batch.take(pa.array(wanted))
            waiting.append((image, self._weights(part, image)))
            n_new += len(image)
            # Not after every batch: waiting images would be copied over and over.
            if n_new < max(n_open, _CELLS // len(self.classes)) and done < len(group):
                continue
            image, weights = (np.concatenate(some) for some in zip(*waiting, strict=True))
            waiting.clear()
            is_open = last[group[image]] >= done
            whole = np.flatnonzero(~is_open)
            whole = whole[np.argsort(group[image[whole]], kind="stable")]
            begins = np.flatnonzero(starts_of_groups(group[image[whole]]))
            # A few sequences at a time: intermediate results take several times their memory.
            step = max(_CELLS // len(self.classes), 1)
            for rows in np.split(whole, begins[1:][np.diff(begins[1:] // step, prepend=0) > 0]):
                yield image[rows], weights[rows]
            waiting.append((image[is_open], weights[is_open]))
            n_open, n_new = len(waiting[0][0]), 0
        if done != len(group):
            raise BrokenPromise(f"merge: {len(group)} images have {done} rows of probabilities")

    def _batches(self) -> Iterator[pa.RecordBatch]:
        most = max(_CELLS // len(self.classes), 256)
        for batch in self.scores():
            for start in range(0, batch.num_rows, most):
                yield batch.slice(start, most)

    def _weights(self, batch: pa.RecordBatch, image: Ints) -> Ints:
        """(images, classes) probabilities, as integers."""
        p = np.zeros((batch.num_rows, len(self.classes)))
        is_classified = self.is_classified[image]
        rows = np.flatnonzero(is_classified)
        p[rows, self.label[image[rows]]] = self.confidence[image[rows]]
        # Probabilities of all classes may be in half precision, so top5 takes precedence.
        for name in ("probs", "top5"):
            if name not in batch.schema.names:
                continue
            rows = np.flatnonzero(is_classified & batch[name].is_valid().to_numpy(zero_copy_only=False))
            column = batch[name].take(pa.array(rows))
            values = column.flatten()
            if name == "probs" and len(rows):
                columns = self._columns(column)
                p[rows] = 0
                p[rows[:, None], columns] = values.to_numpy(zero_copy_only=False).reshape(len(rows), -1)
            elif len(rows):
                of = np.repeat(rows, pc.list_value_length(column).to_numpy(zero_copy_only=False))
                code = _codes(values.field("label"), self.names)
                p[of, code] = values.field("p").to_numpy(zero_copy_only=False)
        return np.rint(p * _ONE).astype(np.int64)

    def _columns(self, probs: pa.ListArray) -> Ints:
        width = pc.list_value_length(probs)
        if self.column is None or not pc.all(pc.equal(width, len(self.column))).as_py():
            raise BrokenPromise(
                "merge: the predictions' probs do not match the model's classes; run infer again"
            )
        return self.column

    def _add_up(self, image: Ints, weights: Ints, begins: Ints, size: Ints) -> tuple[Ints, Ints]:
        """For each sequence, the sums over the frames that speak, and their number."""
        if not len(image):
            return weights, size
        label, is_classified = self.label[image], self.is_classified[image]
        is_animal = is_classified & (label != self.empty)
        is_sure = is_animal & (self.confidence[image] >= self.min_confidence)
        unsure = np.flatnonzero(is_animal & ~is_sure)
        for level in range(self.tree.above.shape[1]):
            node = self.tree.above[label[unsure], level]
            rows = unsure[node >= 0]
            total = (weights[rows] * self.tree.members[node[node >= 0]]).sum(axis=1)
            is_sure[rows] |= self._mean(total, np.ones(len(rows), np.int64)) >= self.min_confidence
        has_animal = np.repeat(np.logical_or.reduceat(is_sure, begins), size)
        speaks = np.where(has_animal, is_sure, is_classified)
        said = weights * speaks[:, None]
        said[has_animal, self.empty] = 0
        return np.add.reduceat(said, begins), np.add.reduceat(speaks.astype(np.int64), begins)

    def _mean(self, sums: Ints, n: Ints) -> Floats:
        mean = sums / (n[:, None] if sums.ndim == 2 else n) / _ONE
        return mean.astype(np.float32)

    def _roll_up(
        self, unsure: Ints, best: Ints, sums: Ints, n: Ints, location: Ints, code: Ints, confidence: Floats
    ) -> None:
        """Give `unsure` sequences the lowest group above their `best` class that is probable enough."""
        for level in range(self.tree.above.shape[1]):
            node = self.tree.above[best, level]
            members = self.tree.members[node] & (node >= 0)[:, None]
            p = self._mean((sums * members).sum(axis=1), n)
            is_possible = self.possible is None or (members & self.possible[location[unsure]]).any(axis=1)
            reaches = (node >= 0) & (p >= self.min_confidence) & is_possible
            code[unsure[reaches]] = len(self.classes) + node[reaches]
            confidence[unsure[reaches]] = p[reaches]
            unsure, best, sums, n = (some[~reaches] for some in (unsure, best, sums, n))

    def _own(self, weights: Ints, code: Ints) -> Floats:
        own = np.zeros(len(code))
        plain = np.flatnonzero((code >= 0) & (code < len(self.classes)))
        own[plain] = weights[plain, code[plain]]
        grouped = np.flatnonzero(code >= len(self.classes))
        own[grouped] = (weights[grouped] * self.tree.members[code[grouped] - len(self.classes)]).sum(axis=1)
        return (own / _ONE).astype(np.float32)

    def _describe(
        self,
        code: Ints,
        guess: Ints,
        most: Ints,
        confidence: Floats,
        most_p: Floats,
        own: Floats,
        location: Ints,
    ) -> Found:
        n_classes = len(self.classes)
        labels = pa.array([*self.classes, *self.tree.names, UNCERTAIN], pa.string())
        at = np.where(code == _UNSURE, len(labels) - 1, code)
        ranks = pa.array([*self.tree.ranks, None], pa.string())
        is_group = code >= n_classes
        is_aside = (most >= 0) & (most != guess)
        reason = np.full(len(code), None, object)
        for row in np.flatnonzero((code >= 0) & (most != code) | (code == _UNSURE)).tolist():
            name, p = self.classes[most[row]], f"{most_p[row]:.3f}"
            reason[row] = (
                f"{name} {p} is not in the species list of {self.lists[location[row]]}"
                if is_aside[row]
                else f"{name} {p} is below {self.min_confidence:g}"
            )
        return Found(
            labels.take(pa.array(at, mask=code == -1)),
            confidence,
            ranks.take(pa.array(np.where(is_group, code - n_classes, len(self.tree.names)))),
            self.names.take(pa.array(most, mask=~is_aside)),
            pa.array(reason, pa.string()),
            own,
        )


def _top5_labels(frames: pa.Table) -> list[str]:
    if "top5" not in frames.column_names:
        return []
    labels: list[str] = one_chunk(frames["top5"]).flatten().field("label").unique().to_pylist()
    return labels


def _codes(labels: pa.Array | pa.ChunkedArray, names: pa.Array) -> Ints:
    """Index of each label in `names`; -1 for null."""
    known = pc.index_in(labels, names)
    if known.null_count != labels.null_count:
        strange = labels.filter(pc.and_(pc.is_valid(labels), pc.is_null(known)))[0].as_py()
        raise BrokenPromise(f"merge: {strange!r} is not a class of the predictions' model; run infer again")
    codes = one_chunk(known.cast(pa.int64()).fill_null(-1))
    return np.asarray(codes.to_numpy(zero_copy_only=False))
