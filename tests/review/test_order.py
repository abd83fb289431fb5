"""Orders of review, and random samples that say what holds for the whole data set."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from support_exports import image, run_on_driver, write_run

from camtrap_batch.cli import main
from camtrap_batch.errors import Damaged
from camtrap_batch.review.items import Items
from camtrap_batch.review.order import Evidence, after_looks, label_errors, looks_until, rank, usefulness
from camtrap_batch.review.sample import read_draws
from camtrap_batch.store.run import Run
from camtrap_batch.survey.design import Sample, allocate, draw, make_strata, wilson

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "review.py"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmark_review", BENCHMARK)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_useful_leaves_half_of_what_least_sure_leaves(bench: ModuleType) -> None:
    for seed in range(2):
        for looks, before, least, useful in bench.compare(bench.draw_world(seed, 60)):
            assert useful <= least / 2, (seed, looks, before)


def test_useful_leaves_half_in_a_survey_with_few_clear_records(bench: ModuleType) -> None:
    world = bench.draw_world(1, 80)
    looks, before, least, useful = bench.compare(world)[0]
    assert useful <= least / 2, (looks, before)


def test_expected_wrong_records_are_about_those_there_are(bench: ModuleType) -> None:
    world = bench.draw_world(3, 60)
    known, _ = bench.evidence_of(world)
    before = bench.compare(world)[0][1]
    assert 0.8 * before < usefulness(known)[1] < 1.25 * before


def evidence(*rows: tuple[str, str | None, float]) -> Evidence:
    """Sequences at cameras with a label; nothing else is known of them."""
    cameras, labels, sure = zip(*rows, strict=True)
    nothing = np.array([], np.int64), pa.array([], pa.string()), np.array([], float)
    claims = np.array([label not in (None, "empty", "uncertain") for label in labels])
    return Evidence(pa.array(cameras), pa.array(labels, pa.string()), np.array(sure), claims, *nothing)


def test_a_look_goes_where_it_decides() -> None:
    """A lone doubtful record comes before one that other sequences of the camera bear out."""
    known = evidence(*[("a", "lion", 0.99)] * 6, ("a", "lion", 0.55), ("b", "lion", 0.6), ("b", "empty", 0.9))
    first, *rest = rank("useful", known, pa.nulls(9, pa.string())).tolist()
    assert first == 7
    assert 6 in rest


def test_several_species_that_people_saw_in_one_sequence_are_all_there() -> None:
    known = evidence(("a", "lion", 0.6), ("a", "empty", 0.9), ("b", "oryx", 0.6))
    seen = after_looks(known, {0: ["lion", "oryx"]}, "empty")
    value, _ = usefulness(seen)
    assert value[0] == pytest.approx(1, abs=0.01), "the lion's record is right, the oryx's label is missing"


def test_until_few_wrong_records_are_expected() -> None:
    known = evidence(*[(f"c{number}", "lion", 0.6) for number in range(10)])
    order = rank("useful", known, pa.nulls(10, pa.string()))
    value, expected = usefulness(known)
    n = looks_until(known, order, expected / 2)
    assert 0 < n < 10
    assert expected - value[order[:n]].sum() < expected / 2
    assert looks_until(known, order, 0) == 10


def test_labels_that_look_wrong_by_confident_learning() -> None:
    """The threshold of a class is how sure the model is of it on average where it is the label."""
    rows = [("a", "lion", 0.9)] * 4 + [("a", "oryx", 0.6)] * 4
    truth = ["lion"] * 3 + ["oryx"] + ["oryx"] * 3 + ["lion"]
    score = label_errors(evidence(*rows), pa.array(truth))
    assert score[3] < 0, "lion at 0.9 where the metadata say oryx, which lions are at on average"
    assert score[7] < 0, "0.6 is much for an oryx"
    assert score[3] < score[7]
    assert (score[[0, 1, 2, 4, 5, 6]] == 3).all()
    assert rank("disagree", evidence(*rows), pa.array(truth))[:2].tolist() == [3, 7]


# --- samples


def test_strata_and_their_chances() -> None:
    labels = ["empty"] * 700 + ["lion"] * 280 + ["genet"] * 18 + ["civet"] * 2
    sure = np.r_[np.full(700, 0.99), np.linspace(0.3, 0.99, 280), np.full(20, 0.6)]
    strata = make_strata(labels, sure, 100)
    assert strata.sizes.sum() == 1000
    assert strata.drawn.sum() == 100
    assert (strata.drawn >= np.minimum(strata.sizes, 2)).all()
    assert any(name.startswith("lion 0.5") for name in strata.names), "frequent labels are cut by confidence"
    rows = draw(strata, 7)
    assert len(set(rows.tolist())) == 100
    assert np.bincount(strata.of[rows]).tolist() == strata.drawn.tolist()
    assert (rows == draw(strata, 7)).all()
    assert make_strata(labels, sure, 5000).drawn.sum() == 1000, "no more than there are"


def test_allocation_never_takes_more_than_there_is() -> None:
    drawn = allocate(np.array([1, 3, 1000]), np.array([0.5, 0.5, 0.1]), 50)
    assert drawn.tolist()[:2] == [1, 3] or drawn[1] <= 3
    assert drawn.sum() == 50


def test_estimates_are_those_of_stratified_sampling() -> None:
    """Cochran 1977, 5.1 and 5.11, by hand."""
    sample = Sample(np.array([0, 0, 0, 0, 1, 1]), np.array([100, 10]))
    y = np.array([1.0, 1, 0, 0, 1, 0])
    total, variance = sample.total(y)
    assert total == pytest.approx(100 * 0.5 + 10 * 0.5)
    by_hand = 100**2 * 0.96 * (1 / 3) / 4 + 10**2 * 0.8 * 0.5 / 2
    assert variance == pytest.approx(by_hand)
    assert sample.share(y > 0).value == pytest.approx(55 / 110)
    whole = Sample(np.array([0, 0, 0]), np.array([3]))
    assert whole.total(np.array([1.0, 2, 3])) == (6.0, 0.0), "of all of them nothing is left to chance"


def test_intervals_of_shares() -> None:
    low, high = wilson(1.0, 0.0, 30, 29)
    assert 0.85 < low < 0.93
    assert high == 1.0
    assert wilson(0.5, 0.0025, 100, 10_000) == pytest.approx((0.404, 0.596), abs=0.002)  # of 100 seen


def test_intervals_hold_the_truth(bench: ModuleType) -> None:
    world = bench.draw_world(0, 60)
    held = bench.coverage(world, bench.evidence_of(world)[1], 300, 150)
    assert 0.91 <= held["accuracy"] <= 0.995  # of 150 draws; benchmarks/review.py has 1,000
    assert 0.93 <= np.mean(list(held.values())) <= 0.975


# --- from the command to the table


@pytest.fixture(scope="module")
def reviewed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample")
    rows: list[dict[str, Any]] = []
    for number in range(120):
        label = ("lion", "oryx", "empty")[number % 3]
        rows.append(image(f"i{number:03}", 7200 * number, label, seq_id=f"s{number:03}", sha256=f"h{number}"))
    write_run(folder, rows)
    return folder


def truth_of(seq_id: str) -> str:
    number = int(seq_id[1:])
    return ("lion", "oryx", "empty")[number % 3] if number % 10 else "oryx"


def test_a_random_sample_judges_the_whole(reviewed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = reviewed / "job.yaml"
    out = reviewed / "list.csv"
    assert main(["review", str(job), "--order", "random", "--n", "60", "--out", str(out)]) == 0
    assert "60 sequences" in capsys.readouterr().out
    (drawn,) = read_draws(_run(job))
    assert len(drawn) == 60
    items = Items(_run(job))
    numbers = items.draw(60).tolist()
    assert [items.seq_id[number].as_py() for number in numbers] == drawn.seq_id, "the draw is the same again"
    for number in numbers:
        label = truth_of(items.seq_id[number].as_py())
        items.decide([number], [{"label": label}], "mara")
    run_on_driver(job, "merge")
    said = _run(job).table("corrections").to_table().to_pylist()
    assert {row["draw"] for row in said} == {"random-60-0"}
    chances = dict(zip(drawn.seq_id, drawn.probability, strict=True))
    assert all(row["probability"] == pytest.approx(chances[row["event"]]) for row in said)
    found = {(row["figure"], row["label"]): row for row in _run(job).table("metrics").to_table().to_pylist()}
    accuracy = found["accuracy", None]
    right = np.mean([truth_of(f"s{n:03}") == ("lion", "oryx", "empty")[n % 3] for n in range(120)])
    assert accuracy["low"] <= right <= accuracy["high"]
    assert (accuracy["judged_by"], accuracy["n"], accuracy["draw"]) == ("sample", 60, "random-60-0")
    there = sum(truth_of(f"s{n:03}") == "oryx" for n in range(120))
    oryx = found["sequences", "oryx"]
    assert oryx["low"] <= there <= oryx["high"]
    assert oryx["counted"] == 40, "what the machine says"
    assert found["precision", "oryx"]["value"] == pytest.approx(1.0)
    assert found["recall", "oryx"]["high"] < 1.0
    (location,) = [row for row in _run(job).table("locations").to_table().to_pylist() if row["n_images"]]
    corrected = {entry["label"]: entry for entry in location["corrected_by_label"]}
    assert corrected["oryx"]["low"] <= there <= corrected["oryx"]["high"]
    events = {entry["label"]: entry["n"] for entry in location["events_by_label"]}
    assert events["oryx"] < corrected["oryx"]["n"], "what the machine missed is told, too"
    assert "empty" not in corrected
    # Decisions are the labels now; the machine's stay beside them, and are what is judged.
    again = {row["seq_id"]: row for row in _run(job).table("sequences").to_table().to_pylist()}
    changed = [row for row in again.values() if row["machine_label"] not in (None, row["label"])]
    assert changed
    assert {row["label"] for row in changed} == {"oryx"}


def test_another_seed_is_another_sample(reviewed: Path) -> None:
    items = Items(_run(reviewed / "job.yaml"))
    assert set(items.draw(60).tolist()) != set(items.draw(60, seed=1).tolist())


def test_a_damaged_draw_is_named(tmp_path: Path) -> None:
    write_run(tmp_path, [image(f"i{n}", 100 * n, "lion") for n in range(3)])
    run = _run(tmp_path / "job.yaml")
    run.folder.write("samples/random-3-0.json", json.dumps({"name": "x"}).encode())
    with pytest.raises(Damaged, match=r"samples/random-3-0\.json: is not a sample"):
        read_draws(run)


def _run(job: Path) -> Run:
    from camtrap_batch import open_run

    return open_run(job)


def test_labels_of_the_metadata_judge_an_outside_model(tmp_path: Path) -> None:
    rows = []
    for number in range(40):
        label = ("lion", "oryx")[number % 2]
        truth = "oryx" if number == 0 else label
        where = "ABC"[number % 3]
        rows.append(image(f"i{number:02}", 7200 * number, label, truth=truth, location=where))
    run = write_run(tmp_path, rows, places=dict.fromkeys("ABC", (31.5, -24.0)))
    found = {(row["figure"], row["label"]): row for row in run.table("metrics").to_table().to_pylist()}
    accuracy = found["accuracy", None]
    assert (accuracy["judged_by"], accuracy["n"]) == ("labels", 40)
    assert accuracy["value"] == pytest.approx(39 / 40)
    assert found["precision", "lion"]["value"] == pytest.approx(19 / 20)
    assert found["recall", "oryx"]["value"] == pytest.approx(20 / 21)
    assert accuracy["low"] <= accuracy["value"] <= accuracy["high"]
