"""The published image repository in a directory of this machine, which the web process serves."""

import re
from pathlib import Path
from typing import Final

from fleet.adapters.pki_files import write_atomically

# `2.vision.digits.json`, `timestamp.json`: one path component that cannot climb and is never hidden.
NAME: Final = re.compile(r"[0-9a-z][0-9a-z.-]{0,90}\.json")


class LocalMetadataFiles:
    """`MetadataFiles` over a directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def read(self, name: str) -> bytes | None:
        """The file's content; None for names that are not of this repository's form, too."""
        if NAME.fullmatch(name) is None:
            return None
        try:
            return (self._directory / name).read_bytes()
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        """Put a file in place."""
        if NAME.fullmatch(name) is None:
            raise ValueError(f"expected a metadata file name matching {NAME.pattern}, got {name[:80]!r}")
        self._directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        write_atomically(self._directory / name, content, 0o644)
