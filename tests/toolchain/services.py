"""Things outside Python that some tests need: where they are, how to start and stop them, how to get them."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
CHROMIUM_HINT = "install Debian's `chromium`, or set MODELFLEET_CHROMIUM to the program of one"


def find_chromium() -> str | None:
    """The program of an installed Chromium, or None."""
    if named := os.environ.get("MODELFLEET_CHROMIUM"):
        return named
    return next((found for name in CHROMIUM_NAMES if (found := shutil.which(name))), None)


def free_port() -> int:
    """A loopback port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def moto_server(*, timeout_s: float = 60.0) -> Iterator[str]:
    """Moto's S3 in a process of its own; yields its address. It does not check signatures: no security test may use it."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    endpoint = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + timeout_s
        while True:
            with suppress(OSError), urllib.request.urlopen(f"{endpoint}/moto-api/", timeout=5):
                break
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"moto did not answer on {endpoint} (exit code {process.poll()})")
            time.sleep(0.1)
        yield endpoint
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
