"""Namespaces, models, aliases, deltas of a model."""

import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from http import HTTPStatus

from rest_framework.request import Request
from rest_framework.response import Response

from fleet.apps.registry import selectors, services
from fleet.apps.registry.records import DeltaSavings, ModelRecord
from fleet.apps.telemetry import savings as traffic
from fleet.domain.scopes import Scope
from fleet.entrypoints.api.access import namespace_of, require
from fleet.entrypoints.api.base import ApiView
from fleet.entrypoints.api.documentation import documented, paged
from fleet.entrypoints.api.pagination import whole
from fleet.entrypoints.api.serializers import registry as forms


@dataclass(frozen=True)
class _Model:
    record: ModelRecord
    latest_version: str | None


def _shown(records: Iterable[ModelRecord]) -> list[_Model]:
    latest = selectors.latest_labels()
    return [_Model(record, latest.get(record.name)) for record in records]


class Namespaces(ApiView):
    """Namespaces: teams' areas."""

    scopes = {"GET": Scope.READ, "POST": Scope.MODEL_WRITE}
    names_model_later = True

    @paged(forms.NamespaceSerializer, summary="List namespaces")
    def get(self, _request: Request) -> Response:
        """All of them that the caller may see."""
        shown = [item for item in selectors.namespaces() if self.principal.may(Scope.READ, item.name)]
        return whole(self, shown, forms.NamespaceSerializer)

    @documented(forms.NamespaceSerializer, status=201, request=forms.NamespaceBody, summary="Make a namespace")
    def post(self, _request: Request) -> Response:
        """A new one; 409 if it exists."""
        body = self.body(forms.NamespaceBody)
        require(self.principal, Scope.MODEL_WRITE, body["name"])
        record = services.create_namespace(**body, actor=self.principal.actor, now=self.now)
        return Response(forms.NamespaceSerializer(record).data, status=HTTPStatus.CREATED)


class Namespace(ApiView):
    """One namespace and its rules."""

    scopes = {"GET": Scope.READ, "PATCH": Scope.ADMIN}
    names_model_later = True

    @documented(forms.NamespaceSerializer, summary="Show a namespace")
    def get(self, _request: Request, namespace: str) -> Response:
        """Its rules included."""
        require(self.principal, Scope.READ, namespace)
        return Response(forms.NamespaceSerializer(selectors.namespace(namespace)).data)

    @documented(forms.NamespaceSerializer, request=forms.NamespaceRulesBody, summary="Set the rules of a namespace")
    def patch(self, _request: Request, namespace: str) -> Response:
        """How many other people have to approve each rollout in it, at least, and when nothing goes on by itself."""
        body = self.body(forms.NamespaceRulesBody)
        record = services.set_namespace(name=namespace, **body, actor=self.principal.actor, now=self.now)
        return Response(forms.NamespaceSerializer(record).data)


class Models(ApiView):
    """Models."""

    scopes = {"GET": Scope.READ, "POST": Scope.MODEL_WRITE}
    names_model_later = True

    @paged(forms.ModelSerializer, summary="List models")
    def get(self, _request: Request) -> Response:
        """All of them that the caller may see."""
        shown = [item for item in selectors.models() if self.principal.may(Scope.READ, namespace_of(item.name))]
        return whole(self, _shown(shown), forms.ModelSerializer)

    @documented(forms.ModelSerializer, status=201, request=forms.ModelBody, summary="Make a model")
    def post(self, _request: Request) -> Response:
        """A new one; 409 if it exists. It needs a signed role before it can have versions."""
        body = self.body(forms.ModelBody)
        require(self.principal, Scope.MODEL_WRITE, body["name"])
        record = services.create_model(
            name=body["name"],
            description=body["description"],
            plan_key=secrets.token_hex(16),
            actor=self.principal.actor,
            now=self.now,
        )
        return Response(forms.ModelSerializer(_Model(record, None)).data, status=HTTPStatus.CREATED)


class Model(ApiView):
    """One model."""

    scopes = {"GET": Scope.READ}

    @documented(forms.ModelSerializer, summary="Show a model")
    def get(self, _request: Request, model: str) -> Response:
        """What it is and its newest published version."""
        return Response(forms.ModelSerializer(_shown([selectors.model(model)])[0]).data)


class Aliases(ApiView):
    """The aliases of a model."""

    scopes = {"GET": Scope.READ}

    @paged(forms.AliasSerializer, summary="List aliases")
    def get(self, _request: Request, model: str) -> Response:
        """All of them."""
        selectors.model(model)
        return whole(self, selectors.aliases(model), forms.AliasSerializer)


class Alias(ApiView):
    """One alias of a model."""

    scopes = {"PUT": Scope.MODEL_WRITE, "DELETE": Scope.MODEL_WRITE}

    @documented(forms.AliasSerializer, request=forms.AliasBody, summary="Point an alias at a version")
    def put(self, _request: Request, model: str, alias: str) -> Response:
        """Makes it or moves it. Moving one changes no device."""
        body = self.body(forms.AliasBody)
        record = services.set_alias(
            model=model, name=alias, version=body["version"], actor=self.principal.actor, now=self.now
        )
        return Response(forms.AliasSerializer(record).data)

    @documented(None, status=204, summary="Remove an alias")
    def delete(self, _request: Request, model: str, alias: str) -> Response:
        """Forget it."""
        services.delete_alias(model=model, name=alias, actor=self.principal.actor, now=self.now)
        return Response(status=HTTPStatus.NO_CONTENT)


class Deltas(ApiView):
    """Deltas to the variants of a model."""

    scopes = {"GET": Scope.READ}

    @paged(forms.DeltaSerializer, summary="List deltas", query=forms.DeltaQuery)
    def get(self, _request: Request, model: str) -> Response:
        """The newest ones."""
        asked = self.query(forms.DeltaQuery).get("version")
        label = None if asked is None else selectors.resolve(model, asked).label
        selectors.model(model)
        return whole(self, selectors.deltas(model, to_label=label), forms.DeltaSerializer)


class Savings(ApiView):
    """What deltas save."""

    scopes = {"GET": Scope.READ}

    @documented(forms.SavingsSerializer, summary="What deltas to a model save")
    def get(self, _request: Request, model: str) -> Response:
        """Sums over built deltas, and what finished updates really took."""
        selectors.model(model)
        savings: DeltaSavings = selectors.delta_savings(model)
        shown = {name: getattr(savings, name) for name in savings.__dataclass_fields__}
        return Response(forms.SavingsSerializer({**shown, "transfers": traffic.savings(model)}).data)
