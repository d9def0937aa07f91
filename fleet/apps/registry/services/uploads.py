"""Uploads: bytes arrive in chunks, can be resumed after any interruption, and become a blob when they are whole.

The row says how far the sender may go on; the spool holds the bytes. A chunk is durable before its row moves, so a row
never promises bytes that a crash has taken.
"""

from datetime import datetime, timedelta
from typing import BinaryIO, Final

from django.db import transaction

from device_client.wire.errors import WireError
from device_client.wire.names import parse_sha256
from fleet.apps.jobs import services as jobs
from fleet.apps.registry.models import Blob, Delta, Upload, VariantFile
from fleet.apps.registry.records import UploadRecord
from fleet.domain.errors import ConflictError, InvalidInputError, NotFoundError, TooLargeError, UnavailableError
from fleet.ports.blobs import BlobMismatchError, BlobMissingError, BlobStore, StorageFullError, UploadSpool

MAX_BLOB_BYTES: Final = 64 << 30
# Uploads that nobody went on with, and blobs that no version came to name, are swept after this time.
ABANDONED_AFTER: Final = timedelta(days=2)
SWEEP_SLACK: Final = timedelta(hours=1)
SWEEP_JOB_KIND: Final = "sweep"


def begin_upload(*, sha256: str, length: int, store: BlobStore, actor: str, now: datetime) -> UploadRecord:
    """Announce a blob; returns where the sender goes on. A blob that the store has needs no bytes at all.

    One that is known but that the store has lost is taken again, so that a damaged store can be mended by pushing.
    """
    try:
        parse_sha256(sha256)
    except WireError as error:
        raise InvalidInputError("sha256", str(error)) from error
    if not 0 < length <= MAX_BLOB_BYTES:
        raise TooLargeError("blob_length", f"expected 1 to {MAX_BLOB_BYTES} bytes, got {length}")
    stored = Blob.objects.filter(pk=sha256).first()
    if stored is not None:
        if stored.length != length:
            raise ConflictError("blob_length", f"expected {stored.length} bytes for this sha256, got {length}")
        if store.length(sha256) == length:
            return UploadRecord(sha256, length, length, complete=True)
    with transaction.atomic():
        row, _created = Upload.objects.get_or_create(
            sha256=sha256, defaults={"length": length, "updated_at": now, "uploaded_by": actor}
        )
        # Whoever begins an upload may never finish it, nor the version that it is for.
        jobs.enqueue(
            kind=SWEEP_JOB_KIND, key="blobs", payload={}, now=now, not_before_at=now + ABANDONED_AFTER + SWEEP_SLACK
        )
    if row.length != length:
        raise ConflictError("blob_length", f"expected {row.length} bytes as announced before, got {length}")
    return UploadRecord(sha256, row.length, row.received, complete=False)


def upload_state(*, sha256: str) -> UploadRecord:
    """Where an upload stands; raises NotFoundError."""
    row = Upload.objects.filter(pk=sha256).first()
    if row is not None:
        return UploadRecord(sha256, row.length, row.received, complete=False)
    stored = Blob.objects.filter(pk=sha256).first()
    if stored is None:
        raise NotFoundError("upload_not_found", f"expected an announced upload, got {sha256[:80]!r}")
    return UploadRecord(sha256, stored.length, stored.length, complete=True)


def append_upload(
    *,
    sha256: str,
    offset: int,
    chunk: BinaryIO,
    limit: int,
    store: BlobStore,
    spool: UploadSpool,
    now: datetime,
) -> UploadRecord:
    """Take the bytes that start at `offset` (at most `limit`); the last chunk makes the blob.

    Raises ConflictError with the right offset in its message for any other, InvalidInputError when the whole is not
    what its sha256 says (everything is forgotten then), UnavailableError when there is no room.
    """
    state = upload_state(sha256=sha256)
    if state.complete:
        return state
    if offset != state.received:
        raise ConflictError("upload_offset", f"expected offset {state.received}, got {offset}")
    if spool.size(sha256) < offset:
        # The spool lost what the row promises (another disk, a restored database): start again.
        Upload.objects.filter(pk=sha256).update(received=0, updated_at=now)
        raise ConflictError("upload_offset", f"expected offset 0, got {offset}")
    if limit > state.length - offset:
        raise TooLargeError("upload_too_long", f"expected at most {state.length - offset} more bytes, got {limit}")
    try:
        received = spool.append(sha256, offset, chunk, limit)
        Upload.objects.filter(pk=sha256, received=offset).update(received=received, updated_at=now)
        if received < state.length:
            return UploadRecord(sha256, state.length, received, complete=False)
        _complete(sha256, state.length, store, spool, now)
    except StorageFullError as error:
        raise UnavailableError("storage_full", str(error)) from error
    return UploadRecord(sha256, state.length, state.length, complete=True)


def _complete(sha256: str, length: int, store: BlobStore, spool: UploadSpool, now: datetime) -> None:
    """Make the blob. Another client may be sending the same bytes: it may have made it, or have cut the spool to write anew."""
    try:
        _put(sha256, length, store, spool)
    except (BlobMismatchError, BlobMissingError) as error:
        if store.length(sha256) != length:
            _refuse_or_repeat(sha256, length, store, spool, error)
    with transaction.atomic():
        row = Upload.objects.filter(pk=sha256).first()
        uploaded_by = "" if row is None else row.uploaded_by
        Blob.objects.get_or_create(
            sha256=sha256, defaults={"length": length, "uploaded_by": uploaded_by, "created_at": now}
        )
        Upload.objects.filter(pk=sha256).delete()
    spool.discard(sha256)


def _put(sha256: str, length: int, store: BlobStore, spool: UploadSpool) -> None:
    with spool.open(sha256) as whole:
        store.put(sha256, whole, length)


def _refuse_or_repeat(sha256: str, length: int, store: BlobStore, spool: UploadSpool, first: Exception) -> None:
    """Once more if the spool is whole by now; bytes that are missing have to be sent again, wrong ones are forgotten."""
    if spool.size(sha256) < length:
        Upload.objects.filter(pk=sha256).update(received=0)
        raise ConflictError("upload_offset", "expected offset 0: somebody else sends the same bytes") from first
    try:
        _put(sha256, length, store, spool)
    except BlobMissingError as error:
        raise ConflictError("upload_offset", "expected offset 0: somebody else sends the same bytes") from error
    except BlobMismatchError as error:
        Upload.objects.filter(pk=sha256).delete()
        spool.discard(sha256)
        raise InvalidInputError("blob_mismatch", str(error)) from error


def discard_blobs(*, sha256s: frozenset[str], actor: str, store: BlobStore) -> int:
    """Remove blobs of a refused upload: those that this actor brought and that nothing refers to. Returns how many."""
    gone = []
    with transaction.atomic():
        for row in Blob.objects.select_for_update().filter(pk__in=sha256s, uploaded_by=actor):
            if not _is_referred_to(row.pk):
                gone.append(row.sha256)
                Blob.objects.filter(pk=row.sha256).delete()
    for sha256 in gone:
        store.delete(sha256)
    return len(gone)


def sweep_blobs(*, store: BlobStore, spool: UploadSpool, now: datetime) -> int:
    """Remove abandoned uploads and blobs that no version came to name; returns how many of both."""
    before = now - ABANDONED_AFTER
    uploads = list(Upload.objects.filter(updated_at__lt=before).values_list("pk", flat=True))
    for sha256 in uploads:
        Upload.objects.filter(pk=sha256).delete()
        spool.discard(sha256)
    old = Blob.objects.filter(created_at__lt=before).exclude(pk__in=VariantFile.objects.values("blob_id"))
    orphans = [sha256 for sha256 in old.values_list("pk", flat=True) if not _is_referred_to(sha256)]
    for sha256 in orphans:
        Blob.objects.filter(pk=sha256).delete()
        store.delete(sha256)
    return len(uploads) + len(orphans)


def _is_referred_to(sha256: str) -> bool:
    return (
        VariantFile.objects.filter(blob_id=sha256).exists()
        or Delta.objects.filter(old_id=sha256).exists()
        or Delta.objects.filter(new_id=sha256).exists()
        or Delta.objects.filter(patch_id=sha256).exists()
    )
