"""A fleet in the field for `test_rollouts`: one control plane, its devices as processes, and what a tester does to them.

The control plane and the processes are the demo's; only who is there, with which models, and the signals are told here.
Who is treated first follows from a rollout's seed: `seed_for` looks for one under which these devices come first.
"""

import itertools
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from device_client import inspection
from device_client.adapters.slots import STAGING_PREFIX
from device_client.config import load_config, state_paths
from device_client.wire.bucketing import bucket, control_range, share_range
from fleet.demo.control_plane import ControlPlane
from fleet.demo.device_processes import DeviceProcesses, Enrolment
from fleet.demo.fleet_plan import DemoDevice

Seen = TypeVar("Seen")

APPLICATION: Final = "tests.e2e.field_application:serve"
LABEL_DELAY_S: Final = 0.5
WITHIN_S: Final = 480.0
LOOK_EVERY_S: Final = 1.0
TREATED_SHARE: Final = 0.34
CONTROL_SHARE: Final = 0.6


@dataclass(frozen=True)
class Squad:
    """Devices that are treated alike: `count` of them, named after their role, with these models."""

    role: str
    count: int
    models: tuple[str, ...]
    images_per_s: float = 5.0

    @property
    def devices(self) -> tuple[DemoDevice, ...]:
        """In order."""
        return tuple(
            DemoDevice(f"{self.role}-{number}", "bench", models=self.models) for number in range(1, self.count + 1)
        )

    @property
    def ids(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(device.id for device in self.devices)


@dataclass(frozen=True)
class Download:
    """An update under way: bytes on disk, bytes in all, and the digests that are installed whole."""

    state: str
    bytes_done: int
    bytes_total: int
    installed: tuple[str, ...]


class SquadProcesses(DeviceProcesses):
    """A squad's processes; besides starting and killing, they can be frozen."""

    def __init__(self, directory: Path, squad: Squad) -> None:
        super().__init__(
            directory / squad.role,
            images_per_s=squad.images_per_s,
            label_delay_s=LABEL_DELAY_S,
            application=APPLICATION,
        )
        self.squad = squad

    def freeze(self, device_id: str) -> None:
        """SIGSTOP: its connection stays open and nobody answers."""
        self._running[device_id].send_signal(signal.SIGSTOP)

    def thaw(self, device_id: str) -> None:
        """SIGCONT."""
        self._running[device_id].send_signal(signal.SIGCONT)

    def restart_ended(self) -> list[str]:
        """Start what has ended by itself, as a supervisor does; says which."""
        ended = self.ended()
        for device_id in ended:
            self.start(device_id)
        return ended

    def served(self, device_id: str, model: str) -> list[str]:
        """Every version that the device's application was given, in order; the same twice is a restart."""
        path = self.state(device_id) / f"{model}.versions"
        return path.read_text().split() if path.exists() else []

    def counts(self, device_id: str, model: str) -> dict[str, Any]:
        """What the application itself counted."""
        return self.witness(device_id, f"{model}.json")

    def download(self, device_id: str, model: str) -> Download:
        """How far the device's update is, as `modelfleet-device status` sees it."""
        paths = state_paths(self.state(device_id))
        shown: Any = inspection.status(paths, load_config(paths))["models"]
        of_model = shown[model]
        slots = [path.name for path in (paths.models / model).iterdir() if path.is_dir() and not path.is_symlink()]
        whole = tuple(sorted(name for name in slots if not name.startswith(STAGING_PREFIX)))
        return Download(of_model["state"], of_model.get("bytes_done", 0), of_model["bytes_total"], whole)


class Field:
    """Everything under `directory`. `running` is the way to one."""

    def __init__(self, directory: Path, squads: Sequence[Squad]) -> None:
        self.control = ControlPlane(directory, None)
        self.squads = {squad.role: SquadProcesses(directory / "devices", squad) for squad in squads}
        # A process gets SIGTERM when the thread that started it ends, so these threads live as long as the field.
        self.threads = ThreadPoolExecutor(max_workers=16)

    def begin(self, versions: Mapping[str, Sequence[Path]]) -> None:
        """Publish every version of every model (1, 2, ...), enrol the devices, start them, wait until they are there."""
        self.control.prepare()
        self.control.start()
        self.control.modelfleet("keys", "init", str(self.control.keys), "--no-passphrase")
        for model in versions:
            self.control.modelfleet("models", "create", model, "--keys", str(self.control.keys))
        publishing = self.threads.submit(self._publish, versions)
        for processes in self.squads.values():
            processes.enrol_all(
                {device: self._claim(device, processes.squad.role) for device in processes.squad.devices}
            )
            for device_id in processes.squad.ids:
                processes.start(device_id)
        publishing.result()
        everybody = {
            (device.id, model)
            for processes in self.squads.values()
            for device in processes.squad.devices
            for model in device.models
        }
        self.wait("every device to ask for its models", lambda: everybody - self._asked(), lambda missing: not missing)

    def _publish(self, versions: Mapping[str, Sequence[Path]]) -> None:
        for model, paths in versions.items():
            for number, path in enumerate(paths, start=1):
                pushed = self.control.modelfleet("push", model, str(path), "--keys", str(self.control.keys), "--wait")
                assert pushed["version"] == str(number), pushed

    def _claim(self, device: DemoDevice, role: str) -> Enrolment:
        body = {"device_id": device.id, "hardware_class": device.hardware_class, "attributes": {"role": role}}
        claim = self.control.post("enrolment/claims", body)
        return Enrolment(self.control.url, claim["token"], claim["pin"])

    def _asked(self) -> set[tuple[str, str]]:
        """Devices with the models that they asked for: who has not is in no rollout's population."""
        return {
            (device["device_id"], item["model"])
            for device in self.control.every("devices")
            for item in device["running"]
            if device["online"]
        }

    def wait(self, expected: str, look: Callable[[], Seen], enough: Callable[[Seen], bool]) -> Seen:
        """Look once a second until it is enough; fails with what was seen last."""
        deadline_s = time.monotonic() + WITHIN_S
        while not enough(seen := look()):
            assert time.monotonic() < deadline_s, f"expected {expected} within {WITHIN_S:g} s, got {seen}"
            time.sleep(LOOK_EVERY_S)
        return seen

    # ------------------------------------------------------------ rollouts

    def start(self, model: str, version: str, policy: Mapping[str, object], seed: str = "any") -> str:
        """Start a rollout; returns its id."""
        body = {"model": model, "version": version, "policy": policy, "seed": seed}
        return str(self.control.post("rollouts", body)["id"])

    def act(self, rollout: str, action: str) -> None:
        """An operator's word."""
        self.control.post(f"rollouts/{rollout}:{action}", {"reason": "the test says so"})

    def state(self, rollout: str) -> str:
        """Its state."""
        return str(self.control.get(f"rollouts/{rollout}")["state"])

    def until(self, rollout: str, *states: str, meanwhile: Callable[[], object] = lambda: None) -> None:
        """Wait for one of these states."""

        def look() -> str:
            meanwhile()
            return self.state(rollout)

        self.wait(f"rollout {rollout} {' or '.join(states)}", look, lambda state: state in states)

    def decisions(self, rollout: str) -> list[Any]:
        """Oldest first."""
        return sorted(self.control.every(f"rollouts/{rollout}/decisions"), key=lambda item: item["id"])

    # ------------------------------------------------------------ experiments

    def compare(self, model: str, spec: Mapping[str, object]) -> str:
        """Start an experiment; returns its id."""
        experiment = str(self.control.post("experiments", {"model": model, "spec": spec})["id"])
        self.control.post(f"experiments/{experiment}:start", {})
        return experiment

    def decided(self, experiment: str) -> dict[str, Any]:
        """Wait until it says which arm it is, or that it cannot."""
        seen: dict[str, Any] = self.wait(
            f"experiment {experiment} to be decided",
            lambda: self.control.get(f"experiments/{experiment}"),
            lambda seen: seen["state"] in {"decided", "stopped"},
        )
        return seen

    def promote(self, experiment: str, policy: Mapping[str, object]) -> str:
        """Turn the winner into a rollout; returns its id."""
        return str(self.control.post(f"experiments/{experiment}:promote", {"policy": policy})["rollout"])

    # ------------------------------------------------------------ devices

    def running(self, model: str, ids: Sequence[str]) -> dict[str, tuple[str, str]]:
        """Version and state that each of these devices attests for the model."""
        return {
            device["device_id"]: (item["version"], item["state"])
            for device in self.control.every("devices")
            for item in device["running"]
            if device["device_id"] in ids and item["model"] == model
        }

    def reports(self, device_id: str, model: str, version: str) -> list[Any]:
        """What a device reported of its update to a version, oldest first."""
        items = reversed(self.control.every(f"devices/{device_id}/timeline"))
        return [
            item["report"] | {"state": item["state"]}
            for item in items
            if (item["model"], item["version"]) == (model, version)
        ]

    def settled(self, model: str, ids: Sequence[str], version: str) -> None:
        """Wait until all of these devices have committed the version."""
        self.wait(
            f"{len(ids)} devices on {model}@{version}",
            lambda: self.running(model, ids),
            lambda seen: len(seen) == len(ids) and all(item == (version, "committed") for item in seen.values()),
        )

    def close(self) -> None:
        """Stop devices, then the control plane."""
        list(self.threads.map(SquadProcesses.stop, self.squads.values()))
        self.control.stop()
        self.threads.shutdown()


@contextmanager
def running(directory: Path, squads: Sequence[Squad], versions: Mapping[str, Sequence[Path]]) -> Iterator[Field]:
    """A field with everything published and everybody there; all of it is stopped at the end."""
    field = Field(directory, squads)
    try:
        field.begin(versions)
        yield field
    finally:
        field.close()


def seed_for(treated: Sequence[str], control: Sequence[str]) -> str:
    """A seed that puts exactly the `treated` of both in the first phase, and the others in the control."""
    first, last = share_range(TREATED_SHARE), control_range(CONTROL_SHARE)
    for number in itertools.count():
        seed = f"field-{number}"
        if all(bucket(seed, device) in first for device in treated) and all(
            bucket(seed, device) in last for device in control
        ):
            return seed
    raise AssertionError("unreachable")
