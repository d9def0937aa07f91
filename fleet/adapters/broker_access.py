"""The files by which mosquitto decides: an access list and a revocation list. It rereads both on SIGHUP.

Whoever runs the broker sends that signal when the files change; `manage.py up` watches them. Mosquitto looks at the
revocation list when a connection is opened and at the access list for every message, so the second is what cuts off a
device that is connected now.
"""

from collections.abc import Collection
from datetime import datetime
from pathlib import Path
from typing import Final

from device_client.wire.names import parse_device_id
from device_client.wire.topics import ROOT, Down, Up
from fleet.adapters.pki_files import write_atomically
from fleet.ports.certificates import DeviceAuthority, Revocation

ACCESS_LIST: Final = "access.acl"
REVOCATION_LIST: Final = "devices.crl"

# What each of our own processes may do: (read or write, topic). Everything else is refused to it.
_INTERNAL_RIGHTS: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    "_ingest": (
        *(("read", f"{ROOT}/d/+/up/{kind.value}") for kind in Up if kind is not Up.CHECK),
        ("write", f"{ROOT}/d/+/down/{Down.ACK.value}"),
    ),
    "_director": (
        ("read", f"{ROOT}/d/+/up/{Up.CHECK.value}"),
        ("write", f"{ROOT}/d/+/down/{Down.BUNDLE.value}"),
    ),
    "_publisher": (
        ("write", f"{ROOT}/plan/+"),
        ("write", f"{ROOT}/d/+/down/{Down.POKE.value}"),
    ),
    # These two speak to the broker through the outbox and the publisher, so they have an identity and no rights.
    "_conductor": (),
    "_web": (),
}


def render_access_list(shut_out: Collection[str]) -> str:
    """The access list: a device reads and writes below its own name only, and those in `shut_out` nothing at all."""
    lines = [
        "# Written by modelfleet; changes are overwritten.",
        f"pattern read {ROOT}/d/%u/down/#",
        f"pattern write {ROOT}/d/%u/up/#",
        f"pattern read {ROOT}/plan/+",
    ]
    for identity, rights in _INTERNAL_RIGHTS.items():
        lines += ["", f"user {identity}", *(f"topic {access} {topic}" for access, topic in rights)]
    for device_id in sorted(shut_out):
        lines += ["", f"user {parse_device_id(device_id)}", "topic deny #"]
    return "\n".join(lines) + "\n"


class MosquittoAccessFiles:
    """`fleet.ports.broker_access.BrokerAccess` as the two files in `directory`."""

    def __init__(self, directory: Path, authority: DeviceAuthority) -> None:
        self._directory = directory
        self._authority = authority
        self._written: tuple[frozenset[str], frozenset[str]] | None = None

    def ensure(self, now: datetime) -> None:
        """Write the files that are missing, so that a broker can start; leaves those that exist alone."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not (self._directory / ACCESS_LIST).exists() or not (self._directory / REVOCATION_LIST).exists():
            self.shut_out((), (), now)

    def shut_out(self, device_ids: Collection[str], revocations: Collection[Revocation], now: datetime) -> None:
        """Replace both files, each at once; the revocation list first, so that nobody cut off can come back.

        Writes nothing when it would say what this very object wrote last, so it may be called every second.
        """
        wanted = frozenset(device_ids), frozenset(revocation.serial_hex for revocation in revocations)
        if wanted == self._written:
            return
        crl = self._authority.revocation_list(revocations, now)
        write_atomically(self._directory / REVOCATION_LIST, crl, 0o600)
        write_atomically(self._directory / ACCESS_LIST, render_access_list(device_ids).encode("ascii"), 0o600)
        self._written = wanted
