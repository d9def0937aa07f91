"""Finds a rollout's row, to look at it or to change it. For this app only."""

from fleet.apps.rollouts.models import Rollout
from fleet.domain.errors import ConflictError, NotFoundError


def unlocked(rollout_id: str) -> Rollout:
    """As it stands; raises `NotFoundError`."""
    row = Rollout.objects.select_related("version", "against").filter(pk=rollout_id).first()
    if row is None:
        raise NotFoundError("rollout_unknown", f"no rollout {rollout_id!r:.40}")
    return row


def locked(rollout_id: str, if_revision: int | None) -> Rollout:
    """Locked until the transaction ends; raises `ConflictError` if it is not the revision that the caller saw."""
    row = (
        Rollout.objects.select_for_update(of=("self",))
        .select_related("version", "against")
        .filter(pk=rollout_id)
        .first()
    )
    if row is None:
        raise NotFoundError("rollout_unknown", f"no rollout {rollout_id!r:.40}")
    if if_revision is not None and row.revision != if_revision:
        raise ConflictError("rollout_revision", f"expected revision {row.revision}, got {if_revision}: it has moved on")
    return row
