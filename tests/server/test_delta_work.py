"""Builds of deltas as a worker does them: on a disk that fills up, and after workers that died."""

import resource
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from device_client.wire.delta import Codec
from fleet.adapters.delta_encoders import DeviceDecoder, Tensor1Encoder
from fleet.adapters.local_files import FetchedFiles
from fleet.apps.jobs import selectors as jobs
from fleet.apps.jobs import services as job_services
from fleet.apps.registry import selectors, services
from fleet.apps.registry.services import Workshop
from fleet.apps.registry.services.deltas import BUILD_ATTEMPTS
from fleet.domain.delta_plan import Budget, Group
from fleet.domain.delta_states import DeltaState
from fleet.entrypoints.gateway.worker import LEASE_S, Worker
from fleet.ports.delta_encoder import WeightsFile
from fleet.wiring import server
from tests.fakes.clock import FakeClock
from tests.fakes.fleet_simulator import CAPABILITIES
from tests.server.catalogue import NOW
from tests.server.pipeline import MODEL, Pipeline, open_pipeline

pytestmark = pytest.mark.django_db(transaction=True)

ROOM = 64  # bytes; a patch needs more


class CrampedEncoder(Tensor1Encoder):
    """The real one, in a process that may write files of `ROOM` bytes only: what a full disk is to it."""

    has_room = False

    def encode(self, old: WeightsFile, new: WeightsFile, patch: Path) -> None:
        with self._limit():
            super().encode(old, new, patch)

    @contextmanager
    def _limit(self) -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        if not self.has_room:
            resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def requested() -> Pipeline:
    """Two versions, and a request for a tensor1 patch between them."""
    pipeline = open_pipeline()
    pipeline.push("1")
    pipeline.push("2")
    assert ask(NOW) == 1
    return pipeline


def ask(now: datetime) -> int:
    old, version = selectors.get_version(MODEL, "1"), selectors.get_version(MODEL, "2")
    group = Group(old.variants[0].weights_sha256, "edge", replace(CAPABILITIES, codecs=("tensor1",)), 1)
    budget = Budget(cpu_s=1e9, new_bytes=10**15)
    return services.request_deltas(version_id=version.id, groups=[group], budget=budget, now=now)


def state() -> tuple[DeltaState, str]:
    (row,) = selectors.deltas(MODEL)
    return row.state, row.detail


def test_worker__disk_is_full__one_line_and_again_until_there_is_room(
    requested: Pipeline, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock, encoder = FakeClock(NOW), CrampedEncoder(Codec.TENSOR1)
    shop = Workshop(requested.store, FetchedFiles(requested.store, tmp_path / "scratch"), DeviceDecoder())

    def work(payload: Mapping[str, object], now: datetime) -> None:
        old, new = str(payload["old"]), str(payload["new"])
        services.build_delta(old=old, new=new, encoder=encoder, workshop=shop, now=now)

    worker = Worker({"delta": work}, "w1", clock, threading.Event())
    with caplog.at_level("INFO"):
        assert worker.turn()
    (job,) = jobs.jobs(kind="delta")
    assert (job.state, job.attempts) == ("queued", 1)
    assert job.error.startswith("UnavailableError: expected room for the bytes, got: ")
    assert [record.getMessage().count("\n") for record in caplog.records] == [0] * len(caplog.records)
    assert state()[0] is DeltaState.QUEUED
    assert list((tmp_path / "scratch").iterdir()) == []
    encoder.has_room = True
    clock.advance(60)
    assert worker.turn()
    assert state()[0] is DeltaState.READY


def unexpected(_payload: Mapping[str, object], _now: datetime) -> None:
    pytest.fail("expected no work to be left")


def test_worker__others_died_with_every_attempt__the_delta_has_failed_and_may_be_asked_for_again(
    requested: Pipeline,
) -> None:
    now = NOW
    for _ in range(BUILD_ATTEMPTS):
        assert job_services.claim(kinds=["delta"], owner="dead", lease_s=LEASE_S, now=now)
        now += timedelta(seconds=LEASE_S + 1)
    # The first one to look for work takes back what the dead left; the next one tidies up after it.
    for name in ("w1", "w2"):
        Worker({"delta": unexpected}, name, FakeClock(now), threading.Event(), tidy=server.tidy_deltas).turn()
    assert state() == (DeltaState.FAILED, "the worker's lease ran out and no attempt was left")
    assert ask(now) == 1
