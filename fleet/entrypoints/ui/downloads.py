"""What updates took over the network, from the reports that devices sent at their end. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from device_client.wire.states import Transport, UpdateState
from fleet.apps.devices.records import EventRecord

FINISHED: Final = frozenset({UpdateState.COMMITTED.value, UpdateState.ROLLED_BACK.value})
WAYS: Final = {
    Transport.DELTA.value: "by delta",
    Transport.FULL.value: "in full",
    Transport.NONE.value: "already on the device",
}


@dataclass(frozen=True)
class Downloads:
    """The updates that came one way. `full_bytes` is what downloads in full would have taken."""

    way: str
    updates: int
    received_bytes: int
    full_bytes: int


def downloads(events: Iterable[EventRecord]) -> tuple[Downloads, ...]:
    """A line for each way that occurs, deltas first."""
    sums: dict[str, list[int]] = {}
    for event in events:
        way = event.report.get("transport")
        if event.state in FINISHED and way in WAYS:
            line = sums.setdefault(str(way), [0, 0, 0])
            for at, count in enumerate((1, event.report.get("bytes_received"), event.report.get("bytes_total"))):
                line[at] += count if isinstance(count, int) else 0
    return tuple(Downloads(words, *sums[way]) for way, words in WAYS.items() if way in sums)
