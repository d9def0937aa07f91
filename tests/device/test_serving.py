"""Leases, swaps, results, counting: what the application sees of a model."""

import threading
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from device_client.core.errors import LoadError, NotReadyError
from device_client.ports import OpenSlot, Serving
from device_client.sdk.host import ModelHost
from device_client.sdk.model import ServedModel
from device_client.wire.bundles import BundleFile, FileRole, Manifest
from device_client.wire.names import VariantName
from device_client.wire.predictions import PredictionId
from tests.device.rig import DEVICE, MODEL, FakeModel, FakeRuntime, HandClock, weights
from tests.fakes.update_server import sha256

ONE = np.array([[1.0]], dtype=np.float32)


class RecordingRuntime(FakeRuntime):
    """Remembers what it loaded, so that a test can see what was freed."""

    def __init__(self) -> None:
        self.loaded: list[FakeModel] = []

    def load(self, weights: bytes, manifest: Manifest) -> FakeModel:
        self.loaded.append(super().load(weights, manifest))
        return self.loaded[-1]


class Stage:
    """A host with a hand-turned clock, and slots made on the spot."""

    def __init__(self) -> None:
        self.clock = HandClock()
        self.runtime = RecordingRuntime()
        self.host = ModelHost(device_id=DEVICE, runtimes={"fake": self.runtime}, clock=self.clock)
        self.model = ServedModel(self.host, MODEL, lambda: None)

    def slot(self, version: str, kind: str = "good", labels: bytes | None = None) -> OpenSlot:
        files = {"model.bin": (FileRole.WEIGHTS, weights(float(version), kind=kind))}
        if labels is not None:
            files["labels.txt"] = (FileRole.LABELS, labels)
        listed = tuple(BundleFile(name, role, sha256(body), len(body)) for name, (role, body) in files.items())
        manifest = Manifest(MODEL, version, VariantName("fake", "fp32", "any"), "fake", listed)
        return OpenSlot(manifest, manifest.digest, {name: body for name, (_, body) in files.items()})

    def serve(self, version: str, revision: int = 1, **how: Any) -> OpenSlot:
        slot = self.slot(version, **how)
        self.host.prepare(slot)
        self.host.switch(self.label(slot, revision))
        return slot

    def closed(self) -> list[bool]:
        """Which of the loaded models were freed."""
        return [model.closed for model in self.runtime.loaded]

    @staticmethod
    def label(slot: OpenSlot, revision: int = 1, parameters: Mapping[str, str] | None = None) -> Serving:
        return Serving(
            MODEL, slot.manifest.version, slot.digest, revision, window_s=60.0, parameters=dict(parameters or {})
        )


@pytest.fixture
def stage() -> Stage:
    return Stage()


def test_lease__nothing_ever_installed__not_ready(stage: Stage) -> None:
    assert not stage.model.ready
    assert stage.model.start(timeout=0.0) is False
    with pytest.raises(NotReadyError):
        stage.model.lease()


def test_lease__swap_in_between__keeps_its_version_until_given_back(stage: Stage) -> None:
    stage.serve("1")
    with stage.model.lease() as held:
        stage.serve("2")
        assert held.version == "1"
        assert held.infer(x=ONE).outputs["y"][0, 0] == 2.0
        assert stage.closed() == [False, False]
        with stage.model.lease() as fresh:
            assert fresh.infer(x=ONE).outputs["y"][0, 0] == 3.0
    assert stage.closed() == [True, False]


def test_swaps__many_threads_inferring__no_failure_and_no_mixture() -> None:
    stage = Stage()
    stage.serve("1")
    stop = threading.Event()
    wrong: list[object] = []
    answers: set[tuple[str, float]] = set()

    def work() -> None:
        while not stop.is_set():
            try:
                with stage.model.lease() as lease:
                    first, second = (float(lease.infer(x=ONE).outputs["y"][0, 0]) for _ in range(2))
                    answers.add((lease.version, first))
                    if first != second:
                        wrong.append((lease.version, first, second))
            except Exception as error:  # noqa: BLE001 - whatever it is, it is what must not happen
                wrong.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for swap in range(60):
        stage.serve(str(1 + swap % 3), revision=swap)
        time.sleep(0.001)
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert answers <= {("1", 2.0), ("2", 3.0), ("3", 4.0)}
    assert sum(not model.closed for model in stage.runtime.loaded) == 1
    counted = sum(window.n for window, _ in stage.host.take_windows(everything=True))
    assert counted > 0


def test_switch__not_prepared__refused_and_old_one_serves(stage: Stage) -> None:
    stage.serve("1")
    with pytest.raises(LoadError):
        stage.host.switch(stage.label(stage.slot("2")))
    with stage.model.lease() as lease:
        assert lease.version == "1"


def test_switch__same_digest_under_new_label__same_model_in_memory(stage: Stage) -> None:
    slot = stage.serve("1")
    stage.host.switch(stage.label(slot, revision=7, parameters={"route_below": "0.25", "on": "true", "n": "x"}))
    assert len(stage.runtime.loaded) == 1
    assert stage.model.param("route_below", 0.6) == 0.25
    assert stage.model.param("on", False) is True
    assert stage.model.param("n", 5) == 5
    assert stage.model.param("absent", "default") == "default"


def test_switch__nothing_to_serve_but_a_fallback__fallback(stage: Stage) -> None:
    stage.host.set_fallback(MODEL, FakeModel(10.0, "good"))
    with stage.model.lease() as lease:
        assert (lease.version, lease.infer(x=ONE).outputs["y"][0, 0]) == ("factory", 11.0)
    stage.serve("1")
    stage.host.switch(Serving(MODEL, "", ""))
    with stage.model.lease() as lease:
        assert lease.infer(x=ONE).outputs["y"][0, 0] == 11.0


def test_on_update__listener_fails__swap_stands_and_others_hear(stage: Stage) -> None:
    heard: list[tuple[str | None, str]] = []

    @stage.model.on_update
    def broken(_old: Serving | None, _new: Serving) -> None:
        raise RuntimeError("the application's own trouble")

    @stage.model.on_update
    def changed(old: Serving | None, new: Serving) -> None:
        heard.append((old.version if old else None, new.version))

    slot = stage.serve("1")
    stage.host.switch(stage.label(slot, revision=2))
    stage.serve("2")
    assert heard == [(None, "1"), ("1", "2")]


# ---------------------------------------------------------------- results


def test_result__answer_confidence_id__as_the_model_said(stage: Stage) -> None:
    stage.serve("1", revision=5, labels=b"zero\none\ntwo\n")
    with stage.model.lease() as lease:
        result = lease.infer(x=np.array([[0.1, 0.7, 0.2]], dtype=np.float32))
    assert result.answer == "one"
    assert result.confidence == pytest.approx(1.7)
    told = PredictionId.parse(result.id)
    assert (told.device_id, told.model, told.version, told.revision, told.route, told.answer) == (
        DEVICE, MODEL, "1", 5, "local", "one",
    )  # fmt: skip


def test_result__set__answer_and_route_in_the_id(stage: Stage) -> None:
    stage.serve("1")
    with stage.model.lease() as lease:
        result = lease.infer(x=ONE)
    result.set(answer="scratch", route="cloud")
    told = PredictionId.parse(result.id)
    assert (told.answer, told.route) == ("scratch", "cloud")
    routes = {window.key.route: window.n for window, _ in stage.host.take_windows(everything=True)}
    assert routes == {"local": 1, "cloud": 1}


def test_results__ids__never_repeat(stage: Stage) -> None:
    stage.serve("1")
    with stage.model.lease() as lease:
        ids = {lease.infer(x=ONE).id for _ in range(500)}
    assert len(ids) == 500


def test_feedback__label_days_later__judged_by_the_answer_in_the_id(stage: Stage) -> None:
    stage.serve("1", labels=b"a\nb\n")
    with stage.model.lease() as lease:
        result = lease.infer(x=np.array([[0.0, 1.0]], dtype=np.float32))
    stage.model.feedback(result.id, label="b")
    stage.model.feedback(result.id, label="a", source="writer")
    assert [(label.correct, label.source) for label in stage.host.take_labels()] == [(True, "app"), (False, "writer")]
    assert stage.host.take_labels() == []


def test_feedback__no_answer_in_the_id__must_be_told(stage: Stage) -> None:
    stage.serve("1")
    with stage.model.lease() as lease:
        result = lease.infer(x=ONE)
    result.set(answer="x" * 200)
    with pytest.raises(ValueError, match="correct"):
        stage.model.feedback(result.id, label="y")
    stage.model.feedback(result.id, label="y", correct=False)


# ---------------------------------------------------------------- counting


def test_windows__inferences_errors_nan_metrics__counted_once(stage: Stage) -> None:
    stage.serve("1")
    with stage.model.lease() as lease:
        for _ in range(7):
            lease.infer(x=ONE)
        lease.infer(x=np.array([[np.nan]], dtype=np.float32))
        with pytest.raises(KeyError):
            lease.infer(z=ONE)
    stage.model.metric("rejects", 2.0)
    assert stage.host.take_windows() == []
    stage.clock.advance(61.0)
    ((window, _),) = stage.host.take_windows()
    assert (window.n, window.errors, window.nan, window.latency.total) == (9, 1, 1, 8)
    assert window.metrics == {"rejects": (1, 2.0, 4.0)}
    assert stage.host.take_windows(everything=True) == []
    activity = stage.host.activity(MODEL)
    assert (activity.inferences, activity.errors, activity.nan) == (9, 1, 1)


def test_windows__swap_in_the_middle__one_per_version_none_mixed(stage: Stage) -> None:
    stage.serve("1", revision=1)
    with stage.model.lease() as old:
        old.infer(x=ONE)
        stage.serve("2", revision=2)
        old.infer(x=ONE)
    with stage.model.lease() as new:
        new.infer(x=ONE)
    counts: dict[tuple[str, int], int] = {}
    for window, _ in stage.host.take_windows(everything=True):
        key = (window.key.version, window.key.revision)
        counts[key] = counts.get(key, 0) + window.n
    assert counts == {("1", 1): 2, ("2", 2): 1}


def test_windows__update_under_way__marked(stage: Stage) -> None:
    stage.serve("1")
    with stage.model.lease() as lease:
        lease.infer(x=ONE)
        stage.host.updating(MODEL, under_way=True)
        stage.host.updating(MODEL, under_way=False)
    assert [window.during_update for window, _ in stage.host.take_windows(everything=True)] == [True]
    with stage.model.lease() as lease:
        lease.infer(x=ONE)
    assert [window.during_update for window, _ in stage.host.take_windows(everything=True)] == [False]


def test_windows__clock_set_back__closed_all_the_same(stage: Stage) -> None:
    stage.serve("1")
    with stage.model.lease() as lease:
        lease.infer(x=ONE)
    stage.clock.advance(-86_400.0)
    assert len(stage.host.take_windows()) == 1


def test_windows__process_had_ended_without_a_stop__crash_counts_at_once_for_what_was_served(stage: Stage) -> None:
    stage.host.crashed(Serving(MODEL, "1", "a" * 64, revision=7))
    ((window, _),) = stage.host.take_windows()
    assert (window.key.version, window.key.revision, window.crashes, window.n) == ("1", 7, 1, 0)


def test_windows__answer_by_another_route__agreement_is_counted(stage: Stage) -> None:
    stage.serve("1", labels=b"zero\none\n")
    for answer, route in (("zero", "cloud"), ("one", "cloud"), ("one", None)):
        with stage.model.lease() as lease:
            lease.infer(x=ONE).set(answer=answer, route=route)
    windows = {window.key.route: window for window, _ in stage.host.take_windows(everything=True)}
    assert (windows["local"].compared, windows["local"].agreed) == (2, 1)
    assert windows["cloud"].compared == 0
