"""Claims and device certificates: how a device gets, renews and loses its identity. Knows nothing of the fleet."""

import hashlib
import re
import secrets
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Final

from django.db import transaction

from device_client.wire import limits
from device_client.wire.errors import WireError
from device_client.wire.names import parse_device_id
from fleet.apps.audit import services as audit
from fleet.apps.trust import selectors
from fleet.apps.trust.models import Certificate, Claim
from fleet.apps.trust.records import ClaimRecord, Enrolment, Renewal
from fleet.domain.errors import ConflictError, ForbiddenError, InvalidInputError, QuotaError
from fleet.ports.certificates import CertificateRequestRefusedError, DeviceAuthority, IssuedCertificate

MARK: Final = "mfc"
MAX_LIFETIME: Final = timedelta(days=90)
# A renewal whose answer was lost may be asked again; whoever needs more in a day is not renewing.
CERTIFICATES_A_DAY: Final = 5
MAX_TOKEN_CHARS: Final = 128
HARDWARE_CLASS: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
MAX_ATTRIBUTE_CHARS: Final = 128


def create_claim(
    *,
    device_id: str,
    hardware_class: str,
    attributes: Mapping[str, str],
    expires_in_s: float,
    actor: str,
    now: datetime,
) -> tuple[ClaimRecord, str]:
    """Allow one device to enrol once; returns the record and the token, which is not kept."""
    _check_claim(device_id, hardware_class, attributes)
    lifetime = timedelta(seconds=expires_in_s)
    if not timedelta(0) < lifetime <= MAX_LIFETIME:
        raise InvalidInputError("claim_lifetime", f"expected more than 0 and at most {MAX_LIFETIME.days} days")
    token = f"{MARK}_{secrets.token_urlsafe(32)}"
    with transaction.atomic():
        row = Claim.objects.create(
            token_sha256=_digest(token),
            device_id=device_id,
            hardware_class=hardware_class,
            attributes=dict(attributes),
            created_by=actor,
            created_at=now,
            expires_at=now + lifetime,
        )
        audit.record(
            actor=actor,
            action="claim.create",
            subject=device_id,
            detail={"hardware_class": hardware_class, "claim": row.pk},
            now=now,
        )
    return selectors.claim_record(row), token


def redeem_claim(*, token: str, csr_der: bytes, authority: DeviceAuthority, now: datetime) -> Enrolment:
    """Exchange a claim and a certificate request for a certificate. A claim works once.

    Call it inside the transaction that also makes the device known: a refused request then leaves the claim unused.
    Raises ForbiddenError for a claim that is unknown, used or expired, InvalidInputError for the request.
    """
    with transaction.atomic():
        valid = Claim.objects.filter(token_sha256=_digest(token), used_at__isnull=True, expires_at__gt=now)
        # Compare-and-swap: of two devices that show the same token, one is turned away.
        if len(token) > MAX_TOKEN_CHARS or valid.update(used_at=now) != 1:
            raise ForbiddenError("claim_invalid", "expected an unused claim that has not expired, got another token")
        claim = Claim.objects.get(token_sha256=_digest(token))
        issued = _issue(authority, csr_der, claim.device_id, now)
        audit.record(
            actor=f"claim:{claim.pk}",
            action="device.enrol",
            subject=claim.device_id,
            detail={"certificate": issued.serial_hex},
            now=now,
        )
    return Enrolment(
        device_id=claim.device_id,
        hardware_class=claim.hardware_class,
        attributes=dict(claim.attributes),
        certificate_serial=issued.serial_hex,
        not_after_at=issued.not_after_at,
        pkcs7_der=authority.certs_only(issued.chain_pem),
    )


def renew_certificate(
    *, csr_der: bytes, authority: DeviceAuthority, admit: Callable[[str], None], now: datetime
) -> Renewal:
    """A fresh certificate for whoever holds the key of an earlier one, be that lapsed or not.

    The request's own signature proves the key, and the newest certificate over it names the device; the request's
    subject is ignored. `admit` is called with the device's id inside the transaction, before anything is issued: it
    locks what a revocation would change, and raises to refuse.

    Raises InvalidInputError for the request, ForbiddenError for a key that is unknown or revoked, QuotaError for a
    device that asks too often.
    """
    try:
        key_sha256 = authority.proven_key_sha256(csr_der)
    except CertificateRequestRefusedError as error:
        raise InvalidInputError(error.code, f"certificate request: {error}") from error
    with transaction.atomic():
        device_id = _newest_over(key_sha256).device_id
        admit(device_id)
        if _newest_over(key_sha256).revoked_at is not None:
            raise ForbiddenError("key_revoked", f"the certificate of {device_id} was revoked: it needs a new claim")
        _require_quota(device_id, now)
        issued = _issue(authority, csr_der, device_id, now)
        audit.record(
            actor=f"device:{device_id}",
            action="device.renew",
            subject=device_id,
            detail={"certificate": issued.serial_hex},
            now=now,
        )
    return Renewal(device_id, issued.serial_hex, issued.not_after_at, authority.certs_only(issued.chain_pem))


def revoke_device(*, device_id: str, actor: str, now: datetime) -> int:
    """Revoke every certificate of a device; returns how many were valid. The caller tells the broker."""
    with transaction.atomic():
        count = Certificate.objects.filter(device_id=device_id, revoked_at__isnull=True).update(revoked_at=now)
        audit.record(actor=actor, action="device.revoke", subject=device_id, detail={"certificates": count}, now=now)
    return count


def _issue(authority: DeviceAuthority, csr_der: bytes, device_id: str, now: datetime) -> IssuedCertificate:
    try:
        issued = authority.issue(csr_der, device_id, now)
    except CertificateRequestRefusedError as error:
        raise InvalidInputError(error.code, f"certificate request: {error}") from error
    # A renewal is granted to a key, so a key means one device: two with one would take each other's names.
    if Certificate.objects.filter(key_sha256=issued.key_sha256).exclude(device_id=device_id).exists():
        raise ConflictError("key_in_use", f"expected a key of {device_id} alone, got one that another device has used")
    Certificate.objects.create(
        serial=issued.serial_hex,
        device_id=device_id,
        key_sha256=issued.key_sha256,
        not_before=issued.not_before_at,
        not_after=issued.not_after_at,
    )
    return issued


def _newest_over(key_sha256: str) -> Certificate:
    row = Certificate.objects.filter(key_sha256=key_sha256).order_by("-not_before", "-serial").first()
    if row is None:
        raise ForbiddenError("key_unknown", "expected the key of an enrolled device, got another: it needs a claim")
    return row


def _require_quota(device_id: str, now: datetime) -> None:
    """Certificates are backdated a little, so the day that is counted is that much shorter."""
    issued = Certificate.objects.filter(device_id=device_id, not_before__gt=now - timedelta(days=1)).count()
    if issued >= CERTIFICATES_A_DAY:
        raise QuotaError(
            "renewals_exhausted", f"expected at most {CERTIFICATES_A_DAY} certificates a day, got {issued}: come later"
        )


def _check_claim(device_id: str, hardware_class: str, attributes: Mapping[str, str]) -> None:
    try:
        parse_device_id(device_id)
    except WireError as error:
        raise InvalidInputError("device_id", str(error)) from error
    if HARDWARE_CLASS.fullmatch(hardware_class) is None:
        raise InvalidInputError(
            "hardware_class", f"expected a class matching {HARDWARE_CLASS.pattern}, got {hardware_class[:80]!r}"
        )
    if len(attributes) > limits.MAX_ATTRIBUTES or any(
        not 0 < len(key) <= MAX_ATTRIBUTE_CHARS or len(value) > MAX_ATTRIBUTE_CHARS for key, value in attributes.items()
    ):
        raise InvalidInputError(
            "attributes",
            f"expected at most {limits.MAX_ATTRIBUTES} attributes of at most {MAX_ATTRIBUTE_CHARS} characters",
        )


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
