"""Which gate a measurement counts for. Pure: decides from the rule, the device's bucket and the time, writes nothing.

The side is derived from the bucket and never from what a device says of itself. Treated: in the treated range, on the
rule's version, measured after its offer. Control: in the control range, on another version. Both: measured since the
phase began, by a clock that was set. In an experiment, a device of any arm counts as treated, on its own arm's version;
which arm that is follows from its bucket again when the totals are read. A device in neither position counts for no side, and so does an update under way.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from device_client.wire.bucketing import bucket
from device_client.wire.messages import TelemetryWindow
from fleet.apps.assignments.records import RuleView
from fleet.domain.filters.predicate import Described

# A device whose clock runs ahead by more than this is one whose clock nobody set.
MAX_CLOCK_LEAD: Final = timedelta(minutes=5)


class Side(StrEnum):
    """The arm of a phase."""

    TREATED = "treated"
    CONTROL = "control"


class Metric(StrEnum):
    """The ratio metrics that gates read."""

    ACCURACY = "accuracy"  # correct labels / labels
    SLOW = "slow"  # inferences slower than the rule's SLO / inferences timed
    ERRORS = "errors"  # failed inferences / inferences
    NAN = "nan"  # inferences with NaN in the output / inferences


@dataclass(frozen=True)
class Credit:
    """An amount to add to one device's total of one metric in one phase."""

    rule_id: int
    phase: int
    side: Side
    device_id: str
    hardware_class: str
    metric: Metric
    numerator: float
    denominator: float


@dataclass(frozen=True)
class Moment:
    """What was measured, by which version of which model, when by the device's clock."""

    model: str
    version: str
    measured_at: datetime


def side_of(rule: RuleView, subject: Described, moment: Moment, offered_at: datetime | None) -> Side | None:
    """The side of `rule` that this measurement counts for, or None."""
    if moment.model != rule.model or moment.measured_at < rule.phase_started_at:
        return None
    if not rule.covers(subject):
        return None
    place = bucket(rule.seed, subject.device_id)
    offered = offered_at is not None and moment.measured_at >= offered_at
    if rule.arms:
        arm = rule.arm_at(place)
        return Side.TREATED if arm is not None and offered and moment.version == arm.version else None
    if place in rule.treated:
        return Side.TREATED if offered and moment.version == rule.version else None
    return Side.CONTROL if place in rule.control and moment.version != rule.version else None


class Creditor:
    """Credits measurements of one batch against the rules that are being measured."""

    def __init__(self, rules: Sequence[RuleView], offered_at: Mapping[tuple[int, str], datetime]) -> None:
        self._rules = rules
        self._offered_at = offered_at

    def window(
        self, subject: Described, window: TelemetryWindow, started_at: datetime, now: datetime
    ) -> Iterator[Credit]:
        """What a window is worth. Windows during an update or by an untrusted clock are worth nothing here."""
        if window.during_update or not window.clock_trusted or started_at > now + MAX_CLOCK_LEAD:
            return
        for rule, side in self._sides(subject, Moment(window.model, window.version, started_at)):
            if window.latency.total:
                slow = window.latency.above(rule.slow_ms)
                yield _credit(rule, side, subject, (Metric.SLOW, slow, window.latency.total))
            if window.n:
                yield _credit(rule, side, subject, (Metric.ERRORS, window.errors, window.n))
                yield _credit(rule, side, subject, (Metric.NAN, window.nan, window.n))

    def label(self, subject: Described, moment: Moment, *, correct: bool, now: datetime) -> Iterator[Credit]:
        """What a label is worth, credited to the version that made the prediction."""
        if moment.measured_at > now + MAX_CLOCK_LEAD:
            return
        for rule, side in self._sides(subject, moment):
            yield _credit(rule, side, subject, (Metric.ACCURACY, int(correct), 1))

    def _sides(self, subject: Described, moment: Moment) -> Iterator[tuple[RuleView, Side]]:
        for rule in self._rules:
            side = side_of(rule, subject, moment, self._offered_at.get((rule.id, subject.device_id)))
            if side is not None:
                yield rule, side


def summed(credits_: Iterable[Credit]) -> list[Credit]:
    """The same amounts with one entry for each total."""
    sums: dict[tuple[int, int, Side, str, str, Metric], list[float]] = {}
    for item in credits_:
        key = (item.rule_id, item.phase, item.side, item.device_id, item.hardware_class, item.metric)
        total = sums.setdefault(key, [0.0, 0.0])
        total[0] += item.numerator
        total[1] += item.denominator
    return [Credit(*key, *total) for key, total in sums.items()]


def _credit(rule: RuleView, side: Side, subject: Described, ratio: tuple[Metric, int, int]) -> Credit:
    return Credit(rule.id, rule.phase, side, subject.device_id, subject.hardware_class, *ratio)
