"""Candidates beside the champion: compared, within a budget, and whatever they do, the champion serves on."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import pytest

from device_client import runtimes
from device_client.adapters import shadow as adapter
from device_client.adapters.candidate import hangs
from device_client.adapters.shadow import ChildShadow, ChildShadows
from device_client.core.keys import pairs_key
from device_client.ports import Offered, OpenSlot, Serving, ShadowAnswer
from device_client.runtimes import shadow_child
from device_client.sdk.host import ModelHost
from device_client.sdk.model import ServedModel
from device_client.sdk.shadow import ShadowDesk
from device_client.wire.bundles import BundleFile, FileRole, Manifest
from device_client.wire.errors import MalformedMessageError
from device_client.wire.fields import Fields
from device_client.wire.names import VariantName
from device_client.wire.shadow import ShadowBudget, ShadowTotals
from device_client.wire.states import UpdateState
from tests.cli.conftest import onnx_bytes
from tests.device.rig import DEVICE, MODEL, FakeRuntime, HandClock, Rig, weights
from tests.fakes.update_server import UpdateServerSimulator, sha256

PLENTY = ShadowBudget(inference_share=1.0, time_share=1.0)
LONG_S = 60.0
IMAGE = np.random.default_rng(3).normal(size=(1, 64)).astype(np.float32)


def onnx_slot(version: str, content: bytes) -> OpenSlot:
    file = BundleFile("model.onnx", FileRole.WEIGHTS, sha256(content), len(content))
    manifest = Manifest(MODEL, version, VariantName("onnx", "fp32", "any"), "onnx", (file,))
    return OpenSlot(manifest, manifest.digest, {"model.onnx": content})


def fake_slot(version: str) -> OpenSlot:
    content = weights(float(version))
    file = BundleFile("model.bin", FileRole.WEIGHTS, sha256(content), len(content))
    manifest = Manifest(MODEL, version, VariantName("fake", "fp32", "any"), "fake", (file,))
    return OpenSlot(manifest, manifest.digest, {"model.bin": content})


def await_(so: Callable[[], bool], within_s: float = LONG_S) -> None:
    """Wait for the condition itself."""
    until = time.monotonic() + within_s
    while not so():
        assert time.monotonic() < until, "it did not come about"
        time.sleep(0.02)


class Heard:
    """The answers of a run."""

    def __init__(self) -> None:
        self.answers: list[ShadowAnswer] = []

    def __call__(self, answer: ShadowAnswer) -> None:
        self.answers.append(answer)


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def start(heard: Heard) -> Iterator[Callable[..., ChildShadow]]:
    """Starts runs, and ends them."""
    made: list[ChildShadow] = []

    def begin(
        content: bytes, budget: ShadowBudget = PLENTY, free_ram: Callable[[], int | None] = lambda: None, **how: Any
    ) -> ChildShadow:
        # On a machine that is busy with other tests, one that gives way is not reached for minutes.
        shadows = ChildShadows(free_ram, **{"gives_way": False, **how})
        made.append(shadows.start(onnx_slot("2", content), budget, heard))
        return made[-1]

    yield begin
    for run in made:
        run.stop()
    for run in made:
        await_(lambda run=run: run.pid is None)  # type: ignore[misc]


# ---------------------------------------------------------------- the process


def test_child__real_onnx__answers_as_the_model_does_itself(start: Callable[..., ChildShadow], heard: Heard) -> None:
    content = onnx_bytes(2)
    run = start(content)
    slot = onnx_slot("2", content)
    own = runtimes.installed(1)["onnx"].load(content, slot.manifest)
    expected = int(next(iter(own.infer({"image": IMAGE}).values())).argmax())
    given = IMAGE.copy()
    assert run.offer({"image": given}, "n1") is Offered.CHOSEN
    given[:] = np.nan  # the application's buffer is its own again
    await_(lambda: bool(heard.answers))
    answer = heard.answers[0]
    assert (answer.nonce, answer.top, answer.failed, answer.is_nan) == ("n1", expected, False, False)
    assert answer.latency_ms is None or answer.latency_ms > 0


def test_child__gives_way__takes_the_time_that_others_leave(start: Callable[..., ChildShadow]) -> None:
    run = start(onnx_bytes(2), gives_way=True)
    await_(lambda: run.pid is not None and os.sched_getscheduler(run.pid) == os.SCHED_IDLE, within_s=5 * LONG_S)


def test_child__killed_and_hung__counts_as_failed_and_comes_back(
    start: Callable[..., ChildShadow], heard: Heard
) -> None:
    run = start(onnx_bytes(2), answers_within_s=10.0)
    run.offer({"image": IMAGE}, "well")
    await_(lambda: len(heard.answers) == 1)
    first = run.pid
    assert first is not None
    os.kill(first, signal.SIGSTOP)
    run.offer({"image": IMAGE}, "hung")
    await_(lambda: len(heard.answers) == 2)
    assert heard.answers[1].failed
    await_(lambda: run.pid not in (None, first))
    run.offer({"image": IMAGE}, "again")
    await_(lambda: len(heard.answers) == 3)
    assert not heard.answers[2].failed
    killed = run.pid
    assert killed is not None
    os.kill(killed, signal.SIGKILL)
    run.offer({"image": IMAGE}, "killed")
    await_(lambda: len(heard.answers) == 4)
    assert heard.answers[3].skipped  # as a system does that is short of memory: nothing is wrong with the candidate


@pytest.mark.parametrize(
    ("state", "cpu_s", "expected"),
    [
        ("R", 0.5, "starved"),
        ("D", 0.5, "starved"),
        ("R", 20.0, "hung"),
        ("S", 0.5, "hung"),
        ("T", 0.0, "hung"),
        ("", 0.0, "hung"),
    ],
    ids=["starved", "slow disk", "computes for ever", "waits for nothing", "stopped", "unknown"],
)
def test_child__silent_for_too_long__hangs_unless_the_machine_starves_it(
    state: str, cpu_s: float, expected: str
) -> None:
    assert hangs(state, cpu_s, 20.0) is (expected == "hung")


@pytest.mark.parametrize(
    ("before", "after", "own_ms"),
    [(1.0, 1.03, 20.0), (1.0, 1.0, 50.0), (None, 1.0, None), (1.0, 2.0, 0.0)],
    ids=["waited", "undisturbed", "not told", "more than all"],
)
def test_child__latency__is_without_what_others_took(
    before: float | None, after: float | None, own_ms: float | None
) -> None:
    found = shadow_child._own_ms(0.05, before, after)
    assert found == (None if own_ms is None else pytest.approx(own_ms))


def test_child__inputs_that_are_no_arrays__are_given_to_the_candidate_as_they_were(
    start: Callable[..., ChildShadow], heard: Heard
) -> None:
    run = start(onnx_bytes(2))
    assert run.offer({"image": IMAGE.tolist()}, "list") is Offered.CHOSEN
    await_(lambda: len(heard.answers) == 1)
    assert not heard.answers[0].failed  # an array of a list would have had another type


@pytest.mark.parametrize(
    "given", [np.array([object()]), [[1.0], [1.0, 2.0]], np.zeros((3, 2**20))], ids=["objects", "ragged", "large"]
)
def test_child__inputs_that_cannot_be_handed_over__are_skipped(start: Callable[..., ChildShadow], given: Any) -> None:
    run = start(onnx_bytes(2))
    assert run.offer({"image": given}, "n") is Offered.SKIPPED


def test_offer__whose_thread_is_stuck__waits_for_nothing_and_keeps_little(start: Callable[..., ChildShadow]) -> None:
    stuck = threading.Event()

    def free_ram() -> None:
        stuck.wait()

    run = start(onnx_bytes(2), PLENTY, free_ram)
    offered = [run.offer({"image": IMAGE}, str(number)) for number in range(100)]
    stuck.set()
    assert offered == [Offered.CHOSEN] * adapter.WAITING + [Offered.SKIPPED] * (100 - adapter.WAITING)


def test_child__does_not_load__is_given_up_and_the_rest_is_passed(
    start: Callable[..., ChildShadow], heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter, "PAUSE_S", 0.01)
    run = start(b"not a model")
    await_(lambda: run.offer({"image": IMAGE}, "n") is Offered.PASSED)
    assert all(answer.skipped for answer in heard.answers)


def test_child__inputs_that_do_not_fit__fail_and_the_next_one_is_answered(
    start: Callable[..., ChildShadow], heard: Heard
) -> None:
    run = start(onnx_bytes(2))
    run.offer({"picture": IMAGE}, "wrong")
    await_(lambda: len(heard.answers) == 1)
    run.offer({"image": IMAGE}, "right")
    await_(lambda: len(heard.answers) == 2)
    assert [answer.failed for answer in heard.answers] == [True, False]


def test_budget__share_of_inferences__is_kept_exactly(start: Callable[..., ChildShadow]) -> None:
    run = start(onnx_bytes(2), ShadowBudget(inference_share=0.25, time_share=1.0))
    offered = [run.offer({"image": IMAGE}, str(number)) for number in range(100)]
    assert offered.count(Offered.PASSED) == 75
    assert offered.count(Offered.SKIPPED) > 0  # a queue of four takes no hundred at once


def test_budget__share_of_time__is_waited_off(start: Callable[..., ChildShadow], heard: Heard) -> None:
    """At a fiftieth of the time, an inference of so many milliseconds keeps it quiet for fifty times as long."""
    share = 0.02
    run = start(onnx_bytes(2, hidden=5_000), ShadowBudget(inference_share=1.0, time_share=share))
    for number in range(4):
        run.offer({"image": IMAGE}, str(number))
    await_(lambda: run._used_s > 0)
    used = run._used_s
    await_(lambda: len(heard.answers) >= 2, within_s=2 * LONG_S)
    assert time.monotonic() - run._since >= used / share


def test_budget__memory_of_the_device_is_short__nothing_is_started_then_it_is(
    start: Callable[..., ChildShadow], heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter, "SHORT_PAUSE_S", 0.05)
    free = [1_000_000]
    run = start(onnx_bytes(2), PLENTY, lambda: free[0])
    assert run.offer({"image": IMAGE}, "n1") is Offered.CHOSEN
    await_(lambda: bool(heard.answers))
    assert heard.answers[0].skipped
    assert run.pid is None
    free[0] = 2**33
    await_(lambda: run.pid is not None)
    free[0] = 1_000_000  # short again: it goes first
    await_(lambda: run.pid is None)


def test_budget__takes_more_memory_than_it_may__is_given_up(start: Callable[..., ChildShadow]) -> None:
    run = start(onnx_bytes(2), ShadowBudget(1.0, 1.0, ram_bytes=1_000_000))
    await_(lambda: run.offer({"image": IMAGE}, "n") is Offered.PASSED)


# ---------------------------------------------------------------- the pairs


class HandRuns:
    """`ports.ShadowRuns` whose answers a test gives by hand."""

    def __init__(self) -> None:
        self.offered: list[str] = []
        self.stopped: list[str] = []
        self.answered: Callable[[ShadowAnswer], None] = lambda _: None

    def start(self, slot: OpenSlot, budget: ShadowBudget, answered: Callable[[ShadowAnswer], None]) -> "HandRun":
        self.answered = answered
        return HandRun(self, slot.manifest.version)


class HandRun:
    def __init__(self, runs: HandRuns, version: str) -> None:
        self._runs, self._version = runs, version

    def offer(self, inputs: Mapping[str, Any], nonce: str) -> Offered:
        self._runs.offered.append(nonce)
        return Offered.CHOSEN

    def stop(self) -> None:
        self._runs.stopped.append(self._version)


class Stage:
    """A host that serves version 1 with version 2 in its shadow."""

    def __init__(self) -> None:
        self.clock = HandClock()
        self.runs = HandRuns()
        self.host = ModelHost(device_id=DEVICE, runtimes={"fake": FakeRuntime()}, clock=self.clock, shadows=self.runs)
        self.model = ServedModel(self.host, MODEL, lambda: None)
        self.serve("1")
        self.host.shadow(MODEL, fake_slot("2"), PLENTY)

    def serve(self, version: str) -> None:
        slot = fake_slot(version)
        self.host.prepare(slot)
        self.host.switch(Serving(MODEL, version, slot.digest, 1))

    def infer(self) -> Any:
        """Three scores, of which the third is the highest: the champion says "2"."""
        with self.model.lease() as lease:
            return lease.infer(x=np.array([[0.0, 1.0, 2.0]], dtype=np.float32))

    def totals(self) -> ShadowTotals | None:
        taken = [window.shadow for window, _ in self.host.take_windows(everything=True) if window.shadow is not None]
        return taken[0] if taken else None


def test_pairs__labels_before_and_after_the_answer__each_is_counted_once() -> None:
    stage = Stage()
    results = [stage.infer() for _ in range(6)]
    for result, label in zip(results[:3], ("2", "1", "0"), strict=True):
        stage.model.feedback(result.id, label=label)  # before the candidate has answered
    for nonce, top in zip(stage.runs.offered, (2, 1, 1, 2, 1, 1), strict=True):
        stage.runs.answered(ShadowAnswer(nonce, top=top, latency_ms=3.0))
    for result, label in zip(results[3:], ("0", "2", "2"), strict=True):
        stage.model.feedback(result.id, label=label)
        stage.model.feedback(result.id, label=label)  # said twice, counted once
    found = stage.totals()
    assert found is not None
    assert (found.version, found.n, found.compared, found.agreed) == ("2", 6, 6, 2)
    assert (found.both, found.only_candidate, found.only_champion, found.neither) == (1, 1, 2, 2)
    assert found.latency.total == 6
    assert stage.totals() is None


def test_pairs__failed_and_skipped__are_no_pairs() -> None:
    stage = Stage()
    results = [stage.infer() for _ in range(3)]
    first, second, third = stage.runs.offered
    stage.runs.answered(ShadowAnswer(first, failed=True))
    stage.runs.answered(ShadowAnswer(second, skipped=True))
    stage.runs.answered(ShadowAnswer(third, top=0, is_nan=True))
    for result in results:
        stage.model.feedback(result.id, label="2")
    found = stage.totals()
    assert found is not None
    assert (found.n, found.errors, found.skipped, found.nan, found.compared) == (2, 1, 1, 1, 1)
    assert (found.labelled, found.only_champion) == (1, 1)


def test_served__answers_and_counts__are_the_champion_s_alone() -> None:
    stage = Stage()
    result = stage.infer()
    stage.runs.answered(ShadowAnswer(stage.runs.offered[0], failed=True))
    assert result.outputs["y"].tolist() == [[1.0, 2.0, 3.0]]
    ((window, _),) = stage.host.take_windows(everything=True)
    assert (window.key.version, window.n, window.errors) == ("1", 1, 0)


def test_swap__of_the_champion__ends_its_shadow_and_keeps_what_was_counted() -> None:
    stage = Stage()
    stage.infer()
    stage.runs.answered(ShadowAnswer(stage.runs.offered[0], top=2))
    stage.serve("3")
    assert stage.runs.stopped == ["2"]
    assert stage.host.shadowing(MODEL) is None
    found = stage.totals()
    assert found is not None
    assert found.agreed == 1


def test_many_threads__beside_a_shadow__count_every_inference() -> None:
    stage = Stage()
    threads = [threading.Thread(target=lambda: [stage.infer() for _ in range(50)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for nonce in stage.runs.offered:
        stage.runs.answered(ShadowAnswer(nonce, top=2))
    windows = [window for window, _ in stage.host.take_windows(everything=True)]
    found = next(window.shadow for window in windows if window.shadow is not None)
    assert sum(window.n for window in windows) == 200
    # One that finds the shadow busy passes it by and does not wait.
    assert 0 < found.compared == found.agreed == len(stage.runs.offered) <= 200


def pair(desk: ShadowDesk, runs: HandRuns, nonce: str) -> None:
    """One inference that the champion called "a" and the candidate "1"."""
    desk.offer({}, lambda: "a", nonce)
    runs.answered(ShadowAnswer(nonce, top=1, latency_ms=1.0))


def test_memory__of_what_has_no_label_yet__is_of_when_counts_were_taken() -> None:
    runs = HandRuns()
    desk = ShadowDesk(fake_slot("2"), (), PLENTY, runs, "c" * 64)
    assert desk.memory() is None
    for nonce in ("n1", "n2"):
        pair(desk, runs, nonce)
    desk.labelled("n1", "a")
    assert desk.memory() is None  # counts that were not taken are lost with the pairs
    assert desk.take() is not None
    kept = desk.memory()
    assert kept is not None
    assert json.loads(kept)["pairs"] == [["n2", "a", "1"]]
    assert desk.memory() is None
    again = ShadowDesk(fake_slot("2"), (), PLENTY, runs, "c" * 64, kept)
    again.labelled("n1", "a")
    again.labelled("n2", "1")
    found = again.take()
    assert found is not None
    assert (found.labelled, found.only_candidate) == (1, 1)


@pytest.mark.parametrize("champion", ["c" * 64, "d" * 64], ids=["broken", "other champion"])
def test_memory__of_another_champion_or_unreadable__is_not_taken_up(champion: str) -> None:
    runs, slot = HandRuns(), fake_slot("2")
    kept = json.dumps({"champion": "c" * 64, "candidate": slot.digest, "pairs": [["n1", "a", "1"]]})
    if champion == "c" * 64:
        kept = kept.replace('"1"]', '"1"')
    desk = ShadowDesk(slot, (), PLENTY, runs, champion, kept)
    desk.labelled("n1", "a")
    assert desk.take() is None


# ---------------------------------------------------------------- the whole device


@pytest.fixture
def device(server: UpdateServerSimulator, state_dir: Any) -> Iterator[Rig]:
    made = Rig(
        server,
        state_dir,
        shadows=ChildShadows(lambda: None, gives_way=False),
        runtimes={"onnx": runtimes.installed(1)["onnx"]},
    )
    yield made
    made.host.shadow(MODEL, None, PLENTY)
    made.unplug()


def push_onnx(server: UpdateServerSimulator, version: str) -> Manifest:
    return server.push(
        MODEL,
        version,
        onnx_bytes(int(version)),
        variant=VariantName("onnx", "fp32", "any"),
    )


def test_device__told_of_a_shadow__runs_it_beside_and_reports_pairs(device: Rig, server: UpdateServerSimulator) -> None:
    champion, candidate = push_onnx(server, "1"), push_onnx(server, "2")
    server.assign(DEVICE, champion)
    device.start()
    device.run_to(UpdateState.COMMITTED, champion)
    assert server.checks[DEVICE][-1].capabilities.shadow
    server.shadows[DEVICE, MODEL] = (candidate, PLENTY)
    device.poke()
    assert device.host.shadowing(MODEL) == (candidate.digest, PLENTY)
    assert device.current == champion.digest
    assert server.reports(DEVICE)[-1].active_digest == champion.digest

    def paired() -> ShadowTotals | None:
        with device.model.lease() as lease:
            result = lease.infer(image=IMAGE)
        assert result.answer is not None
        device.model.feedback(result.id, label=result.answer)
        device.clock.advance(1.5)
        device.settle()
        seen = [item.shadow for item in server.windows.get(DEVICE, {}).values() if item.shadow is not None]
        return next((item for item in seen if item.labelled), None)

    found: list[ShadowTotals] = []

    def told() -> bool:
        pair = paired()
        if pair is not None:
            found.append(pair)
        return bool(found)

    await_(told)
    assert (found[0].version, found[0].digest) == ("2", candidate.digest)
    assert found[0].both + found[0].only_champion == found[0].labelled  # the label is what the champion said
    del server.shadows[DEVICE, MODEL]
    device.poke()
    assert device.host.shadowing(MODEL) is None


def test_device__shadow_is_revoked_or_broken__serves_on_and_nothing_becomes_current(
    device: Rig, server: UpdateServerSimulator
) -> None:
    champion, candidate = push_onnx(server, "1"), push_onnx(server, "2")
    server.assign(DEVICE, champion)
    device.start()
    device.run_to(UpdateState.COMMITTED, champion)
    server.revoke(MODEL, "2")
    server.shadows[DEVICE, MODEL] = (candidate, PLENTY)
    device.poke()
    assert device.host.shadowing(MODEL) is None
    with device.model.lease() as lease:
        assert lease.version == "1"
        lease.infer(image=IMAGE)
    assert device.slots.holds(MODEL, candidate.digest) is None


def test_device__slot_of_a_shadow__outlives_a_restart_and_goes_with_the_next_update(
    device: Rig, server: UpdateServerSimulator
) -> None:
    champion, candidate, third = (push_onnx(server, version) for version in ("1", "2", "3"))
    server.assign(DEVICE, champion)
    device.start()
    device.run_to(UpdateState.COMMITTED, champion)
    server.shadows[DEVICE, MODEL] = (candidate, PLENTY)
    device.poke()
    device.host.shadow(MODEL, None, PLENTY)
    device.restart()
    device.run_until(lambda: device.host.shadowing(MODEL) is not None)
    fetched = [path for path, _ in server.requests if candidate.weights.sha256 in path]
    assert len(fetched) == 1
    del server.shadows[DEVICE, MODEL]
    server.assign(DEVICE, third, rollout="r-000000000002")
    device.poke()
    device.run_to(UpdateState.COMMITTED, third)
    device.run_until(lambda: device.slots.holds(MODEL, candidate.digest) is None)


def test_device__restarted_between_answers_and_labels__the_pairs_are_there_for_them(
    server: UpdateServerSimulator, state_dir: Any
) -> None:
    runs = HandRuns()
    device = Rig(server, state_dir, shadows=runs)
    champion, candidate = server.push(MODEL, "1", weights(1.0)), server.push(MODEL, "2", weights(2.0))
    server.assign(DEVICE, champion)
    device.start()
    device.run_to(UpdateState.COMMITTED, champion)
    server.shadows[DEVICE, MODEL] = (candidate, PLENTY)
    device.poke()
    results = []
    for _ in range(3):
        with device.model.lease() as lease:
            results.append(lease.infer(x=np.array([[0.0, 1.0, 2.0]], dtype=np.float32)))
    for nonce in runs.offered:
        runs.answered(ShadowAnswer(nonce, top=2, latency_ms=1.0))

    def told() -> int:
        seen = [item.shadow for item in server.windows.get(DEVICE, {}).values() if item.shadow is not None]
        return sum(item.labelled for item in seen)

    device.run_until(lambda: any(item.shadow for item in server.windows.get(DEVICE, {}).values()))
    device.restart()  # a cut: what is in memory is gone
    device.run_until(lambda: device.host.shadowing(MODEL) is not None)
    for result in results:
        device.model.feedback(result.id, label="2")
        device.model.feedback(result.id, label="2")
    device.run_until(lambda: told() == 3)
    del server.shadows[DEVICE, MODEL]
    device.poke()
    assert device.journal.recall(pairs_key(MODEL)) == ""
    device.unplug()


# ---------------------------------------------------------------- the wire


def test_totals__encoded__are_read_back_and_add_up() -> None:
    made = ShadowTotals("2", "a" * 64, n=5, errors=1, skipped=2, compared=4, agreed=3, both=2, only_candidate=1)
    made.latency.add(4.0)
    again = ShadowTotals.parse(Fields(made.encode(), "shadow"))
    assert again == made
    assert made.plus(again).n == 10
    assert made.labelled == 3


@pytest.mark.parametrize(
    "broken",
    [{"agreed": 5}, {"errors": 9}, {"n": -1}, {"version": ""}, {"digest": "x"}, {"latency": "?"}, {"both": 1.5}],
    ids=["agreed", "errors", "negative", "version", "digest", "latency", "fraction"],
)
def test_totals__contradictions__are_refused(broken: dict[str, object]) -> None:
    made = ShadowTotals("2", "a" * 64, n=5, compared=4, agreed=3).encode()
    with pytest.raises(MalformedMessageError):
        ShadowTotals.parse(Fields({**made, **broken}, "shadow"))


def test_budget__signed_and_read_back__keeps_thousandths() -> None:
    budget = ShadowBudget(0.125, 0.05, 10**8)
    assert ShadowBudget.parse_signed(Fields(budget.encode_signed(), "shadow")) == budget
    assert ShadowBudget.parse(Fields(budget.encode(), "shadow")) == budget
    with suppress(MalformedMessageError):
        ShadowBudget.parse(Fields({"time_share": 2.0}, "shadow"))
        raise AssertionError("expected a share of at most 1")
