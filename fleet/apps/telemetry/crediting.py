"""Which gate a measurement counts for. Pure: decides from the rule, the device's bucket and the time, writes nothing.

The side is derived from the bucket and never from what a device says of itself. Treated: in the treated range, on the
rule's version, measured after its offer. Control: in the control range, on another version. Both: measured since the
phase began, by a clock that was set. In an experiment, a device of any arm counts as treated, on its own arm's version;
which arm that is follows from its bucket again when the totals are read. Of a shadow, what its candidate did beside the
champion counts, and nothing else. A device in neither position counts for no side, and so does an update under way.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from device_client.wire.bucketing import bucket
from device_client.wire.messages import TelemetryWindow
from fleet.apps.assignments.records import RuleView
from fleet.domain.experiment_shadow import SKIPPED, stored
from fleet.domain.filters.predicate import Described
from fleet.domain.gate_policy import CRASHES, CUSTOM_PREFIX, Metric, Shape
from fleet.domain.measurements import Side, Total

# A device whose clock runs ahead by more than this is one whose clock nobody set.
MAX_CLOCK_LEAD: Final = timedelta(minutes=5)
LOCAL_ROUTE: Final = "local"  # windows of other routes run beside it, through the same hours
_HOUR_S: Final = 3_600.0
_LEAST_HOURS: Final = 1 / _HOUR_S


@dataclass(frozen=True)
class Credit:
    """An amount to add to one device's total of one metric in one phase."""

    rule_id: int
    phase: int
    side: Side
    device_id: str
    hardware_class: str
    metric: str
    numerator: float
    denominator: float
    squares: float = 0.0


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
    if rule.is_shadow:
        return Side.TREATED if offered and moment.version == rule.version and _candidate(rule, place) else None
    if rule.arms:
        arm = rule.arm_at(place)
        return Side.TREATED if arm is not None and offered and moment.version == arm.version else None
    if rule.reach.treats(subject.device_id, subject.hardware_class, place):
        return Side.TREATED if offered and moment.version == rule.version else None
    return Side.CONTROL if place >= rule.reach.control_start and moment.version != rule.version else None


class Creditor:
    """Credits measurements of one batch against the rules that are being measured."""

    def __init__(self, rules: Sequence[RuleView], offered_at: Mapping[tuple[int, str], datetime]) -> None:
        self._rules = rules
        self._offered_at = offered_at

    def window(
        self, subject: Described, window: TelemetryWindow, started_at: datetime, now: datetime
    ) -> Iterator[Credit]:
        """What a window is worth. By an untrusted clock it is worth nothing here; during an update, only its crashes."""
        if not is_timely(started_at, now, trusted=window.clock_trusted):
            return
        for rule, side in self._sides(subject, Moment(window.model, window.version, started_at)):
            if rule.is_shadow:
                place = bucket(rule.seed, subject.device_id)
                for metric, total in _shadow_totals(rule, window, _candidate(rule, place)):
                    yield _credit(rule, side, subject, metric, total)
                continue
            for metric, total in _totals(rule, window):
                yield _credit(rule, side, subject, metric, total)

    def label(self, subject: Described, moment: Moment, *, correct: bool, now: datetime) -> Iterator[Credit]:
        """What a label is worth, credited to the version that made the prediction."""
        if not is_timely(moment.measured_at, now):
            return
        for rule, side in self._sides(subject, moment):
            if rule.counts(Metric.ACCURACY):
                yield _credit(rule, side, subject, Metric.ACCURACY, Total(int(correct), 1))

    def _sides(self, subject: Described, moment: Moment) -> Iterator[tuple[RuleView, Side]]:
        """The rule that has claimed the device, which is the first of the model that treats or compares it."""
        for rule in self._rules:
            if moment.model != rule.model or moment.measured_at < rule.phase_started_at or not rule.covers(subject):
                continue
            side = side_of(rule, subject, moment, self._offered_at.get((rule.id, subject.device_id)))
            if side is not None:
                yield rule, side
            if rule.claims(subject, bucket(rule.seed, subject.device_id)):
                return


def is_timely(measured_at: datetime, now: datetime, *, trusted: bool = True) -> bool:
    """Whether a device's clock can be believed."""
    return trusted and measured_at <= now + MAX_CLOCK_LEAD


def summed(credits_: Iterable[Credit]) -> list[Credit]:
    """The same amounts with one entry for each total."""
    sums: dict[tuple[int, int, Side, str, str, str], list[float]] = {}
    for item in credits_:
        key = (item.rule_id, item.phase, item.side, item.device_id, item.hardware_class, item.metric)
        total = sums.setdefault(key, [0.0, 0.0, 0.0])
        total[0] += item.numerator
        total[1] += item.denominator
        total[2] += item.squares
    return [Credit(*key, *total) for key, total in sums.items()]


def _totals(rule: RuleView, window: TelemetryWindow) -> Iterator[tuple[str, Total]]:
    """What a window says of the metrics that are counted for a rule."""
    hours = window.duration_s / _HOUR_S if window.route == LOCAL_ROUTE else 0.0
    if rule.counts(CRASHES) and (hours or window.crashes):
        # A window may be shorter than the clock can tell; a device that crashed was there.
        yield CRASHES, Total(window.crashes, max(hours, _LEAST_HOURS))
    if window.during_update:
        return
    if window.latency.total and rule.counts(Metric.SLOW):
        yield Metric.SLOW, Total(window.latency.above(rule.slow_ms), window.latency.total)
    if window.n and rule.counts(Metric.ERRORS):
        yield Metric.ERRORS, Total(window.errors, window.n)
    if window.n and rule.counts(Metric.NAN):
        yield Metric.NAN, Total(window.nan, window.n)
    if window.compared and rule.counts(Metric.AGREEMENT):
        yield Metric.AGREEMENT, Total(window.agreed, window.compared)
    for metric, shape in (rule.metrics or {}).items():
        # Only what the application declared: a device could make up names without end.
        measured = window.metrics.get(metric.removeprefix(CUSTOM_PREFIX)) if metric.startswith(CUSTOM_PREFIX) else None
        if shape == Shape.RATIO and metric.startswith(CUSTOM_PREFIX) and window.n:
            # A window that has nothing to say of it says zero: no rejects are rejects counted, too.
            yield metric, Total(0.0 if measured is None else measured.total, window.n)
        elif shape == Shape.MEAN and measured is not None and measured.n:
            yield metric, Total(measured.total, measured.n, measured.total_squared)


def _candidate(rule: RuleView, place: int) -> str:
    """The version that the device in this bucket runs beside the champion; empty for none."""
    arm = rule.arm_at(place)
    return "" if arm is None or arm.version == rule.version else arm.version


def _shadow_totals(rule: RuleView, window: TelemetryWindow, version: str) -> Iterator[tuple[str, Total]]:
    """What a window says of the candidate beside its champion. Accuracy is a difference: the labels that only one of
    them got right, for and against the candidate; `squares` counts them.
    """
    said = window.shadow
    if said is None or said.version != version or window.during_update:
        return
    if said.labelled:
        apart, discordant = said.only_candidate - said.only_champion, said.only_candidate + said.only_champion
        yield stored(Metric.ACCURACY), Total(apart, said.labelled, discordant)
    if said.compared:
        yield stored(Metric.AGREEMENT), Total(said.agreed, said.compared)
    if said.n:
        yield stored(Metric.ERRORS), Total(said.errors, said.n)
        yield stored(Metric.NAN), Total(said.nan, said.n)
    if said.skipped or said.n:
        yield SKIPPED, Total(said.skipped, said.skipped + said.n)
    if said.latency.total:
        yield stored(Metric.SLOW), Total(said.latency.above(rule.slow_ms), said.latency.total)


def _credit(rule: RuleView, side: Side, subject: Described, metric: str, total: Total) -> Credit:
    return Credit(rule.id, rule.phase, side, subject.device_id, subject.hardware_class, str(metric), *total)
