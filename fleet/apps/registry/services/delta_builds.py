"""Makes one delta, proves it and publishes it: the work of a job. Works on files, never on a model in memory.

A delta becomes `ready` only after the device's own decoder has turned the old file into the new one with it. A patch that
is no smaller than the file is kept as a fact (`useless`), not as bytes.
"""

import hashlib
import time
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from django.db import transaction

from device_client.wire.errors import WireError
from fleet.apps.registry.models import Blob, Delta, VariantFile
from fleet.apps.registry.services.deltas import settle
from fleet.domain.delta_states import DeltaEvent, DeltaState
from fleet.domain.errors import NotFoundError, UnavailableError
from fleet.ports.blobs import BlobMismatchError, BlobMissingError, BlobStore, StorageFullError
from fleet.ports.delta_encoder import DeltaEncoder, DeltaProof, DeltaTooExpensiveError, WeightsFile
from fleet.ports.local_files import LocalFiles

PATCHED_BY: Final = "_worker"
# Files that tell what lies in another file of their bundle.
DESCRIBING: Final = (".onnx", ".xml")


@dataclass(frozen=True)
class Workshop:
    """What a build works with."""

    store: BlobStore
    files: LocalFiles
    proof: DeltaProof


@dataclass(frozen=True)
class _Outcome:
    """How a build ended. `sha256` is of a patch that is to be published, None if none is."""

    event: DeltaEvent
    detail: str
    made_bytes: int = 0
    sha256: str | None = None


def build_delta(*, old: str, new: str, encoder: DeltaEncoder, workshop: Workshop, now: datetime) -> DeltaState:
    """Build, prove and store one delta; returns its state. Safe to do twice.

    Raises UnavailableError for what may go better later: no room, a store without the bytes.
    """
    found = Delta.objects.filter(old_id=old, new_id=new, codec=encoder.codec.value).select_related("new").first()
    if found is None:
        raise NotFoundError("delta_not_found", f"expected a requested delta {old[:16]}-{new[:16]}, got none")
    if found.state != DeltaState.QUEUED.value:
        return DeltaState(found.state)
    started_s, started_cpu_s = time.monotonic(), time.process_time()
    try:
        with ExitStack() as stack:
            directory = stack.enter_context(workshop.files.scratch())
            patch = directory / "patch"
            outcome = _made(found, encoder, workshop, patch, stack)
            spent_s, spent_cpu_s = time.monotonic() - started_s, time.process_time() - started_cpu_s
            if outcome.sha256 is not None:
                with patch.open("rb") as content:
                    workshop.store.put(outcome.sha256, content, outcome.made_bytes)
    except StorageFullError as error:
        raise UnavailableError("storage_full", str(error)) from error
    except BlobMissingError as error:
        raise UnavailableError("blob_vanished", str(error)) from error
    except BlobMismatchError as error:
        raise UnavailableError("blob_damaged", str(error)) from error
    return _record(found.pk, outcome, spent_s, spent_cpu_s, now)


def _made(found: Delta, encoder: DeltaEncoder, workshop: Workshop, patch: Path, stack: ExitStack) -> _Outcome:
    """Make the patch and let the device's decoder try it."""
    old, new = (_weights(sha256, workshop.files, stack) for sha256 in (found.old_id, found.new_id))
    try:
        encoder.encode(old, new, patch)
        rebuilt = workshop.proof.digest(encoder.codec, old.path, patch, found.new.length)
    except DeltaTooExpensiveError as error:
        return _Outcome(DeltaEvent.FIND_USELESS, str(error))
    except WireError as error:
        return _Outcome(DeltaEvent.FAIL, str(error))
    size = patch.stat().st_size
    if rebuilt != found.new_id:
        return _Outcome(DeltaEvent.FAIL, "the decoded patch is not the new file", size)
    if size >= found.new.length:
        return _Outcome(DeltaEvent.FIND_USELESS, f"{size} bytes, the file has {found.new.length}", size)
    with patch.open("rb") as content:
        return _Outcome(DeltaEvent.PROVE, "", size, hashlib.file_digest(content, "sha256").hexdigest())


def _weights(sha256: str, files: LocalFiles, stack: ExitStack) -> WeightsFile:
    """The weights as a file, with the model file beside them where they are its external data."""
    path = stack.enter_context(files.blob(sha256))
    listed = VariantFile.objects.filter(blob_id=sha256).order_by("pk").first()
    if listed is None or listed.name.endswith(DESCRIBING):
        return WeightsFile(path)
    beside = VariantFile.objects.filter(variant_id=listed.variant_id).exclude(pk=listed.pk)
    describing = next((row for row in beside if row.name.endswith(DESCRIBING)), None)
    if describing is None:
        return WeightsFile(path, listed.name)
    return WeightsFile(path, listed.name, stack.enter_context(files.blob(describing.blob_id)))


def _record(pk: int, outcome: _Outcome, build_s: float, cpu_s: float, now: datetime) -> DeltaState:
    with transaction.atomic():
        if outcome.sha256 is not None:
            Blob.objects.get_or_create(
                sha256=outcome.sha256,
                defaults={"length": outcome.made_bytes, "uploaded_by": PATCHED_BY, "created_at": now},
            )
        settle(
            pk,
            outcome.event,
            now,
            detail=outcome.detail,
            patch=outcome.sha256,
            made_bytes=outcome.made_bytes or None,
            build_s=build_s,
            cpu_s=cpu_s,
        )
    return DeltaState(Delta.objects.values_list("state", flat=True).get(pk=pk))
