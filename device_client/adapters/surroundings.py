"""How the machine is at this moment, for policies that wait until it is charging, idle or on an unmetered network.

Linux says whether it has mains power and how busy it is; nothing says whether a network costs money, so whoever runs the
device may write that, or anything else, into `present.json` in the state directory: what stands there comes first.
"""

import json
import os
import shutil
from pathlib import Path

from device_client.wire.errors import WireError
from device_client.wire.fields import Fields
from device_client.wire.messages import Present

POWER = Path("/sys/class/power_supply")
LOCALTIME = Path("/etc/localtime")
MEMORY = Path("/proc/meminfo")
TOLD = "present.json"
IDLE_LOAD = 0.5  # of one core, over the last minute


def present(root: Path, *, power: Path = POWER, memory: Path = MEMORY) -> Present:
    """What can be told now; `root` is the state directory. A file that cannot be read tells nothing."""
    measured = Present(
        charging=_charging(power),
        idle=os.getloadavg()[0] < IDLE_LOAD,
        free_disk_bytes=shutil.disk_usage(root).free,
        free_ram_bytes=_available(memory),
    )
    try:
        told = json.loads((root / TOLD).read_text(encoding="utf-8"))
        return Present.parse(Fields.of({**measured.encode(), **told}, TOLD))
    except (OSError, ValueError, TypeError, WireError):
        return measured


def time_zone(link: Path = LOCALTIME) -> str:
    """The IANA name of the machine's time zone; empty where the system does not say."""
    try:
        target = str(link.readlink())
    except OSError:
        return ""
    return target.partition("zoneinfo/")[2]


def _charging(power: Path) -> "bool | None":
    """Whether a supply that is no battery is online; a machine that has no battery runs on mains."""
    try:
        supplies = [(_read(path / "type"), path) for path in sorted(power.iterdir())]
    except OSError:
        return None
    if not any(kind == "Battery" for kind, _ in supplies):
        return True
    return any(kind != "Battery" and _read(path / "online") == "1" for kind, path in supplies)


def _available(memory: Path) -> "int | None":
    for line in _read(memory).splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1_024
    return None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
