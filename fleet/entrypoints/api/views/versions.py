"""Versions of a model, its signed role, and uploads."""

import re
from http import HTTPStatus
from typing import BinaryIO, Final, cast

from drf_spectacular.types import OpenApiTypes
from rest_framework.request import Request
from rest_framework.response import Response

from fleet.apps.registry import selectors, services
from fleet.apps.registry.records import VersionRecord
from fleet.apps.trust import selectors as trust_selectors
from fleet.apps.trust.records import Repository
from fleet.domain.errors import ConflictError, InvalidInputError, NotFoundError, TooLargeError
from fleet.domain.problems import Problem
from fleet.domain.scopes import Scope
from fleet.entrypoints.api.base import ApiView
from fleet.entrypoints.api.documentation import documented, paged
from fleet.entrypoints.api.idempotency import HEADER, once
from fleet.entrypoints.api.pagination import page
from fleet.entrypoints.api.parsers import RawParser
from fleet.entrypoints.api.problems import problem_response
from fleet.entrypoints.api.serializers import registry as forms
from fleet.wiring import server

MAX_CHUNK_BYTES: Final = 64 << 20
OFFSET_HEADER: Final = "Upload-Offset"
_CONTENT_RANGE: Final = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")


class Versions(ApiView):
    """The versions of a model."""

    scopes = {"GET": Scope.READ, "POST": Scope.MODEL_WRITE}

    @paged(forms.VersionSerializer, summary="List versions")
    def get(self, _request: Request, model: str) -> Response:
        """The newest first."""
        selectors.model(model)

        def fetch(after: int | None, limit: int) -> list[VersionRecord]:
            return selectors.versions(model, below_number=after, limit=limit)

        return page(self, fetch, lambda item: item.number, forms.VersionSerializer)

    @documented(
        forms.VersionSerializer,
        status=201,
        request=forms.VersionBody,
        summary="Finalise a version",
        headers={HEADER: "Makes it safe to send the request again."},
    )
    def post(self, _request: Request, model: str) -> Response:
        """Checks signature, manifests and files; refused means that nothing is left behind.

        The answer's state is `publishing`; ask for the version until it is `published`.
        """
        return once(self, lambda: self._finalise(model))

    def _finalise(self, model: str) -> Response:
        body = self.body(forms.VersionBody)
        record = services.finalise_version(
            model=model,
            manifests=[text.encode() for text in body["manifests"]],
            role_payload=body["role"].encode(),
            notes=body["notes"] or "",
            git_sha=body["git_sha"] or "",
            metadata=body["metadata"],
            store=server.blob_store(),
            actor=self.principal.actor,
            now=self.now,
        )
        return Response(forms.VersionSerializer(record).data, status=HTTPStatus.CREATED)


class Version(ApiView):
    """One version."""

    scopes = {"GET": Scope.READ}

    @documented(forms.VersionSerializer, summary="Show a version")
    def get(self, _request: Request, model: str, version: str) -> Response:
        """Its state and variants; by its label, or by an alias."""
        return Response(forms.VersionSerializer(selectors.resolve(model, version)).data)


class Revocation(ApiView):
    """Revokes a version."""

    scopes = {"POST": Scope.MODEL_WRITE}

    @documented(forms.VersionSerializer, request=forms.RoleBody, summary="Revoke a version")
    def post(self, _request: Request, model: str, version: str) -> Response:
        """The body is the role's next version, without this version's targets, signed by the pipeline."""
        body = self.body(forms.RoleBody)
        record = services.revoke_version(
            model=model,
            label=version,
            payload=body["metadata"].encode(),
            actor=self.principal.actor,
            now=self.now,
        )
        return Response(forms.VersionSerializer(record).data)


class Inspection(ApiView):
    """What a version's files say of themselves."""

    scopes = {"GET": Scope.READ}

    @documented(forms.InspectionsSerializer, summary="Show what a version's files contain")
    def get(self, _request: Request, model: str, version: str) -> Response:
        """Formats, inputs and outputs, dtypes of the weights, operators."""
        return Response(forms.InspectionsSerializer(selectors.resolve(model, version)).data)


class Role(ApiView):
    """The signed role of a model."""

    scopes = {"GET": Scope.READ, "POST": Scope.MODEL_WRITE}

    @documented(forms.RoleSerializer, summary="Show a model's role")
    def get(self, _request: Request, model: str) -> Response:
        """Its newest version, published or not."""
        selectors.model(model)
        record = trust_selectors.current_metadata(Repository.IMAGE, model)
        if record is None:
            raise NotFoundError("role_not_found", f"expected a signed role of {model}, got none yet")
        shown = {
            "role": record.role,
            "version": record.version,
            "published_version": trust_selectors.published_version(model),
            "expires_at": record.expires_at,
            "metadata": record.payload.decode(),
        }
        return Response(forms.RoleSerializer(shown).data)

    @documented(forms.StagedSerializer, status=201, request=forms.RoleBody, summary="Send a model's role")
    def post(self, _request: Request, model: str) -> Response:
        """The first role, a refresh, or one that revokes. A role with new targets comes with its version instead."""
        body = self.body(forms.RoleBody)
        role = services.stage_model_role(
            model=model, payload=body["metadata"].encode(), actor=self.principal.actor, now=self.now
        )
        shown = {"role": role.model, "version": role.version, "expires_at": role.expires_at}
        return Response(forms.StagedSerializer(shown).data, status=HTTPStatus.CREATED)


class Uploads(ApiView):
    """Uploads of blobs."""

    scopes = {"POST": Scope.MODEL_WRITE}
    names_model_later = True

    @documented(
        forms.UploadSerializer,
        request=forms.UploadBody,
        summary="Announce a blob",
        also={201: forms.UploadSerializer},
    )
    def post(self, _request: Request) -> Response:
        """Says how many bytes are there already: all of them for a blob that the store has."""
        body = self.body(forms.UploadBody)
        record = services.begin_upload(**body, store=server.blob_store(), actor=self.principal.actor, now=self.now)
        created = not record.complete and record.received == 0
        return Response(forms.UploadSerializer(record).data, status=HTTPStatus.CREATED if created else HTTPStatus.OK)


class Upload(ApiView):
    """One upload."""

    scopes = {"GET": Scope.MODEL_WRITE, "PUT": Scope.MODEL_WRITE, "PATCH": Scope.MODEL_WRITE}
    names_model_later = True
    parser_classes = (RawParser,)  # type: ignore[assignment]  # bytes, not JSON

    @documented(forms.UploadSerializer, summary="Where an upload stands")
    def get(self, _request: Request, sha256: str) -> Response:
        """How many bytes have arrived."""
        return Response(forms.UploadSerializer(services.upload_state(sha256=sha256)).data)

    @documented(
        forms.UploadSerializer,
        request={"application/octet-stream": OpenApiTypes.BINARY},
        summary="Send a chunk",
        headers={OFFSET_HEADER: "Where the chunk begins; or send Content-Range."},
    )
    def patch(self, request: Request, sha256: str) -> Response:
        """The bytes from `Upload-Offset` on. 409 with the right offset in the same header if it is another."""
        return self._append(request, sha256)

    @documented(
        forms.UploadSerializer,
        request={"application/octet-stream": OpenApiTypes.BINARY},
        summary="Send a whole blob or a chunk with Content-Range",
    )
    def put(self, request: Request, sha256: str) -> Response:
        """As PATCH; without an offset, the whole."""
        return self._append(request, sha256)

    def _append(self, request: Request, sha256: str) -> Response:
        length = _content_length(request)
        offset = _offset(request, length)
        try:
            record = services.append_upload(
                sha256=sha256,
                offset=offset,
                chunk=cast("BinaryIO", request.data),
                limit=length,
                store=server.blob_store(),
                spool=server.upload_spool(),
                now=self.now,
            )
        except ConflictError as error:
            received = services.upload_state(sha256=sha256).received
            return problem_response(
                Problem(HTTPStatus.CONFLICT, error.code, error.message), {OFFSET_HEADER: str(received)}
            )
        return Response(forms.UploadSerializer(record).data, headers={OFFSET_HEADER: str(record.received)})


def _content_length(request: Request) -> int:
    text = request.headers.get("Content-Length", "")
    if not text.isascii() or not text.isdigit() or not 0 < len(text) < 19:  # noqa: PLR2004 - digits of a 64-bit number
        raise InvalidInputError("content_length", "expected a Content-Length, got none")
    length = int(text)
    if not 0 < length <= MAX_CHUNK_BYTES:
        raise TooLargeError("chunk_length", f"expected a chunk of 1 to {MAX_CHUNK_BYTES} bytes, got {length}")
    return length


def _offset(request: Request, length: int) -> int:
    text = request.headers.get(OFFSET_HEADER)
    if text is not None:
        if not text.isascii() or not text.isdigit() or len(text) > 18:  # noqa: PLR2004 - digits of a 64-bit number
            raise InvalidInputError("upload_offset", f"{OFFSET_HEADER}: expected a number, got {text[:40]!r}")
        return int(text)
    text = request.headers.get("Content-Range")
    if text is None:
        return 0
    match = _CONTENT_RANGE.fullmatch(text)
    if match is None or int(match[2]) - int(match[1]) + 1 != length:
        raise InvalidInputError("upload_offset", f"Content-Range: expected one that fits the body, got {text[:60]!r}")
    return int(match[1])
