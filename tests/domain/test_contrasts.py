"""Arms of one vote per device and their contrasts: published numbers, bounds that hold, degenerate input with a reason."""

import math
import random
from statistics import mean, variance

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.domain.stats.contrasts import Contrast, combined, contrast, interval, one_sample
from fleet.domain.stats.estimates import Unjudgeable
from fleet.domain.stats.samples import MAX_TRIM, Location, Sample, location, outliers

# Dana (1990), self-awareness; the running example of Wilcox, Introduction to Robust Estimation, section 3.3.
SELF_AWARENESS = [77, 87, 88, 114, 151, 210, 219, 246, 253, 262, 296, 299, 306, 376, 428, 515, 666, 1_310, 2_611]


def test_location__fifth_trimmed_at_either_end__as_published() -> None:
    """20% trimmed mean 282.7; winsorised variance 21,551.4."""
    cut = math.floor(0.2 * len(SELF_AWARENESS))
    found = location(SELF_AWARENESS, cut, cut)
    assert round(found.value, 1) == 282.7
    h, n = found.n, len(SELF_AWARENESS)
    assert round(found.unit_variance * (h - 1) / (n - 1), 1) == 21_551.4


def test_location__nothing_cut__is_mean_and_variance() -> None:
    found = location(SELF_AWARENESS, 0, 0)
    assert found.value == pytest.approx(mean(SELF_AWARENESS))
    assert found.unit_variance == pytest.approx(variance(SELF_AWARENESS))


values = st.lists(st.floats(0, 1), min_size=1, max_size=80)


@given(values)
def test_sample__any_values__leaves_out_at_most_its_share_and_stays_among_them(found: list[float]) -> None:
    sample = Sample.of(found)
    low, high = outliers(sorted(found))
    assert max(low, high) <= MAX_TRIM * len(found)
    assert sample.devices == len(found)
    assert min(found) - 1e-12 <= sample.trimmed.value <= max(found) + 1e-12
    assert Sample.of(found[::-1]) == sample


@given(st.lists(st.floats(0, 1), min_size=20, max_size=80), st.floats(-2, 2))
def test_sample__moved__moves_along(found: list[float], by: float) -> None:
    """Outliers are found by the arm's own order: an effect on all devices is not taken for outliers."""
    before, after = Sample.of([round(x, 6) for x in found]), Sample.of([round(x, 6) + by for x in found])
    assert after.plain.value == pytest.approx(before.plain.value + by, abs=1e-9)


@pytest.mark.parametrize("lie", [0.0, 1.0, 1e9, -1e9])
def test_sample__tenth_of_liars__moves_the_trimmed_mean_little_whatever_they_say(lie: float) -> None:
    rng = random.Random(3)
    honest = [rng.gauss(0.9, 0.03) for _ in range(180)]
    assert abs(Sample.of([*honest, *[lie] * 20]).trimmed.value - 0.9) < 0.01


def test_sample__nobody_and_one__have_no_variance() -> None:
    assert Sample.of([]).devices == 0
    assert Sample.of([3.0]).plain == Location(1, 3.0, 0.0, 0.0)


def arm(n: int, value: float, unit_variance: float, floor: float = 0.0) -> Location:
    return Location(n, value, unit_variance, floor)


def test_contrast__unequal_variances__are_welchs() -> None:
    """Welch's t of 25 and 100 devices: variance 4/25 + 1/100, and Satterthwaite's degrees of freedom."""
    found = contrast(arm(25, 1.0, 4.0), arm(100, 0.0, 1.0), planned_treated=25, planned_control=100)
    assert isinstance(found, Contrast)
    assert found.variance == pytest.approx(0.17)
    assert found.df == pytest.approx(0.17**2 / (0.16**2 / 24 + 0.01**2 / 99))
    assert found.size == found.planned == pytest.approx(20)


def test_contrast__few_devices__share_a_variance_unless_their_own_is_larger() -> None:
    calm = contrast(arm(4, 0.0, 0.0), arm(8, 0.0, 1.0), planned_treated=4, planned_control=8)
    wild = contrast(arm(4, 0.0, 9.0), arm(100, 0.0, 0.01), planned_treated=4, planned_control=100)
    assert isinstance(calm, Contrast)
    assert isinstance(wild, Contrast)
    assert calm.variance == pytest.approx(0.7 * (1 / 4 + 1 / 8))
    assert wild.variance == pytest.approx(9 / 4 + 0.01 / 100)


def test_contrast__against_a_multiple__scales_the_controls_variance() -> None:
    found = contrast(arm(50, 3.0, 1.0), arm(50, 1.0, 1.0), planned_treated=50, planned_control=50, scale=2.0)
    assert isinstance(found, Contrast)
    assert found.value == 1.0
    assert found.variance == pytest.approx((1 + 4) / 50)


@pytest.mark.parametrize(("treated", "control"), [(0, 8), (1, 8), (8, 1)])
def test_contrast__too_few_devices__says_why(treated: int, control: int) -> None:
    found = contrast(arm(treated, 0.0, 1.0), arm(control, 0.0, 1.0), planned_treated=8, planned_control=8)
    assert isinstance(found, Unjudgeable)
    assert "at least 2 devices" in found.reason
    assert isinstance(one_sample(arm(1, 0.0, 1.0), planned=8), Unjudgeable)


def test_combined__strata__are_weighed_by_the_population_they_stand_for() -> None:
    parts = [
        contrast(arm(n, value, 1.0), arm(n, 0.0, 1.0), planned_treated=n, planned_control=n)
        for n, value in ((100, 1.0), (400, 3.0))
    ]
    found = combined(
        [(item, weight) for item, weight in zip(parts, (3.0, 1.0), strict=True) if isinstance(item, Contrast)]
    )
    assert found.value == pytest.approx(0.75 * 1 + 0.25 * 3)
    assert found.variance == pytest.approx(0.75**2 * 0.02 + 0.25**2 * 0.005)
    assert found.size == found.planned


def test_combined__one_stratum__is_that_stratum() -> None:
    only = contrast(arm(30, 1.0, 1.0), arm(60, 0.0, 2.0), planned_treated=30, planned_control=60)
    assert isinstance(only, Contrast)
    found = combined([(only, 7.0)])
    assert (found.value, found.variance, found.size) == pytest.approx((only.value, only.variance, only.size))


def test_interval__devices_that_agree_exactly__has_no_width_without_noise_and_some_with() -> None:
    for floor, width in ((0.0, False), (1e-6, True)):
        found = contrast(arm(8, 0.5, 0.0, floor), arm(8, 0.5, 0.0, floor), planned_treated=8, planned_control=8)
        assert isinstance(found, Contrast)
        bounds = interval(found, alpha=0.01)
        assert (bounds.upper > bounds.lower) is width


@pytest.mark.slow
@pytest.mark.parametrize(("treated", "control"), [(6, 12), (25, 100)])
def test_interval__same_version_looked_at_as_devices_accumulate__seldom_excludes_zero(
    treated: int, control: int
) -> None:
    """A/A over 12 looks at alpha 5%: devices that differ, of many sizes."""
    rng = random.Random(treated)
    wrong = 0
    for _ in range(300):
        shares = [min(1.0, max(0.0, rng.gauss(0.9, 0.05))) for _ in range(treated + control)]
        sizes = [max(2, round(10 * rng.lognormvariate(0, 0.7))) for _ in shares]
        hits, seen = [0.0] * len(shares), [0] * len(shares)
        for _ in range(12):
            for i, (share, size) in enumerate(zip(shares, sizes, strict=True)):
                seen[i] += size
                hits[i] += min(size, max(0.0, rng.gauss(size * share, math.sqrt(size * share * (1 - share)))))
            y = [hit / n for hit, n in zip(hits, seen, strict=True)]
            found = contrast(
                Sample.of(y[:treated]).trimmed,
                Sample.of(y[treated:]).trimmed,
                planned_treated=treated,
                planned_control=control,
            )
            if isinstance(found, Contrast) and interval(found, alpha=0.05).upper < 0:
                wrong += 1
                break
    assert wrong / 300 <= 0.05
