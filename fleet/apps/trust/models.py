"""Signed metadata, enrolment and credentials. Private to this app."""

from django.core.serializers.json import DjangoJSONEncoder
from django.db import models


class SignedMetadata(models.Model):
    """One version of one TUF role, byte for byte as it was signed."""

    class Repository(models.TextChoices):
        """Which of the two repositories."""

        IMAGE = "image"
        DIRECTOR = "director"

    class State(models.TextChoices):
        """Staged metadata is verified and waits for the publisher, which alone signs snapshot and timestamp."""

        STAGED = "staged"
        PUBLISHED = "published"

    repository = models.CharField(max_length=8, choices=Repository.choices)
    role = models.CharField(max_length=64)
    version = models.PositiveIntegerField()
    state = models.CharField(max_length=16, choices=State.choices)
    payload = models.BinaryField()
    expires_at = models.DateTimeField()
    created_at = models.DateTimeField()
    published_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(name="metadata_version_unique_in_role", fields=["repository", "role", "version"])
        ]

    def __str__(self) -> str:
        return f"{self.repository}/{self.version}.{self.role}"


class DirectorHead(models.Model):
    """The last director version signed for a device. It only rises."""

    device_id = models.CharField(max_length=63, primary_key=True)
    version = models.PositiveBigIntegerField()
    issued_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.device_id} v{self.version}"


class Claim(models.Model):
    """A single-use enrolment token, kept as its sha256 and bound to one device id."""

    token_sha256 = models.CharField(max_length=64, unique=True)
    device_id = models.CharField(max_length=63)
    hardware_class = models.CharField(max_length=63)
    attributes = models.JSONField(default=dict)
    created_by = models.CharField(max_length=128)
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField()
    used_at = models.DateTimeField(null=True)

    def __str__(self) -> str:
        return f"claim for {self.device_id}"


class Certificate(models.Model):
    """A device certificate that the device CA issued.

    `key_sha256` names its public key; empty on rows from before it was kept, whose devices renew by a new claim.
    """

    serial = models.CharField(max_length=40, primary_key=True)
    device_id = models.CharField(max_length=63, db_index=True)
    key_sha256 = models.CharField(max_length=64)
    not_before = models.DateTimeField()
    not_after = models.DateTimeField()
    revoked_at = models.DateTimeField(null=True)

    class Meta:
        indexes = [
            models.Index(name="certificate_by_key", fields=["key_sha256", "-not_before"]),
            # The publisher looks for revocations every second; they are few among many certificates.
            models.Index(
                name="certificate_revoked", fields=["revoked_at"], condition=models.Q(revoked_at__isnull=False)
            ),
        ]

    def __str__(self) -> str:
        return f"{self.device_id} {self.serial}"


class ApiToken(models.Model):
    """A pipeline's credential: `mf_<prefix>_<secret>`, kept as the sha256 of the whole.

    `owner` is the identity of the person it speaks for; empty if nobody said whose it is.
    """

    prefix = models.CharField(max_length=16, unique=True)
    token_sha256 = models.CharField(max_length=64, unique=True)
    name = models.CharField(max_length=128)
    scopes = models.JSONField(default=list)
    owner = models.CharField(max_length=128, blank=True, default="")
    created_by = models.CharField(max_length=128)
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField()
    last_used_at = models.DateTimeField(null=True)
    revoked_at = models.DateTimeField(null=True)

    def __str__(self) -> str:
        return f"{self.name} ({self.prefix})"


class IdempotentRequest(models.Model):
    """A request under an Idempotency-Key, and its answer once there is one."""

    actor = models.CharField(max_length=128)
    key = models.CharField(max_length=200)
    digest = models.CharField(max_length=64)
    status = models.PositiveSmallIntegerField(null=True)
    body = models.JSONField(null=True, encoder=DjangoJSONEncoder)
    created_at = models.DateTimeField(db_index=True)

    class Meta:
        constraints = [models.UniqueConstraint(name="request_once_per_actor_and_key", fields=["actor", "key"])]

    def __str__(self) -> str:
        return f"{self.actor} {self.key}"
