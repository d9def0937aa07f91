"""Deltas are asked for by a plan, built from files, proved with the device's decoder, and offered only then."""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest

from device_client.wire import delta
from device_client.wire.delta import Codec
from device_client.wire.messages import Capabilities
from fleet.adapters.delta_encoders import Bsdiff4Encoder, DeviceDecoder, Tensor1Encoder
from fleet.adapters.local_files import FetchedFiles
from fleet.apps.jobs import selectors as jobs
from fleet.apps.jobs import services as job_services
from fleet.apps.registry import selectors, services
from fleet.apps.registry.models import Blob, Variant, VariantFile
from fleet.apps.registry.records import DeltaRecord
from fleet.apps.registry.services import Workshop
from fleet.domain.delta_plan import Budget, Group
from fleet.domain.delta_states import DeltaState
from fleet.domain.errors import NotFoundError, UnavailableError
from fleet.ports.blobs import StorageFullError
from fleet.ports.delta_encoder import DeltaEncoder, DeltaTooExpensiveError, WeightsFile
from tests.server.catalogue import NOW
from tests.server.pipeline import MODEL, Pipeline, open_pipeline

pytestmark = pytest.mark.django_db

PLENTY = Budget(cpu_s=1e9, new_bytes=10**15)
TENSOR1 = Tensor1Encoder(Codec.TENSOR1)
CODECS = ("tensor1", "tensor1-portable", "bsdiff4")
CAN = Capabilities(runtimes={"onnx": "1.22"}, max_opset=21, max_ir_version=10, codecs=CODECS)
TINY = replace(CAN, precisions=("int8",))


@dataclass
class Scripted:
    """A `DeltaEncoder` that makes what it is told to."""

    made: bytes | Exception
    codec: Codec = Codec.BSDIFF4

    def encode(self, old: WeightsFile, new: WeightsFile, patch: Path) -> None:
        if isinstance(self.made, Exception):
            raise self.made
        patch.write_bytes(self.made)


@pytest.fixture
def pipeline() -> Pipeline:
    opened = open_pipeline()
    opened.push("1")
    opened.push("2")
    return opened


@pytest.fixture
def workshop(pipeline: Pipeline, tmp_path: Path) -> Workshop:
    return Workshop(pipeline.store, FetchedFiles(pipeline.store, tmp_path / "scratch"), DeviceDecoder())


def weights(label: str, variant: int = 0) -> str:
    return selectors.get_version(MODEL, label).variants[variant].weights_sha256


def pair(variant: int = 0) -> tuple[str, str]:
    return weights("1", variant), weights("2", variant)


def request(*groups: Group, version: str = "2", budget: Budget = PLENTY) -> int:
    found = selectors.get_version(MODEL, version)
    return services.request_deltas(version_id=found.id, groups=groups, budget=budget, now=NOW)


def build(workshop: Workshop, encoder: DeltaEncoder, old: str, new: str) -> DeltaState:
    return services.build_delta(old=old, new=new, encoder=encoder, workshop=workshop, now=NOW)


def record(old: str, new: str, codec: Codec = Codec.BSDIFF4) -> DeltaRecord:
    found = [item for item in selectors.deltas(MODEL) if (item.old_sha256, item.new_sha256) == (old, new)]
    return next(item for item in found if item.codec == codec.value)


def awaited(old: str, new: str, version: str = "2") -> frozenset[str]:
    return selectors.awaited_codecs(old, new, version_id=selectors.get_version(MODEL, version).id)


# ---------------------------------------------------------------- asking


def test_request__what_devices_run__queued_once_and_the_urgent_ones_first(pipeline: Pipeline) -> None:
    (fp32, new32), (int8, new8) = pair(0), pair(1)
    groups = (Group(fp32, "edge", CAN, 10), Group(int8, "edge", TINY, 3), Group("0" * 64, "edge", CAN, 5))
    assert request(*groups) == 4
    assert request(*groups) == 0
    queued = jobs.jobs(kind="delta")
    assert {job.key for job in queued} == {
        f"{old}-{new}-{codec}" for old, new in ((fp32, new32), (int8, new8)) for codec in ("tensor1", "bsdiff4")
    }
    claimed = [job_services.claim(kinds=["delta"], owner="w", lease_s=60, now=NOW) for _ in range(4)]
    assert [job.payload["codec"] for job in claimed if job] == ["tensor1", "tensor1", "bsdiff4", "bsdiff4"]
    assert record(fp32, new32).devices == 10


def test_request__device_that_changes_its_variant__a_pair_across_variants(pipeline: Pipeline) -> None:
    assert request(Group(weights("1", 0), "edge", TINY, 3)) == 2
    assert awaited(weights("1", 0), weights("2", 1)) == {"tensor1", "bsdiff4"}


@pytest.mark.parametrize("devices", [0, 4])
def test_request__nobody_to_patch__not_queued(pipeline: Pipeline, devices: int) -> None:
    old = pair()[0] if devices == 0 else pair()[1]
    assert request(Group(old, "edge", CAN, devices)) == 0


def test_request__beyond_the_budget__recorded_with_the_reason_and_asked_for_again_later(pipeline: Pipeline) -> None:
    old, new = pair()
    assert request(Group(old, "edge", CAN, 3), budget=Budget(cpu_s=0, new_bytes=10**15)) == 0
    left = record(old, new, Codec.TENSOR1)
    assert (left.state, left.devices) == (DeltaState.LEFT_OUT, 3)
    assert "s of CPU, 0 s of the budget are left" in left.detail
    assert request(Group(old, "edge", CAN, 3)) == 2
    assert record(old, new, Codec.TENSOR1).state is DeltaState.QUEUED


def test_awaited__plan_not_made_yet__anything_may_come(pipeline: Pipeline) -> None:
    old, new = pair()
    assert awaited(old, new) == frozenset()
    services.request_plan(model=MODEL, version_id=selectors.get_version(MODEL, "2").id, now=NOW)
    assert awaited(old, new) == set(CODECS)


def test_settle_abandoned__job_ran_out_of_attempts__delta_has_failed_and_is_awaited_no_more(
    pipeline: Pipeline,
) -> None:
    old, new = pair()
    request(Group(old, "edge", CAN, 1))
    for _ in range(2):
        job = job_services.claim(kinds=["delta"], owner="w", lease_s=60, now=NOW)
        assert job is not None
        job_services.fail(job=job, error="OSError: a broken disk", now=NOW, permanent=job.payload["codec"] == "tensor1")
    assert awaited(old, new) == frozenset()
    assert services.settle_abandoned(now=NOW) == 1
    failed = record(old, new, Codec.TENSOR1)
    assert (failed.state, failed.detail) == (DeltaState.FAILED, "OSError: a broken disk")
    assert record(old, new).state is DeltaState.QUEUED
    assert services.settle_abandoned(now=NOW) == 0
    assert request(Group(old, "edge", CAN, 1)) == 1


# ---------------------------------------------------------------- building


@pytest.mark.parametrize("encoder", [Bsdiff4Encoder(), TENSOR1, Tensor1Encoder(Codec.TENSOR1_PORTABLE)])
def test_build__similar_files__ready_and_smaller(pipeline: Pipeline, workshop: Workshop, encoder: DeltaEncoder) -> None:
    old, new = pair()
    codecs = CODECS[1:] if encoder.codec is Codec.TENSOR1_PORTABLE else CODECS
    request(Group(old, "edge", replace(CAN, codecs=codecs), 1))
    assert selectors.ready_deltas(old, new) == []
    assert build(workshop, encoder, old, new) is DeltaState.READY
    (ready,) = selectors.ready_deltas(old, new)
    assert ready.patch_sha256 is not None
    patch = pipeline.store.blobs[ready.patch_sha256]
    assert ready.patch_bytes == ready.made_bytes == len(patch) < ready.new_bytes
    rebuilt = delta.apply(encoder.codec, pipeline.store.blobs[old], patch, expected_bytes=ready.new_bytes)
    assert hashlib.sha256(rebuilt).hexdigest() == new
    savings = selectors.delta_savings(MODEL)
    assert (savings.ready, savings.patch_bytes, savings.full_bytes) == (1, len(patch), ready.new_bytes)
    assert build(workshop, Scripted(b"", encoder.codec), old, new) is DeltaState.READY


def test_build__several_candidates__the_smallest_comes_first(pipeline: Pipeline, workshop: Workshop) -> None:
    old, new = pair()
    request(Group(old, "edge", CAN, 1))
    for encoder in (Bsdiff4Encoder(), TENSOR1):
        build(workshop, encoder, old, new)
    sizes = [item.patch_bytes for item in selectors.ready_deltas(old, new)]
    assert len(sizes) == 2
    assert sizes == sorted(sizes, key=lambda size: size or 0)


def test_build__done__nothing_is_left_in_the_scratch_directory(
    pipeline: Pipeline, workshop: Workshop, tmp_path: Path
) -> None:
    old, new = pair()
    request(Group(old, "edge", CAN, 1))
    build(workshop, TENSOR1, old, new)
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.parametrize("made", [b"", b"nonsense", b"BSDIFF40" + bytes(24)])
@pytest.mark.parametrize("codec", [Codec.BSDIFF4, Codec.TENSOR1])
def test_build__patch_that_the_device_cannot_apply__failed_and_never_offered(
    pipeline: Pipeline, workshop: Workshop, made: bytes, codec: Codec
) -> None:
    old, new = pair()
    request(Group(old, "edge", CAN, 1))
    assert build(workshop, Scripted(made, codec), old, new) is DeltaState.FAILED
    assert selectors.ready_deltas(old, new) == []


def test_build__patch_for_another_file__failed(pipeline: Pipeline, workshop: Workshop, tmp_path: Path) -> None:
    old, new = pair()
    request(Group(old, "edge", CAN, 1))
    before, other, wrong = (tmp_path / name for name in ("old", "other", "patch"))
    before.write_bytes(pipeline.store.blobs[old])
    other.write_bytes(pipeline.store.blobs[new][:-1] + b"\x00")
    for encoder in (Bsdiff4Encoder(), TENSOR1):
        wrong.unlink(missing_ok=True)
        encoder.encode(WeightsFile(before), WeightsFile(other), wrong)
        scripted = Scripted(wrong.read_bytes(), encoder.codec)
        assert build(workshop, scripted, old, new) is DeltaState.FAILED


def test_build__portable_patch_that_needs_pcodec__failed(
    pipeline: Pipeline, workshop: Workshop, tmp_path: Path
) -> None:
    rows = np.random.default_rng(1).normal(size=(2, 40_000)).astype(np.float32)
    old, new = pair()
    request(Group(old, "edge", replace(CAN, codecs=CODECS[1:]), 1))
    files = []
    for name, content in (("a", rows[0]), ("b", rows[0] + rows[1] * np.float32(1e-4))):
        files.append(tmp_path / name)
        files[-1].write_bytes(content.tobytes())
    TENSOR1.encode(WeightsFile(files[0]), WeightsFile(files[1]), tmp_path / "patch")
    scripted = Scripted((tmp_path / "patch").read_bytes(), Codec.TENSOR1_PORTABLE)
    assert build(workshop, scripted, old, new) is DeltaState.FAILED


def test_build__too_expensive__useless_with_the_reason(pipeline: Pipeline, workshop: Workshop) -> None:
    old, new = pair()
    request(Group(old, "edge", CAN, 1))
    encoder = Scripted(DeltaTooExpensiveError("expected less"))
    assert build(workshop, encoder, old, new) is DeltaState.USELESS
    assert record(old, new).detail == "expected less"


def test_build__no_smaller_than_the_file__useless_and_no_blob(
    pipeline: Pipeline, workshop: Workshop, tmp_path: Path
) -> None:
    old, new = pair()
    request(Group(old, "edge", CAN, 1))
    before = set(pipeline.store.blobs)
    Bsdiff4Encoder().encode(_file(tmp_path, pipeline, old), _file(tmp_path, pipeline, new), tmp_path / "real")
    padded = (tmp_path / "real").read_bytes() + bytes(len(pipeline.store.blobs[new]))
    assert build(workshop, Scripted(padded), old, new) is DeltaState.USELESS
    assert set(pipeline.store.blobs) == before
    assert record(old, new).made_bytes == len(padded)


def _file(directory: Path, pipeline: Pipeline, sha256: str) -> WeightsFile:
    path = directory / sha256
    path.write_bytes(pipeline.store.blobs[sha256])
    return WeightsFile(path)


def test_build__store_was_tampered_with__nothing_built(pipeline: Pipeline, workshop: Workshop) -> None:
    old, new = pair()
    request(Group(old, "edge", CAN, 1))
    for sha256 in (new, old):
        pipeline.store.blobs[sha256] = b"other bytes"
        with pytest.raises(UnavailableError) as refused:
            build(workshop, Bsdiff4Encoder(), old, new)
        assert refused.value.code == "blob_damaged"
    assert record(old, new).state is DeltaState.QUEUED


class _NoRoom(FetchedFiles):
    """Files on a disk without room."""

    def scratch(self) -> NoReturn:
        raise StorageFullError("expected room for the bytes, got: No space left on device")


def test_build__no_room__told_in_one_line_and_still_queued(pipeline: Pipeline, tmp_path: Path) -> None:
    old, new = pair()
    request(Group(old, "edge", CAN, 1))
    full = Workshop(pipeline.store, _NoRoom(pipeline.store, tmp_path), DeviceDecoder())
    with pytest.raises(UnavailableError, match="No space left on device") as refused:
        build(full, TENSOR1, old, new)
    assert refused.value.code == "storage_full"
    assert "\n" not in str(refused.value)
    assert record(old, new, Codec.TENSOR1).state is DeltaState.QUEUED


def test_build__its_job_was_given_up_meanwhile__result_does_not_count(pipeline: Pipeline, workshop: Workshop) -> None:
    old, new = pair()
    request(Group(old, "edge", CAN, 1))

    class Slow(Bsdiff4Encoder):
        def encode(self, old: WeightsFile, new: WeightsFile, patch: Path) -> None:
            super().encode(old, new, patch)
            while job := job_services.claim(kinds=["delta"], owner="w", lease_s=60, now=NOW):
                job_services.fail(job=job, error="lost", now=NOW, permanent=True)
            services.settle_abandoned(now=NOW)

    assert build(workshop, Slow(), old, new) is DeltaState.FAILED
    assert selectors.ready_deltas(old, new) == []


def test_build__never_requested__refused(workshop: Workshop) -> None:
    with pytest.raises(NotFoundError):
        build(workshop, Bsdiff4Encoder(), "0" * 64, "1" * 64)


# ---------------------------------------------------------------- keeping


@pytest.fixture
def ready(pipeline: Pipeline, workshop: Workshop) -> str:
    """The patch of one ready delta from version 1 to version 2."""
    old, new = pair()
    request(Group(old, "edge", CAN, 1))
    build(workshop, TENSOR1, old, new)
    patch = record(old, new, Codec.TENSOR1).patch_sha256
    assert patch is not None
    return patch


def review(pipeline: Pipeline, in_use: Collection[str], days: float) -> int:
    return services.review_deltas(
        in_use=in_use, keep=timedelta(days=14), store=pipeline.store, now=NOW + timedelta(days=days)
    )


@pytest.mark.parametrize("left", [(), ("old",), ("new",)])
def test_review__of_no_use_for_as_long_as_it_is_kept__dropped_and_built_again_when_asked_for(
    pipeline: Pipeline, workshop: Workshop, ready: str, left: tuple[str, ...]
) -> None:
    old, new = pair()
    in_use = {{"old": old, "new": new}[name] for name in left}
    assert [review(pipeline, in_use, days) for days in (0, 13.9)] == [0, 0]
    assert selectors.ready_deltas(old, new)
    assert review(pipeline, in_use, 14) == 1
    assert ready not in pipeline.store.blobs
    assert selectors.blob_length(ready) is None
    expired = record(old, new, Codec.TENSOR1)
    assert (expired.state, expired.patch_sha256, expired.patch_bytes) == (DeltaState.EXPIRED, None, None)
    assert expired.made_bytes
    assert "of no use from 2026-03-01 to 2026-03-15" in expired.detail
    assert selectors.ready_deltas(old, new) == []
    assert review(pipeline, in_use, 15) == 0
    assert request(Group(old, "edge", CAN, 1)) == 1
    assert build(workshop, TENSOR1, old, new) is DeltaState.READY
    assert ready in pipeline.store.blobs


def test_review__of_use_again_before_its_time__kept_and_counted_from_the_next_time(
    pipeline: Pipeline, ready: str
) -> None:
    old, new = pair()
    assert [review(pipeline, used, days) for used, days in (((), 0), ((old, new), 10), ((), 20), ((), 30))] == [0] * 4
    assert ready in pipeline.store.blobs
    assert review(pipeline, (), 34) == 1


def test_review__same_bytes_are_a_file_of_a_version__blob_stays(pipeline: Pipeline, ready: str) -> None:
    VariantFile.objects.create(
        variant=Variant.objects.get(version__label="1", slug="onnx-fp32-any"),
        name="other.bin",
        role="other",
        blob=Blob.objects.get(pk=ready),
    )
    assert [review(pipeline, (), days) for days in (0, 14)] == [0, 1]
    assert ready in pipeline.store.blobs
    assert selectors.ready_deltas(*pair()) == []


def test_request_review__asked_for_lately_or_still_open__not_again() -> None:
    for hours, expected in ((0, 1), (5, 1), (7, 1)):
        services.request_review(now=NOW + timedelta(hours=hours))
        assert len(jobs.jobs(kind="delta-review")) == expected
    job = job_services.claim(kinds=["delta-review"], owner="w", lease_s=60, now=NOW)
    assert job is not None
    job_services.finish(job=job, now=NOW)
    for hours, expected in ((5, 1), (7, 2)):
        services.request_review(now=NOW + timedelta(hours=hours))
        assert len(jobs.jobs(kind="delta-review")) == expected
