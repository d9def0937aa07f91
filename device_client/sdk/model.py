"""One model as the application sees it."""

from collections.abc import Callable
from typing import TypeVar

from device_client.ports import Serving
from device_client.sdk.host import Lease, Listener, ModelHost
from device_client.wire.messages import Label
from device_client.wire.predictions import PredictionId

Value = TypeVar("Value", str, int, float, bool)


class ServedModel:
    """Whatever version of a model this device should run. Thread-safe."""

    def __init__(self, host: ModelHost, name: str, start: Callable[[], None]) -> None:
        self._host = host
        self._start = start
        self.name = name

    @property
    def ready(self) -> bool:
        """Whether `lease` would give a model now."""
        return self._host.desk(self.name).ready.is_set()

    @property
    def serving(self) -> Serving | None:
        """What the next lease gets, and why."""
        return self._host.serving(self.name)

    def start(self, timeout: float = 0.0) -> bool:
        """Start the client if nobody has, then wait at most `timeout` seconds for a model; says whether there is one."""
        self._start()
        return self._host.desk(self.name).ready.wait(timeout)

    def lease(self) -> Lease:
        """`with det.lease() as model:` pins one version. Raises `NotReadyError` only if there has never been one."""
        return self._host.lease(self.name)

    def on_update(self, listener: Listener) -> Listener:
        """Call `listener(old, new)` after each swap, in the agent's thread; usable as a decorator."""
        self._host.desk(self.name).listeners.append(listener)
        return listener

    def feedback(self, prediction: str, *, label: str, correct: bool | None = None, source: str = "app") -> None:
        """Say what a prediction should have been, now or days later.

        The id names the version that is credited. `correct` is worked out from the answer in the id; it must be given
        for predictions whose answer was too long to be carried there.
        """
        parsed = PredictionId.parse(prediction)
        if correct is None:
            if parsed.answer is None:
                raise ValueError(f"expected `correct` for a prediction that carries no answer, got only {label!r}")
            correct = parsed.answer == label
        self._host.label(Label(prediction, label, correct, source), parsed)

    def metric(self, name: str, value: float) -> None:
        """Add a measurement of the application's own to what is reported of the present version."""
        self._host.measure(self.name, name, value)

    def param(self, name: str, default: Value) -> Value:
        """A parameter that the signed assignment carries, in the type of its default; the default if it carries none."""
        serving = self.serving
        text = serving.parameters.get(name) if serving is not None else None
        if text is None:
            return default
        if isinstance(default, bool):
            return text.strip().lower() in {"1", "true", "yes", "on"}
        try:
            return type(default)(text)
        except ValueError:
            return default
