"""The policy of a rollout: phases, gates, and how devices carry it out. Frozen; JSON in, JSON out.

`RolloutPolicy.parse` refuses what it does not know: a gate with a misspelt threshold would be a gate that never closes.
Whether a policy can work on a given fleet is `plan.validate`'s question, not this module's.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from device_client.wire.director import DevicePolicy
from device_client.wire.errors import WireError
from device_client.wire.fields import Fields
from fleet.domain.approvals import MAX_APPROVALS
from fleet.domain.errors import InvalidInputError
from fleet.domain.filters.filter import Filter
from fleet.domain.filters.syntax import MAX_CHARS as MAX_FILTER_CHARS
from fleet.domain.gate_policy import YEAR_S, Gates, encode_gates, known, parse_gates
from fleet.domain.presets import PRESETS

MAX_PHASES: Final = 32
MAX_NAMES: Final = 64
MAX_PARAMETERS: Final = 100
DAY_S: Final = 86_400.0


class OnFail(StrEnum):
    """What a failed gate does."""

    REVERT = "revert"
    HOLD = "hold"


@dataclass(frozen=True)
class Phase:
    """One step: this share of the population is treated, for at least and at most so long."""

    share: float
    min_duration_s: float
    deadline_s: float


@dataclass(frozen=True)
class RolloutPolicy:
    """How one version reaches its population. Shares in [0, 1], durations in seconds."""

    phases: tuple[Phase, ...]
    preset: str = ""
    control_share: float = 0.5
    gates: Gates = field(default_factory=Gates)
    alpha: float = 0.01
    on_fail: OnFail = OnFail.REVERT
    auto_advance: bool = True
    hardware_classes: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    filter: Filter | None = None
    active_within_s: float = 7 * DAY_S
    device: DevicePolicy = field(default_factory=DevicePolicy)
    parameters: Mapping[str, str] = field(default_factory=dict)
    allow_delta: bool = True
    delta_wait_s: float = 30.0
    jitter_s: float = 0.0
    priority: int = 0
    revert_deadline_s: float = DAY_S
    approvals: int = 0

    @property
    def is_fitted(self) -> bool:
        """Whether the phases come from a preset, and so may be fitted to the fleet's size."""
        return bool(self.preset)

    @classmethod
    def parse(cls, value: object) -> "RolloutPolicy":
        """Read a policy, or the name of a preset; raises `InvalidInputError` that names field, expected and got."""
        document = _with_preset(value)
        try:
            return _policy(document)
        except WireError as error:
            raise InvalidInputError("policy_invalid", str(error)) from error

    def encode(self) -> dict[str, object]:
        """The JSON form; `parse` reads it back to an equal policy."""
        return {
            "preset": self.preset,
            "phases": [
                {"share": item.share, "min_duration_s": item.min_duration_s, "deadline_s": item.deadline_s}
                for item in self.phases
            ],
            "control_share": self.control_share,
            "gates": encode_gates(self.gates, self.device.slow_ms),
            "alpha": self.alpha,
            "on_fail": self.on_fail.value,
            "on_inconclusive": "hold",
            "auto_advance": self.auto_advance,
            "population": {
                "hardware_classes": list(self.hardware_classes),
                "groups": list(self.groups),
                "filter": "" if self.filter is None else self.filter.text,
                "active_within_s": self.active_within_s,
            },
            "device": self.device.encode(),
            "parameters": dict(self.parameters),
            "allow_delta": self.allow_delta,
            "delta_wait_s": self.delta_wait_s,
            "jitter_s": self.jitter_s,
            "priority": self.priority,
            "revert_deadline_s": self.revert_deadline_s,
            "approvals": self.approvals,
        }


_KEYS: Final = frozenset(
    {
        *("preset", "phases", "control_share", "gates", "alpha", "on_fail", "on_inconclusive", "auto_advance"),
        *("population", "device", "parameters", "allow_delta", "delta_wait_s", "jitter_s", "priority"),
        *("revert_deadline_s", "approvals"),
    }
)
_PHASE_KEYS: Final = frozenset({"share", "min_duration_s", "deadline_s"})
_POPULATION_KEYS: Final = frozenset({"hardware_classes", "groups", "filter", "active_within_s"})
_DEVICE_KEYS: Final = frozenset(DevicePolicy.__dataclass_fields__)


def _with_preset(value: object) -> dict[str, object]:
    """The document with what its preset says filled in. A gate given as null is taken out."""
    document: object = {"preset": value} if isinstance(value, str) else value
    if not isinstance(document, dict):
        raise InvalidInputError("policy_invalid", f"policy: expected an object or a preset's name, got {value!r:.60}")
    name = document.get("preset") or ""
    if name and (not isinstance(name, str) or name not in PRESETS):
        raise InvalidInputError(
            "policy_invalid", f"policy.preset: expected one of {', '.join(sorted(PRESETS))}, got {name!r:.60}"
        )
    if not name and not document.get("phases"):
        raise InvalidInputError("policy_invalid", "policy: expected phases or a preset, got neither")
    merged: dict[str, object] = {**(PRESETS[name] if name else {}), **document}
    gates, preset_gates = document.get("gates"), PRESETS[name].get("gates", {}) if name else {}
    if isinstance(gates, dict) and isinstance(preset_gates, dict):
        merged["gates"] = {
            gate: settings for gate, settings in {**preset_gates, **gates}.items() if settings is not None
        }
    if document.get("phases") and name and document["phases"] != PRESETS[name]["phases"]:
        merged["preset"] = ""  # own phases are meant as written and are not fitted
    return merged


def _policy(document: dict[str, object]) -> RolloutPolicy:
    fields = known(document, _KEYS, "policy")
    default = RolloutPolicy(phases=())
    population = known(document.get("population") or {}, _POPULATION_KEYS, "policy.population")
    gates, slow_ms = parse_gates(document.get("gates") or {})
    device_value = document.get("device") or {}
    device = DevicePolicy.parse(known(device_value, _DEVICE_KEYS, "policy.device"))
    if slow_ms is not None:
        if isinstance(device_value, dict) and device_value.get("slow_ms", slow_ms) != slow_ms:
            raise InvalidInputError(
                "policy_invalid",
                f"policy.device.slow_ms: expected {slow_ms}, as in the latency gate, got {device.slow_ms}",
            )
        device = replace(device, slow_ms=slow_ms)
    if fields.text("on_inconclusive", default="hold") != "hold":
        raise InvalidInputError("policy_invalid", "policy.on_inconclusive: expected hold: no evidence is not a pass")
    return RolloutPolicy(
        phases=tuple(
            _phase(item, f"policy.phases[{index}]") for index, item in enumerate(_list(document.get("phases")))
        ),
        preset=fields.text("preset", max_chars=32, default=""),
        control_share=fields.number("control_share", maximum=1.0, default=default.control_share),
        gates=gates,
        alpha=fields.number("alpha", minimum=1e-6, maximum=0.2, default=default.alpha),
        on_fail=_on_fail(fields),
        auto_advance=fields.flag("auto_advance", default=default.auto_advance),
        hardware_classes=population.texts("hardware_classes", max_items=MAX_NAMES, max_chars=63),
        groups=population.texts("groups", max_items=MAX_NAMES, max_chars=63),
        filter=Filter.parse(population.text("filter", max_chars=MAX_FILTER_CHARS, default="")),
        active_within_s=population.number(
            "active_within_s", minimum=1, maximum=YEAR_S, default=default.active_within_s
        ),
        device=device,
        parameters=fields.pairs("parameters", max_items=MAX_PARAMETERS),
        allow_delta=fields.flag("allow_delta", default=default.allow_delta),
        delta_wait_s=fields.number("delta_wait_s", maximum=DAY_S, default=default.delta_wait_s),
        jitter_s=fields.number("jitter_s", maximum=DAY_S, default=default.jitter_s),
        priority=fields.integer("priority", minimum=-1_000, maximum=1_000, default=default.priority),
        revert_deadline_s=fields.number(
            "revert_deadline_s", minimum=1, maximum=YEAR_S, default=default.revert_deadline_s
        ),
        approvals=fields.integer("approvals", maximum=MAX_APPROVALS, default=default.approvals),
    )


def _list(value: object) -> list[object]:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_PHASES:
        raise InvalidInputError(
            "policy_invalid", f"policy.phases: expected 1 to {MAX_PHASES} phases, got {value!r:.60}"
        )
    return value


def _phase(value: object, where: str) -> Phase:
    fields = known(value, _PHASE_KEYS, where)
    return Phase(
        share=fields.number("share", minimum=1e-6, maximum=1.0),
        min_duration_s=fields.number("min_duration_s", maximum=YEAR_S, default=0.0),
        deadline_s=fields.number("deadline_s", minimum=1, maximum=YEAR_S, default=7 * DAY_S),
    )


def _on_fail(fields: Fields) -> OnFail:
    value = fields.text("on_fail", max_chars=16, default=OnFail.REVERT.value)
    if value not in OnFail._value2member_map_:
        raise InvalidInputError("policy_invalid", f"policy.on_fail: expected revert or hold, got {value!r}")
    return OnFail(value)
