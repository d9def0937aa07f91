"""`ports.Broker` over MQTT 5 with mutual TLS (paho). Client id = device id; the broker takes it from the certificate too.

Nothing here is trusted or remembered: paho keeps its sessions in memory only, so what must not be lost is in the outbox
and what must not be forged is signed. The last will says "offline"; reconnection backs off, at a pace drawn per device
so that a fleet does not come back in step.
"""

import logging
import random
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from device_client import __version__
from device_client.core.errors import ConfigError
from device_client.wire import topics
from device_client.wire.limits import MAX_MESSAGE_BYTES
from device_client.wire.messages import Presence
from device_client.wire.topics import Down, Up

log = logging.getLogger(__name__)

KEEPALIVE_S: Final = 30
SESSION_EXPIRY_S: Final = 600
MAX_INFLIGHT: Final = 50
QOS: Final = 1
FIRST_RECONNECT_S: Final = (1, 3)
LONGEST_RECONNECT_S: Final = (60, 120)
ATTEMPTS_BEFORE_ASKING: Final = 3  # a broker that restarts is back by then; one that has moved is not


@dataclass(frozen=True)
class BrokerAddress:
    """Where the broker is and how this device proves itself. Paths are PEM files."""

    host: str
    port: int
    authority: Path
    certificate: Path
    key: Path


class MqttBroker:
    """One connection of one device.

    `locate` is asked where the broker is by now after every `ATTEMPTS_BEFORE_ASKING` attempts in vain, in the network's
    thread: (host, port), or None if nobody knows. A wrong answer does no harm, because the broker proves itself.
    """

    def __init__(
        self, address: BrokerAddress, device_id: str, locate: Callable[[], tuple[str, int] | None] = lambda: None
    ) -> None:
        self._address = address
        self._locate = locate
        self._attempts_in_vain = 0
        self._device_id = device_id
        self._received: Callable[[str, bytes], None] = lambda _topic, _payload: None
        self._connected: Callable[[bool], None] = lambda _up: None
        self._topics = {topics.down(device_id, kind) for kind in Down}
        self._ungranted: int | None = None  # the packet that asks for `_topics` on this connection
        self._lock = threading.Lock()
        self._context = self._make_context()
        self._client = self._make_client()

    def _make_context(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=str(self._address.authority))
            context.load_cert_chain(self._address.certificate, self._address.key)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"expected a certificate, its key and an authority, got {error}") from error
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context

    def _make_client(self) -> paho.Client:
        client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id=self._device_id, protocol=MQTTProtocolVersion.MQTTv5
        )
        client.tls_set_context(self._context)
        client.max_inflight_messages_set(MAX_INFLIGHT)
        client.will_set(topics.up(self._device_id, Up.PRESENCE), self._presence(online=False), qos=QOS, retain=True)
        dice = random.Random(self._device_id)  # noqa: S311 - spreads reconnections, keeps no secret
        client.reconnect_delay_set(dice.randint(*FIRST_RECONNECT_S), dice.randint(*LONGEST_RECONNECT_S))
        client.on_connect = self._on_connect
        client.on_connect_fail = self._on_connect_fail
        client.on_disconnect = self._on_disconnect
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        return client

    @staticmethod
    def _presence(*, online: bool) -> bytes:
        return Presence(online, __version__).encode()

    def start(self, received: Callable[[str, bytes], None], connected: Callable[[bool], None]) -> None:
        self._received, self._connected = received, connected
        self._open()

    def _open(self) -> None:
        self._aim()
        self._client.loop_start()

    def _aim(self) -> None:
        """Where the next attempt goes to."""
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = SESSION_EXPIRY_S
        properties.MaximumPacketSize = MAX_MESSAGE_BYTES
        self._client.connect_async(
            self._address.host,
            self._address.port,
            KEEPALIVE_S,
            clean_start=paho.MQTT_CLEAN_START_FIRST_ONLY,
            properties=properties,
        )

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        if not self._client.is_connected():
            return False
        info = self._client.publish(topic, payload, qos=QOS, retain=retain)
        return info.rc == paho.MQTT_ERR_SUCCESS

    def subscribe(self, topic: str) -> None:
        with self._lock:
            known = topic in self._topics
            self._topics.add(topic)
        if not known and self._client.is_connected():
            self._client.subscribe(topic, qos=QOS)

    def renew_identity(self) -> None:
        """A connection that stands is ended in an orderly way, so the last will stays unsaid and the session is kept."""
        try:
            # Connections that are made from now on show this chain; paho does not let a context be replaced.
            self._context.load_cert_chain(self._address.certificate, self._address.key)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"expected a certificate and its key, got {error}") from error
        if self._client.is_connected():
            self._client.disconnect()
            # The network thread ends by itself now, and paho may find it gone between two looks at it.
            with suppress(AttributeError):
                self._client.loop_stop()
            self._open()

    def stop(self) -> None:
        if self._client.is_connected():
            try:
                self._client.publish(
                    topics.up(self._device_id, Up.PRESENCE), self._presence(online=False), qos=QOS, retain=True
                ).wait_for_publish(2.0)
            except (RuntimeError, ValueError):
                log.debug("the farewell was not delivered; the last will says the same")
        self._client.disconnect()
        self._client.loop_stop()

    def _on_connect(
        self, client: paho.Client, _userdata: Any, _flags: paho.ConnectFlags, reason: ReasonCode, _properties: Any
    ) -> None:
        if reason.is_failure:
            log.warning("the broker refused the connection: %s", reason)
            return
        self._attempts_in_vain = 0
        with self._lock:
            filters = [(topic, QOS) for topic in sorted(self._topics)]
        _, self._ungranted = client.subscribe(filters)
        client.publish(topics.up(self._device_id, Up.PRESENCE), self._presence(online=True), qos=QOS, retain=True)

    def _on_subscribe(
        self, _client: paho.Client, _userdata: Any, packet_id: int, reasons: list[ReasonCode], _properties: Any
    ) -> None:
        for reason in reasons:
            if reason.is_failure:
                log.warning("the broker refused a subscription: %s", reason)
        if packet_id == self._ungranted:
            self._ungranted = None
            self._connected(True)

    def _on_connect_fail(self, _client: paho.Client, _userdata: Any) -> None:
        self._attempts_in_vain += 1
        if self._attempts_in_vain % ATTEMPTS_BEFORE_ASKING:
            return
        address = self._address
        log.warning("%d attempts to reach the broker at %s:%d", self._attempts_in_vain, address.host, address.port)
        found = self._locate()
        if found is not None and found != (address.host, address.port):
            log.warning("the broker has moved to %s:%d", *found)
            self._address = replace(address, host=found[0], port=found[1])
            self._aim()

    def _on_disconnect(
        self, _client: paho.Client, _userdata: Any, _flags: Any, reason: ReasonCode, _properties: Any
    ) -> None:
        log.info("disconnected from the broker: %s", reason)
        self._connected(False)

    def _on_message(self, _client: paho.Client, _userdata: Any, message: paho.MQTTMessage) -> None:
        self._received(message.topic, bytes(message.payload))
