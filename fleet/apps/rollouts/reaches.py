"""Whom each phase of a rollout reaches, as it was decided when the rollout began. For this app only."""

from collections.abc import Sequence

from fleet.apps.rollouts.models import Rollout
from fleet.domain.policy import RolloutPolicy
from fleet.domain.ramp import ranges
from fleet.domain.reach import Reach


def encode_reaches(found: Sequence[Reach]) -> list[dict[str, object]]:
    """The JSON form that a rollout keeps, one entry per phase. Named devices stay in the policy."""
    return [
        {
            "treated_end": reach.treated_end,
            "control_start": reach.control_start,
            "class_ends": dict(reach.class_ends),
        }
        for reach in found
    ]


def reach_of(row: Rollout, policy: RolloutPolicy, phase: int) -> Reach:
    """Whom a phase treats and compares with; a rollout of an older release kept none, and its phases were all shares."""
    if phase >= len(row.reaches):
        return ranges(policy, phase)
    kept = row.reaches[phase]
    named = (name for item in policy.phases[: phase + 1] for name in item.devices)
    return Reach(kept["treated_end"], kept["control_start"], kept["class_ends"], frozenset(named))
