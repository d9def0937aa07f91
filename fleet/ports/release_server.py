"""How the pipeline command speaks to the control plane: one request, one whole reply."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True)
class Reply:
    """What the server answered, whatever it was. Header names are lower case."""

    status: int
    content: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


class ServerUnreachableError(Exception):
    """No answer came: no network, no such host, nothing listens, or it took too long."""


class ReleaseServer(Protocol):
    """A control plane and the credential to use there."""

    @property
    def url(self) -> str:
        """Its address, without a trailing slash."""
        ...

    def send(
        self,
        method: str,
        path: str,
        *,
        json: object = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """Send `json` or `content` to `path` (`/api/v1/...`). Raises ServerUnreachableError; never because of a status."""
        ...
