"""Finds a rollout's row, to look at it or to change it. For this app only."""

from fleet.apps.rollouts.decisions import found, require_revision
from fleet.apps.rollouts.models import Rollout


def unlocked(rollout_id: str) -> Rollout:
    """As it stands; raises `NotFoundError`."""
    return found(Rollout.objects.select_related("version", "against"), "rollout", rollout_id)


def locked(rollout_id: str, if_revision: int | None) -> Rollout:
    """Locked until the transaction ends; raises `ConflictError` if it is not the revision that the caller saw."""
    rows = Rollout.objects.select_for_update(of=("self",)).select_related("version", "against")
    row = found(rows, "rollout", rollout_id)
    require_revision("rollout", row.revision, if_revision)
    return row
