"""Who may still use the broker. Kept apart from messages: another process changes it, and other rights are needed."""

from collections.abc import Collection
from datetime import datetime
from typing import Protocol

from fleet.ports.certificates import Revocation


class BrokerAccess(Protocol):
    """Shuts devices out of the broker, those that are connected at this moment included."""

    def shut_out(self, device_ids: Collection[str], revocations: Collection[Revocation], now: datetime) -> None:
        """Replace both lists: ids that get and send nothing, and certificates that open no new connection.

        Complete lists, not changes: whoever calls reads them from the database, so a lost call is mended by the next.
        An id is on the first list while none of its certificates is valid; a renewal takes it off again.
        """
        ...
