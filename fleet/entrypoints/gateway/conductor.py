"""Looks at the rollouts and experiments under way, again and again: one line for each decision, one for each change of leadership.

What is decided, and by what evidence, is `rollouts`' and the domain's; this only keeps the beat.
"""

import logging
import threading
from collections.abc import Iterable
from datetime import datetime
from typing import Final, Protocol

from fleet.apps.experiments import conducting as experiments
from fleet.apps.rollouts import services as rollouts
from fleet.apps.rollouts.records import TickRecord
from fleet.apps.telemetry.pasts import PastCache
from fleet.domain.failures import Failure
from fleet.entrypoints.gateway.lifecycle import StoppedError, with_database
from fleet.ports.clock import Clock

logger = logging.getLogger(__name__)

INTERVAL_S: Final = 1.0
LEAST_JUMP_S: Final = 5.0  # what time services correct by slewing, and a slow turn's database, stay below it


class Tick(Protocol):
    """One look at all rollouts, for `holder`."""

    def __call__(
        self, *, now: datetime, holder: str, jumped_s: float = 0.0, pasts: PastCache | None = None
    ) -> TickRecord:
        """Decide and apply. `jumped_s`: by how much the clock went ahead of the time that passed since the last look."""
        ...


class Conductor:
    """One conductor. `holder` must be unique among those that run; one of them leads."""

    def __init__(self, holder: str, clock: Clock, stop: threading.Event, *, interval_s: float = INTERVAL_S) -> None:
        self._holder = holder
        self._clock = clock
        self._stop = stop
        self._interval_s = interval_s
        self._leads: bool | None = None
        self._failures: dict[str, str] = {}
        self._pasts = PastCache()
        self._looked_at: tuple[datetime, float] | None = None

    def run(self) -> None:
        """Work until told to stop; then let another take over at once."""
        logger.info("conductor %s started, looking every %g s", self._holder, self._interval_s)
        try:
            while not self._stop.is_set():
                began_s = self._clock.monotonic_s()
                self.turn()
                self._stop.wait(max(0.0, self._interval_s - (self._clock.monotonic_s() - began_s)))
            if self._leads:
                with_database(
                    lambda: rollouts.resign(now=self._clock.now(), holder=self._holder), self._stop, attempts=1
                )
        except StoppedError:
            logger.info("stopped while the database did not answer")
        finally:
            logger.info("conductor %s stopped", self._holder)

    def turn(self, tick: Tick = rollouts.tick) -> TickRecord:
        """Look once."""
        now = self._clock.now()
        jumped_s = self._jump_s(now)
        seen = with_database(
            lambda: tick(now=now, holder=self._holder, jumped_s=jumped_s, pasts=self._pasts), self._stop
        )
        if seen.is_leader != self._leads:
            self._leads = seen.is_leader
            logger.info("%s leads" if seen.is_leader else "%s stands by: another conductor leads", self._holder)
        for made in seen.decisions:
            logger.info(
                "%s %s@%s phase %d %s: %s",
                *(made.rollout, made.model, made.version, made.phase + 1, made.action, made.sentence),
            )
        experiment_failures = self._experiments(jumped_s) if seen.is_leader else ()
        self._tell((*seen.failures, *experiment_failures))
        return seen

    def _experiments(self, jumped_s: float) -> tuple[Failure, ...]:
        """Look at the experiments; what could not be judged."""
        seen = with_database(
            lambda: experiments.tick(now=self._clock.now(), holder=self._holder, jumped_s=jumped_s), self._stop
        )
        for made in seen.decisions:
            logger.info("%s %s %s: %s", made.experiment, made.model, made.action, made.sentence)
        return seen.failures

    def _jump_s(self, now: datetime) -> float:
        """By how much the time of day went ahead of the time that passed since the last look; small steps are none."""
        last, self._looked_at = self._looked_at, (now, self._clock.monotonic_s())
        if last is None:
            return 0.0
        jumped_s = (now - last[0]).total_seconds() - (self._looked_at[1] - last[1])
        if abs(jumped_s) < LEAST_JUMP_S:
            return 0.0
        logger.warning(
            "the clock jumped by %+.0f s: phases move along, gates wait until devices were heard again", jumped_s
        )
        return jumped_s

    def _tell(self, failures: Iterable[Failure]) -> None:
        """A failure that lasts is said once, with its traceback, and again when it changes or ends."""
        present: dict[str, str] = {}
        for failure in failures:
            present[failure.subject] = failure.sentence
            if self._failures.get(failure.subject) != failure.sentence:
                logger.error("%s could not be judged: %s", failure.subject, failure.sentence, exc_info=failure.error)
        for subject in self._failures.keys() - present.keys():
            logger.info("%s can be judged again", subject)
        self._failures = present
