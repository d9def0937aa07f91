"""Roots, keys, tokens, claims, and who calls."""

import hashlib
from http import HTTPStatus

from django.conf import settings
from rest_framework.request import Request
from rest_framework.response import Response
from securesystemslib.signer import Key

from fleet.apps.trust import selectors, services
from fleet.apps.trust.records import ClaimRecord, Repository, TokenRecord
from fleet.domain.errors import ConflictError, ForbiddenError
from fleet.domain.scopes import Grant, Scope
from fleet.entrypoints.api.base import ApiView
from fleet.entrypoints.api.documentation import documented, paged
from fleet.entrypoints.api.pagination import page
from fleet.entrypoints.api.serializers import registry as registry_forms
from fleet.entrypoints.api.serializers import trust as forms
from fleet.wiring import server


class Me(ApiView):
    """The caller."""

    scopes = {"GET": Scope.READ}
    names_model_later = True

    @documented(forms.MeSerializer, summary="Who calls, and with which scopes")
    def get(self, _request: Request) -> Response:
        """For `modelfleet login` and for finding out why something is refused."""
        principal = self.principal
        shown = {
            "name": principal.name,
            "kind": principal.kind,
            "actor": principal.actor,
            "scopes": [str(grant) for grant in principal.grants],
        }
        return Response(forms.MeSerializer(shown).data)


class OnlineKeys(ApiView):
    """The server's own public keys."""

    scopes = {"GET": Scope.READ}

    @documented(forms.OnlineKeysSerializer, summary="The public halves of the online keys")
    def get(self, _request: Request) -> Response:
        """What a ceremony puts into the roots."""
        keys = server.online_keys()
        shown = {role: _key(getattr(keys, role)) for role in ("snapshot", "timestamp", "director")}
        return Response(forms.OnlineKeysSerializer(shown).data)


def _key(key: Key) -> dict[str, object]:
    return {"keyid": key.keyid, **key.to_dict()}


class TrustState(ApiView):
    """The state of trust."""

    scopes = {"GET": Scope.READ}

    @documented(forms.TrustStateSerializer, summary="Whether roots are imported, and which roles expire when")
    def get(self, _request: Request) -> Response:
        """For pages and monitoring."""
        return Response(forms.TrustStateSerializer(selectors.trust_state()).data)


class Roots(ApiView):
    """The first roots."""

    scopes = {"POST": Scope.TRUST_WRITE}

    @documented(forms.TrustStateSerializer, status=201, request=forms.RootsBody, summary="Import the first roots")
    def post(self, _request: Request) -> Response:
        """Image root, top-level targets and director root, version 1 each. 409 once there are some."""
        body = self.body(forms.RootsBody)
        services.import_roots(
            image_root=body["image_root"].encode(),
            image_targets=body["image_targets"].encode(),
            director_root=body["director_root"].encode(),
            online=server.online_keys(),
            actor=self.principal.actor,
            now=self.now,
        )
        return Response(forms.TrustStateSerializer(selectors.trust_state()).data, status=HTTPStatus.CREATED)


class RootRotation(ApiView):
    """The next version of a root."""

    scopes = {"POST": Scope.TRUST_WRITE}

    @documented(
        registry_forms.StagedSerializer,
        status=201,
        request=registry_forms.RoleBody,
        summary="Send the next version of a root",
    )
    def post(self, _request: Request, repository: str) -> Response:
        """Signed by the keys of the version before and by its own. Devices follow the chain from version 1."""
        body = self.body(registry_forms.RoleBody)
        record = services.rotate_root(
            repository=Repository(repository),
            payload=body["metadata"].encode(),
            online=server.online_keys(),
            actor=self.principal.actor,
            now=self.now,
        )
        return Response(registry_forms.StagedSerializer(record).data, status=HTTPStatus.CREATED)


class ImageTargets(ApiView):
    """The top-level targets: who signs which model."""

    scopes = {"POST": Scope.TRUST_WRITE}

    @documented(
        registry_forms.StagedSerializer,
        status=201,
        request=registry_forms.RoleBody,
        summary="Send the next top-level targets",
    )
    def post(self, _request: Request) -> Response:
        """Signed by the offline targets keys; adds or changes delegations."""
        body = self.body(registry_forms.RoleBody)
        record = services.stage_image_targets(
            payload=body["metadata"].encode(), actor=self.principal.actor, now=self.now
        )
        return Response(registry_forms.StagedSerializer(record).data, status=HTTPStatus.CREATED)


class Tokens(ApiView):
    """API tokens."""

    scopes = {"GET": Scope.ADMIN, "POST": Scope.ADMIN}

    @paged(forms.TokenSerializer, summary="List tokens")
    def get(self, _request: Request) -> Response:
        """The newest first, without secrets."""

        def fetch(after: int | None, limit: int) -> list[TokenRecord]:
            return selectors.tokens(after_id=after, limit=limit)

        return page(self, fetch, lambda item: item.id, forms.TokenSerializer)

    @documented(forms.NewTokenSerializer, status=201, request=forms.TokenBody, summary="Issue a token")
    def post(self, _request: Request) -> Response:
        """The answer holds the secret; it is shown this once. Nobody issues more than what they have, and it is
        theirs: what it starts they cannot approve.
        """
        body = self.body(forms.TokenBody)
        for scope in body["scopes"]:
            grant = Grant.parse(scope)
            if not self.principal.may(grant.scope, grant.namespace):
                raise ForbiddenError("scope_missing", f"expected scopes that you have, got {grant}")
        record, token = services.issue_token(
            name=body["name"],
            granted=body["scopes"],
            expires_in_s=body["expires_in_s"],
            actor=self.principal.actor,
            owner=self.principal.identity,
            now=self.now,
        )
        shown = {**forms.TokenSerializer(record).data, "token": token}
        return Response(shown, status=HTTPStatus.CREATED)


class Token(ApiView):
    """One token."""

    scopes = {"DELETE": Scope.ADMIN}

    @documented(None, status=204, summary="Revoke a token")
    def delete(self, _request: Request, token_id: int) -> Response:
        """From now on it opens nothing."""
        services.revoke_token(token_id=token_id, actor=self.principal.actor, now=self.now)
        return Response(status=HTTPStatus.NO_CONTENT)


class Claims(ApiView):
    """Claims: leave for a device to join."""

    scopes = {"GET": Scope.DEVICE_ENROL, "POST": Scope.DEVICE_ENROL}

    @paged(forms.ClaimSerializer, summary="List claims")
    def get(self, _request: Request) -> Response:
        """The newest first, without tokens."""

        def fetch(after: int | None, limit: int) -> list[ClaimRecord]:
            return selectors.claims(after_id=after, limit=limit)

        return page(self, fetch, lambda item: item.id, forms.ClaimSerializer)

    @documented(forms.NewClaimSerializer, status=201, request=forms.ClaimBody, summary="Let a device join")
    def post(self, _request: Request) -> Response:
        """The answer holds the token; it is shown this once and works once. 409 until roots are imported."""
        body = self.body(forms.ClaimBody)
        anchors = selectors.anchors(server.certificate_authority().anchor_pem())
        if anchors is None:
            raise ConflictError("trust_not_set_up", "expected imported roots, got none: run `modelfleet keys init`")
        record, token = services.create_claim(**body, actor=self.principal.actor, now=self.now)
        shown = {
            **forms.ClaimSerializer(record).data,
            "token": token,
            "device_url": settings.MODELFLEET.device_url,
            "pin": hashlib.sha256(anchors).hexdigest(),
        }
        return Response(shown, status=HTTPStatus.CREATED)
