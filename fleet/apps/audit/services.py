"""Adds to the audit log. Nothing here changes or removes a row.

Called inside the transaction of the act itself, so that an act and its entry are stored together or not at all.
"""

from collections.abc import Mapping
from datetime import datetime

from fleet.apps.audit.models import Entry


def record(*, actor: str, action: str, subject: str, detail: Mapping[str, object], now: datetime) -> None:
    """Write down that `actor` did `action` to `subject`."""
    Entry.objects.create(at=now, actor=actor[:128], action=action[:64], subject=subject[:128], detail=dict(detail))
