"""Words from the server while a download is under way, with the real lanes: halt, supersede, stop."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from device_client.adapters.patching.journal import patch_bytes_taken
from device_client.agent.jobs import ThreadJobs
from device_client.core import machine
from device_client.wire import topics
from device_client.wire.bucketing import BUCKETS, BucketRange
from device_client.wire.bundles import Manifest
from device_client.wire.delta import Codec
from device_client.wire.director import Decision
from device_client.wire.messages import PlanNotice, PlanRule, RuleState
from device_client.wire.states import FailureCode, UpdateState
from tests.device.rig import DEVICE, MODEL, PowerCutError, Rig, retrained, weights
from tests.fakes.update_server import PLAN_KEY, UpdateServerSimulator, sha256

WITHIN_S = 120.0


def live(rig: Rig) -> Rig:
    """The same device with a thread per lane."""
    jobs = ThreadJobs(rig.agent.post)
    rig.agent._jobs = jobs
    rig.agent.deployments._jobs = jobs
    return rig


def until(rig: Rig, so: Callable[[], bool]) -> None:
    """Work in real time until something is so."""
    deadline = time.monotonic() + WITHIN_S
    while not so():
        assert time.monotonic() < deadline, f"waited in vain: {rig.deployment}"
        rig.agent.turn(0.01)
        rig.clock.advance(0.01)


def halt(revision: int) -> bytes:
    return PlanNotice(revision, (PlanRule(RuleState.HALT, "seed", (BucketRange(0, BUCKETS),), 0.0),)).encode()


@pytest.fixture
def downloading(rig: Rig, server: UpdateServerSimulator) -> Manifest:
    """Version 2 comes slowly to a device that runs version 1; some of it is there."""
    server.assign(DEVICE, server.push(MODEL, "1", weights(1.0)), rollout="r-000000000001")
    rig.start()
    rig.run_to(UpdateState.COMMITTED)
    live(rig)
    server.faults.drips_after = 6_000
    second = server.push(MODEL, "2", weights(2.0))
    server.assign(DEVICE, second, rollout="r-000000000002")
    rig.poke()
    until(rig, lambda: _held(rig, second) > 1_000)
    return second


def _held(rig: Rig, manifest: Manifest) -> int:
    part = rig.state / "models" / MODEL / f".staging-{manifest.digest}" / ".part.model.bin"
    return part.stat().st_size if part.exists() else 0


def _installed(rig: Rig) -> Manifest:
    found = rig.slots.holds(MODEL, rig.current)
    assert found is not None
    return found


def test_halt__withdrawn_in_mid_download__stops_and_cleans_up(
    rig: Rig, server: UpdateServerSimulator, downloading: Manifest
) -> None:
    server.withdraw(DEVICE, MODEL, because="the rollout was halted")
    rig.broker.deliver(topics.plan(PLAN_KEY), halt(9))
    until(rig, lambda: rig.deployment.state is UpdateState.HALTED)
    staging = rig.state / "models" / MODEL / f".staging-{downloading.digest}"
    until(rig, lambda: not staging.exists())
    assert rig.infer(1.0) == 2.0
    last = server.reports(DEVICE)[-1]
    assert (last.state, last.active_version, last.detail) == (UpdateState.HALTED, "1", "the rollout was halted")


def test_halt__still_assigned_after_all__goes_on_where_it_stopped(
    rig: Rig, server: UpdateServerSimulator, downloading: Manifest
) -> None:
    rig.broker.deliver(topics.plan(PLAN_KEY), halt(9))
    server.faults.drips_after = None
    until(rig, lambda: rig.deployment.state is UpdateState.COMMITTED)
    assert rig.current == downloading.digest
    ranges = [wanted for path, wanted in server.requests if path.endswith(downloading.weights.sha256)]
    assert ranges[0] is None
    assert ranges[1] is not None


@pytest.mark.parametrize("restarts", [False, True], ids=["running on", "restarted"])
def test_halt__for_later_in_mid_download__bytes_are_kept_and_the_next_assignment_goes_on(
    rig: Rig, server: UpdateServerSimulator, downloading: Manifest, *, restarts: bool
) -> None:
    first = _installed(rig)
    server.assign(DEVICE, first, rollout="r-000000000001", decision=Decision.LATER, because="the rollout is held")
    rig.broker.deliver(topics.plan(PLAN_KEY), halt(9))
    until(rig, lambda: rig.deployment.state is UpdateState.HALTED)
    let_go = threading.Event()
    rig.agent._jobs.submit(MODEL, lambda: let_go.set)
    until(rig, let_go.is_set)  # the download, which was in the same lane, has ended
    held = _held(rig, downloading)
    if restarts:
        rig.restart()
    rig.poke()
    until(rig, lambda: rig.outbox.depth() == 0)
    assert (_held(rig, downloading), rig.infer(1.0)) == (held, 2.0)
    server.faults.drips_after = None
    server.assign(DEVICE, downloading, rollout="r-000000000002")
    rig.poke()
    rig.run_to(UpdateState.COMMITTED, downloading)
    assert server.reports(DEVICE)[-1].resumed_from == held > 1_000


def test_halt__for_later_and_then_reverted__kept_bytes_go(
    rig: Rig, server: UpdateServerSimulator, downloading: Manifest
) -> None:
    first = _installed(rig)
    server.assign(DEVICE, first, rollout="r-000000000001", decision=Decision.LATER)
    rig.broker.deliver(topics.plan(PLAN_KEY), halt(9))
    until(rig, lambda: rig.deployment.state is UpdateState.HALTED)
    assert _held(rig, downloading) > 1_000
    server.assign(DEVICE, first, rollout="r-000000000001")
    rig.poke()
    until(rig, lambda: rig.deployment.state is UpdateState.COMMITTED)
    until(rig, lambda: not any((rig.state / "models" / MODEL).glob(".staging-*")))
    assert rig.infer(1.0) == 2.0


def test_supersede__another_version_in_mid_download__old_bytes_go_new_ones_come(
    rig: Rig, server: UpdateServerSimulator, downloading: Manifest
) -> None:
    third = server.push(MODEL, "3", weights(3.0))
    server.assign(DEVICE, third, rollout="r-000000000003")
    server.faults.drips_after = None
    rig.poke()
    until(rig, lambda: rig.deployment.state is UpdateState.COMMITTED and rig.current == third.digest)
    left = [path.name for path in (rig.state / "models" / MODEL).iterdir() if path.name.startswith(".")]
    until(rig, lambda: not any((rig.state / "models" / MODEL).glob(".staging-*")))
    assert f".staging-{third.digest}" not in left
    assert rig.infer(1.0) == 4.0
    assert ("2", "superseded") in {(report.version, report.state.value) for report in server.reports(DEVICE)}


def test_stop__in_mid_download__ends_soon_and_goes_on_at_the_next_start(
    rig: Rig, server: UpdateServerSimulator, downloading: Manifest
) -> None:
    began = time.monotonic()
    rig.agent.close()
    assert time.monotonic() - began < 20.0, "the rest would take more than a minute"
    held = _held(rig, downloading)
    assert held > 1_000
    server.faults.drips_after = None
    rig.restart()
    rig.run_to(UpdateState.COMMITTED, downloading)
    assert server.reports(DEVICE)[-1].resumed_from == held


def test_crash__of_a_process_that_served_a_version__is_told_at_the_next_start_and_once(
    rig: Rig, server: UpdateServerSimulator
) -> None:
    server.assign(DEVICE, server.push(MODEL, "1", weights(1.0)), rollout="r-000000000001")
    rig.start()
    rig.run_to(UpdateState.COMMITTED)
    rig.restart()
    rig.run_until(lambda: rig.outbox.depth() == 0)
    assert _crashes(server) == [("1", 1)]
    rig.agent.close()
    rig.boot()
    rig.start()
    rig.run_until(lambda: rig.outbox.depth() == 0)
    assert _crashes(server) == [("1", 1)]


def test_crash__as_soon_as_the_version_serves__is_told_all_the_same_and_the_version_goes(
    rig: Rig, server: UpdateServerSimulator
) -> None:
    first, second = (server.push(MODEL, label, weights(float(label))) for label in ("1", "2"))
    server.assign(DEVICE, first, rollout="r-000000000001")
    rig.start()
    rig.run_to(UpdateState.COMMITTED)
    server.assign(DEVICE, second, rollout="r-000000000002")
    rig.poke()
    rig.run_to(UpdateState.COMMITTED, second)

    def die() -> None:
        rig.cut_power(0.0)

    for _ in range(machine.MAX_RESTARTS):
        rig.unplug()
        rig.boot()
        rig.model.on_update(lambda _old, _new: die())
        with pytest.raises(PowerCutError):
            rig.agent.recover()
        rig.mains.off = False
    rig.restart()
    rig.run_until(lambda: rig.deployment.state is UpdateState.ROLLED_BACK)
    assert rig.infer(1.0) == 2.0
    rig.run_until(lambda: rig.outbox.depth() == 0)
    # The fourth brought the version down; it is told of as one of version 2, too.
    assert _crashes(server) == [("2", 1)] * (machine.MAX_RESTARTS + 1)
    last = server.reports(DEVICE)[-1]
    assert (last.version, last.failure, last.active_version) == ("2", FailureCode.CRASH_LOOP, "1")


def test_crash__now_and_then__the_version_stays(rig: Rig, server: UpdateServerSimulator) -> None:
    first, second = (server.push(MODEL, label, weights(float(label))) for label in ("1", "2"))
    for number, manifest in ((1, first), (2, second)):
        server.assign(DEVICE, manifest, rollout=f"r-00000000000{number}")
        rig.start() if number == 1 else rig.poke()
        rig.run_to(UpdateState.COMMITTED, manifest)
    for _ in range(3 * machine.MAX_RESTARTS):
        rig.restart()
        rig.clock.advance(machine.STEADY_S)
        rig.settle()
    assert (rig.deployment.state, rig.deployment.restarts, rig.infer(1.0)) == (UpdateState.COMMITTED, 0, 3.0)


def _crashes(server: UpdateServerSimulator) -> list[tuple[str, int]]:
    return [(window.version, window.crashes) for window in server.windows[DEVICE].values() if window.crashes]


# ---------------------------------------------------------------- a patch that is applied while it comes


@pytest.fixture
def patching(server: UpdateServerSimulator, state_dir: Path) -> Iterator[tuple[Rig, Manifest]]:
    """A patch comes slowly to a device that runs version 1, and a child applies it; some of it is done."""
    rig = Rig(server, state_dir / "patching", codecs=(Codec.TENSOR1,), real_patcher=True)
    first, second = (server.push(MODEL, label, retrained(float(label))) for label in ("1", "2"))
    server.assign(DEVICE, first, rollout="r-000000000001")
    rig.start()
    rig.run_to(UpdateState.COMMITTED)
    live(rig)
    server.build_delta(first, second, Codec.TENSOR1)
    server.faults.drips_after = len(next(iter(server.patches.values()))) // 2
    server.assign(DEVICE, second, rollout="r-000000000002")
    rig.poke()
    until(rig, lambda: _applied(rig, second) > 0)
    yield rig, second
    rig.unplug()


def _applied(rig: Rig, manifest: Manifest) -> int:
    return patch_bytes_taken(rig.state / "models" / MODEL / f".staging-{manifest.digest}" / ".stream.model.bin")


def test_halt__while_a_patch_is_applied__stops_and_cleans_up(
    server: UpdateServerSimulator, patching: tuple[Rig, Manifest]
) -> None:
    rig, second = patching
    server.withdraw(DEVICE, MODEL, because="the rollout was halted")
    rig.broker.deliver(topics.plan(PLAN_KEY), halt(9))
    until(rig, lambda: rig.deployment.state is UpdateState.HALTED)
    until(rig, lambda: not (rig.state / "models" / MODEL / f".staging-{second.digest}").exists())
    assert rig.infer(1.0) == 2.0


def test_halt__while_a_patch_is_applied_but_still_assigned__goes_on_where_it_stopped(
    server: UpdateServerSimulator, patching: tuple[Rig, Manifest]
) -> None:
    rig, second = patching
    rig.broker.deliver(topics.plan(PLAN_KEY), halt(9))
    server.faults.drips_after = None
    until(rig, lambda: rig.deployment.state is UpdateState.COMMITTED)
    assert rig.current == second.digest
    assert server.reports(DEVICE)[-1].codec == "tensor1"
    patch = next(iter(server.patches.values()))
    ranges = [wanted for path, wanted in server.requests if path.endswith(sha256(patch))]
    assert ranges[0] is None
    assert ranges[1] is not None
