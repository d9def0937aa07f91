"""The writing side of differences: it takes the classes by which a run is smallest, or none."""

import numpy as np
import pytest

from device_client.wire.tensor1 import residuals
from device_client.wire.tensor1.elements import Element, Integers, exponents, integers, ordered
from device_client.wire.tensor1.format import Cursor
from fleet.adapters.delta_tensor import Coding, magnitudes, residual_coding
from tests.delta.pairs import files
from tests.delta.patches import weights

SHAPE = (384, 384)
NO_CLASSES = 0


def _updated(spread: float) -> tuple[Integers, Integers]:
    """(guess, differences) of a bfloat16 matrix whose rows and columns moved by sizes this far apart, in natural logarithms."""
    before = weights(1, *SHAPE) * np.float32(0.05)
    sizes = np.exp(np.float32(spread) * (weights(3, SHAPE[0], 1) + weights(4, 1, SHAPE[1])))
    after = before + weights(2, *SHAPE) * np.float32(1e-3) * sizes
    guess, made = (
        ordered(integers(files.bfloat16(numbers).tobytes(), Element.BF16), Element.BF16) for numbers in (before, after)
    )
    return guess, made - guess


@pytest.mark.parametrize(("spread", "is_classed"), [(0.15, False), (0.6, True)], ids=["alike", "far apart"])
def test_run__rows_and_columns_alike_or_not__has_classes_only_where_they_pay(
    *, spread: float, is_classed: bool
) -> None:
    guess, differences = _updated(spread)
    packed = residual_coding.encode(differences, Element.BF16, guess, Coding.PCODEC, shape=(SHAPE[1], 0))
    assert (packed[1] != NO_CLASSES) == is_classed
    # In both cases classes of groups or of rows and columns promise enough to be tried.
    scale = exponents(guess, Element.BF16)
    assert len(magnitudes.candidates(differences, scale, (SHAPE[1], 0))) > 1
    found = residuals.decode(Cursor(memoryview(packed)), differences.size, Element.BF16, guess)
    assert found is not None
    assert np.array_equal(found, differences)


@pytest.mark.parametrize("coding", list(Coding))
def test_run__rows_that_hardly_changed_among_others__as_small_as_both_alone(coding: Coding) -> None:
    # An embedding after AdamW: a few rows got gradients, all were decayed and rounded.
    before = weights(1, 600, 384) * np.float32(0.05)
    after = before * np.float32(1 - 1.2e-5)
    after[::10] += weights(2, 60, 384) * np.float32(1e-3)
    guess, made = (
        ordered(integers(numbers.astype("<f2").tobytes(), Element.F16), Element.F16).reshape(600, 384)
        for numbers in (before, after)
    )

    def packed(rows: slice | list[int]) -> int:
        differences = np.ascontiguousarray((made - guess)[rows]).reshape(-1)
        held = np.ascontiguousarray(guess[rows]).reshape(-1)
        run = residual_coding.encode(differences, Element.F16, held, coding, shape=(384, 0))
        found = residuals.decode(Cursor(memoryview(run)), differences.size, Element.F16, held)
        assert found is not None
        assert np.array_equal(found, differences)
        return len(run)

    apart = packed(slice(0, None, 10)) + packed([row for row in range(600) if row % 10])
    assert packed(slice(None)) < 1.03 * apart
