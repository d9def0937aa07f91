"""Published numbers reproduced, bounds held, degenerate input answered with a reason."""

import math
import random
from statistics import NormalDist

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.domain.stats.estimates import Estimate, Unjudgeable
from fleet.domain.stats.ratios import RatioSums, Unit, difference, share_of
from fleet.domain.stats.sequences import prior_variance, radius
from fleet.domain.stats.shares import at_least, lower_bound, upper_bound

MANY = 1e9


@pytest.mark.parametrize(("size", "published"), [(1.0, 3.04), (0.1, 3.86), (10.0, 3.24)])
def test_radius__asymptotic_sequence__as_published(size: float, published: float) -> None:
    """Waudby-Smith et al. (2021) at alpha 0.05: standard errors at the planned size, a tenth and ten times of it."""
    found = radius(0.05, df=MANY, size=size, planned=1.0, planned_df=MANY, sides=2)
    assert found == pytest.approx(published, abs=0.006)


def test_prior_variance__many_degrees_of_freedom__closed_form() -> None:
    assert prior_variance(0.05, MANY, sides=2) == pytest.approx(-2 * math.log(0.05) + math.log(-2 * math.log(0.05) + 1))


def test_radius__few_devices__wider_than_many() -> None:
    widths = [radius(0.005, df=df, size=1, planned=1, planned_df=df) for df in (3, 6, 10, 30, 1_000)]
    assert widths == sorted(widths, reverse=True)
    assert 4.5 < widths[2] < 5.5


def test_radius__no_information__infinite() -> None:
    assert radius(0.01, df=0, size=1, planned=1, planned_df=10) == math.inf
    assert radius(0.01, df=10, size=0, planned=1, planned_df=10) == math.inf


def test_ratio_variance__growthbook_case__as_published() -> None:
    """gbstats' ratio metric: 0.529411765 against 0.6, uplift 0.133333333, p 0.610663339 (by t; by the normal 0.6101)."""
    a = RatioSums(devices=100, s=270, n=510, ss=848.79, nn=810, sn=-900)
    b = RatioSums(devices=120, s=300, n=500, ss=869, nn=800, sn=-905)
    assert a.ratio == pytest.approx(0.529411765)
    assert b.ratio == pytest.approx(0.6)
    uplift = b.ratio / a.ratio - 1
    variance = b.unit_variance / 120 / a.ratio**2 + a.unit_variance / 100 * b.ratio**2 / a.ratio**4
    p = 2 * (1 - NormalDist().cdf(uplift / math.sqrt(variance)))
    assert uplift == pytest.approx(0.133333333)
    assert p == pytest.approx(0.610663339, abs=1e-3)


def test_ratio_variance__delta_method__equals_its_definition() -> None:
    """(Var S - 2 R Cov + R**2 Var N) / (K mean(N)**2), from the covariances of the units themselves."""
    rng = random.Random(7)
    totals = [rng.uniform(50, 100) for _ in range(30)]
    units = [Unit(str(i), total * rng.random(), total) for i, total in enumerate(totals)]
    s, n = [unit.numerator for unit in units], [unit.denominator for unit in units]
    k, mean_s, mean_n = len(units), sum(s) / len(s), sum(n) / len(n)
    r = sum(s) / sum(n)
    var_s = sum((x - mean_s) ** 2 for x in s) / (k - 1)
    var_n = sum((x - mean_n) ** 2 for x in n) / (k - 1)
    cov = sum((x - mean_s) * (y - mean_n) for x, y in zip(s, n, strict=True)) / (k - 1)
    expected = (var_s - 2 * r * cov + r * r * var_n) / (k * mean_n**2)
    arm = RatioSums.of(units)
    assert arm.unit_variance / k == pytest.approx(expected)


def test_ratio_sums__one_device_far_above_the_median__weight_is_capped() -> None:
    quiet = [Unit(f"d{i}", 90, 100) for i in range(8)]
    liar = Unit("liar", 0, 1_000_000)
    assert RatioSums.of([*quiet, liar]).ratio == pytest.approx(720 / 1_200)


def test_ratio_sums__no_units__no_devices() -> None:
    assert RatioSums.of([]).devices == 0
    assert RatioSums.of([Unit("a", 0, 0), Unit("b", 0, 0)]).devices == 0


@pytest.mark.parametrize(("treated", "control"), [(0, 8), (1, 8), (4, 0), (4, 1)])
def test_difference__too_few_devices__none_with_a_reason(treated: int, control: int) -> None:
    arms = [RatioSums.of([Unit(str(i), 5, 10) for i in range(count)]) for count in (treated, control)]
    found = difference(arms[0], arms[1], alpha=0.01, planned_treated=4, planned_control=8)
    assert isinstance(found, Unjudgeable)
    assert "at least 2 devices" in found.reason


def test_difference__devices_agree_exactly__interval_keeps_a_width() -> None:
    """Ten correct of ten on every device proves little: the floor is the variance of independent inferences."""
    arm = RatioSums.of([Unit(str(i), 10, 10) for i in range(8)])
    found = difference(arm, arm, alpha=0.01, planned_treated=8, planned_control=8)
    assert isinstance(found, Estimate)
    assert found.value == 0
    assert found.upper > 0.02


def test_share_of__two_devices__bounds_stay_in_the_unit_interval() -> None:
    found = share_of(RatioSums.of([Unit("a", 1, 100), Unit("b", 2, 100)]), alpha=0.01, planned=4)
    assert isinstance(found, Estimate)
    assert 0 <= found.lower <= found.value <= found.upper <= 1


def test_share_of__one_device__none_with_a_reason() -> None:
    assert isinstance(share_of(RatioSums.of([Unit("a", 1, 100)]), alpha=0.01, planned=4), Unjudgeable)


@given(st.integers(0, 50), st.integers(0, 50), st.sampled_from([0.05, 0.01, 0.001]))
def test_shares__any_counts__bounds_enclose_the_share_and_narrow_with_alpha(bad: int, good: int, alpha: float) -> None:
    devices = bad + good
    if devices == 0:
        assert (lower_bound(0, 0, alpha), upper_bound(0, 0, alpha)) == (0.0, 1.0)
        return
    low, high = lower_bound(bad, devices, alpha), upper_bound(bad, devices, alpha)
    assert 0 <= low <= bad / devices <= high <= 1
    assert lower_bound(bad, devices, alpha / 10) <= low
    assert upper_bound(bad, devices, alpha / 10) >= high


def test_shares__all_of_four_fail__bound_is_the_exact_mixture() -> None:
    """B(5, 1) / p**4 = 1/alpha, so p = (alpha / 5)**(1/4)."""
    assert lower_bound(4, 4, 0.01) == pytest.approx((0.01 / 5) ** 0.25)


def test_shares__looked_at_after_every_device__error_stays_below_alpha() -> None:
    rng, wrong = random.Random(11), 0
    for _ in range(1_000):
        events = 0
        for devices in range(1, 61):
            events += rng.random() < 0.1
            if lower_bound(events, devices, 0.05) > 0.1:
                wrong += 1
                break
    assert wrong / 1_000 <= 0.05


def _looked_at(rng: random.Random, treated: int, control: int, spread: float, looks: int, alpha: float) -> bool:
    """Whether an A/A fleet of devices that differ would be found worse at any of `looks`."""
    accuracy = [min(1.0, max(0.0, rng.gauss(0.9, spread))) for _ in range(treated + control)]
    volume = [max(1, round(10 * rng.lognormvariate(0, 0.5))) for _ in accuracy]
    correct, total = [0.0] * len(accuracy), [0] * len(accuracy)
    for _ in range(looks):
        for i, share in enumerate(accuracy):
            total[i] += volume[i]
            noise = math.sqrt(volume[i] * share * (1 - share))
            correct[i] += min(volume[i], max(0.0, rng.gauss(volume[i] * share, noise)))
        units = [Unit(str(i), s, n) for i, (s, n) in enumerate(zip(correct, total, strict=True))]
        found = difference(
            RatioSums.of(units[:treated]),
            RatioSums.of(units[treated:]),
            alpha=alpha,
            planned_treated=treated,
            planned_control=control,
        )
        if isinstance(found, Estimate) and found.upper < 0:
            return True
    return False


@pytest.mark.slow
@pytest.mark.parametrize(("treated", "control"), [(4, 8), (8, 8), (25, 50)])
def test_difference__same_version_in_both_arms__seldom_found_worse(treated: int, control: int) -> None:
    """A/A over 12 looks at alpha 5%, with no margin to help: the small form is at least as careful as it says."""
    rng = random.Random(treated)
    wrong = sum(_looked_at(rng, treated, control, 0.05, 12, 0.05) for _ in range(400))
    assert wrong / 400 <= 0.05


@given(st.integers(0, 60), st.integers(0, 60), st.floats(0.0, 0.99))
def test_at_least__any_count__is_the_binomial_sum(events: int, devices: int, share: float) -> None:
    terms = (
        math.comb(devices, count) * share**count * (1 - share) ** (devices - count) for count in range(devices + 1)
    )
    assert at_least(min(events, devices), devices, share) == pytest.approx(
        math.fsum(list(terms)[min(events, devices) :]), rel=1e-9, abs=1e-300
    )


def test_at_least__a_million_devices__neither_overflows_nor_vanishes() -> None:
    assert at_least(25_000, 1_000_000, 0.025) == pytest.approx(0.5, abs=0.01)
    assert at_least(110_000, 1_000_000, 0.025) == 0.0
    assert at_least(100, 1_000_000, 0.025) == 1.0
