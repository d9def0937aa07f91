"""The device certificate authority: `fleet.ports.certificates.DeviceAuthority` over a key in memory."""

import hashlib
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import pkcs7

from device_client.wire.names import parse_device_id
from fleet.adapters.x509_build import Authority, LeafKey, build_client, to_pem
from fleet.ports.certificates import CertificateRequestRefusedError, IssuedCertificate, Revocation

LIFETIME: Final = timedelta(days=30)
MAX_CSR_BYTES: Final = 8_192


class DeviceCertificateAuthority:
    """Signs what a device asks for, except that it decides itself what the certificate says.

    From the request it takes the public key and nothing else: not the subject, not an extension.
    """

    def __init__(self, authority: Authority, lifetime: timedelta = LIFETIME) -> None:
        self._authority = authority
        self._lifetime = lifetime

    def anchor_pem(self) -> str:
        """The authority's own certificate."""
        return to_pem(self._authority.certificate)

    def issue(self, csr_der: bytes, device_id: str, now: datetime) -> IssuedCertificate:
        """A client certificate for `device_id`, 30 days unless told otherwise; raises CertificateRequestRefusedError."""
        key = _requested_key(csr_der)
        certificate = build_client(
            self._authority,
            key,
            common_name=parse_device_id(device_id),
            uri=f"urn:modelfleet:device:{device_id}",
            lifetime=self._lifetime,
            now=now,
        )
        return IssuedCertificate(
            chain_pem=to_pem(certificate) + self.anchor_pem(),
            serial_hex=f"{certificate.serial_number:x}",
            key_sha256=_key_sha256(key),
            not_before_at=certificate.not_valid_before_utc,
            not_after_at=certificate.not_valid_after_utc,
        )

    def proven_key_sha256(self, csr_der: bytes) -> str:
        """The digest of the key that the request carries and is signed by; raises CertificateRequestRefusedError."""
        return _key_sha256(_requested_key(csr_der))

    def certs_only(self, chain_pem: str) -> bytes:
        """The chain as a certs-only PKCS#7 message, DER."""
        certificates = x509.load_pem_x509_certificates(chain_pem.encode("ascii"))
        return pkcs7.serialize_certificates(certificates, serialization.Encoding.DER)

    def revocation_list(self, revocations: Iterable[Revocation], now: datetime) -> bytes:
        """A revocation list, PEM, that does not expire before the authority does.

        An expired list would lock out the whole fleet. This one is handed from disk to disk, never fetched by strangers,
        so its age carries no information that an expiry would protect.
        """
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._authority.certificate.subject)
            .last_update(now)
            .next_update(self._authority.certificate.not_valid_after_utc)
        )
        for revocation in revocations:
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder()
                .serial_number(int(revocation.serial_hex, 16))
                .revocation_date(revocation.revoked_at)
                .build(),
            )
        return builder.sign(self._authority.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _key_sha256(key: LeafKey) -> str:
    spki = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(spki).hexdigest()


def _requested_key(csr_der: bytes) -> LeafKey:
    if len(csr_der) > MAX_CSR_BYTES:
        raise CertificateRequestRefusedError(f"request of {len(csr_der)} bytes, expected at most {MAX_CSR_BYTES}")
    try:
        csr = x509.load_der_x509_csr(csr_der)
        proves_possession = csr.is_signature_valid
        key = csr.public_key()
    except (ValueError, TypeError, InvalidSignature) as error:
        raise CertificateRequestRefusedError(f"not a PKCS#10 request: {error}") from error
    except Exception as error:
        # cryptography raises its own UnsupportedAlgorithm, and a parser of untrusted bytes may raise what it likes.
        raise CertificateRequestRefusedError(f"unreadable request: {type(error).__name__}") from error
    if not proves_possession:
        raise CertificateRequestRefusedError("the request is not signed by the key that it carries")
    match key:
        case ed25519.Ed25519PublicKey():
            return key
        case ec.EllipticCurvePublicKey() if isinstance(key.curve, ec.SECP256R1):
            return key
        case _:
            raise CertificateRequestRefusedError(f"key of type {type(key).__name__}, expected EC P-256 or Ed25519")
