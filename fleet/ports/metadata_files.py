"""Where the published image repository lies: a flat set of named files that anybody may read."""

from typing import Protocol


class MetadataFiles(Protocol):
    """The files of the image repository. Only the publisher writes; names are `N.role.json` and `timestamp.json`."""

    def read(self, name: str) -> bytes | None:
        """The file's content, or None when there is none of this name."""
        ...

    def write(self, name: str, content: bytes) -> None:
        """Put a file in place at once: readers see the old content or the new one."""
        ...
