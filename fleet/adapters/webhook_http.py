"""POSTs to addresses that a customer wrote down, without letting them reach into our own network.

A name is resolved once and the connection goes to the address that was looked at, so that a name cannot change its mind
between the look and the call. Everything that is not public is refused (loopback, private, link-local, multicast,
reserved), unless the operator allowed the very host. Redirects are answers, not orders. The whole call is bounded in
time and in bytes.
"""

import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
from collections.abc import Collection, Mapping
from typing import Final
from urllib.parse import urlsplit

from fleet.ports.webhook_sender import WebhookRefusedError, WebhookUnreachableError

CONNECT_S: Final = 5.0
TOTAL_S: Final = 15.0
MAX_ANSWER_BYTES: Final = 65_536


class HttpWebhookSender:
    """`allowed_hosts` (`host` or `host:port`) may be private and may speak plain http."""

    def __init__(self, allowed_hosts: Collection[str] = (), *, total_s: float = TOTAL_S) -> None:
        self._allowed = frozenset(allowed_hosts)
        self._total_s = total_s

    def post(self, url: str, headers: Mapping[str, str], body: bytes) -> int:
        parts = urlsplit(url)
        host = parts.hostname or ""
        port = parts.port or (443 if parts.scheme == "https" else 80)
        is_allowed = host in self._allowed or f"{host}:{port}" in self._allowed
        if parts.scheme not in {"http", "https"} or not host:
            raise WebhookRefusedError(f"expected an http or https address, got {url[:80]!r}")
        if parts.scheme != "https" and not is_allowed:
            raise WebhookRefusedError(f"expected https, got {parts.scheme} to {host}")
        address = _address(host, port, is_allowed=is_allowed)
        path = parts.path or "/"
        target = f"{path}?{parts.query}" if parts.query else path
        connection = _Connection(host, port, address, tls=parts.scheme == "https")
        # A peer that answers one byte at a time never runs into a timeout of the socket.
        ends = threading.Timer(self._total_s, connection.cut)
        ends.daemon = True
        ends.start()
        try:
            connection.request("POST", target, body=body, headers=dict(headers))
            answer = connection.getresponse()
            answer.read(MAX_ANSWER_BYTES)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise WebhookUnreachableError(f"{host}:{port}: {type(error).__name__}: {error}"[:300]) from error
        finally:
            ends.cancel()
            connection.close()
        return int(answer.status)


class _Connection(http.client.HTTPConnection):
    """A connection to an address that was looked at; the name is for the Host header and the certificate."""

    def __init__(self, host: str, port: int, address: str, *, tls: bool) -> None:
        super().__init__(host, port, timeout=CONNECT_S)
        self._address = address
        self._tls = ssl.create_default_context() if tls else None

    def connect(self) -> None:
        """Connect, and speak TLS if the address says https."""
        self.sock = socket.create_connection((self._address, self.port), CONNECT_S)
        if self._tls is not None:
            self.sock = self._tls.wrap_socket(self.sock, server_hostname=self.host)

    def cut(self) -> None:
        """End it from another thread."""
        with contextlib.suppress(OSError, AttributeError):
            self.sock.shutdown(socket.SHUT_RDWR)


def _address(host: str, port: int, *, is_allowed: bool) -> str:
    """The one address to call; raises WebhookRefusedError if any address of the host is not public."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise WebhookUnreachableError(f"{host}: {error}") from error
    addresses = [str(item[4][0]) for item in found]
    inner = [address for address in addresses if not _is_public(address)]
    if inner and not is_allowed:
        raise WebhookRefusedError(
            f"expected a public address, {host} is at {inner[0]}; an operator may allow it with MODELFLEET_WEBHOOK_HOSTS"
        )
    return addresses[0]


def _is_public(text: str) -> bool:
    address = ipaddress.ip_address(text.partition("%")[0])
    # IPv4 in IPv6's clothes: mapped, 6to4, Teredo, NAT64.
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address in ipaddress.ip_network("64:ff9b::/96"):
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return _is_public(str(inner))
        if address.teredo is not None:
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved
