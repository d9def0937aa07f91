"""Whom one phase treats and whom it compares them with: ranges of buckets, ranges of single classes, and named devices.

Every phase reaches all that the one before did and more. The control keeps to the other end of the buckets and gives
way only to the treated. Pure.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from device_client.wire.bucketing import BUCKETS


@dataclass(frozen=True)
class Reach:
    """Buckets [0, treated_end), for a class of `class_ends` [0, its end) instead, and the devices of `listed`."""

    treated_end: int
    control_start: int = BUCKETS
    class_ends: Mapping[str, int] = field(default_factory=dict)
    listed: frozenset[str] = frozenset()

    def end_of(self, hardware_class: str) -> int:
        """Where the treated buckets of a class end."""
        return self.class_ends.get(hardware_class, self.treated_end)

    def treats(self, device_id: str, hardware_class: str, place: int) -> bool:
        """Whether the device in bucket `place` is treated."""
        return place < self.class_ends.get(hardware_class, self.treated_end) or device_id in self.listed

    def compares(self, device_id: str, hardware_class: str, place: int) -> bool:
        """Whether it is in the control; who is treated is not."""
        return place >= self.control_start and not self.treats(device_id, hardware_class, place)

    @property
    def widest_end(self) -> int:
        """No bucket from here on is treated, unless its device is named."""
        return max((self.treated_end, *self.class_ends.values()))
