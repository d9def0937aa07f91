"""Rollouts: dry runs, starts, the operator's words, gates and decisions."""

import re
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

from rest_framework.request import Request
from rest_framework.response import Response

from fleet.apps.registry import selectors as registry
from fleet.apps.rollouts import dry_runs, selectors, services
from fleet.apps.rollouts.records import DecisionRecord, RolloutRecord
from fleet.domain.errors import InvalidInputError
from fleet.domain.scopes import Scope
from fleet.entrypoints.api.access import require, require_emergency, require_everything
from fleet.entrypoints.api.base import ApiView
from fleet.entrypoints.api.counting import CountingSerializer, counting
from fleet.entrypoints.api.documentation import documented, paged
from fleet.entrypoints.api.idempotency import HEADER, once
from fleet.entrypoints.api.pagination import PageQuery, page
from fleet.entrypoints.api.serializers import rollouts as forms

_REVISION: Final = re.compile(r'(?:W/)?"?(\d{1,18})"?')
_ACTIONS: Final[Mapping[str, Callable[..., RolloutRecord]]] = {
    "pause": services.hold,
    "resume": services.resume,
    "advance": services.advance,
    "revert": services.revert,
    "cancel": services.cancel,
    "override-quiet": services.override_quiet,
}


class Plan(ApiView):
    """Dry runs."""

    scopes = {"POST": Scope.READ}
    names_model_later = True

    @documented(
        forms.PlanSerializer,
        request=forms.PlanBody,
        summary="Dry run of a rollout",
        also={HTTPStatus.ACCEPTED: CountingSerializer},
    )
    def post(self, _request: Request) -> Response:
        """Who would get which variant, who would get none and why, what the gates could see. Starts nothing.

        A large fleet is counted by a job: 202 until it is done. Send the same request again after `Retry-After` seconds;
        for a minute it is answered from that count.
        """
        body = self.body(forms.PlanBody)
        require(self.principal, Scope.READ, body["model"])
        found = dry_runs.dry_run(**body, now=self.now)
        return counting() if found is None else Response(forms.PlanSerializer(found).data)


class Rollouts(ApiView):
    """Rollouts."""

    scopes = {"GET": Scope.READ, "POST": Scope.ROLLOUT_WRITE}
    names_model_later = True

    @paged(forms.RolloutSerializer, summary="List rollouts", query=forms.RolloutQuery)
    def get(self, _request: Request) -> Response:
        """The newest first."""
        asked = self.query(forms.RolloutQuery)
        may_list(self, asked)
        states = [asked["state"]] if "state" in asked else []
        version = asked.get("version", "")
        if version and "model" in asked:
            version = registry.resolve(asked["model"], version).label

        def fetch(after: str | None, limit: int) -> Sequence[RolloutRecord]:
            return selectors.rollouts(
                model=asked.get("model", ""),
                version=version,
                states=states,
                limit=limit,
                after=after or "",
            )

        return page(self, fetch, lambda item: item.id, forms.RolloutSerializer, cursor=str)

    @documented(
        forms.RolloutSerializer,
        status=201,
        request=forms.PlanBody,
        summary="Start a rollout",
        headers={HEADER: "Makes it safe to send the request again."},
    )
    def post(self, _request: Request) -> Response:
        """Of a published version. Findings about the plan are part of the answer; an error among them refuses it.

        Where approvals are asked for, it waits for them and no device hears of it.
        """
        return once(self, self._start)

    def _start(self) -> Response:
        body = self.body(forms.PlanBody)
        require(self.principal, Scope.ROLLOUT_WRITE, body["model"])
        record = services.start(**body, actor=self.principal.actor, identity=self.principal.identity, now=self.now)
        return _answer(record, HTTPStatus.CREATED)


class _OneRollout(ApiView):
    """A view of one rollout, whose model decides who may look and act."""

    names_model_later = True

    def _found(self, rollout: str, scope: Scope) -> RolloutRecord:
        record = selectors.rollout(rollout)
        require(self.principal, scope, record.model)
        return record


class Rollout(_OneRollout):
    """One rollout."""

    scopes = {"GET": Scope.READ}

    @documented(forms.RolloutSerializer, summary="Show a rollout")
    def get(self, _request: Request, rollout: str) -> Response:
        """Its state; the ETag is its revision."""
        return _answer(self._found(rollout, Scope.READ), HTTPStatus.OK)


class RolloutAction(_OneRollout):
    """The operator's word."""

    scopes = {"POST": Scope.ROLLOUT_WRITE}

    @documented(
        forms.RolloutSerializer,
        request=forms.ActionBody,
        summary="Pause, resume, advance, revert or cancel a rollout, or let it go on in quiet hours",
        headers={"If-Match": "The revision that you saw; 409 if it has moved on."},
    )
    def post(self, request: Request, rollout: str, action: str) -> Response:
        """Refused with 409 where the state does not allow it."""
        self._found(rollout, Scope.ROLLOUT_WRITE)
        body = self.body(forms.ActionBody)
        record = _ACTIONS[action](
            rollout_id=rollout,
            actor=self.principal.actor,
            reason=body["reason"],
            if_revision=revision_of(request),
            now=self.now,
        )
        return _answer(record, HTTPStatus.OK)


class Approval(_OneRollout):
    """Consent to a rollout that waits for it."""

    scopes = {"POST": Scope.ROLLOUT_APPROVE}

    @documented(
        forms.RolloutSerializer,
        request=forms.ApprovalBody,
        summary="Approve a rollout",
        headers={"If-Match": "The revision that you saw; 409 if it has moved on."},
    )
    def post(self, request: Request, rollout: str) -> Response:
        """Anybody's but the starter's. In an emergency one word of an administrator is enough, and is recorded as that."""
        self._found(rollout, Scope.ROLLOUT_APPROVE)
        return _answer(services.approve(rollout_id=rollout, **consent_of(self, request)), HTTPStatus.OK)


class Gates(_OneRollout):
    """The gates of a rollout."""

    scopes = {"GET": Scope.READ}

    @documented(forms.GatesSerializer, summary="The gates as the conductor last saw them")
    def get(self, _request: Request, rollout: str) -> Response:
        """Each gate with its estimate, interval, margin, verdict and the devices of both sides."""
        self._found(rollout, Scope.READ)
        return Response(forms.GatesSerializer(selectors.gates(rollout, now=self.now)).data)


class Phases(_OneRollout):
    """The phases of a rollout."""

    scopes = {"GET": Scope.READ}

    @documented(forms.PhasesSerializer, summary="The phases that have begun")
    def get(self, _request: Request, rollout: str) -> Response:
        """In order, with counts and verdicts."""
        self._found(rollout, Scope.READ)
        return Response(forms.PhasesSerializer({"results": selectors.phases(rollout)}).data)


class Decisions(_OneRollout):
    """What was decided about a rollout."""

    scopes = {"GET": Scope.READ}

    @paged(forms.DecisionSerializer, summary="List decisions", query=PageQuery)
    def get(self, _request: Request, rollout: str) -> Response:
        """The newest first, each with its evidence."""
        self._found(rollout, Scope.READ)

        def fetch(after: int | None, limit: int) -> Sequence[DecisionRecord]:
            return selectors.decisions(rollout, limit=limit, after=after)

        return page(self, fetch, lambda item: item.id, forms.DecisionSerializer)


def _answer(record: RolloutRecord, status: HTTPStatus) -> Response:
    return Response(forms.RolloutSerializer(record).data, status=status, headers={"ETag": f'"{record.revision}"'})


def may_list(view: ApiView, asked: Mapping[str, Any]) -> None:
    """Of one model, whoever may read it; of all, whoever may read everything."""
    if "model" in asked:
        require(view.principal, Scope.READ, asked["model"])
    else:
        require_everything(view.principal)


def consent_of(view: ApiView, request: Request) -> dict[str, Any]:
    """What somebody says who approves, as the services take it; only administrators say that it is an emergency."""
    body = view.body(forms.ApprovalBody)
    if body["emergency"]:
        require_emergency(view.principal)
    return {
        "actor": view.principal.actor,
        "identity": view.principal.identity,
        "reason": body["reason"],
        "is_emergency": body["emergency"],
        "if_revision": revision_of(request),
        "now": view.now,
    }


def revision_of(request: Request) -> int | None:
    """The revision that the caller acts on, from If-Match; None where any will do."""
    text = request.headers.get("If-Match")
    if text is None or text.strip() == "*":
        return None
    match = _REVISION.fullmatch(text.strip())
    if match is None:
        raise InvalidInputError("if_match", f'If-Match: expected a revision such as "3", got {text[:40]!r}')
    return int(match[1])
