"""The device's identity on disk, and how it is obtained and renewed: a key that never leaves, a request, a certificate.

Enrolment is EST-shaped (RFC 7030 simpleenroll) with a claim token. A claim is good for one use, so everything that can
be checked is checked before it is presented: the state directory, the pin over the trust anchors, the server's TLS
certificate under the pinned authority.

Renewal (simplereenroll) shows nothing but a request that is signed with the key of the certificate before. What comes
back replaces that certificate only if it is over this key, in this device's name, and signed by the pinned authority.
"""

import base64
import binascii
import hashlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urljoin

import urllib3
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import pkcs7
from cryptography.x509.oid import NameOID
from urllib3.exceptions import HTTPError, InsecureRequestWarning

from device_client.adapters import durable, http
from device_client.core.errors import ConfigError, EnrolmentError, TransferError
from device_client.core.renewal import Validity
from device_client.wire.enrolment import DEVICE_ID_HEADER, HARDWARE_CLASS_HEADER
from device_client.wire.errors import WireError
from device_client.wire.fields import Fields, decode_object
from device_client.wire.names import ANY_HARDWARE, parse_device_id

ANCHORS_VERSION: Final = 1
MAX_ANCHORS_BYTES: Final = 262_144
MAX_ANSWER_BYTES: Final = 65_536


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


def certificate_validity(paths: IdentityPaths) -> Validity:
    """From when until when the stored certificate is valid; raises `ConfigError`."""
    try:
        certificate = x509.load_pem_x509_certificates(paths.certificate.read_bytes())[0]
    except (OSError, ValueError, IndexError) as error:
        raise ConfigError(f"expected a certificate in {paths.certificate}, got {error}") from error
    return _validity(certificate)


def _validity(certificate: x509.Certificate) -> Validity:
    return Validity(certificate.not_valid_before_utc, certificate.not_valid_after_utc)


def fetch_anchors(server_url: str, pin: str) -> bytes:
    """The server's anchors if they are those that were pinned.

    The connection is not authenticated (there is nothing to authenticate it with yet): the pin is what counts.
    """
    pool = urllib3.PoolManager(cert_reqs="CERT_NONE", retries=False, timeout=http.SOCKET_TIMEOUT_S)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InsecureRequestWarning)
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
        return load_key(paths)
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    durable.write_file(paths.key, pem)
    return key


def load_key(paths: IdentityPaths) -> ec.EllipticCurvePrivateKey:
    """The stored key; raises `ConfigError` for one of another kind."""
    key = serialization.load_pem_private_key(paths.key.read_bytes(), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError(f"expected an elliptic-curve key in {paths.key}, got {type(key).__name__}")
    return key


def make_request(key: ec.EllipticCurvePrivateKey, wanted_id: str) -> bytes:
    """A PKCS#10 request, DER. The server decides the name; the subject is a wish."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, wanted_id)] if wanted_id else [])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.DER)


@dataclass(frozen=True)
class Granted:
    """What the server granted: who this device is, and the certificate with its issuer, over this device's key.

    `hardware_class` is the claim's; renewals do not say it.
    """

    device_id: str
    certificate: x509.Certificate
    chain_pem: bytes
    hardware_class: str = ANY_HARDWARE


def present_claim(
    server_url: str, token: str, request_der: bytes, key: ec.EllipticCurvePrivateKey, pool: urllib3.PoolManager
) -> Granted:
    """Spend the claim; raises `EnrolmentError` with the server's own sentence."""
    url = _join(server_url, ".well-known/est/simpleenroll")
    return _request_certificate(pool, url, request_der, key, {"Authorization": f"Bearer {token}"})


class StoredIdentity:
    """`ports.Identity`: the certificate in a directory, renewed by the key beside it."""

    def __init__(self, paths: IdentityPaths, device_id: str, server_url: str, pool: urllib3.PoolManager) -> None:
        self._paths = paths
        self._device_id = device_id
        self._server_url = server_url
        self._pool = pool

    def validity(self) -> Validity:
        return certificate_validity(self._paths)

    def renew(self) -> Validity:
        try:
            key = load_key(self._paths)
            authority = x509.load_pem_x509_certificate(self._paths.authority.read_bytes())
            url = _join(self._server_url, ".well-known/est/simplereenroll")
            granted = _request_certificate(self._pool, url, make_request(key, self._device_id), key, {})
            self._require_ours(granted, authority)
            durable.write_file(self._paths.certificate, granted.chain_pem)
        except (OSError, ValueError) as error:
            raise EnrolmentError(f"expected to read and write {self._paths.directory}, got {error}") from error
        return _validity(granted.certificate)

    def _require_ours(self, granted: Granted, authority: x509.Certificate) -> None:
        """A certificate that the broker would not take, or would take for another device, replaces nothing."""
        names = [item.value for item in granted.certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        if names != [self._device_id] or granted.device_id != self._device_id:
            raise EnrolmentError(f"expected a certificate of {self._device_id}, got one of {names}")
        try:
            granted.certificate.verify_directly_issued_by(authority)
        except (InvalidSignature, ValueError, TypeError) as error:
            raise EnrolmentError(f"expected a certificate by the pinned authority, got another: {error}") from error


def _request_certificate(
    pool: urllib3.PoolManager,
    url: str,
    request_der: bytes,
    key: ec.EllipticCurvePrivateKey,
    credential: Mapping[str, str],
) -> Granted:
    """Post a request; raises `EnrolmentError` for anything but a certificate over `key`."""
    headers = {
        "Content-Type": "application/pkcs10",
        "Content-Transfer-Encoding": "base64",
        "User-Agent": http.USER_AGENT,
        **credential,
    }
    try:
        response = pool.request(
            "POST", url, body=base64.b64encode(request_der), headers=headers, redirect=False, preload_content=False
        )
        try:
            body = response.read(MAX_ANSWER_BYTES)
        finally:
            response.close()
    except (HTTPError, OSError) as error:
        raise EnrolmentError(f"POST {url}: {error}"[:300]) from error
    if response.status != http.OK:
        raise EnrolmentError(f"expected a certificate, got HTTP {response.status}: {_detail(body)}")
    try:
        certificates = pkcs7.load_der_pkcs7_certificates(base64.b64decode(body, validate=False))
        device_id = parse_device_id(response.headers.get(DEVICE_ID_HEADER, ""))
        hardware_class = response.headers.get(HARDWARE_CLASS_HEADER, ANY_HARDWARE)[:64]  # what the wire takes
    except (ValueError, binascii.Error, WireError) as error:
        raise EnrolmentError(f"expected a PKCS#7 certificate and a device id, got {error}") from error
    own = [item for item in certificates if item.public_key() == key.public_key()]
    if not own:
        raise EnrolmentError("expected a certificate over this device's key, got one over another")
    chain = [*own, *(item for item in certificates if item not in own)]
    chain_pem = b"".join(item.public_bytes(serialization.Encoding.PEM) for item in chain)
    return Granted(device_id, own[0], chain_pem, hardware_class)


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
