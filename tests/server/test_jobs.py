"""Work as rows: one holder at a time, fences, back-off, and what happens when a worker dies."""

import threading
from datetime import datetime

import pytest
from django.db import connections

from fleet.apps.jobs import selectors, services
from fleet.apps.jobs.records import JobRecord
from tests.server.catalogue import NOW, later

pytestmark = pytest.mark.django_db


def claim(owner: str = "a", at: datetime = NOW, lease_s: float = 60.0) -> JobRecord | None:
    return services.claim(kinds=["delta"], owner=owner, lease_s=lease_s, now=at)


def enqueue(key: str = "k", priority: int = 0, max_attempts: int = 3) -> int | None:
    return services.enqueue(
        kind="delta", key=key, payload={"x": 1}, now=NOW, priority=priority, max_attempts=max_attempts
    )


def test_enqueue__same_key_open__queues_once() -> None:
    assert enqueue() is not None
    assert enqueue() is None
    assert selectors.counts() == {("delta", "queued"): 1}


def test_enqueue__same_key_finished__queues_again() -> None:
    enqueue()
    job = claim()
    assert job is not None
    assert services.finish(job=job, now=NOW)
    assert enqueue() is not None
    assert selectors.open_keys(kind="delta", keys=["k", "other"]) == {"k"}


def test_claim__several_due__takes_the_most_urgent_first() -> None:
    enqueue("low", priority=1)
    enqueue("high", priority=9)
    taken = claim()
    assert taken is not None
    assert (taken.key, taken.attempts, dict(taken.payload)) == ("high", 1, {"x": 1})


def test_claim__other_kinds_only__finds_nothing() -> None:
    services.enqueue(kind="webhook", key="k", payload={}, now=NOW)
    assert claim() is None


def test_finish__lease_ran_out_and_another_has_it__changes_nothing() -> None:
    enqueue()
    slow = claim("slow", lease_s=10)
    fast = claim("fast", later(11))
    assert slow is not None
    assert fast is not None
    assert fast.attempts == 2
    assert not services.finish(job=slow, now=later(12))
    assert not services.extend(job=slow, lease_s=60, now=later(12))
    assert not services.fail(job=slow, error="x", now=later(12))
    assert services.finish(job=fast, now=later(12))


def test_fail__attempts_left__waits_longer_each_time_and_then_gives_up() -> None:
    enqueue()
    at = 0.0
    pauses = []
    for _ in range(2):
        job = claim(at=later(at))
        assert job is not None
        assert services.fail(job=job, error="boom", now=later(at))
        status = selectors.jobs()[0]
        pauses.append((status.run_after - later(at)).total_seconds())
        assert claim(at=later(at + pauses[-1] - 0.1)) is None
        at += pauses[-1]
    job = claim(at=later(at))
    assert job is not None
    assert services.fail(job=job, error="boom", now=later(at))
    assert pauses == [2.0, 4.0]
    status = selectors.jobs()[0]
    assert (status.state, status.error, status.attempts) == ("failed", "boom", 3)


def test_fail__permanent__gives_up_at_once() -> None:
    enqueue()
    job = claim()
    assert job is not None
    assert services.fail(job=job, error="refused", now=NOW, permanent=True)
    assert selectors.counts() == {("delta", "failed"): 1}


def test_reap__worker_died_on_its_last_attempt__has_failed() -> None:
    enqueue(max_attempts=1)
    assert claim(lease_s=10) is not None
    assert claim(at=later(11)) is None
    status = selectors.jobs()[0]
    assert status.state == "failed"
    assert "lease" in status.error


def test_give_back__stopped_worker__costs_no_attempt() -> None:
    enqueue()
    job = claim()
    assert job is not None
    assert services.give_back(job=job, now=NOW)
    again = claim("b")
    assert again is not None
    assert again.attempts == 1
    assert again.fence == job.fence + 1


def test_purge__ended_long_ago__goes_a_few_at_a_time_and_open_work_stays() -> None:
    def ended(key: str, days: float, *, failed: bool = False) -> None:
        job = queued(key, days)
        if failed:
            assert services.fail(job=job, error="no", now=later(86_400 * days), permanent=True)
        else:
            assert services.finish(job=job, now=later(86_400 * days))

    def queued(key: str, days: float) -> JobRecord:
        at = later(86_400 * days)
        assert services.enqueue(kind="delta", key=key, payload={}, now=at) is not None
        job = services.claim(kinds=["delta"], owner="w", lease_s=10**9, now=at)
        assert job is not None
        return job

    for number in range(3):
        ended(f"old-{number}", 0)
    ended("recent", 5)
    ended("failed", 0, failed=True)
    queued("running", 0)
    services.enqueue(kind="delta", key="waiting", payload={}, now=NOW)
    assert [services.purge(now=later(86_400 * 8), most=2) for _ in range(3)] == [2, 1, 0]
    assert {job.key for job in selectors.jobs()} == {"recent", "failed", "running", "waiting"}
    assert services.purge(now=later(86_400 * 91)) == 2
    assert {job.key for job in selectors.jobs()} == {"running", "waiting"}


@pytest.mark.django_db(transaction=True)
def test_claim__many_workers_at_once__gives_each_job_to_one() -> None:
    for number in range(40):
        enqueue(f"k{number}")
    taken: list[tuple[str, str]] = []
    failures: list[BaseException] = []

    def work(owner: str) -> None:
        try:
            misses = 0
            while misses < 3:
                job = claim(owner)
                if job is None:
                    misses += 1
                    continue
                taken.append((owner, job.key))
                assert services.finish(job=job, now=NOW)
        except BaseException as error:  # noqa: BLE001 - a thread must not swallow it
            failures.append(error)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=work, args=(f"w{number}",)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert sorted(key for _, key in taken) == sorted(f"k{number}" for number in range(40))
    assert selectors.counts() == {("delta", "done"): 40}
