"""Publishes staged metadata: signs snapshot and timestamp over it and puts the files in place.

Only the publisher process calls this; it alone has the two signers. The database decides first, in one transaction; the
files follow from it, `timestamp.json` last, so that a device always finds what the timestamp it reads leads to. A crash
between the two is mended by the next call, which compares the published timestamp with the stored one.
"""

from datetime import datetime, timedelta
from typing import Final

from django.db import transaction
from django.db.models import QuerySet
from tuf.api.metadata import Root, Snapshot, Timestamp

from fleet.apps.trust.models import SignedMetadata
from fleet.apps.trust.records import PublishedRole, Repository
from fleet.domain import repository as roles
from fleet.ports.metadata_files import MetadataFiles
from fleet.ports.signer import MetadataSigner

TIMESTAMP_REFRESH: Final = timedelta(hours=1)
SNAPSHOT_REFRESH: Final = timedelta(days=1)
# Hourly timestamps are of no use once superseded.
TIMESTAMPS_KEPT: Final = 3
TIMESTAMP_FILE: Final = "timestamp.json"


def publish_staged(
    *, snapshot: MetadataSigner, timestamp: MetadataSigner, files: MetadataFiles, now: datetime
) -> tuple[PublishedRole, ...]:
    """Publish what is staged and refresh what grows old; returns the roles that became public, empty for nothing to do.

    Safe to call every second: without work it costs three reads and writes nothing.
    """
    published: tuple[PublishedRole, ...] = ()
    if _is_work_due(now):
        with transaction.atomic():
            published = _publish_rows(snapshot, timestamp, now)
    _write_files(files)
    return published


def _rows() -> QuerySet[SignedMetadata]:
    return SignedMetadata.objects.filter(repository=Repository.IMAGE.value)


def _newest(role: str) -> SignedMetadata | None:
    rows = _rows().filter(role=role)
    return rows.order_by("-version").first()


def _staged() -> list[SignedMetadata]:
    rows = _rows().filter(state=SignedMetadata.State.STAGED)
    return list(rows.order_by("pk"))


def _is_work_due(now: datetime) -> bool:
    if _rows().filter(state=SignedMetadata.State.STAGED).exists():
        return True
    newest = _newest(Timestamp.type)
    return newest is not None and newest.created_at <= now - TIMESTAMP_REFRESH


def _publish_rows(snapshot: MetadataSigner, timestamp: MetadataSigner, now: datetime) -> tuple[PublishedRole, ...]:
    staged = _staged()
    if _newest(Root.type) is None:
        return ()
    old_snapshot, old_timestamp = _newest(Snapshot.type), _newest(Timestamp.type)
    if any(row.role != Root.type for row in staged) or _is_older(old_snapshot, now - SNAPSHOT_REFRESH):
        metadata = roles.snapshot(_role_versions(), version=_next(old_snapshot), now=now)
        old_snapshot = _store(
            Snapshot.type, metadata.signed.version, roles.signed(metadata, [snapshot]), metadata.signed.expires, now
        )
    if old_snapshot is not None:
        stamp = roles.timestamp(old_snapshot.version, version=_next(old_timestamp), now=now)
        _store(Timestamp.type, stamp.signed.version, roles.signed(stamp, [timestamp]), stamp.signed.expires, now)
        _rows().filter(
            role=Timestamp.type,
            version__lte=stamp.signed.version - TIMESTAMPS_KEPT,
        ).delete()
    SignedMetadata.objects.filter(pk__in=[row.pk for row in staged]).update(
        state=SignedMetadata.State.PUBLISHED, published_at=now
    )
    return tuple(PublishedRole(row.role, row.version) for row in staged)


def _is_older(row: SignedMetadata | None, than: datetime) -> bool:
    return row is None or row.created_at <= than


def _next(row: SignedMetadata | None) -> int:
    return 1 if row is None else row.version + 1


def _role_versions() -> dict[str, int]:
    versions: dict[str, int] = {}
    rows = _rows().exclude(role__in=[Root.type, Snapshot.type, Timestamp.type])
    for role, version in rows.values_list("role", "version"):
        versions[role] = max(version, versions.get(role, 0))
    return versions


def _store(role: str, version: int, payload: bytes, expires_at: datetime, now: datetime) -> SignedMetadata:
    return SignedMetadata.objects.create(
        repository=Repository.IMAGE.value,
        role=role,
        version=version,
        state=SignedMetadata.State.PUBLISHED,
        payload=payload,
        expires_at=expires_at,
        created_at=now,
        published_at=now,
    )


def _write_files(files: MetadataFiles) -> None:
    newest = _newest(Timestamp.type)
    if newest is None or files.read(TIMESTAMP_FILE) == bytes(newest.payload):
        return
    rows = _rows().filter(state=SignedMetadata.State.PUBLISHED).exclude(role=Timestamp.type)
    for row in rows.order_by("pk"):
        name = f"{row.version}.{row.role}.json"
        if files.read(name) != bytes(row.payload):
            files.write(name, bytes(row.payload))
    files.write(TIMESTAMP_FILE, bytes(newest.payload))
