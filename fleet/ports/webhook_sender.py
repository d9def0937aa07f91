"""Sends one POST to an address that somebody from outside chose."""

from collections.abc import Mapping
from typing import Protocol


class WebhookRefusedError(Exception):
    """The address may not be called: it leads into our own network, or is not an address at all. A retry is pointless."""


class WebhookUnreachableError(Exception):
    """Nobody answered in time, or not in HTTP."""


class WebhookSender(Protocol):
    """Calls addresses of others."""

    def post(self, url: str, headers: Mapping[str, str], body: bytes) -> int:
        """The status of the answer; redirects are not followed.

        Raises WebhookRefusedError or WebhookUnreachableError.
        """
        ...
