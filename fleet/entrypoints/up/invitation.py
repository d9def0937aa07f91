"""With `up --lan`: the one command that lets a first device of the network join, printed as soon as it can work."""

import asyncio
import secrets
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Final

from fleet.entrypoints.up.console import Console
from fleet.entrypoints.up.installation import Installation

_POLL_S: Final = 2.0
HARDWARE_CLASS: Final = "generic"


async def invite(installation: Installation, environment: Mapping[str, str], console: Console) -> None:
    """Wait until the server has roots that a device can trust, then print a claim for one device.

    The claim is made by the same command that an operator would use. It is for one device and expires in a day.
    """
    anchors_url = f"{installation.addresses.local_url}/device/v1/anchors"
    while not await asyncio.to_thread(_is_there, anchors_url):  # noqa: ASYNC110 - another process knows
        await asyncio.sleep(_POLL_S)
    made = await asyncio.to_thread(_make_claim, installation, environment)
    if made.returncode:
        lines = made.stderr.strip().splitlines()
        console.say(f"no command to join could be made: {lines[-1] if lines else made.returncode}")
        return
    console.say("To let a device of this network join, run on it (works once, within a day):")
    console.say(f"  {made.stdout.strip()} --model NAMESPACE.NAME")


def _make_claim(installation: Installation, environment: Mapping[str, str]) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(installation.root / "manage.py"), "create_claim", f"device-{secrets.token_hex(3)}"]
    return subprocess.run(
        [*command, "--hardware-class", HARDWARE_CLASS],
        cwd=installation.root,
        env=dict(environment),
        capture_output=True,
        text=True,
        check=False,
    )


def _is_there(url: str) -> bool:
    try:
        # The supervisor's own loopback address, never one from outside.
        with urllib.request.urlopen(url, timeout=2) as response:  # noqa: S310
            return bool(response.status == 200)  # noqa: PLR2004
    except (OSError, urllib.error.URLError):
        return False
