"""Published numbers to their printed digits, properties of merging, errors under repeated looks, degenerate input."""

import math
import random
from collections.abc import Callable, Sequence
from itertools import permutations
from statistics import NormalDist, fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.domain.errors import InvalidInputError
from fleet.domain.stats import cuped, mantel_haenszel, mixture, quantiles, stratified, welch
from fleet.domain.stats.distributions import chi_square_tail, student_quantile, student_tail
from fleet.domain.stats.estimates import Estimate, Unjudgeable
from fleet.domain.stats.holm import adjusted
from fleet.domain.stats.ledger import Amount, Ledger, WindowKey
from fleet.domain.stats.mismatch import Mismatch, mismatch
from fleet.domain.stats.moments import Moments
from fleet.domain.stats.multinomial import Multinomial, concentration
from fleet.domain.stats.newcombe import Bounds, newcombe, wilson
from fleet.domain.stats.planning import Goal, SampleSize, detectable, duration_s, every_look, one_look
from fleet.domain.stats.ratios import RatioSums
from fleet.domain.stats.sequences import radius

Z = NormalDist().inv_cdf(0.975)


# ---------------------------------------------------------------- distributions


@pytest.mark.parametrize(
    ("statistic", "df", "tail"),
    [(3.841458820694124, 1, 0.05), (5.991464547107979, 2, 0.05), (18.307038053275146, 10, 0.05), (0.0, 3, 1.0)],
)
def test_chi_square__quantiles_of_tables__have_their_tails(statistic: float, df: int, tail: float) -> None:
    assert chi_square_tail(statistic, df) == pytest.approx(tail, abs=1e-12)


@pytest.mark.parametrize(
    ("t", "df"),
    [(12.706204736432095, 1), (2.2281388519649385, 10), (2.0422724563012373, 30), (1.9599639845400545, 1e9)],
)
def test_student__quantiles_of_tables__have_their_tails(t: float, df: float) -> None:
    assert student_tail(t, df) == pytest.approx(0.05, abs=1e-7)
    assert student_quantile(0.05, df) == pytest.approx(t, rel=1e-7)


@given(st.floats(0.01, 200), st.integers(1, 200))
def test_chi_square__any__is_a_chance_that_falls(statistic: float, df: int) -> None:
    nearer, further = chi_square_tail(statistic, df), chi_square_tail(statistic * 1.1, df)
    assert 0 <= further <= nearer <= 1


# ---------------------------------------------------------------- sample-ratio mismatch


@pytest.mark.parametrize(
    ("counts", "weights", "p"),
    [
        ([1000, 1200], [0.5, 0.5], 0.000020079),
        ([135, 115], [0.5, 0.5], 0.205903211),
        ([310, 98], [0.75, 0.25], 0.647434186),
        ([0, 10, 10], [0.34, 0.33, 0.33], 0.005790624),
        ([500, 500, 600], [0.34, 0.33, 0.33], 0.000592638),
        ([1000, 1200, 900], [0.5, 0.5, 0.0], 0.000020079),
    ],
)
def test_mismatch__growthbook_cases__as_published(counts: list[int], weights: list[float], p: float) -> None:
    """The last one is a trap: arms of weight zero count neither for the total nor for the degrees of freedom."""
    found = mismatch(counts, weights)
    assert isinstance(found, Mismatch)
    assert round(found.p, 9) == p


@pytest.mark.parametrize(
    ("counts", "weights"), [([1000], [0.5, 0.5]), ([1000, 900, 800], [1, 0, 0]), ([0, 0], [0.5, 0.5])]
)
def test_mismatch__published_as_certain_for_lack_of_a_question__is_none_with_a_reason(
    counts: list[int], weights: list[float]
) -> None:
    assert isinstance(mismatch(counts, weights), Unjudgeable)


@pytest.mark.parametrize(
    ("counts", "weights"),
    [([], []), ([4, 4], [0.5, 0.5]), ([-1, 50], [0.5, 0.5]), ([50, 50], [math.nan, 1]), ([50, 50], [math.inf, 1])],
)
def test_mismatch__degenerate__says_why(counts: list[int], weights: list[float]) -> None:
    found = mismatch(counts, weights)
    assert isinstance(found, Unjudgeable)
    assert "expected" in found.reason


# ---------------------------------------------------------------- Dirichlet-multinomial


def begun(weights: Sequence[float], prior: Sequence[float] | float) -> Multinomial:
    found = Multinomial.begin(weights, prior)
    assert isinstance(found, Multinomial)
    return found


def test_multinomial__ssrm_single_assignments__as_published() -> None:
    test = begun((0.4, 0.4, 0.2), (1, 1, 1))
    for arm in (0, 1, 0, 1, 2):
        test = test.observe([int(arm == place) for place in range(3)])
    assert test.log_mixture == pytest.approx(-6.4457198193855785, abs=1e-13)
    assert test.log_shares == pytest.approx(-5.27460083993072, abs=1e-13)


def test_multinomial__ssrm_batches__as_published() -> None:
    test = begun((0.4, 0.4, 0.2), (1, 1, 1))
    for batch in ([20, 17, 9], [18, 21, 8], [4, 6, 4], [18, 19, 11]):
        test = test.observe(batch)
    assert test.log_mixture == pytest.approx(-19.96484521090386, abs=1e-11)
    assert test.log_shares == pytest.approx(-15.781031228536165, abs=1e-11)


# The second is 3.74994e-8, which was printed as 3.75e-8 and then as 3.8e-8.
@pytest.mark.parametrize(("prior", "p", "rounding"), [(10_000.0, 0.17, 0.005), (100.0, 3.8e-8, 0.051e-8)])
def test_multinomial__600_to_400__is_seen_by_a_low_concentration_only(prior: float, p: float, rounding: float) -> None:
    assert begun((0.5, 0.5), prior).observe([600, 400]).p == pytest.approx(p, abs=rounding)


@pytest.mark.parametrize(("prior", "evidence"), [(2.0, 262), (10.0, 143), (100.0, 5)])
def test_multinomial__9_of_20_crashes_on_a_tenth__evidence_as_computed(prior: float, evidence: int) -> None:
    assert round(math.exp(begun((0.1, 0.9), prior).observe([9, 11]).log_evidence)) == evidence


@pytest.mark.parametrize(("devices", "expected"), [(0, 1), (50, 5), (1_000, 100), (10**6, 10_000)])
def test_concentration__fleets__is_scaled(devices: int, expected: float) -> None:
    assert concentration(devices) == expected


@given(st.lists(st.lists(st.integers(0, 30), min_size=3, max_size=3), min_size=2, max_size=4))
def test_multinomial__batches_in_any_order_or_at_once__same_evidence(batches: list[list[int]]) -> None:
    whole = begun((0.5, 0.3, 0.2), 20.0).observe([sum(column) for column in zip(*batches, strict=True)])
    for order in permutations(batches):
        test = begun((0.5, 0.3, 0.2), 20.0)
        seen = [test.p]
        for batch in order:
            test = test.observe(batch)
            seen.append(test.p)
        assert test.log_evidence == pytest.approx(whole.log_evidence, abs=1e-9)
        assert test.counts == whole.counts
        assert seen == sorted(seen, reverse=True)


def test_multinomial__arm_without_a_share__is_not_looked_at() -> None:
    with_it = begun((0.5, 0.5, 0.0), 10.0).observe([30, 20, 7])
    without = begun((0.5, 0.5), 10.0).observe([30, 20])
    assert with_it.log_evidence == pytest.approx(without.log_evidence)
    assert with_it.counts == (30, 20, 0)


def test_multinomial__assigned_as_meant_and_looked_at_always__seldom_rejects() -> None:
    """400 fleets of 500 devices, a look at each device: at most alpha of them, and some margin for chance."""
    rng, wrong = random.Random(4), 0
    for _ in range(400):
        test = begun((0.25, 0.75), concentration(500))
        for _ in range(500):
            test = test.observe([1, 0] if rng.random() < 0.25 else [0, 1])
        wrong += test.rejects(0.05)
    assert wrong / 400 <= 0.05 + 0.02


@pytest.mark.parametrize(
    ("weights", "prior"), [((1.0,), 10.0), ((1.0, 0.0), 10.0), ((0.5, 0.5), 0.0), ((0.5, 0.5), (1.0,)), ((-1, 2), 1.0)]
)
def test_multinomial__degenerate__says_why(weights: Sequence[float], prior: Sequence[float] | float) -> None:
    assert isinstance(Multinomial.begin(weights, prior), Unjudgeable)


def test_multinomial__counts_that_are_none__are_refused() -> None:
    for batch in ([1], [1, -1]):
        with pytest.raises(InvalidInputError):
            begun((0.5, 0.5), 10.0).observe(batch)


# ---------------------------------------------------------------- mSPRT


@pytest.mark.parametrize(("information", "multiplier"), [(1.0, 3.04), (0.1, 3.86), (10.0, 3.24)])
def test_mixture__planned_test__spans_the_published_standard_errors(information: float, multiplier: float) -> None:
    test = mixture.Mixture.planned(0.05, 1.0)
    found = test.interval(0.0, 1 / math.sqrt(information), 0.05)
    assert isinstance(found, Estimate)
    assert found.multiplier == pytest.approx(multiplier, abs=0.006)
    same = radius(0.05, df=1e12, size=information, planned=1.0, planned_df=1e12, sides=2)
    assert found.multiplier == pytest.approx(same, rel=1e-4)


@given(st.floats(-5, 5), st.floats(0.05, 5), st.floats(0.01, 0.2))
def test_mixture__interval_and_p__say_the_same(value: float, error: float, alpha: float) -> None:
    test = mixture.Mixture(1.0)
    found = test.interval(value, error, alpha)
    assert isinstance(found, Estimate)
    for margin in (found.lower, found.upper):
        p = test.p(value, error, margin)
        assert isinstance(p, float)
        assert p == pytest.approx(alpha, rel=1e-6)


def test_mixture__no_effect_and_a_look_at_each_device__seldom_rejects() -> None:
    rng, wrong = random.Random(5), 0
    for _ in range(400):
        test, total, p = mixture.Mixture.planned(0.05, 1 / math.sqrt(400)), 0.0, 1.0
        for n in range(1, 401):
            total += rng.gauss(0, 1)
            found = test.p(total / n, 1 / math.sqrt(n), so_far=p)
            assert isinstance(found, float)
            assert found <= p
            p = found
        wrong += p <= 0.05
    assert wrong / 400 <= 0.05 + 0.02


def test_mixture__degenerate__says_why() -> None:
    for value, error, tau in ((1.0, 0.0, 1.0), (math.nan, 1.0, 1.0), (1.0, math.inf, 1.0), (1.0, 1.0, 0.0)):
        test = mixture.Mixture(tau)
        for found in (test.p(value, error), test.log_evidence(value, error), test.interval(value, error, 0.05)):
            assert isinstance(found, Unjudgeable)


# ---------------------------------------------------------------- means


def arm(found: welch.Arm | Unjudgeable) -> welch.Arm:
    assert isinstance(found, welch.Arm)
    return found


def test_uplift__growthbook_count__as_published() -> None:
    a = arm(welch.Arm.mean(Moments.of_sums(100, 270, 848.79)))
    b = arm(welch.Arm.mean(Moments.of_sums(120, 300, 869)))
    found = welch.uplift(a, b, alpha=0.05)
    assert isinstance(found, welch.Tested)
    assert (round(found.estimate.value, 9), round(found.p, 9)) == (-0.074074074, 0.145219005)


def test_uplift__growthbook_ratio__as_published() -> None:
    a = arm(welch.Arm.ratio(RatioSums(devices=100, s=270, n=510, ss=848.79, nn=810, sn=-900)))
    b = arm(welch.Arm.ratio(RatioSums(devices=120, s=300, n=500, ss=869, nn=800, sn=-905)))
    assert (round(a.value, 9), round(b.value, 9)) == (0.529411765, 0.6)
    found = welch.uplift(a, b, alpha=0.05)
    assert isinstance(found, welch.Tested)
    assert (round(found.estimate.value, 9), round(found.p, 9)) == (0.133333333, 0.610663339)


def test_welch__equal_arms__are_students() -> None:
    """Of equal size and spread, the degrees of freedom are n1 + n2 - 2."""
    a, b = arm(welch.Arm.mean(Moments.of([1, 2, 3, 4]))), arm(welch.Arm.mean(Moments.of([3, 4, 5, 6])))
    found = welch.difference(a, b, alpha=0.05)
    assert isinstance(found, welch.Tested)
    assert found.df == pytest.approx(6)
    assert found.estimate.value == 2
    assert found.p == pytest.approx(student_tail(2 / math.sqrt(5 / 3 / 2), 6))


@pytest.mark.parametrize("values", [[], [1.0], [2.0, 2.0]])
def test_welch__too_little_to_vary__says_why(values: list[float]) -> None:
    a = welch.Arm.mean(Moments.of(values))
    if isinstance(a, welch.Arm):
        assert isinstance(welch.difference(a, a, alpha=0.05), Unjudgeable)
        zero = arm(welch.Arm.mean(Moments.of([-1.0, 1.0])))
        assert isinstance(welch.uplift(zero, a, alpha=0.05), Unjudgeable)
    else:
        assert "at least 2" in a.reason


_values = st.lists(st.floats(-1e6, 1e6), max_size=12)


@given(_values, _values, _values)
def test_moments__merged_in_any_way__are_those_of_all(a: list[float], b: list[float], c: list[float]) -> None:
    one, two, three = Moments.of(a), Moments.of(b), Moments.of(c)
    whole = Moments.of([*a, *b, *c])
    for merged in (one.merge(two).merge(three), one.merge(two.merge(three)), three.merge(one).merge(two)):
        assert merged.n == whole.n
        assert merged.mean == pytest.approx(whole.mean, rel=1e-9, abs=1e-9)
        assert merged.squares == pytest.approx(whole.squares, rel=1e-9, abs=1e-3)


# ---------------------------------------------------------------- CUPED


def fleet(rng: random.Random, n: int, effect: float) -> list[tuple[float, float]]:
    """Devices that differ much from each other and little from their own past."""
    found = []
    for _ in range(n):
        level = rng.gauss(10, 3)
        found.append((level + rng.gauss(0, 1), level + rng.gauss(0, 1) + effect))
    return found


def test_cuped__devices_unlike_each_other__keeps_the_effect_and_little_variance() -> None:
    rng = random.Random(6)
    found = cuped.difference(
        cuped.PairedMoments.of(fleet(rng, 400, 0.5)), cuped.PairedMoments.of(fleet(rng, 400, 0.0)), alpha=0.05
    )
    assert isinstance(found, cuped.Adjusted)
    assert found.estimate.lower < 0.5 < found.estimate.upper
    assert found.theta == pytest.approx(0.9, abs=0.05)
    assert found.variance_kept == pytest.approx(1 - 0.9**2, abs=0.05)


def test_cuped__past_that_is_the_same_for_all__changes_nothing() -> None:
    treated, control = [(1.0, 3.0), (1.0, 4.0), (1.0, 6.0)], [(1.0, 1.0), (1.0, 2.0), (1.0, 2.0)]
    found = cuped.difference(cuped.PairedMoments.of(treated), cuped.PairedMoments.of(control), alpha=0.05)
    assert isinstance(found, cuped.Adjusted)
    assert (found.theta, found.variance_kept) == (0.0, 1.0)
    assert found.estimate.value == pytest.approx(fmean(y for _, y in treated) - fmean(y for _, y in control))


def test_cuped__no_effect__is_wrong_as_often_as_allowed() -> None:
    rng, wrong = random.Random(7), 0
    for _ in range(400):
        found = cuped.difference(
            cuped.PairedMoments.of(fleet(rng, 20, 0.0)), cuped.PairedMoments.of(fleet(rng, 40, 0.0)), alpha=0.1
        )
        assert isinstance(found, cuped.Adjusted)
        wrong += not found.estimate.lower < 0 < found.estimate.upper
    assert 0.06 < wrong / 400 < 0.14


@pytest.mark.parametrize("pairs", [[], [(1.0, 2.0)], [(1.0, 2.0), (2.0, 4.0)]])
def test_cuped__degenerate__says_why(pairs: list[tuple[float, float]]) -> None:
    few = cuped.PairedMoments.of(pairs)
    assert isinstance(cuped.difference(few, few, alpha=0.05), Unjudgeable)


_pairs = st.lists(st.tuples(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3)), max_size=8)


@given(_pairs, _pairs, _pairs)
def test_paired_moments__merged_in_any_way__are_those_of_all(
    a: list[tuple[float, float]], b: list[tuple[float, float]], c: list[tuple[float, float]]
) -> None:
    one, two, three = (cuped.PairedMoments.of(pairs) for pairs in (a, b, c))
    whole = cuped.PairedMoments.of([*a, *b, *c])
    for merged in (one.merge(two).merge(three), one.merge(two.merge(three)), three.merge(one).merge(two)):
        assert merged.n == whole.n
        for name in ("mean_x", "mean_y", "xx", "yy", "xy"):
            assert getattr(merged, name) == pytest.approx(getattr(whole, name), rel=1e-9, abs=1e-5)


# ---------------------------------------------------------------- strata

FRIDAY = mantel_haenszel.Table(treated_events=230, treated=10_000, control_events=20_000, control=990_000)
SATURDAY = mantel_haenszel.Table(treated_events=6_000, treated=500_000, control_events=5_000, control=500_000)


def stratum(name: str, table: mantel_haenszel.Table) -> stratified.Stratum:
    p1, p0 = table.treated_events / table.treated, table.control_events / table.control
    variance = p1 * (1 - p1) / table.treated + p0 * (1 - p0) / table.control
    return stratified.Stratum(name, p1 - p0, variance, table.treated + table.control)


def test_simpson__ramp_of_kohavi_and_crook__better_every_day_and_better_together() -> None:
    """Pooled over the steps of the ramp, the better model looks 0.456 points worse at z = -24.5."""
    found = stratified.combine([stratum("Fri", FRIDAY), stratum("Sat", SATURDAY)], alpha=0.05)
    assert isinstance(found, stratified.Stratified)
    assert round(100 * found.estimate.value, 3) == 0.240
    assert round(found.estimate.value / found.estimate.standard_error, 2) == 3.16
    common = mantel_haenszel.common_difference([FRIDAY, SATURDAY], alpha=0.05)
    assert isinstance(common, Estimate)
    assert round(100 * common.value, 3) == 0.203
    assert common.lower > 0
    pooled = stratum("pooled", mantel_haenszel.Table(6_230, 510_000, 25_000, 1_490_000))
    assert round(100 * pooled.difference, 3) == -0.456
    assert round(pooled.difference / math.sqrt(pooled.variance), 1) == -24.5


def test_stratified__one_stratum__is_that_stratum() -> None:
    found = stratified.combine([stratum("Sat", SATURDAY), stratified.Stratum("empty", 0, 0, 0)], alpha=0.05)
    assert isinstance(found, stratified.Stratified)
    assert found.estimate.value == pytest.approx(0.002)
    assert found.heterogeneity is None


def test_stratified__strata_that_disagree__heterogeneity_is_seen() -> None:
    alike = [stratified.Stratum(name, 0.01, 0.0001, 100) for name in "ab"]
    apart = [stratified.Stratum("a", 0.05, 0.0001, 100), stratified.Stratum("b", -0.05, 0.0001, 100)]
    for strata, expected in ((alike, 1.0), (apart, chi_square_tail(50.0, 1))):
        found = stratified.combine(strata, alpha=0.05)
        assert isinstance(found, stratified.Stratified)
        assert found.heterogeneity == pytest.approx(expected)


def test_stratified__degenerate__says_why() -> None:
    for strata in ([], [stratified.Stratum("a", 1, 1, 0)], [stratified.Stratum("edge-std", 1, 0, 5)]):
        assert isinstance(stratified.combine(strata, alpha=0.05), Unjudgeable)


def test_mantel_haenszel__one_large_stratum__is_the_difference_with_its_variance() -> None:
    found = mantel_haenszel.common_difference([SATURDAY], alpha=0.05)
    plain = stratum("Sat", SATURDAY)
    assert isinstance(found, Estimate)
    assert found.value == pytest.approx(plain.difference)
    assert found.standard_error == pytest.approx(math.sqrt(plain.variance), rel=1e-4)
    assert found.upper - found.value == pytest.approx(Z * found.standard_error)


def test_mantel_haenszel__degenerate__says_why() -> None:
    tables: tuple[list[mantel_haenszel.Table], ...] = (
        [],
        [mantel_haenszel.Table(1, 2, 0, 0)],
        [mantel_haenszel.Table(0, 9, 0, 9)],
        [mantel_haenszel.Table(3, 2, 0, 1)],
    )
    for strata in tables:
        assert isinstance(mantel_haenszel.common_difference(strata, alpha=0.05), Unjudgeable)


# ---------------------------------------------------------------- shares


@pytest.mark.parametrize(
    ("events", "devices", "lower", "upper"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson__newcombe_1998__as_published(events: int, devices: int, lower: float, upper: float) -> None:
    found = wilson(events, devices, alpha=0.05)
    assert isinstance(found, Bounds)
    assert (round(found.lower, 4), round(found.upper, 4)) == (lower, upper)


@pytest.mark.parametrize(
    ("counts", "lower", "upper"),
    [
        ((56, 70, 48, 80), 0.0524, 0.3339),
        ((9, 10, 3, 10), 0.1705, 0.8090),
        ((6, 7, 2, 7), 0.0582, 0.8062),
        ((5, 56, 0, 29), -0.0381, 0.1926),
        ((0, 10, 0, 20), -0.1611, 0.2775),
        ((0, 10, 0, 10), -0.2775, 0.2775),
        ((10, 10, 0, 20), 0.6791, 1.0),
        ((10, 10, 0, 10), 0.6075, 1.0),
    ],
)
def test_newcombe__method_10__as_published(counts: tuple[int, int, int, int], lower: float, upper: float) -> None:
    found = newcombe(*counts, alpha=0.05)
    assert isinstance(found, Bounds)
    assert (round(found.lower, 4), round(found.upper, 4)) == (lower, upper)


def test_newcombe__degenerate__says_why() -> None:
    for counts in ((1, 0, 1, 2), (1, 2, 3, 2), (-1, 2, 1, 2), (0, 0, 0, 0)):
        assert isinstance(newcombe(*counts, alpha=0.05), Unjudgeable)


@given(st.integers(0, 50), st.integers(1, 50), st.floats(0.001, 0.5))
def test_wilson__any_count__stays_within_shares(events: int, more: int, alpha: float) -> None:
    found = wilson(events, events + more, alpha=alpha)
    assert isinstance(found, Bounds)
    assert 0 <= found.lower <= found.value <= found.upper <= 1


# ---------------------------------------------------------------- several questions


def test_holm__example_of_the_textbooks__as_published() -> None:
    found = adjusted({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert found == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})


def test_holm__question_without_an_answer__is_counted_and_stays_open() -> None:
    assert adjusted({"a": 0.01, "b": None, "c": math.nan}) == {"a": pytest.approx(0.03), "b": None, "c": None}
    assert adjusted({}) == {}


@given(st.dictionaries(st.text(max_size=3), st.floats(0, 1), max_size=6))
def test_holm__any_p_values__keeps_their_order_and_lowers_none(p_values: dict[str, float]) -> None:
    found = adjusted(dict(p_values))
    ranked = [found[name] or 0.0 for name in sorted(p_values, key=lambda name: p_values[name])]
    assert ranked == sorted(ranked)
    assert all((found[name] or 0.0) >= min(p, 1.0) for name, p in p_values.items())


# ---------------------------------------------------------------- quantiles

EDGES = [float(edge) for edge in range(1, 201)]


def binned(device_id: str, values: Sequence[float], edges: Sequence[float] = EDGES) -> quantiles.BinnedUnit:
    counts = [0.0] * (len(edges) + 1)
    for value in values:
        counts[next((place for place, edge in enumerate(edges) if value <= edge), len(edges))] += 1
    return quantiles.BinnedUnit(device_id, tuple(counts))


def measured(rng: random.Random, n: int, between: float, shift: float = 0.0) -> list[quantiles.BinnedUnit]:
    """Devices of 100 inferences each around 50 ms, of which `between` says how unlike the devices are."""
    found = []
    for number in range(n):
        own = rng.gauss(0, between)
        found.append(binned(str(number), [max(0.1, 50 + shift + own + rng.gauss(0, 10)) for _ in range(100)]))
    return found


def estimated(found: Estimate | Unjudgeable) -> Estimate:
    assert isinstance(found, Estimate), found
    return found


def test_quantile__of_inferences__is_not_the_mean_of_the_devices() -> None:
    """GrowthBook's example {0, 0}, {2, 3}, {99}: the median inference is 2, the median device's 5 or so."""
    edges = [0.001, 1.999, 2.0, 2.999, 3.0, 98.999, 99.0]
    units = [binned("a", [0, 0], edges), binned("b", [2, 3], edges), binned("c", [99], edges)]
    merged = [sum(column) for column in zip(*(unit.counts for unit in units), strict=True)]
    assert quantiles._value_at(merged, edges, 0.5) == pytest.approx(2, abs=0.01)


def test_quantile__devices_unlike_each_other__interval_is_wider_not_narrower() -> None:
    alike = estimated(quantiles.quantile(measured(random.Random(8), 80, 0.0), EDGES, 0.95, alpha=0.05))
    unlike = estimated(quantiles.quantile(measured(random.Random(8), 80, 10.0), EDGES, 0.95, alpha=0.05))
    assert alike.value == pytest.approx(50 + 1.645 * 10, abs=1)
    assert unlike.value == pytest.approx(50 + 1.645 * math.hypot(10, 10), abs=4)
    assert unlike.standard_error > 4 * alike.standard_error


def test_quantile_difference__no_effect__is_wrong_as_often_as_allowed() -> None:
    rng, wrong = random.Random(9), 0
    edges = [float(edge) for edge in range(5, 151, 5)]
    for _ in range(100):
        arms = []
        for _ in range(2):
            units = []
            for number in range(30):
                own = rng.gauss(0, 8)
                units.append(binned(str(number), [max(0.1, 60 + own + rng.gauss(0, 10)) for _ in range(20)], edges))
            arms.append(units)
        found = estimated(quantiles.difference(arms[0], arms[1], edges, 0.9, alpha=0.1))
        wrong += not found.lower <= 0 <= found.upper
    assert wrong / 100 <= 0.2


def test_quantile_difference__slower_by_10__is_found() -> None:
    rng = random.Random(10)
    treated, control = measured(rng, 60, 5.0, shift=10), measured(rng, 60, 5.0)
    found = estimated(quantiles.difference(treated, control, EDGES, 0.95, alpha=0.05))
    assert found.lower > 0
    assert found.value == pytest.approx(10, abs=4)


@pytest.mark.parametrize(
    ("units", "edges", "q"),
    [
        ([], EDGES, 0.5),
        ([binned("a", [1, 2])], EDGES, 0.5),
        ([binned("a", [1, 2]), binned("b", [])], EDGES, 0.5),
        ([binned("a", [999]), binned("b", [999])], EDGES, 0.5),
        ([binned("a", [1, 2]), binned("b", [1, 2])], EDGES, 1.0),
        ([binned("a", [1, 2]), binned("b", [1, 2])], EDGES[:5], 0.5),
        ([binned("a", [1, 2]), binned("b", [1, 2])], [], 0.5),
        ([binned("a", [1, 2]), binned("b", [1, 2])], EDGES[::-1], 0.5),
        ([binned("a", [1, 999]), binned("b", [1, 999])], EDGES, 0.5),
    ],
)
def test_quantile__degenerate__says_why(units: list[quantiles.BinnedUnit], edges: list[float], q: float) -> None:
    found = quantiles.difference(units, units, edges, q, alpha=0.05)
    assert isinstance(found, Unjudgeable)
    assert found.reason.startswith("treated: expected")


# ---------------------------------------------------------------- planning


def test_planning__one_look__textbook_sizes() -> None:
    """Half a standard deviation, 5% on two sides, 80%: 63 on each side; 90%: 85."""
    assert one_look(Goal(0.5, 1, 0.05, 0.8, sides=2)) == SampleSize(63, 63, Z)
    assert one_look(Goal(0.5, 1, 0.05, 0.9, sides=2)) == SampleSize(85, 85, Z)


def test_planning__every_look__costs_about_three_standard_errors() -> None:
    goal = Goal(0.05, 1, 0.05, 0.8, sides=2)
    always, once = every_look(goal), one_look(goal)
    assert isinstance(always, SampleSize)
    assert isinstance(once, SampleSize)
    assert always.multiplier == pytest.approx(3.04, abs=0.01)
    assert 1.5 < always.treated / once.treated < 2.1


@given(st.floats(0.02, 2), st.floats(0.5, 20), st.sampled_from([1, 2]))
def test_planning__size_and_detectable_effect__invert_each_other(effect: float, controls: float, sides: int) -> None:
    goal = Goal(effect, 1.0, 0.005, 0.95, sides, controls)
    size = every_look(goal)
    assert isinstance(size, SampleSize)
    seen = detectable(goal, size.treated)
    assert isinstance(seen, float)
    assert seen <= effect
    before = detectable(goal, size.treated - 1)
    assert isinstance(before, Unjudgeable) or before > effect or size.treated == 2


def test_planning__duration__counts_what_is_missing() -> None:
    assert duration_s(100, 40, 0.5) == 120
    assert duration_s(100, 100, 0) == 0
    assert isinstance(duration_s(100, 40, 0), Unjudgeable)


@pytest.mark.parametrize(
    "goal",
    [
        Goal(0, 1, 0.05),
        Goal(1, 0, 0.05),
        Goal(1, 1, 0),
        Goal(1, 1, 0.05, 1.0),
        Goal(1, 1, 0.05, sides=3),
        Goal(math.nan, 1, 0.05),
    ],
)
def test_planning__degenerate__says_why(goal: Goal) -> None:
    ask: Callable[[Goal], object]
    for ask in (one_look, every_look, lambda goal: detectable(goal, 10)):
        assert isinstance(ask(goal), Unjudgeable)


def test_planning__effect_that_no_fleet_shows__says_so() -> None:
    found = every_look(Goal(1e-9, 1, 0.05))
    assert isinstance(found, Unjudgeable)
    assert "too small" in found.reason


# ---------------------------------------------------------------- merging by key

_keys = st.builds(
    WindowKey, st.sampled_from(["cam-1", "cam-2", "cam-3"]), st.sampled_from(["b1", "b2"]), st.integers(0, 3)
)
_amounts = st.builds(Amount, st.floats(0, 1e6), st.floats(0, 1e6))
_ledgers = st.builds(Ledger, st.dictionaries(_keys, _amounts, max_size=12))


@given(_ledgers, _ledgers, _ledgers)
def test_ledger__merge__is_associative_commutative_and_idempotent(a: Ledger, b: Ledger, c: Ledger) -> None:
    """Also where parts disagree about a key; and the sums are equal to the last bit."""
    assert a.merge(b) == b.merge(a)
    assert a.merge(b).merge(c) == a.merge(b.merge(c))
    assert a.merge(a) == a.merge(Ledger()) == a
    assert a.merge(b).merge(a).merge(b).units() == b.merge(a).units()


def test_ledger__window_sent_twice__counts_once() -> None:
    first = Ledger({WindowKey("cam-1", "b", 1): Amount(3, 10)})
    second = Ledger({WindowKey("cam-1", "b", 1): Amount(3, 10), WindowKey("cam-1", "b", 2): Amount(1, 5)})
    (unit,) = first.merge(second).units()
    assert (unit.device_id, unit.numerator, unit.denominator) == ("cam-1", 4, 15)
