"""Products of thin matrices: found as exactly as the numbers tell them, and the same on every machine."""

import hashlib
import os
import platform
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from fleet.adapters.delta_tensor.exact_products import gram, product, sliced, whitening
from tests.delta.pairs import files
from tests.delta.patches import applied, make, weights

ROOT = Path(__file__).resolve().parents[2]
MADE = """
import hashlib, sys
from tests.delta.test_low_rank import merged
from tests.delta.patches import make
for kind in ("f2", "f4"):
    patch, stats = make(*merged(kind))
    assert [item.predictor for item in stats.tensors] == ["low_rank"]
    print(hashlib.sha256(patch).hexdigest())
"""


def merged(kind: str, rank: int = 8) -> tuple[bytes, bytes]:
    """A matrix before and after an adapter was merged into it."""
    before = weights(1, 512, 384)
    left, right = weights(2, 512, rank), weights(3, rank, 384)
    # Not by BLAS, so that it is the same whatever kernel runs.
    after = before + sum(left[:, [index]] * right[index] for index in range(rank)) * np.float32(1e-2)
    old, new = (files.safetensors({"w": array.astype(kind)}) for array in (before, after))
    return old, new


def test_product__any_numbers__is_the_exact_one_to_the_bits_of_its_slices() -> None:
    dice = np.random.default_rng(1)
    left = dice.standard_normal((3, 300)) * np.exp2(dice.integers(-30, 30, (3, 300)))
    right = dice.standard_normal((300, 2))
    found = product(sliced(left, 300), sliced(right, 300))
    for row in range(3):
        for column in range(2):
            pairs = zip(left[row].tolist(), right[:, column].tolist(), strict=True)
            exact = sum(Fraction(one) * Fraction(other) for one, other in pairs)
            bound = 300 * np.abs(left).max() * np.abs(right).max() * 2.0**-41
            assert abs(Fraction(float(found[row, column])) - exact) < bound


def test_product__added_up_in_another_order__is_the_same() -> None:
    dice = np.random.default_rng(2)
    left, right = dice.standard_normal((40, 1000)), dice.standard_normal((1000, 8))
    order = dice.permutation(1000)
    assert not np.array_equal(left @ right, left[:, order] @ right[order])
    found = product(sliced(left, 1000), sliced(right, 1000))
    assert np.array_equal(found, product(sliced(left[:, order], 1000), sliced(right[order], 1000)))


@pytest.mark.parametrize("value", [0.0, 1e-300, np.inf, np.nan], ids=["zero", "tiny", "infinite", "no_number"])
def test_sliced__what_has_no_bits_to_keep__is_zero(value: float) -> None:
    assert [part.any() for part in sliced(np.full((2, 2), value), 2).slices] == [False]


def test_whitening__a_column_that_others_make__is_dropped() -> None:
    columns = np.random.default_rng(3).standard_normal((50, 4))
    columns[:, 2] = columns[:, 0] - 2 * columns[:, 1]
    white = columns @ whitening(gram(columns))
    assert np.abs(white.T @ white - np.diag([1.0, 1.0, 0.0, 1.0])).max() < 1e-6


@pytest.mark.parametrize(("kind", "bits"), [("f4", 2.6), ("f2", 2.6)])
def test_merged_adapter__its_product__is_found_as_exactly_as_rounding_lets_it(kind: str, bits: float) -> None:
    old, new = merged(kind)
    patch, stats = make(old, new)
    assert applied(old, patch) == new
    assert [(item.predictor, item.bits_per_weight < bits) for item in stats.tensors] == [("low_rank", True)]


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the kernels that are asked for are those of x86-64")
def test_merged_adapter__another_blas_kernel__same_patch() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", MADE],
        env={**os.environ, "OPENBLAS_CORETYPE": "Prescott"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == [hashlib.sha256(make(*merged(kind))[0]).hexdigest() for kind in ("f2", "f4")]
