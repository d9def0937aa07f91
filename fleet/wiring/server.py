"""Composes what the server's processes use of the outside. Adapters are made on first use and kept for the process's life."""

from datetime import datetime
from functools import cache

from django.conf import settings

from fleet.adapters.blobs_local import LocalBlobStore, LocalUploadSpool
from fleet.adapters.blobs_s3 import S3BlobStore
from fleet.adapters.clock_system import SystemClock
from fleet.adapters.delta_bsdiff4 import Bsdiff4Encoder
from fleet.adapters.metadata_files_local import LocalMetadataFiles
from fleet.adapters.signer_file import signer_from_pem
from fleet.apps.registry import services as registry
from fleet.apps.trust import services as trust
from fleet.apps.trust.records import OnlineKeys
from fleet.domain.tickets import ticket_key
from fleet.ports.blobs import BlobStore, UploadSpool
from fleet.ports.certificates import DeviceAuthority
from fleet.ports.clock import Clock
from fleet.ports.delta_encoder import DeltaEncoder
from fleet.ports.metadata_files import MetadataFiles
from fleet.ports.signer import MetadataSigner
from fleet.wiring import installation

# How long a device may take from its ticket to the first byte; a download under way is not cut off by it.
TICKET_TTL_S = 3_600


@cache
def clock() -> Clock:
    """The system's clock."""
    return SystemClock()


@cache
def blob_store() -> BlobStore:
    """Where blobs are kept, as MODELFLEET_BLOBS says."""
    blobs = settings.MODELFLEET.blobs
    # The settings' classes belong to the layer above, so they are told apart by what they hold.
    if hasattr(blobs, "directory"):
        return LocalBlobStore(blobs.directory, blob_ticket_key(), clock().now)
    return S3BlobStore(blobs.bucket, blobs.prefix, blobs.endpoint_url)


@cache
def upload_spool() -> UploadSpool:
    """Where uploads arrive: always on this machine, so a pipeline's chunks must reach the same one."""
    return LocalUploadSpool(settings.MODELFLEET.home / "uploads")


def blob_ticket_key() -> bytes:
    """What tickets for our own downloads are signed with."""
    return ticket_key(settings.SECRET_KEY.encode())


@cache
def image_files() -> MetadataFiles:
    """The published image repository."""
    return LocalMetadataFiles(settings.MODELFLEET.home / "image" / "metadata")


@cache
def signer(role: str) -> MetadataSigner:
    """The online key of `snapshot`, `timestamp` or `director`. Each process asks only for its own."""
    return signer_from_pem(installation.secret_files().online_key_pem(role))


@cache
def online_keys() -> OnlineKeys:
    """The public halves of the online keys."""
    return OnlineKeys(
        snapshot=signer("snapshot").public_key,
        timestamp=signer("timestamp").public_key,
        director=signer("director").public_key,
    )


def certificate_authority() -> DeviceAuthority:
    """Who signs device certificates."""
    return installation.device_authority()


@cache
def delta_encoders() -> tuple[DeltaEncoder, ...]:
    """The codecs in which this server makes patches."""
    return (Bsdiff4Encoder(),)


def publish_image(now: datetime) -> int:
    """One turn of the publisher: publish staged metadata, then mark the versions that became public; returns how many roles."""
    published = trust.publish_staged(
        snapshot=signer("snapshot"), timestamp=signer("timestamp"), files=image_files(), now=now
    )
    registry.settle_published(now=now)
    return len(published)


def build_delta(payload: dict[str, str], now: datetime) -> None:
    """The work of a `delta` job; `payload` is what `registry.services.request_deltas` queued."""
    encoder = next(item for item in delta_encoders() if item.codec.value == payload["codec"])
    registry.build_delta(old=payload["old"], new=payload["new"], encoder=encoder, store=blob_store(), now=now)


def sweep_blobs(now: datetime) -> None:
    """The work of a `sweep` job: forget uploads that nobody finished and blobs that no version came to name."""
    registry.sweep_blobs(store=blob_store(), spool=upload_spool(), now=now)
