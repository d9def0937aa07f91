"""Where models run: loads them beside each other, hands out leases, swaps between leases, counts every inference.

`ModelHost` is `ports.Host` and `ports.Meter` for the agent and the source of leases for the application. A lease pins
one version: a swap changes what the next lease gets and frees the old model when its last lease is given back, so an
inference never fails, and never mixes versions, because of an update.
"""

import itertools
import logging
import math
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Final

from device_client.core import golden as golden_test
from device_client.core.errors import LoadError, NotReadyError
from device_client.core.probation import Activity
from device_client.core.vitals import LOCAL_ROUTE, Window, WindowKey
from device_client.ports import Clock, LoadedModel, OpenSlot, Runtime, Serving, ShadowRuns
from device_client.sdk.shadow import ShadowDesk
from device_client.wire.bundles import FileRole
from device_client.wire.messages import Label
from device_client.wire.predictions import PredictionId
from device_client.wire.shadow import ShadowBudget

log = logging.getLogger(__name__)

FACTORY_VERSION: Final = "factory"  # the label of the application's own fallback
Listener = Callable[[Serving | None, Serving], None]


class Running:
    """A model in memory with everything that an inference needs to know of it."""

    def __init__(self, loaded: LoadedModel, labels: Sequence[str], digest: str) -> None:
        self.loaded = loaded
        self.labels = labels
        self.digest = digest
        self.leases = 0
        self.retired = False
        self.inferences = 0
        self.errors = 0
        self.nan = 0


class Desk:
    """One model's place: what is served, what is prepared, what was counted. Every attribute under `lock`."""

    def __init__(self, model: str) -> None:
        self.model = model
        self.lock = threading.Lock()
        self.serving: Serving | None = None
        self.running: Running | None = None
        self.prepared: dict[str, Running] = {}
        self.fallback: Running | None = None
        self.windows: dict[tuple[str, int, str], Window] = {}  # by digest, revision and route
        self.finished: list[tuple[Window, float]] = []
        self.updating = False
        self.listeners: list[Listener] = []
        self.ready = threading.Event()
        self.shadow: ShadowDesk | None = None
        self.closed_at = 0.0  # when windows were last closed

    def window(self, serving: Serving, route: str, now: float) -> Window:
        """The open window of a label and route."""
        place = (serving.digest, serving.revision, route)
        window = self.windows.get(place)
        if window is None:
            key = WindowKey(self.model, serving.version, serving.digest, serving.revision, route)
            window = self.windows[place] = Window(key, now, during_update=self.updating)
        return window

    def close_windows(self, now: float) -> None:
        """End every open window; what the shadow did belongs to the one of what is served."""
        done = None if self.shadow is None else self.shadow.take()
        if done is not None and self.serving is not None:
            self.window(self.serving, LOCAL_ROUTE, now).shadow = done
        self.finished += [(window, now) for window in self.windows.values() if not window.empty]
        self.windows.clear()
        self.closed_at = now


class Result:
    """One answer. `outputs` by name; `answer`, `confidence` and `id` are worked out when they are asked for."""

    __slots__ = ("_answer", "_host", "_lease", "_nonce", "_route", "_second", "confidence", "outputs")

    def __init__(  # noqa: PLR0917 - built once per inference, where keywords cost time
        self,
        host: "ModelHost",
        lease: "Lease",
        outputs: Mapping[str, Any],
        confidence: float,
        second: float,
        nonce: str,
    ) -> None:
        self._host = host
        self._lease = lease
        self._second = second
        self._nonce = nonce
        self._answer: str | None = None
        self._route = LOCAL_ROUTE
        self.outputs = outputs
        self.confidence = confidence

    @property
    def answer(self) -> str | None:
        """What the model said: as `set`, else the label of the highest score of its first output."""
        if self._answer is None:
            self._answer = self._lease.top_label(self.outputs)
        return self._answer

    @property
    def id(self) -> str:
        """What to give to `feedback`, days later if need be: it carries device, version, revision, route and answer."""
        serving = self._lease.serving
        return str(
            PredictionId(
                device_id=self._host.device_id,
                model=serving.model,
                version=serving.version,
                revision=serving.revision,
                route=self._route,
                second=int(self._second),
                nonce=self._nonce,
                answer=self.answer,
            )
        )

    def set(self, *, answer: str | None = None, route: str | None = None) -> None:
        """Say what was answered in the end, and by which route (`cloud`). Comes before the id is handed on.

        An answer that came by another route is a reference: whether the model's own agrees with it is counted.
        """
        if answer is not None:
            own = self._lease.top_label(self.outputs)
            if route not in (None, LOCAL_ROUTE) and own is not None:
                self._host.referred(self._lease.serving, agrees=own == answer)
            self._answer = answer
        if route is not None and route != self._route:
            self._route = route
            self._host.rerouted(self._lease.serving, route)


class Lease(AbstractContextManager["Lease"]):
    """One version for one request."""

    __slots__ = ("_desk", "_host", "_running", "serving")

    def __init__(self, host: "ModelHost", desk: Desk, running: Running, serving: Serving) -> None:
        self._host = host
        self._desk = desk
        self._running = running
        self.serving = serving

    @property
    def version(self) -> str:
        """Which version this is."""
        return self.serving.version

    def infer(self, **inputs: Any) -> Result:
        """Run the model once and count it; raises what the runtime raises."""
        return self._host.infer(self._desk, self._running, self, inputs)

    def top_label(self, outputs: Mapping[str, Any]) -> str | None:
        """The label of the highest score of the first output."""
        scores = next(iter(outputs.values()), None)
        if scores is None or not hasattr(scores, "argmax"):
            return None
        place = int(scores.argmax())
        labels = self._running.labels
        return labels[place] if place < len(labels) else str(place)

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._host.give_back(self._desk, self._running)


class ModelHost:
    """All models of one process."""

    def __init__(
        self, *, device_id: str, runtimes: Mapping[str, Runtime], clock: Clock, shadows: ShadowRuns | None = None
    ) -> None:
        self.device_id = device_id
        self._shadows = shadows
        self._runtimes = runtimes
        self._clock = clock
        self._desks: dict[str, Desk] = {}
        self._lock = threading.Lock()
        self._labels: list[Label] = []
        self._nonce_prefix = secrets.token_hex(4)
        self._nonces = itertools.count()

    def desk(self, model: str) -> Desk:
        """The place of a model; made when it is first asked for."""
        with self._lock:
            if model not in self._desks:
                self._desks[model] = Desk(model)
            return self._desks[model]

    def _now(self) -> float:
        return self._clock.now().timestamp()

    # ------------------------------------------------------------ for the agent: ports.Host

    def prepare(self, slot: OpenSlot) -> None:
        manifest = slot.manifest
        desk = self.desk(manifest.model)
        if self.prepared(manifest.model, slot.digest):
            return
        runtime = self._runtimes.get(manifest.variant.runtime)
        if runtime is None:
            raise LoadError(f"expected a runtime of {sorted(self._runtimes)}, got {manifest.variant.runtime}")
        loaded = runtime.load(slot.files[manifest.weights.name], manifest)
        running = Running(loaded, _labels(slot), slot.digest)
        with desk.lock:
            desk.prepared[slot.digest] = running

    def prepared(self, model: str, digest: str) -> bool:
        desk = self.desk(model)
        with desk.lock:
            return digest in desk.prepared or (desk.running is not None and desk.running.digest == digest != "")

    def self_test(self, model: str, digest: str, golden: bytes) -> None:
        desk = self.desk(model)
        with desk.lock:
            running = desk.prepared.get(digest) or desk.running
        if running is None or running.digest != digest:
            raise LoadError(f"expected {digest[:16]} to be prepared, got nothing in memory")
        loaded = running.loaded
        golden_test.examine(
            golden_test.Golden.parse(golden),
            lambda inputs: {
                name: value.tolist() if hasattr(value, "tolist") else value
                for name, value in loaded.infer({name: [sample] for name, sample in inputs.items()}).items()
            },
            self._clock.monotonic,
        )

    def switch(self, serving: Serving) -> None:
        desk = self.desk(serving.model)
        doomed: list[Running] = []
        with desk.lock:
            before, old = desk.serving, desk.running
            new = self._next(desk, serving)
            desk.close_windows(self._now())
            changed = new is not old
            shadow, desk.shadow = (desk.shadow, None) if changed else (None, desk.shadow)
            if new is None:
                desk.serving, desk.running = None, None
            else:
                desk.running = new
                desk.serving = serving if serving.digest else _factory(serving.model)
            if old is not None and old is not new and old is not desk.fallback:
                old.retired = True
                if old.leases == 0:
                    doomed.append(old)
            after = desk.serving
        for running in doomed:
            running.loaded.close()
        if shadow is not None:
            shadow.stop()  # it was compared with what is not served any more
        if after is None:
            desk.ready.clear()
        else:
            desk.ready.set()
            self._announce(desk, before, after)

    @staticmethod
    def _next(desk: Desk, serving: Serving) -> Running | None:
        """What is to be served: the prepared model, the same one, the fallback, or nothing."""
        if not serving.digest:
            return desk.fallback
        if desk.running is not None and desk.running.digest == serving.digest:
            return desk.running
        prepared = desk.prepared.pop(serving.digest, None)
        if prepared is None:
            raise LoadError(f"expected {serving.digest[:16]} to be prepared, got nothing in memory")
        return prepared

    def _announce(self, desk: Desk, before: Serving | None, after: Serving) -> None:
        if before is not None and before.digest == after.digest:
            return
        for listener in tuple(desk.listeners):
            try:
                listener(before, after)
            except Exception:
                log.exception("the application's on_update for %s failed", desk.model)

    def forget(self, model: str, digest: str) -> None:
        desk = self.desk(model)
        with desk.lock:
            running = desk.prepared.pop(digest, None)
        if running is not None:
            running.loaded.close()

    def activity(self, model: str) -> Activity:
        desk = self.desk(model)
        with desk.lock:
            running = desk.running
            return Activity() if running is None else Activity(running.inferences, running.errors, running.nan)

    def serving(self, model: str) -> Serving | None:
        desk = self.desk(model)
        with desk.lock:
            return desk.serving

    def shadow(self, model: str, slot: OpenSlot | None, budget: ShadowBudget, kept: str = "") -> None:
        desk = self.desk(model)
        with desk.lock:
            old = desk.shadow
            if old is not None and slot is not None and (old.digest, old.budget) == (slot.digest, budget):
                return
            desk.close_windows(self._now())
            desk.shadow = None
            champion = "" if desk.running is None else desk.running.digest
        if old is not None:
            old.stop()
        if slot is None or self._shadows is None:
            return
        made = ShadowDesk(slot, _labels(slot), budget, self._shadows, champion, kept)
        with desk.lock:
            desk.shadow = made

    def shadowing(self, model: str) -> tuple[str, ShadowBudget] | None:
        shadow = self.desk(model).shadow
        return None if shadow is None else (shadow.digest, shadow.budget)

    def shadow_memory(self, model: str) -> str | None:
        shadow = self.desk(model).shadow
        return None if shadow is None else shadow.memory()

    # ------------------------------------------------------------ for the agent: ports.Meter

    def updating(self, model: str, *, under_way: bool) -> None:
        desk = self.desk(model)
        with desk.lock:
            desk.updating = under_way
            if under_way:
                for window in desk.windows.values():
                    window.during_update = True

    def crashed(self, serving: Serving) -> None:
        desk, now = self.desk(serving.model), self._now()
        key = WindowKey(serving.model, serving.version, serving.digest, serving.revision, LOCAL_ROUTE)
        with desk.lock:
            desk.finished.append((Window(key, now, crashes=1), now))

    def take_windows(self, *, everything: bool = False) -> Sequence[tuple[Window, float]]:
        now, taken = self._now(), []
        for desk in tuple(self._desks.values()):
            with desk.lock:
                length_s = desk.serving.window_s if desk.serving is not None else 0.0
                # A shadow counts labels, too, while nothing is asked of what is served.
                idle_since = now if desk.shadow is None else desk.closed_at
                oldest = min((window.started_at for window in desk.windows.values()), default=idle_since)
                # A clock that was set back must not keep a window open for years.
                if everything or not 0 <= now - oldest < length_s:
                    desk.close_windows(now)
                taken += desk.finished
                desk.finished = []
        return taken

    def take_labels(self) -> Sequence[Label]:
        with self._lock:
            labels, self._labels = self._labels, []
        return labels

    # ------------------------------------------------------------ for the application

    def set_fallback(self, model: str, loaded: LoadedModel) -> None:
        """Serve `loaded` whenever no slot can be served."""
        desk = self.desk(model)
        with desk.lock:
            desk.fallback = Running(loaded, (), "")
            empty = desk.running is None
        if empty:
            self.switch(Serving(model, "", ""))

    def lease(self, model: str) -> Lease:
        """One version for one request; raises `NotReadyError` if there has never been any."""
        desk = self.desk(model)
        with desk.lock:
            running, serving = desk.running, desk.serving
            if running is None or serving is None:
                raise NotReadyError(f"expected a model for {model}, got none yet: nothing installed and no fallback")
            running.leases += 1
        return Lease(self, desk, running, serving)

    def give_back(self, desk: Desk, running: Running) -> None:
        """The end of a lease: the last one of a retired model frees it."""
        with desk.lock:
            running.leases -= 1
            last = running.retired and running.leases == 0
        if last:
            running.loaded.close()

    def infer(self, desk: Desk, running: Running, lease: Lease, inputs: Mapping[str, Any]) -> Result:
        """Run, time and count one inference."""
        started = self._clock.monotonic()
        try:
            outputs = running.loaded.infer(inputs)
        except Exception:
            with desk.lock:
                running.inferences += 1
                running.errors += 1
                desk.window(lease.serving, LOCAL_ROUTE, self._now()).failed()
            raise
        latency_ms = (self._clock.monotonic() - started) * 1_000.0
        confidence, is_nan = _confidence(outputs)
        now = self._now()
        with desk.lock:
            running.inferences += 1
            running.nan += is_nan
            desk.window(lease.serving, LOCAL_ROUTE, now).answered(latency_ms, confidence, is_nan=is_nan)
        nonce = f"{self._nonce_prefix}{next(self._nonces):08x}"
        shadow = desk.shadow
        if shadow is not None and desk.running is running and not desk.updating:
            shadow.offer(inputs, lambda: lease.top_label(outputs), nonce)
        return Result(self, lease, outputs, confidence, now, nonce)

    def rerouted(self, serving: Serving, route: str) -> None:
        """An answer came by another route: counted there, without a latency of its own."""
        desk = self.desk(serving.model)
        with desk.lock:
            desk.window(serving, route, self._now()).n += 1

    def referred(self, serving: Serving, *, agrees: bool) -> None:
        """A reference answer came for an inference of this version."""
        desk = self.desk(serving.model)
        with desk.lock:
            desk.window(serving, LOCAL_ROUTE, self._now()).referred(agrees=agrees)

    def measure(self, model: str, name: str, value: float) -> None:
        """Add to a custom metric of the open window."""
        desk = self.desk(model)
        with desk.lock:
            if desk.serving is not None:
                desk.window(desk.serving, LOCAL_ROUTE, self._now()).measured(name, value)

    def label(self, label: Label, prediction: PredictionId) -> None:
        """Keep a label until the agent fetches it, and let the shadow's answer be judged by it."""
        shadow = self.desk(prediction.model).shadow
        if shadow is not None:
            shadow.labelled(prediction.nonce, label.label)
        with self._lock:
            self._labels.append(label)


def _factory(model: str) -> Serving:
    return Serving(model, FACTORY_VERSION, "", reason="the application's own fallback: nothing is installed")


def _labels(slot: OpenSlot) -> tuple[str, ...]:
    """The lines of the bundle's label file."""
    file = slot.manifest.file_of_role(FileRole.LABELS)
    if file is None:
        return ()
    return tuple(slot.files[file.name].decode(errors="replace").splitlines())


def _confidence(outputs: Mapping[str, Any]) -> tuple[float, bool]:
    """The highest value of the first output, and whether any floating-point output has a NaN (which `max` passes on)."""
    confidence, is_nan, first = 0.0, False, True
    for value in outputs.values():
        kind = getattr(getattr(value, "dtype", None), "kind", "")
        if kind == "f" and value.size:
            top = float(value.max())
            is_nan = is_nan or math.isnan(top)
            if first and math.isfinite(top):
                confidence = max(0.0, top)
        first = False
    return confidence, is_nan
