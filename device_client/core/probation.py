"""Whether a freshly activated model may stay: a local verdict that needs no network.

Guards only against what a single device can judge: failing inferences, NaN, repeated crashes (the machine counts
those). Accuracy is never judged here; that is the fleet gate's.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Final

from device_client.wire.director import DevicePolicy

PATIENCE: Final = 10.0  # an application that seldom infers is waited for at most this many probation times


class Verdict(str, Enum):
    """What a probation has come to."""

    WAIT = "wait"
    PASS = "pass"  # noqa: S105 - a verdict
    TRIP = "trip"


@dataclass(frozen=True)
class Activity:
    """What the application did with the model since it was activated."""

    inferences: int = 0
    errors: int = 0
    nan: int = 0


def judge(policy: DevicePolicy, activity: Activity, elapsed_s: float) -> tuple[Verdict, str]:
    """The verdict and its sentence."""
    bad = activity.errors + activity.nan
    if bad > policy.probation_max_errors:
        return Verdict.TRIP, (
            f"{activity.errors} errors and {activity.nan} NaN in {activity.inferences} inferences, "
            f"at most {policy.probation_max_errors} are accepted"
        )
    if elapsed_s < policy.probation_s:
        return Verdict.WAIT, f"{elapsed_s:.1f} of {policy.probation_s:g} s"
    if 0 < activity.inferences < policy.probation_inferences and elapsed_s < PATIENCE * policy.probation_s:
        return Verdict.WAIT, f"{activity.inferences} of {policy.probation_inferences} inferences"
    return Verdict.PASS, f"{activity.inferences} inferences with {bad} bad ones in {elapsed_s:.1f} s"
