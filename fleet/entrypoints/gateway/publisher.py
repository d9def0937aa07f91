"""Hands the outbox to the broker, in order and at least once, and puts staged metadata into the image repository.

A message leaves the outbox when the broker has acknowledged it. One that the broker refuses for good is pushed back with
growing pauses, so that it holds up nobody; when the broker is away, everything waits.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final

from fleet.apps.assignments import selectors as assigned
from fleet.apps.assignments import services as assignments
from fleet.apps.outbox import services as outbox
from fleet.apps.outbox.records import MessageRecord
from fleet.domain.errors import ModelfleetError
from fleet.entrypoints.gateway.lifecycle import PUBLISH_S, StoppedError, with_database
from fleet.ports.broker import Broker, BrokerError, Message, PublishRefusedError
from fleet.ports.clock import Clock

logger = logging.getLogger(__name__)

BATCH_MESSAGES: Final = 100
POLL_S: Final = 0.1
IMAGE_S: Final = 1.0
AWAY_S: Final = 1.0


class Publisher:
    """The one publisher.

    `publish_image` is one turn of the image repository; it returns how many roles it published. `shut_out_revoked` has
    the broker turn away whoever is revoked by now.
    """

    def __init__(
        self,
        broker: Broker,
        clock: Clock,
        publish_image: Callable[[datetime], int],
        shut_out_revoked: Callable[[datetime], None],
        stop: threading.Event,
    ) -> None:
        self._broker = broker
        self._clock = clock
        self._publish_image = publish_image
        self._shut_out_revoked = shut_out_revoked
        self._stop = stop

    def run(self) -> None:
        """Work until told to stop."""
        self._broker.start()
        logger.info("publisher started")
        try:
            with_database(self.repeat_notices, self._stop)
            image_at_s = 0.0
            while not self._stop.is_set():
                sent = with_database(self.drain, self._stop)
                if self._clock.monotonic_s() >= image_at_s:
                    image_at_s = self._clock.monotonic_s() + IMAGE_S
                    self.publish_image()
                    self.shut_out_revoked()
                if not sent:
                    self._stop.wait(POLL_S)
        except StoppedError:
            logger.info("stopped while the database did not answer")
        finally:
            self._broker.stop()
            logger.info("publisher stopped")

    def repeat_notices(self) -> None:
        """Send every plan notice as it stands: a broker that was replaced has lost its retained messages."""
        for model in assigned.announced_models():
            assignments.repeat_notice(model=model, now=self._clock.now())

    def drain(self) -> int:
        """Publish the next messages of the outbox; returns how many left it."""
        batch = outbox.claim_batch(limit=BATCH_MESSAGES, now=self._clock.now())
        if not batch:
            return 0
        try:
            self._broker.publish(*(_message(item) for item in batch), timeout_s=PUBLISH_S)
        except PublishRefusedError:
            return self._drain_singly(batch)
        except BrokerError as error:
            logger.warning("%d messages wait for the broker: %s", len(batch), error)
            self._stop.wait(AWAY_S)
            return 0
        outbox.mark_published(ids=[item.id for item in batch])
        return len(batch)

    def publish_image(self) -> None:
        """Put what is staged into the image repository; what fails is logged and tried again a second later."""
        try:
            published = self._publish_image(self._clock.now())
        except ModelfleetError as error:
            logger.warning("the image repository could not be published: %s", error.message)
        except Exception:
            logger.exception("the image repository could not be published")
        else:
            if published:
                logger.info("published %d roles of the image repository", published)

    def shut_out_revoked(self) -> None:
        """Tell the broker who is revoked; what fails is logged and tried again a second later."""
        try:
            self._shut_out_revoked(self._clock.now())
        except Exception:
            logger.exception("the broker could not be told who is revoked")

    def _drain_singly(self, batch: Sequence[MessageRecord]) -> int:
        """Publish one by one, to find those that the broker refuses."""
        sent = 0
        for item in batch:
            try:
                self._broker.publish(_message(item), timeout_s=PUBLISH_S)
            except PublishRefusedError as error:
                logger.warning("the broker refuses message %d: %s", item.id, error)
                outbox.push_back(message_id=item.id, attempts=item.attempts, now=self._clock.now())
            except BrokerError as error:
                logger.warning("%d messages wait for the broker: %s", len(batch) - sent, error)
                break
            else:
                outbox.mark_published(ids=[item.id])
                sent += 1
        return sent


def _message(item: MessageRecord) -> Message:
    return Message(item.topic, item.payload, item.retain)
