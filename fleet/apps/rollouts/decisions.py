"""What every decision about a rollout or an experiment leaves behind, and the rows that decisions are about.

Each leaves the row at its next revision with the sentence on it, a line in the audit, and the fields of a decision with
its evidence as it was then. For this app and for `experiments`, which store these fields in tables of their own. The
caller has begun the transaction; legality is the state tables'.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Protocol, TypeVar

from django.db.models import Model, QuerySet

from fleet.apps.audit import services as audit
from fleet.domain.errors import ConflictError, NotFoundError

CONDUCTOR: Final = "conductor"  # who decides when no person does
MAX_BECAUSE_CHARS: Final = 512
MAX_SENTENCE_CHARS: Final = 1_024
Row = TypeVar("Row", bound=Model)


class Decided(Protocol):
    """A rollout or an experiment, locked."""

    pk: Any
    model_id: Any
    state: str
    revision: int
    because: str


@dataclass(frozen=True)
class Reason:
    """Who decided, why, and what was seen. `verdict` is that of the gates or the comparison, empty if nobody asked."""

    actor: str
    sentence: str
    verdict: str = ""
    evidence: Mapping[str, object] = field(default_factory=dict)


def conclude(
    row: Decided,
    kind: str,
    action: str,
    reason: Reason,
    now: datetime,
    *,
    noted: Mapping[str, object],
    explains: bool = True,
) -> dict[str, Any]:
    """Put the decision on the row, which the caller saves, and `<kind>.<action>` in the audit with what is `noted`;
    returns the fields of the decision.

    A decision that only carries out an earlier one does not explain the row's state: the earlier reason stays on it.
    """
    sentence = reason.sentence[:MAX_SENTENCE_CHARS]
    row.revision += 1
    if explains:
        row.because = sentence[:MAX_BECAUSE_CHARS]
    detail = {"model": row.model_id, "state": row.state, **noted, "sentence": sentence}
    audit.record(actor=reason.actor, action=f"{kind}.{action}", subject=row.pk, detail=detail, now=now)
    return {
        "at": now,
        "action": action,
        "verdict": reason.verdict,
        "actor": reason.actor,
        "sentence": sentence,
        "evidence": dict(reason.evidence),
    }


def found(rows: QuerySet[Row], kind: str, row_id: str) -> Row:
    """The row with this id; raises `NotFoundError`."""
    row = rows.filter(pk=row_id).first()
    if row is None:
        raise NotFoundError(f"{kind}_unknown", f"no {kind} {row_id!r:.40}")
    return row


def require_revision(kind: str, revision: int, expected: int | None) -> None:
    """Raises `ConflictError` for a word that was said about another revision than the present one; None is about any."""
    if expected is not None and revision != expected:
        raise ConflictError(f"{kind}_revision", f"expected revision {revision}, got {expected}: it has moved on")
