"""Tails of the chi-square and of Student's t distribution, to about twelve digits.

Incomplete gamma and beta functions by series and by Lentz's continued fractions (Press, Teukolsky, Vetterling and
Flannery, Numerical Recipes, 3rd edition, sections 6.2 and 6.4).
"""

import math
from typing import Final

_STEPS: Final = 100_000
_PRECISION: Final = 1e-16
_TINY: Final = 1e-300
_BISECTIONS: Final = 200
_LARGEST_T: Final = 1e100
_STIRLING_FROM: Final = 1e4


def chi_square_tail(statistic: float, df: int) -> float:
    """The chance of a larger chi-square with `df` >= 1 degrees of freedom."""
    if statistic <= 0:
        return 1.0
    a, x = df / 2, statistic / 2
    scale = math.exp(a * math.log(x) - x - math.lgamma(a))
    if x < a + 1:
        return max(0.0, 1.0 - scale * _gamma_series(a, x))
    return scale * _gamma_fraction(a, x)


def student_tail(t: float, df: float) -> float:
    """The chance of a larger absolute t with `df` > 0 degrees of freedom, which need not be whole."""
    a, b, y = df / 2, 0.5, t * t / (df + t * t)
    if y == 0:
        return 1.0
    log_scale = _log_gamma_step(a) - math.lgamma(b) + a * math.log1p(-y) + b * math.log(y)
    if 1 - y < (a + 1) / (a + b + 2):
        return math.exp(log_scale) * _beta_fraction(a, b, 1 - y) / a
    return 1.0 - math.exp(log_scale) * _beta_fraction(b, a, y) / b


def student_quantile(alpha: float, df: float) -> float:
    """The t that is exceeded in absolute value with chance `alpha` in (0, 1)."""
    low, high = 0.0, 1.0
    while student_tail(high, df) > alpha and high < _LARGEST_T:
        high *= 2
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if student_tail(middle, df) > alpha:
            low = middle
        else:
            high = middle
    return high


def _gamma_series(a: float, x: float) -> float:
    term = total = 1 / a
    for step in range(1, _STEPS):
        term *= x / (a + step)
        total += term
        if term < total * _PRECISION:
            break
    return total


def _gamma_fraction(a: float, x: float) -> float:
    b = x + 1 - a
    c, d = 1 / _TINY, 1 / b
    value = d
    for step in range(1, _STEPS):
        numerator = -step * (step - a)
        b += 2
        d = 1 / _away_from_zero(numerator * d + b)
        c = _away_from_zero(b + numerator / c)
        value *= c * d
        if abs(c * d - 1) < _PRECISION:
            break
    return value


def _log_gamma_step(a: float) -> float:
    """The logarithm of gamma(a + 1/2) / gamma(a). By Stirling's series where the two would cancel."""
    if a < _STIRLING_FROM:
        return math.lgamma(a + 0.5) - math.lgamma(a)
    return math.log(a) / 2 - 1 / (8 * a) + 1 / (192 * a**3)


def _beta_fraction(a: float, b: float, x: float) -> float:
    c, d = 1.0, 1 / _away_from_zero(1 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, _STEPS):
        for numerator in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / _away_from_zero(1 + numerator * d)
            c = _away_from_zero(1 + numerator / c)
            value *= c * d
        if abs(c * d - 1) < _PRECISION:
            break
    return value


def _away_from_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
