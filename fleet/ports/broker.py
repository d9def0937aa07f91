"""Messages between our processes and devices: at least once, in both directions.

What is received stays the broker's until it is acknowledged, and what is published is ours until the broker says that it
has it. Both sides may therefore see a message twice and must not mind.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol


class BrokerError(Exception):
    """Base of what can go wrong with a broker. `permanent` is whether trying again is pointless."""

    permanent = False


class BrokerUnavailableError(BrokerError):
    """The broker did not answer in time. The message may or may not have arrived: publish it again."""


class PublishRefusedError(BrokerError):
    """The broker will never take this message: no right to its topic, or too long."""

    permanent = True


@dataclass(frozen=True)
class Message:
    """What is published. A retained message is kept and given to whoever subscribes later; empty ones delete it."""

    topic: str
    payload: bytes
    retain: bool = False


@dataclass(frozen=True)
class Delivery:
    """What is received. Until `acknowledge` is called, a new connection receives it again."""

    topic: str
    payload: bytes
    acknowledge: Callable[[], None]
    """May be called from any thread and any number of times; without effect once the connection was lost."""


class Broker(Protocol):
    """One client of the broker. Subscribe first, then start; publish from any thread but the handler's."""

    def subscribe(self, filters: Sequence[str], handler: Callable[[Delivery], None]) -> None:
        """Have `handler` called with what arrives, on a thread of the broker's; `filters` may be shared (`$share/`).

        The handler must be quick (put it into a queue). Only so many unacknowledged deliveries are outstanding as was
        agreed with the broker, so the queue is bounded. A handler that raises is logged and leaves its delivery
        unacknowledged.
        """
        ...

    def start(self) -> None:
        """Connect in the background and keep connected, with growing pauses between attempts; never raises."""
        ...

    def wait_ready(self, timeout_s: float) -> bool:
        """Wait until connected with all subscriptions granted; False when it took longer."""
        ...

    def publish(self, *messages: Message, timeout_s: float = 10.0) -> None:
        """Return when the broker has acknowledged every message; several are on their way at the same time.

        Raises BrokerUnavailableError, after which any of them may or may not have arrived, or PublishRefusedError for
        the first one that was refused, the others having been acknowledged.
        """
        ...

    def stop(self) -> None:
        """Disconnect. The broker keeps what was not acknowledged, for the next connection of the same client."""
        ...
