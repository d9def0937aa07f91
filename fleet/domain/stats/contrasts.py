"""How far two arms are apart, alone or over strata, with an interval that holds at every look.

A contrast is treated - scale * control. Strata are put together by the shares of the population that they stand for
(post-stratification; Miratrix, Sekhon and Yu, 2013). Degrees of freedom are Satterthwaite's (Biometrics Bulletin 2, 1946),
because an interval whose variance few devices have estimated must know it; below `POOL_BELOW` devices in an arm, the
arms share one variance, unless their own are larger. The width is `sequences.radius`: its prior is fixed by the planned devices, never by the data.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from fleet.domain.stats.estimates import Estimate, Unjudgeable
from fleet.domain.stats.samples import Location
from fleet.domain.stats.sequences import radius

POOL_BELOW: Final = 20


@dataclass(frozen=True)
class Contrast:
    """An effect and its variance; `size` and `planned` are the information that there is and that was planned for."""

    value: float
    variance: float
    df: float
    size: float
    planned: float
    planned_df: float


def contrast(
    treated: Location, control: Location, *, planned_treated: int, planned_control: int, scale: float = 1.0
) -> Contrast | Unjudgeable:
    """Treated minus `scale` times control. Needs two devices on each side."""
    k_t, k_c = treated.n, control.n
    if min(k_t, k_c) < 2:  # noqa: PLR2004 - a variance needs two
        return Unjudgeable(f"expected at least 2 devices with data on each side, got {k_t} and {k_c}")
    floor = treated.floor + scale**2 * control.floor
    parts = (treated.unit_variance / k_t, k_t - 1.0), (scale**2 * control.unit_variance / k_c, k_c - 1.0)
    variance = parts[0][0] + parts[1][0]
    if min(k_t, k_c) < POOL_BELOW:
        pooled = ((k_t - 1) * treated.unit_variance + (k_c - 1) * control.unit_variance) / (k_t + k_c - 2)
        # Not below what the arms say by themselves: a few liars in a small arm must not drown in a large calm one.
        variance, df = max(variance, pooled * (1 / k_t + scale**2 / k_c)), float(k_t + k_c - 2)
    else:
        df = _freedom(parts) or float(min(k_t, k_c) - 1)
    planned_treated, planned_control = max(planned_treated, 2), max(planned_control, 2)
    small = min(planned_treated, planned_control) < POOL_BELOW
    return Contrast(
        value=treated.value - scale * control.value,
        variance=max(variance, floor),
        df=df,
        size=1 / (1 / k_t + scale**2 / k_c),
        planned=1 / (1 / planned_treated + scale**2 / planned_control),
        planned_df=planned_treated + planned_control - 2 if small else min(planned_treated, planned_control) - 1,
    )


def combined(parts: Sequence[tuple[Contrast, float]]) -> Contrast:
    """Over strata with these weights above zero, which need not add up to one; at least one stratum."""
    whole = math.fsum(weight for _, weight in parts)
    shares = [(item, weight / whole) for item, weight in parts]
    variances = [(share**2 * item.variance, item.df) for item, share in shares]
    return Contrast(
        value=math.fsum(share * item.value for item, share in shares),
        variance=math.fsum(variance for variance, _ in variances),
        df=_freedom(variances) or min(item.df for item, _ in shares),
        size=1 / math.fsum(share**2 / item.size for item, share in shares),
        planned=1 / math.fsum(share**2 / item.planned for item, share in shares),
        planned_df=math.fsum(item.planned_df for item, _ in shares),
    )


def one_sample(location: Location, *, planned: int) -> Contrast | Unjudgeable:
    """One arm by itself: a share against a limit, or differences from the devices' own past against none."""
    if location.n < 2:  # noqa: PLR2004 - a variance needs two
        return Unjudgeable(f"expected at least 2 devices with data, got {location.n}")
    planned = max(planned, 2)
    return Contrast(location.value, location.variance, location.n - 1.0, location.n, planned, planned - 1.0)


def interval(found: Contrast, *, alpha: float, within: tuple[float, float] | None = None) -> Estimate:
    """Bounds that hold at every look, each with error `alpha`; cut to `within` where values cannot lie beyond."""
    error = math.sqrt(found.variance)
    width = radius(alpha, df=found.df, size=found.size, planned=found.planned, planned_df=found.planned_df)
    # Devices that agree to the last digit, in a metric without noise of its own, leave nothing to be unsure of.
    reach = width * error if error > 0 else 0.0
    low, high = within or (-math.inf, math.inf)
    return Estimate(found.value, max(low, found.value - reach), min(high, found.value + reach), error, width)


def _freedom(parts: Sequence[tuple[float, float]]) -> float:
    """Satterthwaite's, of independent variances with theirs; zero where nothing varies."""
    below = math.fsum(variance**2 / df for variance, df in parts)
    return math.fsum(variance for variance, _ in parts) ** 2 / below if below > 0 else 0.0
