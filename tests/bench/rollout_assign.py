"""How many devices one core can decide for: `domain.assign` alone, on rules as a large installation has them."""

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from device_client.wire.bucketing import BUCKETS
from fleet.domain.assign import Ruleset, assign
from fleet.domain.facts import DeviceFacts, Rule, RuleState
from fleet.domain.filters.filter import Filter
from tests.domain.releases import MODEL, NOW, device, rule

ACTIVE_RULES: Final = 50
MEASURED_S: Final = 1.0
DEVICES: Final = 500


def per_second(rules: int = ACTIVE_RULES) -> float:
    """Decisions a second for one model with so many active rules, most of which do not reach the device.

    The rules differ in hardware class, group, filter and range as those of many teams do; the baseline is below them.
    """
    made = [_rule(number) for number in range(rules)] + [rule(1_000, "1", state=RuleState.COMPLETED)]
    every = Ruleset.of(made, MODEL)  # as the director keeps them while the plan's revision stands
    asking = [_device(number) for number in range(DEVICES)]
    for facts in asking[:50]:
        assign(facts, every, model=MODEL, now=NOW)
    calls, began = 0, time.process_time()
    while (spent := time.process_time() - began) < MEASURED_S:
        for facts in asking:
            assign(facts, every, model=MODEL, now=NOW)
        calls += len(asking)
    return calls / spent


def by_rules() -> Mapping[str, float]:
    """The same for other numbers of rules."""
    return {str(rules): round(per_second(rules)) for rules in (1, 5, ACTIVE_RULES)}


def _rule(number: int) -> Rule:
    base = rule(number + 1, str(number + 2), treated_end=BUCKETS // 100)
    match number % 4:
        case 0:
            return replace(base, hardware_classes=frozenset({f"class-{number % 10}"}), seed=f"s{number}")
        case 1:
            return replace(base, groups=frozenset({f"group-{number % 12}"}), seed=f"s{number}")
        case 2:
            wanted = Filter.parse(f'attributes.site == "site-{number % 9}" and capabilities.max_opset >= 13')
            return replace(base, filter=wanted, seed=f"s{number}")
        case _:
            return replace(base, seed=f"s{number}")


def _device(number: int) -> DeviceFacts:
    return replace(
        device(),
        device_id=f"dev-{number}",
        hardware_class=f"class-{number % 10}",
        groups=frozenset({f"group-{number % 12}"}),
        attributes={"site": f"site-{number % 9}"},
    )
