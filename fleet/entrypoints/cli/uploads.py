"""Sends blobs so that an interruption costs at most one chunk: the server says where to go on, also in a later run."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Final

from fleet.entrypoints.cli.api import Api, problem_of, require_success
from fleet.entrypoints.cli.console import Console
from fleet.entrypoints.cli.errors import CommandError
from fleet.ports.release_server import ServerUnreachableError

CHUNK_BYTES: Final = 4 * 1024 * 1024
MAX_FRUITLESS_ATTEMPTS: Final = 6
FIRST_PAUSE_S: Final = 0.5
RETRIED_STATUSES: Final = {HTTPStatus.CONFLICT, HTTPStatus.TOO_MANY_REQUESTS, *range(500, 600)}


@dataclass(frozen=True)
class Blob:
    """A file's content, by its hash."""

    path: Path
    sha256: str
    length: int


def upload(api: Api, console: Console, blob: Blob, *, pause: Callable[[float], None] = time.sleep) -> int:
    """Make the server hold `blob`; returns the bytes sent, 0 if it already did. Raises CommandError."""
    received = _received(api, blob)
    if received >= blob.length:
        return 0
    sent = 0
    attempts = 0
    with console.transfer(f"{blob.path.name} {blob.sha256[:12]}", blob.length, received) as advance:
        while received < blob.length:
            try:
                chunk = _read(blob, received)
                reply = api.send_chunk(blob.sha256, received, chunk)
                if reply.status not in RETRIED_STATUSES:
                    require_success(reply, api.url)
                    received += len(chunk)
                    sent += len(chunk)
                    attempts = 0
                    advance(len(chunk))
                    continue
                reason = problem_of(reply, api.url).message
            except ServerUnreachableError as error:
                reason = str(error)
            attempts += 1
            if attempts >= MAX_FRUITLESS_ATTEMPTS:
                raise CommandError(
                    "upload_interrupted",
                    f"{blob.path}: stopped at {received:,} of {blob.length:,} bytes ({reason}); run again to go on",
                )
            pause(FIRST_PAUSE_S * 2 ** (attempts - 1))
            received = _resumed(api, blob, received)
    return sent


def _received(api: Api, blob: Blob) -> int:
    answer = api.post("/uploads", {"sha256": blob.sha256, "length": blob.length})
    received = answer.get("received")
    if not isinstance(received, int) or not 0 <= received <= blob.length:
        raise CommandError("answer_malformed", f"upload: expected 0 to {blob.length} received bytes, got {received!r}")
    return received


def _resumed(api: Api, blob: Blob, before: int) -> int:
    """Where to go on after a failure; as before if even asking fails."""
    try:
        return _received(api, blob)
    except CommandError as error:
        if error.code != "server_unreachable":
            raise
        return before


def _read(blob: Blob, offset: int) -> bytes:
    try:
        with blob.path.open("rb") as file:
            file.seek(offset)
            chunk = file.read(CHUNK_BYTES)
    except OSError as error:
        raise CommandError("file_unreadable", f"cannot read {blob.path}: {error.strerror}") from error
    if not chunk:
        raise CommandError("file_changed", f"{blob.path}: expected {blob.length:,} bytes, it became shorter meanwhile")
    return chunk
