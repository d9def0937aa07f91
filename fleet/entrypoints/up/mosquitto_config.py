"""Writes the configuration of the embedded broker. Who may do what stands in its access list, which is not made here."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from device_client.wire.limits import MAX_MESSAGE_BYTES

# How many messages wait for one client that is away. What overflows is not lost: devices send again what was never
# acknowledged, and plan notices are retained.
MAX_QUEUED_MESSAGES: Final = 20_000


@dataclass(frozen=True)
class Listener:
    """A port, and the identities that are let in: those signed by `authority`."""

    port: int
    bind_address: str | None
    """None binds every address of the machine."""
    authority: Path
    certificate: Path
    key: Path


@dataclass(frozen=True)
class BrokerFiles:
    """The files beside the configuration."""

    access_list: Path
    revocation_list: Path
    persistence: Path


def render_config(devices: Listener, internal: Listener, files: BrokerFiles, *, run_as_root: bool) -> str:
    """The text of a mosquitto configuration with the two listeners."""
    return "\n".join(
        [
            "# Written by `manage.py up` at each start; changes are overwritten.",
            "per_listener_settings false",
            "allow_anonymous false",
            f"acl_file {files.access_list}",
            *(["user root"] if run_as_root else []),
            "persistence true",
            f"persistence_location {files.persistence}/",
            "autosave_interval 30",
            "persistent_client_expiration 14d",
            "max_inflight_messages 2000",
            f"max_queued_messages {MAX_QUEUED_MESSAGES}",
            f"max_packet_size {MAX_MESSAGE_BYTES}",
            # Without it each small answer waits for the acknowledgement of the one before.
            "set_tcp_nodelay true",
            "log_dest stderr",
            "log_type error",
            "log_type warning",
            "log_type notice",
            "log_timestamp_format %Y-%m-%dT%H:%M:%SZ",
            "connection_messages false",
            "",
            "# Devices: the certificate's name is the user name and also the client id; without the latter one device",
            "# could take over another's session.",
            *_listener(devices),
            "use_username_as_clientid true",
            f"crlfile {files.revocation_list}",
            "",
            "# Our own processes: another authority, so no device certificate is believed here. Several workers share",
            "# an identity, so they choose their own client ids.",
            *_listener(internal),
            "",
        ],
    )


def _listener(listener: Listener) -> list[str]:
    return [
        f"listener {listener.port}" + (f" {listener.bind_address}" if listener.bind_address else ""),
        f"cafile {listener.authority}",
        f"certfile {listener.certificate}",
        f"keyfile {listener.key}",
        "tls_version tlsv1.2",
        "require_certificate true",
        "use_identity_as_username true",
    ]
