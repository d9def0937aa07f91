"""The demo's fleet as simulated devices on the real services: checks, installs, measures, is conducted. No broker."""

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta

from device_client.wire.states import FailureCode
from fleet.apps.assignments import services as assignments
from fleet.apps.devices import services as devices
from fleet.apps.rollouts import services as rollouts
from fleet.apps.rollouts.records import DecisionRecord, RolloutRecord
from fleet.apps.telemetry import services as telemetry
from fleet.apps.telemetry.records import Incoming
from fleet.demo.fleet_plan import DEVICES, SEED_INSTALL
from tests.fakes.fleet_simulator import CAPABILITIES, SimulatedDevice
from tests.server.catalogue import MODEL, NOW, Release, make_version

VARIANTS = ("onnx-fp32-any", "onnx-int8-any")
HOLDER = "conductor-a"
EVERYONE = {"phases": [{"share": 1.0}], "control_share": 0, "allow_delta": False}
Fails = Callable[[SimulatedDevice], FailureCode | None]


def installs_well(_device: SimulatedDevice) -> FailureCode | None:
    """Every device takes it."""
    return None


class Story:
    """Sixteen devices in three classes, and a clock that only this moves."""

    def __init__(self) -> None:
        self.now: datetime = NOW
        self.releases: dict[str, Release] = {}
        self.devices = [
            SimulatedDevice(
                device_id=item.id,
                hardware_class=item.hardware_class,
                model=MODEL,
                dice=random.Random(item.id),
                capabilities=replace(CAPABILITIES, precisions=item.precisions),
            )
            for item in DEVICES
        ]
        for device in self.devices:
            devices.enrol(device_id=device.device_id, hardware_class=device.hardware_class, attributes={}, now=self.now)
            devices.record_check(device_id=device.device_id, check=device.check(self.now), now=self.now)

    def push(self, label: str) -> Release:
        """A published version with both variants."""
        self.releases[label] = make_version(label, variants=VARIANTS)
        return self.releases[label]

    def start(self, version: str, policy: object, seed: str | None = None) -> RolloutRecord:
        """Start a rollout now."""
        return rollouts.start(model=MODEL, version=version, policy=policy, seed=seed, actor="test", now=self.now)

    def settle_on_1(self, *others: str) -> "Story":
        """Publish version 1 and `others`, and have every device run 1, the baseline from then on."""
        for label in ("1", *others):
            self.push(label)
        self.start("1", EVERYONE, SEED_INSTALL)
        self.check()
        self.pass_time(2)
        assert [item.action for item in self.tick()] == ["complete"]
        return self

    def pass_time(self, seconds: float) -> None:
        """Nothing else moves the clock."""
        self.now += timedelta(seconds=seconds)

    def check(self, fails: Fails = installs_well, only: Iterable[SimulatedDevice] | None = None) -> None:
        """Every device checks in, installs what it is told, and reports."""
        weights = {digest: name for item in self.releases.values() for digest, name in item.weights_by_digest.items()}
        reports: list[Incoming] = []
        for device in self.devices if only is None else only:
            asked = device.check(self.now)
            devices.record_check(device_id=device.device_id, check=asked, now=self.now)
            answer = assignments.answer_check(device_id=device.device_id, check=asked, now=self.now)
            targets = {target.path: (target.sha256, target.custom) for target in answer.targets}
            if device.obey(answer.binding, targets, weights):
                reports += [Incoming(device.device_id, item) for item in device.install(self.now, fails(device))]
        telemetry.take_in(messages=reports, now=self.now)

    def measure(self, accuracy: Mapping[str, float], labels: int = 150) -> None:
        """Every device serves for two seconds with what it runs, and its labels come in."""
        self.pass_time(1)
        measured: list[Incoming] = []
        for device in self.devices:
            window = device.window(self.now, n=200)
            right = device.labels(self.now, n=labels, accuracy=accuracy[device.running.version])
            measured += [Incoming(device.device_id, window), Incoming(device.device_id, right)]
        telemetry.take_in(messages=measured, now=self.now)
        self.pass_time(1)

    def tick(self, holder: str = HOLDER) -> tuple[DecisionRecord, ...]:
        """The conductor looks once; what it cannot judge fails the test."""
        seen = rollouts.tick(now=self.now, holder=holder)
        assert seen.failures == ()
        return seen.decisions

    def running(self) -> dict[str, int]:
        """How many devices run each version, by their own account."""
        found: dict[str, int] = {}
        for device in self.devices:
            found[device.running.version] = found.get(device.running.version, 0) + 1
        return found
