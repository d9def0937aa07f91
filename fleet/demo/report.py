"""The end of the story: one table for people and the same figures as JSON, made of what was observed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fleet.demo import observations
from fleet.demo.observations import Candidate, Event, Performance, Running

MIB = 1024 * 1024
SLOW = "5"


@dataclass(frozen=True)
class Observed:
    """Everything that the report is made of."""

    devices: Sequence[Running]
    events: Sequence[Event]
    performance: Sequence[Performance]
    decisions: Sequence[Mapping[str, Any]]
    candidates: Sequence[Candidate]
    witness_served: int
    witness_failed: int
    killed: str
    experiment: Mapping[str, Any]
    seconds: float


def build(seen: Observed) -> dict[str, Any]:
    """The report as JSON. Bytes are those of updates of devices that had a version before: v1 came to empty ones."""
    updates = [event for event in seen.events if event.state == observations.COMMITTED and event.transport != "none"]
    later = [event for event in updates if event.version != "1"]
    now = observations.count_by_version(seen.devices)
    server_failed = sum(item.errors for item in seen.performance)
    return {
        "devices": len(seen.devices),
        "versions": {
            item.version: {
                "accuracy": item.accuracy,
                "p95_ms": item.p95_ms,
                "devices": len(observations.exposed(seen.events, item.version)),
                "devices_now": now.get(item.version, 0),
                "inferences": item.inferences,
            }
            for item in sorted(seen.performance, key=lambda item: item.version)
        },
        "bytes_full": sum(event.bytes_total for event in later),
        "bytes_sent": sum(event.bytes_received for event in later),
        "bytes_tensor1": observations.bytes_by("tensor1", later, seen.candidates),
        "bytes_bsdiff4": observations.bytes_by("bsdiff4", later, seen.candidates),
        "patches": [
            {"codec": item.codec, "patch_bytes": item.patch_bytes, "new_bytes": item.new_bytes}
            for item in sorted(seen.candidates, key=lambda item: (item.new_bytes, item.digest, item.codec))
        ],
        "bytes_first_install": sum(event.bytes_received for event in updates if event.version == "1"),
        "exposed_to_v3": len(observations.exposed(seen.events, "3")),
        "seconds_to_revert": observations.seconds_to_revert(seen.events, "3", "2"),
        "experiment": dict(seen.experiment),
        "slow_model": _slow_model(seen),
        "tampered_refused": len(observations.refused(seen.events, "4", "digest_mismatch")),
        "killed_device_recovered": any(
            event.device_id == seen.killed and event.resumed_from > 0
            for event in observations.updates(seen.events, "2")
        ),
        "failed_inferences": max(server_failed, seen.witness_failed),
        "inferences_seen_by_applications": seen.witness_served,
        "decisions": [f"{item['rollout']} {item['action']}: {item['sentence']}" for item in seen.decisions],
        "device_list": [
            {
                "id": item.device_id,
                "hardware_class": item.hardware_class,
                "version": item.version,
                "digest": item.digest,
            }
            for item in seen.devices
        ],
        "seconds": round(seen.seconds, 1),
    }


def failures(report: Mapping[str, Any], devices: int) -> list[str]:
    """Where the figures are not what the story says; empty if all is well."""
    versions = report["versions"]
    first_phase = 4
    checks = {
        f"{devices} devices": report["devices"] == devices,
        f"all {devices} devices on v2 at the end": versions.get("2", {}).get("devices_now") == devices,
        "v2 at least 6 points more accurate than v1": _accuracy(versions, "2") >= _accuracy(versions, "1") + 0.06,
        "v3 at least 20 points less accurate than v2": _accuracy(versions, "3") <= _accuracy(versions, "2") - 0.2,
        f"v3 on {first_phase} devices, those of the first phase": report["exposed_to_v3"] == first_phase,
        "the A/B test won by v2, its whole interval above zero": report["experiment"]["verdict"] == "ship"
        and report["experiment"]["lower"] > 0,
        "devices on the arms as meant": not report["experiment"]["srm"]["mismatch"],
        f"v5 on {first_phase} devices, stopped for its latency": report["slow_model"]["exposed"] == first_phase
        and report["slow_model"]["stopped_by_latency"],
        "every device that had v5 back on v2": report["slow_model"]["seconds_to_revert"] is not None,
        "every device that had v3 back on v2": report["seconds_to_revert"] is not None,
        "v4 refused by every device": report["tampered_refused"] == devices and "4" not in versions,
        "the killed device went on where it was": report["killed_device_recovered"],
        "no inference failed": report["failed_inferences"] == 0,
        "deltas smaller than full files": 0 < report["bytes_sent"] < report["bytes_full"],
        "tensor1 smaller than bsdiff4": 0 < report["bytes_tensor1"] < report["bytes_bsdiff4"],
        # The killed device takes a little twice; more than that would be files instead of patches.
        "the smaller patches shipped": report["bytes_sent"] < (report["bytes_tensor1"] + report["bytes_bsdiff4"]) / 2,
    }
    return [expected for expected, holds in checks.items() if not holds]


def _slow_model(seen: Observed) -> dict[str, Any]:
    """What became of the version that is right and too slow."""
    revert = next((item for item in seen.decisions if item["version"] == SLOW and item["action"] == "revert"), None)
    sentence = "" if revert is None else str(revert["sentence"])
    return {
        "exposed": len(observations.exposed(seen.events, SLOW)),
        "sentence": sentence,
        "stopped_by_latency": revert is not None and revert["verdict"] == "fail" and "slower than" in sentence,
        "seconds_to_revert": observations.seconds_to_revert(seen.events, SLOW, "2"),
    }


def _told(experiment: Mapping[str, Any]) -> str:
    low, high, srm = 100 * experiment["lower"], 100 * experiment["upper"], experiment["srm"]
    shares = "devices on the arms as meant" if not srm["mismatch"] else "SAMPLE-RATIO MISMATCH"
    return f"{experiment['verdict']}: accuracy {low:+.1f} to {high:+.1f} points, {shares} (p {srm['p']:.2g})"


def _accuracy(versions: Mapping[str, Any], version: str) -> float:
    accuracy = versions.get(version, {}).get("accuracy")
    return float("nan") if accuracy is None else float(accuracy)


def _saved(sent: float, instead_of: float) -> str:
    return f"{100 * (1 - sent / instead_of):.0f} %" if instead_of else "nothing"


def table(report: Mapping[str, Any]) -> str:
    """The same figures for people."""
    lines = ["version  accuracy   p95        ran on   runs on", "-" * 48]
    for version, item in report["versions"].items():
        accuracy = "-" if item["accuracy"] is None else f"{100 * item['accuracy']:.1f} %"
        p95 = "-" if item["p95_ms"] is None else f"{item['p95_ms']:.2f} ms"
        lines.append(f"v{version:<7} {accuracy:<10} {p95:<10} {item['devices']:<8} {item['devices_now']}")
    seconds, slow = report["seconds_to_revert"], report["slow_model"]
    sent, full = report["bytes_sent"] / MIB, report["bytes_full"] / MIB
    other = report["bytes_bsdiff4"] / MIB
    lines += [
        "",
        f"devices                     {report['devices']}",
        f"bytes of updates            {sent:.2f} MiB sent: {_saved(sent, full)} less than the {full:.2f} MiB in full,",
        f"                            {_saved(sent, other)} less than the {other:.2f} MiB of bsdiff4 patches",
        f"exposed to v3               {report['exposed_to_v3']} devices, back on v2 "
        + ("never" if seconds is None else f"{seconds:.0f} s after the first exposure"),
        f"A/B test of v2              {_told(report['experiment'])}",
        f"slow v5                     {slow['exposed']} devices, stopped: {slow['sentence'].removeprefix('FAIL: ')}",
        f"refused the altered v4      {report['tampered_refused']} devices",
        f"killed device recovered     {'yes, from where it was' if report['killed_device_recovered'] else 'NO'}",
        f"failed inferences           {report['failed_inferences']} of {report['inferences_seen_by_applications']:,}",
    ]
    return "\n".join(lines)
