"""The client as an application holds it."""

from pathlib import Path

import pytest

from device_client.sdk import Client


def test_client__in_a_with_block_without_a_device__serves_nothing_and_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODELFLEET_DEVICE_STATE", str(tmp_path))
    with Client.from_env() as fleet:
        assert not fleet.alive
        assert not fleet.stopping
    assert fleet.stopping
