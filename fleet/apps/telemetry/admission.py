"""Which measurements are taken in at all. For this app only.

Devices are authenticated and still not believed: one can make up versions, repeat what was purged, or send without end.
What is refused is counted by its reason and acknowledged, because sending it again would change nothing.
"""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from django.db.models import Count

from device_client.wire.messages import TelemetryWindow
from device_client.wire.predictions import PredictionId
from fleet.apps.registry import selectors as registry
from fleet.apps.telemetry.models import LabelCredit, Window
from fleet.apps.telemetry.records import Dropped
from fleet.apps.telemetry.totals import moment_of

FACTORY_VERSION: Final = "factory"  # the application's own fallback, which no pipeline pushed
# A window every 0.2 s is the shortest that a policy can ask for; these are per device.
MAX_WINDOWS_PER_HOUR: Final = 20_000
MAX_LABELS_PER_HOUR: Final = 100_000
# What was counted longer ago is purged, and a replay of it would be counted again.
WINDOWS_KEPT: Final = timedelta(days=30)
LABELS_KEPT: Final = timedelta(days=180)
_HOUR: Final = timedelta(hours=1)


@dataclass
class Admission:
    """The door for one batch; `refused` is what it turned away."""

    labels_by_model: Mapping[str, frozenset[str]]
    windows_left: Counter[str]
    labels_left: Counter[str]
    now: datetime
    refused: list[Dropped] = field(default_factory=list)

    @classmethod
    def at(
        cls, *, models: Collection[str], windows_of: Collection[str], labels_of: Collection[str], now: datetime
    ) -> "Admission":
        """Read what is known of these models, and how much these devices have sent within the hour.

        Devices that are not among `windows_of` or `labels_of` are not limited.
        """
        since = now - _HOUR
        windows = Window.objects.filter(device_id__in=windows_of, received_at__gt=since).values_list("device_id")
        credited = LabelCredit.objects.filter(device_id__in=labels_of, received_at__gt=since).values_list("device_id")
        return cls(
            registry.known_labels(models) if models else {},
            _left(windows_of, MAX_WINDOWS_PER_HOUR, dict(windows.annotate(n=Count("pk"))) if windows_of else {}),
            _left(labels_of, MAX_LABELS_PER_HOUR, dict(credited.annotate(n=Count("pk"))) if labels_of else {}),
            now,
        )

    def window(self, device_id: str, window: TelemetryWindow) -> bool:
        """Whether a window may come in."""
        reason = self._stranger(window.model, window.version)
        if not reason and window.clock_trusted and moment_of(window.started_at, self.now) < self.now - WINDOWS_KEPT:
            reason = "too_old"
        return self._passes("telemetry", device_id, reason, self.windows_left, f"{window.model}@{window.version}")

    def label(self, prediction: PredictionId) -> bool:
        """Whether a label may come in."""
        reason = self._stranger(prediction.model, prediction.version)
        if not reason and moment_of(prediction.second, self.now) < self.now - LABELS_KEPT:
            reason = "too_old"
        named = f"{prediction.model}@{prediction.version}"
        return self._passes("label", prediction.device_id, reason, self.labels_left, named)

    def _stranger(self, model: str, version: str) -> str:
        known = self.labels_by_model.get(model)
        if known is None:
            return "no_such_model"
        return "" if version in known or version == FACTORY_VERSION else "no_such_version"

    def _passes(self, kind: str, device_id: str, reason: str, left: Counter[str], named: str) -> bool:
        if not reason and device_id in left:
            left[device_id] -= 1
            reason = "too_many" if left[device_id] < 0 else ""
        if reason:
            self.refused.append(Dropped(kind, reason, device_id, named))
        return not reason


def _left(device_ids: Collection[str], most: int, sent: Mapping[str, int]) -> Counter[str]:
    return Counter({device_id: max(0, most - sent.get(device_id, 0)) for device_id in device_ids})
