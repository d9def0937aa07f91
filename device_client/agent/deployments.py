"""The deployments of all models: steps the machine, records, performs.

Everything that changes an update's state goes through `apply`, which records the new state together with its reports
in one transaction before any effect is performed. Long steps run in lanes and come back as events that carry the
deployment's serial: the result of an abandoned attempt is dropped. Used by the agent's own thread only.
"""

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from device_client.agent.installer import Installer, failure_of
from device_client.agent.jobs import Continuation, Jobs
from device_client.agent.reports import state_draft
from device_client.agent.timers import Timers
from device_client.core import machine, probation
from device_client.core.backoff import Backoff
from device_client.core.deployment import (
    Activate,
    Adopt,
    AskAgain,
    Collect,
    Deny,
    Deployment,
    Effect,
    Event,
    Failed,
    Fetch,
    Proceed,
    Proceeded,
    Recalled,
    Report,
    Restarted,
    RollBack,
    RunPreflight,
    SelfTest,
    Steadied,
    StopWork,
    Survived,
    Verify,
    Watch,
)
from device_client.core.errors import (
    CancelledError,
    DeviceError,
    LoadError,
    SlotDamagedError,
    StorageError,
    TicketError,
)
from device_client.ports import Clock, Host, Journal, Meter, Slots
from device_client.wire.messages import Denied
from device_client.wire.states import FailureCode, UpdateState
from device_client.wire.topics import Up

log = logging.getLogger(__name__)

WATCH_EVERY_S: Final = 0.5
WATCH_SHARE: Final = 0.1  # probation is looked at ten times in its length, at least
ASK_AGAIN_S: Final = 2.0
STORAGE_RETRY_S: Final = 30.0
TICKET_RETRY: Final = Backoff(least_s=1.0, first_s=2.0, most_s=60.0)
UPDATING: Final = frozenset(
    {
        UpdateState.DOWNLOADING,
        UpdateState.VERIFYING,
        UpdateState.STAGED,
        UpdateState.SELF_TESTING,
        UpdateState.ACTIVATING,
        UpdateState.ROLLING_BACK,
    }
)


@dataclass(frozen=True)
class Surroundings:
    """What the deployments need of the agent: its inbox, its question to the director, its mail, and which slots of a
    model are kept beside those that are linked.
    """

    post: Callable[[Continuation], None]
    ask_after: Callable[[float], None]
    deliver: Callable[[], None]
    kept: Callable[[str], frozenset[str]]


class Deployments:
    """One deployment per model."""

    def __init__(
        self,
        *,
        journal: Journal,
        slots: Slots,
        installer: Installer,
        host: Host,
        meter: Meter,
        clock: Clock,
        dice: Callable[[], float],
        jobs: Jobs,
        timers: Timers,
        around: Surroundings,
    ) -> None:
        self._journal = journal
        self._slots = slots
        self._installer = installer
        self._host = host
        self._meter = meter
        self._clock = clock
        self._dice = dice
        self._jobs = jobs
        self._timers = timers
        self._around = around
        self._all: dict[str, Deployment] = {}
        self._fetching: dict[str, tuple[int, threading.Event]] = {}
        self._ticketless: dict[str, int] = {}
        self._performers: Mapping[type, Callable[[Deployment, Any], None]] = {
            Report: self._recorded,
            Deny: self._recorded,
            Proceed: lambda deployment, _: self._later(deployment, Proceeded()),
            RunPreflight: lambda deployment, _: self._step(deployment, installer.preflight),
            Fetch: lambda deployment, _: self._fetch(deployment),
            Verify: lambda deployment, _: self._step(deployment, installer.verify),
            SelfTest: lambda deployment, _: self._step(deployment, installer.self_test),
            Activate: lambda deployment, _: self._step(deployment, installer.activate),
            RollBack: lambda deployment, _: self._step(deployment, installer.roll_back),
            Adopt: lambda deployment, _: self._background(deployment.model, lambda: installer.adopt(deployment)),
            Watch: lambda deployment, _: self._watch(deployment),
            StopWork: self._stop_work,
            Collect: lambda deployment, _: self._background(
                deployment.model, lambda: slots.collect(deployment.model, around.kept(deployment.model))
            ),
            AskAgain: lambda _, __: around.ask_after(ASK_AGAIN_S),
        }

    def __getitem__(self, model: str) -> Deployment:
        return self._all[model]

    def __contains__(self, model: str) -> bool:
        return model in self._all

    @property
    def all(self) -> tuple[Deployment, ...]:
        """The present states."""
        return tuple(self._all.values())

    def now(self) -> float:
        """Seconds since the epoch."""
        return max(0.0, self._clock.now().timestamp())

    # ------------------------------------------------------------ start

    def recover(self, model: str, before: Deployment, *, clean: bool) -> None:
        """Serve what is current and take up what was interrupted.

        The restart is counted and recorded before anything is loaded: loading may be what brings us down. A disk that
        does not take the record keeps nobody from what is current; whatever was interrupted waits until it does.
        """
        links = self._slots.links(model)
        has_earlier = bool({links.previous, links.factory} - {"", links.current})
        after, effects = machine.step(before, Restarted(clean, has_earlier), self.now())
        if after != before:
            try:
                self._journal.record(after)
            except StorageError as error:
                log.error("%s", error)  # noqa: TRY400 - the sentence says it all
                after, effects = before, ()
                self._timers.set(
                    f"storage:{model}", STORAGE_RETRY_S, lambda: self.recover(model, self._all[model], clean=clean)
                )
        self._all[model] = after
        if after.state is UpdateState.COMMITTED and after.restarts:
            self._timers.set(f"steady:{model}", machine.STEADY_S, lambda: self._steady(model))
        if after.state is not UpdateState.ROLLING_BACK:
            try:
                self._installer.serve_current(model, after)
            except (SlotDamagedError, LoadError) as error:
                self._cannot_serve(after, error)
                return
        self._perform(after, effects)

    def _cannot_serve(self, deployment: Deployment, error: DeviceError) -> None:
        """The current slot does not load: go back to one that does, and let a damaged one be fetched again."""
        model, current = deployment.model, self._slots.links(deployment.model).current
        log.error("the current slot of %s cannot be served: %s", model, error)
        damaged = isinstance(error, SlotDamagedError)
        owned = deployment.target is not None and deployment.target.digest == current
        if owned and deployment.state in {UpdateState.PROBATION, UpdateState.COMMITTED}:
            self.apply(model, Failed(FailureCode.LOAD, str(error), deny=not damaged))
        else:
            self._installer.roll_back(Deployment(model))
            resume = machine.RESUME.get(deployment.state)
            self._perform(deployment, () if resume is None else (resume,))
        if damaged:
            self._background(model, lambda: self._installer.drop_damaged(model, current))

    def _steady(self, model: str) -> None:
        """What was committed has served for long enough: its restarts were no loop."""
        if self._all[model].state is UpdateState.COMMITTED:
            self.apply(model, Steadied())

    # ------------------------------------------------------------ the machine

    def apply(self, model: str, event: Event) -> None:
        """Step, record state and reports in one transaction, then act; raises `UnexpectedEventError`."""
        before, now = self._all[model], self.now()
        after, effects = machine.step(before, event, now)
        reports = [effect for effect in effects if isinstance(effect, Report)]
        denials = [Denied(effect.digest, effect.rollout) for effect in effects if isinstance(effect, Deny)]
        if after != before or reports or denials:
            digest, version = self.attested(model)
            drafts = [state_draft(item, active_digest=digest, active_version=version, now=now) for item in reports]
            self._journal.record(after, [(Up.STATE, draft) for draft in drafts], denials)
        self._all[model] = after
        self._meter.updating(model, under_way=after.state in UPDATING)
        if (after.state, after.serial) != (before.state, before.serial):
            version = after.target.version if after.target is not None else "-"
            log.info("%s %s: %s -> %s %s", model, version, before.state.value, after.state.value, after.detail)
        self._perform(after, effects)
        self._around.deliver()

    def attested(self, model: str) -> tuple[str, str]:
        """Digest and version that this device serves now; empty if it is the fallback or nothing.

        What serves from memory counts even where an update in place has used up its files.
        """
        current = self._slots.links(model).current
        manifest = self._slots.holds(model, current) if current else None
        if manifest is not None:
            return current, manifest.version
        serving = self._host.serving(model)
        return ("", "") if serving is None else (serving.digest, serving.version)

    def recall(self, model: str) -> None:
        """Go back to the previous version because a person at the device says so."""
        links = self._slots.links(model)
        if not links.previous and not links.factory:
            log.warning("there is no earlier version of %s to go back to", model)
            return
        self.apply(model, Recalled("rolled back by a person at the device"))

    def _perform(self, deployment: Deployment, effects: tuple[Effect, ...]) -> None:
        for effect in effects:
            self._performers[type(effect)](deployment, effect)

    def _recorded(self, _deployment: Deployment, _effect: Effect) -> None:
        """Reports and denials were recorded with the state."""

    def _later(self, deployment: Deployment, event: Event) -> None:
        """Deliver an event to this very deployment, after what is in the inbox already."""
        self._around.post(lambda: self._deliver(deployment, event))

    def _deliver(self, deployment: Deployment, event: Event) -> None:
        if self._all[deployment.model].serial == deployment.serial:
            self._apply_in_time(deployment.model, event, lambda: self._deliver(deployment, event))

    def _apply_in_time(self, model: str, event: Event, again: Continuation) -> None:
        """Apply an event that nobody will repeat; one that cannot be recorded now comes again."""
        try:
            self.apply(model, event)
        except StorageError:
            self._timers.set(f"storage:{model}", STORAGE_RETRY_S, again)
            raise

    def _step(self, deployment: Deployment, work: Callable[[Deployment], Event]) -> None:
        """Run one long step in the model's lane; its outcome, good or bad, comes back as an event."""

        def job() -> Continuation:
            try:
                event = work(deployment)
            except Exception as error:  # noqa: BLE001 - a step that fails in an unforeseen way must roll back, not hang
                event = _failure(error)
            return lambda: self._deliver(deployment, event)

        self._jobs.submit(deployment.model, job)

    def _background(self, model: str, work: Continuation) -> None:
        """Work in the model's lane whose failure changes nothing that is recorded."""

        def job() -> Continuation:
            try:
                work()
            except (DeviceError, OSError):
                log.exception("housekeeping of %s failed", model)
            return lambda: None

        self._jobs.submit(model, job)

    # ------------------------------------------------------------ fetching

    def pause(self, model: str) -> None:
        """Stop a download where it is; the next answer of the director goes on with it or ends it."""
        if model in self._fetching:
            log.info("the download of %s pauses", model)
            self._fetching[model][1].set()

    def pause_all(self) -> None:
        """Stop every download where it is."""
        for model in self._fetching:
            self.pause(model)

    def _fetch(self, deployment: Deployment) -> None:
        running = self._fetching.get(deployment.model)
        if running is not None and running[0] == deployment.serial and not running[1].is_set():
            return  # fresh tickets for a download that is under way are of no use to it
        cancel = threading.Event()
        self._fetching[deployment.model] = (deployment.serial, cancel)

        def job() -> Continuation:
            try:
                event: Event = self._installer.fetch(
                    deployment, lambda planned: self._later(deployment, planned), cancel.is_set
                )
            except CancelledError:
                return lambda: None
            except TicketError as error:
                refused = error
                return lambda: self._without_ticket(deployment, cancel, refused)
            except Exception as error:  # noqa: BLE001 - as in `_step`
                event = _failure(error)
            return lambda: self._fetched(deployment, cancel, event)

        self._jobs.submit(deployment.model, job)

    def _fetched(self, deployment: Deployment, cancel: threading.Event, event: Event) -> None:
        if self._fetching.get(deployment.model) == (deployment.serial, cancel):
            del self._fetching[deployment.model]
        if not cancel.is_set():
            self._ticketless.pop(deployment.model, None)
            self._deliver(deployment, event)

    def _without_ticket(self, deployment: Deployment, cancel: threading.Event, error: TicketError) -> None:
        """The server no longer honours the address: the director hands out a new one, until the deadline."""
        model = deployment.model
        if self._fetching.get(model) != (deployment.serial, cancel):
            return
        del self._fetching[model]
        deadline = deployment.began_at + deployment.aim.policy.download_deadline_s
        if self._clock.now().timestamp() >= deadline:
            self._deliver(deployment, _failure(error))
            return
        log.info("%s: %s; the director is asked again", model, error)
        tries = self._ticketless[model] = self._ticketless.get(model, 0) + 1
        self._around.ask_after(TICKET_RETRY.wait_s(tries - 1, self._dice()))

    def _stop_work(self, deployment: Deployment, effect: StopWork) -> None:
        """Cancel the fetch of the abandoned target and remove what it staged, unless for later, after it has let go of it."""
        model = deployment.model
        running = self._fetching.get(model)
        if running is not None:
            running[1].set()

        def discard() -> None:
            self._host.forget(model, effect.digest)
            present = self._all[model]
            wanted = present.target is not None and present.target.digest == effect.digest
            if not effect.keeps and (not wanted or present.state in machine.RESTING):
                self._slots.discard(model, effect.digest)

        self._background(model, discard)

    # ------------------------------------------------------------ probation

    def _watch(self, deployment: Deployment) -> None:
        every_s = min(WATCH_EVERY_S, max(0.05, deployment.aim.policy.probation_s * WATCH_SHARE))
        self._timers.set(f"probation:{deployment.model}", every_s, lambda: self._judge(deployment))

    def _judge(self, watched: Deployment) -> None:
        deployment = self._all[watched.model]
        if deployment.serial != watched.serial or deployment.state is not UpdateState.PROBATION:
            return
        elapsed_s = max(0.0, self._clock.now().timestamp() - deployment.probation_at)
        activity = self._host.activity(deployment.model)
        verdict, sentence = probation.judge(deployment.aim.policy, activity, elapsed_s)
        if verdict is probation.Verdict.PASS:
            self._apply_in_time(deployment.model, Survived(), lambda: self._judge(watched))
        elif verdict is probation.Verdict.TRIP:
            failed = Failed(FailureCode.PROBATION, sentence, deny=True)
            self._apply_in_time(deployment.model, failed, lambda: self._judge(watched))
        else:
            self._watch(deployment)


def _failure(error: Exception) -> Failed:
    known = failure_of(error)
    if known is not error:
        log.error("a step failed in an unforeseen way", exc_info=error)
    return Failed(known.failure, str(known)[:300], known.deny)
