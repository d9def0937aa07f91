"""TUF metadata by HTTP, as python-tuf wants it. Apart from `http`, because importing python-tuf takes longer than a download."""

from collections.abc import Iterator

import urllib3
from tuf.api.exceptions import DownloadError, DownloadHTTPError
from tuf.ngclient import FetcherInterface
from urllib3.exceptions import HTTPError

from device_client.adapters.http import CHUNK_BYTES, OK, Pace
from device_client.ports import Clock


class MetadataFetcher(FetcherInterface):
    """TUF metadata by HTTP: python-tuf limits the length, this class the time."""

    def __init__(self, pool: urllib3.PoolManager, clock: Clock, pace: Pace | None = None) -> None:
        self._pool = pool
        self._clock = clock
        self._pace = pace or Pace()

    def _fetch(self, url: str) -> Iterator[bytes]:
        response = self._pool.request("GET", url, preload_content=False, redirect=False)
        if response.status != OK:
            response.close()
            raise DownloadHTTPError(f"HTTP {response.status} for {url}", response.status)
        return self._chunks(response, url)

    def _chunks(self, response: urllib3.BaseHTTPResponse, url: str) -> Iterator[bytes]:
        deadline = self._clock.monotonic() + self._pace.document_s
        try:
            while chunk := response.read1(CHUNK_BYTES):
                yield chunk
                if self._clock.monotonic() > deadline:
                    raise DownloadError(f"{url} took longer than {self._pace.document_s:g} s")
        except HTTPError as error:
            raise DownloadError(f"{url}: {error}") from error
        finally:
            response.close()
