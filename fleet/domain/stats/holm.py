"""Several questions asked of one experiment: Holm's step-down adjustment (Scandinavian Journal of Statistics 6, 1979).

The chance that any true null hypothesis is rejected stays below alpha, whatever the tests' dependence. Used across
success metrics and classes; guardrails are not adjusted, because a ship needs them all (Schultzberg et al. 2024).
"""

import math
from collections.abc import Mapping
from typing import TypeVar

Name = TypeVar("Name")


def adjusted(p_values: Mapping[Name, float | None]) -> dict[Name, float | None]:
    """The p-values to be compared with alpha itself. A question without an answer stays without, and is counted.

    Counted, because leaving out what could not be judged would reward having little data.
    """
    asked = len(p_values)
    known = sorted(
        (p, place, name) for place, (name, p) in enumerate(p_values.items()) if p is not None and not math.isnan(p)
    )
    found: dict[Name, float | None] = dict.fromkeys(p_values, None)
    largest = 0.0
    for rank, (p, _, name) in enumerate(known):
        largest = max(largest, min(1.0, (asked - rank) * p))
        found[name] = largest
    return found
