"""What the contract tests run on."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.embedded_broker import EmbeddedBroker, running_broker


@pytest.fixture(scope="session")
def embedded_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedBroker]:
    """One real mosquitto for the session."""
    home: Path = tmp_path_factory.mktemp("broker")
    with running_broker(home) as broker:
        yield broker
