"""The installation's secrets: one directory of keys and certificates, made once and renewed in time.

    web.key                          Django's secret key
    device_ca.key .crt               signs device certificates and the server certificate that devices verify
    broker.key .crt                  the server certificate towards devices (broker, and web server of `up --lan`)
    internal_ca.key .crt             signs the identities of our own processes on the broker's second listener
    internal/<identity>.key .crt     one identity each; names begin with `_`, which no device id can
    internal/broker.key .crt         the server certificate of that listener
    online/{snapshot,timestamp,director}.pem    Ed25519 keys of the online TUF roles

It holds no key that could add a model: those are made by `modelfleet keys init`, outside this directory.
Existing keys are never replaced. A certificate whose key is gone is an error, not a reason for a new key: a new device
authority would lock out every device that exists.
"""

import os
import secrets
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, cast

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from fleet.adapters.device_authority import DeviceCertificateAuthority
from fleet.adapters.file_locks import exclusive
from fleet.adapters.x509_build import (
    Authority,
    build_authority,
    build_client,
    build_server,
    canonical_name,
    distinct_name,
    private_key_pem,
    server_names_of,
    to_pem,
)

# Who connects to the broker's second listener. What each may read and write stands in `broker_access`.
INTERNAL_IDENTITIES: Final = ("_ingest", "_director", "_publisher", "_conductor", "_web")
ONLINE_ROLES: Final = ("snapshot", "timestamp", "director")
# Renewed at half life whenever `prepare` runs, so an installation has more than a year to be started once.
LEAF_LIFETIME: Final = timedelta(days=825)


class SecretsUnusableError(Exception):
    """The directory of secrets is damaged or cannot be written; the operator's to mend."""


def write_atomically(path: Path, content: bytes, mode: int) -> None:
    """Replace `path` so that a reader, or a power cut, finds either the old content or the new, with `mode` throughout."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


class SecretFiles:
    """The directory of secrets. `ensure` makes what is missing; the other methods only read."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def path(self, name: str) -> Path:
        """Where a secret lives: `web.key`, `internal/_ingest.crt`, ..."""
        return self.directory / name

    def ensure(self, *, server_names: Iterable[str], now: datetime) -> None:
        """Make what is missing, renew what is half way through its life or names other hosts than `server_names`.

        Safe to call at any time, by several processes at once. Raises SecretsUnusableError or OSError.
        """
        names = frozenset(canonical_name(name) for name in server_names)
        for directory in (self.directory, self.path("internal"), self.path("online")):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            directory.chmod(0o700)
        with exclusive(self.path(".lock")):
            self._ensure_file("web.key", lambda: secrets.token_urlsafe(48).encode("ascii"))
            for role in ONLINE_ROLES:
                self._ensure_file(
                    f"online/{role}.pem",
                    lambda: private_key_pem(ed25519.Ed25519PrivateKey.generate()),
                )
            devices = self._ensure_authority("device", now)
            internal = self._ensure_authority("internal", now)
            self._ensure_server("broker", devices, names, now)
            self._ensure_server("internal/broker", internal, frozenset({"localhost", "127.0.0.1", "::1"}) | names, now)
            for identity in INTERNAL_IDENTITIES:
                self._ensure_client(identity, internal, now)

    def device_authority(self) -> DeviceCertificateAuthority:
        """The authority that issues device certificates."""
        return DeviceCertificateAuthority(self._load_authority("device"))

    def online_key_pem(self, role: str) -> bytes:
        """The private key of an online TUF role, PKCS#8 PEM."""
        if role not in ONLINE_ROLES:
            raise ValueError(f"online role {role!r}, expected one of {', '.join(ONLINE_ROLES)}")
        return self._read(f"online/{role}.pem")

    def _read(self, name: str) -> bytes:
        try:
            return self.path(name).read_bytes()
        except FileNotFoundError:
            raise SecretsUnusableError(f"{self.path(name)} is missing: run `manage.py prepare`") from None

    def _ensure_file(self, name: str, make: Callable[[], bytes]) -> None:
        path = self.path(name)
        if path.exists():
            path.chmod(0o600)
        else:
            write_atomically(path, make(), 0o600)

    def _ensure_key(self, stem: str) -> ec.EllipticCurvePrivateKey:
        if self.path(f"{stem}.crt").exists() and not self.path(f"{stem}.key").exists():
            raise SecretsUnusableError(
                f"{self.path(f'{stem}.key')} is missing although {stem}.crt exists: restore it from a backup",
            )
        self._ensure_file(f"{stem}.key", lambda: private_key_pem(ec.generate_private_key(ec.SECP256R1())))
        return self._load_key(stem)

    def _load_key(self, stem: str) -> ec.EllipticCurvePrivateKey:
        try:
            key = serialization.load_pem_private_key(self._read(f"{stem}.key"), password=None)
        except (ValueError, TypeError) as error:
            raise SecretsUnusableError(f"{self.path(f'{stem}.key')} is not a private key: {error}") from error
        return cast("ec.EllipticCurvePrivateKey", key)

    def _load_certificate(self, stem: str) -> x509.Certificate:
        try:
            return x509.load_pem_x509_certificate(self._read(f"{stem}.crt"))
        except ValueError as error:
            raise SecretsUnusableError(f"{self.path(f'{stem}.crt')} is not a certificate: {error}") from error

    def _load_authority(self, purpose: str) -> Authority:
        return Authority(self._load_certificate(f"{purpose}_ca"), self._load_key(f"{purpose}_ca"))

    def _ensure_authority(self, purpose: str, now: datetime) -> Authority:
        stem = f"{purpose}_ca"
        key = self._ensure_key(stem)
        if not self.path(f"{stem}.crt").exists():
            certificate = build_authority(key, distinct_name(purpose), now)
            write_atomically(self.path(f"{stem}.crt"), to_pem(certificate).encode("ascii"), 0o644)
        return Authority(self._load_certificate(stem), key)

    def _ensure_server(self, stem: str, authority: Authority, names: frozenset[str], now: datetime) -> None:
        key = self._ensure_key(stem)
        if self._is_current(stem, authority, now) and server_names_of(self._load_certificate(stem)) == names:
            return
        certificate = build_server(authority, key.public_key(), names=names, lifetime=LEAF_LIFETIME, now=now)
        self._write_chain(stem, certificate, authority)

    def _ensure_client(self, identity: str, authority: Authority, now: datetime) -> None:
        stem = f"internal/{identity}"
        key = self._ensure_key(stem)
        if self._is_current(stem, authority, now):
            return
        certificate = build_client(
            authority, key.public_key(), common_name=identity, uri=None, lifetime=LEAF_LIFETIME, now=now
        )
        self._write_chain(stem, certificate, authority)

    def _is_current(self, stem: str, authority: Authority, now: datetime) -> bool:
        if not self.path(f"{stem}.crt").exists():
            return False
        certificate = self._load_certificate(stem)
        half_life = certificate.not_valid_before_utc + LEAF_LIFETIME / 2
        return (
            certificate.issuer == authority.certificate.subject and certificate.not_valid_before_utc <= now < half_life
        )

    def _write_chain(self, stem: str, certificate: x509.Certificate, authority: Authority) -> None:
        chain = to_pem(certificate) + to_pem(authority.certificate)
        write_atomically(self.path(f"{stem}.crt"), chain.encode("ascii"), 0o644)
