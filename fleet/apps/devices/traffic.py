"""Adds up what updates took over the network, from the report that ended each one. For this app only.

The caller passes each report once. What a device says is believed within limits: a way that does not exist is not counted
under a name of its own, and bytes beyond what the wire allows never get here.
"""

from collections.abc import Collection, Iterable
from typing import Final

from device_client.wire.delta import Codec
from device_client.wire.messages import StateReport
from device_client.wire.states import Transport, UpdateState
from fleet.apps.additive import add_up
from fleet.apps.devices.models import UpdateTraffic

# A codec that this server does not know.
OTHER: Final = "other"
_INSTALLED: Final = frozenset({UpdateState.COMMITTED, UpdateState.ROLLED_BACK})
_GIVEN_UP: Final = frozenset({UpdateState.IDLE, UpdateState.HALTED})
_KEY: Final = ("digest", "transport", "codec")
_SUMS: Final = ("updates", "failed", "fallbacks", "bytes_received", "bytes_total")


def add_traffic(reports: Iterable[StateReport], digests: Collection[str]) -> None:
    """Count those of `reports` that end an update to one of `digests`, in a constant number of statements."""
    sums: dict[tuple[str, str, str], dict[str, int]] = {}
    for report in reports:
        installed = report.state in _INSTALLED
        if report.digest not in digests or not (installed or (report.state in _GIVEN_UP and report.failure)):
            continue
        way = sums.setdefault((report.digest, report.transport.value, _codec(report.codec)), dict.fromkeys(_SUMS, 0))
        way["updates" if installed else "failed"] += 1
        if installed:
            way["bytes_received"] += report.bytes_received
            way["bytes_total"] += report.bytes_total
        for codec in {_codec(name) for name in report.fallbacks}:
            patched = sums.setdefault((report.digest, Transport.DELTA.value, codec), dict.fromkeys(_SUMS, 0))
            patched["fallbacks"] += 1
    rows = [{**dict(zip(_KEY, key, strict=True)), **values} for key, values in sums.items()]
    add_up(UpdateTraffic, key=_KEY, sums=_SUMS, latest=(), rows=rows)


def _codec(name: str) -> str:
    return name if not name or name in {codec.value for codec in Codec} else OTHER
