"""The client as an application holds it."""

from pathlib import Path

import numpy as np
import pytest

from device_client import assembly
from device_client.config import Config, state_paths
from device_client.sdk import Client
from device_client.wire.states import UpdateState
from tests.device.rig import DEVICE, MODEL, FakeRuntime, Rig, weights
from tests.fakes.update_server import UpdateServerSimulator


def test_client__in_a_with_block_without_a_device__serves_nothing_and_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODELFLEET_DEVICE_STATE", str(tmp_path))
    with Client.from_env() as fleet:
        assert not fleet.alive
        assert not fleet.stopping
    assert fleet.stopping


def test_client__database_cannot_be_opened__serves_what_is_installed(
    rig: Rig, server: UpdateServerSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = server.push(MODEL, "1", weights(1.0))
    server.assign(DEVICE, manifest)
    rig.start()
    rig.run_to(UpdateState.COMMITTED, manifest)
    rig.unplug()
    paths = state_paths(rig.state)
    (rig.state / "device.json").write_bytes(
        Config(DEVICE, server.url, "127.0.0.1", 1, server.url, models=(MODEL,)).encode()
    )
    for name in ("-wal", "-shm"):
        paths.database.with_name(paths.database.name + name).unlink(missing_ok=True)
    paths.database.write_bytes(b"no database" * 100)
    monkeypatch.setenv("MODELFLEET_DEVICE_STATE", str(rig.state))
    monkeypatch.setattr(assembly, "installed_runtimes", lambda _threads: {"fake": FakeRuntime()})
    with Client.from_env() as fleet:
        model = fleet.model(MODEL)
        fleet.start()
        assert not fleet.alive
        with model.lease() as lease:
            assert float(lease.infer(x=np.array([[1.0]], np.float32)).outputs["y"][0, 0]) == 2.0
