"""The plan notice of a model, made from its rules: a hint that makes devices check in or stop. Pure.

A notice names nothing: any device of the broker may read it. It carries what may concern a device that is connected;
one that connects later asks anyway.
"""

from collections.abc import Sequence

from device_client.wire.bucketing import BUCKETS, BucketRange
from device_client.wire.limits import MAX_RULES_PER_NOTICE
from device_client.wire.messages import PlanNotice, PlanRule
from device_client.wire.messages import RuleState as Ask
from fleet.apps.assignments.records import RuleRecord
from fleet.domain.facts import RuleState


def plan_notice(revision: int, rules: Sequence[RuleRecord], *, is_stopped: bool = False) -> PlanNotice:
    """The notice for `rules`, which are all of one model. While that is stopped, everybody who was called is halted.

    Running rules call the devices in their range; held ones stop theirs; a withdrawn one stops those that it had
    reached, until a newer rule speaks for the model; the newest completed one calls the devices that it never reached.
    """
    newest = max((rule.id for rule in rules), default=0)
    completed = [rule for rule in rules if rule.state is RuleState.COMPLETED]
    last = max(completed, key=lambda rule: (rule.ended_at or rule.created_at, rule.id), default=None)
    asked: list[PlanRule] = []
    for rule in sorted(rules, key=lambda rule: -rule.id):
        match rule.state:
            case RuleState.RUNNING:
                ask, reached = Ask.RUN, rule.reached
            case RuleState.HELD:
                ask, reached = Ask.HALT, rule.reached
            case RuleState.WITHDRAWN if rule.id == newest:
                ask, reached = Ask.HALT, rule.reached
            case RuleState.COMPLETED if rule is last and rule.treated_end < BUCKETS:
                ask, reached = Ask.RUN, (BucketRange(rule.treated_end, BUCKETS),)
            case _:
                continue
        if reached:
            asked.append(PlanRule(Ask.HALT if is_stopped else ask, rule.seed, reached, rule.jitter_s))
    return PlanNotice(revision, tuple(asked[:MAX_RULES_PER_NOTICE]))
