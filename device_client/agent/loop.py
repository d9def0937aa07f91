"""The agent's own thread: takes events one at a time and gives them to whom they concern.

Messages from the broker become answers, acknowledgements, hints; answers become events of the deployments. Nothing that
takes long happens here: verification and long steps run in lanes (`agent.jobs`).
"""

import json
import logging
import queue
import resource
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from device_client.agent.checks import Checks, Facts
from device_client.agent.deployments import Deployments, Surroundings
from device_client.agent.installer import Installer
from device_client.agent.jobs import Continuation, Jobs, ThreadJobs
from device_client.agent.postman import Postman
from device_client.agent.renewal import Renewals
from device_client.agent.safety import Safely
from device_client.agent.shadows import Shadows
from device_client.agent.timers import Timers
from device_client.core import machine, notices
from device_client.core.acceptance import DirectorAnswer
from device_client.core.deployment import Assigned, Deployment, Refused, Target, Withdrawn
from device_client.core.errors import ClockError, DeviceError, TransferError, TrustError
from device_client.core.keys import (
    CLEAN_KEY,
    DIRECTOR_KEY,
    FLOOR_KEY,
    LAST_CHECK_KEY,
    LAST_REFUSAL_KEY,
    REFUSED_KEY,
    answer_key,
    plan_key,
)
from device_client.core.profile import Profile
from device_client.ports import Broker, Clock, Host, Identity, Journal, Meter, Outbox, Slots, Trust
from device_client.wire import topics
from device_client.wire.bundles import Contract
from device_client.wire.director import Decision
from device_client.wire.errors import WireError
from device_client.wire.messages import Ack, BundleMessage, CheckReason, Denied, PlanNotice, Present, RunningModel
from device_client.wire.topics import Down

log = logging.getLogger(__name__)

HOUSEKEEPING_S: Final = 0.5
LONGEST_WAIT_S: Final = 1.0
STOP_WITHIN_S: Final = 5.0
TRUST_LANE: Final = "trust"
UNKNOWN_MODEL_S: Final = 60.0
UNTRUSTED_TRIES: Final = 3  # the image repository may be published a moment after the director's word


class Agent:
    """One device's agent. `run` is the thread; `post` may be called from any other, nothing else."""

    def __init__(
        self,
        *,
        profile: Profile,
        journal: Journal,
        outbox: Outbox,
        slots: Slots,
        trust: Trust,
        installer: Installer,
        host: Host,
        meter: Meter,
        broker: Broker,
        identity: Identity,
        clock: Clock,
        dice: Callable[[], float],
        make_nonce: Callable[[], str],
        present: Callable[[], Present] = Present,
        jobs: Callable[[Callable[[Continuation], None]], Jobs] = ThreadJobs,
    ) -> None:
        self._profile = profile
        self._journal = journal
        self._slots = slots
        self._trust = trust
        self._installer = installer
        self._host = host
        self._broker = broker
        self._present = present
        self._clock = clock
        self._inbox: queue.SimpleQueue[Continuation] = queue.SimpleQueue()
        self._jobs = jobs(self.post)
        self._timers = Timers(clock)
        self._safely = Safely(clock)
        self._meter = meter
        self._postman = Postman(device_id=profile.device_id, outbox=outbox, broker=broker, meter=meter, clock=clock)
        self._checks = Checks(
            device_id=profile.device_id,
            broker=broker,
            timers=self._timers,
            clock=clock,
            facts=self._facts,
            make_nonce=make_nonce,
            dice=dice,
        )
        self.deployments = Deployments(
            journal=journal,
            slots=slots,
            installer=installer,
            host=host,
            meter=meter,
            clock=clock,
            dice=dice,
            jobs=self._jobs,
            timers=self._timers,
            around=Surroundings(
                post=self.post,
                ask_after=lambda seconds: self._checks.ask_after(CheckReason.RETRY, seconds),
                deliver=self._postman.deliver,
                kept=lambda model: self._shadows.kept(model),  # noqa: PLW0108 - they are made below
            ),
        )
        self._shadows = Shadows(
            installer=installer,
            trust=trust,
            host=host,
            journal=journal,
            jobs=self._jobs,
            resting=self._is_resting,
            ask_after=lambda seconds: self._checks.ask_after(CheckReason.RETRY, seconds),
        )
        self._renewals = Renewals(
            identity=identity,
            journal=journal,
            broker=broker,
            jobs=self._jobs,
            timers=self._timers,
            clock=clock,
            dice=dice,
        )
        self._contracts: dict[str, Contract] = dict(profile.contracts)
        self._plans: dict[str, str] = {}  # topic -> model
        self._untrusted_tries: dict[str, int] = {}

    # ------------------------------------------------------------ life

    def post(self, action: Continuation) -> None:
        """Have the agent's thread run `action`."""
        self._inbox.put(action)

    def run(self, stopping: threading.Event) -> None:
        """Serve what is there, connect, work until `stopping` is set, then stop in an orderly way."""
        self.recover()
        self.connect()
        while not stopping.is_set():
            self.turn(LONGEST_WAIT_S)
        self.close()

    def recover(self) -> None:
        """Serve the current slots and take up what was interrupted. Needs no network.

        A crash is in the outbox before anything is served: what is served may bring us down again at once.
        """
        clean = self._journal.recall(CLEAN_KEY) != "0"
        self._safely(lambda: self._journal.remember({CLEAN_KEY: "0"}))
        stored = self._journal.deployments()
        models = tuple(dict.fromkeys((*self._profile.models, *stored)))
        if not clean:
            self._safely(lambda: self._count_crash(models))
        for model in models:
            self.deployments.recover(model, stored.get(model) or Deployment(model), clean=clean)
        self._safely(self._tick)

    def _count_crash(self, models: Sequence[str]) -> None:
        for served in map(self._installer.last_served, models):
            if served is not None:
                self._meter.crashed(served)
        self._collect(everything=False)

    def watch(self, model: str, contract: Contract | None) -> None:
        """From now on, ask for `model` too."""
        if contract is not None:
            self._contracts[model] = contract
            self._installer.expect(model, contract)
        if model not in self.deployments:
            self.deployments.recover(model, Deployment(model), clean=True)
            self._checks.ask(CheckReason.START)

    def connect(self) -> None:
        """Begin to talk to the broker; the first question goes out with the first connection."""
        self._renewals.before_connecting(
            lambda: self._broker.start(
                lambda topic, payload: self.post(lambda: self._received(topic, payload)),
                lambda up: self.post(lambda: self._connection(up=up)),
            )
        )
        self._checks.ask(CheckReason.START)

    def turn(self, longest_s: float) -> bool:
        """Wait for one event or alarm, at most `longest_s`, and deal with it; False if there was none."""
        try:
            action = self._inbox.get(timeout=max(0.001, self._timers.wait_s(longest_s)))
        except queue.Empty:
            return self._timers.run_due(self._safely) > 0
        self._safely(action)
        self._timers.run_due(self._safely)
        return True

    def close(self) -> None:
        """Stop in an orderly way: downloads keep what they have, windows are kept, the stop is recorded as clean."""
        self.deployments.pause_all()
        self._jobs.stop(STOP_WITHIN_S)
        self._safely(lambda: self._collect(everything=True))
        self._safely(self._postman.deliver)
        self._broker.stop()
        self._safely(lambda: self._journal.remember({CLEAN_KEY: "1"}))

    def _tick(self) -> None:
        """Twice a second: windows, labels, outbox, requests of a person at the device."""
        self._timers.set("tick", HOUSEKEEPING_S, self._tick)
        self._collect(everything=False)
        self._postman.deliver()
        for model in self._journal.take_requests():
            if model in self.deployments:
                self._safely(lambda model=model: self.deployments.recall(model))  # type: ignore[misc]

    def _collect(self, *, everything: bool) -> None:
        floor = int(self._journal.recall(FLOOR_KEY) or 0)
        self._postman.collect(
            clock_trusted=0 < floor <= self.deployments.now(), rss_bytes=_peak_rss_bytes(), everything=everything
        )
        self._shadows.keep()

    # ------------------------------------------------------------ messages

    def _connection(self, *, up: bool) -> None:
        if up:
            self._postman.reconnected()
            self._checks.connected()
            self._postman.deliver()

    def _received(self, topic: str, payload: bytes) -> None:
        device_id = self._profile.device_id
        try:
            if topic == topics.down(device_id, Down.BUNDLE):
                self._bundle(BundleMessage.parse(payload))
            elif topic == topics.down(device_id, Down.ACK):
                self._postman.acknowledged(Ack.parse(payload))
                self._postman.deliver()
            elif topic == topics.down(device_id, Down.POKE):
                self._checks.ask(CheckReason.POKE)
            elif topic in self._plans:
                self._notice(self._plans[topic], PlanNotice.parse(payload))
        except WireError as error:
            log.warning("dropped a message on %s: %s", topic, error)

    def _notice(self, model: str, notice: PlanNotice) -> None:
        seen = self._journal.recall(plan_key(model))
        advice = notices.advise(notice, self._profile.device_id, -1 if seen is None else int(seen))
        if seen is None or notice.revision > int(seen):
            self._journal.remember({plan_key(model): str(notice.revision)})
        if advice.pause:
            self.deployments.pause(model)
        if advice.check:
            self._checks.ask(CheckReason.PLAN, within_s=advice.jitter_s)

    def _bundle(self, bundle: BundleMessage) -> None:
        nonce = self._checks.nonce
        if nonce is None or bundle.nonce != nonce:
            log.info("dropped a bundle that answers no open question")
            return
        self._checks.taken()
        self._jobs.submit(TRUST_LANE, lambda: self._examine(bundle, nonce))

    def _examine(self, bundle: BundleMessage, nonce: str) -> Continuation:
        """In the trust lane: verify the bundle, then ask the image repository about whatever is new."""
        try:
            answer = self._trust.accept(bundle, nonce)
        except DeviceError as error:
            refusal = error
            return lambda: self._untrusted(refusal)
        except Exception as error:  # noqa: BLE001 - hostile metadata must not end the lane
            refusal = DeviceError(f"{type(error).__name__}: {error}"[:300])
            return lambda: self._untrusted(refusal)
        verdicts = {
            model: self._authority(target)
            for model, target in answer.targets.items()
            if self._needs_authority(model, target)
        }
        return lambda: self._answered(answer, verdicts)

    def _authority(self, target: Target) -> DeviceError | None:
        """What speaks against a target, by the image repository; None if nothing does."""
        try:
            self._trust.authorise(target)
        except (TrustError, TransferError, ClockError) as error:
            return error
        return None

    def _needs_authority(self, model: str, target: Target) -> bool:
        """Only what is new here is looked up; what runs or is under way was."""
        if model not in self.deployments or self._slots.links(model).current == target.digest:
            return False
        deployment = self.deployments[model]
        pending = deployment.target
        under_way = deployment.state not in machine.RESTING
        return not (under_way and pending is not None and pending.digest == target.digest)

    # ------------------------------------------------------------ answers

    def _untrusted(self, error: DeviceError) -> None:
        log.warning("refused a director's bundle: %s", error)
        count = int(self._journal.recall(REFUSED_KEY) or 0) + 1
        self._journal.remember({REFUSED_KEY: str(count), LAST_REFUSAL_KEY: str(error)})
        self._checks.failed()

    def _answered(self, answer: DirectorAnswer, verdicts: Mapping[str, DeviceError | None]) -> None:
        self._journal.remember({LAST_CHECK_KEY: str(int(self.deployments.now()))})
        self._checks.succeeded(answer.binding.poll_interval_s)
        for model, said in answer.binding.answers.items():
            topic = topics.plan(said.plan_key)
            if model in self.deployments and self._plans.get(topic) != model:
                self._plans[topic] = model
                self._broker.subscribe(topic)
            if said.decision is Decision.LATER and said.until is not None:
                self._checks.ask_after(CheckReason.PERIODIC, max(1.0, said.until - self._clock.now().timestamp()))
        for deployment in self.deployments.all:
            model = deployment.model
            if model not in answer.binding.answers:
                # The server does not know the model yet, so there is no plan notice to wait for.
                self._checks.ask_after(CheckReason.PERIODIC, UNKNOWN_MODEL_S)
            self._safely(lambda model=model: self._decide(model, answer, verdicts.get(model)))  # type: ignore[misc]
            self._safely(lambda model=model: self._shadows.told(model, answer.shadows.get(model)))  # type: ignore[misc]

    def _is_resting(self, model: str) -> bool:
        return model in self.deployments and self.deployments[model].state in machine.RESTING

    def _decide(self, model: str, answer: DirectorAnswer, error: DeviceError | None) -> None:
        """What one model's part of a good answer means for its deployment."""
        target, said = answer.targets.get(model), answer.binding.answers.get(model)
        is_later = said is not None and said.decision is Decision.LATER
        if target is None:
            because = said.because if said is not None else "the director does not name this model"
            self._remember(model, answer, None, "nothing to install")
            self.deployments.apply(model, Withdrawn(because, is_later))
        elif error is not None:
            self._unauthorised(model, answer, target, error)
        elif self._denied(model, target):
            self._remember(model, answer, target, "denied: it failed here under this rollout")
            log.info("%s %s failed here under %s; it is not tried again", model, target.version, target.rollout)
            self.deployments.apply(model, Withdrawn("the assigned version failed here before"))
        else:
            self._untrusted_tries.pop(model, None)
            self._remember(model, answer, target, "taken up")
            self.deployments.apply(model, Assigned(target, self._slots.links(model).current, is_later))

    def _denied(self, model: str, target: Target) -> bool:
        active = self._slots.links(model).current
        return target.digest != active and Denied(target.digest, target.rollout) in self._journal.denied(model)

    def _unauthorised(self, model: str, answer: DirectorAnswer, target: Target, error: DeviceError) -> None:
        """A refusal is reported once it is certain that it is not the image repository that lags behind."""
        log.warning("%s %s is not authorised: %s", model, target.version, error)
        self._remember(model, answer, target, f"refused: {error}")
        tries = self._untrusted_tries[model] = self._untrusted_tries.get(model, 0) + 1
        if isinstance(error, TrustError) and tries >= UNTRUSTED_TRIES:
            self._untrusted_tries.pop(model)
            self.deployments.apply(model, Refused(target, error.failure, str(error), error.deny))
        else:
            self._checks.failed()

    def _remember(self, model: str, answer: DirectorAnswer, target: Target | None, verdict: str) -> None:
        """Keep the answer and what came of it, for whoever asks why."""
        said = answer.binding.answers.get(model)
        shown: dict[str, object] = {
            "at": int(self.deployments.now()),
            "issued_at": answer.binding.issued_at,
            "decision": Decision.NOTHING.value if said is None else said.decision.value,
            "because": "" if said is None else said.because,
            "until": None if said is None else said.until,
            "verdict": verdict,
        }
        if target is not None:
            shown |= {
                "version": target.version,
                "digest": target.digest,
                "rollout": target.rollout,
                "revision": target.revision,
                "arm": target.arm.value,
                "phase": target.phase,
                "reason": target.reason,
            }
        self._journal.remember({answer_key(model): json.dumps(shown)})

    def _facts(self) -> Facts:
        return Facts(
            models=tuple(self._running(deployment) for deployment in self.deployments.all),
            director_version=int(self._journal.recall(DIRECTOR_KEY) or 0),
            capabilities=self._profile.capabilities,
            attributes={**self._profile.attributes, "hardware_class": self._profile.hardware_class},
            present=self._present(),
        )

    def _running(self, deployment: Deployment) -> RunningModel:
        model = deployment.model
        digest, version = self.deployments.attested(model)
        manifest = self._slots.holds(model, digest) if digest else None
        serving = self._host.serving(model)
        return RunningModel(
            model=model,
            version=version,
            digest=digest,
            weights_sha256="" if manifest is None else manifest.weights.sha256,
            revision=0 if serving is None else serving.revision,
            state=deployment.state,
            contract=self._contracts.get(model),
            denied=self._journal.denied(model),
        )


def _peak_rss_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1_024
