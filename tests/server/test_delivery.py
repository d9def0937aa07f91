"""Named devices and their pokes, pacing, conditions, windows, sets of models: on real services and both databases."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from device_client.wire.bucketing import BUCKETS, bucket
from device_client.wire.director import Decision
from device_client.wire.messages import Check, PlanNotice, Present
from device_client.wire.messages import RuleState as Ask
from fleet.apps.assignments import selectors, services
from fleet.apps.assignments.records import CheckAnswer
from fleet.apps.devices import services as devices
from fleet.apps.jobs import services as jobs
from fleet.apps.outbox import services as outbox
from fleet.apps.outbox.models import Message
from fleet.domain.calendar import Calendar, Hours
from fleet.domain.conditions import Conditions
from fleet.domain.delivery import Delivery
from fleet.domain.errors import InvalidInputError
from fleet.domain.facts import Denied, RuleState
from fleet.domain.pacing import Growth, Pacing
from fleet.domain.policy import RolloutPolicy
from fleet.domain.reach import Reach
from tests.fakes.fleet_simulator import FleetSimulator, SimulatedDevice
from tests.server.catalogue import MODEL, Release, later, make_model, make_version
from tests.server.test_assignments import ask, complete, decision, enrol, make_rule, obey, one_device, run_rule

pytestmark = pytest.mark.django_db


def pokes() -> list[str]:
    waiting = outbox.claim_batch(limit=5_000, now=later(9_999))
    outbox.mark_published(ids=[item.id for item in waiting])
    return [item.topic.split("/")[3] for item in waiting if item.topic.endswith("/down/poke")]


def fleet_of(size: int) -> list[SimulatedDevice]:
    return enrol(FleetSimulator(size, model=MODEL)).devices


# ---------------------------------------------------------------- named devices


def test_named_devices__rule_begins_and_ends__each_is_poked_once_for_each() -> None:
    release = make_version("1")
    fleet = fleet_of(3)
    names = frozenset(device.device_id for device in fleet[:2])
    rule_id = make_rule(release)
    services.set_rule(rule_id=rule_id, state=RuleState.RUNNING, reach=Reach(0, listed=names), now=later(0))
    assert pokes() == sorted(names)
    assert [decision(ask(device)) for device in fleet] == [Decision.NOW, Decision.NOW, Decision.NOTHING]
    services.set_rule(rule_id=rule_id, phase=1, reach=Reach(5, listed=names), now=later(1))
    assert pokes() == []  # the plan notice is for those in ranges; the named know already
    services.set_rule(rule_id=rule_id, state=RuleState.WITHDRAWN, now=later(2))
    assert pokes() == sorted(names)
    assert decision(ask(fleet[0], 20)) is Decision.NOTHING


def test_named_devices__more_than_a_thousand__refused() -> None:
    rule_id = make_rule(make_version("1"))
    many = frozenset(f"dev-{number}" for number in range(1_001))
    with pytest.raises(InvalidInputError, match="at most 1000 named devices, got 1001"):
        services.set_rule(rule_id=rule_id, reach=Reach(0, listed=many), now=later(0))


def test_named_devices__a_thousand__cost_no_more_statements_than_one() -> None:
    costs = []
    for size in (1, 1_000):
        rule_id = make_rule(make_version(str(size)), source=f"r-{size:012d}")
        names = frozenset(f"dev-{number}" for number in range(size))
        with CaptureQueriesContext(connection) as seen:
            services.set_rule(rule_id=rule_id, state=RuleState.RUNNING, reach=Reach(0, listed=names), now=later(size))
        costs.append(len(seen))
    assert costs[1] <= costs[0] + 7  # SQLite takes 166 rows a statement, PostgreSQL all of them


# ---------------------------------------------------------------- pacing


def paced(release: Release, pacing: Pacing, **more: Any) -> int:
    rule_id = run_rule(release, delivery=Delivery(pacing=pacing), **more)
    services.expect(rule_id=rule_id, expected=10)
    return rule_id


def told(fleet: list[SimulatedDevice], at_s: float = 10.0) -> list[str]:
    return [decision(ask(device, at_s)).value for device in fleet]


def test_pacing__per_minute__so_many_and_no_more_until_the_minute_is_over() -> None:
    paced(make_version("1"), Pacing(per_minute=2))
    fleet = fleet_of(4)
    assert told(fleet) == ["now", "now", "later", "later"]
    assert told(fleet, 30) == ["now", "now", "later", "later"]  # an offer stands
    assert told(fleet, 71) == ["now", "now", "now", "now"]


def test_pacing__in_flight__next_one_when_one_has_arrived_or_fell_silent() -> None:
    release = make_version("1")
    rule_id = paced(release, Pacing(in_flight=1, silent_after_s=600))
    first, second, third = fleet_of(3)
    answer = ask(first)
    assert decision(ask(second)) is Decision.LATER
    assert obey(first, answer, release)
    reports = first.install(later(11), None)
    services.record_reports(reports=[(first.device_id, report) for report in reports], now=later(12))
    assert decision(ask(second, 20)) is Decision.NOW
    assert decision(ask(third, 21)) is Decision.LATER
    # Nothing was ever heard of the second: after the grace it holds no place any more.
    assert decision(ask(third, 700)) is Decision.NOW
    seen = selectors.traffic(rule_id=rule_id, expected=3, silent_after_s=600, now=later(701))
    assert (seen.committed, seen.offered) == (1, 3)


def test_pacing__growth__doubles_with_what_committed() -> None:
    release = make_version("1")
    paced(release, Pacing(growth=Growth(start=1, factor=2, every=1)))
    fleet = fleet_of(3)
    assert told(fleet) == ["now", "later", "later"]
    assert obey(fleet[0], ask(fleet[0]), release)
    reports = fleet[0].install(later(11), None)
    services.record_reports(reports=[(fleet[0].device_id, report) for report in reports], now=later(12))
    assert told(fleet[1:], 80) == ["now", "now"]


def test_pacing__later__says_why_and_when_and_keeps_the_baseline() -> None:
    complete(run_rule(make_version("1")))
    paced(make_version("2"), Pacing(per_minute=1), source="r-000000000002")
    first, second = fleet_of(2)
    ask(first)
    answer = ask(second)
    said = answer.binding.answers[MODEL]
    assert said.decision is Decision.LATER
    assert "the cap is 1 a minute" in said.because
    assert said.until is not None
    assert 25 <= said.until - later(0).timestamp() <= 10 + 600
    assert [target.path.split("/")[2] for target in answer.targets] == ["1"]
    (assigned,) = selectors.assignments(device_id=second.device_id)
    assert (assigned.version, assigned.decision, assigned.arm) == ("1", "later", "baseline")


# ---------------------------------------------------------------- windows and conditions


def asked(device: SimulatedDevice, at_s: float = 10.0, **changes: Any) -> CheckAnswer:
    check: Check = replace(device.check(later(at_s)), **changes)
    return services.answer_check(device_id=device.device_id, check=check, now=later(at_s))


NOON = Calendar(frozenset(range(7)), (Hours(720, 780),), zone="device", unknown_zone="UTC")


def test_window__time_zone_of_the_device__decides() -> None:
    """It is noon in UTC."""
    run_rule(make_version("1"), delivery=Delivery(windows=NOON))
    device = one_device()
    assert decision(asked(device)) is Decision.NOW
    assert decision(asked(device, attributes={"time_zone": "nowhere"})) is Decision.NOW
    away = asked(one_device_named("cam-away"), attributes={"time_zone": "Asia/Tokyo"})
    assert decision(away) is Decision.LATER
    until = away.binding.answers[MODEL].until
    assert until == int((later(0) + timedelta(hours=15)).timestamp())  # noon in Tokyo is 03:00 UTC


def one_device_named(name: str) -> SimulatedDevice:
    (device,) = FleetSimulator(1, model=MODEL).devices
    renamed = replace(device, device_id=name)
    enrol_one(renamed)
    return renamed


def enrol_one(device: SimulatedDevice) -> None:
    devices.enrol(device_id=device.device_id, hardware_class=device.hardware_class, attributes={}, now=later(0))


def test_conditions__device_tells_how_it_is__later_until_they_hold() -> None:
    run_rule(make_version("1"), delivery=Delivery(conditions=Conditions(charging=True, retry_s=60)))
    device = one_device()
    unplugged = asked(device, present=Present(charging=False))
    said = unplugged.binding.answers[MODEL]
    assert (said.decision, said.until) == (Decision.LATER, int(later(70).timestamp()))
    assert "until it is charging" in said.because
    assert decision(asked(device, present=Present(charging=True))) is Decision.NOW


# ---------------------------------------------------------------- whom a rule is for


def test_rule__denied_and_held_back__are_kept() -> None:
    base = make_version("1")
    complete(run_rule(base))
    device = one_device()
    new = run_rule(
        make_version("2"),
        source="r-000000000002",
        denied=Denied(devices=frozenset({device.device_id})),
    )
    assert [target.path.split("/")[2] for target in ask(device).targets] == ["1"]
    services.set_rule(rule_id=new, state=RuleState.WITHDRAWN, now=later(2))
    beyond = 1 - bucket("s1", device.device_id) / BUCKETS
    newer = run_rule(make_version("3"), source="r-000000000003", holdback_share=beyond, holdback_s=100)
    services.set_rule(rule_id=newer, state=RuleState.COMPLETED, now=later(3))
    assert [target.path.split("/")[2] for target in ask(device).targets] == ["1"]
    assert [target.path.split("/")[2] for target in ask(device, 104).targets] == ["3"]


def holdback_notice(after: int) -> PlanNotice | None:
    """What the fleet was told since the outbox's message `after`."""
    rows = Message.objects.filter(pk__gt=after, topic__contains="plan").order_by("-pk")
    return None if not rows else PlanNotice.parse(bytes(rows[0].payload))


def end_due(at_s: float) -> bool:
    """A worker does the work that is due."""
    job = jobs.claim(kinds=[services.HOLDBACK_JOB_KIND], owner="w", lease_s=60, now=later(at_s))
    if job is not None:
        services.end_holdback(rule_id=int(str(job.payload["rule"])), now=later(at_s))
        assert jobs.finish(job=job, now=later(at_s))
    return job is not None


@pytest.mark.parametrize("withdrawn", [False, True], ids=["still the baseline", "withdrawn meanwhile"])
def test_holdback__its_time_is_over__held_back_devices_are_called_once(*, withdrawn: bool) -> None:
    complete(run_rule(make_version("1")))
    rule_id = run_rule(make_version("2"), source="r-000000000002", holdback_share=0.2, holdback_s=100)
    services.set_rule(rule_id=rule_id, state=RuleState.COMPLETED, treated_end=round(0.8 * BUCKETS), now=later(3))
    assert not end_due(102)
    if withdrawn:
        services.set_rule(rule_id=rule_id, state=RuleState.WITHDRAWN, now=later(50))
    last = Message.objects.order_by("-pk")[0].pk
    assert end_due(103)
    assert not end_due(104)
    notice = holdback_notice(last)
    assert (notice is None) is withdrawn
    if notice is not None:
        called = [item for item in notice.rules if item.state is Ask.RUN]
        assert [(item.start, item.end) for rule in called for item in rule.ranges] == [(round(0.8 * BUCKETS), BUCKETS)]


def test_holdback__without_an_end__nobody_is_called() -> None:
    rule_id = run_rule(make_version("1"), holdback_share=0.2)
    services.set_rule(rule_id=rule_id, state=RuleState.COMPLETED, now=later(3))
    assert not end_due(10**9)


def test_together__second_model_not_there_yet__neither_moves() -> None:
    other = "vision.faces"
    make_model(other)
    pair = (MODEL, other)
    first = make_version("1")
    run_rule(first, together=pair)
    device = one_device()
    both = replace(
        device.check(later(10)),
        models=(device.running, replace(device.running, model=other)),
    )

    def versions() -> list[str]:
        answer = services.answer_check(device_id=device.device_id, check=both, now=later(10))
        return [target.path.split("/")[1] for target in answer.targets]

    assert versions() == []
    second = make_version("1", model=other)
    rule_id = services.create_rule(
        source="r-000000000009",
        model=other,
        version_id=second.id,
        seed="s1",
        policy=RolloutPolicy.parse({"phases": [{"share": 1}], "together": list(pair)}),
        now=later(0),
    )
    services.set_rule(rule_id=rule_id, state=RuleState.RUNNING, treated_end=BUCKETS, now=later(1))
    assert len(versions()) == 2
