"""Work that takes time, in lanes: one thread each, so that a step of one model never waits for another model's.

A job returns its continuation, which the agent's own thread runs; a job that wants to say something earlier posts it.
"""

import logging
import queue
import threading
from collections.abc import Callable
from typing import Protocol

log = logging.getLogger(__name__)

Continuation = Callable[[], None]
Job = Callable[[], Continuation]


class Jobs(Protocol):
    """Where jobs run."""

    def submit(self, lane: str, job: Job) -> None:
        """Run `job` after all earlier ones of its lane, then post its continuation."""

    def stop(self, timeout_s: float) -> None:
        """Finish what runs, drop what waits."""


class ThreadJobs:
    """One daemon thread per lane."""

    def __init__(self, post: Callable[[Continuation], None]) -> None:
        self._post = post
        self._lanes: dict[str, queue.SimpleQueue[Job | None]] = {}
        self._threads: list[threading.Thread] = []

    def submit(self, lane: str, job: Job) -> None:
        if lane not in self._lanes:
            jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
            self._lanes[lane] = jobs
            thread = threading.Thread(target=self._work, args=(jobs,), name=f"modelfleet-{lane}", daemon=True)
            self._threads.append(thread)
            thread.start()
        self._lanes[lane].put(job)

    def _work(self, jobs: "queue.SimpleQueue[Job | None]") -> None:
        while (job := jobs.get()) is not None:
            try:
                self._post(job())
            except Exception:
                log.exception("a job failed in a way that it does not know")

    def stop(self, timeout_s: float) -> None:
        for jobs in self._lanes.values():
            while not jobs.empty():
                try:
                    jobs.get_nowait()
                except queue.Empty:
                    break
            jobs.put(None)
        for thread in self._threads:
            thread.join(timeout_s)
