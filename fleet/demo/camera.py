"""The application that each device of the demo runs: a camera that reads digits and later learns who was right.

`modelfleet-device run --app fleet.demo.camera:serve` calls `serve(client)` in the device's process. It draws images
from the held-out pool, infers through a lease and hands in the writer's digit a little later, as a warehouse or a
clinic would. It knows nothing of rollouts. Its own count of what it saw fail is kept beside the device's state in
`camera.json`, as the witness against the fleet's figures.

How fast it works and how late labels come are read from the environment: `DEMO_IMAGES_PER_S`, `DEMO_LABEL_DELAY_S`.
"""

import json
import os
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import numpy as np

from fleet.demo import digits

MODEL = "vision.digits"
IMAGES_PER_S = 10.0
LABEL_DELAY_S = 2.0
WITNESS_EVERY_S = 1.0


class Prediction(Protocol):
    """What an inference gives back."""

    @property
    def id(self) -> str: ...

    @property
    def outputs(self) -> Mapping[str, np.ndarray]: ...

    def set(self, *, answer: str) -> None: ...


class Lease(Protocol):
    """One version of the model, for one request."""

    def infer(self, **inputs: np.ndarray) -> Prediction: ...


class ServedModel(Protocol):
    """The part of the device client's SDK that this application uses."""

    @property
    def ready(self) -> bool: ...

    def start(self, timeout: float) -> object: ...

    def lease(self) -> AbstractContextManager[Lease]: ...

    def feedback(self, prediction: str, *, label: str, source: str) -> None: ...


class Device(Protocol):
    """The client that `modelfleet-device run --app` hands over."""

    @property
    def device_id(self) -> str: ...

    @property
    def state_dir(self) -> Path: ...

    @property
    def stopping(self) -> bool: ...

    def model(self, name: str) -> ServedModel: ...


def serve(device: Device) -> None:
    """The demo's application: one camera."""
    watch(device, MODEL, device.state_dir / "camera.json")


def watch(device: Device, name: str, counts: Path) -> None:
    """Infer with one model until the device stops. An inference that raises is counted, never hidden."""
    rate = float(os.environ.get("DEMO_IMAGES_PER_S", IMAGES_PER_S))
    delay_s = float(os.environ.get("DEMO_LABEL_DELAY_S", LABEL_DELAY_S))
    model = device.model(name)
    model.start(timeout=0.0)
    witness = Witness(counts)
    late: deque[tuple[float, Callable[[], None]]] = deque()
    draws = digits.draws(digits.split(digits.load()).pool, device.device_id)
    while not device.stopping:
        started = time.monotonic()
        if model.ready:
            sample = next(draws)
            try:
                with model.lease() as lease:
                    prediction = lease.infer(image=sample.image.astype(np.float32).reshape(1, -1))
                prediction.set(answer=answer_of(prediction.outputs["scores"]))
            except Exception as error:  # noqa: BLE001 - the witness counts whatever the client lets through
                witness.failed(error)
            else:
                witness.served()
                late.append((started + delay_s, _labeller(model, prediction.id, str(sample.label))))
        while late and late[0][0] <= started:
            late.popleft()[1]()
        witness.write(started)
        time.sleep(max(0.0, 1.0 / rate - (time.monotonic() - started)))


def answer_of(scores: Sequence[float] | np.ndarray) -> str:
    """The digit with the highest score."""
    return str(int(np.argmax(np.asarray(scores))))


def _labeller(model: ServedModel, prediction: str, label: str) -> Callable[[], None]:
    return lambda: model.feedback(prediction, label=label, source="writer")


class Witness:
    """Counts inferences asked for and failed across restarts, in a small file that is replaced whole."""

    def __init__(self, path: Path) -> None:
        self._path = path
        earlier = json.loads(path.read_text()) if path.exists() else {}
        self._served = int(earlier.get("served", 0))
        self._failed = int(earlier.get("failed", 0))
        self._last_error = str(earlier.get("last_error", ""))
        self._written_at = 0.0

    def served(self) -> None:
        """Count an inference that was answered."""
        self._served += 1

    def failed(self, error: Exception) -> None:
        """Count an inference that was not."""
        self._failed += 1
        self._last_error = f"{type(error).__name__}: {error}"

    def write(self, now: float) -> None:
        """Put the counts on disk, at most once in `WITNESS_EVERY_S`."""
        if now - self._written_at < WITNESS_EVERY_S:
            return
        self._written_at = now
        draft = self._path.with_suffix(".part")
        draft.write_text(json.dumps({"served": self._served, "failed": self._failed, "last_error": self._last_error}))
        draft.replace(self._path)
