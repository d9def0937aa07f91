"""Bytes by HTTP: resumable downloads of signed files, and small documents with a limit.

A download knows its length and hash before the first byte. It continues a partial file with a Range request, starts
over when the server ignores the range, hashes while it streams, syncs as it goes, and gives up on a peer that sends too
slowly: a socket timeout alone would let one byte every few seconds through for ever. Redirects are not followed, since
a ticket names its final place. TLS trusts the system's authorities and the fleet's own.
"""

import hashlib
import os
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urljoin, urlsplit

import urllib3
from urllib3.exceptions import HTTPError

from device_client import __version__
from device_client.adapters import durable
from device_client.core.errors import (
    CancelledError,
    ConfigError,
    DigestMismatchError,
    GoneError,
    NoSpaceError,
    ShortBodyError,
    StalledError,
    TicketError,
    TransferError,
)
from device_client.ports import Clock, Transfer, Transferred

SOCKET_TIMEOUT_S: Final = 20.0
CHUNK_BYTES: Final = 1 << 16
SYNC_EVERY_BYTES: Final = 1 << 20
USER_AGENT: Final = f"modelfleet-device/{__version__}"
REFUSED: Final = frozenset({401, 403})
GONE: Final = frozenset({404, 410})
PARTIAL, OK, RANGE_NOT_SATISFIABLE = 206, 200, 416
NO_SPACE: Final = frozenset({28, 122})  # ENOSPC, EDQUOT


@dataclass(frozen=True)
class Pace:
    """How slow is too slow: fewer than `min_bytes` in any `window_s`; a document has `document_s` altogether."""

    min_bytes: int = 1_024
    window_s: float = 30.0
    document_s: float = 60.0


def connect(authority_pem: str | None = None) -> urllib3.PoolManager:
    """A connection pool. With `authority_pem`, certificates of the fleet's own authority are accepted too."""
    context = ssl.create_default_context()
    if authority_pem is not None:
        try:
            context.load_verify_locations(cadata=authority_pem)
        except ssl.SSLError as error:
            raise ConfigError(f"expected certificates in PEM, got {error}") from error
    return urllib3.PoolManager(
        ssl_context=context,
        retries=False,
        timeout=urllib3.Timeout(connect=SOCKET_TIMEOUT_S, read=SOCKET_TIMEOUT_S),
        headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity"},
    )


@contextmanager
def _translated(transfer: Transfer) -> Iterator[None]:
    """What the network and the disk raise, as errors of ours."""
    try:
        yield
    except HTTPError as error:
        raise TransferError(f"expected {transfer.length} bytes, got {type(error).__name__}: {error}"[:300]) from error
    except OSError as error:
        if error.errno in NO_SPACE:
            raise NoSpaceError(f"expected room for {transfer.length} bytes, got {error}") from error
        raise TransferError(f"expected {transfer.length} bytes, got {error}"[:300]) from error


class TokenBucket:
    """Spends `bytes_per_s`; at most a tenth of a second's worth is saved up. Zero means unlimited."""

    def __init__(self, clock: Clock, bytes_per_s: int) -> None:
        self._clock = clock
        self._rate = bytes_per_s
        self._ready_at = clock.monotonic()

    @property
    def chunk_bytes(self) -> int:
        """How much to read at once so that the pace stays even."""
        return CHUNK_BYTES if self._rate <= 0 else max(1_024, min(CHUNK_BYTES, self._rate // 10))

    def spend(self, count: int, pause: Callable[[float], None]) -> None:
        """Wait until `count` bytes were due."""
        if self._rate <= 0:
            return
        now = self._clock.monotonic()
        self._ready_at = max(self._ready_at, now - 0.1) + count / self._rate
        if self._ready_at > now:
            pause(self._ready_at - now)


class HttpDownloads:
    """`ports.Downloads`. Relative tickets are relative to the enrolled server."""

    def __init__(self, pool: urllib3.PoolManager, clock: Clock, base_url: str, pace: Pace | None = None) -> None:
        self._pool = pool
        self._clock = clock
        self._base_url = base_url.rstrip("/") + "/"
        self._pace = pace or Pace()

    def fetch(self, transfer: Transfer, part: Path, cancelled: Callable[[], bool]) -> Transferred:
        url = self._address(transfer)
        with _translated(transfer):
            return self._fetch(url, transfer, part, cancelled)

    def stream(self, transfer: Transfer, start: int, cancelled: Callable[[], bool]) -> Iterator[bytes]:
        if start == transfer.length:
            return
        with _translated(transfer):
            response, begins = self._request(self._address(transfer), transfer, start)
            came = begins
            try:
                for chunk in self._chunks(response, transfer, transfer.length - begins, cancelled):
                    fresh = chunk[max(0, start - came) :]
                    came += len(chunk)
                    if fresh:
                        yield fresh
            finally:
                response.close()
        if came != transfer.length:
            raise ShortBodyError(f"expected {transfer.length} bytes, got an answer that ends after {came}")

    def _address(self, transfer: Transfer) -> str:
        url = urljoin(self._base_url, transfer.url)
        if urlsplit(url).scheme not in {"http", "https"}:
            raise TicketError(f"expected an HTTP address in a ticket, got {url[:80]!r}")
        return url

    def _fetch(self, url: str, transfer: Transfer, part: Path, cancelled: Callable[[], bool]) -> Transferred:
        hasher = hashlib.sha256()
        held = _rehash(part, transfer.length, hasher)
        received = 0
        if held < transfer.length:
            response, start = self._request(url, transfer, held)
            if start == 0 and held:
                hasher, held = hashlib.sha256(), 0
            with part.open("r+b" if held else "wb") as file:
                file.seek(held)
                try:
                    for chunk in self._chunks(response, transfer, transfer.length - held, cancelled):
                        file.write(chunk)
                        hasher.update(chunk)
                        before, received = received, received + len(chunk)
                        if before // SYNC_EVERY_BYTES != received // SYNC_EVERY_BYTES:
                            _sync(file.fileno(), file.flush)
                finally:
                    _sync(file.fileno(), file.flush)
                    response.close()
        if held + received != transfer.length:
            raise ShortBodyError(f"expected {transfer.length} bytes, got an answer that ends after {held + received}")
        if hasher.hexdigest() != transfer.sha256:
            part.unlink(missing_ok=True)
            if held:
                # What a power cut left of the first part may have been torn: once more, from nothing.
                again = self._fetch(url, transfer, part, cancelled)
                return Transferred(received + again.received, 0)
            raise DigestMismatchError(
                f"expected sha256 {transfer.sha256[:16]} of {transfer.length} bytes, got {hasher.hexdigest()[:16]}"
            )
        durable.sync_directory(part.parent)
        return Transferred(received, held)

    def _request(self, url: str, transfer: Transfer, held: int) -> tuple[urllib3.BaseHTTPResponse, int]:
        """The open response and the offset at which its body begins."""
        headers = {**self._pool.headers, **({"Range": f"bytes={held}-"} if held else {})}
        response = self._pool.request("GET", url, headers=headers, preload_content=False, redirect=False)
        if (
            response.status == PARTIAL
            and held
            and _range_fits(response.headers.get("Content-Range"), held, transfer.length)
        ):
            return response, held
        if response.status == OK:
            announced = response.headers.get("Content-Length")
            if announced is not None and announced != str(transfer.length):
                response.close()
                raise DigestMismatchError(f"expected {transfer.length} bytes, got {announced} announced")
            return response, 0
        response.close()
        if response.status in GONE:
            raise GoneError(f"expected the file behind a ticket, got HTTP {response.status}")
        if response.status in REFUSED:
            raise TicketError(f"expected the file behind a ticket, got HTTP {response.status}")
        if held and response.status in {PARTIAL, RANGE_NOT_SATISFIABLE}:
            return self._request(url, transfer, 0)
        raise TransferError(f"expected HTTP 200 or 206, got {response.status}")

    def _chunks(
        self, response: urllib3.BaseHTTPResponse, transfer: Transfer, missing: int, cancelled: Callable[[], bool]
    ) -> Iterator[bytes]:
        bucket = TokenBucket(self._clock, transfer.bytes_per_s)
        watch = _SlownessWatch(self._clock, self._pace, transfer.bytes_per_s)
        deadline = self._clock.monotonic() + transfer.deadline_s
        while chunk := response.read1(bucket.chunk_bytes):
            if cancelled():
                raise CancelledError("the transfer was stopped")
            missing -= len(chunk)
            if missing < 0:
                raise DigestMismatchError(f"expected {transfer.length} bytes, got more")
            yield chunk
            bucket.spend(len(chunk), lambda seconds: _pause(self._clock, seconds, cancelled))
            watch.received(len(chunk))
            if self._clock.monotonic() > deadline:
                raise StalledError(f"expected {transfer.length} bytes within {transfer.deadline_s:g} s, got fewer")


class _SlownessWatch:
    """Raises when a whole window passed with too few bytes. Our own limit is no fault of the peer's."""

    def __init__(self, clock: Clock, pace: Pace, bytes_per_s: int) -> None:
        own = bytes_per_s * pace.window_s / 2 if bytes_per_s > 0 else float("inf")
        self._least = min(float(pace.min_bytes), own)
        self._window_s = pace.window_s
        self._clock = clock
        self._since = clock.monotonic()
        self._bytes = 0

    def received(self, count: int) -> None:
        self._bytes += count
        elapsed = self._clock.monotonic() - self._since
        if elapsed >= self._window_s:
            if self._bytes < self._least:
                raise StalledError(f"expected at least {self._least:g} bytes in {elapsed:.0f} s, got {self._bytes}")
            self._since, self._bytes = self._clock.monotonic(), 0


def _pause(clock: Clock, seconds: float, cancelled: Callable[[], bool]) -> None:
    """Sleep, but notice a cancellation within a fifth of a second."""
    until = clock.monotonic() + seconds
    while (left := until - clock.monotonic()) > 0:
        if cancelled():
            raise CancelledError("the transfer was stopped")
        clock.sleep(min(left, 0.2))


def _rehash(part: Path, length: int, hasher: "hashlib._Hash") -> int:
    """Feed what is there already to the hasher; a file that is too long is worth nothing."""
    try:
        size = part.stat().st_size
    except FileNotFoundError:
        return 0
    if size > length:
        part.unlink()
        return 0
    with part.open("rb") as file:
        while chunk := file.read(SYNC_EVERY_BYTES):
            hasher.update(chunk)
    return size


def _range_fits(header: str | None, start: int, length: int) -> bool:
    return header is not None and header.replace(" ", "") == f"bytes{start}-{length - 1}/{length}"


def _sync(descriptor: int, flush: Callable[[], None]) -> None:
    flush()
    os.fsync(descriptor)


def get_document(pool: urllib3.PoolManager, url: str, max_bytes: int) -> bytes:
    """A small document; raises `TransferError`."""
    try:
        response = pool.request("GET", url, preload_content=False, redirect=False)
        try:
            body = response.read(max_bytes + 1)
        finally:
            response.close()
    except (HTTPError, OSError) as error:
        raise TransferError(f"GET {url}: {error}"[:300]) from error
    if response.status != OK or len(body) > max_bytes:
        raise TransferError(f"expected HTTP 200 with at most {max_bytes} bytes from {url}, got {response.status}")
    return body
