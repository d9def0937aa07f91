"""Things outside Python that some tests need: where they are, how to start and stop them, how to get them."""

import os
import random
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from fleet.entrypoints.up.addresses import port_is_free

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
# Below those that any system hands out by itself (Linux from 32768, others from 49152), above the product's own.
OWN_PORTS: Final = range(20_000, 32_000)
_marks: list[socket.socket] = []
CHROMIUM_HINT = "install Debian's `chromium`, or set MODELFLEET_CHROMIUM to the program of one"


def find_chromium() -> str | None:
    """The program of an installed Chromium, or None."""
    if named := os.environ.get("MODELFLEET_CHROMIUM"):
        return named
    return next((found for name in CHROMIUM_NAMES if (found := shutil.which(name))), None)


def own_port() -> int:
    """A loopback port that nobody listens on, and that nobody takes before the test does.

    It is none of those that the system gives to whoever asks for any, or to connections; other test processes of this
    machine pass over it until this one ends.
    """
    for port in random.SystemRandom().sample(OWN_PORTS, len(OWN_PORTS)):
        # A name without a file, which vanishes with the process; systems without such names only look.
        mark = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with suppress(FileNotFoundError):
                mark.bind(f"\0modelfleet-tests-port-{port}")
        except OSError:
            mark.close()
            continue
        if port_is_free(port):
            _marks.append(mark)
            return port
        mark.close()
    raise RuntimeError(f"expected a free port from {OWN_PORTS[0]} to {OWN_PORTS[-1]}, got none")


@contextmanager
def moto_server(*, timeout_s: float = 60.0) -> Iterator[str]:
    """Moto's S3 in a process of its own; yields its address. It does not check signatures: no security test may use it."""
    port = own_port()
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
