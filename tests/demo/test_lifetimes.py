"""What the demonstration starts does not outlive it, even when it is killed."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

PARENT = """
import subprocess, sys, time
from pathlib import Path
from fleet.demo import device_processes

device_processes._COMMAND = [sys.executable, "-c", "import time; time.sleep(60)"]  # a device that never ends by itself
root = Path(sys.argv[1])
(root / "cam-01").mkdir()
devices = device_processes.DeviceProcesses(root, images_per_s=1, label_delay_s=1)
devices.start("cam-01")
print(devices._running["cam-01"].pid, flush=True)
time.sleep(60)
"""


def test_demo__killed__its_devices_end(tmp_path: Path) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    device = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 30
    with suppress(ProcessLookupError):
        while True:
            os.kill(device, 0)
            if time.monotonic() > deadline:
                os.kill(device, signal.SIGKILL)
                raise AssertionError(f"process {device} outlived its parent")
            time.sleep(0.05)
