"""The published image repository through `tuf.ngclient`: what it returns is verified, or it raises.

The directory keeps ngclient's own copy between runs, which is what makes a server that serves older metadata fail. All
signature, version and expiry rules are ngclient's; nothing is parsed here before they held. ngclient itself expects to be
alone in its directory, so pipelines that share a key set take turns.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import httpx
from tuf.api.exceptions import DownloadError, DownloadHTTPError, RepositoryError
from tuf.api.metadata import Metadata, Snapshot, Targets
from tuf.ngclient import Updater
from tuf.ngclient.fetcher import FetcherInterface

from fleet.adapters.file_locks import exclusive
from fleet.adapters.release_server_http import open_client
from fleet.ports.verified_roles import NotPublishedError, RepositoryUnavailableError, UnverifiableError, VerifiedRole

NOT_FOUND: Final = 404
LOCK_FILE: Final = ".lock"


class _HttpFetcher(FetcherInterface):
    """ngclient's downloads over the same HTTP client, so that proxies and certificates are configured once."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def _fetch(self, url: str) -> Iterator[bytes]:
        with self._client.stream("GET", url) as response:
            if response.status_code != httpx.codes.OK:
                raise DownloadHTTPError(f"{url} answered {response.status_code}", response.status_code)
            yield from response.iter_bytes()


class VerifiedRepository:
    """Reads `<url>/N.<role>.json` into `directory`, starting from the trusted `root`."""

    def __init__(self, url: str, root: bytes, directory: Path) -> None:
        self._url = url
        self._root = root
        self._directory = directory
        self._fetcher = _HttpFetcher(open_client(url))

    def top_level(self) -> VerifiedRole:
        with self._alone():
            self._updater().refresh()
            return self._stored(Targets.type)

    def of_model(self, model: str) -> VerifiedRole | None:
        with self._alone():
            updater = self._updater()
            updater.refresh()
            delegations = self._stored(Targets.type).content.delegations
            if delegations is None or model not in (delegations.roles or {}):
                return None
            if f"{model}.json" not in self._snapshot().meta:
                raise NotPublishedError(f"{self._url}: {model} is delegated to, but no role is published yet")
            # ngclient loads and verifies a delegated role on the way to any of its paths.
            updater.get_targetinfo(f"models/{model}/0/none-none-none.json")
            return self._stored(model)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with _translated(self._url):
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            with exclusive(self._directory / LOCK_FILE):
                yield

    def _updater(self) -> Updater:
        return Updater(str(self._directory), self._url, fetcher=self._fetcher, bootstrap=self._root)

    def _snapshot(self) -> Snapshot:
        metadata: Metadata[Snapshot] = Metadata.from_bytes((self._directory / "snapshot.json").read_bytes())
        return metadata.signed

    def _stored(self, role: str) -> VerifiedRole:
        """What ngclient wrote after verifying it."""
        payload = (self._directory / f"{role}.json").read_bytes()
        metadata: Metadata[Targets] = Metadata.from_bytes(payload)
        return VerifiedRole(role, metadata.signed, hashlib.sha256(payload).hexdigest())


@contextmanager
def _translated(url: str) -> Iterator[None]:
    """Errors of ngclient as this port's: nothing came, or what came does not verify."""
    try:
        yield
    except DownloadHTTPError as error:
        if error.status_code == NOT_FOUND:
            raise NotPublishedError(f"{url}: nothing is published yet ({error})") from error
        raise RepositoryUnavailableError(str(error)) from error
    except DownloadError as error:
        raise RepositoryUnavailableError(f"{url}: {error.__cause__ or error}") from error
    except RepositoryError as error:
        raise UnverifiableError(f"{url}: the published metadata does not verify with this key set: {error}") from error
    except OSError as error:
        raise RepositoryUnavailableError(f"cannot keep verified metadata: {error}") from error
