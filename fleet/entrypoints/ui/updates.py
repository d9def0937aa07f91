"""A device's timeline as updates: reports that belong together, with what they came to. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Final

from device_client.wire.states import Transport, UpdateState
from fleet.apps.devices.records import EventRecord

BAD: Final = frozenset({UpdateState.ROLLED_BACK.value, UpdateState.ROLLING_BACK.value})
QUIET: Final = frozenset({UpdateState.IDLE.value, UpdateState.SUPERSEDED.value})


@dataclass(frozen=True)
class UpdateStep:
    """One report. `after_s` is the time since the one before it."""

    state: str
    at: datetime
    after_s: float | None


@dataclass(frozen=True)
class Update:
    """The way of one version onto the device under one rollout. `steps` in order of time, `at` is the last one's."""

    model: str
    version: str
    rollout: str
    state: str
    at: datetime
    steps: tuple[UpdateStep, ...]
    transport: str
    bytes_received: int
    bytes_total: int
    resumed_from: int
    failure: str
    detail: str

    @property
    def took_s(self) -> float:
        """From the first report to the last."""
        return (self.at - self.steps[0].at).total_seconds()

    @property
    def tone(self) -> str:
        """How it ended."""
        if self.state == UpdateState.COMMITTED.value:
            return "good"
        if self.failure or self.state in BAD:
            return "bad"
        if self.state == UpdateState.HALTED.value:
            return "warn"
        return "" if self.state in QUIET else "accent"


def updates(events: Sequence[EventRecord]) -> tuple[Update, ...]:
    """Put a timeline, newest first, together; the newest update comes first."""
    groups = groupby(events, key=lambda event: (event.model, event.version, event.rollout))
    return tuple(_update(list(found)[::-1]) for _, found in groups)


def _update(events: list[EventRecord]) -> Update:
    last = events[-1]
    transports = {_text(event, "transport") for event in events} - {"", Transport.NONE.value}
    times = [event.at for event in events]
    return Update(
        model=last.model,
        version=last.version,
        rollout=last.rollout,
        state=last.state,
        at=last.at,
        steps=tuple(
            UpdateStep(event.state, event.at, (event.at - before).total_seconds() if before else None)
            for event, before in zip(events, [None, *times[:-1]], strict=True)
        ),
        transport=transports.pop() if len(transports) == 1 else "",
        bytes_received=max(_number(event, "bytes_received") for event in events),
        bytes_total=max(_number(event, "bytes_total") for event in events),
        resumed_from=max(_number(event, "resumed_from") for event in events),
        failure=next((text for event in reversed(events) if (text := _text(event, "failure"))), ""),
        detail=next((text for event in reversed(events) if (text := _text(event, "detail"))), ""),
    )


def _text(event: EventRecord, name: str) -> str:
    value = event.report.get(name)
    return value if isinstance(value, str) else ""


def _number(event: EventRecord, name: str) -> int:
    value = event.report.get(name)
    return value if isinstance(value, int) else 0
