"""The demo's devices: real `modelfleet-device` processes, each with a state directory of its own.

The end-to-end tests of rollouts run their fleets with it, too, each with an application of its own.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fleet.demo.control_plane import ROOT
from fleet.demo.fleet_plan import DemoDevice
from fleet.demo.progress import StoryError
from fleet.entrypoints.up.children import end_with_parent

APPLICATION: Final = "fleet.demo.camera:serve"
STOP_WITHIN_S: Final = 15.0
CORES: Final = os.cpu_count() or 2


@dataclass(frozen=True)
class Enrolment:
    """What a claim gives an installer: where to go, with which token, trusting which anchors."""

    server_url: str
    token: str
    pin: str


class DeviceProcesses:
    """Enrols, starts, kills and stops devices. Everything it stops, it started."""

    def __init__(
        self, directory: Path, *, images_per_s: float, label_delay_s: float, application: str = APPLICATION
    ) -> None:
        self._directory = directory
        self._application = application
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._environment = {key: value for key, value in os.environ.items() if not key.startswith("MODELFLEET_")}
        self._environment |= {
            "DEMO_IMAGES_PER_S": str(images_per_s),
            "DEMO_LABEL_DELAY_S": str(label_delay_s),
            "PYTHONUNBUFFERED": "1",
            # Sixteen devices share this machine's cores; real ones have their own.
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }

    def enrol_all(self, devices: Mapping[DemoDevice, Enrolment]) -> None:
        """Run `modelfleet-device enroll` for every device, as many at once as there are cores."""
        shutil.rmtree(self._directory, ignore_errors=True)
        with ThreadPoolExecutor(CORES) as pool:
            list(pool.map(lambda device: self._enrol(device, devices[device]), devices))

    def _enrol(self, device: DemoDevice, claim: Enrolment) -> None:
        arguments = ["enroll", claim.server_url, "--token", claim.token, "--pin", claim.pin]
        arguments += ["--state", str(self.state(device.id)), "--hardware-class", device.hardware_class]
        for model in device.models:
            arguments += ["--model", model]
        for precision in device.precisions:
            arguments += ["--precision", precision]
        self._command(device.id, *arguments)

    def start(self, device_id: str, *, bandwidth: str = "") -> None:
        """Start the device's one process: the agent with the application in it. `bandwidth`: of a slow link."""
        state = self.state(device_id)
        with (state / "device.log").open("ab") as log:
            self._running[device_id] = subprocess.Popen(
                [*_COMMAND, "run", "--state", str(state), "--app", self._application, *_link(bandwidth)],
                cwd=ROOT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=end_with_parent(),  # noqa: PLW1509 - what it does takes no lock
            )

    def state(self, device_id: str) -> Path:
        """The device's state directory."""
        return self._directory / device_id

    def kill(self, device_id: str) -> None:
        """SIGKILL: the process gets no chance to tidy up."""
        process = self._running.pop(device_id)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def leave(self, device_id: str) -> None:
        """Stop one device the way its supervisor would."""
        process = self._running.pop(device_id)
        process.terminate()
        try:
            process.wait(STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def status(self, device_id: str) -> Any:
        """What `modelfleet-device status --json` reads from the device's journal."""
        return json.loads(self._command(device_id, "status", "--state", str(self.state(device_id)), "--json"))

    def witness(self, device_id: str, counts: str = "camera.json") -> dict[str, Any]:
        """The application's own counts."""
        path = self.state(device_id) / counts
        return dict(json.loads(path.read_text())) if path.exists() else {"served": 0, "failed": 0}

    def ended(self) -> list[str]:
        """Devices whose process has ended by itself: there should be none."""
        return [device_id for device_id, process in self._running.items() if process.poll() is not None]

    def log_tail(self, device_id: str) -> str:
        """The last line that a device wrote, for a failure's report."""
        lines = (self.state(device_id) / "device.log").read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "nothing"

    def stop(self) -> None:
        """Ask every device to stop, then make sure."""
        for process in self._running.values():
            process.terminate()
        for device_id in tuple(self._running):
            self.leave(device_id)

    def _command(self, device_id: str, *arguments: str) -> str:
        done = subprocess.run(
            [*_COMMAND, *arguments], cwd=ROOT, env=self._environment, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            words = (done.stderr or done.stdout).strip().splitlines()
            raise StoryError(
                f"{device_id}: modelfleet-device {arguments[0]} ended with {done.returncode}: "
                f"{words[-1] if words else 'no words'}"
            )
        return done.stdout


def _link(bandwidth: str) -> tuple[str, ...]:
    return ("--bandwidth", bandwidth) if bandwidth else ()


_COMMAND: Final = (sys.executable, "-m", "device_client")
