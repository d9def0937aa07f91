"""What the attacks on the broker run against."""

from collections.abc import Iterator

import pytest

from tests.embedded_broker import EmbeddedBroker, running_broker


@pytest.fixture(scope="module")
def embedded_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedBroker]:
    """One real mosquitto for a module."""
    with running_broker(tmp_path_factory.mktemp("broker")) as broker:
        yield broker
