"""What a plan notice means for one device. A notice is an unsigned hint: it can make a device ask or wait, no more."""

from dataclasses import dataclass

from device_client.wire.bucketing import bucket
from device_client.wire.messages import PlanNotice, RuleState


@dataclass(frozen=True)
class Advice:
    """Whether to check in, within which jitter, and whether a download under way must pause first."""

    check: bool = False
    pause: bool = False
    jitter_s: float = 0.0


def advise(notice: PlanNotice, device_id: str, seen_revision: int) -> Advice:
    """The advice of a notice; one whose revision has been seen advises nothing (it is retained and comes again)."""
    if notice.revision <= seen_revision:
        return Advice()
    meant = [rule for rule in notice.rules if any(bucket(rule.seed, device_id) in covered for covered in rule.ranges)]
    return Advice(
        check=bool(meant),
        pause=any(rule.state is RuleState.HALT for rule in meant),
        jitter_s=min((rule.jitter_s for rule in meant), default=0.0),
    )
