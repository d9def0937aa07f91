"""What most tests of the server begin with; a file that begins elsewhere says so under the same name."""

import pytest

from tests.server.story import Story


@pytest.fixture
def story() -> Story:
    """The fleet with version 1 published and nothing on it."""
    told = Story()
    told.push("1")
    return told
