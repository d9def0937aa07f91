"""The story of the README on real data: a good model, a better one, a bad one, a slow one, an altered one.

Each step uses what a user has: the `modelfleet` command, HTTP with a token, the device client. Each step waits for what
it expects, with a bound, and a step that does not come true ends the story with a `StoryError`.
"""

import json
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from fleet.demo import models, observations, policies, report
from fleet.demo.comparison import Comparison
from fleet.demo.control_plane import LOGIN, ControlPlane
from fleet.demo.device_processes import DeviceProcesses, Enrolment
from fleet.demo.fleet_plan import (
    DEVICES,
    KILLED,
    MODEL,
    SEED_BETTER,
    SEED_INSTALL,
    SEED_TAMPERED,
    SEED_WORSE,
)
from fleet.demo.progress import Progress, StoryError

IMAGES_PER_S: Final = 10.0
LABEL_DELAY_S: Final = 1.5
SLOW_LINK: Final = "4kB"  # a second: slow enough to be killed in mid-download, however busy this machine is
FAST_LINK: Final = "100MB"
KILL_SHARE: Final = 0.3
PHASE_WITHIN_S: Final = policies.PATIENCE_S + 20.0
STEP_WITHIN_S: Final = 300.0  # on a machine that is busy otherwise; seconds on others


class Story:
    """One run in one directory. `tell` returns the report; `close` stops everything that was started."""

    def __init__(self, directory: Path, port: int | None) -> None:
        self.progress = Progress()
        self.control = ControlPlane(directory, port)
        self._directory = directory
        self._builds = directory / "models"
        self._devices = DeviceProcesses(directory / "devices", images_per_s=IMAGES_PER_S, label_delay_s=LABEL_DELAY_S)
        self._comparison = Comparison(self.control, self.progress, directory)
        self._rollouts: list[str] = []

    def tell(self) -> dict[str, Any]:
        """The whole story; raises `StoryError` at the first thing that is not as it should be."""
        self._begin()
        self._install()
        self._improve()
        self._degrade()
        self._tamper()
        self._slow_down()
        return self._end()

    def close(self) -> None:
        """Stop the devices, then the control plane."""
        self._devices.stop()
        self.control.stop()

    # ------------------------------------------------------------------------------------------ steps

    def _begin(self) -> None:
        say = self.progress.say
        self.progress.step("Start everything: models, control plane, keys, sixteen devices")
        build = models.build(self._builds)
        say(f"five model versions {'found' if build.cached else 'trained'} on the UCI handwritten digits")
        self.control.prepare()
        self.control.start()
        say(f"control plane at {self.control.url} (login {LOGIN} / {self.control.password})")
        self.control.modelfleet("keys", "init", str(self.control.keys), "--no-passphrase")
        self.control.modelfleet("models", "create", MODEL, "--keys", str(self.control.keys))
        say(f"keys in {self.control.keys}, outside the server's reach; model {MODEL} delegated to the pipeline's key")
        claims = {device: self._claim(device.id, device.hardware_class) for device in DEVICES}
        self._devices.enrol_all(claims)
        say(f"{len(DEVICES)} devices enrolled with certificates of their own")
        for device in DEVICES:
            self._devices.start(device.id)
        self.progress.wait(
            f"{len(DEVICES)} devices online",
            lambda: sum(device.online for device in observations.running(self.control)),
            lambda online: online == len(DEVICES),
            within_s=STEP_WITHIN_S,
            tell=lambda online: f"{online} of {len(DEVICES)} devices online over mTLS",
        )

    def _claim(self, device_id: str, hardware_class: str) -> Enrolment:
        claim = self.control.post(
            "enrolment/claims", {"device_id": device_id, "hardware_class": hardware_class, "expires_in_s": 3600}
        )
        return Enrolment(self.control.url, claim["token"], claim["pin"])

    def _install(self) -> None:
        self.progress.step("v1: first install, in full; devices serve and labels come back")
        self._push("1")
        rollout = self._start("1", policies.everyone(allow_delta=True), SEED_INSTALL)
        self._until(rollout, "completed")
        self._measured("1")

    def _improve(self) -> None:
        self.progress.step(f"v2: is it better? An A/B test, by delta; {KILLED} is killed in mid-download")
        self._push("2")
        self._devices.leave(KILLED)
        self._devices.start(KILLED, bandwidth=SLOW_LINK)
        self.progress.say(f"{KILLED} is now on a link of {SLOW_LINK}/s")
        self._comparison.start(policies.comparison(), SEED_BETTER)
        self._kill_in_download()
        self._comparison.verdict(PHASE_WITHIN_S, self._devices_alive)
        self.progress.step("v2 won: its share goes on to 50 and 100 %")
        rollout = self._comparison.promote(policies.ramp())
        self._rollouts.append(rollout)
        self._until(rollout, "completed", phases=2)
        updates = observations.updates(observations.timeline(self.control), "2")
        sent, full = sum(item.bytes_received for item in updates), sum(item.bytes_total for item in updates)
        by_delta = sum(item.transport == "delta" for item in updates)
        made = observations.candidates(self.control)
        other = observations.bytes_by("bsdiff4", updates, made)
        self.progress.say(
            f"{by_delta} of {len(updates)} devices updated by delta: {sent:,} bytes instead of {full:,} in full "
            f"({100 * (1 - sent / max(full, 1)):.0f} % saved) or {other:,} with bsdiff4 alone "
            f"({100 * (1 - sent / max(other, 1)):.0f} % saved)"
        )
        for item in sorted(made, key=lambda item: (-item.new_bytes, item.patch_bytes)):
            self.progress.say(
                f"patch that the server made and tried: {item.codec:8} {item.patch_bytes:>9,} of {item.new_bytes:,} bytes"
            )
        self._measured("2")

    def _kill_in_download(self) -> None:
        def look() -> float:
            status = self._devices.status(KILLED)["models"].get(MODEL, {})
            return float(status.get("bytes_done", 0)) / max(float(status.get("bytes_total", 0)), 1.0)

        self.progress.wait(
            f"{KILLED} downloading, past {KILL_SHARE:.0%}",
            look,
            lambda share: KILL_SHARE < share < 1,
            within_s=STEP_WITHIN_S,
            tell=lambda share: f"{KILLED} is downloading: {share:.0%}" if share else "",
        )
        self._devices.kill(KILLED)
        self.progress.say(f"{KILLED} killed with SIGKILL; starting it again")
        self._devices.start(KILLED, bandwidth=FAST_LINK)

    def _degrade(self) -> None:
        self.progress.step("v3: loads, passes its self-test, and is much worse in the field")
        self._push("3")
        rollout = self._start("3", policies.ramp(), SEED_WORSE)
        self._until(rollout, "reverted")
        self._all_back_from("3")

    def _tamper(self) -> None:
        self.progress.step("v4: its blobs are altered in the store after publication; everyone at once, no deltas")
        self._push("4")
        for blob in self._weights("4"):
            _alter(blob)
            self.progress.say(f"altered blob {blob.name[:16]}... in the server's store")
        # So high a limit that the rollout goes on until the last device has refused: the story is about all of them.
        policy = policies.everyone(allow_delta=False, max_failed_share=0.95)
        rollout = self._start("4", policy, SEED_TAMPERED)
        self._until(rollout, "reverted")
        self._all_on("2")
        self.progress.wait(
            "every device to refuse v4",
            lambda: observations.refused(observations.timeline(self.control), "4", "digest_mismatch"),
            lambda refused: len(refused) == len(DEVICES),
            within_s=STEP_WITHIN_S,
            tell=lambda refused: f"{len(refused)} of {len(DEVICES)} devices refused v4 and went on serving v2",
        )

    def _slow_down(self) -> None:
        self.progress.step("v5: as right as v2, and needs tens of milliseconds where five are allowed")
        self._push("5")
        rollout = self._start("5", policies.impatient(), SEED_WORSE)
        self._until(rollout, "reverted")
        self._all_back_from("5")

    def _end(self) -> dict[str, Any]:
        self.progress.step("What was observed")
        self._devices_alive()
        witnesses = [self._devices.witness(device.id) for device in DEVICES]
        return report.build(
            report.Observed(
                devices=observations.running(self.control),
                events=observations.timeline(self.control),
                performance=observations.performance(self.control),
                decisions=[
                    item for rollout in self._rollouts for item in observations.decisions(self.control, rollout)
                ],
                candidates=observations.candidates(self.control),
                witness_served=sum(item["served"] for item in witnesses),
                witness_failed=sum(item["failed"] for item in witnesses),
                killed=KILLED,
                experiment=self._comparison.figures(),
                seconds=self.progress.elapsed_s,
            )
        )

    # ------------------------------------------------------------------------------------------ parts of steps

    def _push(self, version: str) -> None:
        pushed = self.control.modelfleet(
            "push", MODEL, str(models.version_dir(self._builds, version)), "--keys", str(self.control.keys), "--wait"
        )
        self.progress.say(f"pushed {MODEL}@{pushed['version']}: signed by the pipeline, inspected, published")
        if pushed["version"] != version:
            raise StoryError(f"expected version {version}, got {pushed['version']}")

    def _start(self, version: str, policy: Mapping[str, object], seed: str) -> str:
        path = self._directory / f"policy-v{version}.json"
        path.write_text(json.dumps(policy, indent=2))
        started = self.control.modelfleet(
            "rollout", "start", f"{MODEL}@{version}", "--policy", str(path), "--seed", seed
        )
        rollout = str(started["id"])
        self._rollouts.append(rollout)
        self.progress.say(f"rollout {rollout} of v{version} started")
        return rollout

    def _until(self, rollout: str, state: str, phases: int = 1) -> None:
        """Wait for the rollout's end, telling its decisions and its devices as they come."""
        told: set[int] = set()

        def look() -> tuple[str, str]:
            self._devices_alive()
            for item in observations.decisions(self.control, rollout):
                if item["id"] not in told:
                    told.add(item["id"])
                    self.progress.decided(item["action"], item["sentence"])
            now = self.control.get(f"rollouts/{rollout}")["state"]
            counts = observations.count_by_version(observations.running(self.control))
            return now, ", ".join(f"{count} {_on(version)}" for version, count in counts.items())

        seen = self.progress.wait(
            f"rollout {rollout} {state}",
            look,
            lambda seen: seen[0] in observations.ENDED,
            within_s=PHASE_WITHIN_S * phases,
            tell=lambda seen: seen[1],
        )
        look()
        if seen[0] != state:
            raise StoryError(f"expected rollout {rollout} to end {state}, got {seen[0]}")

    def _all_back_from(self, version: str) -> None:
        """Wait until no device serves `version` any more, and tell how long that took."""
        self._all_on("2")
        self.progress.wait(
            "every treated device back on v2",
            lambda: observations.seconds_to_revert(observations.timeline(self.control), version, "2"),
            lambda seconds: seconds is not None,
            within_s=STEP_WITHIN_S,
            tell=lambda seconds: (
                f"treated devices back on v2, {seconds:.0f} s after the first exposure" if seconds else ""
            ),
        )

    def _all_on(self, version: str) -> None:
        self.progress.wait(
            f"every device on v{version}",
            lambda: observations.count_by_version(observations.running(self.control)),
            lambda counts: counts.get(version) == len(DEVICES),
            within_s=STEP_WITHIN_S,
            tell=lambda _: "",
        )

    def _measured(self, version: str) -> None:
        """Wait for labels of a version, and tell its accuracy and latency."""
        least = policies.LABELS_PER_DEVICE * len(DEVICES) // 2

        def look() -> observations.Performance | None:
            return next((p for p in observations.performance(self.control) if p.version == version), None)

        seen = self.progress.wait(
            f"{least} inferences of v{version} with labels",
            look,
            lambda seen: seen is not None and seen.inferences >= least and seen.accuracy is not None,
            within_s=STEP_WITHIN_S,
            tell=lambda _: "",
        )
        if seen is not None and seen.accuracy is not None and seen.p95_ms is not None:
            self.progress.say(
                f"v{version} in the field: accuracy {100 * seen.accuracy:.1f} %, p95 {seen.p95_ms:.2f} ms "
                f"over {seen.inferences:,} inferences on {seen.devices} devices"
            )

    def _devices_alive(self) -> None:
        for device_id in self._devices.ended():
            raise StoryError(f"expected {device_id} to run, got its end: {self._devices.log_tail(device_id)}")
        if not self.control.running:
            raise StoryError("expected the control plane to run, got its end")

    def _weights(self, version: str) -> Iterator[Path]:
        """The weights of a version as files of the server's store."""
        for variant in self.control.get(f"models/{MODEL}/versions/{version}")["variants"]:
            sha256 = variant["weights_sha256"]
            found = list((self.control.home / "blobs").rglob(sha256))
            if not found:
                raise StoryError(f"expected blob {sha256} in the server's store, got none")
            yield found[0]


def _on(version: str) -> str:
    return f"on v{version}" if version else "without a model"


def _alter(blob: Path) -> None:
    """Change sixteen bytes in the middle, as a broken disk or an intruder would; the length stays."""
    blob.chmod(0o600)
    with blob.open("r+b") as file:
        file.seek(blob.stat().st_size // 2)
        file.write(secrets.token_bytes(16))
