"""The device's identity on disk, and how it is obtained: a key that never leaves, a request, a certificate.

Enrolment is EST-shaped (RFC 7030 simpleenroll) with a claim token. A claim is good for one use, so everything that can
be checked is checked before it is presented: the state directory, the pin over the trust anchors, the server's TLS
certificate under the pinned authority.
"""

import base64
import binascii
import hashlib
import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final
from urllib.parse import urljoin

import urllib3
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import pkcs7
from cryptography.x509.oid import NameOID
from urllib3.exceptions import HTTPError

from device_client.adapters import durable, http
from device_client.core.errors import ConfigError, EnrolmentError, TransferError
from device_client.wire.errors import WireError
from device_client.wire.fields import Fields, decode_object
from device_client.wire.names import parse_device_id

ANCHORS_VERSION: Final = 1
MAX_ANCHORS_BYTES: Final = 262_144
MAX_ANSWER_BYTES: Final = 65_536
DEVICE_ID_HEADER: Final = "X-Modelfleet-Device-Id"


@dataclass(frozen=True)
class IdentityPaths:
    """Where the parts of an identity lie."""

    directory: Path

    @property
    def key(self) -> Path:
        """The private key, PEM, readable by this user only."""
        return self.directory / "device.key"

    @property
    def certificate(self) -> Path:
        """The certificate chain, PEM."""
        return self.directory / "device.crt"

    @property
    def authority(self) -> Path:
        """The fleet's authority, PEM: what the broker's certificate is checked against."""
        return self.directory / "authority.crt"

    @property
    def anchors(self) -> Path:
        """The pinned anchors, byte for byte."""
        return self.directory / "anchors.json"


@dataclass(frozen=True)
class Anchors:
    """What everything else is checked against."""

    authority_pem: str
    image_root: bytes
    director_root: bytes

    @classmethod
    def parse(cls, payload: bytes) -> "Anchors":
        """Read the pinned document; raises `ConfigError`, also for one in which something is missing."""
        try:
            fields = decode_object(payload, max_bytes=MAX_ANCHORS_BYTES)
            fields.require_version(ANCHORS_VERSION)
            authority = fields.text("device_ca_pem", max_chars=65_536)
            image, director = (_metadata(fields, name) for name in ("image_root", "director_root"))
        except WireError as error:
            raise ConfigError(f"trust anchors: {error}") from error
        if not authority or not image or not director:
            raise ConfigError("expected an authority and two roots in the trust anchors, got an empty one")
        return cls(authority, image, director)


def _metadata(fields: Fields, name: str) -> bytes:
    """TUF metadata as its exact text."""
    return fields.text(name, max_chars=MAX_ANCHORS_BYTES).encode()


def load_anchors(paths: IdentityPaths) -> Anchors:
    """The stored anchors; raises `ConfigError` if they are missing: nothing is ever checked against nothing."""
    try:
        return Anchors.parse(paths.anchors.read_bytes())
    except OSError as error:
        raise ConfigError(f"expected trust anchors in {paths.anchors}, got {error}") from error


def certificate_times(paths: IdentityPaths) -> tuple[datetime, datetime]:
    """Not before, not after."""
    try:
        certificate = x509.load_pem_x509_certificates(paths.certificate.read_bytes())[0]
    except (OSError, ValueError, IndexError) as error:
        raise ConfigError(f"expected a certificate in {paths.certificate}, got {error}") from error
    return certificate.not_valid_before_utc, certificate.not_valid_after_utc


def fetch_anchors(server_url: str, pin: str) -> bytes:
    """The server's anchors if they are those that were pinned.

    The connection is not authenticated (there is nothing to authenticate it with yet): the pin is what counts.
    """
    pool = urllib3.PoolManager(cert_reqs="CERT_NONE", retries=False, timeout=http.SOCKET_TIMEOUT_S)
    try:
        payload = http.get_document(pool, _join(server_url, "device/v1/anchors"), MAX_ANCHORS_BYTES)
    except TransferError as error:
        raise EnrolmentError(str(error)) from error
    got = hashlib.sha256(payload).hexdigest()
    if got != pin.lower().removeprefix("sha256:"):
        raise EnrolmentError(
            f"expected trust anchors with sha256 {pin}, got {got}: this is not the server you were told of"
        )
    Anchors.parse(payload)
    return payload


def _join(server_url: str, path: str) -> str:
    return urljoin(server_url.rstrip("/") + "/", path)


def make_key(paths: IdentityPaths) -> ec.EllipticCurvePrivateKey:
    """The device's key: the stored one, or a new P-256 key that is on disk before anything is asked for it."""
    if paths.key.exists():
        key = serialization.load_pem_private_key(paths.key.read_bytes(), password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ConfigError(f"expected an elliptic-curve key in {paths.key}, got {type(key).__name__}")
        return key
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    durable.write_file(paths.key, pem)
    return key


def make_request(key: ec.EllipticCurvePrivateKey, wanted_id: str) -> bytes:
    """A PKCS#10 request, DER. The server decides the name; the subject is a wish."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, wanted_id)] if wanted_id else [])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.DER)


@dataclass(frozen=True)
class Enrolled:
    """What the server granted."""

    device_id: str
    chain_pem: bytes


def present_claim(
    server_url: str, token: str, request_der: bytes, key: ec.EllipticCurvePrivateKey, pool: urllib3.PoolManager
) -> Enrolled:
    """Spend the claim; raises `EnrolmentError` with the server's own sentence."""
    try:
        response = pool.request(
            "POST",
            _join(server_url, ".well-known/est/simpleenroll"),
            body=base64.b64encode(request_der),
            headers={
                "Authorization": f"Bearer {token}",
                "Content-Type": "application/pkcs10",
                "Content-Transfer-Encoding": "base64",
                "User-Agent": http.USER_AGENT,
            },
            redirect=False,
        )
    except (HTTPError, OSError) as error:
        raise EnrolmentError(f"simpleenroll: {error}"[:300]) from error
    body = response.data[:MAX_ANSWER_BYTES]
    if response.status != http.OK:
        raise EnrolmentError(f"expected a certificate, got HTTP {response.status}: {_detail(body)}")
    try:
        certificates = pkcs7.load_der_pkcs7_certificates(base64.b64decode(body, validate=False))
        device_id = parse_device_id(response.headers.get(DEVICE_ID_HEADER, ""))
    except (ValueError, binascii.Error, WireError) as error:
        raise EnrolmentError(f"expected a PKCS#7 certificate and a device id, got {error}") from error
    own = [item for item in certificates if item.public_key() == key.public_key()]
    if not own:
        raise EnrolmentError("expected a certificate over this device's key, got one over another")
    chain = [*own, *(item for item in certificates if item not in own)]
    return Enrolled(device_id, b"".join(item.public_bytes(serialization.Encoding.PEM) for item in chain))


def _detail(body: bytes) -> str:
    """The sentence of a problem document, or the beginning of whatever came."""
    try:
        problem = json.loads(body)
        return str(problem.get("detail") or problem.get("title"))[:300]
    except (ValueError, AttributeError):
        return body[:200].decode(errors="replace")


def check_connection(paths: IdentityPaths, host: str, port: int) -> str | None:
    """None if the broker accepts a TLS connection with this identity, otherwise what is wrong."""
    import socket
    import ssl

    try:
        context = ssl.create_default_context(cafile=str(paths.authority))
        context.load_cert_chain(paths.certificate, paths.key)
        with socket.create_connection((host, port), timeout=10) as raw, context.wrap_socket(raw, server_hostname=host):
            return None
    except (OSError, ssl.SSLError) as error:
        return f"{host}:{port}: {error}"
