"""python-tuf's client over metadata that lies in memory: what a device or a pipeline would make of it."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from tuf.api.exceptions import DownloadHTTPError
from tuf.ngclient import Updater
from tuf.ngclient.fetcher import FetcherInterface


class MappingFetcher(FetcherInterface):
    """Serves files by the last part of their address; anything else is a 404."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.files = files
        self.asked: list[str] = []

    def _fetch(self, url: str) -> Iterator[bytes]:
        name = url.rsplit("/", 1)[-1]
        self.asked.append(name)
        if name not in self.files:
            raise DownloadHTTPError(f"no {name}", 404)
        return iter([self.files[name]])


def updater(directory: Path, root: bytes, files: Mapping[str, bytes]) -> Updater:
    """A client that keeps what it saw in `directory`."""
    directory.mkdir(exist_ok=True)
    return Updater(str(directory), "memory://m/", fetcher=MappingFetcher(files), bootstrap=root)
