"""What a review is worth, on synthetic truth: how many wrong species-at-camera records an order of looks
leaves, and how often the intervals of a random sample hold the truth.

    python benchmarks/review.py [--cameras 80] [--seeds 5] [--draws 1000] [--n 300]

Communities of species are drawn for cameras, sequences for species, and for each sequence the probabilities
that an ideal classifier has of it: calibrated by construction, since they are the posterior of the model that
draws what it sees. A record "species at camera" is wrong where the labels claim it and it is not so, or it is
so and no label says it. Sequences are looked at in an order, each look puts the truth in a label's place, and
the wrong records that are left are counted; the order `useful` is worked out again after each page, as the
review page does. Then samples are drawn as `camtrap review --order random --n 300`
draws them, reviewed with the truth, and their 95 % intervals are held against it. A seed gives the same
figures everywhere. Exit code 1 where the order `useful` leaves more than half of what `least-sure` leaves
after a twentieth of all looks or more, or where intervals of one kind of figure hold the truth in fewer than
93 % of draws, or more than 97 %.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from camtrap_batch.review.order import Evidence, after_looks, rank, usefulness
from camtrap_batch.review.server import PAGE_SIZE
from camtrap_batch.survey.design import Sample, draw, make_strata
from camtrap_batch.survey.small_areas import Units, location_totals
from camtrap_batch.vocabulary import EMPTY, UNCERTAIN

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
LEAST, MIN_CONFIDENCE = 0.02, 0.5
GOAL = 0.5
"""Of the wrong records that the order least-sure leaves."""
PARTS = (0.05, 0.1, 0.15, 0.2, 0.3)
LOW, HIGH = 0.93, 0.97
WORLDS = 3
"""Surveys that samples are drawn from."""


@dataclass(frozen=True)
class World:
    """Sequences as they are, and what a classifier says; class 0 is empty."""

    camera: Ints
    truth: Ints
    p: Floats
    names: list[str]


def draw_world(seed: int, cameras: int, species: int = 25, sharpness: float = 2.2) -> World:
    """A survey: communities of 4 to 12 species, few of them common, as many empty sequences as others."""
    random = np.random.default_rng(seed)
    common = random.dirichlet(np.full(species, 0.5))
    camera, truth = [], []
    for number in range(cameras):
        local = random.choice(species, random.integers(4, 13), replace=False, p=0.5 * common + 0.5 / species)
        visits = np.ceil(random.pareto(0.9, len(local)) * 2 + 0.01).astype(int).clip(1, 60)
        here = np.repeat(local + 1, visits)
        here = np.concatenate([here, np.zeros(len(here), int)])
        camera.append(np.full(len(here), number))
        truth.append(here)
    of, what = np.concatenate(camera), np.concatenate(truth)
    n, classes = len(what), species + 1
    seen = random.normal(size=(n, classes))
    # Some sequences are clear, some are dark.
    clear = sharpness * random.gamma(4.0, 0.25, n)
    seen[np.arange(n), what] += clear
    prior = np.bincount(what, minlength=classes) / n
    log = np.log(np.maximum(prior, 1e-9)) + clear[:, None] * seen
    p = np.exp(log - log.max(axis=1, keepdims=True))
    return World(
        of, what, p / p.sum(axis=1, keepdims=True), [EMPTY, *(f"species {k:02}" for k in range(species))]
    )


def evidence_of(world: World) -> tuple[Evidence, Ints]:
    """What the review page knows of it, and the class that each sequence is labelled with; -1: uncertain."""
    best = world.p.argmax(axis=1)
    confidence = world.p.max(axis=1)
    label = np.where(confidence >= MIN_CONFIDENCE, best, -1)
    names = np.array([*world.names, UNCERTAIN], object)[label]
    sequence, which = np.nonzero(world.p[:, 1:] >= LEAST)
    return Evidence(
        pa.array([f"c{number:03}" for number in world.camera]),
        pa.array(names.tolist(), pa.string()),
        confidence,
        label > 0,
        sequence,
        pa.array([world.names[1:][k] for k in which.tolist()], pa.string()),
        world.p[:, 1:][sequence, which],
    ), label


def wrong_left(world: World, label: Ints, order: Ints) -> Ints:
    """Wrong records before any look, and after each."""
    n_classes = world.p.shape[1]
    n_records = (int(world.camera.max()) + 1) * n_classes
    keys, true_keys = world.camera * n_classes + label, world.camera * n_classes + world.truth
    claimed = np.bincount(keys[label > 0], minlength=n_records)
    there = np.bincount(true_keys[world.truth > 0], minlength=n_records) > 0
    wrong = int(((claimed > 0) != there).sum())
    found = [wrong]
    for row in order.tolist():
        for key, change in ((keys[row], -1), (true_keys[row], 1)):
            if key % n_classes == 0 or (change < 0 and label[row] <= 0):
                continue
            before = (claimed[key] > 0) != there[key]
            claimed[key] += change
            wrong += int((claimed[key] > 0) != there[key]) - int(before)
        found.append(wrong)
    return np.array(found)


def coverage(world: World, label: Ints, n: int, draws: int) -> dict[str, float]:
    """Figure -> in which part of the draws its interval holds the truth; of labels that are not rare."""
    says = np.where(label < 0, len(world.names), label)
    names = np.array([*world.names, UNCERTAIN])
    strata = make_strata(names[says].tolist(), world.p.max(axis=1), n)
    common = np.flatnonzero(np.bincount(world.truth, minlength=len(world.names)) > 0.03 * len(says)).tolist()
    hits: dict[str, list[bool]] = {}
    for seed in range(draws):
        rows = draw(strata, seed)
        sample = Sample(strata.of[rows], strata.sizes)
        said, true = says[rows], world.truth[rows]
        found = {"accuracy": (sample.share(said == true), (says == world.truth).mean())}
        for k in common:
            name = world.names[k]
            right = world.truth[says == k] == k
            found[f"precision of {name}"] = (sample.share(said == true, said == k), right.mean())
            share = (says[world.truth == k] == k).mean()
            found[f"recall of {name}"] = (sample.share(said == true, true == k), share)
            total = float((world.truth == k).sum())
            found[f"sequences of {name}"] = (sample.sum((true == k).astype(float)), total)
        for figure, (estimate, truth) in found.items():
            hits.setdefault(figure, []).append(bool(estimate.low <= truth <= estimate.high))
    return {figure: float(np.mean(held)) for figure, held in hits.items()}


def location_coverage(world: World, label: Ints, n: int, draws: int) -> tuple[float, float]:
    """In which part of the draws the corrected totals of single cameras hold the truth: of species that were
    counted there or are expected; and how wide their intervals are, as a part of what is expected."""
    says = np.where(label < 0, len(world.names), label)
    names = np.array([*world.names, UNCERTAIN])
    confidence = world.p.max(axis=1)
    strata = make_strata(names[says].tolist(), confidence, n)
    cameras, classes = int(world.camera.max()) + 1, len(world.names)
    truth = np.bincount(world.camera * classes + world.truth, minlength=cameras * classes)
    truth = truth.reshape(cameras, classes)
    counted = np.bincount((world.camera * classes + label)[label > 0], minlength=cameras * classes)
    held, width, expected = [], 0.0, 0.0
    for seed in range(draws):
        rows = draw(strata, seed)
        known = np.zeros(len(label), bool)
        known[rows] = True
        units = Units(world.camera, label, confidence, np.ones(len(label)), known, rows, world.truth[rows])
        weight = (strata.sizes / np.maximum(strata.drawn, 1))[strata.of[rows]]
        found = location_totals(units, rows, weight, cameras, classes)
        named = (found.value >= 0.5) | (counted.reshape(cameras, classes) > 0)
        named[:, 0] = False
        held.append(((found.low <= truth) & (truth <= found.high))[named].mean())
        width += float((found.high - found.low)[named].sum())
        expected += float(found.value[named].sum())
    return float(np.mean(held)), width / expected


def look(world: World, known: Evidence, n: int) -> Ints:
    """The first n sequences as the page shows them by `useful`: after each page it is worked out again."""
    order: list[int] = []
    seen: dict[int, tuple[str]] = {}
    nothing = pa.nulls(len(known.label), pa.string())
    while len(order) < n:
        ranked = rank("useful", after_looks(known, seen, EMPTY), nothing).tolist()
        page = [number for number in ranked if number not in seen][:PAGE_SIZE]
        order += page
        seen |= {number: (world.names[world.truth[number]],) for number in page}
    return np.array(order[:n])


def compare(world: World) -> list[tuple[int, int, int, int]]:
    """Looks, and wrong records before, and left in the order least-sure and useful."""
    known, label = evidence_of(world)
    nothing = pa.nulls(len(label), pa.string())
    most = int(PARTS[-1] * len(label))
    orders = rank("least-sure", known, nothing)[:most], look(world, known, most)
    least, useful = (wrong_left(world, label, order) for order in orders)
    looks = [int(part * len(label)) for part in PARTS]
    return [(n, int(least[0]), int(least[n]), int(useful[n])) for n in looks]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cameras", type=int, default=80)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--n", type=int, default=300)
    options = parser.parse_args(arguments)
    failed = False
    left = np.zeros((len(PARTS), 2), int)
    print("seed sequences looks  wrong least-sure useful ratio")
    for seed in range(options.seeds):
        world = draw_world(seed, options.cameras)
        for number, (looks, before, least, useful) in enumerate(compare(world)):
            left[number] += least, useful
            ratio = useful / max(least, 1)
            failed |= ratio > GOAL
            print(
                f"{seed:4} {len(world.truth):9,} {looks:5,} {before:6,} {least:10,} {useful:6,} {ratio:5.2f}"
            )
        expected = usefulness(evidence_of(world)[0])[1]
        print(f"     wrong records expected before any look: {expected:.0f}, there are {before}")
    for part, (least, useful) in zip(PARTS, left.tolist(), strict=True):
        print(f"all surveys, after {part:.2f} of all looks: {useful / max(least, 1):.2f}")
    of_kind: dict[str, list[float]] = {}
    for seed in range(WORLDS):
        world = draw_world(seed, options.cameras)
        for figure, part in coverage(world, evidence_of(world)[1], options.n, options.draws).items():
            of_kind.setdefault(figure.partition(" of ")[0], []).append(part)
    for kind, parts in of_kind.items():
        mean = float(np.mean(parts))
        failed |= not LOW <= mean <= HIGH
        print(
            f"{kind:9} holds the truth in {mean:.3f} of {options.draws:,} draws of {options.n} "
            f"({len(parts)} figures, {min(parts):.3f} to {max(parts):.3f})"
        )
    world = draw_world(0, options.cameras)
    held_there, width = location_coverage(world, evidence_of(world)[1], options.n, min(options.draws, 200))
    failed |= held_there < LOW
    print(
        f"corrected totals of a species at a camera hold the truth in {held_there:.3f} of draws; their "
        f"intervals are {width:.2f} of what they tell"
    )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
