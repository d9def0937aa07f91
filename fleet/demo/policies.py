"""The rollout policies of the demo: the fields of the public API, with windows and deadlines of seconds.

Latency is judged against an SLO of milliseconds and not against the control: sixteen devices share this machine's cores,
so a difference between two arms would be the scheduler's.
"""

from typing import Final

SLO_MS: Final = 50.0
LABELS_PER_DEVICE: Final = 60
RAMP: Final = (0.25, 0.5, 1.0)
PATIENCE_S: Final = (
    600.0  # for a phase or a comparison: what takes seconds takes minutes on a machine that is busy otherwise
)

_DEVICE: Final = {"window_s": 2.0, "probation_s": 3.0, "probation_inferences": 10, "slow_ms": SLO_MS}
_HEALTH: Final[dict[str, object]] = {
    "install_failures": {"max_share": 0.1, "min_installed_share": 1.0},
    "silence": {"grace_s": 60, "max_share": 0.1},
    "errors": {"max_share": 0.01, "min_inferences_per_device": 30},
    "latency": {"slow_ms": SLO_MS, "max_slow_share": 0.05, "min_inferences_per_device": 30},
}
_SLOW_SLO_MS: Final = 5.0
_ACCURACY: Final = {"margin_points": 5, "min_labels_per_device": LABELS_PER_DEVICE}


def _phases(*shares: float) -> list[dict[str, float]]:
    return [{"share": share, "min_duration_s": 3, "deadline_s": PATIENCE_S} for share in shares]


def everyone(*, allow_delta: bool, max_failed_share: float = 0.1) -> dict[str, object]:
    """All devices at once: there is no control, so the gates are absolute.

    A rollout is reverted as soon as more than `max_failed_share` of the installs have failed; the devices that have not
    tried by then never do.
    """
    installs = {"max_share": max_failed_share, "min_installed_share": 1.0}
    return {
        "phases": _phases(1.0),
        "control_share": 0.0,
        "gates": {**_HEALTH, "install_failures": installs},
        "device": _DEVICE,
        "allow_delta": allow_delta,
    }


def ramp() -> dict[str, object]:
    """25-50-100 with an accuracy gate against the control; the last step carries its verdict over."""
    return {
        "phases": _phases(*RAMP),
        "control_share": 0.5,
        "gates": {**_HEALTH, "accuracy": _ACCURACY},
        "device": _DEVICE,
        "delta_wait_s": 40,
    }


def comparison() -> dict[str, object]:
    """An A/B test of v2 against v1: a quarter of the devices against half of them, the control being the last ones.

    The candidate holds the buckets that the first phase of `ramp` would treat, so the rollout of a winner goes on at 50%.
    """
    return {
        "arms": [
            {"name": "champion", "version": "1", "weight": 2},
            {"name": "candidate", "version": "2", "weight": 1},
        ],
        "control": "champion",
        "share": 0.75,
        "success": {"accuracy": {"effect_points": 5, "min_labels_per_device": LABELS_PER_DEVICE}},
        "guardrails": {
            "errors": {"margin_points": 3, "min_inferences_per_device": LABELS_PER_DEVICE},
            "latency": {"slow_ms": SLO_MS, "margin_points": 10, "min_inferences_per_device": LABELS_PER_DEVICE},
            "install_failures": {"max_share": 0.1},
            "silence": {"grace_s": 60, "max_share": 0.1},
        },
        "min_duration_s": 3,
        "duration_s": PATIENCE_S,
        "device": _DEVICE,
        "delta_wait_s": 40,
    }


def impatient() -> dict[str, object]:
    """25-50-100 for an application that needs its answer within five milliseconds."""
    slo = {"slow_ms": _SLOW_SLO_MS, "max_slow_share": 0.2, "min_inferences_per_device": 20}
    return {
        "phases": _phases(*RAMP),
        "control_share": 0.5,
        "gates": {**_HEALTH, "latency": slo, "accuracy": _ACCURACY},
        "device": {**_DEVICE, "slow_ms": _SLOW_SLO_MS},
        "delta_wait_s": 40,
    }
