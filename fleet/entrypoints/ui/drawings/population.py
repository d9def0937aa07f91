"""The bucket line: which part of the fleet is treated, which is the control, which is left alone so far."""

from dataclasses import dataclass

from device_client.wire.bucketing import BUCKETS


@dataclass(frozen=True)
class PopulationDrawing:
    """Widths and the control's start in per cent of the line."""

    treated_width: float
    control_x: float
    control_width: float


def draw_population(*, treated_end: int, control_start: int) -> PopulationDrawing:
    """Lay out [0, treated_end) and [control_start, BUCKETS)."""
    return PopulationDrawing(
        treated_width=round(100 * treated_end / BUCKETS, 2),
        control_x=round(100 * control_start / BUCKETS, 2),
        control_width=round(100 * (BUCKETS - control_start) / BUCKETS, 2),
    )
