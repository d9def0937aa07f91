"""What must hold on a device before it takes a version, and what does not hold now. Pure.

What a device does not tell is not met: the answer says so, and whoever asks for the condition sees which devices cannot
meet it.
"""

from dataclasses import dataclass
from typing import Final

from device_client.wire.fields import Fields
from device_client.wire.messages import Present

MIB: Final = 2**20
RETRY_S: Final = 900.0


@dataclass(frozen=True)
class Conditions:
    """What a policy asks of a device at the moment of the update. Zero bytes ask for nothing."""

    unmetered: bool = False
    charging: bool = False
    idle: bool = False
    free_disk_bytes: int = 0
    free_ram_bytes: int = 0
    retry_s: float = RETRY_S

    @property
    def is_free(self) -> bool:
        """Whether nothing is asked."""
        return not (self.unmetered or self.charging or self.idle or self.free_disk_bytes or self.free_ram_bytes)

    def unmet(self, present: Present) -> tuple[str, ...]:
        """Each condition that does not hold, as words that follow "waits until"; empty when all hold."""
        found = [
            f"{wanted}{'' if state is not None else ', which it does not tell'}"
            for asked, state, wanted in (
                (self.unmetered, None if present.metered is None else not present.metered, "its network is unmetered"),
                (self.charging, present.charging, "it is charging"),
                (self.idle, present.idle, "it is idle"),
            )
            if asked and not state
        ]
        for needed, free, name in (
            (self.free_disk_bytes, present.free_disk_bytes, "disk"),
            (self.free_ram_bytes, present.free_ram_bytes, "memory"),
        ):
            if needed and (free is None or free < needed):
                has = "it does not tell how much it has" if free is None else f"it has {free // MIB}"
                found.append(f"{-(-needed // MIB)} MiB of {name} are free ({has})")
        return tuple(found)

    def encode(self) -> dict[str, object]:
        """The JSON form."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def parse_conditions(fields: Fields) -> Conditions:
    """Read them; raises `WireError`."""
    default = Conditions()
    return Conditions(
        unmetered=fields.flag("unmetered", default=default.unmetered),
        charging=fields.flag("charging", default=default.charging),
        idle=fields.flag("idle", default=default.idle),
        free_disk_bytes=fields.integer("free_disk_bytes", default=0),
        free_ram_bytes=fields.integer("free_ram_bytes", default=0),
        retry_s=fields.number("retry_s", minimum=1, maximum=86_400, default=default.retry_s),
    )
