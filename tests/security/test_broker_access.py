"""Attacks on the broker by devices and strangers, on a real mosquitto. What counts is delivery, not what was granted."""

import queue
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from device_client.wire.limits import MAX_MESSAGE_BYTES
from fleet.adapters.broker_access import MosquittoAccessFiles
from fleet.adapters.pki_files import INTERNAL_IDENTITIES
from fleet.entrypoints.up.addresses import LOOPBACK
from fleet.ports.certificates import Revocation
from tests.embedded_broker import DeviceFiles, EmbeddedBroker, wait_for

NOTHING_S = 0.5
WITHIN_S = 60.0


@dataclass
class Attacker:
    """A bare MQTT client: it tries what no client of ours would."""

    client: Client
    connected: threading.Event = field(default_factory=threading.Event)
    lost: threading.Event = field(default_factory=threading.Event)
    inbox: "queue.Queue[tuple[str, bytes]]" = field(default_factory=queue.Queue)
    answers: dict[int, ReasonCode] = field(default_factory=dict)
    refusal: str = ""

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> str:
        """What the broker answered."""
        packet_id = self.client.publish(topic, payload, qos=1, retain=retain).mid
        wait_for(lambda: packet_id in self.answers, "the broker's answer")
        return str(self.answers[packet_id])

    def received(self) -> list[tuple[str, bytes]]:
        """Everything that arrives until nothing arrives any more."""
        found = []
        while True:
            try:
                found.append(self.inbox.get(timeout=NOTHING_S))
            except queue.Empty:
                return found


class Arena:
    """A broker and everybody who connects to it; all are disconnected at the end."""

    def __init__(self, broker: EmbeddedBroker) -> None:
        self.broker = broker
        self._clients: list[Client] = []

    def connect(
        self,
        device: DeviceFiles | None,
        *,
        client_id: str = "",
        username: str | None = None,
        port: int | None = None,
        context: ssl.SSLContext | None = None,
        subscribe: tuple[str, ...] = (),
        will: str | None = None,
        session_s: int = 0,
        clean: bool = True,
    ) -> Attacker:
        attacker = Attacker(
            Client(CallbackAPIVersion.VERSION2, client_id=client_id, protocol=MQTTv5, reconnect_on_failure=False)
        )
        client = attacker.client
        client.tls_set_context(context or self.broker.device_tls(device))
        if username is not None:
            client.username_pw_set(username, "x")
        if will is not None:
            client.will_set(will, b"forged will", qos=1)

        def on_connect(_c: Client, _u: Any, _f: ConnectFlags, reason: ReasonCode, _p: Properties | None) -> None:
            if reason.is_failure:
                attacker.refusal = str(reason)
            elif subscribe:
                client.subscribe([(topic_filter, 1) for topic_filter in subscribe])
            else:
                attacker.connected.set()

        def on_subscribe(_c: Client, _u: Any, _m: int, _r: list[ReasonCode], _p: Properties | None) -> None:
            attacker.connected.set()

        def on_disconnect(_c: Client, _u: Any, _f: DisconnectFlags, reason: ReasonCode, _p: Properties | None) -> None:
            attacker.refusal = attacker.refusal or str(reason)
            attacker.lost.set()

        def on_publish(_c: Client, _u: Any, mid: int, reason: ReasonCode, _p: Properties | None) -> None:
            attacker.answers[mid] = reason

        def on_message(_c: Client, _u: Any, message: MQTTMessage) -> None:
            attacker.inbox.put((message.topic, bytes(message.payload)))

        client.on_connect, client.on_subscribe, client.on_disconnect = on_connect, on_subscribe, on_disconnect
        client.on_publish, client.on_message = on_publish, on_message
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = session_s
        self._clients.append(client)
        client.connect(LOOPBACK, port or self.broker.device_port, clean_start=clean, properties=properties)
        client.loop_start()
        return attacker

    def device(self, device_id: str, *subscribe: str, files: DeviceFiles | None = None, **options: Any) -> Attacker:
        attacker = self.connect(
            files or self.broker.device(device_id), client_id=device_id, subscribe=subscribe, **options
        )
        assert attacker.connected.wait(WITHIN_S), attacker.refusal
        return attacker

    def ours(self, identity: str, *subscribe: str) -> Attacker:
        files = self.broker.identity_files(identity)
        context = ssl.create_default_context(cafile=str(files.authority))
        context.load_cert_chain(files.certificate, files.key)
        attacker = self.connect(
            None, client_id=f"{identity}-1", port=self.broker.internal_port, context=context, subscribe=subscribe
        )
        assert attacker.connected.wait(WITHIN_S), attacker.refusal
        return attacker

    def close(self) -> None:
        for client in self._clients:
            client.disconnect()
            client.loop_stop()


@pytest.fixture
def arena(embedded_broker: EmbeddedBroker) -> Iterator[Arena]:
    found = Arena(embedded_broker)
    yield found
    found.close()
    embedded_broker.access.shut_out((), (), datetime.now(tz=UTC))
    embedded_broker.restart()


def refused(arena: Arena, **options: Any) -> bool:
    """Whether a connection fails, in the handshake or after it (TLS 1.3 tells a client of a bad certificate late)."""
    try:
        attacker = arena.connect(**options)
    except (OSError, ssl.SSLError):
        return True
    attacker.connected.wait(1)
    return attacker.lost.wait(WITHIN_S) and not attacker.connected.is_set()


def test_foreign_publish__by_another_device__not_authorised_and_not_delivered(arena: Arena) -> None:
    ingest = arena.ours("_ingest", "fleet/v1/d/+/up/state")
    b = arena.device("dev-b")
    assert b.publish("fleet/v1/d/dev-a/up/state", b"forged") == "Not authorized"
    assert b.publish("fleet/v1/d/dev-b/up/state", b"mine") == "Success"
    assert ingest.received() == [("fleet/v1/d/dev-b/up/state", b"mine")]


@pytest.mark.parametrize(
    "topic",
    [
        "fleet/v1/d/dev-b/down/bundle",
        "fleet/v1/d/dev-a/down/bundle",
        "fleet/v1/plan/0123456789abcdef",
        "fleet/v1/d/dev-b",
        "fleet/v1/d",
        "$SYS/broker/version",
        "anything",
    ],
)
def test_device__publishes_where_only_the_server_may__not_authorised(arena: Arena, topic: str) -> None:
    assert arena.device("dev-b").publish(topic, b"forged") == "Not authorized"


def test_foreign_subscribe__granted_by_the_broker__nothing_is_delivered(arena: Arena) -> None:
    b = arena.device(
        "dev-b", "#", "$SYS/#", "fleet/v1/d/dev-a/down/#", "fleet/v1/d/+/up/#", "$share/x/fleet/v1/d/+/down/#"
    )
    director = arena.ours("_director")
    assert director.publish("fleet/v1/d/dev-a/down/bundle", b"for a") in {"Success", "No matching subscribers"}
    assert arena.device("dev-a").publish("fleet/v1/d/dev-a/up/state", b"of a") in {"Success", "No matching subscribers"}
    assert b.received() == []
    director.publish("fleet/v1/d/dev-b/down/bundle", b"for b")
    assert set(b.received()) == {("fleet/v1/d/dev-b/down/bundle", b"for b")}


def test_plan_notice__read_by_any_device__delivered_and_not_writable(arena: Arena) -> None:
    arena.ours("_publisher").publish("fleet/v1/plan/0123456789abcdef", b"notice", retain=True)
    b = arena.device("dev-b", "fleet/v1/plan/0123456789abcdef")
    assert b.received() == [("fleet/v1/plan/0123456789abcdef", b"notice")]
    b.publish("fleet/v1/plan/0123456789abcdef", b"forged", retain=True)
    assert arena.device("dev-c", "fleet/v1/plan/+").received() == [("fleet/v1/plan/0123456789abcdef", b"notice")]


@pytest.mark.parametrize(("will_of", "delivered"), [("dev-a", False), ("dev-b", True)])
def test_will__of_a_device_that_dies__delivered_only_for_itself(arena: Arena, will_of: str, *, delivered: bool) -> None:
    ingest = arena.ours("_ingest", "fleet/v1/d/+/up/presence")
    topic = f"fleet/v1/d/{will_of}/up/presence"
    b = arena.device("dev-b", will=topic)
    connection = b.client.socket()
    assert isinstance(connection, ssl.SSLSocket)
    connection.shutdown(socket.SHUT_RDWR)
    assert b.lost.wait(WITHIN_S)
    if delivered:
        assert ingest.inbox.get(timeout=WITHIN_S) == (topic, b"forged will")
    assert ingest.received() == []


def test_client_id__of_another_device__neither_kicks_it_nor_takes_its_session(arena: Arena) -> None:
    a_files = arena.broker.device("dev-a")
    a = arena.device("dev-a", "fleet/v1/d/dev-a/down/#", files=a_files, session_s=300, clean=False)
    # A certificate of dev-b, and the client id of dev-a.
    thief = arena.connect(arena.broker.device("dev-b"), client_id="dev-a", clean=False, session_s=300)
    assert thief.connected.wait(WITHIN_S)
    assert not a.lost.wait(NOTHING_S)
    arena.ours("_director").publish("fleet/v1/d/dev-a/down/bundle", b"for a")
    assert a.received() == [("fleet/v1/d/dev-a/down/bundle", b"for a")]
    assert thief.received() == []


def test_client_id__of_an_offline_device__its_queued_messages_survive(arena: Arena) -> None:
    a_files = arena.broker.device("dev-q")
    a = arena.device("dev-q", "fleet/v1/d/dev-q/down/#", files=a_files, session_s=300, clean=False)
    a.client.disconnect()
    assert a.lost.wait(WITHIN_S)
    director = arena.ours("_director")
    director.publish("fleet/v1/d/dev-q/down/bundle", b"queued")
    for clean in (False, True):
        thief = arena.connect(arena.broker.device("dev-b"), client_id="dev-q", clean=clean)
        assert thief.connected.wait(WITHIN_S)
        assert thief.received() == []
        thief.client.disconnect()
    back = arena.connect(a_files, client_id="dev-q", clean=False, session_s=300)
    assert back.connected.wait(WITHIN_S)
    assert back.received() == [("fleet/v1/d/dev-q/down/bundle", b"queued")]


def test_username__beside_the_certificate__ignored(arena: Arena) -> None:
    b = arena.connect(
        arena.broker.device("dev-b"), client_id="dev-b", username="_ingest", subscribe=("fleet/v1/d/+/up/#",)
    )
    assert b.connected.wait(WITHIN_S)
    arena.device("dev-a").publish("fleet/v1/d/dev-a/up/state", b"of a")
    assert b.received() == []


def test_stranger__without_a_certificate__refused(arena: Arena) -> None:
    assert refused(arena, device=None, client_id="dev-a")
    assert refused(arena, device=None, client_id="dev-a", username="dev-a")


def test_certificate__expired__refused(arena: Arena) -> None:
    expired = arena.broker.device("dev-a", now=datetime.now(tz=UTC) - timedelta(days=31))
    assert refused(arena, device=expired, client_id="dev-a")


def test_device_certificate__on_the_listener_of_our_processes__refused(arena: Arena) -> None:
    context = ssl.create_default_context(cafile=str(arena.broker.secrets.path("internal_ca.crt")))
    files = arena.broker.device("dev-a")
    context.load_cert_chain(files.certificate, files.key)
    assert refused(arena, device=None, client_id="dev-a", context=context, port=arena.broker.internal_port)


def test_identity_of_our_processes__on_the_listener_of_devices__refused(arena: Arena) -> None:
    files = arena.broker.identity_files("_director")
    context = ssl.create_default_context(cafile=str(arena.broker.secrets.path("device_ca.crt")))
    context.load_cert_chain(files.certificate, files.key)
    assert refused(arena, device=None, client_id="_director", context=context)


def test_server_certificate__used_by_a_client__refused(arena: Arena) -> None:
    context = ssl.create_default_context(cafile=str(arena.broker.secrets.path("device_ca.crt")))
    context.load_cert_chain(arena.broker.secrets.path("broker.crt"), arena.broker.secrets.path("broker.key"))
    assert refused(arena, device=None, client_id="modelfleet", context=context)


def test_revoked_device__connected_now__is_cut_off_and_cannot_come_back(arena: Arena) -> None:
    files = arena.broker.device("dev-r")
    device = arena.device("dev-r", "fleet/v1/d/dev-r/down/#", files=files)
    now = datetime.now(tz=UTC)
    arena.broker.access.shut_out(["dev-r"], [Revocation(files.serial_hex, now)], now)
    arena.broker.restart()
    assert device.lost.wait(WITHIN_S)
    assert refused(arena, device=files, client_id="dev-r")


def test_shut_out_device__with_another_certificate__is_neither_heard_nor_told(arena: Arena) -> None:
    arena.broker.access.shut_out(["dev-r"], [], datetime.now(tz=UTC))
    arena.broker.restart()
    ingest = arena.ours("_ingest", "fleet/v1/d/+/up/state")
    director = arena.ours("_director")
    device = arena.device("dev-r", "fleet/v1/d/dev-r/down/#")
    other = arena.device("dev-o", "fleet/v1/d/dev-o/down/#")
    device.client.publish("fleet/v1/d/dev-r/up/state", b"still here", qos=1)
    director.publish("fleet/v1/d/dev-r/down/bundle", b"secret")
    director.publish("fleet/v1/d/dev-o/down/bundle", b"for o")
    assert other.received() == [("fleet/v1/d/dev-o/down/bundle", b"for o")]
    assert device.received() == []
    assert ingest.received() == []


def test_lists__process_starts_anew__left_alone_unless_they_say_something_else(
    embedded_broker: EmbeddedBroker, tmp_path: Path
) -> None:
    now = datetime.now(tz=UTC)
    gone = [Revocation("a1b2", now)]

    def write_from_a_new_process(*revocations: Revocation) -> tuple[bytes, ...]:
        MosquittoAccessFiles(tmp_path, embedded_broker.authority).shut_out(["dev-r"], revocations, now)
        return tuple(path.read_bytes() for path in sorted(tmp_path.iterdir()))

    before = write_from_a_new_process(*gone)
    assert write_from_a_new_process(*gone) == before
    assert write_from_a_new_process() != before
    (tmp_path / "devices.crl").write_bytes(b"half of a li")
    assert write_from_a_new_process(*gone)[0] == before[0]
    assert x509.load_pem_x509_crl((tmp_path / "devices.crl").read_bytes())


def test_renewed_device__old_certificate_revoked__new_one_works(arena: Arena) -> None:
    old, new = arena.broker.device("dev-n"), arena.broker.device("dev-n")
    now = datetime.now(tz=UTC)
    arena.broker.access.shut_out([], [Revocation(old.serial_hex, now)], now)
    arena.broker.restart()
    assert refused(arena, device=old, client_id="dev-n")
    arena.device("dev-n", files=new)


def test_oversized_message__from_a_device__ends_its_connection_and_reaches_nobody(arena: Arena) -> None:
    ingest = arena.ours("_ingest", "fleet/v1/d/+/up/telemetry")
    device = arena.device("dev-big")
    device.client.publish("fleet/v1/d/dev-big/up/telemetry", bytes(MAX_MESSAGE_BYTES + 1), qos=1)
    assert device.lost.wait(WITHIN_S)
    assert ingest.received() == []


TOPICS = (
    *(f"fleet/v1/d/dev-a/up/{kind}" for kind in ("check", "state", "telemetry", "label", "sample", "presence")),
    *(f"fleet/v1/d/dev-a/down/{kind}" for kind in ("bundle", "poke", "ack")),
    "fleet/v1/plan/0123456789abcdef",
    "$SYS/broker/x",
)
MAY_WRITE = {
    "_ingest": {"fleet/v1/d/dev-a/down/ack"},
    "_director": {"fleet/v1/d/dev-a/down/bundle"},
    "_publisher": {"fleet/v1/plan/0123456789abcdef", "fleet/v1/d/dev-a/down/poke"},
    "_conductor": set[str](),
    "_web": set[str](),
}


@pytest.mark.parametrize("identity", INTERNAL_IDENTITIES)
def test_our_process__writes_beyond_its_task__not_authorised(arena: Arena, identity: str) -> None:
    client = arena.ours(identity)
    allowed = {topic for topic in TOPICS if client.publish(topic, b"x") != "Not authorized"}
    assert allowed == MAY_WRITE[identity]


@pytest.mark.parametrize("identity", INTERNAL_IDENTITIES)
def test_our_process__reads_beyond_its_task__gets_nothing(arena: Arena, identity: str) -> None:
    client = arena.ours(identity, "fleet/v1/d/#")
    device = arena.device("dev-a")
    for kind in ("check", "state"):
        device.publish(f"fleet/v1/d/dev-a/up/{kind}", b"x")
    read = {topic for topic, _ in client.received()}
    expected = {"_ingest": {"fleet/v1/d/dev-a/up/state"}, "_director": {"fleet/v1/d/dev-a/up/check"}}
    assert read == expected.get(identity, set())
