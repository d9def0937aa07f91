"""`fleet.ports.broker.Broker` over MQTT 5 with mutual TLS, by paho.

Choices that matter, all measured: acknowledgements by hand; a stable client id whose session outlives the connection, so
that a shared subscription loses nothing when a worker dies; at most 100 outstanding publishes, since paho scans them all
for each acknowledgement; nothing is handed to paho while there is no connection, since it would keep it in memory only.
"""

import logging
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from device_client.wire.limits import MAX_MESSAGE_BYTES
from fleet.ports.broker import BrokerError, BrokerUnavailableError, Delivery, Message, PublishRefusedError

logger = logging.getLogger(__name__)

MAX_OUTSTANDING: Final = 100
KEEP_ALIVE_S: Final = 30
LONGEST_PAUSE_S: Final = 15
# Fixed header, topic length, packet id and the length of the (empty) properties, generously.
_HEADER_BYTES: Final = 32
_SEND_RETAINED_TO_NEW_SUBSCRIPTIONS: Final = 1


@dataclass(frozen=True)
class BrokerIdentity:
    """Who we are to the broker: files of one identity, and the authority that vouches for the broker."""

    authority: Path
    certificate: Path
    key: Path


class MqttBroker:
    """One MQTT client. `client_id` is its session: two connections with the same id throw each other out."""

    def __init__(
        self,
        *,
        host: str,
        port: int,
        identity: BrokerIdentity,
        client_id: str,
        session_s: int = 3600,
        receive_maximum: int = 1000,
    ) -> None:
        self._host = host
        self._port = port
        self._session_s = session_s
        self._receive_maximum = receive_maximum
        self._subscriptions: list[tuple[tuple[str, ...], Callable[[Delivery], None]]] = []
        self._acknowledgements = _Acknowledgements()
        self._outstanding = threading.BoundedSemaphore(MAX_OUTSTANDING)
        self._ready = threading.Event()
        self._ungranted: set[int] = set()
        # Counts connections: packet ids mean something only on the one they came with.
        self._connection = 0
        self._client = self._make_client(client_id, identity)

    def _make_client(self, client_id: str, identity: BrokerIdentity) -> Client:
        client = Client(CallbackAPIVersion.VERSION2, client_id=client_id, protocol=MQTTv5, manual_ack=True)
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=str(identity.authority))
        context.load_cert_chain(identity.certificate, identity.key)
        client.tls_set_context(context)
        client.reconnect_delay_set(1, LONGEST_PAUSE_S)
        client.max_inflight_messages_set(MAX_OUTSTANDING)
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        client.on_message = self._on_message
        return client

    def subscribe(self, filters: Sequence[str], handler: Callable[[Delivery], None]) -> None:
        """Have `handler` called with what arrives; before `start`."""
        self._subscriptions.append((tuple(filters), handler))
        for topic_filter in filters:
            # `$share/<group>/<filter>`: deliveries carry plain topics.
            plain = topic_filter.split("/", 2)[2] if topic_filter.startswith("$share/") else topic_filter
            self._client.message_callback_add(plain, self._deliver_to(handler))

    def start(self) -> None:
        """Connect in the background and keep connected."""
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = self._session_s
        properties.ReceiveMaximum = self._receive_maximum
        self._client.connect_async(
            self._host,
            self._port,
            keepalive=KEEP_ALIVE_S,
            clean_start=False,
            properties=properties,
        )
        self._client.loop_start()

    def wait_ready(self, timeout_s: float) -> bool:
        """Wait until connected with all subscriptions granted."""
        return self._ready.wait(timeout_s)

    def publish(self, *messages: Message, timeout_s: float = 10.0) -> None:
        """Return when the broker has acknowledged every message."""
        deadline_s = time.monotonic() + timeout_s
        for message in messages:
            _refuse_oversized(message)
        if not self._ready.wait(timeout_s):
            raise BrokerUnavailableError(f"no connection to the broker at {self._host}:{self._port} in {timeout_s:g} s")
        waiting = [(message, self._send(message, deadline_s)) for message in messages]
        refused: PublishRefusedError | None = None
        for message, answer in waiting:
            try:
                reason = answer.result(max(0.0, deadline_s - time.monotonic()))
            except FutureTimeoutError:
                raise BrokerUnavailableError(f"no acknowledgement of {message.topic} in {timeout_s:g} s") from None
            if reason.is_failure and refused is None:
                refused = PublishRefusedError(f"{message.topic}: {reason}")
        if refused is not None:
            raise refused

    def stop(self) -> None:
        """Disconnect and end the background thread."""
        self._client.disconnect()
        self._client.loop_stop()
        self._ready.clear()

    def _send(self, message: Message, deadline_s: float) -> "Future[ReasonCode]":
        if not self._outstanding.acquire(timeout=max(0.0, deadline_s - time.monotonic())):
            raise BrokerUnavailableError(f"{MAX_OUTSTANDING} messages wait for the broker's acknowledgement")
        info = self._client.publish(message.topic, message.payload, qos=1, retain=message.retain)
        if info.rc not in {MQTTErrorCode.MQTT_ERR_SUCCESS, MQTTErrorCode.MQTT_ERR_NO_CONN}:
            self._outstanding.release()
            raise BrokerError(f"{message.topic}: {info.rc.name}")
        answer = self._acknowledgements.expect(info.mid)
        # Released when the broker answers, not when the caller tires of waiting: paho still holds the message.
        answer.add_done_callback(lambda _: self._outstanding.release())
        return answer

    def _deliver_to(self, handler: Callable[[Delivery], None]) -> Callable[[Client, Any, MQTTMessage], None]:
        def deliver(client: Client, _userdata: Any, message: MQTTMessage) -> None:
            connection = self._connection

            def acknowledge() -> None:
                nonlocal connection
                # After a reconnect the broker delivers again, perhaps another message under the same packet id.
                if connection == self._connection:
                    connection = -1
                    client.ack(message.mid, message.qos)

            try:
                handler(Delivery(message.topic, bytes(message.payload), acknowledge))
            except Exception:
                logger.exception("a handler failed on %s; the message stays with the broker", message.topic)

        return deliver

    def _on_connect(
        self, client: Client, _userdata: Any, _flags: ConnectFlags, reason: ReasonCode, _properties: Properties | None
    ) -> None:
        if reason.is_failure:
            logger.warning("the broker at %s:%s refused the connection: %s", self._host, self._port, reason)
            return
        self._connection += 1
        logger.info("connected to the broker at %s:%s", self._host, self._port)
        options = SubscribeOptions(qos=1, retainHandling=_SEND_RETAINED_TO_NEW_SUBSCRIPTIONS)
        self._ungranted.clear()
        for filters, _ in self._subscriptions:
            _, packet_id = client.subscribe([(topic_filter, options) for topic_filter in filters])
            if packet_id is not None:
                self._ungranted.add(packet_id)
        if not self._ungranted:
            self._ready.set()

    def _on_subscribe(
        self, _client: Client, _userdata: Any, packet_id: int, reasons: list[ReasonCode], _properties: Properties | None
    ) -> None:
        for reason in reasons:
            if reason.is_failure:
                logger.error("the broker refused a subscription: %s", reason)
                return
        self._ungranted.discard(packet_id)
        if not self._ungranted:
            self._ready.set()

    def _on_disconnect(
        self,
        _client: Client,
        _userdata: Any,
        _flags: DisconnectFlags,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        self._ready.clear()
        if reason.is_failure:
            logger.warning("lost the broker at %s:%s: %s", self._host, self._port, reason)

    def _on_publish(
        self, _client: Client, _userdata: Any, packet_id: int, reason: ReasonCode, _properties: Properties | None
    ) -> None:
        self._acknowledgements.arrived(packet_id, reason)

    def _on_message(self, _client: Client, _userdata: Any, message: MQTTMessage) -> None:
        """What an old session still subscribes to and nobody here handles any more: let it go."""
        logger.warning("no handler for %s; dropped", message.topic)
        self._client.ack(message.mid, message.qos)


class _Acknowledgements:
    """Matches publishes with their acknowledgements, which may arrive before `publish` has told us the packet id."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._expected: dict[int, Future[ReasonCode]] = {}
        self._early: dict[int, ReasonCode] = {}

    def expect(self, packet_id: int) -> "Future[ReasonCode]":
        answer: Future[ReasonCode] = Future()
        with self._lock:
            reason = self._early.pop(packet_id, None)
            if reason is None:
                self._expected[packet_id] = answer
        if reason is not None:
            answer.set_result(reason)
        return answer

    def arrived(self, packet_id: int, reason: ReasonCode) -> None:
        with self._lock:
            answer = self._expected.pop(packet_id, None)
            if answer is None:
                self._early[packet_id] = reason
        if answer is not None:
            answer.set_result(reason)


def _refuse_oversized(message: Message) -> None:
    """The broker would end the connection over it, and paho would send it again on the next one."""
    length = len(message.payload) + len(message.topic.encode()) + _HEADER_BYTES
    if length > MAX_MESSAGE_BYTES:
        raise PublishRefusedError(f"{message.topic}: {length} bytes, expected at most {MAX_MESSAGE_BYTES}")
