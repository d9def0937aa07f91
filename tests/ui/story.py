"""A fleet with a past, made through services: versions, rollouts that completed, failed and run, devices of every kind.

The clock of the story is its own; it ends at the moment that it is given, so that pages show ages that make sense.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from device_client.wire.bucketing import bucket
from device_client.wire.messages import Capabilities, LabelBatch, Presence, StateReport, TelemetryWindow
from device_client.wire.states import FailureCode
from fleet.apps.assignments import answers
from fleet.apps.devices import services as devices
from fleet.apps.jobs import services as jobs
from fleet.apps.registry import services as registry
from fleet.apps.rollouts import services as rollouts
from fleet.apps.telemetry import services as telemetry
from fleet.apps.telemetry.records import Incoming
from fleet.apps.trust import services as trust
from fleet.wiring import server
from tests.fakes.fleet_simulator import CAPABILITIES, FleetSimulator, SimulatedDevice
from tests.ui.release import ACTOR, PIPELINE, Pipeline

MODEL = "vision.digits"
CLASSES = ("edge-std", "edge-mini", "jetson-orin")
HOLDER = "conductor-1"


def policy(*shares: float, **changes: object) -> dict[str, object]:
    """Gates on everything, short enough for a story."""
    return {
        "phases": [{"share": share, "min_duration_s": 60, "deadline_s": 3_600} for share in shares],
        "control_share": 0.5,
        "gates": {
            "accuracy": {"margin_points": 5, "min_labels_per_device": 20},
            "latency": {"slow_ms": 50, "max_slow_share": 0.05, "min_inferences_per_device": 20},
            "install_failures": {"max_share": 0.2, "min_installed_share": 0.8},
            "silence": {"grace_s": 300, "max_share": 0.3},
        },
        "jitter_s": 0,
        "delta_wait_s": 0,
        **changes,
    }


@dataclass
class Story:
    """Runs the past of a fleet of `size` devices."""

    ends_at: datetime
    size: int = 36
    accuracy: Mapping[str, float] = field(default_factory=lambda: {"1": 0.86, "2": 0.96, "3": 0.58, "4": 0.955})
    away: int = 3

    def __post_init__(self) -> None:
        self.now = self.ends_at - timedelta(hours=3)
        self.pipeline = Pipeline(MODEL)
        self.fleet = FleetSimulator(self.size, model=MODEL, classes=CLASSES)
        for device in self.fleet:
            precisions = ("int8",) if device.hardware_class == "edge-mini" else ()
            device.capabilities = Capabilities(
                **{
                    **CAPABILITIES.__dict__,
                    "precisions": precisions,
                    "ram_bytes": 1_000_000_000,
                    "disk_bytes": 8_000_000_000,
                }
            )

    def pass_by(self, seconds: float) -> None:
        """Let time pass."""
        self.now += timedelta(seconds=seconds)

    def tell(self) -> dict[str, str]:
        """The whole past; returns the ids of the rollouts by version."""
        self.pipeline.set_up(self.now)
        self.enrol()
        told = {}
        for number, notes in ((1, "First release."), (2, "Continued from 1 on relabelled data.")):
            self.pipeline.push(number, self.now, notes=notes)
            told[str(number)] = self.complete(str(number))
        registry.set_alias(model=MODEL, name="champion", version="2", actor=PIPELINE, now=self.now)
        self.pipeline.push(3, self.now, notes="Trained on the new labelling batch.")
        told["3"] = self.fail("3")
        self.pipeline.push(4, self.now, notes="Continued from 2.")
        registry.set_alias(model=MODEL, name="challenger", version="4", actor=PIPELINE, now=self.now)
        self.now = self.ends_at - timedelta(minutes=4)
        told["4"] = self.begin("4")
        self.pipeline.push(5, self.now, publish=False)
        trust.create_claim(
            device_id="press-07",
            hardware_class="edge-std",
            attributes={"site": "oslo"},
            expires_in_s=86_400,
            actor=ACTOR,
            now=self.now,
        )
        return told

    def first_rollout(self) -> str:
        """The shortest past: one version, whose rollout to everybody has just begun."""
        self.pipeline.set_up(self.now)
        self.enrol()
        self.pipeline.push(1, self.now)
        return self.start("1", policy(1.0, control_share=0.0))

    # ---------------------------------------------------------------- devices

    def enrol(self) -> None:
        """Every device joins and says that it is there; the last ones have not been seen for weeks."""
        long_ago = self.now - timedelta(days=20)
        for index, device in enumerate(self.fleet):
            is_away = index >= self.size - self.away
            at = long_ago if is_away else self.now
            site = ("oslo", "lyon", "porto")[index % 3]
            devices.enrol(
                device_id=device.device_id, hardware_class=device.hardware_class, attributes={"site": site}, now=at
            )
            devices.record_check(device_id=device.device_id, check=device.check(at), now=at)
            devices.touch(device_ids=[device.device_id], now=at)
            self.take_in(device, Presence(online=not is_away, client_version="1.0"))

    @property
    def present(self) -> list[SimulatedDevice]:
        """The devices that are not away."""
        return self.fleet.devices[: self.size - self.away]

    def take_in(
        self, device: SimulatedDevice, *messages: StateReport | TelemetryWindow | LabelBatch | Presence
    ) -> None:
        """What ingest does with messages of one device."""
        telemetry.take_in(messages=[Incoming(device.device_id, item) for item in messages], now=self.now)

    def check_in(self, device: SimulatedDevice, fails: FailureCode | None = None) -> None:
        """Ask, and do what the answer says."""
        check = device.check(self.now)
        devices.record_check(device_id=device.device_id, check=check, now=self.now)
        answer = answers.answer_check(device_id=device.device_id, check=check, now=self.now)
        targets = {target.path: (target.sha256, target.custom) for target in answer.targets}
        if device.obey(answer.binding, targets, self.pipeline.weights):
            self.take_in(device, *device.install(self.now, fails))

    def serve(self, device: SimulatedDevice, labels: int = 60) -> None:
        """One window of inferences and the labels that came for it."""
        accuracy = self.accuracy.get(device.running.version, 0.5)
        latency = {"edge-std": 8.0, "edge-mini": 14.0, "jetson-orin": 2.5}[device.hardware_class]
        self.take_in(
            device,
            device.window(self.now, n=200, latency_ms=latency),
            device.labels(self.now, n=labels, accuracy=accuracy),
        )

    def everybody(self, fails: Mapping[str, FailureCode] | None = None) -> None:
        """Every device that is there checks in and serves for a while."""
        for device in self.present:
            self.check_in(device, (fails or {}).get(device.device_id))
        self.pass_by(20)
        for device in self.present:
            self.serve(device)
        self.pass_by(70)

    def build_deltas(self) -> None:
        """What a worker does."""
        while (
            job := jobs.claim(kinds=["delta", "delta-plan"], owner="worker-1", lease_s=60, now=self.now)
        ) is not None:
            payload: Any = job.payload
            {"delta": server.build_delta, "delta-plan": server.plan_deltas}[job.kind](payload, self.now)
            jobs.finish(job=job, now=self.now)

    # ---------------------------------------------------------------- rollouts

    def tick(self) -> list[str]:
        """One look of the conductor; returns the actions that it took."""
        seen = rollouts.tick(now=self.now, holder=HOLDER)
        assert not seen.failures, seen.failures
        return [decision.action for decision in seen.decisions]

    def start(self, version: str, document: Mapping[str, object]) -> str:
        """Start a rollout and build its deltas."""
        record = rollouts.start(
            model=MODEL, version=version, policy=document, actor=ACTOR, now=self.now, seed=f"story-{version}"
        )
        self.build_deltas()
        return record.id

    def complete(self, version: str) -> str:
        """A rollout that goes all the way."""
        document = policy(1.0, control_share=0.0) if version == "1" else policy(0.25, 0.5, 1.0)
        rollout_id = self.start(version, document)
        for _ in range(12):
            self.everybody()
            if "complete" in self.tick():
                return rollout_id
        raise AssertionError(f"{rollout_id} did not complete")

    def fail(self, version: str) -> str:
        """A rollout that its accuracy stops in the first phase; the treated devices come back."""
        rollout_id = self.start(version, policy(0.25, 0.5, 1.0))
        for _ in range(6):
            self.everybody()
            if "revert" in self.tick():
                self.everybody()
                assert "reverted" in self.tick()
                return rollout_id
        raise AssertionError(f"{rollout_id} was not reverted")

    def begin(self, version: str) -> str:
        """A rollout in its first phase: one device failed, some have not asked yet."""
        rollout_id = self.start(version, policy(0.25, 0.5, 1.0))
        treated = [device for device in self.present if bucket(f"story-{version}", device.device_id) < 250_000]
        for device in treated[:-1]:
            self.check_in(device, FailureCode.SELF_TEST if device is treated[0] else None)
        self.pass_by(30)
        for device in self.present:
            self.serve(device, labels=25)
        self.pass_by(20)
        return rollout_id
