"""Builds X.509 certificates: authorities, and the leaves that they sign. No files, no policy about who gets one."""

import ipaddress
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUTHORITY_LIFETIME: Final = timedelta(days=3650)
# A certificate is valid from a little before it was made, for machines whose clock is a little behind.
BACKDATED: Final = timedelta(hours=1)

LeafKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey


@dataclass(frozen=True)
class Authority:
    """A certificate and the key with which it signs others."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def build_authority(key: ec.EllipticCurvePrivateKey, common_name: str, now: datetime) -> x509.Certificate:
    """A self-signed certificate that may sign leaves and revocation lists, and no further authorities."""
    public = key.public_key()
    return (
        x509.CertificateBuilder()
        .subject_name(_name(common_name))
        .issuer_name(_name(common_name))
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + AUTHORITY_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .sign(key, hashes.SHA256())
    )


def build_leaf(
    authority: Authority,
    public_key: LeafKey,
    *,
    common_name: str,
    alternative_names: Iterable[x509.GeneralName],
    usage: x509.ObjectIdentifier,
    lifetime: timedelta,
    now: datetime,
) -> x509.Certificate:
    """A certificate for one purpose (`usage`), never outliving its authority."""
    names = list(alternative_names)
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(common_name))
        .issuer_name(authority.certificate.subject)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(min(now + lifetime, authority.certificate.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()),
            critical=False,
        )
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(authority.key, hashes.SHA256())


def build_client(
    authority: Authority,
    public_key: LeafKey,
    *,
    common_name: str,
    uri: str | None,
    lifetime: timedelta,
    now: datetime,
) -> x509.Certificate:
    """A certificate with which `common_name` identifies itself to a server."""
    return build_leaf(
        authority,
        public_key,
        common_name=common_name,
        alternative_names=[x509.UniformResourceIdentifier(uri)] if uri else [],
        usage=ExtendedKeyUsageOID.CLIENT_AUTH,
        lifetime=lifetime,
        now=now,
    )


def build_server(
    authority: Authority, public_key: LeafKey, *, names: Iterable[str], lifetime: timedelta, now: datetime
) -> x509.Certificate:
    """A certificate for a server that is reached under `names`, each a host name or an IP address."""
    ordered = sorted(set(names))
    return build_leaf(
        authority,
        public_key,
        common_name="modelfleet",
        alternative_names=[_general_name(name) for name in ordered],
        usage=ExtendedKeyUsageOID.SERVER_AUTH,
        lifetime=lifetime,
        now=now,
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def canonical_name(name: str) -> str:
    """The one spelling of a host name or IP address, so that sets of names compare."""
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        return name.lower()


def server_names_of(certificate: x509.Certificate) -> frozenset[str]:
    """The host names and IP addresses that a server certificate is valid for."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return frozenset()
    return frozenset(
        {str(address) for address in names.get_values_for_type(x509.IPAddress)}
        | set(names.get_values_for_type(x509.DNSName)),
    )


def to_pem(certificate: x509.Certificate) -> str:
    """The certificate as text."""
    return certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")


def private_key_pem(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> bytes:
    """The private key as unencrypted PKCS#8: these are keys that processes use unattended."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def distinct_name(purpose: str) -> str:
    """An authority's name; the random part tells two installations apart in a certificate dump."""
    return f"Modelfleet {purpose} CA {secrets.token_hex(4)}"
