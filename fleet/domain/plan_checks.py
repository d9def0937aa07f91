"""What a plan contradicts, cannot reach, or has too little time for. Pure; each check returns its findings."""

from collections.abc import Sequence
from itertools import pairwise

from fleet.domain.findings import Finding, Level
from fleet.domain.phases import Phase
from fleet.domain.policy import RolloutPolicy
from fleet.domain.ramp import PlacedDevices
from fleet.domain.reach import Reach
from fleet.domain.verdicts import PhaseCounts

SHOWN_IDS = 5


def contradictions(policy: RolloutPolicy, *, has_baseline: bool) -> list[Finding]:
    """What cannot be, whatever the fleet."""
    found = [*_order(policy), *_deadlines(policy)]
    first = policy.phases[0].share
    if has_baseline and policy.gates.comparative and policy.control_share + first > 1:
        sentence = f"a control of {policy.control_share:.0%} overlaps the first phase's {first:.0%}; expected at most 100% together"
        found.append(Finding(Level.ERROR, "control_overlaps", sentence))
    named = {name for phase in policy.phases for name in phase.devices}
    denied = sorted(named & policy.denied.devices)
    if denied:
        sentence = f"{_shown(denied)} are named by a phase and denied by the population; expected one or the other"
        found.append(Finding(Level.ERROR, "named_and_denied", sentence))
    return found


def _order(policy: RolloutPolicy) -> list[Finding]:
    """Phases that would not go further than those before them."""
    found: list[Finding] = []
    plain = [phase for phase in policy.phases if not phase.devices and not phase.hardware_classes]
    shares = [phase.share for phase in plain if phase.count is None]
    counts = [phase.count for phase in plain if phase.count is not None]
    if any(later <= earlier for earlier, later in pairwise(shares)):
        shown = ", ".join(f"{share:g}" for share in shares)
        found.append(Finding(Level.ERROR, "shares_not_rising", f"expected rising shares, got {shown}"))
    if any(later <= earlier for earlier, later in pairwise(counts)):
        shown = ", ".join(str(count) for count in counts)
        found.append(Finding(Level.ERROR, "counts_not_rising", f"expected rising counts, got {shown}"))
    named: set[str] = set()
    for index, phase in enumerate(policy.phases):
        if phase.devices and named.issuperset(phase.devices):
            sentence = f"phase {index + 1} names only devices that an earlier phase names"
            found.append(Finding(Level.ERROR, "phase_adds_nobody", sentence))
        named.update(phase.devices)
    last = policy.phases[-1]
    most = 1.0 - policy.holdback_share
    if last.share < most or last.hardware_classes:
        sentence = (
            f"the last phase treats {last.words}; the rest gets the version when the rollout completes, unwatched"
        )
        found.append(Finding(Level.WARNING, "last_phase_partial", sentence))
    if any(share > most for share in shares[:-1]):
        sentence = f"{policy.holdback_share:.0%} are held back; expected only the last phase above {most:.0%}"
        found.append(Finding(Level.ERROR, "holdback_reached_early", sentence))
    return found


def _deadlines(policy: RolloutPolicy) -> list[Finding]:
    found: list[Finding] = []
    windows = policy.windows
    for index, phase in enumerate(policy.phases):
        if phase.deadline_s <= phase.min_duration_s:
            sentence = f"phase {index + 1}: expected a deadline after its minimum of {phase.min_duration_s:g} s, got {phase.deadline_s:g} s"
            found.append(Finding(Level.ERROR, "deadline_before_minimum", sentence))
        if phase.deadline_s <= policy.jitter_s:
            sentence = f"phase {index + 1}: devices spread over {policy.jitter_s:g} s cannot all start before the deadline at {phase.deadline_s:g} s"
            found.append(Finding(Level.ERROR, "deadline_before_jitter", sentence))
        if phase.deadline_s <= policy.gates.silence_grace_s:
            sentence = f"phase {index + 1}: silence of {policy.gates.silence_grace_s:g} s cannot be seen before the deadline at {phase.deadline_s:g} s"
            found.append(Finding(Level.WARNING, "silence_unseen", sentence))
        if windows is not None and phase.deadline_s <= windows.longest_closed_s:
            sentence = (
                f"phase {index + 1}: the windows ({windows.shown()}) stay closed for up to {windows.longest_closed_s:g} s, "
                f"as long as the deadline of {phase.deadline_s:g} s"
            )
            found.append(Finding(Level.ERROR, "deadline_before_window", sentence))
    return found


def unreachable(
    policy: RolloutPolicy, reached: Sequence[Reach], phases: Sequence[PhaseCounts], devices: Sequence[PlacedDevices]
) -> list[Finding]:
    """What the fleet's size, classes and ids do to the phases."""
    population = phases[0].population
    if population == 0:
        sentence = "no active device fits the version today; later ones will be served"
        return [Finding(Level.WARNING, "population_empty", sentence)]
    found: list[Finding] = []
    present = {device.device_id for device in devices}
    classes = {item.hardware_class for item in phases[0].classes}
    before = 0
    for index, (phase, counts) in enumerate(zip(policy.phases, phases, strict=True)):
        found += _asks_for_nobody(phase, index, population, present, classes)
        is_last = index + 1 == len(phases)
        if counts.treated == 0:
            sentence = f"phase {index + 1} ({phase.words}) reaches none of {population} devices; raise its share"
            found.append(Finding(Level.ERROR, "phase_reaches_nobody", sentence))
        elif index and reached[index] == reached[index - 1] and not is_last:
            sentence = f"phase {index + 1} ({phase.words}) reaches nobody that phase {index} did not"
            found.append(Finding(Level.ERROR, "phase_adds_nobody", sentence))
        elif policy.gates.install_max_share * counts.treated < 1:
            treated = "one device" if counts.treated == 1 else f"{counts.treated} devices"
            sentence = f"phase {index + 1} treats {treated}: a single failed install stops it"
            found.append(Finding(Level.NOTE, "one_failure_stops", sentence))
        before = counts.treated
    if before < population and policy.holdback_share:
        sentence = f"{population - before} of {population} devices are held back when it completes"
        found.append(Finding(Level.NOTE, "held_back", sentence))
    return found


def _asks_for_nobody(phase: Phase, index: int, population: int, present: set[str], classes: set[str]) -> list[Finding]:
    """Counts, names and classes that the fleet does not have."""
    found: list[Finding] = []
    if phase.count is not None and phase.count > population:
        sentence = f"phase {index + 1} asks for {phase.count} devices, the population is {population}"
        found.append(Finding(Level.ERROR, "count_unreachable", sentence))
    absent = [name for name in phase.devices if name not in present]
    if absent:
        level = Level.ERROR if len(absent) == len(phase.devices) else Level.WARNING
        sentence = (
            f"phase {index + 1} names {_shown(absent)}, of {len(phase.devices)}: not among the devices that can take it"
        )
        found.append(Finding(level, "named_devices_absent", sentence))
    unknown = sorted(set(phase.hardware_classes) - classes)
    if unknown:
        sentence = f"phase {index + 1} is for {', '.join(unknown)}; the population has {', '.join(sorted(classes))}"
        found.append(Finding(Level.ERROR, "class_absent", sentence))
    return found


def too_slow(policy: RolloutPolicy, phases: Sequence[PhaseCounts]) -> list[Finding]:
    """Phases whose deadline comes before the pacing has let all their devices in."""
    pacing, windows, found = policy.delivery.pacing, policy.windows, list[Finding]()
    if pacing.is_free:
        return found
    before = 0
    for index, (phase, counts) in enumerate(zip(policy.phases, phases, strict=True)):
        devices = counts.treated - before
        needed_s = pacing.needed_s(devices, each_s=policy.device.probation_s) + policy.jitter_s
        open_s = phase.deadline_s if windows is None else windows.least_open_s(phase.deadline_s)
        if needed_s > open_s:
            sentence = (
                f"phase {index + 1}: {devices} devices need at least {needed_s:.0f} s at this pace, "
                f"the deadline leaves {open_s:.0f} s"
                + ("" if windows is None else f" of open windows within {phase.deadline_s:g} s")
            )
            found.append(Finding(Level.ERROR, "deadline_before_pace", sentence))
        before = counts.treated
    return found


def _shown(ids: Sequence[str]) -> str:
    more = f" and {len(ids) - SHOWN_IDS} more" if len(ids) > SHOWN_IDS else ""
    return ", ".join(ids[:SHOWN_IDS]) + more
