"""The pure rest of the client: probation, back-off, golden samples, plan notices, suitability, vitals."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_client.core import acceptance, vitals
from device_client.core.acceptance import SignedTarget
from device_client.core.backoff import Backoff
from device_client.core.deployment import Patch, Target
from device_client.core.errors import BindingError, IncompatibleError, NotAuthorisedError, SelfTestError
from device_client.core.golden import Golden, examine
from device_client.core.notices import advise
from device_client.core.probation import Activity, Verdict, judge
from device_client.core.profile import Profile
from device_client.core.vitals import Window, WindowKey
from device_client.wire.bucketing import BUCKETS, BucketRange, bucket
from device_client.wire.bundles import BundleFile, Contract, FileRole, Manifest, Requirements, Tensor
from device_client.wire.director import Arm, Assigned, Binding, DeltaOffer, DevicePolicy
from device_client.wire.golden import MAX_GOLDEN_NAMES, MAX_GOLDEN_VALUES
from device_client.wire.messages import Capabilities, MessageKey, PlanNotice, PlanRule, RuleState, TelemetryWindow
from device_client.wire.names import VariantName

POLICY = DevicePolicy(probation_s=10.0, probation_inferences=20, probation_max_errors=3)


@pytest.mark.parametrize(
    ("activity", "elapsed_s", "verdict"),
    [
        (Activity(), 9.9, Verdict.WAIT),
        (Activity(), 10.0, Verdict.PASS),
        (Activity(19), 10.0, Verdict.WAIT),
        (Activity(20), 10.0, Verdict.PASS),
        (Activity(19), 100.0, Verdict.PASS),
        (Activity(100, errors=3), 10.0, Verdict.PASS),
        (Activity(100, errors=2, nan=2), 0.1, Verdict.TRIP),
        (Activity(100, nan=4), 50.0, Verdict.TRIP),
    ],
)
def test_judge__activity_and_time__gives_the_verdict(activity: Activity, elapsed_s: float, verdict: Verdict) -> None:
    assert judge(POLICY, activity, elapsed_s)[0] is verdict


@given(st.integers(0, 500), st.floats(0, 0.999))
def test_backoff__any_attempt__within_its_bounds(attempt: int, dice: float) -> None:
    backoff = Backoff(least_s=0.5, first_s=1.0, most_s=60.0)
    assert 0.5 <= backoff.wait_s(attempt, dice) <= 60.0


# ---------------------------------------------------------------- golden samples


def golden(**changes: Any) -> bytes:
    document = {"inputs": {"x": [[0.0], [1.0]]}, "outputs": {"y": [[1.0], [2.0]]}, "atol": 0.01, "rtol": 0.0}
    return json.dumps(document | changes).encode()


def plus(bias: float) -> Any:
    return lambda inputs: {"y": [[value + bias for value in inputs["x"]]]}


def still() -> float:
    return 0.0


def test_examine__answers_within_tolerance__passes() -> None:
    examine(Golden.parse(golden()), plus(1.005), still)


@pytest.mark.parametrize(
    "infer",
    [
        plus(1.02),
        lambda _: {"y": [[float("nan")]]},
        lambda _: {"z": [[1.0]]},
        lambda _: {"y": [[1.0, 2.0]]},
    ],
    ids=["off", "nan", "other-output", "other-shape"],
)
def test_examine__wrong_answer__refused(infer: Any) -> None:
    with pytest.raises(SelfTestError):
        examine(Golden.parse(golden()), infer, still)


def test_examine__same_answer_to_all__refused_even_within_tolerance() -> None:
    with pytest.raises(SelfTestError, match="same answer"):
        examine(Golden.parse(golden(atol=5.0)), lambda _: {"y": [[1.5]]}, still)


def test_examine__answer_takes_far_too_long__refused() -> None:
    times = iter([0.0, 31.0])
    with pytest.raises(SelfTestError, match="within 30 s"):
        examine(Golden.parse(golden()), plus(1.0), lambda: next(times))


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"[]",
        golden(inputs={}),
        golden(outputs={"y": [[1.0]]}),
        golden(inputs={"x": []}, outputs={"y": []}),
        golden(atol="big"),
        golden(inputs={"x": 3}),
        golden(outputs={"y": [["a"], ["b"]]}),
        golden(outputs={"y": [[None], [{}]]}),
        golden(outputs={"y": [json.loads("[" * 17 + "]" * 17), [1.0]]}),
        b"[" * 100_000,
        golden(inputs={"x": [[]] * (MAX_GOLDEN_VALUES // 2)}),
        golden(inputs={"x": [{}] * MAX_GOLDEN_NAMES}),
    ],
)
def test_golden__malformed__one_named_error(document: bytes) -> None:
    with pytest.raises(SelfTestError):
        Golden.parse(document)


# ---------------------------------------------------------------- plan notices


def notice(state: RuleState, start: int, end: int, revision: int = 5) -> PlanNotice:
    return PlanNotice(revision, (PlanRule(state, "seed", (BucketRange(start, end),), 30.0),))


def test_advise__bucket_in_a_run_range__check_with_jitter() -> None:
    mine = bucket("seed", "dev-1")
    advice = advise(notice(RuleState.RUN, mine, mine + 1), "dev-1", 4)
    assert (advice.check, advice.pause, advice.jitter_s) == (True, False, 30.0)


def test_advise__bucket_in_a_halt_range__pause_and_check() -> None:
    advice = advise(notice(RuleState.HALT, 0, BUCKETS), "dev-1", 4)
    assert (advice.check, advice.pause) == (True, True)


def test_advise__bucket_outside_or_revision_seen__nothing() -> None:
    mine = bucket("seed", "dev-1")
    assert not advise(notice(RuleState.RUN, mine + 1, BUCKETS), "dev-1", 4).check
    assert not advise(notice(RuleState.RUN, 0, BUCKETS), "dev-1", 5).check


# ---------------------------------------------------------------- acceptance

NONCE = "ab" * 16


def binding(**changes: Any) -> SignedTarget:
    custom = Binding(NONCE, 1_700_000_000, 60).encode() | changes
    return SignedTarget("device/dev-1", "0" * 64, 0, custom)


def assigned(version: str = "2", path_version: str = "2") -> SignedTarget:
    said = Assigned("vision.digits", version, 1, "r-1", Arm.TREATED, 0, "a rule")
    return SignedTarget(f"models/vision.digits/{path_version}/onnx-fp32-any.json", "a" * 64, 100, said.encode())


def read(*targets: SignedTarget, **changes: Any) -> acceptance.DirectorAnswer:
    options: dict[str, Any] = {
        "device_id": "dev-1",
        "nonce": NONCE,
        "tickets": {},
        "director_version": 7,
        "has_delegations": False,
    }
    return acceptance.read_answer(targets, **(options | changes))


def test_read_answer__good_bundle__targets_by_model() -> None:
    offer = DeltaOffer("c" * 64, "d" * 64, "bsdiff4")
    path = f"deltas/{'c' * 16}-{'d' * 16}.bsdiff4"
    answer = read(binding(), assigned(), SignedTarget(path, "e" * 64, 50, offer.encode()))
    assert answer.targets["vision.digits"].patches == (Patch("c" * 64, "d" * 64, "bsdiff4", "e" * 64, 50),)


@pytest.mark.parametrize(
    ("targets", "changes"),
    [
        ((assigned(),), {}),
        ((replace(binding(), length=1),), {}),
        ((binding(nonce="cd" * 16),), {}),
        ((binding(v=2),), {}),
        ((binding(),), {"has_delegations": True}),
        ((binding(),), {"device_id": "dev-2"}),
        ((binding(), assigned(version="3")), {}),
        ((binding(), assigned(), replace(assigned(), path="models/vision.digits/2/onnx-int8-any.json")), {}),
        ((binding(), replace(assigned(), path="models/../../etc/passwd")), {}),
        ((binding(), SignedTarget("deltas/x.bsdiff4", "e" * 64, 5, DeltaOffer("c" * 64, "d" * 64, "x").encode())), {}),
    ],
)
def test_read_answer__not_for_us_or_incoherent__binding_error(targets: Any, changes: dict[str, Any]) -> None:
    with pytest.raises(BindingError):
        read(*targets, **changes)


def test_agree__image_repository_says_otherwise__not_authorised() -> None:
    target = read(binding(), assigned()).targets["vision.digits"]
    signed = SignedTarget(target.path, target.digest, target.length, {})
    acceptance.agree(target, signed)
    for other in (None, replace(signed, length=101), replace(signed, sha256="b" * 64)):
        with pytest.raises(NotAuthorisedError):
            acceptance.agree(target, other)


PROFILE = Profile(
    "dev-1",
    ("vision.digits",),
    hardware_class="edge",
    capabilities=Capabilities(runtimes={"onnx": "1.20"}, max_opset=17, max_ir_version=9, ram_bytes=1_000),
)
MANIFEST = Manifest(
    "vision.digits",
    "2",
    VariantName("onnx", "int8", "any"),
    "onnx",
    (BundleFile("model.onnx", FileRole.WEIGHTS, "a" * 64, 10),),
    Contract({"image": Tensor("float32", (1, 64))}, {"scores": Tensor("float32", (1, 10))}),
    Requirements(opset=17, ir_version=8, ram_bytes=900),
)
PATH = "models/vision.digits/2/onnx-int8-any.json"


def test_suit__everything_fits__accepted() -> None:
    acceptance.suit(
        MANIFEST, PATH, replace(PROFILE, precisions=("int8",), contracts={"vision.digits": MANIFEST.contract})
    )


@pytest.mark.parametrize(
    ("manifest", "path", "profile"),
    [
        (MANIFEST, PATH.replace("/2/", "/3/"), PROFILE),
        (replace(MANIFEST, model="vision.other"), PATH, PROFILE),
        (replace(MANIFEST, variant=VariantName("onnx", "int8", "coral")), PATH.replace("any", "coral"), PROFILE),
        (replace(MANIFEST, variant=VariantName("tflite", "int8", "any")), PATH.replace("onnx", "tflite"), PROFILE),
        (MANIFEST, PATH, replace(PROFILE, precisions=("fp32",))),
        (replace(MANIFEST, requirements=Requirements(opset=18)), PATH, PROFILE),
        (replace(MANIFEST, requirements=Requirements(ir_version=10)), PATH, PROFILE),
        (replace(MANIFEST, requirements=Requirements(ram_bytes=1_001)), PATH, PROFILE),
        (MANIFEST, PATH, replace(PROFILE, contracts={"vision.digits": Contract({"image": Tensor("uint8", (1, 64))})})),
        (MANIFEST, PATH, replace(PROFILE, contracts={"vision.digits": Contract({}, {"boxes": Tensor("float32", ())})})),
        (MANIFEST, PATH, replace(PROFILE, contracts={"vision.digits": Contract(labels_sha256="b" * 64)})),
    ],
    ids=["version", "model", "hardware", "runtime", "precision", "opset", "ir", "ram", "input", "output", "labels"],
)
def test_suit__something_does_not_fit__incompatible(manifest: Manifest, path: str, profile: Profile) -> None:
    with pytest.raises(IncompatibleError):
        acceptance.suit(manifest, path, profile)


def test_usable_patches__several_offered__those_we_asked_for_smallest_first() -> None:
    offers = tuple(
        Patch(old, "d" * 64, codec, "e" * 64, length)
        for old, codec, length in (
            ("a" * 64, "bsdiff4", 90),
            ("b" * 64, "tensor1-portable", 80),
            ("a" * 64, "tensor1", 5),
            ("a" * 64, "tensor9", 6),
            ("c" * 64, "bsdiff4", 1),
        )
    )
    target: Target = replace(read(binding(), assigned()).targets["vision.digits"], patches=offers)
    held, codecs = {"a" * 64, "b" * 64}, ("tensor1-portable", "bsdiff4")
    chosen = acceptance.usable_patches(target, "d" * 64, held=held, codecs=codecs)
    assert [patch.length for patch in chosen] == [80, 90], "tensor1 is known here, but was not advertised"
    assert acceptance.usable_patches(target, "f" * 64, held=held, codecs=codecs) == ()
    assert acceptance.usable_patches(target, "d" * 64, held=held, codecs=()) == ()


# ---------------------------------------------------------------- vitals

KEY = WindowKey("vision.digits", "1", "a" * 64, 4, "local")


def window(n: int, started_at: float = 100.0) -> Window:
    made = Window(KEY, started_at)
    for index in range(n):
        made.answered(10.0 + index, 0.5, is_nan=False)
    made.measured("rejects", 1.0)
    return made


def test_window__message__survives_the_wire() -> None:
    sent = window(5).message(MessageKey("ab" * 4, 1), ended_at=160.0, clock_trusted=True, rss_bytes=99)
    assert TelemetryWindow.parse(sent.encode()) == sent
    assert (sent.n, sent.duration_s, sent.latency_sum_ms, sent.confidence_sum) == (5, 60.0, 60.0, 2.5)


def test_merge__two_windows__adds_up() -> None:
    first, second = (
        made.message(MessageKey("ab" * 4, number), ended_at=ended, clock_trusted=True, rss_bytes=number)
        for number, made, ended in ((1, window(5), 160.0), (2, window(3, 200.0), 260.0))
    )
    both = vitals.merge(first, second, MessageKey("ab" * 4, 2))
    assert (both.n, both.latency.total, both.started_at, both.duration_s) == (8, 8, 100, 160.0)
    assert both.metrics["rejects"].n == 2
    assert TelemetryWindow.parse(both.encode()) == both


def test_window__too_many_metrics__refused_not_grown() -> None:
    made = Window(KEY, 0.0)
    assert all(made.measured(f"m{number}", 1.0) for number in range(32))
    assert not made.measured("one-more", 1.0)
    assert made.measured("m1", 1.0)
