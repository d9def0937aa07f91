"""Finds a mosquitto to run: an installed one, or Debian's packages unpacked into a directory, without a service.

Nothing is installed and nothing outside the given directory changes: `apt-get` is only asked to simulate and to download.
"""

import fcntl
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from fleet.entrypoints.up.errors import BrokerMissingError

OLDEST_SUPPORTED: Final = (2, 0)
# Debian keeps daemons out of an ordinary user's PATH.
SYSTEM_DIRECTORIES: Final = ("/usr/sbin", "/usr/local/sbin")
_HOW_TO: Final = "install mosquitto 2.0 or newer (Debian: apt-get install mosquitto)"
_APT_TIMEOUT_S: Final = 180


@dataclass(frozen=True)
class Mosquitto:
    """A mosquitto that runs here, and what it needs in its environment to do so."""

    executable: Path
    environment: dict[str, str] = field(default_factory=dict)


def find_mosquitto(tools: Path, say: Callable[[str], None]) -> Mosquitto:
    """The installed broker, else the one unpacked in `tools`, fetched now if need be; raises BrokerMissingError."""
    installed = shutil.which("mosquitto", path=":".join((os.environ.get("PATH", ""), *SYSTEM_DIRECTORIES)))
    if installed:
        found = Mosquitto(Path(installed))
        if _version(found) >= OLDEST_SUPPORTED:
            return found
        say(f"{installed} is older than mosquitto 2.0 and is left alone")
    tools.mkdir(parents=True, exist_ok=True)
    target = tools / "mosquitto"
    with (tools / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            say("fetching mosquitto (about 1 MB) ...")
            _fetch(tools, target)
    unpacked = _unpacked(target)
    if _version(unpacked) < OLDEST_SUPPORTED:
        raise BrokerMissingError(f"the mosquitto unpacked in {target} does not run here: {_HOW_TO}")
    return unpacked


def _unpacked(target: Path) -> Mosquitto:
    libraries = sorted({str(path.parent) for path in target.rglob("*.so*") if "plugin" not in path.name})
    return Mosquitto(target / "usr/sbin/mosquitto", {"LD_LIBRARY_PATH": ":".join(libraries)})


def _version(broker: Mosquitto) -> tuple[int, ...]:
    """(0,) for something that does not run."""
    try:
        # Its help goes to stdout and its exit status differs between releases, so only the text counts.
        shown = subprocess.run(
            [broker.executable, "-h"],
            env={**os.environ, **broker.environment},
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return (0,)
    match = re.search(r"mosquitto version (\d+)\.(\d+)", shown)
    return tuple(int(part) for part in match.groups()) if match else (0,)


def _fetch(tools: Path, target: Path) -> None:
    if not shutil.which("apt-get") or not shutil.which("dpkg"):
        raise BrokerMissingError(f"mosquitto was not found and there is no apt-get to fetch it with: {_HOW_TO}")
    with tempfile.TemporaryDirectory(dir=tools, prefix=".fetch-") as scratch_name:
        scratch = Path(scratch_name)
        try:
            packages = _needed_packages(())
            options: Sequence[str] = ()
        except subprocess.CalledProcessError:
            # A slim image has no package lists. They are fetched into the scratch directory, not for the system.
            options = _private_lists(scratch)
            _run(["apt-get", *options, "update", "-qq"], scratch)
            packages = _needed_packages(options, cwd=scratch)
        _run(["apt-get", *options, "-qq", "download", *packages], scratch)
        root = scratch / "root"
        root.mkdir()
        for archive in sorted(scratch.glob("*.deb")):
            _run(["dpkg", "-x", str(archive), str(root)], scratch)
        root.rename(target)


def _private_lists(scratch: Path) -> list[str]:
    for name in ("lists/partial", "archives/partial"):
        (scratch / name).mkdir(parents=True)
    return [
        "-o", f"Dir::State::lists={scratch / 'lists'}",
        "-o", f"Dir::Cache={scratch}",
        "-o", "APT::Sandbox::User=",
        "-o", "Debug::NoLocking=1",
    ]  # fmt: skip


def _needed_packages(options: Sequence[str], cwd: Path | None = None) -> list[str]:
    """Mosquitto and those of its libraries that are not on this machine, as apt resolves them."""
    command = ["apt-get", *options, "--simulate", "--no-install-recommends", "install", "mosquitto"]
    simulated = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=cwd, timeout=_APT_TIMEOUT_S, env=_plain_environment()
    ).stdout
    return [line.split()[1] for line in simulated.splitlines() if line.startswith("Inst ")]


def _run(command: Sequence[str], cwd: Path) -> None:
    try:
        subprocess.run(
            command,
            cwd=cwd,
            check=True,
            capture_output=True,
            text=True,
            timeout=_APT_TIMEOUT_S,
            env=_plain_environment(),
        )
    except subprocess.CalledProcessError as error:
        lines = [line for line in error.stderr.splitlines() if line.startswith(("E:", "dpkg"))]
        reason = lines[0] if lines else f"exit status {error.returncode}"
        raise BrokerMissingError(f"mosquitto could not be fetched ({reason}): {_HOW_TO}") from error
    except subprocess.TimeoutExpired as error:
        raise BrokerMissingError(f"mosquitto could not be fetched in {_APT_TIMEOUT_S} s: {_HOW_TO}") from error


def _plain_environment() -> dict[str, str]:
    return {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
