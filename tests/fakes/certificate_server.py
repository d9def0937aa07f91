"""The server's part in renewals as a device sees it: the real authority, over a list of keys; it can be told to misbehave."""

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography.hazmat.primitives.asymmetric import ec

from fleet.adapters.device_authority import DeviceCertificateAuthority
from fleet.adapters.x509_build import Authority, build_authority

Answer = tuple[int, dict[str, str], bytes]


@dataclass
class Misbehaviour:
    """What the next answers are instead of honest ones."""

    refusal: tuple[int, str] | None = None
    named: str | None = None
    header: str | None = None
    request: bytes | None = None
    """Certify the key of this request instead of the device's."""
    body: bytes | None = None
    foreign: bool = False
    """Sign with another authority."""


class CertificateServerSimulator:
    """Issues certificates in the names under which keys were first seen."""

    def __init__(self, now: Callable[[], datetime], lifetime: timedelta = timedelta(days=30)) -> None:
        self.now = now
        self._lifetime = lifetime
        self._authority = self._make_authority()
        self._devices: dict[str, str] = {}
        self.misbehaviour = Misbehaviour()
        self.renewals: list[str] = []

    def _make_authority(self) -> DeviceCertificateAuthority:
        key = ec.generate_private_key(ec.SECP256R1())
        # Older than any certificate that a test needs to have lapsed.
        made_at = self.now() - timedelta(days=1_000)
        return DeviceCertificateAuthority(Authority(build_authority(key, "devices", made_at), key), self._lifetime)

    def anchor_pem(self) -> str:
        return self._authority.anchor_pem()

    def enrol(self, csr_der: bytes, device_id: str, now: datetime | None = None) -> str:
        """A first certificate, as a chain in PEM."""
        self._devices[self._authority.proven_key_sha256(csr_der)] = device_id
        return self._authority.issue(csr_der, device_id, now or self.now()).chain_pem

    def answer(self, body: bytes) -> Answer:
        """What simplereenroll says."""
        wrong = self.misbehaviour
        csr_der = base64.b64decode(body)
        device_id = self._devices.get(self._authority.proven_key_sha256(csr_der), "")
        self.renewals.append(device_id)
        refusal = (403, "the key is unknown") if not device_id else wrong.refusal
        if refusal is not None:
            problem = json.dumps({"code": "refused", "detail": refusal[1]}).encode()
            return refusal[0], {"Content-Type": "application/problem+json"}, problem
        signer = self._make_authority() if wrong.foreign else self._authority
        issued = signer.issue(wrong.request or csr_der, wrong.named or device_id, self.now())
        headers = {"X-Modelfleet-Device-Id": wrong.header or wrong.named or device_id}
        if wrong.body is not None:
            return 200, headers, wrong.body
        return 200, headers, base64.encodebytes(signer.certs_only(issued.chain_pem))
