"""Tensors are found again among thousands of their shape, without their names."""

import random

import numpy as np

from fleet.adapters.delta_tensor.sketches import Sketches, sketch
from tests.delta.pairs import files
from tests.delta.patches import applied, make, weights

COUNT = 300


def _renamed(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    names = list(tensors)
    random.Random(1).shuffle(names)
    return {f"other.{number}": tensors[name] for number, name in enumerate(names)}


def test_sketches__noisy_versions_among_thousands__come_first() -> None:
    before = np.random.default_rng(1).standard_normal((6000, 256))
    noise = 0.1 * np.random.default_rng(2).standard_normal(before.shape)
    for count in (6000, 600):
        sketches = Sketches([sketch(row) for row in before[:count]])
        found = [sketches.nearest(sketch(before[number] + noise[number]), 1)[0] for number in range(0, count, 20)]
        assert sum(place == 20 * number for number, place in enumerate(found)) > 0.99 * len(found)


def test_sketches__all_the_same__no_more_than_were_asked_for() -> None:
    constant = sketch(np.zeros(10))
    assert len(Sketches([constant] * 9000).nearest(constant, 8)) == 8


def test_patch__many_tensors_of_one_shape_renamed_and_reordered__as_small_as_in_order() -> None:
    before = {f"w{number}": weights(number, 64, 8) for number in range(COUNT)}
    after = {
        name: array + np.float32(1e-4) * weights(number, 64, 8) for number, (name, array) in enumerate(before.items())
    }
    old, new, mixed = (files.safetensors(tensors) for tensors in (before, after, _renamed(after)))
    patch, stats = make(old, mixed)
    assert applied(old, patch) == mixed
    assert {item.predictor for item in stats.tensors} == {"same"}
    assert len(patch) < 1.05 * len(make(old, new)[0]) + 8 * COUNT


def test_patch__many_tensors_renamed_and_rounded__next_to_nothing() -> None:
    before = {f"w{number}": weights(number, 64, 8) for number in range(COUNT)}
    old = files.safetensors(before)
    new = files.safetensors(_renamed({name: array.astype("f2") for name, array in before.items()}))
    patch, stats = make(old, new)
    assert applied(old, patch) == new
    assert {item.predictor for item in stats.tensors} == {"cast"}
    assert len(patch) < 0.05 * len(new)
