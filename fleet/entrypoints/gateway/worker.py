"""Does the work that is queued as rows: one job at a time, its lease extended while it runs.

A job runs in a thread of its own, so that this one can extend the lease and hear that it must stop. A stop gives a short
while to finish; then the job is given back and its thread ends with the process. A lost lease means that another worker
has the job: whatever the thread still does, its result is not recorded.
"""

import logging
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Final

from django.db import connections

from fleet.apps.jobs import services as jobs
from fleet.apps.jobs.records import JobRecord
from fleet.domain.errors import RefusedError
from fleet.entrypoints.gateway.lifecycle import StoppedError, with_database
from fleet.ports.clock import Clock

logger = logging.getLogger(__name__)

LEASE_S: Final = 60.0
POLL_S: Final = 0.5
FINISH_S: Final = 5.0
TIDY_S: Final = 15.0

Work = Callable[[Mapping[str, object], datetime], None]


class Worker:
    """One worker for the kinds of work in `kinds`. `owner` must be unique among the workers that run.

    `tidy` is called at the start and every `tidy_s` between two jobs: whoever wanted work that was given up learns of it so,
    because a job can end with its worker and without a word.
    """

    def __init__(
        self,
        kinds: Mapping[str, Work],
        owner: str,
        clock: Clock,
        stop: threading.Event,
        *,
        lease_s: float = LEASE_S,
        tidy: Callable[[datetime], None] | None = None,
        tidy_s: float = TIDY_S,
    ) -> None:
        self._kinds = kinds
        self._owner = owner
        self._clock = clock
        self._stop = stop
        self._lease_s = lease_s
        self._tidy = tidy
        self._tidy_s = tidy_s
        self._tidied_s = -math.inf

    def run(self) -> None:
        """Work until told to stop."""
        logger.info("worker %s started: %s", self._owner, ", ".join(sorted(self._kinds)))
        try:
            while not self._stop.is_set():
                if not self.turn():
                    self._stop.wait(POLL_S)
        except StoppedError:
            logger.info("stopped while the database did not answer")
        finally:
            logger.info("worker %s stopped", self._owner)

    def turn(self) -> bool:
        """Do one piece of work, if there is one; returns whether there was."""
        self._tidy_up()
        job = with_database(
            lambda: jobs.claim(
                kinds=list(self._kinds), owner=self._owner, lease_s=self._lease_s, now=self._clock.now()
            ),
            self._stop,
        )
        if job is None:
            return False
        began_s = self._clock.monotonic_s()
        logger.info("%s %s: begun, attempt %d of %d", job.kind, job.key, job.attempts, job.max_attempts)
        task = _Task(self._kinds[job.kind], job, self._clock)
        task.start()
        if not self._attend(task, job):
            return True
        with_database(lambda: self._settle(job, task.error), self._stop)
        logger.info(
            "%s %s: %s after %.1f s",
            job.kind,
            job.key,
            "done" if task.error is None else f"failed, {_line(task.error)},",
            self._clock.monotonic_s() - began_s,
        )
        return True

    def _tidy_up(self) -> None:
        tidy, now_s = self._tidy, self._clock.monotonic_s()
        if tidy is None or now_s < self._tidied_s + self._tidy_s:
            return
        self._tidied_s = now_s
        with_database(lambda: tidy(self._clock.now()), self._stop)

    def _attend(self, task: "_Task", job: JobRecord) -> bool:
        """Keep the lease until the task ends; False when the job is no longer ours to settle."""
        while task.is_alive():
            task.join(min(POLL_S, self._lease_s / 3))
            if self._stop.is_set():
                task.join(FINISH_S)
                if task.is_alive():
                    jobs.give_back(job=job, now=self._clock.now())
                    logger.info("%s %s: given back", job.kind, job.key)
                    return False
            elif task.is_alive() and not self._extend(job):
                logger.warning("%s %s: the lease was lost, its result will not count", job.kind, job.key)
                task.join()
                return False
        return True

    def _extend(self, job: JobRecord) -> bool:
        return with_database(lambda: jobs.extend(job=job, lease_s=self._lease_s, now=self._clock.now()), self._stop)

    def _settle(self, job: JobRecord, error: Exception | None) -> None:
        now = self._clock.now()
        if error is None:
            settled = jobs.finish(job=job, now=now)
        else:
            settled = jobs.fail(job=job, error=_line(error), now=now, permanent=isinstance(error, RefusedError))
        if not settled:
            logger.warning("%s %s: another worker has it, its result does not count", job.kind, job.key)


def run_together(workers: Sequence[Worker], stop: threading.Event) -> None:
    """Run them, each in a thread of its own, until told to stop. When one of them breaks, all stop and it is raised."""
    broken: list[Exception] = []

    def run(worker: Worker) -> None:
        try:
            worker.run()
        except Exception as error:  # noqa: BLE001 - raised again by the thread that waits for all of them
            broken.append(error)
        finally:
            stop.set()
            connections.close_all()

    threads = [
        threading.Thread(target=run, args=(worker,), name=f"worker-{number}") for number, worker in enumerate(workers)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if broken:
        raise broken[0]


class _Task(threading.Thread):
    """One job in a thread. `error` is what it ended with."""

    def __init__(self, work: Work, job: JobRecord, clock: Clock) -> None:
        super().__init__(name=f"job-{job.id}", daemon=True)
        self._work = work
        self._job = job
        self._clock = clock
        self.error: Exception | None = None

    def run(self) -> None:
        """Do the work; keep what it raises."""
        try:
            self._work(self._job.payload, self._clock.now())
        except Exception as error:  # noqa: BLE001 - whatever a job raises is recorded with the job
            self.error = error
        finally:
            connections.close_all()


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
