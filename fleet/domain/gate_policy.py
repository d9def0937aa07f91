"""What can stop a phase: the part of a policy that says which gates there are and where their limits lie.

Frozen values, JSON in, JSON out. A threshold that is misspelt or out of range is refused: it would be a gate that never
closes. What a gate says of a phase is `gate`'s; whether it can say anything on a given fleet is `plan`'s.

Units: shares and margins of built-in metrics are in [0, 1] here and in percentage points in JSON (`*_points`); margins
and limits of custom metrics are in the metric's own unit in both.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from device_client.wire.errors import MalformedMessageError
from device_client.wire.fields import Fields

POINTS: Final = 100.0  # percentage points in a share
YEAR_S: Final = 365 * 86_400.0
MAX_CUSTOM: Final = 16
CRASHES: Final = "crashes"  # devices that crashed; counted in crashes and hours
CUSTOM_PREFIX: Final = "custom."
CUSTOM_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_.-]{0,47}")
LARGEST: Final = 1e18


class Metric(StrEnum):
    """The metrics that every device measures. Each is a share: of labels, of comparisons, or of inferences."""

    ACCURACY = "accuracy"  # correct labels / labels
    AGREEMENT = "agreement"  # answers that agree with the shadow's or the cloud's / answers compared
    SLOW = "slow"  # inferences slower than the policy's `slow_ms` / inferences timed
    ERRORS = "errors"  # failed inferences / inferences
    NAN = "nan"  # inferences with NaN in the output / inferences


class Shape(StrEnum):
    """What one device's value of a metric is."""

    SHARE = "share"  # numerator / denominator, within [0, 1]
    RATIO = "ratio"  # a total per inference
    MEAN = "mean"  # the mean of the values measured


@dataclass(frozen=True)
class MeasuredGate:
    """A gate on something that devices measure.

    `margin` is how much worse the treated may be than the control; `max_ratio`, beside it, how many times worse: then a
    phase fails only when both are exceeded. `limit` holds for the treated alone. `metric` is a `Metric` or a custom
    metric's name behind `CUSTOM_PREFIX`.
    """

    name: str
    metric: str
    higher_is_better: bool
    margin: float | None
    limit: float | None
    min_per_device: int
    max_ratio: float | None = None
    shape: Shape = Shape.SHARE
    bounds: tuple[float, float] | None = None

    @property
    def is_custom(self) -> bool:
        """Whether the application declared the metric."""
        return self.metric.startswith(CUSTOM_PREFIX)


@dataclass(frozen=True)
class CrashGate:
    """Devices that crashed at least once: at most this share of the treated, this many times the control's rate."""

    max_share: float = 0.05
    max_ratio: float = 2.0


@dataclass(frozen=True)
class Gates:
    """Everything that can stop a phase. Installs and silence are always judged."""

    install_max_share: float = 0.1
    rollback_max_share: float | None = None
    silence_max_share: float = 0.2
    silence_grace_s: float = 900.0
    min_installed_share: float = 0.8
    crash: CrashGate | None = None
    measured: tuple[MeasuredGate, ...] = ()

    @property
    def comparative(self) -> tuple[MeasuredGate, ...]:
        """The gates that need a control."""
        return tuple(gate for gate in self.measured if gate.margin is not None)

    @property
    def metrics(self) -> dict[str, str]:
        """What has to be counted for these gates: metrics with their shapes."""
        counted = {gate.metric: gate.shape.value for gate in self.measured}
        return counted if self.crash is None else {**counted, CRASHES: Shape.SHARE.value}

    @property
    def custom(self) -> tuple[MeasuredGate, ...]:
        """The gates on the application's own metrics."""
        return tuple(gate for gate in self.measured if gate.is_custom)


@dataclass(frozen=True)
class _Builtin:
    """How a gate on a `Metric` is written in JSON."""

    metric: Metric
    limit_key: str
    count_key: str
    higher_is_better: bool = False
    has_ratio: bool = False


_BUILTINS: Final[Mapping[str, _Builtin]] = {
    "accuracy": _Builtin(Metric.ACCURACY, "min_share", "min_labels_per_device", higher_is_better=True),
    "agreement": _Builtin(Metric.AGREEMENT, "min_share", "min_compared_per_device", higher_is_better=True),
    "latency": _Builtin(Metric.SLOW, "max_slow_share", "min_inferences_per_device", has_ratio=True),
    "errors": _Builtin(Metric.ERRORS, "max_share", "min_inferences_per_device"),
    "nan": _Builtin(Metric.NAN, "max_share", "min_inferences_per_device"),
}
_OTHERS: Final[Mapping[str, frozenset[str]]] = {
    "install_failures": frozenset({"max_share", "min_installed_share"}),
    "rollbacks": frozenset({"max_share"}),
    "silence": frozenset({"grace_s", "max_share"}),
    "crashes": frozenset({"max_share", "max_ratio"}),
}
_CUSTOM_KEYS: Final = frozenset({"kind", "better", "margin", "limit", "min_per_device", "bounds"})
_NAMES: Final = frozenset({*_BUILTINS, *_OTHERS, "custom"})
_MIN_PER_DEVICE: Final = 20
_MAX_RATIO: Final = 1_000.0


def known(value: object, keys: frozenset[str], where: str) -> Fields:
    """The fields of an object that has no others; raises `MalformedMessageError` that names the strangers."""
    fields = Fields.of(value, where)
    unknown = sorted(set(value) - keys) if isinstance(value, dict) else []
    if unknown:
        raise MalformedMessageError(f"{where}: expected only {', '.join(sorted(keys))}, got {', '.join(unknown)[:80]}")
    return fields


def section(value: object, keys: frozenset[str], where: str) -> Fields:
    """The same of an object that may be absent. Nothing else stands for an empty one: `[]` or `false` is a mistake."""
    return known({} if value is None else value, keys, where)


def parse_gates(value: object) -> tuple[Gates, float | None]:
    """The gates, and the latency gate's threshold in milliseconds; raises `WireError` that says what was expected."""
    every = section(value, _NAMES, "policy.gates")
    default = Gates()
    other = {name: section(every.raw(name), keys, f"policy.gates.{name}") for name, keys in _OTHERS.items()}
    installs, rollbacks, silence = other["install_failures"], other["rollbacks"], other["silence"]
    measured: list[MeasuredGate] = []
    slow_ms: float | None = None
    for name, form in _BUILTINS.items():
        if not every.has(name):
            continue
        fields = known(every.raw(name), _builtin_keys(name, form), f"policy.gates.{name}")
        if form.metric is Metric.SLOW:
            slow_ms = fields.number("slow_ms", minimum=0.001, maximum=1e7)
        measured.append(_builtin(name, form, fields))
    measured += _custom(every.raw("custom"))
    return Gates(
        install_max_share=installs.number("max_share", maximum=1.0, default=default.install_max_share),
        min_installed_share=installs.number("min_installed_share", maximum=1.0, default=default.min_installed_share),
        rollback_max_share=rollbacks.number("max_share", maximum=1.0) if every.has("rollbacks") else None,
        silence_max_share=silence.number("max_share", maximum=1.0, default=default.silence_max_share),
        silence_grace_s=silence.number("grace_s", maximum=YEAR_S, default=default.silence_grace_s),
        crash=_crash(other["crashes"]) if every.has("crashes") else None,
        measured=tuple(measured),
    ), slow_ms


def encode_gates(gates: Gates, slow_ms: float) -> dict[str, object]:
    """The JSON form. A gate that is not there is null, so that it stays out also where a preset would bring it back."""
    encoded: dict[str, object] = {
        **dict.fromkeys(sorted(_NAMES)),
        "install_failures": {"max_share": gates.install_max_share, "min_installed_share": gates.min_installed_share},
        "silence": {"max_share": gates.silence_max_share, "grace_s": gates.silence_grace_s},
    }
    if gates.rollback_max_share is not None:
        encoded["rollbacks"] = {"max_share": gates.rollback_max_share}
    if gates.crash is not None:
        encoded["crashes"] = {"max_share": gates.crash.max_share, "max_ratio": gates.crash.max_ratio}
    for gate in gates.measured:
        if not gate.is_custom:
            encoded[gate.name] = _encode_builtin(gate, slow_ms)
    if gates.custom:
        encoded["custom"] = {gate.metric.removeprefix(CUSTOM_PREFIX): _encode_custom(gate) for gate in gates.custom}
    return encoded


def _builtin_keys(name: str, form: _Builtin) -> frozenset[str]:
    more = ["slow_ms", "max_ratio"] if name == "latency" else []
    return frozenset({"margin_points", form.limit_key, form.count_key, *more})


def _builtin(name: str, form: _Builtin, fields: Fields) -> MeasuredGate:
    margin = fields.number("margin_points", maximum=POINTS) / POINTS if fields.has("margin_points") else None
    limit = fields.number(form.limit_key, maximum=1.0) if fields.has(form.limit_key) else None
    ratio = fields.number("max_ratio", minimum=1.0, maximum=_MAX_RATIO) if fields.has("max_ratio") else None
    if margin is None and limit is None:
        raise MalformedMessageError(f"policy.gates.{name}: expected margin_points or {form.limit_key}, got neither")
    if ratio is not None and margin is None:
        raise MalformedMessageError(
            f"policy.gates.{name}: expected margin_points beside max_ratio, the least difference that matters; got none"
        )
    return MeasuredGate(
        name=name,
        metric=form.metric.value,
        higher_is_better=form.higher_is_better,
        margin=margin,
        limit=limit,
        min_per_device=fields.integer(form.count_key, minimum=1, default=_MIN_PER_DEVICE),
        max_ratio=ratio,
    )


def _encode_builtin(gate: MeasuredGate, slow_ms: float) -> dict[str, object]:
    form = _BUILTINS[gate.name]
    settings: dict[str, object] = {"slow_ms": slow_ms} if form.metric is Metric.SLOW else {}
    if gate.margin is not None:
        settings["margin_points"] = round(gate.margin * POINTS, 9)
    if gate.max_ratio is not None:
        settings["max_ratio"] = gate.max_ratio
    if gate.limit is not None:
        settings[form.limit_key] = gate.limit
    settings[form.count_key] = gate.min_per_device
    return settings


def _crash(fields: Fields) -> CrashGate:
    default = CrashGate()
    return CrashGate(
        max_share=fields.number("max_share", maximum=1.0, default=default.max_share),
        max_ratio=fields.number("max_ratio", minimum=1.0, maximum=_MAX_RATIO, default=default.max_ratio),
    )


def _custom(value: object) -> list[MeasuredGate]:
    """The application's metrics, by name."""
    if value is None:
        return []
    if not isinstance(value, dict) or len(value) > MAX_CUSTOM:
        raise MalformedMessageError(
            f"policy.gates.custom: expected an object of at most {MAX_CUSTOM} metrics, got {value!r:.60}"
        )
    return [_custom_gate(name, settings) for name, settings in sorted(value.items()) if settings is not None]


def _custom_gate(name: str, value: object) -> MeasuredGate:
    where = f"policy.gates.custom.{name:.64}"
    if CUSTOM_NAME.fullmatch(name) is None:
        raise MalformedMessageError(
            f"{where}: expected a name of 1 to 48 lower-case letters, digits, points, dashes and underscores"
        )
    fields = known(value, _CUSTOM_KEYS, where)
    shape = _one_of(fields, "kind", (Shape.RATIO.value, Shape.MEAN.value), where)
    better = _one_of(fields, "better", ("higher", "lower"), where)
    margin = fields.number("margin", maximum=LARGEST) if fields.has("margin") else None
    limit = fields.number("limit", minimum=-LARGEST, maximum=LARGEST) if fields.has("limit") else None
    if margin is None and limit is None:
        raise MalformedMessageError(f"{where}: expected margin or limit, got neither")
    return MeasuredGate(
        name=f"{CUSTOM_PREFIX}{name}",
        metric=f"{CUSTOM_PREFIX}{name}",
        higher_is_better=better == "higher",
        margin=margin,
        limit=limit,
        min_per_device=fields.integer("min_per_device", minimum=1, default=_MIN_PER_DEVICE),
        shape=Shape(shape),
        bounds=_bounds(fields.raw("bounds"), where),
    )


def _encode_custom(gate: MeasuredGate) -> dict[str, object]:
    settings: dict[str, object] = {
        "kind": gate.shape.value,
        "better": "higher" if gate.higher_is_better else "lower",
        "min_per_device": gate.min_per_device,
    }
    if gate.margin is not None:
        settings["margin"] = gate.margin
    if gate.limit is not None:
        settings["limit"] = gate.limit
    if gate.bounds is not None:
        settings["bounds"] = list(gate.bounds)
    return settings


def _one_of(fields: Fields, key: str, choices: Sequence[str], where: str) -> str:
    value = fields.text(key, max_chars=16, default="")
    if value not in choices:
        raise MalformedMessageError(f"{where}.{key}: expected {' or '.join(choices)}, got {value!r}")
    return value


def _bounds(value: object, where: str) -> tuple[float, float] | None:
    """The range that one device's value can lie in; what lies outside is left out."""
    if value is None:
        return None
    numbers = [item for item in value if type(item) in (int, float)] if isinstance(value, list) else []
    if len(numbers) != 2 or value != numbers or not -LARGEST <= numbers[0] < numbers[1] <= LARGEST:  # noqa: PLR2004
        raise MalformedMessageError(f"{where}.bounds: expected [lowest, highest], got {value!r:.60}")
    return float(numbers[0]), float(numbers[1])
