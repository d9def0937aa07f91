"""The emergency stop: from one moment to the next, no device is moved, and none that is being moved goes on.

It costs one row, and one plan notice for each model that it reaches; devices that never see the notice are refused when
they ask. What runs keeps running, reverts included: a device that was told to go back goes back once the stop is lifted.
To take a bad version off devices, revert its rollout, or have its pipeline revoke it.
"""

from datetime import datetime
from typing import Final

from django.db import IntegrityError, transaction

from device_client.wire.errors import WireError
from device_client.wire.names import parse_model, parse_namespace
from fleet.apps.assignments.models import Stop
from fleet.apps.assignments.records import StopRecord
from fleet.apps.assignments.services import announce
from fleet.apps.audit import services as audit
from fleet.apps.registry import selectors as registry
from fleet.domain.errors import ConflictError, InvalidInputError, NotFoundError

EVERYTHING: Final = "*"
MAX_REASON_CHARS: Final = 500


def stop(*, scope: str, reason: str, actor: str, now: datetime) -> StopRecord:
    """Stop a model, a namespace or everything. Raises ConflictError if it is stopped, NotFoundError for an unknown one."""
    models = _models(scope)
    if not 0 < len(reason.strip()) <= MAX_REASON_CHARS:
        raise InvalidInputError("reason_missing", f"expected a reason of 1 to {MAX_REASON_CHARS} characters")
    try:
        with transaction.atomic():
            row = Stop.objects.create(scope=scope, reason=reason.strip(), created_by=actor, created_at=now)
            for model in models:
                announce(model=model, now=now)
            audit.record(actor=actor, action="stop.set", subject=scope, detail={"reason": row.reason}, now=now)
    except IntegrityError as error:
        raise ConflictError("stopped_already", f"expected no stop of {scope}, got one in force") from error
    return StopRecord(row.scope, row.reason, row.created_by, row.created_at)


def lift(*, scope: str, reason: str, actor: str, now: datetime) -> None:
    """End a stop. Rollouts that it held stay held until somebody resumes them. Raises NotFoundError without one."""
    models = _models(scope)
    with transaction.atomic():
        lifted = Stop.objects.filter(scope=scope, lifted_at=None).update(lifted_by=actor, lifted_at=now)
        if not lifted:
            raise NotFoundError("stop_unknown", f"expected a stop of {scope} in force, got none")
        for model in models:
            announce(model=model, now=now)
        detail = {"reason": reason.strip()[:MAX_REASON_CHARS]}
        audit.record(actor=actor, action="stop.lift", subject=scope, detail=detail, now=now)


def _models(scope: str) -> list[str]:
    """The models that a scope reaches; raises for one that names nothing."""
    if scope == EVERYTHING:
        return [item.name for item in registry.models()]
    try:
        if "." in scope:
            return [registry.model(parse_model(scope)).name]
        return [item.name for item in registry.models(registry.namespace(parse_namespace(scope)).name)]
    except WireError as error:
        raise InvalidInputError("stop_scope", f"expected a model, a namespace or *, got {scope!r:.60}") from error
