"""Updates from the first install to local rollback, over really signed repositories and real HTTP."""

import numpy as np
import pytest

from device_client.core.errors import NotReadyError
from device_client.wire import topics
from device_client.wire.bucketing import BUCKETS, BucketRange
from device_client.wire.bundles import FileRole
from device_client.wire.director import Decision, DevicePolicy
from device_client.wire.messages import CheckReason, PlanNotice, PlanRule, RuleState
from device_client.wire.states import FailureCode, Transport, UpdateState
from tests.device.rig import DEVICE, MODEL, PowerCutError, Rig, golden, weights
from tests.fakes.update_server import PLAN_KEY, QUICK, UpdateServerSimulator, retold, sha256


def test_update__first_install__committed_and_attested(rig: Rig, server: UpdateServerSimulator) -> None:
    manifest = server.push(MODEL, "1", weights(1.0), extra={"golden.json": golden(1.0)})
    server.assign(DEVICE, manifest)
    rig.start()
    with pytest.raises(NotReadyError):
        rig.model.lease()
    rig.run_to(UpdateState.COMMITTED, manifest)
    assert rig.infer(1.0) == 2.0
    reports = server.reports(DEVICE)
    assert [report.state.value for report in reports] == [
        "assigned",
        "downloading",
        "staged",
        "probation",
        "committed",
    ]
    assert {report.active_digest for report in reports[:3]} == {""}
    assert {report.active_digest for report in reports[3:]} == {manifest.digest}
    assert reports[-1].transport is Transport.FULL
    assert reports[-1].bytes_received == reports[-1].bytes_total == manifest.content_bytes + len(manifest.encode())


def test_update__patch_offered__fetched_as_delta_and_equal(rig: Rig, server: UpdateServerSimulator) -> None:
    first = server.push(MODEL, "1", weights(1.0))
    server.assign(DEVICE, first)
    rig.start()
    rig.run_to(UpdateState.COMMITTED, first)
    second = server.push(MODEL, "2", weights(2.0))
    patch = server.build_delta(first, second)
    server.assign(DEVICE, second, rollout="r-000000000002")
    rig.poke()
    rig.run_to(UpdateState.COMMITTED, second)
    last = server.reports(DEVICE)[-1]
    assert (last.transport, last.bytes_received) == (Transport.DELTA, len(second.encode()) + len(patch))
    assert rig.infer(1.0) == 3.0
    assert rig.slots.links(MODEL).previous == first.digest


def test_update__patch_corrupt__full_file_instead(rig: Rig, server: UpdateServerSimulator) -> None:
    first = server.push(MODEL, "1", weights(1.0))
    server.assign(DEVICE, first)
    rig.start()
    rig.run_to(UpdateState.COMMITTED, first)
    second = server.push(MODEL, "2", weights(2.0))
    server.offer_patch(first.weights.sha256, second.weights.sha256, b"BSDIFF40 but not really a patch")
    server.assign(DEVICE, second, rollout="r-000000000002")
    rig.poke()
    rig.run_to(UpdateState.COMMITTED, second)
    assert server.reports(DEVICE)[-1].transport is Transport.FULL
    assert rig.infer(1.0) == 3.0


def test_update__golden_samples_do_not_match__old_version_stays(rig: Rig, server: UpdateServerSimulator) -> None:
    first = server.push(MODEL, "1", weights(1.0), extra={"golden.json": golden(1.0)})
    server.assign(DEVICE, first)
    rig.start()
    rig.run_to(UpdateState.COMMITTED, first)
    bad = server.push(MODEL, "2", weights(2.0), extra={"golden.json": golden(7.0)})
    server.assign(DEVICE, bad, rollout="r-000000000002")
    rig.poke()
    rig.run_to(UpdateState.ROLLED_BACK, bad)
    last = server.reports(DEVICE)[-1]
    assert (last.failure, last.active_digest) == (FailureCode.SELF_TEST, first.digest)
    assert rig.infer(1.0) == 2.0
    fetched = len(server.requests)
    rig.poke()
    assert rig.deployment.state is UpdateState.ROLLED_BACK, "the same digest under the same rollout is not tried again"
    assert len(server.requests) == fetched + 2, "only the image repository was looked at"


@pytest.mark.parametrize(("kind", "failure"), [("unloadable", FailureCode.LOAD), ("failing", FailureCode.SELF_TEST)])
def test_update__model_does_not_work__refused_before_the_swap(
    rig: Rig, server: UpdateServerSimulator, kind: str, failure: FailureCode
) -> None:
    first = server.push(MODEL, "1", weights(1.0))
    server.assign(DEVICE, first)
    rig.start()
    rig.run_to(UpdateState.COMMITTED, first)
    bad = server.push(MODEL, "2", weights(2.0, kind=kind), extra={"golden.json": golden(2.0)})
    server.assign(DEVICE, bad, rollout="r-000000000002")
    rig.poke()
    rig.run_to(UpdateState.ROLLED_BACK, bad)
    assert server.reports(DEVICE)[-1].failure in {failure, FailureCode.INTERNAL}
    assert "probation" not in {report.state.value for report in server.reports(DEVICE) if report.version == "2"}
    assert rig.infer(1.0) == 2.0


def test_probation__nan_in_the_field__rolled_back_without_network(rig: Rig, server: UpdateServerSimulator) -> None:
    first = server.push(MODEL, "1", weights(1.0))
    server.assign(DEVICE, first)
    rig.start()
    rig.run_to(UpdateState.COMMITTED, first)
    bad = server.push(MODEL, "2", weights(2.0, kind="nan"))
    server.assign(DEVICE, bad, rollout="r-000000000002")
    rig.poke()
    rig.run_until(lambda: rig.deployment.state is UpdateState.PROBATION)
    rig.broker.disconnect()
    for _ in range(5):
        rig.infer()
    rig.run_until(lambda: rig.deployment.state is UpdateState.ROLLED_BACK)
    assert rig.infer(1.0) == 2.0
    rig.broker.connect()
    rig.run_until(lambda: rig.outbox.depth() == 0)
    last = server.reports(DEVICE)[-1]
    assert (last.failure, last.active_digest) == (FailureCode.PROBATION, first.digest)
    assert rig.slots.holds(MODEL, bad.digest) is None, "what failed is collected"


def test_probation__application_is_silent__passes_by_time(rig: Rig, server: UpdateServerSimulator) -> None:
    manifest = server.push(MODEL, "1", weights(1.0))
    server.assign(DEVICE, manifest, policy=DevicePolicy(probation_s=10.0, probation_inferences=20))
    rig.start()
    rig.run_until(lambda: rig.deployment.state is UpdateState.PROBATION)
    began = rig.clock.monotonic()
    rig.run_to(UpdateState.COMMITTED, manifest)
    assert 10.0 <= rig.clock.monotonic() - began <= 12.0


def test_revert__previous_slot_retained__no_download(rig: Rig, server: UpdateServerSimulator) -> None:
    first = server.push(MODEL, "1", weights(1.0))
    second = server.push(MODEL, "2", weights(2.0))
    server.assign(DEVICE, first)
    rig.start()
    rig.run_to(UpdateState.COMMITTED, first)
    server.assign(DEVICE, second, rollout="r-000000000002")
    rig.poke()
    rig.run_to(UpdateState.COMMITTED, second)
    blobs = sum(path.startswith("/device") for path, _ in server.requests)
    server.assign(DEVICE, first, rollout="")
    rig.poke()
    rig.run_to(UpdateState.COMMITTED, first)
    assert sum(path.startswith("/device") for path, _ in server.requests) == blobs
    last = server.reports(DEVICE)[-1]
    assert (last.transport, last.active_digest, last.bytes_received) == (Transport.NONE, first.digest, 0)


def test_assignment__same_digest_under_new_revision__relabelled_and_reported(
    rig: Rig, server: UpdateServerSimulator
) -> None:
    manifest = server.push(MODEL, "1", weights(1.0))
    told = server.assign(DEVICE, manifest, rollout="r-000000000001")
    rig.start()
    rig.run_to(UpdateState.COMMITTED, manifest)
    server.told[DEVICE, MODEL] = retold(told, rollout="r-000000000009", revision=9, parameters={"route_below": "0.4"})
    rig.poke()
    rig.run_until(lambda: server.reports(DEVICE)[-1].revision == 9)
    last = server.reports(DEVICE)[-1]
    assert (last.state, last.rollout, last.transport) == (UpdateState.COMMITTED, "r-000000000009", Transport.NONE)
    assert rig.model.param("route_below", 0.6) == 0.4
    assert rig.model.serving is not None
    assert rig.model.serving.revision == 9


def test_download__connection_cut__resumed_by_range(rig: Rig, server: UpdateServerSimulator) -> None:
    manifest = server.push(MODEL, "1", weights(1.0))
    server.assign(DEVICE, manifest)
    server.faults.cut_after_bytes, server.faults.cuts_left = 5_000, 2
    rig.start()
    rig.run_to(UpdateState.COMMITTED, manifest)
    ranges = [wanted for path, wanted in server.requests if path.endswith(manifest.weights.sha256)]
    assert ranges == [None, "bytes=5000-", "bytes=10000-"]
    assert server.reports(DEVICE)[-1].bytes_received == manifest.content_bytes + len(manifest.encode())


def test_download__killed_and_restarted__resumed_and_reported(rig: Rig, server: UpdateServerSimulator) -> None:
    manifest = server.push(MODEL, "1", weights(1.0))
    server.assign(DEVICE, manifest)
    server.faults.cut_after_bytes, server.faults.cuts_left = 5_000, 1
    rig.start()
    rig.clock.asleep = rig.cut_power  # it waits because the first attempt has failed
    with pytest.raises(PowerCutError):
        rig.settle()
    rig.clock.asleep = rig.clock.advance
    rig.restart()
    rig.run_to(UpdateState.COMMITTED, manifest)
    last = server.reports(DEVICE)[-1]
    assert last.resumed_from == 5_000
    assert last.bytes_received == manifest.content_bytes + len(manifest.encode())


def test_download__server_ignores_ranges__starts_over(rig: Rig, server: UpdateServerSimulator) -> None:
    manifest = server.push(MODEL, "1", weights(1.0))
    server.assign(DEVICE, manifest)
    server.faults.cut_after_bytes, server.faults.cuts_left, server.faults.ignore_ranges = 5_000, 1, True
    rig.start()
    rig.run_to(UpdateState.COMMITTED, manifest)
    assert rig.infer(1.0) == 2.0


def test_download__ticket_refused__asks_the_director_again(rig: Rig, server: UpdateServerSimulator) -> None:
    manifest = server.push(MODEL, "1", weights(1.0))
    server.assign(DEVICE, manifest)
    server.faults.status = 403
    rig.start()
    rig.settle()
    assert rig.deployment.state is UpdateState.DOWNLOADING
    server.faults.status = None
    rig.run_to(UpdateState.COMMITTED, manifest)
    assert [check.reason for check in server.checks[DEVICE]][:2] == [CheckReason.START, CheckReason.RETRY]


def test_download__deadline_passes__given_up_and_not_denied(rig: Rig, server: UpdateServerSimulator) -> None:
    manifest = server.push(MODEL, "1", weights(1.0))
    server.assign(DEVICE, manifest, policy=DevicePolicy(download_deadline_s=20.0, probation_s=1.0))
    server.faults.status = 503
    rig.start()
    rig.run_to(UpdateState.ROLLED_BACK, manifest)
    assert server.reports(DEVICE)[-1].failure is FailureCode.DOWNLOAD
    assert rig.journal.denied(MODEL) == ()
    server.faults.status = None
    rig.poke()
    rig.run_to(UpdateState.COMMITTED, manifest)


def test_blob__altered_in_the_store__refused_and_old_version_serves(rig: Rig, server: UpdateServerSimulator) -> None:
    first = server.push(MODEL, "1", weights(1.0))
    server.assign(DEVICE, first)
    rig.start()
    rig.run_to(UpdateState.COMMITTED, first)
    second = server.push(MODEL, "2", weights(2.0))
    body = bytearray(server.blobs[second.weights.sha256])
    body[100] ^= 1
    server.faults.altered[second.weights.sha256] = bytes(body)
    server.assign(DEVICE, second, rollout="r-000000000002")
    rig.poke()
    rig.run_to(UpdateState.ROLLED_BACK, second)
    last = server.reports(DEVICE)[-1]
    assert (last.failure, last.active_digest) == (FailureCode.DIGEST_MISMATCH, first.digest)
    assert rig.infer(1.0) == 2.0
    assert not list((rig.state / "models" / MODEL).glob(".staging-*"))


def test_assignment__withdrawn_while_downloading__halted_and_cleaned_up(
    rig: Rig, server: UpdateServerSimulator
) -> None:
    manifest = server.push(MODEL, "1", weights(1.0))
    server.assign(DEVICE, manifest)
    server.faults.status = 403
    rig.start()
    rig.settle()
    assert rig.deployment.state is UpdateState.DOWNLOADING
    server.withdraw(DEVICE, MODEL, decision=Decision.NOTHING)
    rig.poke()
    rig.run_to(UpdateState.HALTED)
    assert server.reports(DEVICE)[-1].state is UpdateState.HALTED
    assert not list((rig.state / "models" / MODEL).glob(".staging-*"))


def test_assignment__superseded_while_downloading__new_one_installed(rig: Rig, server: UpdateServerSimulator) -> None:
    first = server.push(MODEL, "1", weights(1.0))
    second = server.push(MODEL, "2", weights(2.0))
    server.assign(DEVICE, first)
    server.faults.status = 403
    rig.start()
    rig.settle()
    server.faults.status = None
    server.assign(DEVICE, second, rollout="r-000000000002")
    rig.poke()
    rig.run_to(UpdateState.COMMITTED, second)
    states = [(report.version, report.state.value) for report in server.reports(DEVICE)]
    assert ("1", "superseded") in states
    assert not list((rig.state / "models" / MODEL).glob(".staging-*"))


def test_plan_notice__device_in_range__checks_once_per_revision(rig: Rig, server: UpdateServerSimulator) -> None:
    manifest = server.push(MODEL, "1", weights(1.0))
    server.assign(DEVICE, manifest)
    rig.start()
    rig.run_to(UpdateState.COMMITTED, manifest)
    asked = len(server.checks[DEVICE])
    everyone = (BucketRange(0, BUCKETS),)
    notice = PlanNotice(7, (PlanRule(RuleState.RUN, "seed", everyone, 10.0),)).encode()
    rig.broker.deliver(topics.plan(PLAN_KEY), notice)
    rig.run_until(lambda: len(server.checks[DEVICE]) == asked + 1, within_s=10.0)
    rig.broker.deliver(topics.plan(PLAN_KEY), notice)
    rig.clock.advance(30.0)
    rig.settle()
    assert len(server.checks[DEVICE]) == asked + 1
    nobody = PlanNotice(8, (PlanRule(RuleState.RUN, "seed", (BucketRange(0, 0),), 0.0),)).encode()
    rig.broker.deliver(topics.plan(PLAN_KEY), nobody)
    rig.clock.advance(30.0)
    rig.settle()
    assert len(server.checks[DEVICE]) == asked + 1


def test_later__answered__asks_again_at_that_time(rig: Rig, server: UpdateServerSimulator) -> None:
    manifest = server.push(MODEL, "1", weights(1.0))
    server.withdraw(
        DEVICE, MODEL, decision=Decision.LATER, until=int(rig.clock.now().timestamp()) + 40, because="paced"
    )
    rig.start()
    rig.settle()
    server.assign(DEVICE, manifest)
    rig.clock.advance(30.0)
    rig.settle()
    assert len(server.checks[DEVICE]) == 1
    rig.run_to(UpdateState.COMMITTED, manifest, within_s=30.0)


def test_check__no_answer__asked_again_with_back_off(rig: Rig, server: UpdateServerSimulator) -> None:
    server.answers = False
    rig.start()
    rig.clock.advance(0.1)
    rig.settle()
    for _ in range(300):
        rig.clock.advance(1.0)
        rig.settle()
    asked = len(server.checks[DEVICE])
    assert 4 <= asked <= 12
    assert len({check.nonce for check in server.checks[DEVICE]}) == asked


def test_offline_start__slot_installed__serves_at_once(rig: Rig, server: UpdateServerSimulator) -> None:
    manifest = server.push(MODEL, "1", weights(1.0))
    server.assign(DEVICE, manifest)
    rig.start()
    rig.run_to(UpdateState.COMMITTED, manifest)
    rig.unplug()
    rig.boot()
    rig.broker.reachable = False
    rig.start()
    assert rig.infer(1.0) == 2.0


def test_recall__by_a_person__previous_version_and_reported(rig: Rig, server: UpdateServerSimulator) -> None:
    first, second = (server.push(MODEL, label, weights(float(label))) for label in ("1", "2"))
    server.assign(DEVICE, first)
    rig.start()
    rig.run_to(UpdateState.COMMITTED, first)
    server.assign(DEVICE, second, rollout="r-000000000002")
    rig.poke()
    rig.run_to(UpdateState.COMMITTED, second)
    rig.journal.request(MODEL)
    rig.run_to(UpdateState.ROLLED_BACK, second)
    last = server.reports(DEVICE)[-1]
    assert (last.failure, last.active_digest) == (FailureCode.OPERATOR, first.digest)
    assert rig.infer(1.0) == 2.0
    rig.poke()
    assert rig.current == first.digest, "the rollout does not undo what a person decided"


def test_slot__damaged_on_disk__previous_serves_and_it_is_fetched_again(
    rig: Rig, server: UpdateServerSimulator
) -> None:
    first, second = (server.push(MODEL, label, weights(float(label))) for label in ("1", "2"))
    server.assign(DEVICE, first)
    rig.start()
    rig.run_to(UpdateState.COMMITTED, first)
    server.assign(DEVICE, second, rollout="r-000000000002")
    rig.poke()
    rig.run_to(UpdateState.COMMITTED, second)
    file = rig.state / "models" / MODEL / second.digest / "model.bin"
    file.chmod(0o600)
    file.write_bytes(b"rotten")
    rig.restart()
    rig.settle()
    rig.run_to(UpdateState.COMMITTED, second)
    assert rig.infer(1.0) == 3.0
    states = [(report.version, report.state.value, report.failure) for report in server.reports(DEVICE)]
    assert ("2", "rolled_back", FailureCode.LOAD) in states
    assert sha256(file.read_bytes()) == second.weights.sha256


def test_vitals__application_works__windows_and_labels_arrive_once(rig: Rig, server: UpdateServerSimulator) -> None:
    manifest = server.push(MODEL, "1", weights(1.0), extra={"labels.txt": (FileRole.LABELS, b"one\nfive\n")})
    server.assign(DEVICE, manifest, policy=QUICK)
    rig.start()
    rig.run_to(UpdateState.COMMITTED, manifest)
    server.acknowledges = False
    for _ in range(10):
        with rig.model.lease() as lease:
            result = lease.infer(x=np.array([[1.0, 5.0]], dtype=np.float32))
        rig.model.feedback(result.id, label="five")
    rig.clock.advance(2.0)
    rig.settle()
    server.acknowledges = True
    rig.clock.advance(30.0)
    rig.run_until(lambda: rig.outbox.depth() == 0)
    windows = [window for window in server.windows[DEVICE].values() if window.version == "1"]
    assert sum(window.n for window in windows) == 10
    assert {window.digest for window in windows} == {manifest.digest}
    labels = [label for batch in server.labels[DEVICE].values() for label in batch.labels]
    assert [label.correct for label in labels] == [True] * 10
