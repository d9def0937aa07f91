"""Deletes what is older than it is kept. Called again and again, a little each time, so that no writer waits long.

Windows and labels are evidence for a while; their sums stay. Replays of what was purged are refused by `admission`.
"""

from datetime import datetime, timedelta
from typing import Final

from django.db.models import Model, QuerySet

from fleet.apps.telemetry.admission import LABELS_KEPT, WINDOWS_KEPT
from fleet.apps.telemetry.models import DeviceTotal, GateTotal, LabelCredit, Window

ROWS_PER_CALL: Final = 2_000
# What arrived so long ago was measured before; no clock that is believed says otherwise.
_MARGIN: Final = timedelta(days=1)
# Of rollouts that ended: their verdicts keep the evidence they were made of.
TOTALS_KEPT: Final = timedelta(days=180)


def purge(*, now: datetime, most: int = ROWS_PER_CALL) -> int:
    """Delete at most so many rows of each kind; returns how many went."""
    return (
        _delete(Window.objects.filter(received_at__lt=now - WINDOWS_KEPT - _MARGIN), most)
        + _delete(LabelCredit.objects.filter(received_at__lt=now - LABELS_KEPT - _MARGIN), most)
        + _delete(GateTotal.objects.filter(updated_at__lt=now - TOTALS_KEPT), most)
        + _delete(DeviceTotal.objects.filter(updated_at__lt=now - TOTALS_KEPT), most)
    )


def _delete(rows: "QuerySet[Model]", most: int) -> int:
    found = list(rows.values_list("pk", flat=True)[:most])
    if not found:
        return 0
    gone, _ = rows.model._default_manager.filter(pk__in=found).delete()  # noqa: SLF001 - documented API
    return gone
