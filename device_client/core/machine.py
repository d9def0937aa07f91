"""The update of one model as a state machine: `step(deployment, event, now) -> (deployment, effects)`.

Pure. It decides and does nothing; the caller records the returned deployment together with its `Report` and `Deny`
effects in one transaction, and only then performs the others. `now` is in seconds since the epoch. Every effect may be
performed twice (a power cut repeats it through `Restarted`), so every effect must be idempotent.

A pair that is not in `TABLE` raises `UnexpectedEventError` and changes nothing.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from device_client.core.deployment import (
    Activate,
    Activated,
    Adopt,
    AskAgain,
    Assigned,
    Collect,
    Deny,
    Deployment,
    Effect,
    Event,
    Failed,
    Fetch,
    Fetched,
    FetchPlanned,
    PreflightPassed,
    Proceed,
    Proceeded,
    Recalled,
    Refused,
    Report,
    Restarted,
    RollBack,
    RolledBack,
    RunPreflight,
    SelfTest,
    SelfTestPassed,
    Steadied,
    StopWork,
    Survived,
    Target,
    Verified,
    Verify,
    Watch,
    Withdrawn,
)
from device_client.core.errors import UnexpectedEventError
from device_client.wire.states import FailureCode, Transport, UpdateState

Step = tuple[Deployment, tuple[Effect, ...]]
Transition = Callable[[Deployment, Any, float], Step]
S = UpdateState

MAX_RESTARTS: Final = 3  # unclean restarts in a row, from verifying on; one more is a crash loop
STEADY_S: Final = (
    120.0  # a client that has run for so long has been able to tell of its crashes and to hear of a revert
)
RESTING: Final = (S.IDLE, S.COMMITTED, S.ROLLED_BACK, S.SUPERSEDED, S.HALTED)
BEFORE_SWAP: Final = (S.ASSIGNED, S.PREFLIGHT, S.DOWNLOADING, S.VERIFYING, S.STAGED, S.SELF_TESTING)
COUNTED: Final = (S.VERIFYING, S.STAGED, S.SELF_TESTING, S.ACTIVATING, S.PROBATION)


def step(deployment: Deployment, event: Event, now: float) -> Step:
    """The next deployment and what to do; raises `UnexpectedEventError`."""
    transition = TABLE.get((deployment.state, type(event)))
    if transition is None:
        raise UnexpectedEventError(f"expected no {type(event).__name__} in state {deployment.state.value}")
    return transition(deployment, event, now)


def _stay(deployment: Deployment, _event: Event, _now: float) -> Step:
    return deployment, ()


def _reported(deployment: Deployment, *effects: Effect) -> Step:
    return deployment, (Report(deployment, deployment.state), *effects)


# ---------------------------------------------------------------- assignment


def _begin(deployment: Deployment, target: Target, active: str, now: float) -> Deployment:
    return Deployment(
        model=deployment.model,
        state=S.ASSIGNED,
        serial=deployment.serial + 1,
        target=target,
        origin=active,
        proven=deployment.proven,
        began_at=now,
    )


def _assigned_at_rest(deployment: Deployment, event: Assigned, now: float) -> Step:
    """Install it, unless it is what runs here: then only what is said about it changes."""
    if event.target.digest != event.active:
        return _reported(_begin(deployment, event.target, event.active, now), Proceed())
    if event.is_later and deployment.state is S.HALTED:
        return deployment, ()
    known = deployment.target
    same = (
        deployment.state is S.COMMITTED
        and known is not None
        and (known.digest, known.revision, known.rollout)
        == (event.target.digest, event.target.revision, event.target.rollout)
    )
    if same:
        return replace(deployment, target=event.target), (Adopt(),)
    after, effects = _take_over_running(deployment, event, now)
    return after, (*effects, *((Collect(),) if deployment.state is S.HALTED else ()))


def _take_over_running(deployment: Deployment, event: Assigned, now: float) -> Step:
    """The assigned digest is active already: committed if it was proven here, on probation otherwise."""
    fresh = _begin(deployment, event.target, event.active, now)
    if deployment.proven == event.target.digest:
        return _reported(replace(fresh, state=S.COMMITTED), Adopt())
    return _reported(replace(fresh, state=S.PROBATION, probation_at=now, origin=deployment.proven), Adopt(), Watch())


def _assigned_before_swap(deployment: Deployment, event: Assigned, now: float) -> Step:
    old = deployment.aim
    if event.target.digest == old.digest:
        # The same bytes under fresh tickets, policy or revision: a paused download goes on with them.
        again = (Fetch(),) if deployment.state is S.DOWNLOADING else ()
        return replace(deployment, target=event.target), again
    if event.target.digest == event.active:
        halted = replace(deployment, state=S.HALTED, detail=event.target.reason)
        if event.is_later:
            return _reported(halted, StopWork(old.digest, keeps=True))
        after, effects = _take_over_running(deployment, event, now)
        return after, (Report(halted, S.HALTED), StopWork(old.digest), *effects)
    after, effects = _reported(_begin(deployment, event.target, event.active, now), Proceed())
    superseded = replace(deployment, state=S.SUPERSEDED, detail=event.target.reason)
    return after, (Report(superseded, S.SUPERSEDED), StopWork(old.digest), *effects)


def _assigned_on_probation(deployment: Deployment, event: Assigned, now: float) -> Step:
    if event.target.digest == deployment.aim.digest:
        return replace(deployment, target=event.target), (Adopt(),)
    after, effects = _reported(_begin(deployment, event.target, event.active, now), Proceed())
    superseded = replace(deployment, state=S.SUPERSEDED, detail=event.target.reason)
    return after, (Report(superseded, S.SUPERSEDED), *effects)


def _assigned_in_swap(deployment: Deployment, event: Assigned, _now: float) -> Step:
    """A swap is never interrupted; what came meanwhile is asked for again afterwards."""
    return deployment, () if event.target.digest == deployment.aim.digest else (AskAgain(),)


def _refused(deployment: Deployment, event: Refused, now: float) -> Step:
    """An assignment that was not taken up ends at once. What runs here goes on running."""
    fresh = replace(
        _begin(deployment, event.target, deployment.origin, now),
        state=S.ROLLED_BACK,
        failure=event.failure,
        detail=event.detail,
        deny=event.deny,
    )
    denied = (Deny(event.target.digest, event.target.rollout),) if event.deny else ()
    return _reported(fresh, *denied)


def _refused_on_probation(deployment: Deployment, event: Refused, now: float) -> Step:
    """The refusal is reported; the model on probation stays on probation."""
    refusal, effects = _refused(deployment, event, now)
    return replace(deployment, serial=refusal.serial), effects


def _refused_before_swap(deployment: Deployment, event: Refused, now: float) -> Step:
    after, effects = _refused(deployment, event, now)
    return after, (StopWork(deployment.aim.digest), *effects)


def _withdrawn_before_swap(deployment: Deployment, event: Withdrawn, _now: float) -> Step:
    halted = replace(deployment, state=S.HALTED, detail=event.because)
    if event.is_later:
        return _reported(halted, StopWork(deployment.aim.digest, keeps=True))
    return _reported(halted, StopWork(deployment.aim.digest), Collect())


def _withdrawn_halted(deployment: Deployment, event: Withdrawn, _now: float) -> Step:
    """What was kept for later goes."""
    return deployment, () if event.is_later else (Collect(),)


# ---------------------------------------------------------------- the way of an update


def _to_preflight(deployment: Deployment, _event: Proceeded, _now: float) -> Step:
    return replace(deployment, state=S.PREFLIGHT), (RunPreflight(),)


def _preflight_passed(deployment: Deployment, event: PreflightPassed, _now: float) -> Step:
    if event.in_slot:
        return _reported(replace(deployment, state=S.STAGED, transport=Transport.NONE), Proceed())
    return replace(deployment, state=S.DOWNLOADING), (Fetch(),)


def _fetch_planned(deployment: Deployment, event: FetchPlanned, _now: float) -> Step:
    return _reported(
        replace(
            deployment,
            transport=event.transport,
            bytes_total=event.bytes_total,
            resumed_from=max(event.resumed_from, deployment.resumed_from),
            codec=event.codec,
            fallbacks=event.fallbacks,
        )
    )


def _fetched(deployment: Deployment, event: Fetched, _now: float) -> Step:
    after = replace(
        deployment,
        state=S.VERIFYING,
        transport=event.transport,
        bytes_received=event.bytes_received,
        bytes_total=event.bytes_total,
        codec=event.codec,
        fallbacks=event.fallbacks,
    )
    return after, (Verify(),)


def _verified(deployment: Deployment, _event: Verified, _now: float) -> Step:
    return _reported(replace(deployment, state=S.STAGED), Proceed())


def _to_self_test(deployment: Deployment, _event: Proceeded, _now: float) -> Step:
    return replace(deployment, state=S.SELF_TESTING), (SelfTest(),)


def _self_test_passed(deployment: Deployment, _event: SelfTestPassed, _now: float) -> Step:
    return replace(deployment, state=S.ACTIVATING), (Activate(),)


def _activated(deployment: Deployment, _event: Activated, now: float) -> Step:
    return _reported(replace(deployment, state=S.PROBATION, probation_at=now), Watch())


def _survived(deployment: Deployment, _event: Survived, _now: float) -> Step:
    return _reported(replace(deployment, state=S.COMMITTED, proven=deployment.aim.digest, restarts=0), Collect())


# ---------------------------------------------------------------- failure, rollback, restart


def _failed(deployment: Deployment, event: Failed, _now: float) -> Step:
    after = replace(
        deployment, state=S.ROLLING_BACK, failure=event.failure, detail=event.detail, deny=deployment.deny or event.deny
    )
    return after, (RollBack(),)


def _recalled(deployment: Deployment, event: Recalled, now: float) -> Step:
    return _failed(deployment, Failed(FailureCode.OPERATOR, event.detail, deny=True), now)


def _rolled_back(deployment: Deployment, event: RolledBack, _now: float) -> Step:
    if deployment.target is None:  # the stored state could not be read, so there is nothing to tell of it
        return Deployment(deployment.model, serial=deployment.serial, origin=event.active), (Collect(),)
    aim = deployment.aim
    proven = "" if deployment.proven == aim.digest and event.active != aim.digest else deployment.proven
    after = replace(deployment, state=S.ROLLED_BACK, origin=event.active, proven=proven)
    denied = (Deny(aim.digest, aim.rollout),) if deployment.deny else ()
    return _reported(after, *denied, Collect())


RESUME: Final[Mapping[UpdateState, Effect]] = {
    S.ASSIGNED: Proceed(),
    S.PREFLIGHT: RunPreflight(),
    S.DOWNLOADING: Fetch(),
    S.VERIFYING: Verify(),
    S.STAGED: Proceed(),
    S.SELF_TESTING: SelfTest(),
    S.ACTIVATING: Activate(),
    S.PROBATION: Watch(),
    S.ROLLING_BACK: RollBack(),
}


def _restarted(deployment: Deployment, event: Restarted, now: float) -> Step:
    """Do the interrupted step again, unless this deployment keeps bringing the client down."""
    if event.clean or deployment.state not in COUNTED:
        return deployment, (RESUME[deployment.state],)
    counted = replace(deployment, restarts=deployment.restarts + 1)
    return _crash_loop(counted, now) if counted.restarts > MAX_RESTARTS else (counted, (RESUME[deployment.state],))


def _restarted_committed(deployment: Deployment, event: Restarted, now: float) -> Step:
    """A version that brings the client down as soon as it serves keeps it from hearing of a revert: it goes by itself."""
    if event.clean or not event.has_earlier:
        return deployment, ()
    counted = replace(deployment, restarts=deployment.restarts + 1)
    return _crash_loop(counted, now) if counted.restarts > MAX_RESTARTS else (counted, ())


def _crash_loop(deployment: Deployment, now: float) -> Step:
    detail = f"{deployment.restarts} unclean restarts in a row, at most {MAX_RESTARTS} are accepted"
    return _failed(deployment, Failed(FailureCode.CRASH_LOOP, detail, deny=True), now)


def _steadied(deployment: Deployment, _event: Steadied, _now: float) -> Step:
    return replace(deployment, restarts=0), ()


def _rows(
    states: tuple[UpdateState, ...], kind: type, transition: Transition
) -> dict[tuple[UpdateState, type], Transition]:
    return {(state, kind): transition for state in states}


TABLE: Final[Mapping[tuple[UpdateState, type], Transition]] = {
    (S.ASSIGNED, Proceeded): _to_preflight,
    (S.PREFLIGHT, PreflightPassed): _preflight_passed,
    (S.DOWNLOADING, FetchPlanned): _fetch_planned,
    (S.DOWNLOADING, Fetched): _fetched,
    (S.VERIFYING, Verified): _verified,
    (S.STAGED, Proceeded): _to_self_test,
    (S.SELF_TESTING, SelfTestPassed): _self_test_passed,
    (S.ACTIVATING, Activated): _activated,
    (S.PROBATION, Survived): _survived,
    (S.ROLLING_BACK, RolledBack): _rolled_back,
    **_rows((*BEFORE_SWAP, S.ACTIVATING, S.PROBATION, S.COMMITTED), Failed, _failed),
    **_rows((S.PROBATION, S.COMMITTED), Recalled, _recalled),
    **_rows(RESTING, Assigned, _assigned_at_rest),
    **_rows(BEFORE_SWAP, Assigned, _assigned_before_swap),
    (S.PROBATION, Assigned): _assigned_on_probation,
    **_rows((S.ACTIVATING, S.ROLLING_BACK), Assigned, _assigned_in_swap),
    **_rows(RESTING, Refused, _refused),
    (S.PROBATION, Refused): _refused_on_probation,
    **_rows(BEFORE_SWAP, Refused, _refused_before_swap),
    **_rows((S.ACTIVATING, S.ROLLING_BACK), Refused, _stay),
    **_rows(BEFORE_SWAP, Withdrawn, _withdrawn_before_swap),
    **_rows((*RESTING, S.ACTIVATING, S.PROBATION, S.ROLLING_BACK), Withdrawn, _stay),
    (S.HALTED, Withdrawn): _withdrawn_halted,
    **_rows((*BEFORE_SWAP, S.ACTIVATING, S.PROBATION, S.ROLLING_BACK), Restarted, _restarted),
    **_rows(RESTING, Restarted, _stay),
    (S.COMMITTED, Restarted): _restarted_committed,
    (S.COMMITTED, Steadied): _steadied,
}
