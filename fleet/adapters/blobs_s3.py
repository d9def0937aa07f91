"""Blobs in an S3-compatible bucket: `<prefix>/<first two digits>/<sha256>`.

Uploads stream in parts and are hashed on the way; the object appears only when the last part is confirmed, and a wrong
hash aborts it. Downloads go straight from the bucket by presigned GET.
"""

import hashlib
from collections.abc import Iterator
from io import BytesIO
from typing import TYPE_CHECKING, BinaryIO, Final, cast

import boto3
from botocore.client import Config
from botocore.exceptions import ClientError

from device_client.wire.names import parse_sha256
from fleet.ports.blobs import BlobMismatchError, BlobMissingError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

# S3 allows 10,000 parts of at least 5 MiB: this size takes files of up to 160 GB.
PART_BYTES: Final = 16 << 20
_MISSING: Final = {"404", "NoSuchKey", "NotFound"}


class S3BlobStore:
    """A `BlobStore` over a bucket; credentials come from where boto3 finds them."""

    def __init__(self, bucket: str, prefix: str, endpoint_url: str | None) -> None:
        self._bucket = bucket
        self._prefix = prefix.strip("/")
        self._client: S3Client = boto3.client(
            "s3",
            endpoint_url=endpoint_url,
            config=Config(signature_version="s3v4", retries={"mode": "standard"}, connect_timeout=10, read_timeout=60),
        )

    def put(self, sha256: str, reader: BinaryIO, length: int) -> None:
        """Store what `reader` gives, if it is what the name says."""
        key = self._key(sha256)
        if self.length(sha256) == length:
            return
        digest, copied = hashlib.sha256(), 0
        parts = _parts(reader)
        first = next(parts, b"")
        if len(first) < PART_BYTES:
            _require(sha256, length, hashlib.sha256(first).hexdigest(), len(first))
            self._client.put_object(Bucket=self._bucket, Key=key, Body=first)
            return
        upload_id = self._client.create_multipart_upload(Bucket=self._bucket, Key=key)["UploadId"]
        done: list[CompletedPartTypeDef] = []
        try:
            part: bytes | None = first
            while part:
                copied += len(part)
                if copied > length:
                    break
                digest.update(part)
                answer = self._client.upload_part(
                    Bucket=self._bucket, Key=key, UploadId=upload_id, PartNumber=len(done) + 1, Body=part
                )
                done.append({"ETag": answer["ETag"], "PartNumber": len(done) + 1})
                part = next(parts, None)
            _require(sha256, length, digest.hexdigest(), copied)
            self._client.complete_multipart_upload(
                Bucket=self._bucket, Key=key, UploadId=upload_id, MultipartUpload={"Parts": done}
            )
        except BaseException:
            self._client.abort_multipart_upload(Bucket=self._bucket, Key=key, UploadId=upload_id)
            raise

    def open(self, sha256: str, offset: int = 0) -> BinaryIO:
        """The content from `offset` on."""
        try:
            answer = self._client.get_object(Bucket=self._bucket, Key=self._key(sha256), Range=f"bytes={offset}-")
        except ClientError as error:
            if _code(error) in _MISSING:
                raise BlobMissingError(f"expected a blob {sha256}, got none") from None
            if _code(error) in {"InvalidRange", "416"}:
                return BytesIO()
            raise
        return cast("BinaryIO", answer["Body"])

    def length(self, sha256: str) -> int | None:
        """The blob's size, or None."""
        try:
            return self._client.head_object(Bucket=self._bucket, Key=self._key(sha256))["ContentLength"]
        except ClientError as error:
            if _code(error) in _MISSING:
                return None
            raise

    def url(self, sha256: str, ttl_s: int) -> str:
        """A presigned GET that is good for `ttl_s` seconds."""
        return self._client.generate_presigned_url(
            "get_object", Params={"Bucket": self._bucket, "Key": self._key(sha256)}, ExpiresIn=ttl_s
        )

    def delete(self, sha256: str) -> None:
        """Remove the blob."""
        self._client.delete_object(Bucket=self._bucket, Key=self._key(sha256))

    def _key(self, sha256: str) -> str:
        name = f"{parse_sha256(sha256)[:2]}/{sha256}"
        return f"{self._prefix}/{name}" if self._prefix else name


def _parts(reader: BinaryIO) -> Iterator[bytes]:
    """The reader's bytes in parts of exactly `PART_BYTES`, the last one shorter."""
    while True:
        pieces, size = [], 0
        while size < PART_BYTES and (piece := reader.read(PART_BYTES - size)):
            pieces.append(piece)
            size += len(piece)
        if size:
            yield b"".join(pieces)
        if size < PART_BYTES:
            return


def _require(sha256: str, length: int, got_sha256: str, got_length: int) -> None:
    if got_length != length or got_sha256 != sha256:
        raise BlobMismatchError(f"expected {length} bytes of sha256 {sha256}, got {got_length} of {got_sha256}")


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))
