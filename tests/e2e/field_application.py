"""The application of the devices of `test_rollouts`: the demo's camera, once for each model of its device.

Beside the camera's own counts it keeps, per model, every version that was ever served, in order: a line each in
`MODEL.versions`, the witness against what the fleet believes.
"""

import threading
from pathlib import Path

from device_client.config import load_config
from device_client.ports import Serving
from device_client.sdk.client import Client
from device_client.sdk.host import Listener
from fleet.demo import camera


def serve(device: Client) -> None:
    """Run one camera per model until the device stops."""
    cameras = []
    for name in load_config(device.paths).models:
        device.model(name).on_update(_recorder(device.state_dir / f"{name}.versions"))
        arguments = (device, name, device.state_dir / f"{name}.json")
        cameras.append(threading.Thread(target=camera.watch, args=arguments, name=name, daemon=True))
    for thread in cameras:
        thread.start()
    for thread in cameras:
        thread.join()


def _recorder(path: Path) -> Listener:
    def record(_old: Serving | None, new: Serving) -> None:
        with path.open("a") as file:
            file.write(f"{new.version}\n")

    return record
