"""Named policies. A preset gives phases and gates; whatever a policy says itself comes first.

Presets bring no accuracy and no latency gate: how many points and how many milliseconds matter is the application's to
say. `all-at-once` and `trial` ask only that devices install it and stay alive; the ramps watch failed inferences too.
Phases of a preset that would reach nobody on a small fleet are left out (`plan.fit`).
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

PRESET_WORDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "safe-ramp": "1, 5, 25, 50, then 100 %",
        "canary-then-all": "5 %, then all",
        "by-hardware-class": "half of one class after the other, then all",
        "all-at-once": "everybody, watched until they have it",
        "trial": "everybody, with seconds of probation, for a bench",
        "manual": "as safe-ramp, and a person advances it",
    }
)

_HOUR_S: Final = 3_600
_DAY_S: Final = 24 * _HOUR_S


def _ramp(*shares: float) -> list[dict[str, object]]:
    return [{"share": share, "min_duration_s": _HOUR_S, "deadline_s": 3 * _DAY_S} for share in shares]


# Judged even where no application serves anything yet.
_ARRIVAL: Final[dict[str, object]] = {
    "install_failures": {"max_share": 0.1, "min_installed_share": 0.8},
    "silence": {"grace_s": 900, "max_share": 0.2},
}
_HEALTH: Final[dict[str, object]] = {**_ARRIVAL, "errors": {"max_share": 0.02}}

PRESETS: Final[Mapping[str, Mapping[str, object]]] = MappingProxyType(
    {
        "safe-ramp": {"phases": _ramp(0.01, 0.05, 0.25, 0.5, 1.0), "control_share": 0.5, "gates": _HEALTH},
        "canary-then-all": {"phases": _ramp(0.05, 1.0), "control_share": 0.5, "gates": _HEALTH},
        # One class after the other at half, the smallest first, each against its own other half; then everybody.
        "by-hardware-class": {
            "phases": [{**_ramp(0.5)[0], "each": "hardware_class"}, *_ramp(1.0)],
            "control_share": 0.5,
            "gates": _HEALTH,
        },
        "all-at-once": {
            "phases": [{"share": 1.0, "min_duration_s": 0, "deadline_s": 3 * _DAY_S}],
            "control_share": 0.0,
            "gates": _ARRIVAL,
        },
        # For a bench: the same questions, answered in seconds.
        "trial": {
            "phases": [{"share": 1.0, "min_duration_s": 0, "deadline_s": _HOUR_S}],
            "control_share": 0.0,
            "gates": _ARRIVAL,
            "device": {"window_s": 5, "probation_s": 10},
        },
        "manual": {
            "phases": _ramp(0.01, 0.05, 0.25, 0.5, 1.0),
            "control_share": 0.5,
            "gates": _HEALTH,
            "auto_advance": False,
        },
    }
)
