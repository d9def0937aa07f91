"""A real mosquitto for tests, configured by the very code that `manage.py up` uses, with identities of its own."""

import os
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fleet.adapters.broker_access import MosquittoAccessFiles
from fleet.adapters.broker_mqtt import BrokerIdentity, MqttBroker
from fleet.adapters.device_authority import DeviceCertificateAuthority
from fleet.adapters.pki_files import SecretFiles
from fleet.entrypoints.up.addresses import LOOPBACK, Addresses
from fleet.entrypoints.up.installation import Installation
from fleet.entrypoints.up.mosquitto import find_mosquitto
from tests.toolchain.services import own_port

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class DeviceFiles:
    """A device's certificate chain and key, as files."""

    certificate: Path
    key: Path
    serial_hex: str


class EmbeddedBroker:
    """A mosquitto process with both listeners, in a directory of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.secrets = SecretFiles(home / "secrets")
        self.secrets.ensure(server_names=["localhost", LOOPBACK], now=datetime.now(tz=UTC))
        self.authority: DeviceCertificateAuthority = self.secrets.device_authority()
        self.access = MosquittoAccessFiles(home / "broker", self.authority)
        self.access.ensure(datetime.now(tz=UTC))
        self.device_port = own_port()
        self.internal_port = own_port()
        addresses = Addresses(0, self.device_port, self.internal_port, LOOPBACK, None, "http://127.0.0.1")
        self._installation = Installation(ROOT, home, addresses)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until both listeners answer."""
        mosquitto = find_mosquitto(ROOT / "var" / "tools", lambda _: None)
        config = self._installation.write_broker_config(run_as_root=os.geteuid() == 0)
        with (self.home / "broker.log").open("ab") as log:
            self._process = subprocess.Popen(
                [mosquitto.executable, "-c", config],
                env={**os.environ, **mosquitto.environment},
                stdout=log,
                stderr=log,
            )
        wait_for(lambda: answers(self.device_port) and answers(self.internal_port), "the broker")

    def stop(self) -> None:
        """End it as `up` does."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(60)
            self._process = None

    def restart(self) -> None:
        """Have it read its access and revocation lists, as `up` does."""
        self.stop()
        self.start()

    def client(
        self, identity: str, *, member: str = "1", session_s: int = 300, receive_maximum: int = 1000
    ) -> MqttBroker:
        """A client of the listener for our own processes."""
        return MqttBroker(
            host=LOOPBACK,
            port=self.internal_port,
            identity=self.identity_files(identity),
            client_id=f"{identity}-{member}",
            session_s=session_s,
            receive_maximum=receive_maximum,
        )

    def device_client(self, device_id: str) -> MqttBroker:
        """A device that connects through the adapter of our own processes; the same protocol serves both."""
        files = self.device(device_id)
        return MqttBroker(
            host=LOOPBACK,
            port=self.device_port,
            identity=BrokerIdentity(self.secrets.path("device_ca.crt"), files.certificate, files.key),
            client_id=device_id,
            session_s=300,
        )

    def identity_files(self, identity: str) -> BrokerIdentity:
        """The files of one of our own identities."""
        path = self.secrets.path
        return BrokerIdentity(
            path("internal_ca.crt"), path(f"internal/{identity}.crt"), path(f"internal/{identity}.key")
        )

    def device(self, device_id: str, *, now: datetime | None = None) -> DeviceFiles:
        """A new certificate for a device."""
        key = ec.generate_private_key(ec.SECP256R1())
        csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
        issued = self.authority.issue(
            csr.public_bytes(serialization.Encoding.DER), device_id, now or datetime.now(tz=UTC)
        )
        directory = self.home / "devices"
        directory.mkdir(exist_ok=True)
        files = DeviceFiles(
            directory / f"{device_id}-{issued.serial_hex}.crt",
            directory / f"{device_id}-{issued.serial_hex}.key",
            issued.serial_hex,
        )
        files.certificate.write_text(issued.chain_pem)
        files.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
        )
        return files

    def device_tls(self, device: DeviceFiles | None) -> ssl.SSLContext:
        """What a device uses to connect; None is a stranger without a certificate."""
        context = ssl.create_default_context(cafile=str(self.secrets.path("device_ca.crt")))
        if device is not None:
            context.load_cert_chain(device.certificate, device.key)
        return context


@contextmanager
def running_broker(home: Path) -> Iterator[EmbeddedBroker]:
    """A broker that is stopped, and its files removed, at the end."""
    broker = EmbeddedBroker(home)
    broker.start()
    try:
        yield broker
    finally:
        broker.stop()
        shutil.rmtree(home, ignore_errors=True)


def answers(port: int) -> bool:
    """Whether something listens on a loopback port."""
    try:
        socket.create_connection((LOOPBACK, port), timeout=1).close()
    except OSError:
        return False
    return True


def wait_for(condition: Callable[[], bool], what: str, within_s: float = 60.0) -> None:
    """Wait for a condition that other processes bring about; fails the test when it takes too long."""
    deadline_s = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline_s, f"waited {within_s:g} s for {what}"
        time.sleep(0.02)
