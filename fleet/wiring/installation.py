"""Composes what an installation keeps on its own disk: secrets, certificate authority, identities on the broker."""

import os
import socket
from contextlib import suppress
from datetime import datetime
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

from django.conf import settings

from fleet.adapters.broker_access import MosquittoAccessFiles
from fleet.adapters.clock_system import SystemClock
from fleet.adapters.pki_files import SecretFiles, SecretsUnusableError
from fleet.apps.trust import selectors as trust
from fleet.ports.certificates import DeviceAuthority
from fleet.ports.clock import Clock

__all__ = [
    "SecretsUnusableError",
    "device_authority",
    "prepare_database_file",
    "prepare_secrets",
    "secret_files",
    "server_names",
    "shut_out_revoked",
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


def prepare_database_file() -> None:
    """Make the embedded database readable by this user alone; nothing where PostgreSQL is used. Raises OSError.

    It holds hashes of passwords and tokens. SQLite gives its journal and index the mode that the database has.
    """
    # The settings' classes belong to the layer above, so they are told apart by what they hold.
    path: Path | None = getattr(settings.MODELFLEET.database, "path", None)
    if path is None:
        return
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    for suffix in ("", "-wal", "-shm"):
        with suppress(FileNotFoundError):
            path.with_name(path.name + suffix).chmod(0o600)


@cache
def device_authority() -> DeviceAuthority:
    """The authority that issues device certificates; loaded once a process."""
    return secret_files().device_authority()


def shut_out_revoked(now: datetime) -> None:
    """Have the broker turn away whoever is revoked by now. Cheap when nothing changed since the last call."""
    _access_files().shut_out(trust.shut_out_devices(now), trust.revocations(), now)


@cache
def _access_files() -> MosquittoAccessFiles:
    return MosquittoAccessFiles(settings.MODELFLEET.home / "broker", device_authority())
