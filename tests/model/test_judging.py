from __future__ import annotations

import dataclasses
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from camtrap_batch.model import Samples, TrainConfig, read_info, train
from camtrap_batch.model.judging import RANDOM, keep_random_images
from camtrap_batch.model.sheets import show_batch, show_results

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def many(samples: Samples) -> Samples:
    """Twice the samples, so that enough of them are for training; what is in the files does not matter."""
    columns = ("labels", "splits", "locations", "jpegs")
    doubled = {name: [*getattr(samples, name), *getattr(samples, name)] for name in columns}
    assert samples.is_night is not None
    return dataclasses.replace(
        samples,
        **doubled,
        image_ids=[f"image-{number}" for number in range(2 * len(samples))],
        weights=np.ones(2 * len(samples), np.float32),
        is_night=np.tile(samples.is_night, 2),
    )


def test_random_images_come_from_training_alone_and_from_each_class(many: Samples) -> None:
    found = keep_random_images(many, 3)
    moved = [index for index, split in enumerate(found.splits) if split == RANDOM]
    assert {many.splits[index] for index in moved} == {"train"}
    assert Counter(many.labels[index] for index in moved) == dict.fromkeys(many.category_ids, 8)
    kept = [split for split in found.splits if split != RANDOM]
    assert kept == [split for index, split in enumerate(many.splits) if index not in set(moved)]
    assert found.splits == keep_random_images(many, 3).splits != keep_random_images(many, 4).splits


def test_none_where_they_would_be_few_or_the_split_is_by_image(samples: Samples, many: Samples) -> None:
    assert keep_random_images(samples, 3) is samples
    leaky = dataclasses.replace(many, locations=["L0"] * len(many))
    assert keep_random_images(leaky, 3) is leaky


def test_what_a_random_split_would_claim_is_measured(
    many: Samples, config: TrainConfig, tmp_path: Path
) -> None:
    settings = dataclasses.replace(config, arch="shufflenet_v2_x0_5", size=32, epochs=1)
    result = train(many, settings, tmp_path, {})
    claimed = result.metrics["random_split"]
    assert claimed["n_images"] == 24
    assert 0 <= claimed["accuracy"] <= 1
    assert result.metrics["training"]["images"] == list(many.splits).count("train") - 24
    assert read_info(tmp_path / result.model_id).metrics["random_split"]["accuracy"] == claimed["accuracy"]
    worst = result.metrics["test"]["worst"]
    assert [row["p_truth"] for row in worst] == sorted(row["p_truth"] for row in worst)
    labels = dict(zip(many.image_ids, many.labels, strict=True))
    assert all(labels[row["image_id"]] == row["truth"] for row in worst)
    batch = ET.parse(tmp_path / result.model_id / "batch.svg").getroot()
    assert len(batch.findall(f"{SVG}image")) == 24
    assert {text.text for text in batch.iter(f"{SVG}title")} >= {"cross", "disc", "frame"}


def test_figures_show_no_person(make: Callable[..., Samples]) -> None:
    samples = make(3)
    row = {"image_id": "image-1", "truth": "lion", "predicted": "oryx", "confidence": 0.9, "p_truth": 0.01}
    rows = [row, {**row, "truth": "Human"}, {**row, "predicted": "person"}]
    assert len(ET.fromstring(show_results(samples, rows)).findall(f"{SVG}image")) == 1
    batch = show_batch(
        torch.zeros(3, 3, 8, 8), torch.tensor([0, 1, 0]), (0.5,) * 3, (0.2,) * 3, ["lion", "human"]
    )
    assert len(ET.fromstring(batch).findall(f"{SVG}image")) == 2


def test_names_in_figures_are_text_and_nothing_is_fetched(make: Callable[..., Samples]) -> None:
    hostile = "<script>alert(1)</script>&"
    samples = make(3)
    row = {"image_id": "image-1", "truth": hostile, "predicted": "x" * 80, "confidence": 0.9, "p_truth": 0.01}
    picture = ET.fromstring(show_results(samples, [row]))
    assert [element.tag for element in picture.iter() if "script" in element.tag] == []
    titles = [element.text for element in picture.iter(f"{SVG}title")]
    assert f"truth: {hostile}" in titles
    links = [element.attrib["href"] for element in picture.iter() if "href" in element.attrib]
    assert len(links) == 1
    assert links[0].startswith("data:image/jpeg;base64,")
