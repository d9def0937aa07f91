"""Which side a measurement counts for, over all buckets, times and versions. Pure."""

from dataclasses import replace
from datetime import datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from device_client.wire.bucketing import BUCKETS, BucketRange, bucket
from device_client.wire.messages import Capabilities
from fleet.apps.assignments.notices import plan_notice
from fleet.apps.assignments.records import ArmRecord, ArmView, RuleRecord, RuleView
from fleet.apps.telemetry.crediting import Credit, Creditor, Moment, side_of, summed
from fleet.domain.facts import DeviceFacts, RuleState
from fleet.domain.filters.filter import Filter
from fleet.domain.gate_policy import Metric
from fleet.domain.measurements import Side
from fleet.domain.reach import Reach
from tests.server.catalogue import MODEL, NOW, later

edges = st.integers(0, BUCKETS)
device_ids = st.integers(0, 10**6).map(lambda number: f"dev-{number}")
moments = st.integers(-100, 100).map(lambda second: NOW + timedelta(seconds=second))


def subject(
    device_id: str = "dev-1", hardware_class: str = "edge-std", groups: frozenset[str] = frozenset()
) -> DeviceFacts:
    return DeviceFacts(device_id, hardware_class, Capabilities(ram_bytes=2**30), groups, {"site": "a"})


def view(treated_end: int, control_start: int, groups: frozenset[str] = frozenset()) -> RuleView:
    return RuleView(
        id=1,
        model=MODEL,
        version="2",
        seed="s",
        phase=0,
        phase_started_at=NOW,
        reach=Reach(treated_end, control_start),
        hardware_classes=frozenset({"edge-std"}),
        groups=groups,
        slow_ms=50.0,
    )


@given(edges, edges, device_ids, moments, st.sampled_from(["1", "2", "factory"]), st.none() | moments)
def test_side__any_measurement__follows_the_bucket_and_nothing_else(
    treated_end: int,
    control_start: int,
    device_id: str,
    measured_at: datetime,
    version: str,
    offered_at: datetime | None,
) -> None:
    rule = view(treated_end, control_start)
    moment = Moment(MODEL, version, measured_at)
    side = side_of(rule, subject(device_id), moment, offered_at)
    place = bucket("s", device_id)
    if side is Side.TREATED:
        assert place < treated_end
        assert version == "2"
        assert offered_at is not None
    if side is Side.CONTROL:
        assert place >= max(treated_end, control_start)
        assert version != "2"
    if side is not None:
        assert moment.measured_at >= NOW


@given(treated_end=edges, control_start=edges, class_end=edges, place=edges, named=st.booleans())
def test_reach__whatever_is_asked__nobody_is_treated_and_compared(
    *, treated_end: int, control_start: int, class_end: int, place: int, named: bool
) -> None:
    reach = Reach(treated_end, control_start, {"edge-big": class_end}, frozenset({"dev-1"} if named else ()))
    for hardware_class, end in (("edge-std", treated_end), ("edge-big", class_end)):
        treated = reach.treats("dev-1", hardware_class, place)
        assert treated == (place < end or named)
        assert not (treated and reach.compares("dev-1", hardware_class, place))


def test_creditor__device_claimed_by_the_first_rule__counts_for_no_other() -> None:
    """Two rollouts of one model: the control of the first is not measured by the second."""
    first, second = view(0, 0), replace(view(0, 0), id=2, seed="other")
    moment = Moment(MODEL, "1", later(1))
    credited = list(Creditor([first, second], {}).label(subject(), moment, correct=True, now=later(2)))
    assert [item.rule_id for item in credited] == [1]
    unclaimed = replace(first, reach=Reach(0, BUCKETS))
    credited = list(Creditor([unclaimed, second], {}).label(subject(), moment, correct=True, now=later(2)))
    assert [item.rule_id for item in credited] == [2]


def test_side__outside_the_population__counts_for_none() -> None:
    everything = view(0, 0)
    moment = Moment(MODEL, "1", later(1))
    assert side_of(everything, subject(), moment, None) is Side.CONTROL
    assert side_of(everything, subject(hardware_class="edge-big"), moment, None) is None
    assert side_of(everything, subject(), Moment("a.b", "1", later(1)), None) is None
    grouped = view(0, 0, frozenset({"g"}))
    assert side_of(grouped, subject(), moment, None) is None
    assert side_of(grouped, subject(groups=frozenset({"g", "h"})), moment, None) is Side.CONTROL
    for text, side in (("attributes.site == 'a' and capabilities.ram_mb == 1024", Side.CONTROL), ("group('g')", None)):
        assert side_of(replace(everything, filter=Filter.parse(text)), subject(), moment, None) is side


@given(
    st.lists(st.tuples(st.integers(0, 1), device_ids, st.sampled_from(list(Metric)), st.integers(0, 99)), max_size=30)
)
def test_summed__any_credits__keep_their_sum_and_name_each_total_once(
    parts: list[tuple[int, str, Metric, int]],
) -> None:
    credits_ = [Credit(rule, 0, Side.TREATED, device, "edge-std", metric, n, 99) for rule, device, metric, n in parts]
    totals = summed(credits_)
    keys = [(item.rule_id, item.device_id, item.metric) for item in totals]
    assert len(keys) == len(set(keys))
    assert sum(item.numerator for item in totals) == sum(n for *_, n in parts)
    assert sum(item.denominator for item in totals) == 99 * len(parts)


def record(number: int, state: RuleState, treated_end: int) -> RuleRecord:
    return RuleRecord(
        id=number,
        source=f"r-{number:012d}",
        model=MODEL,
        version_id=number,
        state=state,
        seed=str(number),
        phase=0,
        phase_started_at=NOW,
        treated_end=treated_end,
        control_start=BUCKETS,
        hardware_classes=(),
        groups=(),
        device_policy={},
        parameters={},
        allow_delta=True,
        delta_wait_s=30,
        jitter_s=0,
        priority=0,
        created_at=NOW,
        ended_at=later(number) if state in (RuleState.COMPLETED, RuleState.WITHDRAWN) else None,
    )


@given(st.lists(st.tuples(st.sampled_from(list(RuleState)), edges), max_size=90))
def test_plan_notice__any_rules__fits_the_wire_and_names_no_model(parts: list[tuple[RuleState, int]]) -> None:
    rules = [record(number, state, end) for number, (state, end) in enumerate(parts, start=1)]
    notice = plan_notice(7, rules)
    parsed = type(notice).parse(notice.encode())
    assert parsed == notice
    assert MODEL.encode() not in notice.encode()
    assert all(item.start < item.end for rule in notice.rules for item in rule.ranges)


def test_plan_notice__completed_short_of_everybody__calls_the_rest() -> None:
    older, newest = record(1, RuleState.COMPLETED, 400_000), record(2, RuleState.COMPLETED, 700_000)
    (rule,) = plan_notice(1, [older, newest]).rules
    assert (rule.seed, rule.ranges[0].start, rule.ranges[0].end) == ("2", 700_000, BUCKETS)


ARMS = (
    ArmView("b", "2", BucketRange(0, 300_000)),
    ArmView("c", "3", BucketRange(300_000, 300_000)),
    ArmView("a", "1", BucketRange(600_000, BUCKETS)),
)


@given(device_ids, moments, st.sampled_from(["1", "2", "3"]), st.none() | moments)
def test_side__in_an_experiment__counts_on_its_own_arms_version_after_its_offer(
    device_id: str, measured_at: datetime, version: str, offered_at: datetime | None
) -> None:
    rule = replace(view(0, BUCKETS), arms=ARMS)
    side = side_of(rule, subject(device_id), Moment(MODEL, version, measured_at), offered_at)
    arm = rule.arm_at(bucket("s", device_id))
    counts = (
        arm is not None
        and version == arm.version
        and offered_at is not None
        and measured_at >= max(offered_at, rule.phase_started_at)
    )
    assert side is (Side.TREATED if counts else None)


def test_plan_notice__rule_with_arms__calls_every_arm_that_has_buckets() -> None:
    arms = tuple(ArmRecord(arm.name, number, arm.buckets) for number, arm in enumerate(ARMS))
    (rule,) = plan_notice(1, [replace(record(1, RuleState.RUNNING, 0), arms=arms)]).rules
    assert rule.ranges == (BucketRange(0, 300_000), BucketRange(600_000, BUCKETS))
