"""What `outbox` tells the publisher."""

from dataclasses import dataclass


@dataclass(frozen=True)
class MessageRecord:
    """One message to publish. Rows are published in the order of their ids."""

    id: int
    topic: str
    payload: bytes
    retain: bool
    attempts: int
