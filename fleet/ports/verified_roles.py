"""What a pipeline may build on: roles of the published image repository, verified against its own trust anchor."""

from dataclasses import dataclass
from typing import Protocol

from tuf.api.metadata import Targets


@dataclass(frozen=True)
class VerifiedRole:
    """A targets role whose signatures, version and expiry hold; `sha256` is that of its bytes as published."""

    name: str
    content: Targets
    sha256: str

    @property
    def version(self) -> int:
        """Its version number."""
        return self.content.version


class RepositoryUnavailableError(Exception):
    """Nothing to verify came."""


class NotPublishedError(RepositoryUnavailableError):
    """The server answers, but has not published this yet: its publisher may need a moment."""


class UnverifiableError(Exception):
    """What came does not verify. Nothing may be signed on top of it."""


class VerifiedRoles(Protocol):
    """The published image repository, as `tuf.ngclient` accepts it. Each call asks the server anew."""

    def top_level(self) -> VerifiedRole:
        """The top-level targets role. Raises RepositoryUnavailableError or UnverifiableError."""
        ...

    def of_model(self, model: str) -> VerifiedRole | None:
        """The role of a model, or None where no such role is delegated to. Raises as `top_level`."""
        ...
