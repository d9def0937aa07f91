"""Composes what an installation keeps on its own disk: secrets, certificate authority, identities on the broker."""

import socket
from functools import cache
from urllib.parse import urlsplit

from django.conf import settings

from fleet.adapters.broker_access import MosquittoAccessFiles
from fleet.adapters.broker_mqtt import BrokerIdentity, MqttBroker
from fleet.adapters.clock_system import SystemClock
from fleet.adapters.pki_files import SecretFiles, SecretsUnusableError
from fleet.ports.broker import Broker
from fleet.ports.broker_access import BrokerAccess
from fleet.ports.certificates import DeviceAuthority
from fleet.ports.clock import Clock

__all__ = [
    "SecretsUnusableError",
    "broker_access",
    "device_authority",
    "internal_broker",
    "prepare_secrets",
    "secret_files",
    "server_names",
    "system_clock",
]


def secret_files() -> SecretFiles:
    """This installation's directory of secrets."""
    return SecretFiles(settings.MODELFLEET.secrets)


def server_names() -> frozenset[str]:
    """Every name under which devices may reach this machine's broker and web server."""
    told = {settings.MODELFLEET.device_broker.host, urlsplit(settings.MODELFLEET.device_url).hostname or "localhost"}
    return frozenset({"localhost", "127.0.0.1", "::1", socket.gethostname()} | told)


def system_clock() -> Clock:
    """This machine's clock."""
    return SystemClock()


def prepare_secrets() -> None:
    """Make or renew the secrets of this installation; raises SecretsUnusableError or OSError."""
    now = SystemClock().now()
    secret_files().ensure(server_names=server_names(), now=now)
    _access_files().ensure(now)


@cache
def device_authority() -> DeviceAuthority:
    """The authority that issues device certificates; loaded once a process."""
    return secret_files().device_authority()


def broker_access() -> BrokerAccess:
    """What shuts devices out of the embedded broker."""
    return _access_files()


def internal_broker(identity: str, *, member: str = "1", session_s: int = 3600) -> Broker:
    """A connection of one of our processes, as `_ingest`, `_director`, ...; not yet started.

    `member` tells processes of the same identity apart; it must be the same after a restart, since what the broker keeps
    for a process, it keeps for `<identity>-<member>`.
    """
    secrets = secret_files()
    return MqttBroker(
        host=settings.MODELFLEET.broker.host,
        port=settings.MODELFLEET.broker.port,
        identity=BrokerIdentity(
            authority=secrets.path("internal_ca.crt"),
            certificate=secrets.path(f"internal/{identity}.crt"),
            key=secrets.path(f"internal/{identity}.key"),
        ),
        client_id=f"{identity}-{member}",
        session_s=session_s,
    )


def _access_files() -> MosquittoAccessFiles:
    return MosquittoAccessFiles(settings.MODELFLEET.home / "broker", device_authority())
