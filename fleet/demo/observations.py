"""What the server observed, read from its public API and given names. Nothing here is preset or remembered."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from fleet.demo.control_plane import ControlPlane
from fleet.demo.fleet_plan import DEVICES, MODEL

COMMITTED: Final = "committed"
ENDED: Final = frozenset({"completed", "reverted", "cancelled", "held"})


@dataclass(frozen=True)
class Running:
    """What one device attests."""

    device_id: str
    hardware_class: str
    version: str
    digest: str
    state: str
    online: bool


@dataclass(frozen=True)
class Event:
    """One report on a device's timeline; `seen_at` is the server's clock."""

    device_id: str
    seen_at: datetime
    version: str
    state: str
    active_version: str
    transport: str
    failure: str
    bytes_received: int
    bytes_total: int
    resumed_from: int
    digest: str


@dataclass(frozen=True)
class Candidate:
    """A patch to one version's weights that the server made, shipped or not; `digest` is of the version's variant."""

    digest: str
    codec: str
    patch_bytes: int
    new_bytes: int


@dataclass(frozen=True)
class Performance:
    """One version over the fleet; None where nothing was measured."""

    version: str
    inferences: int
    errors: int
    accuracy: float | None
    p95_ms: float | None
    devices: int


def running(control: ControlPlane) -> list[Running]:
    """Every device with what it attests for the demo's model."""
    found = []
    for device in control.every("devices"):
        attested: Mapping[str, Any] = next((item for item in device["running"] if item["model"] == MODEL), {})
        found.append(
            Running(
                device_id=device["device_id"],
                hardware_class=device["hardware_class"],
                version=attested.get("version", ""),
                digest=attested.get("digest", ""),
                state=attested.get("state", ""),
                online=device["online"],
            )
        )
    return found


def timeline(control: ControlPlane) -> list[Event]:
    """Every report of every device, oldest first."""
    events = [_event(device.id, item) for device in DEVICES for item in control.every(f"devices/{device.id}/timeline")]
    return sorted(events, key=lambda event: event.seen_at)


def _event(device_id: str, item: Mapping[str, Any]) -> Event:
    report = item["report"]
    return Event(
        device_id=device_id,
        seen_at=datetime.fromisoformat(item["received_at"]),
        version=item["version"],
        state=item["state"],
        active_version=report["active_version"],
        transport=report["transport"],
        failure=report["failure"] or "",
        bytes_received=report["bytes_received"],
        bytes_total=report["bytes_total"],
        resumed_from=report["resumed_from"],
        digest=report["digest"],
    )


def candidates(control: ControlPlane) -> list[Candidate]:
    """Every patch that came out of the server's own trials. The demo's devices go from each version to the next only."""
    digests = {
        variant["weights_sha256"]: variant["digest"]
        for version in control.every(f"models/{MODEL}/versions")
        for variant in version["variants"]
    }
    return [
        Candidate(digests[item["new_sha256"]], item["codec"], item["made_bytes"], item["new_bytes"])
        for item in control.every(f"models/{MODEL}/deltas")
        if item["made_bytes"] is not None
    ]


def bytes_by(codec: str, updates: Iterable[Event], made: Iterable[Candidate]) -> int:
    """What these updates would have taken with patches of one codec: the rest of the bundle is the same for all."""
    sizes = {item.digest: item for item in made if item.codec == codec}
    total = 0
    for update in updates:
        found = sizes.get(update.digest)
        total += update.bytes_total
        if found is not None and found.patch_bytes < found.new_bytes:
            total -= found.new_bytes - found.patch_bytes
    return total


def performance(control: ControlPlane) -> list[Performance]:
    """Each version over all hardware classes."""
    return [
        Performance(
            version=item["version"],
            inferences=item["n"],
            errors=item["errors"],
            accuracy=item["accuracy"],
            p95_ms=item["p95_ms"],
            devices=item["devices"],
        )
        for item in control.get(f"models/{MODEL}/performance")["overall"]
    ]


def decisions(control: ControlPlane, rollout: str) -> list[Mapping[str, Any]]:
    """A rollout's decisions, oldest first."""
    return sorted(control.every(f"rollouts/{rollout}/decisions"), key=lambda item: item["id"])


def count_by_version(devices: Iterable[Running]) -> dict[str, int]:
    """How many devices attest each version; the empty one is none."""
    return dict(sorted(Counter(device.version for device in devices).items()))


def exposed(events: Iterable[Event], version: str) -> set[str]:
    """Devices that ever served a version."""
    return {event.device_id for event in events if event.active_version == version}


def seconds_to_revert(events: Iterable[Event], bad: str, good: str) -> float | None:
    """From the first device that served `bad` to the last of them that served `good` again."""
    listed = list(events)
    devices = exposed(listed, bad)
    started = next((event.seen_at for event in listed if event.active_version == bad), None)
    back: dict[str, datetime] = {}
    for event in listed:
        if event.device_id in devices and started is not None and event.seen_at >= started:
            if event.active_version == good:
                back.setdefault(event.device_id, event.seen_at)
            elif event.active_version == bad:
                back.pop(event.device_id, None)
    if started is None or set(back) != devices:
        return None
    return (max(back.values()) - started).total_seconds()


def refused(events: Iterable[Event], version: str, failure: str) -> set[str]:
    """Devices that reported `failure` for a version and never served it."""
    listed = list(events)
    failed = {event.device_id for event in listed if event.version == version and event.failure == failure}
    return failed - exposed(listed, version)


def updates(events: Iterable[Event], version: str) -> list[Event]:
    """The report that ended each device's update to a version. Devices that had it already fetch nothing, and are left out."""
    return [
        event for event in events if event.version == version and event.state == COMMITTED and event.transport != "none"
    ]
