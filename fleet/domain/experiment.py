"""What an experiment compares: arms with weights, success metrics, guardrails, time. Frozen; JSON in, JSON out.

Treatments take the first buckets, in the order in which they are written, and the control the last ones before the
holdback. So a rollout of the winner on the same seed begins with the devices that already run it, and reaches the
control last. What the experiment shares with a rollout (population, device policy, guardrails as gates) is read by
`RolloutPolicy`, so that one word means one thing.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from device_client.wire.bucketing import BUCKETS, BucketRange
from device_client.wire.errors import MalformedMessageError, WireError
from device_client.wire.fields import Fields
from device_client.wire.limits import MAX_RANGES_PER_RULE
from device_client.wire.shadow import ShadowBudget
from fleet.domain.errors import InvalidInputError
from fleet.domain.gate_policy import (
    CRASHES,
    YEAR_S,
    Gates,
    MeasuredGate,
    Metric,
    Shape,
    encode_gates,
    known,
    parse_gates,
)
from fleet.domain.phases import DAY_S
from fleet.domain.policy import RolloutPolicy

MAX_ARMS: Final = MAX_RANGES_PER_RULE  # one plan notice calls all of them
MAX_WEIGHT: Final = 1e6
ARM_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_SHARED: Final = ("population", "device", "parameters", "allow_delta", "delta_wait_s", "jitter_s", "priority")
_OWN: Final = (
    *("arms", "control", "share", "holdback", "success", "guardrails", "alpha", "power"),
    *("min_duration_s", "duration_s", "shadow"),
)
_ARM_KEYS: Final = frozenset({"name", "version", "weight"})


@dataclass(frozen=True)
class ArmSpec:
    """One arm. A weight of zero gives it no devices: it is declared, and counts in no comparison."""

    name: str
    version: str
    weight: float


@dataclass(frozen=True)
class ExperimentSpec:
    """Shares and weights as of the buckets, durations in seconds.

    `success` are the metrics of which at least one must be better; none means that passing the guardrails is enough.
    Their `margin` is the smallest effect that is worth finding, for the plan alone. `alpha` is the chance that a
    version without merit is declared better, over all arms, success metrics and classes and all looks. With a `shadow`
    budget nobody is served anything new: the arms' devices run the candidate beside the champion, which is the control.
    """

    arms: tuple[ArmSpec, ...]
    control: str
    success: tuple[MeasuredGate, ...]
    policy: RolloutPolicy
    share: float = 1.0
    holdback: float = 0.0
    alpha: float = 0.05
    power: float = 0.8
    min_duration_s: float = 0.0
    duration_s: float = 14 * DAY_S
    shadow: ShadowBudget | None = None

    @property
    def guardrails(self) -> tuple[MeasuredGate, ...]:
        """What may not get worse than the control by more than its margin; of a shadow, limits count as well."""
        return self.policy.gates.comparative if self.shadow is None else self.policy.gates.measured

    @property
    def metrics(self) -> dict[str, str]:
        """What is counted, with shapes: all that every device measures, because who reports matters, and the custom ones."""
        if self.shadow is not None:
            return {f"shadow.{item.value}": Shape.SHARE.value for item in Metric}
        built_in = dict.fromkeys((CRASHES, *(item.value for item in Metric)), Shape.SHARE.value)
        return built_in | {item.metric: item.shape.value for item in (*self.guardrails, *self.success)}

    @property
    def treatments(self) -> tuple[ArmSpec, ...]:
        """The arms that are compared with the control."""
        return tuple(arm for arm in self.arms if arm.name != self.control and arm.weight > 0)

    @property
    def control_arm(self) -> ArmSpec:
        """The arm that the others are compared with."""
        return next(arm for arm in self.arms if arm.name == self.control)

    @classmethod
    def parse(cls, value: object) -> "ExperimentSpec":
        """Read a specification; raises `InvalidInputError` that names field, expected and got."""
        try:
            return _spec(known(value, frozenset({*_OWN, *_SHARED}), "experiment"), value)
        except WireError as error:
            raise InvalidInputError("experiment_invalid", str(error)) from error
        except InvalidInputError as error:
            # The shared part is read as a policy's.
            message = error.message.replace("policy.gates", "experiment.guardrails").replace("policy", "experiment")
            raise InvalidInputError("experiment_invalid", message) from error

    def encode(self) -> dict[str, object]:
        """The JSON form; `parse` reads it back to an equal specification."""
        policy = self.policy.encode()
        slow_ms = self.policy.device.slow_ms
        return {
            "arms": [{"name": arm.name, "version": arm.version, "weight": arm.weight} for arm in self.arms],
            "control": self.control,
            "share": self.share,
            "holdback": self.holdback,
            "success": _encode_success(self.success, slow_ms),
            "guardrails": policy["gates"],
            "alpha": self.alpha,
            "power": self.power,
            "min_duration_s": self.min_duration_s,
            "duration_s": self.duration_s,
            **({} if self.shadow is None else {"shadow": self.shadow.encode()}),
            **{key: policy[key] for key in _SHARED},
        }


def layout(spec: ExperimentSpec) -> tuple[tuple[ArmSpec, BucketRange], ...]:
    """The buckets of every arm: disjoint, and fixed for the life of the experiment."""
    whole = sum(arm.weight for arm in spec.arms)
    per_weight = spec.share * BUCKETS / whole
    found: list[tuple[ArmSpec, BucketRange]] = []
    start, done = 0, 0.0
    for arm in spec.arms:
        if arm.name == spec.control:
            continue
        done += arm.weight
        end = round(done * per_weight)
        found.append((arm, BucketRange(start, end)))
        start = end
    last = BUCKETS - round(spec.holdback * BUCKETS)
    control = BucketRange(max(start, last - round(spec.control_arm.weight * per_weight)), last)
    return (*found, (spec.control_arm, control))


def _spec(fields: Fields, document: object) -> ExperimentSpec:
    raw = document if isinstance(document, dict) else {}
    fields.children("arms", max_items=MAX_ARMS)  # a list of objects, and not too many
    arms = tuple(_arm(item, f"experiment.arms[{index}]") for index, item in enumerate(raw.get("arms") or ()))
    control = fields.text("control", max_chars=32, default=arms[0].name if arms else "")
    success, slow_ms = _success(fields.raw("success"))
    guardrails = _object(fields.raw("guardrails"), "experiment.guardrails")
    shared = {key: raw[key] for key in _SHARED if key in raw}
    duration_s = fields.number("duration_s", minimum=1, maximum=YEAR_S, default=ExperimentSpec.duration_s)
    policy = RolloutPolicy.parse(
        {
            **shared,
            "phases": [{"share": 1.0, "deadline_s": duration_s}],
            "control_share": 0.0,
            "gates": guardrails,
            **({} if slow_ms is None else {"device": _with_slo(shared.get("device"), slow_ms, guardrails)}),
        }
    )
    spec = ExperimentSpec(
        arms=arms,
        control=control,
        success=success,
        policy=policy,
        share=fields.number("share", minimum=1e-6, maximum=1.0, default=1.0),
        holdback=fields.number("holdback", maximum=0.9, default=0.0),
        alpha=fields.number("alpha", minimum=1e-6, maximum=0.2, default=ExperimentSpec.alpha),
        power=fields.number("power", minimum=0.5, maximum=0.999, default=ExperimentSpec.power),
        min_duration_s=fields.number("min_duration_s", maximum=YEAR_S, default=0.0),
        duration_s=duration_s,
        shadow=_budget(fields.raw("shadow")),
    )
    _check(spec)
    return spec


def _arm(value: object, where: str) -> ArmSpec:
    fields = known(value, _ARM_KEYS, where)
    name = fields.text("name", max_chars=32)
    if ARM_NAME.fullmatch(name) is None:
        raise MalformedMessageError(f"{where}.name: expected 1 to 32 lower-case letters, digits, dashes, got {name!r}")
    return ArmSpec(
        name=name,
        version=fields.text("version", max_chars=64),
        weight=fields.number("weight", maximum=MAX_WEIGHT, default=1.0),
    )


def _check(spec: ExperimentSpec) -> None:
    """What does not hold together, whatever the fleet."""
    names = [arm.name for arm in spec.arms]
    weighty = [arm.name for arm in spec.arms if arm.weight > 0]
    problem = ""
    if len(set(names)) != len(names):
        problem = f"experiment.arms: expected different names, got {', '.join(names)}"
    elif not spec.treatments or spec.control not in (names if spec.shadow is not None else weighty):
        problem = (
            f"experiment.arms: expected a control and another arm with a weight, got control {spec.control!r} "
            f"and {', '.join(weighty) or 'none'}"
        )
    elif spec.share + spec.holdback > 1:
        problem = f"experiment.holdback: expected share and holdback of at most 1 together, got {spec.share:g} and {spec.holdback:g}"
    elif spec.duration_s <= spec.min_duration_s:
        problem = f"experiment.duration_s: expected more than min_duration_s, {spec.min_duration_s:g}, got {spec.duration_s:g}"
    elif not spec.success and not spec.guardrails:
        problem = "experiment: expected a success metric or a guardrail with a margin, got neither"
    else:
        problem = _empty(spec) or (_contradicting(spec) if spec.shadow is None else _unfit_for_shadow(spec))
    if problem:
        raise InvalidInputError("experiment_invalid", problem)


def _empty(spec: ExperimentSpec) -> str:
    """A weight so small that no bucket is left for it would be an arm that nobody can be in."""
    names = [arm.name for arm, buckets in layout(spec) if arm.weight > 0 and buckets.start >= buckets.end]
    least = 1 / BUCKETS
    return (
        f"experiment.arms: expected a share of at least {least:g} for each arm, got less for {', '.join(names)}"
        if names
        else ""
    )


def _unfit_for_shadow(spec: ExperimentSpec) -> str:
    """The champion's accuracy is a difference, on the same inputs; all else is the candidate's own, against a limit."""
    if any(item.metric != Metric.ACCURACY for item in spec.success):
        return "experiment.success: expected accuracy alone, as a shadow is compared by, got others"
    for item in spec.guardrails:
        where = f"experiment.guardrails.{item.name}"
        if item.is_custom:
            return f"{where}: expected what a shadow measures: accuracy, agreement, latency, errors or nan"
        if item.metric == Metric.ACCURACY and (item.margin is None or item.limit is not None):
            return f"{where}: expected margin_points alone, against the champion on the same inputs"
        if item.metric != Metric.ACCURACY and (item.limit is None or item.margin is not None):
            return f"{where}: expected a limit and no margin: it is the candidate's own"
    return ""


def _budget(value: object) -> ShadowBudget | None:
    if value is None:
        return None
    return ShadowBudget.parse(
        known(value, frozenset({"inference_share", "time_share", "ram_bytes"}), "experiment.shadow")
    )


def _contradicting(spec: ExperimentSpec) -> str:
    """A metric is counted in one way, whatever it is asked for."""
    asked = {item.metric: item for item in spec.guardrails}
    for item in spec.success:
        other = asked.get(item.metric)
        if other is not None and (item.shape, item.higher_is_better) != (other.shape, other.higher_is_better):
            return f"experiment.success.{item.name}: expected kind and better as in the guardrails, got others"
    return ""


def _success(value: object) -> tuple[tuple[MeasuredGate, ...], float | None]:
    """Success metrics are written like gates, with the effect to be found in the place of the margin."""
    every = _object(value, "experiment.success")
    custom = _object(every.get("custom"), "experiment.success.custom")
    asked: dict[str, object] = {
        name: _with_margin(settings, f"experiment.success.{name:.64}", "effect_points", "margin_points")
        for name, settings in every.items()
        if name != "custom"
    }
    if custom:
        asked["custom"] = {
            name: _with_margin(settings, f"experiment.success.custom.{name:.64}", "effect", "margin")
            for name, settings in custom.items()
        }
    try:
        gates, slow_ms = parse_gates(asked)
    except WireError as error:
        raise MalformedMessageError(str(error).replace("policy.gates", "experiment.success")) from error
    found = {item.name for item in gates.measured if not item.is_custom}
    others = sorted(set(asked) - found - {"custom"})
    if others:
        raise MalformedMessageError(
            f"experiment.success: expected metrics that devices measure, got {', '.join(others)}"
        )
    return gates.measured, slow_ms


def _with_margin(settings: object, where: str, effect: str, margin: str) -> dict[str, object]:
    found = _object(settings, where)
    if effect not in found or not {margin, "max_ratio"}.isdisjoint(found):
        raise MalformedMessageError(f"{where}: expected {effect}, the smallest effect worth finding, and no margin")
    return {(margin if key == effect else key): item for key, item in found.items()}


def _encode_success(success: tuple[MeasuredGate, ...], slow_ms: float) -> dict[str, object]:
    encoded = encode_gates(Gates(measured=success), slow_ms)
    names = {item.name for item in success}
    found: dict[str, object] = {}
    for name, settings in encoded.items():
        if name in names and isinstance(settings, Mapping):
            found[name] = {("effect_points" if key == "margin_points" else key): item for key, item in settings.items()}
    custom = encoded.get("custom")
    if isinstance(custom, Mapping):
        found["custom"] = {
            name: {("effect" if key == "margin" else key): item for key, item in settings.items()}
            for name, settings in custom.items()
        }
    return found


def _with_slo(device: object, slow_ms: float, guardrails: Mapping[str, object]) -> object:
    """The device policy with the latency threshold of the success metric, which nothing else may contradict."""
    given = _object(device, "experiment.device")
    latency = guardrails.get("latency")
    others = (given.get("slow_ms"), latency.get("slow_ms") if isinstance(latency, dict) else None)
    for other in others:
        if other is not None and other != slow_ms:
            raise MalformedMessageError(
                f"experiment.success.latency.slow_ms: expected {other}, as elsewhere in the experiment, got {slow_ms:g}"
            )
    return {**given, "slow_ms": slow_ms}


def _object(value: object, where: str) -> dict[str, object]:
    """A JSON object; absent means empty."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise MalformedMessageError(f"{where}: expected an object, got {type(value).__name__}")
    return value
