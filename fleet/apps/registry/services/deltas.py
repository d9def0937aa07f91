"""Deltas between weights files: which are worth making, and making one. Knows counts, never devices.

A delta becomes `ready` only after the device's own decoder has turned the old file into the new one with it. A patch that
is no smaller than the file is kept as a fact (`useless`), not as bytes.
"""

import hashlib
import io
import time
from collections.abc import Mapping, Sequence
from datetime import datetime

from django.db import transaction

from device_client.wire import delta as decoder
from device_client.wire.delta import Codec
from device_client.wire.errors import WireError
from fleet.apps.jobs import services as jobs
from fleet.apps.registry.models import Blob, Delta, Variant
from fleet.apps.registry.records import DeltaState
from fleet.domain.errors import NotFoundError, UnavailableError
from fleet.ports.blobs import BlobMissingError, BlobStore
from fleet.ports.delta_encoder import DeltaEncoder, DeltaTooExpensiveError

JOB_KIND = "delta"
PATCHED_BY = "_worker"


def request_deltas(
    *,
    new_digests: Sequence[str],
    from_counts: Mapping[str, int],
    now: datetime,
    codecs: Sequence[Codec] = (Codec.BSDIFF4,),
) -> int:
    """Queue builds from the weights that devices run (`from_counts`: sha256 -> devices) to these variants.

    Only pairs of one model, runtime and precision: others share no bytes that a byte-wise codec could find. The more
    devices run the old file, the sooner its delta is built. Returns how many were queued; known pairs are not again.
    """
    queued = 0
    running = [sha256 for sha256, count in from_counts.items() if count > 0]
    for target in Variant.objects.filter(digest__in=new_digests).select_related("version"):
        olds = Variant.objects.filter(
            version__model_id=target.version.model_id, weights_id__in=running, slug=target.slug
        ).exclude(weights_id=target.weights_id)
        for old in set(olds.values_list("weights_id", flat=True)):
            for codec in codecs:
                queued += _queue(old, target.weights_id, codec, from_counts[old], now)
    return queued


def _queue(old: str, new: str, codec: Codec, devices: int, now: datetime) -> int:
    with transaction.atomic():
        row, created = Delta.objects.get_or_create(
            old_id=old, new_id=new, codec=codec.value, defaults={"created_at": now}
        )
        if not created and row.state != Delta.State.FAILED:
            return 0
        if not created:
            Delta.objects.filter(pk=row.pk).update(state=Delta.State.QUEUED, detail="")
        jobs.enqueue(
            kind=JOB_KIND,
            key=f"{old}-{new}-{codec.value}",
            payload={"old": old, "new": new, "codec": codec.value},
            now=now,
            priority=min(devices, 1_000_000),
        )
    return 1


def build_delta(*, old: str, new: str, encoder: DeltaEncoder, store: BlobStore, now: datetime) -> DeltaState:
    """Build, prove and store one delta: the work of a job. Safe to do twice."""
    row = Delta.objects.filter(old_id=old, new_id=new, codec=encoder.codec.value).first()
    if row is None:
        raise NotFoundError("delta_not_found", f"expected a requested delta {old[:16]}-{new[:16]}, got none")
    if row.state == Delta.State.READY:
        return DeltaState.READY
    try:
        old_bytes, new_bytes = _read(store, old), _read(store, new)
        started = time.monotonic()
        patch = encoder.encode(old_bytes, new_bytes)
        rebuilt = decoder.apply(encoder.codec, old_bytes, patch, expected_bytes=len(new_bytes))
        build_s = time.monotonic() - started
    except DeltaTooExpensiveError as error:
        return _finish(row, DeltaState.USELESS, now, detail=str(error))
    except WireError as error:
        return _finish(row, DeltaState.FAILED, now, detail=str(error))
    if hashlib.sha256(rebuilt).hexdigest() != new:
        return _finish(row, DeltaState.FAILED, now, detail="the decoded patch is not the new file")
    if len(patch) >= len(new_bytes):
        return _finish(row, DeltaState.USELESS, now, build_s=build_s, detail=f"{len(patch)} bytes, no smaller")
    sha256 = hashlib.sha256(patch).hexdigest()
    store.put(sha256, io.BytesIO(patch), len(patch))
    with transaction.atomic():
        Blob.objects.get_or_create(
            sha256=sha256, defaults={"length": len(patch), "uploaded_by": PATCHED_BY, "created_at": now}
        )
        return _finish(row, DeltaState.READY, now, build_s=build_s, patch=sha256)


def _read(store: BlobStore, sha256: str) -> bytes:
    try:
        with store.open(sha256) as reader:
            content = reader.read()
    except BlobMissingError as error:
        raise UnavailableError("blob_vanished", str(error)) from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise UnavailableError("blob_damaged", f"expected the content of {sha256}, got other bytes from the store")
    return content


def _finish(
    row: Delta,
    state: DeltaState,
    now: datetime,
    *,
    build_s: float | None = None,
    patch: str | None = None,
    detail: str = "",
) -> DeltaState:
    Delta.objects.filter(pk=row.pk).update(
        state=state.value, patch_id=patch, build_s=build_s, detail=detail[:512], built_at=now
    )
    return state
