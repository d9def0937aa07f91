"""Composes what the server's processes use of the outside. Adapters are made on first use and kept for the process's life."""

import logging
from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import cache

from django.conf import settings

from device_client.wire.delta import Codec
from fleet.adapters.blobs_local import LocalBlobStore, LocalUploadSpool
from fleet.adapters.clock_system import SystemClock
from fleet.adapters.local_files import FetchedFiles, StoredFiles
from fleet.adapters.metadata_files_local import LocalMetadataFiles
from fleet.adapters.signer_file import signer_from_pem
from fleet.adapters.webhook_http import HttpWebhookSender
from fleet.apps.assignments import selectors as assignments
from fleet.apps.devices import selectors as devices
from fleet.apps.registry import selectors as models
from fleet.apps.registry import services as registry
from fleet.apps.trust import services as trust
from fleet.apps.trust.records import OnlineKeys
from fleet.apps.webhooks import services as webhooks
from fleet.domain.delta_plan import Budget, Group
from fleet.domain.tickets import ticket_key
from fleet.ports.blobs import BlobStore, UploadSpool
from fleet.ports.certificates import DeviceAuthority
from fleet.ports.clock import Clock
from fleet.ports.delta_encoder import DeltaEncoder
from fleet.ports.local_files import LocalFiles
from fleet.ports.metadata_files import MetadataFiles
from fleet.ports.signer import MetadataSigner
from fleet.wiring import installation

logger = logging.getLogger(__name__)

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
    from fleet.adapters.blobs_s3 import S3BlobStore

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
def delta_encoders() -> Mapping[Codec, DeltaEncoder]:
    """Who makes patches in each codec. The libraries for it are imported here, by workers only."""
    from fleet.adapters.delta_encoders import Bsdiff4Encoder, Tensor1Encoder

    tensor1, portable = Tensor1Encoder(Codec.TENSOR1), Tensor1Encoder(Codec.TENSOR1_PORTABLE)
    return {Codec.TENSOR1: tensor1, Codec.TENSOR1_PORTABLE: portable, Codec.BSDIFF4: Bsdiff4Encoder()}


@cache
def local_files() -> LocalFiles:
    """Blobs as files on this machine, and room to work in."""
    store, directory = blob_store(), settings.MODELFLEET.home / "scratch"
    return StoredFiles(store, directory) if isinstance(store, LocalBlobStore) else FetchedFiles(store, directory)


def delta_workshop() -> registry.Workshop:
    """What a worker makes patches with."""
    from fleet.adapters.delta_encoders import DeviceDecoder

    return registry.Workshop(store=blob_store(), files=local_files(), proof=DeviceDecoder())


def publish_image(now: datetime) -> int:
    """One turn of the publisher: publish staged metadata, then mark the versions that became public; returns how many roles."""
    published = trust.publish_staged(
        snapshot=signer("snapshot"), timestamp=signer("timestamp"), files=image_files(), now=now
    )
    registry.settle_published(now=now)
    return len(published)


def build_delta(payload: dict[str, str], now: datetime) -> None:
    """The work of a `delta` job; `payload` is what `registry.services.request_deltas` queued."""
    encoder = delta_encoders()[Codec(payload["codec"])]
    registry.build_delta(old=payload["old"], new=payload["new"], encoder=encoder, workshop=delta_workshop(), now=now)


def plan_deltas(payload: Mapping[str, object], now: datetime) -> None:
    """The work of a `delta-plan` job: what devices run, put to the plan, within the installation's budget for one version."""
    deltas = settings.MODELFLEET.deltas
    groups = (
        Group(found.weights_sha256, found.hardware_class, found.capabilities, found.count, found.contract)
        for found in devices.weights_groups(str(payload["model"]))
    )
    budget = Budget(deltas.cpu_s, deltas.new_bytes)
    registry.request_deltas(version_id=int(str(payload["version_id"])), groups=groups, budget=budget, now=now)


def tidy_deltas(now: datetime) -> None:
    """Deltas whose jobs were given up have failed, and from time to time all patches are looked through."""
    registry.settle_abandoned(now=now)
    registry.request_review(now=now)


def review_deltas(_payload: Mapping[str, object], now: datetime) -> None:
    """The work of a `delta-review` job: drop the patches that were of no use for as long as the installation keeps them.

    And plan again for all versions on offer: devices may have come since that run what nobody ran then.
    """
    names = [model.name for model in models.models()]
    for name in names:
        for version_id in sorted(assignments.offered_versions(name, by_patch=True)):
            registry.request_plan(model=name, version_id=version_id, now=now)
    offered = frozenset(version_id for name in names for version_id in assignments.offered_versions(name))
    in_use = devices.weights_in_use() | models.weights_of(offered)
    keep = timedelta(days=settings.MODELFLEET.deltas.keep_days)
    dropped = registry.review_deltas(in_use=in_use, keep=keep, store=blob_store(), now=now)
    if dropped:
        logger.info("dropped %d patches that nobody could use for %s", dropped, keep)


def deliver_webhook(payload: Mapping[str, object], now: datetime) -> None:
    """The work of a `webhook` job."""
    sender = HttpWebhookSender(settings.MODELFLEET.webhook_hosts)
    webhooks.deliver(payload=payload, sender=sender, now=now)


def sweep_blobs(now: datetime) -> None:
    """The work of a `sweep` job: forget uploads that nobody finished and blobs that no version came to name."""
    registry.sweep_blobs(store=blob_store(), spool=upload_spool(), now=now)
