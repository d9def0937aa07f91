"""Blob downloads with a ticket: resumable (Range, If-Range), streamed, never more memory than a chunk.

Django's FileResponse ignores Range, and a fleet on mobile networks lives by it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase

from device_client.wire.errors import WireError
from device_client.wire.names import parse_sha256
from fleet.domain import tickets
from fleet.domain.errors import ForbiddenError, NotFoundError
from fleet.domain.problems import Problem
from fleet.entrypoints.device_api.answers import device_view, problem_response
from fleet.ports.blobs import BlobMissingError
from fleet.wiring import server

CHUNK_BYTES: Final = 65_536
# One range in bytes. Several ranges, other units and nonsense are answered with the whole, as RFC 9110 allows.
_RANGE: Final = re.compile(r"bytes=(\d{0,19})-(\d{0,19})")


@dataclass(frozen=True)
class ByteRange:
    """Bytes [start, end) of a blob."""

    start: int
    end: int


@device_view("GET", "HEAD")
def download(request: HttpRequest, sha256: str) -> HttpResponseBase:
    """The blob, or the part of it that is asked for."""
    try:
        parse_sha256(sha256)
    except WireError:
        raise NotFoundError("blob_not_found", "expected a blob named by its sha256, got another name") from None
    # The ticket first: without one, nobody learns which blobs there are.
    if not tickets.is_valid(server.blob_ticket_key(), sha256, request.GET.get("ticket", ""), server.clock().now()):
        raise ForbiddenError("ticket_invalid", "expected a ticket that has not expired: check in for a new one")
    length = server.blob_store().length(sha256)
    if length is None:
        raise NotFoundError("blob_not_found", f"expected a stored blob, got none for {sha256}")
    etag = f'"{sha256}"'
    if etag in request.headers.get("If-None-Match", ""):
        return HttpResponse(status=304, headers={"ETag": etag})
    wanted = requested_range(request, etag, length)
    if wanted is not None and wanted.start >= length:
        response = problem_response(Problem(416, "range_not_satisfiable", f"expected a range within {length} bytes"))
        response["Content-Range"] = f"bytes */{length}"
        return response
    return _answer(request, sha256, wanted, length, etag)


def requested_range(request: HttpRequest, etag: str, length: int) -> ByteRange | None:
    """The one range that counts, cut to the blob's length; None for the whole."""
    match = _RANGE.fullmatch(request.headers.get("Range", "").replace(" ", ""))
    condition = request.headers.get("If-Range")
    if match is None or (condition is not None and condition.strip() != etag):
        return None
    first, last = match.groups()
    if first == "":
        if last == "" or int(last) == 0:
            return None if last == "" else ByteRange(length, length)
        return ByteRange(max(0, length - int(last)), length)
    start = int(first)
    end = min(int(last) + 1, length) if last else length
    if last and int(last) < start:
        return None
    return ByteRange(start, end)


def _answer(request: HttpRequest, sha256: str, wanted: ByteRange | None, length: int, etag: str) -> HttpResponseBase:
    span = wanted or ByteRange(0, length)
    headers = {
        "Content-Length": str(span.end - span.start),
        "Accept-Ranges": "bytes",
        "ETag": etag,
        "Cache-Control": "private, max-age=31536000, immutable",
    }
    if wanted is not None:
        headers["Content-Range"] = f"bytes {span.start}-{span.end - 1}/{length}"
    status = 200 if wanted is None else 206
    kind = "application/octet-stream"
    if request.method == "HEAD":
        return HttpResponse(status=status, headers=headers, content_type=kind)
    try:
        reader = server.blob_store().open(sha256, span.start)
    except BlobMissingError:
        raise NotFoundError("blob_not_found", f"expected a stored blob, got none for {sha256}") from None
    return StreamingHttpResponse(
        _Chunks(reader, span.end - span.start), status=status, headers=headers, content_type=kind
    )


class _Chunks:
    """So many bytes of a reader, closed by the response however it ends."""

    def __init__(self, reader: BinaryIO, remaining: int) -> None:
        self._reader = reader
        self._remaining = remaining

    def __iter__(self) -> Iterator[bytes]:
        while self._remaining > 0 and (chunk := self._reader.read(min(CHUNK_BYTES, self._remaining))):
            self._remaining -= len(chunk)
            yield chunk

    def close(self) -> None:
        """Let go of the file."""
        self._reader.close()
