"""Labels, figures per version, counters, the audit log."""

from collections.abc import Sequence

from rest_framework.request import Request
from rest_framework.response import Response

from device_client.wire.errors import WireError
from device_client.wire.messages import Label
from device_client.wire.predictions import PredictionId
from fleet.apps.audit import selectors as audit
from fleet.apps.audit.records import EntryRecord
from fleet.apps.devices import counts
from fleet.apps.registry import selectors as registry
from fleet.apps.telemetry import selectors as telemetry
from fleet.apps.telemetry import services as telemetry_services
from fleet.domain.errors import InvalidInputError
from fleet.domain.scopes import Scope
from fleet.entrypoints.api.access import require, require_everything
from fleet.entrypoints.api.base import ApiView
from fleet.entrypoints.api.documentation import documented, paged
from fleet.entrypoints.api.pagination import page, whole
from fleet.entrypoints.api.serializers import fleet as forms


class Labels(ApiView):
    """Labels that people or a pipeline bring."""

    scopes = {"POST": Scope.LABEL_WRITE}
    names_model_later = True

    @documented(forms.LabelsSerializer, request=forms.LabelsBody, summary="Bring labels by prediction id")
    def post(self, _request: Request) -> Response:
        """Credited to the version that predicted. The same label of the same source twice counts once."""
        labels = [Label(**item) for item in self.body(forms.LabelsBody)["labels"]]
        for model in {_model_of(label) for label in labels}:
            require(self.principal, Scope.LABEL_WRITE, model)
        new = telemetry_services.credit_labels(labels=labels, now=self.now)
        return Response(forms.LabelsSerializer({"received": len(labels), "new": new}).data)


def _model_of(label: Label) -> str:
    try:
        return PredictionId.parse(label.prediction).model
    except WireError as error:
        raise InvalidInputError("prediction_id", str(error)) from error


class Performance(ApiView):
    """How the versions of a model do in the field."""

    scopes = {"GET": Scope.READ}

    @documented(forms.PerformanceSerializer, summary="Accuracy, latency and errors per version")
    def get(self, _request: Request, model: str) -> Response:
        """Fleet-wide totals for display; verdicts come from gates."""
        registry.model(model)
        shown = {
            "model": model,
            "failed_inferences": telemetry.failed_inferences(model),
            "overall": telemetry.version_overall(model),
            "by_class": telemetry.version_summary(model),
            "running": counts.running(model, self.now).rows,
        }
        return Response(forms.PerformanceSerializer(shown).data)


class Dropped(ApiView):
    """Messages that were refused."""

    scopes = {"GET": Scope.READ}

    @paged(forms.DroppedSerializer, summary="Refused messages of devices, by kind and reason")
    def get(self, _request: Request) -> Response:
        """Counted, never silently lost."""
        return whole(self, telemetry.dropped(), forms.DroppedSerializer)


class Audit(ApiView):
    """The audit log."""

    scopes = {"GET": Scope.READ}

    @paged(forms.EntrySerializer, summary="Who did what", query=forms.AuditQuery)
    def get(self, _request: Request) -> Response:
        """The newest first."""
        require_everything(self.principal)
        subject = self.query(forms.AuditQuery).get("subject", "")

        def fetch(after: int | None, limit: int) -> Sequence[EntryRecord]:
            return audit.entries(subject=subject, before_id=after, limit=limit)

        return page(self, fetch, lambda item: item.id, forms.EntrySerializer)
