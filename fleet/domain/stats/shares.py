"""Bounds of a share of devices (installs that failed, devices that fell silent) that hold at every look.

The bounds invert the uniform-mixture likelihood ratio of a Bernoulli share (Robbins 1970): p is excluded when
B(k+1, n-k+1) / (p**k * (1-p)**(n-k)) >= 1/alpha. Exact for every n, so four devices need no approximation; wider than
Wilson's interval, which is valid for one look only.
"""

import math
from typing import Final

_BISECTIONS: Final = 60
_NEGLIGIBLE: Final = 1e-17
_LEAST_LOG: Final = -700.0


def lower_bound(events: int, devices: int, alpha: float) -> float:
    """The share is at least this, with error at most `alpha` over all looks. Zero without devices."""
    if events == 0:
        return 0.0
    excluded, kept = 0.0, events / devices
    for _ in range(_BISECTIONS):
        middle = (excluded + kept) / 2
        if _is_excluded(middle, events, devices, alpha):
            excluded = middle
        else:
            kept = middle
    return excluded


def upper_bound(events: int, devices: int, alpha: float) -> float:
    """The share is at most this, with error at most `alpha` over all looks. One without devices."""
    return 1.0 - lower_bound(devices - events, devices, alpha)


def at_least(events: int, devices: int, share: float) -> float:
    """The chance of `events` or more among `devices` of which each has `share` < 1: the exact binomial tail.

    Events of a phase only add up, so the chance that they reach a number by the phase's end is also the chance that they
    reach it at any look before.
    """
    if events <= 0 or share <= 0:
        return 1.0 if events <= 0 else 0.0
    total, odds = 0.0, share / (1 - share)
    log_term = (
        math.lgamma(devices + 1)
        - math.lgamma(events + 1)
        - math.lgamma(devices - events + 1)
        + events * math.log(share)
        + (devices - events) * math.log1p(-share)
    )
    if log_term < _LEAST_LOG:  # no float holds it, and all that lies beyond it is no more than it
        return 1.0 if events <= devices * share else 0.0
    term = math.exp(log_term)
    for count in range(events, devices + 1):
        total += term
        if count > devices * share and term <= total * _NEGLIGIBLE:
            break
        term *= (devices - count) / (count + 1) * odds
    return min(1.0, total)


def _is_excluded(share: float, events: int, devices: int, alpha: float) -> bool:
    if share in (0.0, 1.0):
        return (share == 0.0 and events > 0) or (share == 1.0 and events < devices)
    log_mixture = math.lgamma(events + 1) + math.lgamma(devices - events + 1) - math.lgamma(devices + 2)
    log_likelihood = events * math.log(share) + (devices - events) * math.log1p(-share)
    return log_mixture - log_likelihood >= -math.log(alpha)
