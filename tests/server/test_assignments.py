"""Rules, the answer to a check, offers and what becomes of them."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from django.db import IntegrityError, connection
from django.test.utils import CaptureQueriesContext

from device_client.wire.bucketing import BUCKETS, BucketRange, bucket
from device_client.wire.director import Assigned, Decision, DeltaOffer
from device_client.wire.messages import PlanNotice, RunningModel
from device_client.wire.messages import RuleState as Ask
from device_client.wire.states import FailureCode, UpdateState
from fleet.apps.assignments import selectors, services
from fleet.apps.assignments.models import Rule
from fleet.apps.assignments.plans import KEPT_S
from fleet.apps.assignments.records import ArmRecord, CheckAnswer
from fleet.apps.devices import services as devices
from fleet.apps.jobs import services as jobs
from fleet.apps.outbox import services as outbox
from fleet.apps.registry import selectors as registry_selectors
from fleet.apps.registry import services as registry
from fleet.domain.errors import ForbiddenError, InvalidInputError, NotFoundError
from fleet.domain.facts import RuleState
from fleet.domain.policy import RolloutPolicy
from fleet.wiring import server
from tests.fakes.fleet_simulator import CAPABILITIES, FleetSimulator, SimulatedDevice, shuffled
from tests.server.catalogue import MODEL, NOW, Release, later, make_delta, make_model, make_version, revoke

pytestmark = pytest.mark.django_db

SEED = "s1"


POLICY = RolloutPolicy.parse(
    {"phases": [{"share": 1}], "device": {"slow_ms": 50}, "parameters": {"route_below": "0.6"}, "jitter_s": 2}
)


def make_rule(
    release: Release,
    *,
    source: str = "r-000000000001",
    seed: str = SEED,
    arms: Sequence[ArmRecord] = (),
    **changes: Any,
) -> int:
    return services.create_rule(
        source=source,
        model=MODEL,
        version_id=release.id,
        seed=seed,
        policy=replace(POLICY, **changes),
        arms=arms,
        now=NOW,
    )


def run_rule(release: Release, *, treated: int = BUCKETS, **changes: Any) -> int:
    rule_id = make_rule(release, **changes)
    services.set_rule(rule_id=rule_id, state=RuleState.RUNNING, phase=0, treated_end=treated, now=NOW)
    return rule_id


def complete(rule_id: int) -> None:
    services.set_rule(rule_id=rule_id, state=RuleState.COMPLETED, treated_end=BUCKETS, now=later(1))


def enrol(fleet: FleetSimulator) -> FleetSimulator:
    for device in fleet:
        devices.enrol(device_id=device.device_id, hardware_class=device.hardware_class, attributes={}, now=NOW)
    return fleet


def one_device() -> SimulatedDevice:
    return enrol(FleetSimulator(1, model=MODEL)).devices[0]


def ask(device: SimulatedDevice, at_s: float = 10.0) -> CheckAnswer:
    return services.answer_check(device_id=device.device_id, check=device.check(later(at_s)), now=later(at_s))


def decision(answer: CheckAnswer) -> Decision:
    return answer.binding.answers[MODEL].decision


def obey(device: SimulatedDevice, answer: CheckAnswer, release: Release) -> bool:
    targets = {target.path: (target.sha256, target.custom) for target in answer.targets}
    return device.obey(answer.binding, targets, release.weights_by_digest)


def notices() -> list[PlanNotice]:
    return [PlanNotice.parse(item.payload) for item in outbox.claim_batch(limit=100, now=later(99))]


# ---------------------------------------------------------------- rules and notices


def test_create_rule__new__touches_nobody() -> None:
    make_rule(make_version("1"))
    assert notices() == []
    assert decision(ask(one_device())) is Decision.NOTHING


def test_set_rule__each_change__raises_the_revision_of_one_retained_notice() -> None:
    rule_id = run_rule(make_version("1"), treated=250_000)
    services.set_rule(rule_id=rule_id, phase=1, treated_end=500_000, now=later(1))
    (notice,) = notices()
    assert notice.revision == 2
    assert [(rule.state, rule.ranges[0].start, rule.ranges[0].end, rule.jitter_s) for rule in notice.rules] == [
        (Ask.RUN, 0, 500_000, 2.0)
    ]
    (message,) = outbox.claim_batch(limit=10, now=later(99))
    assert message.retain
    assert MODEL.encode() not in message.payload
    assert selectors.rule(rule_id).phase_started_at == later(1)


@pytest.mark.parametrize("state", [RuleState.HELD, RuleState.WITHDRAWN])
def test_set_rule__stopped__halts_those_it_had_reached(state: RuleState) -> None:
    rule_id = run_rule(make_version("1"), treated=250_000)
    services.set_rule(rule_id=rule_id, state=state, now=later(1))
    (notice,) = notices()
    assert [(rule.state, rule.ranges[0].end) for rule in notice.rules] == [(Ask.HALT, 250_000)]


def test_set_rule__withdrawn_then_another_runs__only_the_new_one_speaks() -> None:
    old = run_rule(make_version("1"), treated=250_000)
    services.set_rule(rule_id=old, state=RuleState.WITHDRAWN, now=later(1))
    run_rule(make_version("2"), source="r-000000000002", treated=100_000)
    assert [rule.state for rule in notices()[-1].rules] == [Ask.RUN]


def test_set_rule__withdrawn__cannot_come_back() -> None:
    rule_id = run_rule(make_version("1"))
    services.set_rule(rule_id=rule_id, state=RuleState.WITHDRAWN, now=later(1))
    with pytest.raises(InvalidInputError):
        services.set_rule(rule_id=rule_id, state=RuleState.RUNNING, now=later(2))
    with pytest.raises(InvalidInputError):
        services.set_rule(rule_id=rule_id, treated_end=BUCKETS + 1, now=later(2))
    with pytest.raises(NotFoundError):
        services.set_rule(rule_id=rule_id + 1, phase=1, now=later(2))


def test_repeat_notice__nothing_changed__keeps_its_revision() -> None:
    run_rule(make_version("1"))
    services.repeat_notice(model=MODEL, now=later(5))
    assert [notice.revision for notice in notices()] == [1]
    assert selectors.announced_models() == (MODEL,)


def test_set_rule__whatever_the_fleet__costs_the_same() -> None:
    rule_id = run_rule(make_version("1"), treated=250_000)
    counts = []
    for size in (1, 50):
        enrol(FleetSimulator(size, model=MODEL))
        with CaptureQueriesContext(connection) as captured:
            services.set_rule(rule_id=rule_id, treated_end=250_000 + size, now=later(size))
        counts.append(len(captured))
    assert counts[0] == counts[1]


def test_rule__range_beyond_all_buckets__is_refused_by_the_database() -> None:
    rule_id = make_rule(make_version("1"))
    with pytest.raises(IntegrityError):
        Rule.objects.filter(pk=rule_id).update(treated_end=BUCKETS + 1)


# ---------------------------------------------------------------- answers


def test_answer__treated__names_manifest_and_files() -> None:
    release = make_version("1")
    run_rule(release)
    device = one_device()
    answer = ask(device)
    (target,) = answer.targets
    assert target.path == f"models/{MODEL}/1/onnx-fp32-any.json"
    assert (target.sha256, answer.tickets_for) == (release.digest, (release.digest, release.weights["onnx-fp32-any"]))
    assigned = Assigned.parse(dict(target.custom))
    assert (assigned.rollout, assigned.revision, assigned.phase) == ("r-000000000001", 1, 0)
    assert assigned.policy.slow_ms == 50.0
    assert assigned.parameters == {"route_below": "0.6"}
    found = selectors.assignment(device_id=device.device_id, model=MODEL)
    assert found is not None
    assert (found.decision, found.version, found.arm) == ("now", "1", "treated")
    assert found.trace[-1].outcome == "taken"


def test_answer__asked_again__writes_one_offer_and_keeps_the_revision() -> None:
    rule_id = run_rule(make_version("1"))
    device = one_device()
    first, second = ask(device), ask(device, 20)
    assert first.targets == second.targets
    (offer,) = selectors.offer_records(rule_id=rule_id)
    assert (offer.offered_at, offer.bucket, offer.phase) == (later(10), bucket(SEED, device.device_id), 0)


def test_answer__outside_the_range__runs_the_baseline() -> None:
    old, new = make_version("1"), make_version("2")
    complete(run_rule(old))
    rule_id = run_rule(new, source="r-000000000002", treated=0, seed="s2")
    device = one_device()
    answer = ask(device)
    assert Assigned.parse(dict(answer.targets[0].custom)).version == "1"
    assert selectors.offer_records(rule_id=rule_id) == ()


def test_answer__withdrawn__falls_back_with_a_higher_revision() -> None:
    old, new = make_version("1"), make_version("2")
    complete(run_rule(old))
    rule_id = run_rule(new, source="r-000000000002", seed="s2")
    device = one_device()
    before = Assigned.parse(dict(ask(device).targets[0].custom))
    services.set_rule(rule_id=rule_id, state=RuleState.WITHDRAWN, now=later(15))
    after = Assigned.parse(dict(ask(device, 20).targets[0].custom))
    assert (before.version, after.version) == ("2", "1")
    assert after.revision == before.revision + 1
    assert [offer.outcome for offer in selectors.offer_records(rule_id=rule_id)] == ["pending"]


def test_answer__held__keeps_those_that_run_it_and_takes_no_new_ones() -> None:
    release = make_version("1")
    rule_id = run_rule(release)
    fleet = enrol(FleetSimulator(2, model=MODEL))
    running, waiting = fleet.devices
    obey(running, ask(running), release)
    list(running.install(later(11)))
    services.set_rule(rule_id=rule_id, state=RuleState.HELD, now=later(12))
    assert decision(ask(running, 13)) is Decision.NOW
    assert decision(ask(waiting, 13)) is Decision.NOTHING


def test_answer__failed_here_before__is_not_offered_again() -> None:
    release = make_version("1")
    run_rule(release)
    device = one_device()
    obey(device, ask(device), release)
    list(device.install(later(11), fails=FailureCode.SELF_TEST))
    answer = ask(device, 20)
    assert decision(answer) is Decision.NOTHING
    assert "failed on this device before" in answer.binding.answers[MODEL].because


def test_answer__variant_for_its_precision__is_chosen() -> None:
    release = make_version("1", variants=("onnx-fp32-any", "onnx-int8-any"))
    run_rule(release)
    device = one_device()
    device.capabilities = replace(CAPABILITIES, precisions=("int8",))
    assert ask(device).targets[0].sha256 == release.digests["onnx-int8-any"]


def test_answer__revoked_version__is_offered_to_nobody() -> None:
    run_rule(make_version("1", state="revoked"))
    assert decision(ask(one_device())) is Decision.NOTHING


def test_answer__unknown_model__is_left_out() -> None:
    make_model()
    device = one_device()
    device.running = RunningModel("other.thing")
    answer = ask(device)
    assert (answer.binding.answers, answer.targets, answer.tickets_for) == ({}, (), ())


def test_answer__not_active__is_refused() -> None:
    device = one_device()
    devices.set_state(device_id=device.device_id, state="quarantined", now=NOW)
    with pytest.raises(ForbiddenError):
        ask(device)
    device.device_id = "never-enrolled"
    with pytest.raises(NotFoundError):
        ask(device)


def test_answer__every_order_of_asking__assigns_the_same() -> None:
    release = make_version("1")
    run_rule(release, treated=500_000)
    fleet = enrol(FleetSimulator(40, model=MODEL))
    told = {device.device_id: decision(ask(device)) for device in shuffled(fleet, 3)}
    again = {device.device_id: decision(ask(device, 30)) for device in shuffled(fleet, 4)}
    treated = {device.device_id for device in fleet.in_buckets(SEED, 0, 500_000)}
    assert told == again
    assert {device_id for device_id, what in told.items() if what is Decision.NOW} == treated
    assert 0 < len(treated) < 40


# ---------------------------------------------------------------- deltas


def updating_device(old: Release) -> SimulatedDevice:
    device = one_device()
    device.running = RunningModel(MODEL, old.label, old.digest, old.weights["onnx-fp32-any"], 1, UpdateState.COMMITTED)
    return device


def test_answer__patch_ready__is_offered_beside_the_whole_file() -> None:
    old, new = make_version("1"), make_version("2")
    patch = make_delta(old.weights["onnx-fp32-any"], new.weights["onnx-fp32-any"], ready=True)
    run_rule(new)
    answer = ask(updating_device(old))
    manifest, delta = answer.targets
    assert manifest.sha256 == new.digest
    assert (delta.sha256, delta.length) == (patch, 100)
    offer = DeltaOffer.parse(dict(delta.custom))
    assert (offer.old_sha256, offer.new_sha256) == (old.weights["onnx-fp32-any"], new.weights["onnx-fp32-any"])
    assert answer.tickets_for == (new.digest, new.weights["onnx-fp32-any"], patch)


@pytest.mark.parametrize("without", ["codec", "permission", "weights"])
def test_answer__patch_is_of_no_use__is_not_offered(without: str) -> None:
    old, new = make_version("1"), make_version("2")
    make_delta(old.weights["onnx-fp32-any"], new.weights["onnx-fp32-any"], ready=True)
    run_rule(new, allow_delta=without != "permission")
    device = updating_device(old)
    if without == "codec":
        device.capabilities = replace(CAPABILITIES, codecs=())
    if without == "weights":
        device.running = replace(device.running, weights_sha256="")
    assert len(ask(device).targets) == 1


def test_answer__patch_is_being_built__waits_a_while_and_then_takes_the_whole_file() -> None:
    old, new = make_version("1"), make_version("2")
    make_delta(old.weights["onnx-fp32-any"], new.weights["onnx-fp32-any"], ready=False)
    rule_id = run_rule(new, delta_wait_s=30.0)
    device = updating_device(old)
    answer = ask(device, 10)
    assert decision(answer) is Decision.LATER
    assert answer.binding.answers[MODEL].until == int(later(16).timestamp())
    assert answer.targets == ()
    assert selectors.offer_records(rule_id=rule_id) == ()
    assert ask(device, 28).binding.answers[MODEL].until == int(later(30).timestamp())
    assert decision(ask(device, 30)) is Decision.NOW
    assert len(selectors.offer_records(rule_id=rule_id)) == 1


def test_answer__several_patches_ready__offers_those_that_the_device_can_apply_the_smallest_first() -> None:
    old, new = make_version("1"), make_version("2")
    pair = old.weights["onnx-fp32-any"], new.weights["onnx-fp32-any"]
    large = make_delta(*pair, ready=True, length=300)
    small = make_delta(*pair, ready=True, codec="tensor1", length=100)
    portable = make_delta(*pair, ready=True, codec="tensor1-portable", length=200)
    run_rule(new)
    device = updating_device(old)
    for codecs, expected in (
        (("tensor1", "tensor1-portable", "bsdiff4"), [small, portable, large]),
        (("tensor1-portable", "bsdiff4"), [portable, large]),
        (("bsdiff4",), [large]),
        (("zstd",), []),
    ):
        device.capabilities = replace(CAPABILITIES, codecs=codecs)
        assert [target.sha256 for target in ask(device).targets[1:]] == expected


def test_answer__second_candidate_is_still_being_built__waits_for_it_and_then_takes_what_is_there() -> None:
    old, new = make_version("1"), make_version("2")
    pair = old.weights["onnx-fp32-any"], new.weights["onnx-fp32-any"]
    ready = make_delta(*pair, ready=True, codec="tensor1")
    make_delta(*pair, ready=False)
    run_rule(new, delta_wait_s=30.0)
    device = updating_device(old)
    device.capabilities = replace(CAPABILITIES, codecs=("tensor1", "bsdiff4"))
    assert decision(ask(device, 10)) is Decision.LATER
    assert [target.sha256 for target in ask(device, 30).targets[1:]] == [ready]


def test_answer__only_what_others_need_is_being_built__does_not_wait() -> None:
    old, new = make_version("1"), make_version("2")
    pair = old.weights["onnx-fp32-any"], new.weights["onnx-fp32-any"]
    make_delta(*pair, ready=False, codec="tensor1-portable")
    run_rule(new, delta_wait_s=30.0)
    device = updating_device(old)
    device.capabilities = replace(CAPABILITIES, codecs=("tensor1", "tensor1-portable", "bsdiff4"))
    assert decision(ask(device, 10)) is Decision.NOW


@pytest.mark.parametrize("permanent", [True, False], ids=["given up", "to be tried again"])
def test_answer__row_is_queued_but_its_job_has_failed__does_not_wait(*, permanent: bool) -> None:
    old, new = make_version("1"), make_version("2")
    make_delta(old.weights["onnx-fp32-any"], new.weights["onnx-fp32-any"], ready=False)
    run_rule(new, delta_wait_s=30.0)
    job = jobs.claim(kinds=["delta"], owner="w", lease_s=60, now=NOW)
    assert job is not None
    jobs.fail(job=job, error="no", now=NOW, permanent=permanent)
    assert decision(ask(updating_device(old), 10)) is Decision.NOW


def test_answer__patches_are_being_planned__waits() -> None:
    old, new = make_version("1"), make_version("2")
    run_rule(new, delta_wait_s=30.0)
    registry.request_plan(model=MODEL, version_id=new.id, now=NOW)
    assert decision(ask(updating_device(old), 10)) is Decision.LATER
    job = jobs.claim(kinds=["delta-plan"], owner="w", lease_s=60, now=NOW)
    assert job is not None
    jobs.finish(job=job, now=NOW)
    assert decision(ask(updating_device(old), 11)) is Decision.NOW


def test_offered_versions__what_a_device_can_be_told_to_run__and_nothing_older() -> None:
    releases = [make_version(label) for label in ("1", "2", "3", "4")]
    complete(run_rule(releases[0], source="r-000000000001"))
    withdrawn = run_rule(releases[1], source="r-000000000002")
    services.set_rule(rule_id=withdrawn, state=RuleState.WITHDRAWN, now=later(2))
    run_rule(releases[2], source="r-000000000003")
    assert selectors.offered_versions(MODEL) == {releases[0].id, releases[2].id}
    assert selectors.offered_versions("vision.other") == frozenset()
    weights = registry_selectors.weights_of([releases[2].id])
    assert weights == set(releases[2].weights.values())


def test_review_deltas__files_that_are_run_or_offered__keep_their_patches() -> None:
    old, new, other = (make_version(label) for label in ("1", "2", "3"))
    slug = "onnx-fp32-any"
    make_delta(old.weights[slug], new.weights[slug], ready=True)
    make_delta(other.weights[slug], new.weights[slug], ready=True)
    complete(run_rule(new))
    device = updating_device(old)
    devices.record_check(device_id=device.device_id, check=device.check(later(1)), now=later(1))
    for days in (0, 15):
        server.review_deltas({}, NOW + timedelta(days=days))
    states = {item.old_sha256: item.state.value for item in registry_selectors.deltas(MODEL)}
    assert states == {old.weights[slug]: "ready", other.weights[slug]: "expired"}


def test_review_deltas__versions_on_offer__are_planned_for_again_where_patches_are_allowed() -> None:
    kept, whole = make_version("1"), make_version("2")
    complete(run_rule(kept))
    run_rule(whole, source="r-000000000002", allow_delta=False)
    server.review_deltas({}, NOW)
    planned = jobs.claim(kinds=["delta-plan"], owner="w", lease_s=60, now=NOW)
    assert planned is not None
    assert planned.payload == {"model": MODEL, "version_id": kept.id}
    assert jobs.claim(kinds=["delta-plan"], owner="w", lease_s=60, now=NOW) is None


# ---------------------------------------------------------------- outcomes


def counts(rule_id: int, at_s: float = 20.0, grace_s: float = 60.0) -> dict[str, int]:
    (row,) = selectors.offers(rule_id=rule_id, phase=0, now=later(at_s), grace_s=grace_s)
    return {name: value for name, value in vars(row).items() if name != "hardware_class" and value}


@pytest.mark.parametrize(
    ("fails", "outcome"),
    [
        (None, "committed"),
        (FailureCode.SELF_TEST, "failed"),
        (FailureCode.DIGEST_MISMATCH, "failed"),
        (FailureCode.PROBATION, "rolled_back"),
        (FailureCode.CRASH_LOOP, "rolled_back"),
    ],
)
def test_record_reports__whatever_order__ends_alike(fails: FailureCode | None, outcome: str) -> None:
    release = make_version("1")
    rule_id = run_rule(release)
    for number, device in enumerate(enrol(FleetSimulator(4, model=MODEL))):
        obey(device, ask(device), release)
        for report in shuffled(device.install(later(11), fails), number):
            services.record_reports(reports=[(device.device_id, report)], now=later(12))
    assert counts(rule_id) == {"offered": 4, outcome: 4}


def test_record_reports__older_than_the_outcome__changes_nothing() -> None:
    release = make_version("1")
    rule_id = run_rule(release)
    device = one_device()
    obey(device, ask(device), release)
    early = list(device.install(later(11), FailureCode.DOWNLOAD))[-1]
    late = list(device.install(later(15)))[-1]
    for report in (late, early):
        services.record_reports(reports=[(device.device_id, report)], now=later(16))
    assert counts(rule_id) == {"offered": 1, "committed": 1}


@pytest.mark.parametrize("attested", ["", "0" * 64])
def test_record_reports__success_that_attests_something_else__is_no_success(attested: str) -> None:
    release = make_version("1")
    rule_id = run_rule(release)
    device = one_device()
    obey(device, ask(device), release)
    report = list(device.install(later(11)))[-1]
    services.record_reports(reports=[(device.device_id, replace(report, active_digest=attested))], now=later(12))
    assert counts(rule_id) == {"offered": 1, "pending": 1}


def test_record_reports__about_no_offer_of_ours__changes_nothing() -> None:
    release = make_version("1")
    rule_id = run_rule(release)
    fleet = enrol(FleetSimulator(2, model=MODEL))
    offered, stranger = fleet.devices
    obey(offered, ask(offered), release)
    report = list(offered.install(later(11)))[-1]
    services.record_reports(reports=[(stranger.device_id, report)], now=later(12))
    services.record_reports(reports=[(offered.device_id, replace(report, rollout="r-ffffffffffff"))], now=later(12))
    assert counts(rule_id) == {"offered": 1, "pending": 1}


def test_offers__attested_in_a_check_although_the_report_is_away__counts_as_committed() -> None:
    release = make_version("1")
    rule_id = run_rule(release)
    device = one_device()
    obey(device, ask(device), release)
    list(device.install(later(11)))
    ask(device, 15)
    assert counts(rule_id) == {"offered": 1, "committed": 1}


def test_offers__no_sign_of_life_within_the_grace__is_silent() -> None:
    rule_id = run_rule(make_version("1"))
    fleet = enrol(FleetSimulator(3, model=MODEL))
    alive, quiet, _never = fleet.devices
    for device in fleet:
        ask(device, 10)
    devices.touch(device_ids=[quiet.device_id], now=later(12))
    devices.touch(device_ids=[alive.device_id], now=later(60))
    assert counts(rule_id, at_s=30, grace_s=30) == {"offered": 3, "pending": 3}
    assert counts(rule_id, at_s=70, grace_s=30) == {"offered": 3, "pending": 3, "silent": 2}


def test_offers__several_phases__are_counted_apart_and_together() -> None:
    rule_id = run_rule(make_version("1"), treated=500_000)
    fleet = enrol(FleetSimulator(20, model=MODEL))
    for device in fleet:
        ask(device, 10)
    services.set_rule(rule_id=rule_id, phase=1, treated_end=BUCKETS, now=later(20))
    for device in fleet:
        ask(device, 30)
    early = len(fleet.in_buckets(SEED, 0, 500_000))
    first, second = (selectors.offers(rule_id=rule_id, phase=n, now=later(40), grace_s=99)[0] for n in (0, 1))
    assert (first.offered, second.offered) == (early, 20 - early)
    assert selectors.offers_up_to(rule_id=rule_id, phase=1, now=later(40), grace_s=99)[0].offered == 20


# ---------------------------------------------------------------- plans that are kept


def test_plan_cache__nothing_changed__reads_rules_and_versions_once() -> None:
    run_rule(make_version("1"))
    plans = services.PlanCache()
    counts = []
    for device in enrol(FleetSimulator(3, model=MODEL)):
        with CaptureQueriesContext(connection) as captured:
            services.answer_check(device_id=device.device_id, check=device.check(later(1)), now=later(1), plans=plans)
        counts.append(sum("assignments_rule" in item["sql"].split("WHERE")[0] for item in captured))
    assert counts[0] > 0
    assert counts[1:] == [0, 0]


def test_plan_cache__rule_withdrawn__is_never_answered_from_memory() -> None:
    rule_id = run_rule(make_version("1"))
    device, plans = one_device(), services.PlanCache()

    def told() -> Decision:
        answer = services.answer_check(
            device_id=device.device_id, check=device.check(later(1)), now=later(1), plans=plans
        )
        return decision(answer)

    assert told() is Decision.NOW
    services.set_rule(rule_id=rule_id, state=RuleState.WITHDRAWN, now=later(1))
    assert told() is Decision.NOTHING


def test_plan_cache__version_revoked__is_forgotten_after_a_while() -> None:
    release = make_version("1")
    run_rule(release)
    device, plans = one_device(), services.PlanCache()

    def told(at_s: float) -> Decision:
        check = device.check(later(at_s))
        return decision(services.answer_check(device_id=device.device_id, check=check, now=later(at_s), plans=plans))

    assert told(1) is Decision.NOW
    revoke(release)
    assert told(1 + KEPT_S) is Decision.NOTHING


def test_plan_cache__model_created_later__is_found() -> None:
    device, plans = one_device(), services.PlanCache()
    assert plans.of([MODEL], NOW) == {}
    run_rule(make_version("1"))
    answer = services.answer_check(device_id=device.device_id, check=device.check(NOW), now=NOW, plans=plans)
    assert decision(answer) is Decision.NOW


# ---------------------------------------------------------------- arms of an experiment


def test_arms__devices_ask_and_install__offers_and_outcomes_by_arm() -> None:
    old, new = make_version("1"), make_version("2")
    rule_id = make_rule(
        old,
        source="e-000000000001",
        arms=(
            ArmRecord("candidate", new.id, BucketRange(0, 500_000)),
            ArmRecord("control", old.id, BucketRange(500_000, BUCKETS)),
        ),
    )
    services.set_rule(rule_id=rule_id, state=RuleState.RUNNING, now=NOW)
    fleet = enrol(FleetSimulator(20, model=MODEL))
    for device in fleet:
        answer = ask(device)
        expected = new if bucket(SEED, device.device_id) < 500_000 else old
        assert obey(device, answer, expected)
        assert device.assigned is not None
        assert (device.assigned.version, device.assigned.rollout) == (expected.label, "e-000000000001")
        services.record_reports(
            reports=[(device.device_id, report) for report in device.install(later(20), None)], now=later(30)
        )
    found = {item.arm: item.counts for item in selectors.arm_offers(rule_id=rule_id, now=later(40), grace_s=5)}
    candidates = sum(bucket(SEED, device.device_id) < 500_000 for device in fleet)
    assert (found["candidate"].committed, found["control"].committed) == (candidates, 20 - candidates)
    assert 0 < candidates < 20


def test_arms__patch_is_being_built__the_device_is_counted_before_it_gets_it() -> None:
    old, new = make_version("1"), make_version("2")
    complete(run_rule(old))
    device = one_device()
    obey(device, ask(device), old)
    list(device.install(later(10), None))
    rule_id = make_rule(
        old,
        source="e-000000000001",
        arms=(ArmRecord("candidate", new.id, BucketRange(0, BUCKETS)),),
    )
    services.set_rule(rule_id=rule_id, state=RuleState.RUNNING, now=later(20))
    make_delta(next(iter(old.weights.values())), next(iter(new.weights.values())), ready=False)
    assert decision(ask(device, 21)) is Decision.LATER
    (offers,) = selectors.arm_offers(rule_id=rule_id, now=later(22), grace_s=5)
    assert (offers.arm, offers.counts.offered) == ("candidate", 1)
