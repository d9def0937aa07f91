"""Composes the connections of our own processes to the broker, each under the one identity that it needs."""

from django.conf import settings

from fleet.adapters.broker_mqtt import BrokerIdentity, MqttBroker
from fleet.ports.broker import Broker
from fleet.wiring import installation


def broker(identity: str, member: str = "1") -> Broker:
    """A client as `identity` (`_ingest`, `_director`, `_publisher`); `member` tells several processes of one kind apart.

    The client id is stable, so that a process that comes back finds what its session kept for it.
    """
    secrets = installation.secret_files()
    return MqttBroker(
        host=settings.MODELFLEET.broker.host,
        port=settings.MODELFLEET.broker.port,
        identity=BrokerIdentity(
            authority=secrets.path("internal_ca.crt"),
            certificate=secrets.path(f"internal/{identity}.crt"),
            key=secrets.path(f"internal/{identity}.key"),
        ),
        client_id=f"{identity}-{member}",
    )
