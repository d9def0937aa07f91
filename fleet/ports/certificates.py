"""The authority over device identities: who may call itself by which device id, until when, and who no longer may."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol


class CertificateRequestRefusedError(Exception):
    """The certificate request is not one this authority signs; the device's fault and permanent."""

    code = "certificate_request_refused"


@dataclass(frozen=True)
class IssuedCertificate:
    """A certificate as it is stored and sent: PEM, the leaf first, then its issuer.

    `key_sha256` is the digest of the device's public key (DER SubjectPublicKeyInfo), by which a renewal finds it.
    """

    chain_pem: str
    serial_hex: str
    key_sha256: str
    not_before_at: datetime
    not_after_at: datetime


@dataclass(frozen=True)
class Revocation:
    """A serial number that must not be believed any more, although its certificate has not expired."""

    serial_hex: str
    revoked_at: datetime


class DeviceAuthority(Protocol):
    """Issues the certificates with which devices identify themselves to the broker."""

    def anchor_pem(self) -> str:
        """The authority's own certificate, which devices pin."""
        ...

    def issue(self, csr_der: bytes, device_id: str, now: datetime) -> IssuedCertificate:
        """A client certificate for `device_id` over the request's key; everything else in the request is ignored.

        Raises CertificateRequestRefusedError. It is the caller who knows that this device may have this id.
        """
        ...

    def proven_key_sha256(self, csr_der: bytes) -> str:
        """The digest of the request's public key, whose private half has signed the request.

        Raises CertificateRequestRefusedError.
        """
        ...

    def certs_only(self, chain_pem: str) -> bytes:
        """The chain as the DER of a certs-only PKCS#7 message, which is how EST sends certificates."""
        ...

    def revocation_list(self, revocations: Iterable[Revocation], now: datetime) -> bytes:
        """A signed list of the revoked serial numbers, PEM."""
        ...
