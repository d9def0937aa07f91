"""What is computed another way than it is defined, because that is faster, is the same in every bit."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from device_client.wire.tensor1.elements import Element, bits_of, ordered, reals
from device_client.wire.tensor1.format import Field, Instruction, Kind, Predictor
from device_client.wire.tensor1.predictors import predict
from device_client.wire.tensor1.products import product_of

_ALL_HALVES = np.arange(1 << 16, dtype=np.uint16).view(np.int16)


def test_float16__every_pattern__widened_as_ieee_says() -> None:
    finite = _ALL_HALVES[np.isfinite(_ALL_HALVES.view(np.float16))]
    for patterns in (_ALL_HALVES, finite):
        wanted = patterns.view(np.float16).astype(np.float32)
        assert np.array_equal(reals(patterns, Element.F16).view(np.uint32), wanted.view(np.uint32))


@pytest.mark.parametrize("element", [Element.F16, Element.BF16], ids=["float16", "bfloat16"])
def test_16_bits__at_and_beside_every_number_and_every_middle__rounded_to_nearest_even(element: Element) -> None:
    exact = reals(_ALL_HALVES, element)
    values = np.sort(exact[np.isfinite(exact)].astype(np.float64))
    middles = ((values[1:] + values[:-1]) / 2).astype(np.float32)
    edges = np.concatenate([exact, middles, np.array([65519.99, 65520, 65536, 1e6, -1e30, 1e-30, -1e-45], np.float32)])
    with np.errstate(all="ignore"):
        tried = [edges, np.nextafter(edges, np.float32(np.inf)), np.nextafter(edges, np.float32(-np.inf))]
        for numbers in tried:
            assert np.array_equal(bits_of(numbers, element), _rounded(numbers, element))


def _rounded(numbers: NDArray[np.float32], element: Element) -> NDArray[np.int16]:
    if element is Element.F16:
        return numbers.astype(np.float16).view(np.int16)
    raw = numbers.view(np.uint32).astype(np.uint64)
    up = (raw & 0xFFFF) + ((raw >> 16) & 1) > 1 << 15
    kept = np.where(np.isnan(numbers), (raw >> 16) | 0x40, (raw >> 16) + up)
    return kept.astype(np.uint16).view(np.int16)


def _parameters(u: NDArray[np.float32], v: NDArray[np.float32]) -> bytes:
    return v.astype("<f4").tobytes() + u.astype("<f4").tobytes()


@pytest.mark.parametrize("bits", [3, 8, 10])
def test_product__of_factors_of_few_bits__adds_up_at_once_and_is_as_defined(bits: int) -> None:
    dice = np.random.default_rng(bits)
    steps = np.float32(2.0) ** dice.integers(-12, -8, 8).astype(np.float32)
    u = dice.integers(-(1 << bits), 1 << bits, (70, 8)).astype(np.float32) * steps
    v = dice.integers(-(1 << bits), 1 << bits, (8, 90)).astype(np.float32) / steps[:, None] * np.float32(2.0**-20)
    product = product_of(_parameters(u, v), 8, 90, 0, 70 * 90)
    assert product.is_exact
    by_definition = product.elements(0, 70 * 90)
    assert np.array_equal(product.elements(0, 70 * 90, in_order=False), by_definition)


@pytest.mark.parametrize(
    ("zero", "element"),
    [(0.0, Element.F32), (-0.0, Element.F32), (-0.0, Element.F64), (-1e-60, Element.F64)],
    ids=["zero", "negative-zero", "wide-negative-zero", "rounded-to-negative-zero"],
)
def test_low_rank__sum_of_negative_zeros__is_added_as_defined(zero: float, element: Element) -> None:
    """-0 + -0 is -0, and every other sum of zeros is 0."""
    u = np.tile(np.array([[0.0, 0.0], [1.0, 0.0]], np.float32), (32, 1))
    v = np.tile(np.array([[-1.0, 1.0], [-1.0, -1.0]], np.float32), (1, 32))
    assert product_of(_parameters(u, v), 2, 64, 0, 64 * 64).is_exact
    old = np.full(64 * 64, zero, dtype=f"<f{element.width}")
    item = Instruction(Kind.DELTA, 4 * old.size, predictor=Predictor.LOW_RANK, fields=(Field(Element.F32, 1),))
    item = replace(item, scalars=(2, 64), old_element=element)
    (guess,) = predict(item, _parameters(u, v), old.tobytes(), 0, len(old))
    wanted = old.astype(np.float32) + (u[:, :1] * v[:1] + u[:, 1:] * v[1:]).reshape(-1)
    assert np.array_equal(guess, ordered(wanted.view(np.int32), Element.F32))


@pytest.mark.parametrize("spoiler", [2.0**-30, 2.0**40, float("inf"), float("nan"), 1e-45])
def test_product__that_has_to_be_rounded__is_added_up_in_order(spoiler: float) -> None:
    u, v = np.ones((64, 3), dtype=np.float32), np.ones((3, 64), dtype=np.float32)
    assert product_of(_parameters(u, v), 3, 64, 0, 64 * 64).is_exact
    u[2, 1] = spoiler
    assert not product_of(_parameters(u, v), 3, 64, 0, 64 * 64).is_exact


def test_product__largest_sum_that_float32_holds__is_exact() -> None:
    u, v = np.ones((64, 2), dtype=np.float32), np.ones((2, 64), dtype=np.float32)
    u[0, 0] = (1 << 24) - 1
    assert product_of(_parameters(u, v), 2, 64, 0, 64 * 64).is_exact
    u[0, 1] = 2
    assert not product_of(_parameters(u, v), 2, 64, 0, 64 * 64).is_exact


@pytest.mark.parametrize("exponent", [63, -63, 64, -64])
def test_product__of_numbers_that_float32_does_not_hold_on_their_own__is_added_up_in_order(exponent: int) -> None:
    """2**128 less 2**128 is nothing when it is added at once, and not a number otherwise; float32 rounds what is below 2**-126."""
    u = np.array([[1.0, -1.0]] * 64, np.float32) * np.float32(2.0**exponent)
    v = np.ones((2, 64), dtype=np.float32) * np.float32(2.0**exponent)
    assert product_of(_parameters(u, v), 2, 64, 0, 64 * 64).is_exact == (abs(exponent) == 63)
