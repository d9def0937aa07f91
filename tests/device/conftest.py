"""A device whose ports are real but for the runtime, the clock and the broker, over a simulated server."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.device.rig import Rig
from tests.fakes.update_server import UpdateServerSimulator

SHARED_MEMORY = Path("/dev/shm")


@pytest.fixture
def server() -> Iterator[UpdateServerSimulator]:
    with UpdateServerSimulator().serving() as simulator:
        yield simulator


@pytest.fixture
def state_dir(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory where there is one: these tests sync thousands of times, and no disk is cut here."""
    if not os.access(SHARED_MEMORY, os.W_OK):
        yield tmp_path / "state"
        return
    with tempfile.TemporaryDirectory(prefix="mf-device-", dir=SHARED_MEMORY) as directory:
        yield Path(directory) / "state"


@pytest.fixture
def rig(server: UpdateServerSimulator, state_dir: Path) -> Iterator[Rig]:
    made = Rig(server, state_dir)
    yield made
    made.unplug()
