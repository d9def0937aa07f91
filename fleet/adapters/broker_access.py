"""The files by which mosquitto decides: an access list and a revocation list.

Whoever runs the broker starts it anew when they change; `manage.py up` watches them. It could reread them on SIGHUP, but
2.0 damages its own memory then when any session of a client with a certificate is offline (decision 18).
"""

from collections.abc import Collection
from datetime import datetime
from pathlib import Path
from typing import Final

from cryptography import x509

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

        Writes nothing that is written already, so it may be called every second.
        """
        wanted = frozenset(device_ids), frozenset(revocation.serial_hex for revocation in revocations)
        if wanted == self._written:
            return
        access_list = render_access_list(device_ids).encode("ascii")
        crl = self._authority.revocation_list(revocations, now)
        if self._written is not None or not self._says(access_list, crl):
            write_atomically(self._directory / REVOCATION_LIST, crl, 0o600)
            write_atomically(self._directory / ACCESS_LIST, access_list, 0o600)
        self._written = wanted

    def _says(self, access_list: bytes, crl: bytes) -> bool:
        """Whether an earlier process wrote the same, so that the broker need not start anew for this one."""
        try:
            found = (self._directory / REVOCATION_LIST).read_bytes()
            return (self._directory / ACCESS_LIST).read_bytes() == access_list and _meaning(found) == _meaning(crl)
        except (OSError, ValueError):
            return False


def _meaning(crl: bytes) -> tuple[bytes, datetime | None, frozenset[int]]:
    """What a revocation list says; its date and its signature differ each time. Raises ValueError if it is none."""
    read = x509.load_pem_x509_crl(crl)
    return read.issuer.public_bytes(), read.next_update_utc, frozenset(entry.serial_number for entry in read)
