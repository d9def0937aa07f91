"""Many devices as the messages that they send: the server's counterpart, simulated and not mocked.

A simulated device obeys what it is answered and reports it as a real one does: a check, state reports in the order of an
update, windows and labels. It verifies no signature and moves no byte; `tests/fakes/release_server` is for that side.
Everything is deterministic: the dice are seeded, the time is an argument.
"""

import hashlib
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TypeVar

from device_client.wire.bucketing import bucket
from device_client.wire.director import Assigned, Binding, Decision
from device_client.wire.messages import (
    Capabilities,
    Check,
    CheckReason,
    Denied,
    Label,
    LabelBatch,
    MessageKey,
    RunningModel,
    StateReport,
    TelemetryWindow,
)
from device_client.wire.names import ManifestPath
from device_client.wire.predictions import PredictionId
from device_client.wire.sketch import LatencySketch
from device_client.wire.states import FailureCode, Transport, UpdateState

CAPABILITIES = Capabilities(
    runtimes={"onnx": "1.20"},
    codecs=("bsdiff4",),
    arch="aarch64",
    max_opset=21,
    max_ir_version=10,
    client_version="1.0",
)
Item = TypeVar("Item")
INSTALLING = (
    UpdateState.ASSIGNED,
    UpdateState.DOWNLOADING,
    UpdateState.VERIFYING,
    UpdateState.STAGED,
    UpdateState.SELF_TESTING,
    UpdateState.ACTIVATING,
    UpdateState.PROBATION,
)


@dataclass
class SimulatedDevice:
    """One device that runs one model."""

    device_id: str
    hardware_class: str
    model: str
    dice: random.Random
    capabilities: Capabilities = CAPABILITIES
    running: RunningModel = field(init=False)
    assigned: Assigned | None = None
    seq: int = 0
    shadow: str = ""  # the version that runs beside the champion

    def __post_init__(self) -> None:
        self.running = RunningModel(self.model)
        self.boot = hashlib.sha256(self.device_id.encode()).hexdigest()[:16]

    def next_key(self) -> MessageKey:
        """The key of the next durable message."""
        self.seq += 1
        return MessageKey(self.boot, self.seq)

    def check(self, now: datetime, reason: CheckReason = CheckReason.PERIODIC) -> Check:
        """What the device asks."""
        return Check(
            nonce=f"{self.dice.getrandbits(128):032x}",
            reason=reason,
            models=(self.running,),
            director_version=0,
            clock=int(now.timestamp()),
            capabilities=self.capabilities,
        )

    def obey(
        self, binding: Binding, targets: Mapping[str, tuple[str, Mapping[str, object]]], weights: Mapping[str, str]
    ) -> bool:
        """Take up an answer; returns whether there is something to install. `weights` names those of each digest."""
        answer = binding.answers.get(self.model)
        if answer is None or answer.decision is not Decision.NOW:
            return False
        own = [(path, target) for path, target in targets.items() if path.startswith(f"models/{self.model}/")]
        said = {path: Assigned.parse(dict(custom)) for path, (_, custom) in own}
        self.shadow = next((item.version for item in said.values() if item.shadow is not None), "")
        path, (digest, custom) = next((path, target) for path, target in own if said[path].shadow is None)
        self.assigned = Assigned.parse(dict(custom))
        assert ManifestPath.parse(path).version == self.assigned.version
        self._target = (digest, weights.get(digest, ""))
        return digest != self.running.digest

    def install(self, now: datetime, fails: FailureCode | None = None) -> Iterator[StateReport]:
        """The reports of the update that was taken up last, to its end; afterwards the device runs it, or not."""
        assert self.assigned is not None
        digest, weights = self._target
        for state in INSTALLING:
            yield self.report(state, digest, now)
        if fails is None:
            self.running = replace(
                self.running,
                version=self.assigned.version,
                digest=digest,
                weights_sha256=weights,
                revision=self.assigned.revision,
                state=UpdateState.COMMITTED,
            )
            yield self.report(UpdateState.COMMITTED, digest, now)
        else:
            denied = (*self.running.denied, Denied(digest, self.assigned.rollout))
            self.running = replace(self.running, denied=denied, state=UpdateState.ROLLED_BACK)
            yield self.report(UpdateState.ROLLED_BACK, digest, now, failure=fails)

    def report(self, state: UpdateState, digest: str, now: datetime, failure: FailureCode | None = None) -> StateReport:
        """One state report about the assigned version."""
        assert self.assigned is not None
        return StateReport(
            key=self.next_key(),
            at=int(now.timestamp()),
            model=self.model,
            version=self.assigned.version,
            digest=digest,
            rollout=self.assigned.rollout,
            revision=self.assigned.revision,
            state=state,
            active_version=self.running.version,
            active_digest=self.running.digest,
            transport=Transport.FULL,
            bytes_received=1_000,
            bytes_total=1_000,
            failure=failure,
        )

    def window(
        self, started_at: datetime, *, n: int = 100, errors: int = 0, latency_ms: float = 5.0
    ) -> TelemetryWindow:
        """A window of `n` inferences whose latencies spread around `latency_ms`."""
        sketch = LatencySketch()
        total = squares = 0.0
        for _ in range(n - errors):
            value = latency_ms * self.dice.lognormvariate(0, 0.3)
            sketch.add(value)
            total, squares = total + value, squares + value * value
        return TelemetryWindow(
            key=self.next_key(),
            started_at=int(started_at.timestamp()),
            duration_s=10.0,
            model=self.model,
            version=self.running.version or "factory",
            digest=self.running.digest,
            revision=self.running.revision,
            route="local",
            n=n,
            errors=errors,
            nan=0,
            latency=sketch,
            latency_sum_ms=total,
            latency_sum_squares=squares,
        )

    def labels(self, predicted_at: datetime, *, n: int, accuracy: float) -> LabelBatch:
        """`n` labels for predictions made at `predicted_at`, of which about `accuracy` agree."""
        labels = []
        for _ in range(n):
            prediction = PredictionId(
                device_id=self.device_id,
                model=self.model,
                version=self.running.version or "factory",
                revision=self.running.revision,
                route="local",
                second=int(predicted_at.timestamp()),
                nonce=f"{self.dice.getrandbits(48):012x}",
                answer="7",
            )
            labels.append(Label(str(prediction), "7", self.dice.random() < accuracy, "app"))
        return LabelBatch(self.next_key(), tuple(labels))


class FleetSimulator:
    """A fleet of simulated devices, spread over hardware classes in turn."""

    def __init__(self, size: int, *, model: str, classes: Sequence[str] = ("edge-std",), seed: int = 1) -> None:
        self.devices = [
            SimulatedDevice(
                device_id=f"sim-{number:05d}",
                hardware_class=classes[number % len(classes)],
                model=model,
                dice=random.Random(f"{seed}:{number}"),
            )
            for number in range(size)
        ]

    def in_buckets(self, seed: str, start: int, end: int) -> list[SimulatedDevice]:
        """The devices whose bucket under `seed` lies in [start, end)."""
        return [device for device in self.devices if start <= bucket(seed, device.device_id) < end]

    def __iter__(self) -> Iterator[SimulatedDevice]:
        return iter(self.devices)


def shuffled(items: Iterable[Item], seed: int) -> list[Item]:
    """The same items in another, repeatable order."""
    result = list(items)
    random.Random(seed).shuffle(result)
    return result
