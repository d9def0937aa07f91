"""Experiments: drafts, dry runs, the operator's words, results and decisions."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from rest_framework.request import Request
from rest_framework.response import Response

from fleet.apps.experiments import dry_runs, selectors, services
from fleet.apps.experiments.records import DecisionRecord, ExperimentRecord
from fleet.domain.scopes import Scope
from fleet.entrypoints.api.access import require
from fleet.entrypoints.api.base import ApiView
from fleet.entrypoints.api.counting import CountingSerializer, counting
from fleet.entrypoints.api.documentation import documented, paged
from fleet.entrypoints.api.idempotency import HEADER, once
from fleet.entrypoints.api.pagination import PageQuery, page
from fleet.entrypoints.api.serializers import experiments as forms
from fleet.entrypoints.api.serializers.rollouts import ApprovalBody
from fleet.entrypoints.api.views.rollouts import consent_of, may_list, revision_of


class Experiments(ApiView):
    """Experiments."""

    scopes = {"GET": Scope.READ, "POST": Scope.ROLLOUT_WRITE}
    names_model_later = True

    @paged(forms.ExperimentSerializer, summary="List experiments", query=forms.ExperimentQuery)
    def get(self, _request: Request) -> Response:
        """The newest first."""
        asked = self.query(forms.ExperimentQuery)
        may_list(self, asked)
        states = [asked["state"]] if "state" in asked else []

        def fetch(after: str | None, limit: int) -> Sequence[ExperimentRecord]:
            return selectors.experiments(model=asked.get("model", ""), states=states, limit=limit, after=after or "")

        return page(self, fetch, lambda item: item.id, forms.ExperimentSerializer, cursor=str)

    @documented(
        forms.ExperimentSerializer,
        status=201,
        request=forms.ExperimentBody,
        summary="Draft an experiment",
        headers={HEADER: "Makes it safe to send the request again."},
    )
    def post(self, _request: Request) -> Response:
        """A draft touches no device; `start` does."""
        return once(self, self._create)

    def _create(self) -> Response:
        body = self.body(forms.ExperimentBody)
        require(self.principal, Scope.ROLLOUT_WRITE, body["model"])
        record = services.create(**body, actor=self.principal.actor, identity=self.principal.identity, now=self.now)
        return _answer(record, HTTPStatus.CREATED)


class _OneExperiment(ApiView):
    """A view of one experiment, whose model decides who may look and act."""

    names_model_later = True

    def _found(self, experiment: str, scope: Scope) -> ExperimentRecord:
        record = selectors.experiment(experiment)
        require(self.principal, scope, record.model)
        return record


class Experiment(_OneExperiment):
    """One experiment."""

    scopes = {"GET": Scope.READ}

    @documented(forms.ExperimentSerializer, summary="Show an experiment")
    def get(self, _request: Request, experiment: str) -> Response:
        """Its state; the ETag is its revision."""
        return _answer(self._found(experiment, Scope.READ), HTTPStatus.OK)


class ExperimentAction(_OneExperiment):
    """The operator's word."""

    scopes = {"POST": Scope.ROLLOUT_WRITE}

    @documented(
        forms.ExperimentSerializer,
        request=forms.ExperimentActionBody,
        summary="Start, extend, promote or stop an experiment",
        headers={"If-Match": "The revision that you saw; 409 if it has moved on."},
    )
    def post(self, request: Request, experiment: str, action: str) -> Response:
        """Refused with 409 where the state or the verdict does not allow it."""
        self._found(experiment, Scope.ROLLOUT_WRITE)
        body = self.body(forms.ExperimentActionBody)
        said: dict[str, Any] = {
            "experiment_id": experiment,
            "actor": self.principal.actor,
            "if_revision": revision_of(request),
            "now": self.now,
        }
        identity = self.principal.identity
        if action == "start":
            record = services.start(
                **said,
                identity=identity,
                seed=body["seed"],
                reason=body["reason"],
                override_quiet=body["override_quiet"],
            )
        elif action == "extend":
            record = services.extend(**said, extra_s=body["extra_s"], reason=body["reason"])
        elif action == "promote":
            record = services.promote(**said, identity=identity, policy=body["policy"], reason=body["reason"])
        else:
            record = services.stop(**said, reason=body["reason"])
        return _answer(record, HTTPStatus.OK)


class ExperimentApproval(_OneExperiment):
    """Consent to an experiment that waits for it."""

    scopes = {"POST": Scope.ROLLOUT_APPROVE}

    @documented(
        forms.ExperimentSerializer,
        request=ApprovalBody,
        summary="Approve an experiment",
        headers={"If-Match": "The revision that you saw; 409 if it has moved on."},
    )
    def post(self, request: Request, experiment: str) -> Response:
        """Anybody's but the drafter's. In an emergency one word of an administrator is enough, and is recorded as that."""
        self._found(experiment, Scope.ROLLOUT_APPROVE)
        return _answer(services.approve(experiment_id=experiment, **consent_of(self, request)), HTTPStatus.OK)


class ExperimentPlan(_OneExperiment):
    """Dry runs."""

    scopes = {"GET": Scope.READ}

    @documented(
        forms.ExperimentPlanSerializer,
        summary="Dry run of an experiment",
        query=forms.ExperimentPlanQuery,
        also={HTTPStatus.ACCEPTED: CountingSerializer},
    )
    def get(self, _request: Request, experiment: str) -> Response:
        """How many devices each arm would have, and what effects they could show. Starts nothing.

        A large fleet is counted by a job: 202 until it is done; ask again after `Retry-After` seconds.
        """
        self._found(experiment, Scope.READ)
        seed = self.query(forms.ExperimentPlanQuery).get("seed")
        found = dry_runs.dry_run(experiment_id=experiment, seed=seed, now=self.now)
        return counting() if found is None else Response(forms.ExperimentPlanSerializer(found).data)


class Results(_OneExperiment):
    """What an experiment shows."""

    scopes = {"GET": Scope.READ}

    @documented(forms.ResultsSerializer, summary="The results as they stand")
    def get(self, _request: Request, experiment: str) -> Response:
        """Sample-ratio mismatch, then every comparison with its interval, p-value and devices."""
        self._found(experiment, Scope.READ)
        return Response(forms.ResultsSerializer(selectors.results(experiment, now=self.now)).data)


class Looks(_OneExperiment):
    """How the results went."""

    scopes = {"GET": Scope.READ}

    @documented(forms.LooksSerializer, summary="The intervals over time")
    def get(self, _request: Request, experiment: str) -> Response:
        """A few hundred moments at most."""
        self._found(experiment, Scope.READ)
        return Response(forms.LooksSerializer({"results": selectors.looks(experiment)}).data)


class ExperimentDecisions(_OneExperiment):
    """What was decided about an experiment."""

    scopes = {"GET": Scope.READ}

    @paged(forms.ExperimentDecisionSerializer, summary="List an experiment's decisions", query=PageQuery)
    def get(self, _request: Request, experiment: str) -> Response:
        """The newest first, each with its evidence."""
        self._found(experiment, Scope.READ)

        def fetch(after: int | None, limit: int) -> Sequence[DecisionRecord]:
            return selectors.decisions(experiment, limit=limit, after=after)

        return page(self, fetch, lambda item: item.id, forms.ExperimentDecisionSerializer)


def _answer(record: ExperimentRecord, status: HTTPStatus) -> Response:
    return Response(forms.ExperimentSerializer(record).data, status=status, headers={"ETag": f'"{record.revision}"'})
