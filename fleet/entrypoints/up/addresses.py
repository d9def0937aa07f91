"""Which ports the processes listen on, and under which addresses they are reached from outside."""

import errno
import ipaddress
import socket
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from fleet.entrypoints.up.errors import PortTakenError, UpError

LOOPBACK: Final = "127.0.0.1"
_NEXT_TRIED: Final = 100
# Reserved for documentation (RFC 5737): a route to it is the default route, and nothing is ever sent there.
_SOMEWHERE_ELSE: Final = ("192.0.2.1", 9)


@dataclass(frozen=True)
class WantedPort:
    """A port somebody wants. `asked` is what was asked for: None lets us choose, 0 means any free one."""

    purpose: str
    default: int
    asked: int | None = None


WEB_PORT: Final = "pages and REST"
DEVICE_PORT: Final = "broker for devices"
INTERNAL_PORT: Final = "broker for our own processes"
DEVICE_WEB_PORT: Final = "web server for devices"


@dataclass(frozen=True)
class Addresses:
    """Where everything listens, and what others are told."""

    web_port: int
    device_port: int
    internal_port: int
    device_host: str
    """The name or address under which devices reach this machine."""
    device_web_port: int | None
    """A web server for devices only, over TLS and open to the network; None when devices use the other one."""
    public_url: str

    def ports(self) -> Iterator[tuple[str, int]]:
        """Each port with its purpose."""
        yield WEB_PORT, self.web_port
        yield DEVICE_PORT, self.device_port
        yield INTERNAL_PORT, self.internal_port
        if self.device_web_port is not None:
            yield DEVICE_WEB_PORT, self.device_web_port

    @property
    def device_url(self) -> str:
        """The web server that devices are told."""
        if self.device_web_port is None:
            return self.public_url
        return f"https://{bracketed(self.device_host)}:{self.device_web_port}"

    @property
    def device_broker(self) -> str:
        """The broker that devices are told."""
        return f"{bracketed(self.device_host)}:{self.device_port}"

    @property
    def internal_broker(self) -> str:
        """The broker's listener for our own processes."""
        return f"{LOOPBACK}:{self.internal_port}"

    @property
    def local_url(self) -> str:
        """The web server as this machine reaches it, whatever a proxy calls it."""
        return f"http://{LOOPBACK}:{self.web_port}"


def bracketed(host: str) -> str:
    """IPv6 addresses in brackets, as URLs want them."""
    return f"[{host}]" if ":" in host else host


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def choose_ports(
    wanted: Iterable[WantedPort],
    is_free: Callable[[int], bool],
    any_free: Callable[[], int],
    say: Callable[[str], None],
) -> list[int]:
    """A free port for each, the default where it can be; raises PortTakenError for a taken one that was asked for."""
    wishes = list(wanted)
    reserved = {wish.asked or wish.default for wish in wishes}
    chosen: list[int] = []
    for wish in wishes:
        if wish.asked == 0:
            chosen.append(any_free())
        elif wish.asked is not None:
            if wish.asked in chosen or not is_free(wish.asked):
                raise PortTakenError(f"port {wish.asked} ({wish.purpose}) is taken: stop what uses it or name another")
            chosen.append(wish.asked)
        elif wish.default not in chosen and is_free(wish.default):
            chosen.append(wish.default)
        else:
            candidates = range(wish.default + 1, wish.default + 1 + _NEXT_TRIED)
            free = (port for port in candidates if port not in reserved and port not in chosen and is_free(port))
            port = next(free, None) or any_free()
            say(f"port {wish.default} ({wish.purpose}) is taken, using {port}")
            chosen.append(port)
    return chosen


def port_is_free(port: int) -> bool:
    """Whether nothing listens on `port` at any address of this machine."""
    for family, address in ((socket.AF_INET, ""), (socket.AF_INET6, "::")):
        try:
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                # Sockets that linger after an earlier run do not count; one that listens still does.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((address, port))
        except PermissionError:
            raise PortTakenError(f"port {port} needs more rights than this user has: choose one above 1023") from None
        except OSError as error:
            if family == socket.AF_INET6 and error.errno != errno.EADDRINUSE:
                continue
            return False
    return True


def any_free_port() -> int:
    """A port that the system hands out."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port = probe.getsockname()[1]
    return int(port)


def own_network_address() -> str:
    """The address from which this machine reaches others; raises UpError when it reaches nobody."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(_SOMEWHERE_ELSE)
        except OSError:
            raise UpError("no network address found: name the one to use, such as `up --lan 192.168.1.10`") from None
        return str(probe.getsockname()[0])
