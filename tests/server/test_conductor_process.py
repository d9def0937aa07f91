"""The conductor's beat: what it logs, that it goes on, that it hands over."""

import logging
import threading
from datetime import UTC, datetime

import pytest

from fleet.apps.rollouts import services
from fleet.apps.rollouts.records import DecisionRecord, TickRecord
from fleet.domain.failures import Failure
from fleet.entrypoints.gateway.conductor import Conductor

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


class FixedClock:
    """Always the same moment."""

    def now(self) -> datetime:
        return NOW

    def monotonic_s(self) -> float:
        return 0.0


@pytest.fixture
def conductor() -> Conductor:
    """One that is looked at turn by turn."""
    return Conductor("here:1", FixedClock(), threading.Event())


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [record.getMessage() for record in caplog.records if record.name.endswith("gateway.conductor")]
    caplog.clear()
    return found


def decided() -> DecisionRecord:
    return DecisionRecord(
        1, "r-0123456789ab", "vision.digits", "3", 0, NOW, "revert", "fail", "conductor", "FAIL: accuracy", {}
    )


@pytest.mark.django_db
def test_turn__decision__is_one_readable_line(conductor: Conductor, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    conductor.turn(lambda **_: TickRecord(True, (decided(),)))
    assert lines(caplog) == ["here:1 leads", "r-0123456789ab vision.digits@3 phase 1 revert: FAIL: accuracy"]


@pytest.mark.django_db
def test_turn__failure_lasts__is_said_once_and_when_it_ends(
    conductor: Conductor, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    failing = TickRecord(True, failures=(Failure("r-0123456789ab", ValueError("no\nrow")),))
    for seen in (failing, failing, TickRecord(True)):
        conductor.turn(lambda seen=seen, **_: seen)
    assert lines(caplog)[1:] == [
        "r-0123456789ab could not be judged: ValueError: no",
        "r-0123456789ab can be judged again",
    ]


@pytest.mark.django_db
def test_turn__another_leads__says_so_once(conductor: Conductor, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for _ in range(3):
        conductor.turn(lambda **_: TickRecord(False))
    assert lines(caplog) == ["here:1 stands by: another conductor leads"]


class StopsAtFirstPause(threading.Event):
    """Told to stop while it waits for its next look."""

    def wait(self, timeout: float | None = None) -> bool:
        self.set()
        return True


@pytest.mark.django_db
def test_run__told_to_stop__lets_another_lead_at_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    Conductor("here:1", FixedClock(), StopsAtFirstPause()).run()
    assert lines(caplog)[1:] == ["here:1 leads", "conductor here:1 stopped"]
    assert services.tick(now=NOW, holder="there:2").is_leader
