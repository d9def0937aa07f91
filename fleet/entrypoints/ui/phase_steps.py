"""A rollout's phases as steps: those that have run, the present one, those that are still to come."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from device_client.wire.bucketing import BUCKETS
from fleet.apps.rollouts.records import PhaseRecord, RolloutRecord
from fleet.domain.policy import RolloutPolicy
from fleet.domain.rollout_states import TERMINAL, RolloutState
from fleet.entrypoints.ui.drawings.population import PopulationDrawing, draw_population

PRESENT: Final[Mapping[RolloutState, tuple[str, str, str]]] = {
    RolloutState.RUNNING: ("current", "run", "running now"),
    RolloutState.HELD: ("held", "hold", "held here"),
    RolloutState.COMPLETED: ("done", "good", "completed"),
    RolloutState.REVERTING: ("stopped", "revert", "reverting from here"),
    RolloutState.REVERTED: ("stopped", "revert", "reverted from here"),
    RolloutState.CANCELLED: ("stopped", "none", "cancelled here"),
}
"""Tone, sign and word of the phase that a rollout is in."""


@dataclass(frozen=True)
class PhaseStep:
    """One phase. `reach` says whom; `run` is None for one that has not begun."""

    reach: str
    tone: str
    sign: str
    word: str
    run: PhaseRecord | None

    @property
    def took_s(self) -> float | None:
        """How long it ran."""
        if self.run is None or self.run.ended_at is None:
            return None
        return (self.run.ended_at - self.run.started_at).total_seconds()


@dataclass(frozen=True)
class Reach:
    """Whom the present phase treats and compares, on the line of buckets and in words."""

    drawing: PopulationDrawing
    treated_share: float
    control_share: float


def phase_steps(rollout: RolloutRecord, runs: Sequence[PhaseRecord]) -> tuple[PhaseStep, ...]:
    """A step for each phase of the rollout's policy."""
    policy = RolloutPolicy.parse(rollout.policy)
    by_index = {run.index: run for run in runs}
    return tuple(
        PhaseStep(phase.words, *_look(rollout, index, by_index.get(index)), by_index.get(index))
        for index, phase in enumerate(policy.phases)
    )


def _look(rollout: RolloutRecord, index: int, run: PhaseRecord | None) -> tuple[str, str, str]:
    if index == rollout.phase and run is not None:
        return PRESENT.get(rollout.state, ("later", "", "not begun"))
    if index < rollout.phase:
        return ("done", "good", "passed")
    return ("later", "", "never reached" if rollout.state in TERMINAL else "still to come")


def reach(*, treated_end: int, control_start: int) -> Reach:
    """A device in both ranges is treated, so the control is what the treated have left of it."""
    control = max(control_start, treated_end)
    return Reach(
        drawing=draw_population(treated_end=treated_end, control_start=control),
        treated_share=treated_end / BUCKETS,
        control_share=(BUCKETS - control) / BUCKETS,
    )


def terms(rollout: RolloutRecord) -> tuple[tuple[str, str], ...]:
    """What the policy says of whom it is for and of when they may take it: only what is not the default."""
    policy = RolloutPolicy.parse(rollout.policy)
    pacing, conditions = policy.delivery.pacing, policy.delivery.conditions
    begins_at, calendar = policy.schedule.start_at, policy.schedule.calendar
    said = (
        ("classes", ", ".join(policy.hardware_classes)),
        ("groups", ", ".join(policy.groups)),
        ("filter", "" if policy.filter is None else policy.filter.text),
        ("never", ", ".join(sorted(policy.denied.devices | policy.denied.groups))),
        ("held back", f"{policy.holdback_share:.0%}" if policy.holdback_share else ""),
        ("windows", "" if policy.windows is None else policy.windows.shown()),
        ("conditions", ", ".join(name for name in ("unmetered", "charging", "idle") if getattr(conditions, name))),
        ("under way", f"at most {pacing.in_flight}" if pacing.in_flight else ""),
        ("a minute", f"at most {pacing.per_minute}" if pacing.per_minute else ""),
        ("begins", "" if begins_at is None else f"{begins_at:%Y-%m-%d %H:%M} UTC"),
        ("goes on", "" if calendar is None else calendar.shown()),
        ("reverts", f"in {policy.revert.steps} steps" if policy.revert.steps > 1 else ""),
        ("together with", ", ".join(name for name in policy.together if name != rollout.model)),
        ("priority", str(policy.priority) if policy.priority else ""),
    )
    return tuple((name, text) for name, text in said if text)


def next_reach(rollout: RolloutRecord) -> str | None:
    """Whom the phase after the present one reaches, or None on the last."""
    phases = RolloutPolicy.parse(rollout.policy).phases
    return phases[rollout.phase + 1].words if rollout.phase + 1 < len(phases) else None


def consequences(
    action: str, rollout: RolloutRecord, *, installed: int, under_way: int, planned: int
) -> tuple[str, ...]:
    """What an intervention would touch, in sentences for the person who is about to ask for it."""
    back = f"version {rollout.against}" if rollout.against else "their baseline, or their factory fallback"
    running = f"{installed} {_devices(installed)}"
    match action:
        case "approve":
            left = rollout.approvals_required - len(rollout.approvals)
            return (
                f"{rollout.created_by} started it and needs {rollout.approvals_required} other people's consent.",
                "Yours is the last one: it starts now, or as soon as another rollout of the model has ended."
                if left <= 1
                else f"After yours, {left - 1} more are missing. No device hears of it until then.",
                f"It would move devices to version {rollout.version}, in phases that its gates watch.",
            )
        case "override-quiet":
            return (
                "It starts and goes on to its next phases also in the quiet hours of its namespace, now and later.",
                "Gates and deadlines hold as ever. Your reason stands in the decision and in the audit.",
            )
        case "hold":
            return (
                "No device is offered the version any more. Downloads under way stop.",
                f"{running} that already installed it keep it.",
                "Gates are still watched: one that fails still reverts, if the policy says so. Nothing advances until somebody resumes.",
            )
        case "resume":
            return (
                f"The present phase goes on: {rollout.reach}, {planned} {_devices(planned)}.",
                "Its deadline starts anew.",
            )
        case "advance":
            reached = next_reach(rollout)
            to = (
                "There is no further phase: it becomes the baseline."
                if reached is None
                else f"The next phase begins now and treats {reached}."
            )
            return (
                to,
                "The gates of the present phase are not waited for. Your reason stands in the decision instead.",
            )
        case "revert" | "cancel":
            end = (
                "The rollout ends as reverted and is not resumed."
                if action == "revert"
                else "The rollout ends as cancelled and is not resumed."
            )
            steps = RolloutPolicy.parse(rollout.policy).revert
            slowly = (
                (
                    f"They go back in {steps.steps} steps, one each {steps.every_s:g} s; revert again to take the rest at once.",
                )
                if action == "revert" and steps.steps > 1 and rollout.state is not RolloutState.REVERTING
                else ()
            )
            stops = (f"{under_way} {_devices(under_way)} on the way to it stop.",) if under_way else ()
            return (
                f"The version is withdrawn. {running} that installed it go back to {back}.",
                *slowly,
                "Devices that still hold what they go back to download nothing.",
                *stops,
                "Devices that are offline go back when they next check in.",
                end,
            )
        case _:
            return ()


def _devices(count: int) -> str:
    return "device" if count == 1 else "devices"
