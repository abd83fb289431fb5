"""Taxonomies and species lists: what they make of a sequence, and files that are wrong."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camtrap_batch.errors import BrokenPromise, InputError
from camtrap_batch.events import (
    SpeciesLists,
    combine,
    evidence,
    make_taxonomy,
    read_species,
    read_taxonomy,
    unused_cameras,
    unused_lines,
)
from camtrap_batch.store.schemas import PREDICTIONS
from camtrap_batch.vocabulary import UNCERTAIN

CATS = {
    "lion": {"genus": "panthera", "family": "felidae", "order": "carnivora"},
    "tiger": {"genus": "panthera", "family": "felidae", "order": "carnivora"},
    "lynx": {"genus": "lynxes", "family": "felidae", "order": "carnivora"},
    "wolf": {"family": "canidae", "order": "carnivora"},
}
TREE = make_taxonomy(CATS)
Row = dict[str, Any]


def table_of(rows: list[Row]) -> pa.Table:
    """Rows with image_id, location, seq_id and probs, which become top5."""
    tops = [sorted(row["probs"].items(), key=lambda item: (-item[1], item[0])) for row in rows]
    kind = PREDICTIONS.field("top5").type
    return pa.table(
        {
            "image_id": pa.array([row["image_id"] for row in rows], pa.string()),
            "location": pa.array([row.get("location", "a") for row in rows], pa.string()),
            "seq_id": pa.array([row.get("seq_id", "s") for row in rows], pa.string()),
            "datetime": pa.nulls(len(rows), pa.timestamp("us")),
            "label": pa.array([top[0][0] for top in tops], pa.string()),
            "confidence": pa.array([top[0][1] for top in tops], pa.float32()),
            "top5": pa.array([[{"label": name, "p": p} for name, p in top] for top in tops], kind),
        }
    )


def judge(*probs: dict[str, float], min_confidence: float = 0.5, **options: Any) -> Row:
    rows = [{"image_id": str(number), "probs": entry} for number, entry in enumerate(probs)]
    found = combine(table_of(rows), empty="empty", min_confidence=min_confidence, **options).sequences
    (row,) = found.to_pylist()
    return {name: row[name] for name in ("label", "confidence", "rank", "set_aside", "reason")}


def only(*labels: str) -> SpeciesLists:
    return SpeciesLists(frozenset(labels), {}, {}, {})


def test_the_lowest_group_that_is_probable_enough() -> None:
    assert judge({"lion": 0.375, "tiger": 0.25, "wolf": 0.25}, taxonomy=TREE) == {
        "label": "panthera",
        "confidence": 0.625,
        "rank": "genus",
        "set_aside": None,
        "reason": "lion 0.375 is below 0.5",
    }
    found = judge({"lion": 0.25, "tiger": 0.125, "lynx": 0.25, "wolf": 0.25}, taxonomy=TREE)
    assert (found["label"], found["confidence"], found["rank"]) == ("felidae", 0.625, "family")
    assert judge({"lion": 0.5, "tiger": 0.5}, taxonomy=TREE)["label"] == "lion"
    assert judge({"lion": 0.25, "wolf": 0.125, "empty": 0.125}, taxonomy=TREE)["label"] == UNCERTAIN


def test_a_frame_is_sure_where_its_group_is() -> None:
    """Two frames without the animal do not make a sequence empty whose first is of a big cat for sure."""
    frames = [{"lion": 0.4375, "tiger": 0.4375, "empty": 0.125}, {"empty": 1.0}, {"empty": 1.0}]
    assert judge(*frames)["label"] == "empty"
    assert judge(*frames, taxonomy=TREE)["label"] == "panthera"


def test_a_class_that_is_a_group_itself_counts_to_it() -> None:
    tree = make_taxonomy({**CATS, "felidae": {"order": "carnivora"}})
    found = judge({"felidae": 0.25, "lion": 0.3125, "wolf": 0.25}, taxonomy=tree)
    assert (found["label"], found["rank"], found["confidence"]) == ("felidae", "family", 0.5625)


def test_an_impossible_species_is_set_aside_and_still_speaks_for_its_group() -> None:
    found = judge({"tiger": 0.875, "lion": 0.125}, species=only("lion"))
    assert found == {
        "label": UNCERTAIN,
        "confidence": 0.125,
        "rank": None,
        "set_aside": "tiger",
        "reason": "tiger 0.875 is not in the species list of the job",
    }
    found = judge({"tiger": 0.875, "lion": 0.125}, species=only("lion"), taxonomy=TREE)
    assert (found["label"], found["confidence"], found["set_aside"]) == ("panthera", 1.0, "tiger")
    # No panthera lives there: the next group up that has a possible species.
    frames = {"tiger": 0.875, "lion": 0.125, "lynx": 0.0}
    found = judge(frames, species=only("lynx"), taxonomy=TREE)
    assert (found["label"], found["rank"], found["set_aside"]) == ("felidae", "family", "tiger")


def test_a_class_that_is_a_group_is_possible_where_one_below_it_is() -> None:
    tree = make_taxonomy({**CATS, "felidae": {"order": "carnivora"}})
    found = judge({"felidae": 0.875, "lion": 0.125}, species=only("lion"), taxonomy=tree)
    assert (found["label"], found["set_aside"]) == ("felidae", None)
    found = judge({"felidae": 0.875, "wolf": 0.125}, species=only("wolf"), taxonomy=tree)
    assert found["set_aside"] == "felidae"


def test_empty_is_always_possible_and_a_group_in_the_list_stands_for_its_species() -> None:
    assert judge({"empty": 0.875, "lion": 0.125}, species=only("lion"))["label"] == "empty"
    found = judge({"tiger": 0.875, "wolf": 0.125}, species=only("panthera"), taxonomy=TREE)
    assert (found["label"], found["set_aside"]) == ("tiger", None)


def test_lists_of_regions_and_cameras(tmp_path: Path) -> None:
    (tmp_path / "species.csv").write_text(
        "label,region,location\nLion,Kruger,\nlynx,,N-*\nwolf,,\n", encoding="utf-8"
    )
    (tmp_path / "regions.csv").write_text("location,region\nK-*,Kruger\nX,elsewhere\n")
    lists = read_species(str(tmp_path / "species.csv"), str(tmp_path / "regions.csv"))
    assert lists.at("K-01") == ({"lion", "wolf"}, "Kruger")
    assert lists.at("N-7") == ({"lynx", "wolf"}, "N-*")
    assert lists.at("X") is None  # the list knows species of regions, and none of this one
    lists = replace(lists, regions={"K-*": "elsewhere", "K-01": "Kruger"})  # a camera's own line comes first
    rows = [
        {"image_id": place, "location": place, "probs": {"tiger": 0.875, "lion": 0.125}}
        for place in ("K-01", "N-7", "X")
    ]
    found = combine(table_of(rows), empty="empty", min_confidence=0.5, species=lists).sequences.to_pylist()
    assert [(row["label"], row["set_aside"]) for row in found] == [
        (UNCERTAIN, "tiger"),
        (UNCERTAIN, "tiger"),
        ("tiger", None),
    ]
    assert "list of Kruger" in found[0]["reason"]


def test_columns_for_people_are_no_ranks(tmp_path: Path) -> None:
    path = tmp_path / "taxonomy.csv"
    path.write_text(
        "label,genus,common_name,red_list\nPanthera onca,panthera,Jaguar,NT\nlion,panthera,,vulnerable\n"
    )
    found = read_taxonomy(str(path))
    assert found.above("panthera onca") == (("genus", "panthera"),)
    assert (found.common, found.categories) == (
        {"panthera onca": "Jaguar"},
        {"panthera onca": "NT", "lion": "vulnerable"},
    )
    names = {"lion": {"common_name": "lion", "red_list": "VU"}, "tiger": {"Common Name": "tiger"}}
    alone = make_taxonomy(names)
    assert alone.common == {"lion": "lion", "tiger": "tiger"}
    assert labels_of(alone) == labels_of(None)


def labels_of(taxonomy: Any) -> list[Any]:
    """Labels that sequences of an uncertain lion and a sure tiger get."""
    rows = [
        {"image_id": "a", "seq_id": "a", "probs": {"lion": 0.4, "tiger": 0.3, "empty": 0.3}},
        {"image_id": "b", "seq_id": "b", "probs": {"tiger": 0.9, "empty": 0.1}},
    ]
    classes = ["lion", "tiger", "empty"]
    found = combine(table_of(rows), empty="empty", min_confidence=0.5, classes=classes, taxonomy=taxonomy)
    return found.sequences.to_pylist()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("genus\npanthera\n", r":1: no column label .*the columns are: genus"),
        ("label\nlion\n", r":1: no column for a rank"),
        ("label,genus\nlion\n", r":2: 1 values .*names 2"),
        ("label,genus\n,panthera\n", r":2: label: empty"),
        ("label,genus\nlion,panthera\nlion,leo\n", r":3: 'lion' has other groups further up"),
        (
            "label,genus,family\nlion,p,felidae\ntiger,p,canidae\n",
            r":3: 'p' is in 'canidae' here and in 'felidae'",
        ),
        ("label,genus,family\nlion,p,felidae\nwolf,,p\n", r":3: 'p' is a family here and a genus elsewhere"),
        ("label,genus\nlion,uncertain\n", r":2: genus: 'uncertain' can't be the name of a group"),
        ("label,genus\na,b\nb,a\n", r"'a' is above itself"),
        ("label,genus\n", r"holds no label"),
    ],
)
def test_a_taxonomy_that_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "taxonomy.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_taxonomy(str(path))


@pytest.mark.parametrize(
    ("text", "regions", "message"),
    [
        ("name\nlion\n", None, r":1: no column label"),
        (
            "label,region,location\nlion,Kruger,K-1\n",
            "location,region\nK-1,Kruger\n",
            r":2: names a region and a",
        ),
        (
            "label,region\nlion,Krüger\n",
            "location,region\nK-1,Kruger\n",
            r":2: no camera is in region 'Krüger'.*did",
        ),
        ("label,region\nlion,Kruger\n", None, r":2: no camera is in region 'Kruger'.*give events.regions"),
        ("label\n", None, r"holds no label"),
        ("label\nlion\n", "location,region\nK-1,a\nK-1,b\n", r":3: 'K-1' has another region further up"),
    ],
)
def test_a_species_list_that_is_wrong(tmp_path: Path, text: str, regions: str | None, message: str) -> None:
    (tmp_path / "species.csv").write_text(text)
    (tmp_path / "regions.csv").write_text(regions or "")
    with pytest.raises(InputError, match=message):
        read_species(str(tmp_path / "species.csv"), str(tmp_path / "regions.csv") if regions else None)


def test_files_of_another_model_or_not_there(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"none of the model's classes is in it \(events.taxonomy\).*'heron'"
    ):
        judge({"heron": 1.0}, taxonomy=TREE)
    with pytest.raises(InputError, match=r"none of the model's classes is in it \(events.species\).*'empty'"):
        judge({"heron": 1.0}, species=only("lion"))
    for read in (read_taxonomy, read_species):
        with pytest.raises(InputError, match="no such file"):
            read(str(tmp_path / "none.csv"))


def test_all_probabilities_count_where_there_are_any() -> None:
    """`probs` are of half precision, top5 is exact; an image without probs goes by top5, or by its label."""
    names = ["wolf", "lion", "tiger"]
    table = table_of([{"image_id": n, "seq_id": n, "probs": {"lion": 0.375}} for n in "123"])
    probs = pa.array([np.array([0.25, 0.3, 0.25], np.float16), None, None], pa.list_(pa.float16()))
    top5 = pa.array([*table["top5"].to_pylist()[:2], None], table["top5"].type)
    table = table.set_column(6, "top5", top5).append_column("probs", probs)
    options: dict[str, Any] = {"empty": "empty", "min_confidence": 0.5, "taxonomy": TREE}
    found = combine(table, classes=names, **options).sequences.to_pylist()
    assert [(row["label"], row["confidence"]) for row in found] == [
        ("panthera", 0.625),
        (UNCERTAIN, 0.375),
        (UNCERTAIN, 0.375),
    ]
    with pytest.raises(BrokenPromise, match="do not match the model's classes"):
        combine(table, classes=names[:2], **options)


# Against the definitions


SIXTEENTHS = st.tuples(*[st.integers(0, 5)] * 5).filter(lambda parts: 0 < sum(parts) <= 16)
NAMES = ("empty", "lion", "lynx", "tiger", "wolf")


def expected(
    frames: list[dict[str, float]], threshold: float, possible: set[str]
) -> tuple[str, float, str | None]:
    """Label, confidence and what is set aside, from the rule's text, in fractions."""

    def above(label: str) -> list[str]:
        return list(CATS.get(label, {}).values())

    def total(p: dict[str, Fraction], group: str) -> Fraction:
        return sum((value for name, value in p.items() if group in above(name)), Fraction())

    exact = [{name: Fraction(value) for name, value in frame.items()} for frame in frames]
    speaking = []
    for p in exact:
        top = min(p, key=lambda name: (-p[name], name))
        if top != "empty" and max([p[top], *(total(p, group) for group in above(top))]) >= threshold:
            speaking.append(p)
    among = speaking or exact
    mean = {name: sum(p[name] for p in among) / len(among) for name in NAMES}
    if speaking:
        mean["empty"] = Fraction()
    best = min(mean, key=lambda name: (-mean[name], name))
    allowed = {name: p for name, p in mean.items() if name in possible}
    guess = min(allowed, key=lambda name: (-allowed[name], name))
    aside = best if best not in possible else None
    if mean[guess] >= threshold and mean[guess] > 0:
        return guess, float(np.float32(mean[guess])), aside
    animal = min((name for name in NAMES if name != "empty"), key=lambda name: (-mean[name], name))
    for group in above(animal):
        members = {name for name in NAMES if group in above(name)}
        if total(mean, group) >= threshold and members & possible:
            return group, float(np.float32(total(mean, group))), aside
    return UNCERTAIN, float(np.float32(mean[guess])), aside


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("xyz"), SIXTEENTHS), min_size=1, max_size=12),
    st.sampled_from([0.25, 0.5, 0.75]),
    st.sets(st.sampled_from(["lion", "lynx", "tiger", "wolf"]), min_size=1),
    st.data(),
)
def test_definitions(
    images: list[tuple[str, tuple[int, ...]]], threshold: float, listed: set[str], data: st.DataObject
) -> None:
    """Labels are as the rule says, in whatever order rows come, and wherever batches of them end."""
    rows = [
        {
            "image_id": f"{n:02}",
            "seq_id": name,
            "probs": {k: v / 16 for k, v in zip(NAMES, parts, strict=True)},
        }
        for n, (name, parts) in enumerate(images)
    ]
    options: dict[str, Any] = {
        "empty": "empty",
        "min_confidence": threshold,
        "taxonomy": TREE,
        "classes": NAMES,
    }
    options |= {"species": only(*listed), "classes": NAMES}
    table = table_of(rows)
    found = combine(table, **options)
    for row in found.sequences.to_pylist():
        frames = [image["probs"] for image in rows if image["seq_id"] == row["seq_id"]]
        label, confidence, aside = expected(frames, threshold, listed | {"empty"})
        assert (row["label"], row["confidence"], row["set_aside"]) == (label, confidence, aside)
        assert (row["rank"] is not None) == (label not in (*NAMES, UNCERTAIN))
        assert (row["reason"] is None) == (label in NAMES and aside is None)

    order = data.draw(st.permutations(range(len(rows))))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(rows)), max_size=4)))
    shuffled = table.take(pa.array(order))
    borders = [0, *cuts, len(rows)]
    batches = [
        batch
        for start, stop in pairwise(borders)
        for batch in shuffled.slice(start, stop - start).select(["top5"]).combine_chunks().to_batches()
    ]
    with pytest.MonkeyPatch.context() as patch:  # a batch is judged at once, and the table read several times
        patch.setattr(evidence, "_CELLS", 1)
        patch.setattr(evidence, "_MOST_BYTES", data.draw(st.sampled_from([40, 120, 10_000])))
        again = combine(shuffled, scores=lambda: batches, **options)
    assert again.sequences.equals(found.sequences)
    assert again.frames.sort_by("image_id").equals(found.frames.sort_by("image_id"))


def test_cameras_of_lists_that_are_no_location_are_named(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text("label,region,location\nlion,north,\npuma,,CAM*\noryx,,Lake\n")
    (tmp_path / "r.csv").write_text("location,region\ncam01,north\nCAM2,north\nX?,north\n")
    lists = read_species(str(tmp_path / "s.csv"), str(tmp_path / "r.csv"))
    assert unused_cameras(lists, ["CAM1", "CAM2"]) == [
        "cameras of events.regions that are not locations: 2 ('cam01' (there is 'CAM1' in the data set), "
        "'X?')",
        "cameras of events.species that are not locations: 1 ('Lake')",
    ]
    assert unused_cameras(lists, ["cam01", "CAM2", "X1", "Lake"]) == []


def test_lines_that_match_no_class_are_named(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("species;family\nPanthera leo;felidae\nVulpes vulpes;canidae\n")
    (tmp_path / "s.csv").write_text("label\nfelidae\npanthera  leo\nvulpes vulpe\n")
    taxonomy, species = read_taxonomy(str(tmp_path / "t.csv")), read_species(str(tmp_path / "s.csv"))
    of_taxonomy, of_species = unused_lines(["Panthera leo", "Vulpes vulpes sp"], taxonomy, species)
    assert of_taxonomy.startswith(
        "labels of events.taxonomy that are not classes of the model: 1 ('vulpes vulpes'"
    )
    assert "events.species that are not classes of the model: 1 ('vulpes vulpe'" in of_species
    assert unused_lines(["Panthera leo (Linnaeus, 1758)", "vulpes vulpes"], taxonomy, None) == []
    [by_people] = unused_lines(["Panthera leo", "Vulpes vulpe"], taxonomy, species, "the labels")
    assert by_people == (
        "labels of events.taxonomy that no image has: 1 "
        "('vulpes vulpes' (there is 'vulpes vulpe' in the labels))"
    )


def test_a_category_of_threat_is_no_rank(tmp_path: Path) -> None:
    (tmp_path / "taxa.csv").write_text("label,genus,IUCN\npanthera leo,panthera,VU\npanthera leo,panthera,\n")
    read = read_taxonomy(str(tmp_path / "taxa.csv"))
    made = make_taxonomy({"Panthera leo": {"genus": "panthera", "Red list": "VU"}})
    for found in (read, made):
        assert found.above("panthera leo") == (("genus", "panthera"),)
        assert found.categories == {"panthera leo": "VU"}
    (tmp_path / "taxa.csv").write_text(
        "label,genus,iucn\npanthera leo,panthera,VU\npanthera leo,panthera,CR\n"
    )
    with pytest.raises(InputError, match=r"taxa\.csv:3: 'panthera leo' is VU further up; it should have one"):
        read_taxonomy(str(tmp_path / "taxa.csv"))
    (tmp_path / "taxa.csv").write_text("label,iucn\npanthera leo,VU\n")
    with pytest.raises(InputError, match="no column for a rank"):
        read_taxonomy(str(tmp_path / "taxa.csv"))
