"""Which ports are chosen and what is told to others."""

import socket

import pytest

from fleet.entrypoints.up.addresses import Addresses, WantedPort, any_free_port, choose_ports, is_loopback, port_is_free
from fleet.entrypoints.up.errors import PortTakenError

WEB, DEVICES, INTERNAL = WantedPort("web", 8000), WantedPort("devices", 8883), WantedPort("internal", 8884)


def choose(*wanted: WantedPort, taken: frozenset[int] = frozenset()) -> tuple[list[int], list[str]]:
    said: list[str] = []
    return choose_ports(wanted, lambda port: port not in taken, lambda: 40_000, said.append), said


def test_choose_ports__all_free__the_defaults_without_a_word() -> None:
    assert choose(WEB, DEVICES, INTERNAL) == ([8000, 8883, 8884], [])


def test_choose_ports__default_taken__the_next_free_one_in_one_line() -> None:
    ports, said = choose(WEB, taken=frozenset({8000, 8001}))
    assert ports == [8002]
    assert said == ["port 8000 (web) is taken, using 8002"]


def test_choose_ports__default_taken__never_the_default_of_another() -> None:
    ports, _ = choose(DEVICES, INTERNAL, taken=frozenset({8883}))
    assert ports == [8885, 8884]


def test_choose_ports__whole_neighbourhood_taken__any_free_one() -> None:
    assert choose(WEB, taken=frozenset(range(8000, 8200)))[0] == [40_000]


def test_choose_ports__asked_for_and_taken__refused() -> None:
    with pytest.raises(PortTakenError, match=r"port 9000 \(web\) is taken"):
        choose(WantedPort("web", 8000, 9000), taken=frozenset({9000}))


def test_choose_ports__asked_for_twice__refused() -> None:
    with pytest.raises(PortTakenError):
        choose(WantedPort("web", 8000, 9000), WantedPort("devices", 8883, 9000))


def test_choose_ports__zero__any_free_one() -> None:
    assert choose(WantedPort("web", 8000, 0)) == ([40_000], [])


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])
def test_port_is_free__something_listens__false_until_it_stops(address: str) -> None:
    with socket.socket() as listener:
        listener.bind((address, 0))
        listener.listen()
        port = listener.getsockname()[1]
        assert not port_is_free(port)
    assert port_is_free(port)


def test_any_free_port__asked_for_one__nobody_listens_there() -> None:
    assert port_is_free(any_free_port())


def test_addresses__devices_without_a_web_server_of_their_own__are_told_the_same_as_everybody() -> None:
    addresses = Addresses(8000, 8883, 8884, "127.0.0.1", None, "http://127.0.0.1:8000")
    assert addresses.device_url == "http://127.0.0.1:8000"
    assert addresses.device_broker == "127.0.0.1:8883"


@pytest.mark.parametrize(
    ("host", "url", "broker"),
    [
        ("192.168.1.10", "https://192.168.1.10:8443", "192.168.1.10:8883"),
        ("fd00::1", "https://[fd00::1]:8443", "[fd00::1]:8883"),
    ],
)
def test_addresses__in_the_lan__devices_are_told_https(host: str, url: str, broker: str) -> None:
    addresses = Addresses(8000, 8883, 8884, host, 8443, "http://127.0.0.1:8000")
    assert (addresses.device_url, addresses.device_broker) == (url, broker)
    assert addresses.internal_broker == "127.0.0.1:8884"


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("10.0.0.1", False),
        ("x.org", False),
    ],
)
def test_is_loopback__host__as_expected(host: str, *, expected: bool) -> None:
    assert is_loopback(host) is expected
