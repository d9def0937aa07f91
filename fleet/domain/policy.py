"""The policy of a rollout: phases, gates, and how devices carry it out. Frozen; JSON in, JSON out.

`RolloutPolicy.parse` refuses what it does not know: a gate with a misspelt threshold would be a gate that never closes.
Whether a policy can work on a given fleet is `plan.validate`'s question, not this module's.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from device_client.wire.director import DevicePolicy
from device_client.wire.errors import WireError
from device_client.wire.fields import Fields
from device_client.wire.names import parse_model
from fleet.domain.approvals import MAX_APPROVALS
from fleet.domain.calendar import Calendar
from fleet.domain.delivery import Delivery, parse_delivery
from fleet.domain.errors import InvalidInputError
from fleet.domain.facts import Denied
from fleet.domain.filters.filter import Filter
from fleet.domain.filters.syntax import MAX_CHARS as MAX_FILTER_CHARS
from fleet.domain.gate_policy import YEAR_S, Gates, encode_gates, known, parse_gates, section
from fleet.domain.phases import DAY_S, MAX_COUNT, Phase, device_ids, parse_phases
from fleet.domain.presets import PRESETS
from fleet.domain.schedule import KEYS as SCHEDULE_KEYS
from fleet.domain.schedule import Schedule, parse_schedule
from fleet.domain.strata import MIN_CONTROL

MAX_NAMES: Final = 64
# Of devices that lie 5 points apart, the mean of so many is known to 0.04 points; more cost every look and show no more.
CONTROL_DEVICES: Final = 20_000
MAX_PARAMETERS: Final = 100
MAX_TOGETHER: Final = 16


class OnFail(StrEnum):
    """What a failed gate does."""

    REVERT = "revert"
    HOLD = "hold"


@dataclass(frozen=True)
class Revert:
    """How treated devices go back: so large a share of them at a time, one step every so many seconds; all at once by default."""

    share_per_step: float = 1.0
    every_s: float = 600.0

    @property
    def steps(self) -> int:
        """How many steps it takes."""
        return math.ceil(1 / self.share_per_step - 1e-9)

    def left_after(self, step: int) -> float:
        """The share of the treated that still keeps the version after so many steps."""
        return max(0.0, 1 - step * self.share_per_step) if step < self.steps else 0.0


@dataclass(frozen=True)
class RolloutPolicy:
    """How one version reaches its population. Shares in [0, 1], durations in seconds."""

    phases: tuple[Phase, ...]
    preset: str = ""
    control_share: float = 0.5
    control_devices: int = CONTROL_DEVICES
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
    denied: Denied = field(default_factory=Denied)
    holdback_share: float = 0.0
    holdback_s: float = 0.0
    delivery: Delivery = field(default_factory=Delivery)
    together: tuple[str, ...] = ()
    schedule: Schedule = field(default_factory=Schedule)
    revert: Revert = field(default_factory=Revert)

    @property
    def is_fitted(self) -> bool:
        """Whether the phases come from a preset, and so may be fitted to the fleet's size."""
        return bool(self.preset)

    @property
    def windows(self) -> Calendar | None:
        """The hours at which devices may take the version; None for any hour."""
        return self.delivery.windows

    def drawn_share(self, phase: int) -> float | None:
        """The share of the whole population that a phase treats by lot; None if names, counts or classes say whom."""
        reached = self.phases[: phase + 1]
        if any(item.devices or item.count is not None or item.hardware_classes for item in reached):
            return None
        return min(1.0 - self.holdback_share, max(item.share for item in reached))

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
            "phases": [item.encode() for item in self.phases],
            "control_share": self.control_share,
            "control_devices": self.control_devices,
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
                "deny": {"devices": sorted(self.denied.devices), "groups": sorted(self.denied.groups)},
            },
            "device": self.device.encode(),
            "parameters": dict(self.parameters),
            "allow_delta": self.allow_delta,
            "delta_wait_s": self.delta_wait_s,
            "jitter_s": self.jitter_s,
            "priority": self.priority,
            "revert_deadline_s": self.revert_deadline_s,
            "approvals": self.approvals,
            "holdback": {"share": self.holdback_share, "for_s": self.holdback_s},
            **self.delivery.encode(),
            "together": list(self.together),
            "schedule": self.schedule.encode(),
            "revert": {"share_per_step": self.revert.share_per_step, "every_s": self.revert.every_s},
        }


_KEYS: Final = frozenset(
    {
        *("preset", "phases", "control_share", "control_devices", "gates", "alpha", "on_fail", "on_inconclusive"),
        "auto_advance",
        *("population", "device", "parameters", "allow_delta", "delta_wait_s", "jitter_s", "priority"),
        *(
            "approvals",
            "revert_deadline_s",
            "revert",
            "holdback",
            "schedule",
            "windows",
            "conditions",
            "pacing",
            "together",
        ),
    }
)
_POPULATION_KEYS: Final = frozenset({"hardware_classes", "groups", "filter", "active_within_s", "deny"})
_DEVICE_KEYS: Final = frozenset(DevicePolicy.__dataclass_fields__)


def _with_preset(value: object) -> dict[str, object]:
    """The document with what its preset says filled in. A gate given as null is taken out; any other field that is null
    is as if it were absent.
    """
    said: object = {"preset": value} if isinstance(value, str) else value
    if not isinstance(said, dict):
        raise InvalidInputError("policy_invalid", f"policy: expected an object or a preset's name, got {value!r:.60}")
    document = {key: item for key, item in said.items() if item is not None}
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
    population = section(document.get("population"), _POPULATION_KEYS, "policy.population")
    holdback = section(document.get("holdback"), frozenset({"share", "for_s"}), "policy.holdback")
    gates, slow_ms = parse_gates(document.get("gates"))
    device_value = document.get("device")
    device = DevicePolicy.parse(section(device_value, _DEVICE_KEYS, "policy.device"))
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
        phases=parse_phases(document.get("phases")),
        preset=fields.text("preset", max_chars=32, default=""),
        control_share=fields.number("control_share", maximum=1.0, default=default.control_share),
        control_devices=fields.integer(
            "control_devices", minimum=MIN_CONTROL, maximum=MAX_COUNT, default=default.control_devices
        ),
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
        denied=_denied(population.raw("deny")),
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
        holdback_share=holdback.number("share", maximum=0.5, default=0.0),
        holdback_s=holdback.number("for_s", maximum=10 * YEAR_S, default=0.0),
        delivery=parse_delivery(fields, "policy", silent_after_s=gates.silence_grace_s),
        together=_together(fields),
        schedule=parse_schedule(section(fields.raw("schedule"), SCHEDULE_KEYS, "policy.schedule"), "policy.schedule"),
        revert=_revert(fields.raw("revert")),
    )


def _revert(value: object) -> Revert:
    fields = section(value, frozenset({"share_per_step", "every_s"}), "policy.revert")
    default = Revert()
    return Revert(
        share_per_step=fields.number("share_per_step", minimum=0.01, maximum=1.0, default=default.share_per_step),
        every_s=fields.number("every_s", minimum=1, maximum=YEAR_S, default=default.every_s),
    )


def _denied(value: object) -> Denied:
    where = "policy.population.deny"
    fields = section(value, frozenset({"devices", "groups"}), where)
    return Denied(
        devices=frozenset(device_ids(fields, "devices", where)),
        groups=frozenset(fields.texts("groups", max_items=MAX_NAMES, max_chars=63)),
    )


def _together(fields: Fields) -> tuple[str, ...]:
    named = fields.texts("together", max_items=MAX_TOGETHER, max_chars=63)
    found = tuple(sorted({parse_model(name) for name in named}))
    if len(found) == 1:
        raise InvalidInputError("policy_invalid", f"policy.together: expected at least two models, got {found[0]}")
    return found


def _on_fail(fields: Fields) -> OnFail:
    value = fields.text("on_fail", max_chars=16, default=OnFail.REVERT.value)
    if value not in OnFail._value2member_map_:
        raise InvalidInputError("policy_invalid", f"policy.on_fail: expected revert or hold, got {value!r}")
    return OnFail(value)
