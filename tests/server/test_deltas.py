"""Deltas are requested by count, built, proved with the device's decoder, and offered only then."""

import hashlib

import numpy as np
import pytest

from device_client.wire import delta
from device_client.wire.delta import Codec
from fleet.adapters.delta_bsdiff4 import Bsdiff4Encoder
from fleet.apps.jobs import selectors as jobs
from fleet.apps.registry import selectors, services
from fleet.apps.registry.records import DeltaState
from fleet.domain.errors import NotFoundError, UnavailableError
from fleet.ports.delta_encoder import DeltaTooExpensiveError
from tests.domain import model_files
from tests.server.catalogue import NOW
from tests.server.pipeline import MODEL, Pipeline, open_pipeline

pytestmark = pytest.mark.django_db


class Encoder:
    """Makes what it is told to."""

    codec = Codec.BSDIFF4

    def __init__(self, made: bytes | Exception) -> None:
        self.made = made

    def encode(self, old: bytes, new: bytes) -> bytes:
        if isinstance(self.made, Exception):
            raise self.made
        return self.made


@pytest.fixture
def pipeline() -> Pipeline:
    opened = open_pipeline()
    opened.push("1")
    opened.push("2")
    return opened


def pair(variant: int = 0) -> tuple[str, str]:
    old, new = (selectors.get_version(MODEL, label).variants[variant].weights_sha256 for label in ("1", "2"))
    return old, new


def request(counts: dict[str, int]) -> int:
    digests = [variant.digest for variant in selectors.get_version(MODEL, "2").variants]
    return services.request_deltas(new_digests=digests, from_counts=counts, now=NOW)


def test_request__what_devices_run__queued_once_per_variant(pipeline: Pipeline) -> None:
    (fp32, _), (int8, _) = pair(0), pair(1)
    assert request({fp32: 10, int8: 3, "0" * 64: 5}) == 2
    assert request({fp32: 10, int8: 3}) == 0
    queued = {job.key: job for job in jobs.jobs(kind="delta")}
    assert set(queued) == {f"{old}-{new}-bsdiff4" for old, new in (pair(0), pair(1))}
    assert selectors.queued_codecs(*pair()) == {"bsdiff4"}


def test_request__nobody_runs_it__not_queued(pipeline: Pipeline) -> None:
    assert request({pair()[0]: 0}) == 0


def test_request__same_weights__not_queued(pipeline: Pipeline) -> None:
    assert request({pair()[1]: 4}) == 0


def test_build__similar_files__ready_and_smaller(pipeline: Pipeline) -> None:
    old, new = pair()
    request({old: 1})
    assert selectors.ready_deltas(old, new) == []
    state = services.build_delta(old=old, new=new, encoder=Bsdiff4Encoder(), store=pipeline.store, now=NOW)
    assert state is DeltaState.READY
    (ready,) = selectors.ready_deltas(old, new)
    assert ready.patch_sha256 is not None
    patch = pipeline.store.blobs[ready.patch_sha256]
    assert ready.patch_bytes == len(patch) < ready.new_bytes
    rebuilt = delta.apply(Codec.BSDIFF4, pipeline.store.blobs[old], patch, expected_bytes=ready.new_bytes)
    assert hashlib.sha256(rebuilt).hexdigest() == new
    savings = selectors.delta_savings(MODEL)
    assert (savings.ready, savings.patch_bytes, savings.full_bytes) == (1, len(patch), ready.new_bytes)
    assert services.build_delta(old=old, new=new, encoder=Encoder(b""), store=pipeline.store, now=NOW) is state


@pytest.mark.parametrize("made", [b"", b"nonsense", b"BSDIFF40" + bytes(24)])
def test_build__patch_that_the_device_cannot_apply__failed_and_never_offered(pipeline: Pipeline, made: bytes) -> None:
    old, new = pair()
    request({old: 1})
    state = services.build_delta(old=old, new=new, encoder=Encoder(made), store=pipeline.store, now=NOW)
    assert state is DeltaState.FAILED
    assert selectors.ready_deltas(old, new) == []
    assert request({old: 1}) == 0 or selectors.queued_codecs(old, new) == {"bsdiff4"}


def test_build__patch_for_another_file__failed(pipeline: Pipeline) -> None:
    old, new = pair()
    request({old: 1})
    target = pipeline.store.blobs[new]
    wrong = Bsdiff4Encoder().encode(pipeline.store.blobs[old], target[:-1] + b"\x00")
    state = services.build_delta(old=old, new=new, encoder=Encoder(wrong), store=pipeline.store, now=NOW)
    assert state is DeltaState.FAILED


def test_build__too_expensive__useless_with_the_reason(pipeline: Pipeline) -> None:
    old, new = pair()
    request({old: 1})
    encoder = Encoder(DeltaTooExpensiveError("expected less"))
    assert services.build_delta(old=old, new=new, encoder=encoder, store=pipeline.store, now=NOW) is DeltaState.USELESS
    assert [item.detail for item in selectors.deltas(MODEL)] == ["expected less"]


def test_build__no_smaller_than_the_file__useless_and_no_blob(pipeline: Pipeline) -> None:
    noise = np.random.default_rng(1).integers(0, 256, 4_000, dtype=np.uint8).tobytes()

    def noisy(model: object) -> None:
        model.doc_string = noise.hex()  # type: ignore[attr-defined]

    pipeline.finalise(pipeline.manifest("3", model_files.onnx_model(change=noisy)))
    before = set(pipeline.store.blobs)
    old, new = pair()[0], selectors.get_version(MODEL, "3").variants[0].weights_sha256
    services.request_deltas(
        new_digests=[selectors.get_version(MODEL, "3").variants[0].digest], from_counts={old: 1}, now=NOW
    )
    padded = Encoder(bytes(len(pipeline.store.blobs[new])))
    real = Bsdiff4Encoder().encode(pipeline.store.blobs[old], pipeline.store.blobs[new])
    padded.made = real + bytes(len(pipeline.store.blobs[new]))
    assert services.build_delta(old=old, new=new, encoder=padded, store=pipeline.store, now=NOW) is DeltaState.USELESS
    assert set(pipeline.store.blobs) == before


def test_build__store_was_tampered_with__nothing_built(pipeline: Pipeline) -> None:
    old, new = pair()
    request({old: 1})
    pipeline.store.blobs[new] = b"other bytes"
    with pytest.raises(UnavailableError) as refused:
        services.build_delta(old=old, new=new, encoder=Bsdiff4Encoder(), store=pipeline.store, now=NOW)
    assert refused.value.code == "blob_damaged"


def test_build__never_requested__refused(pipeline: Pipeline) -> None:
    with pytest.raises(NotFoundError):
        services.build_delta(old="0" * 64, new="1" * 64, encoder=Bsdiff4Encoder(), store=pipeline.store, now=NOW)


def test_encoder__file_beyond_its_bound__refused_before_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fleet.adapters.delta_bsdiff4.MAX_BYTES", 10)
    with pytest.raises(DeltaTooExpensiveError):
        Bsdiff4Encoder().encode(b"x" * 11, b"y")
