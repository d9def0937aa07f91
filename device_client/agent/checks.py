"""Asking the director: one question at a time, each with a fresh nonce, asked again with back-off until answered."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from device_client.agent.timers import Timers
from device_client.core.backoff import Backoff
from device_client.ports import Broker, Clock
from device_client.wire import topics
from device_client.wire.messages import Capabilities, Check, CheckReason, Present, RunningModel
from device_client.wire.topics import Up

ANSWER_WITHIN_S: Final = 15.0
FIRST_POLL_S: Final = 21_600.0
BACKOFF: Final = Backoff(least_s=1.0, first_s=2.0, most_s=300.0)


@dataclass(frozen=True)
class Facts:
    """What a check says of the device besides the nonce."""

    models: tuple[RunningModel, ...]
    director_version: int
    capabilities: Capabilities
    attributes: Mapping[str, str]
    present: Present = field(default_factory=Present)


class Checks:
    """The conversation with the director. Used by the agent's own thread."""

    def __init__(
        self,
        *,
        device_id: str,
        broker: Broker,
        timers: Timers,
        clock: Clock,
        facts: Callable[[], Facts],
        make_nonce: Callable[[], str],
        dice: Callable[[], float],
    ) -> None:
        self._device_id = device_id
        self._broker = broker
        self._timers = timers
        self._clock = clock
        self._facts = facts
        self._make_nonce = make_nonce
        self._dice = dice
        self._attempt = 0
        self._poll_s = FIRST_POLL_S
        self._wanted: CheckReason | None = None
        self.nonce: str | None = None

    def ask(self, reason: CheckReason, *, within_s: float = 0.0) -> None:
        """Ask within a random part of `within_s`; without a connection, as soon as there is one."""
        self._timers.sooner("check", within_s * self._dice(), lambda: self._send(reason))

    def ask_after(self, reason: CheckReason, after_s: float) -> None:
        """Ask once `after_s` have passed, unless something asks sooner."""
        self._timers.sooner("check", after_s, lambda: self._send(reason))

    def connected(self) -> None:
        """Send what could not be sent."""
        if self._wanted is not None:
            self._send(self._wanted)

    def _send(self, reason: CheckReason) -> None:
        facts = self._facts()
        nonce = self._make_nonce()
        check = Check(
            nonce=nonce,
            reason=reason,
            models=facts.models,
            director_version=facts.director_version,
            clock=max(0, int(self._clock.now().timestamp())),
            capabilities=facts.capabilities,
            attributes=facts.attributes,
            present=facts.present,
        )
        if self._broker.publish(topics.up(self._device_id, Up.CHECK), check.encode()):
            self.nonce, self._wanted = nonce, None
            self._timers.set("answer", ANSWER_WITHIN_S, self.failed)
        else:
            self.nonce, self._wanted = None, reason

    def taken(self) -> None:
        """The answer to the open question has come; nothing else is one."""
        self.nonce = None
        self._timers.cancel("answer")

    def succeeded(self, poll_interval_s: float) -> None:
        """The answer was good: the next question is the periodic one."""
        self._attempt = 0
        self._poll_s = poll_interval_s
        self._timers.cancel("check")
        # Half the interval at least, so that a fleet which started together drifts apart.
        self.ask_after(CheckReason.PERIODIC, poll_interval_s * (0.5 + 0.5 * self._dice()))

    def failed(self) -> None:
        """No answer, or none that could be used: ask again, later each time."""
        self.nonce = None
        self._timers.cancel("answer")
        wait_s = min(BACKOFF.wait_s(self._attempt, 0.5 + 0.5 * self._dice()), max(self._poll_s, 1.0))
        self._attempt += 1
        self.ask_after(CheckReason.RETRY, wait_s)
