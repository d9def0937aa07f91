"""Law 5, cut by cut: whatever is interrupted, the device runs the old or the new model, never neither.

Each scenario is first run whole, to count its boundaries; then once for every boundary, cutting the power there and
starting again over what is on disk. The application must get an answer from a whole version at every moment, and in
the end the server's view must equal the device's.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from device_client.core.errors import NotReadyError
from device_client.wire.bundles import Manifest
from device_client.wire.delta import Codec
from device_client.wire.states import UpdateState
from tests.device.rig import DEVICE, MODEL, Mains, PowerCutError, Rig, golden, retrained, weights
from tests.fakes.update_server import UpdateServerSimulator

ANSWERS = {"": None, "1": 2.0, "2": 3.0}  # what `infer(1.0)` gives under each version


@dataclass(frozen=True)
class Scenario:
    """What the server says at the point from which a device starts, and where it must end."""

    name: str
    begin: Callable[[UpdateServerSimulator, Manifest, Manifest, Manifest], None]
    ends_in: UpdateState
    ends_with: str
    installed: str = "1"
    codec: str = ""


def _first_install(server: UpdateServerSimulator, one: Manifest, two: Manifest, bad: Manifest) -> None:
    server.assign(DEVICE, one, rollout="r-000000000001")


def _delta(server: UpdateServerSimulator, one: Manifest, two: Manifest, bad: Manifest) -> None:
    server.build_delta(one, two)
    server.assign(DEVICE, two, rollout="r-000000000002")


def _stream(server: UpdateServerSimulator, one: Manifest, two: Manifest, bad: Manifest) -> None:
    server.build_delta(one, two, Codec.TENSOR1)
    server.faults.cut_after_bytes, server.faults.cuts_left = 20_000, 1
    server.assign(DEVICE, two, rollout="r-000000000002")


def _full(server: UpdateServerSimulator, one: Manifest, two: Manifest, bad: Manifest) -> None:
    server.faults.cut_after_bytes, server.faults.cuts_left = 4_000, 1
    server.assign(DEVICE, two, rollout="r-000000000002")


def _bad(server: UpdateServerSimulator, one: Manifest, two: Manifest, bad: Manifest) -> None:
    server.assign(DEVICE, bad, rollout="r-000000000003")


def _revert(server: UpdateServerSimulator, one: Manifest, two: Manifest, bad: Manifest) -> None:
    server.assign(DEVICE, one, rollout="")


SCENARIOS = (
    Scenario("first-install", _first_install, UpdateState.COMMITTED, "1", installed=""),
    Scenario("delta", _delta, UpdateState.COMMITTED, "2", codec="bsdiff4"),
    Scenario("patch-while-it-comes-over-a-bad-network", _stream, UpdateState.COMMITTED, "2", codec="tensor1"),
    Scenario("full-over-a-bad-network", _full, UpdateState.COMMITTED, "2"),
    Scenario("fails-its-self-test", _bad, UpdateState.ROLLED_BACK, "1"),
    Scenario("revert-to-a-retained-slot", _revert, UpdateState.COMMITTED, "1", installed="2"),
)


class Theatre:
    """A server with three versions, and devices that were prepared once and are copied for every cut."""

    def __init__(self, server: UpdateServerSimulator, directory: Path) -> None:
        self.server = server
        self.directory = directory
        self.one = server.push(MODEL, "1", retrained(1.0), extra={"golden.json": golden(1.0)})
        self.two = server.push(MODEL, "2", retrained(2.0), extra={"golden.json": golden(2.0)})
        self.bad = server.push(MODEL, "3", weights(3.0), extra={"golden.json": golden(9.0)})
        self.versions = {"1": self.one, "2": self.two}
        self._prepared: dict[str, Path] = {}

    def device(self, installed: str, name: str, mains: Mains) -> Rig:
        """A device that has committed `installed` (and version 1 before a 2), switched off."""
        state = self.directory / name
        if installed:
            shutil.copytree(self._prepare(installed), state, symlinks=True)
        rig = Rig(self.server, state, mains=mains, codecs=(Codec.TENSOR1, Codec.BSDIFF4))
        rig.skip_nonces(int(name.rsplit("-", 1)[1]) * 1_000)
        return rig

    def _prepare(self, installed: str) -> Path:
        if installed not in self._prepared:
            rig = Rig(self.server, self.directory / f"prepared-{installed}")
            rig.start()
            for version in ("1", "2")[: int(installed)]:
                self.server.assign(DEVICE, self.versions[version], rollout=f"r-{version}")
                rig.poke()
                rig.run_to(UpdateState.COMMITTED, self.versions[version])
            rig.unplug()
            self._prepared[installed] = rig.state
        return self._prepared[installed]

    def forget_reports(self) -> None:
        self.server.states.clear()
        self.server.windows.clear()


@pytest.fixture
def theatre(server: UpdateServerSimulator, state_dir: Path) -> Theatre:
    return Theatre(server, state_dir)


def attest(rig: Rig, scenario: Scenario) -> None:
    """The application gets a whole version's answer, now, and what is current is loadable."""
    allowed = {scenario.installed, scenario.ends_with, "2" if scenario.ends_with == "2" else scenario.ends_with}
    try:
        answer = rig.infer(1.0)
    except NotReadyError:
        assert scenario.installed == "", "a device that had a model has none"
        assert rig.current == ""
        return
    assert answer in {ANSWERS[version] for version in allowed}
    assert rig.slots.open(MODEL, rig.current).manifest.version in allowed


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_power_cut__at_every_boundary__old_or_new_and_views_agree(theatre: Theatre, scenario: Scenario) -> None:
    mains = Mains()
    rig = theatre.device(scenario.installed, f"{scenario.name}-0", mains)
    _begin(theatre, scenario)
    rig.start()
    rig.run_to(scenario.ends_in)
    rig.unplug()
    assert theatre.server.reports(DEVICE)[-1].codec == scenario.codec
    boundaries = mains.crossed
    assert len(boundaries) > 40, "the wiring has come loose"
    for number, boundary in enumerate(boundaries, start=1):
        _begin(theatre, scenario)
        _cut_once(theatre, scenario, number, boundary)


def _begin(theatre: Theatre, scenario: Scenario) -> None:
    theatre.forget_reports()
    theatre.server.told.clear()
    theatre.server.patches.clear()
    scenario.begin(theatre.server, theatre.one, theatre.two, theatre.bad)


def _cut_once(theatre: Theatre, scenario: Scenario, number: int, boundary: str) -> None:
    mains = Mains()
    rig = theatre.device(scenario.installed, f"{scenario.name}-{number}", mains)
    mains.cut_at = number - 1
    try:
        rig.start()
        rig.run_to(scenario.ends_in)
    except PowerCutError:
        pass
    else:
        assert len(mains.crossed) <= number, f"nothing was cut at {boundary}"
    rig.restart()
    attest(rig, scenario)
    if scenario.ends_in is UpdateState.ROLLED_BACK:
        rig.run_until(lambda: bool(rig.journal.denied(MODEL)))
    else:
        rig.run_to(scenario.ends_in, theatre.versions[scenario.ends_with])
    rig.run_until(lambda: rig.outbox.depth() == 0)
    attest(rig, scenario)
    assert rig.slots.links(MODEL).current == theatre.versions[scenario.ends_with].digest, boundary
    last = theatre.server.reports(DEVICE)[-1]
    assert (last.state, last.active_digest) == (rig.deployment.state, rig.current), boundary
    left = {path.name for path in (rig.state / "models" / MODEL).iterdir() if path.name.startswith(".")}
    assert left == set(), f"left behind after {boundary}"
    rig.unplug()
    shutil.rmtree(rig.state)


def test_power_cut__again_and_again_in_one_deployment__given_up_as_a_crash_loop(
    theatre: Theatre,
) -> None:
    rig = theatre.device("1", "loop-0", Mains())
    theatre.server.assign(DEVICE, theatre.two, rollout="r-000000000002")
    rig.mains.cut_at = None
    rig.start()
    rig.run_until(lambda: rig.deployment.state is UpdateState.PROBATION)
    for _ in range(3):
        rig.restart()
        rig.settle(500)
        assert rig.deployment.state is UpdateState.PROBATION
        assert rig.infer(1.0) == 3.0
    rig.restart()
    rig.run_until(lambda: rig.deployment.state is UpdateState.ROLLED_BACK)
    rig.run_until(lambda: rig.outbox.depth() == 0)
    last = theatre.server.reports(DEVICE)[-1]
    assert (last.failure, last.active_digest) == ("crash_loop", theatre.one.digest)
    assert rig.infer(1.0) == 2.0
