"""Totals that may arrive twice, late and in any order: kept by key, so that adding them up counts each once.

Merging is associative, commutative and idempotent: a union of keys. Where two say different things under one key, the
larger in the order of its figures is kept, whichever came first, so that all who merge the same parts agree.
Sums are taken in the order of the keys and are equal to the last bit, however the ledger was put together.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from fleet.domain.stats.ratios import Unit


@dataclass(frozen=True, order=True)
class WindowKey:
    """What one device sent once: (boot, seq) is unique on a device for ever."""

    device_id: str
    boot: str
    seq: int


@dataclass(frozen=True, order=True)
class Amount:
    """What a window adds to its device's total."""

    numerator: float
    denominator: float


@dataclass(frozen=True)
class Ledger:
    """One metric of one arm, by window."""

    amounts: Mapping[WindowKey, Amount] = field(default_factory=dict)

    def merge(self, other: "Ledger") -> "Ledger":
        """Both, each window once."""
        merged = dict(self.amounts)
        for key, amount in other.amounts.items():
            merged[key] = max(amount, merged.get(key, amount))
        return Ledger(merged)

    def units(self) -> tuple[Unit, ...]:
        """One vote per device, in the order of their ids."""
        by_device: dict[str, list[Amount]] = {}
        for key in sorted(self.amounts):
            by_device.setdefault(key.device_id, []).append(self.amounts[key])
        return tuple(
            Unit(
                device_id,
                math.fsum(item.numerator for item in amounts),
                math.fsum(item.denominator for item in amounts),
            )
            for device_id, amounts in by_device.items()
        )
