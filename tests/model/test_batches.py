from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from camtrap_batch.model import Samples
from camtrap_batch.model.batches import IGNORED, EvalBatches, TrainBatches, in_window, resample, vary
from camtrap_batch.model.decoding import Decoder
from camtrap_batch.model.device import Normalise

CPU = torch.device("cpu")
NORMALISE = Normalise((0.5, 0.5, 0.5), (0.25, 0.25, 0.25), CPU)


@pytest.mark.parametrize("n", [1, 3])
def test_normalised_channel_by_channel(n: int) -> None:
    mean, std = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.3, 0.4])
    normalise = Normalise(mean.tolist(), std.tolist(), CPU)
    pixels = torch.randint(0, 256, (n, 5, 7, 3), dtype=torch.uint8)
    right = ((pixels.double() / 255 - mean) / std).permute(0, 3, 1, 2)
    for change in (None, lambda images: images.contiguous()):  # the second one: not channels last
        found = normalise(pixels, change)
        assert found.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(found.double(), right, rtol=1e-4, atol=1e-5)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=60).filter(lambda w: sum(w) > 1), st.integers(0, 99))
def test_drawn_as_often_as_the_weight_says(weights: list[float], seed: int) -> None:
    drawn = resample(np.array(weights), np.random.default_rng(seed))
    expected = np.array(weights) / sum(weights) * len(weights)
    counts = np.bincount(drawn, minlength=len(weights))
    assert len(drawn) == len(weights)
    assert (np.abs(counts - expected) < 1 + 1e-9).all()


def test_equal_weights_draw_each_once() -> None:
    drawn = resample(np.full(50, 0.3), np.random.default_rng(1))
    assert sorted(drawn.tolist()) == list(range(50))
    assert drawn.tolist() != list(range(50))


@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 99))
def test_a_window_of_blocks_is_in_use_at_a_time(n_blocks: int, window: int, seed: int) -> None:
    blocks = np.random.default_rng(seed).integers(0, n_blocks, 500)
    drawn = np.random.default_rng(seed + 1).integers(0, 500, 500)
    order = in_window(drawn, blocks, window, np.random.default_rng(seed))
    assert sorted(order) == sorted(drawn)
    used = blocks[order]
    first = {block: place for place, block in reversed(list(enumerate(used.tolist())))}
    last = {block: place for place, block in enumerate(used.tolist())}
    open_at = [sum(first[block] <= place <= last[block] for block in first) for place in range(500)]
    if len(first) > window:
        assert max(open_at) <= window + 1
    else:
        assert order.tolist() == drawn.tolist()


def test_parts_of_a_team_are_the_batch_and_each_goes_on_alone(samples: Samples) -> None:
    def part(number: int, parts: int, next_pass: int) -> list[list[int]]:
        given = TrainBatches(
            decoder, np.arange(35), np.arange(35), np.ones(35, np.float32), 16, NORMALISE, 3,
            part=number, parts=parts,
        )  # fmt: skip
        given.next_pass = next_pass
        return [truth.tolist() for _, truth in given]

    with Decoder(samples.jpegs, 16, 2, 1 << 20) as decoder:
        whole, *halves = part(0, 1, 4), part(0, 2, 4), part(1, 2, 4)
        assert [sorted([*a, *b]) for a, b in zip(*halves, strict=True)] == [sorted(batch) for batch in whole]
        assert part(0, 1, 5) != whole
        # 35 images for 14 processes: all have as many steps, the last ones with nothing that counts.
        many = [part(number, 14, 0) for number in range(14)]
    assert {len(batches) for batches in many} == {3}
    assert [IGNORED, IGNORED] in many[13]


def test_infrared_is_grey_and_darker_in_the_corners_and_banners_are_covered() -> None:
    images = torch.full((400, 3, 40, 60), 128.0)
    images[:, 0] = 200
    varied = vary(images, torch.Generator().manual_seed(3))
    grey = (varied.amax(1) - varied.amin(1)).amax((1, 2)) < 1e-3
    assert 0.1 < float(grey.float().mean()) < 0.2
    middle, corner = varied[grey, 0, 18:22, 28:32].mean(), varied[grey, 0, :3, :3].mean()
    assert corner < middle - 5
    rows = varied[~grey].mean((1, 3))
    is_covered = (rows - rows[:, 20:21]).abs() > 3
    assert 0.1 < float(is_covered[:, -1].float().mean()) < 0.4
    assert float(is_covered[:, 0].float().mean()) < float(is_covered[:, -1].float().mean())
    assert not is_covered[:, 10:30].any()


def test_variation_keeps_shape_range_and_seed() -> None:
    images = torch.rand(40, 3, 24, 32) * 255
    one = vary(images.clone(), torch.Generator().manual_seed(5))
    again = vary(images.clone(), torch.Generator().manual_seed(5))
    other = vary(images.clone(), torch.Generator().manual_seed(6))
    assert one.shape == images.shape
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert one.min() >= 0
    assert one.max() <= 255
    grey = (one[:, 0] - one[:, 1]).abs().amax((1, 2)) < 1e-3
    assert 1 <= int(grey.sum()) <= 20


def test_variation_mirrors_about_half() -> None:
    images = torch.zeros(200, 3, 32, 32)
    images[..., :16] = 200
    left = vary(images, torch.Generator().manual_seed(0))
    mirrored = left[..., :16].mean((1, 2, 3)) < left[..., 16:].mean((1, 2, 3))
    assert 70 < int(mirrored.sum()) < 130


def batches(decoder: Decoder, n: int, seed: int) -> TrainBatches:
    return TrainBatches(decoder, np.arange(n), np.arange(n), np.ones(n, np.float32), 16, NORMALISE, seed)


def test_training_passes_differ_and_repeat_with_the_seed(samples: Samples) -> None:
    with Decoder(samples.jpegs, 16, 2, 1 << 20) as decoder:
        one, other = batches(decoder, 35, 3), batches(decoder, 35, 3)
        passes = [[(x, y.tolist()) for x, y in one] for _ in range(2)]
        for (images, truth), (again, same) in zip(passes[0], other, strict=True):
            assert torch.equal(images, again)
            assert truth == same.tolist()
    assert [len(truth) for _, truth in passes[0]] == [12, 12, 11]
    orders = [[place for _, truth in batch for place in truth] for batch in passes]
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(35))


def test_eval_batches_are_in_order_and_unvaried(samples: Samples) -> None:
    with Decoder(samples.jpegs, 16, 2) as decoder:
        given = list(EvalBatches(decoder, np.arange(30, 50), np.arange(20), 8, NORMALISE))
        _, pixels = decoder.get(np.arange(30, 50))
    assert torch.cat([truth for _, truth in given]).tolist() == list(range(20))
    images = torch.cat([x for x, _ in given])
    expected = (torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
    torch.testing.assert_close(images, expected)
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x, _ in given)


def test_images_that_do_not_decode_are_left_out(samples: Samples) -> None:
    files = [*samples.jpegs[:5], b"nothing", *samples.jpegs[6:10]]
    with Decoder(files, 16, 2) as decoder:
        given = [y.tolist() for _, y in EvalBatches(decoder, np.arange(10), np.arange(10), 4, NORMALISE)]
    assert [place for part in given for place in part] == [0, 1, 2, 3, 4, 6, 7, 8, 9]


@pytest.mark.parametrize("n", [1, 16, 17])
def test_length_is_what_comes(samples: Samples, n: int) -> None:
    with Decoder(samples.jpegs, 16, 2) as decoder:
        judged = EvalBatches(decoder, np.arange(n), np.arange(n), 16, NORMALISE)
        assert len(judged) == len(list(judged))
