"""Counting what a model does: sufficient statistics of one stretch of time, cheap enough for every inference.

Not thread-safe; the caller holds its lock. Latencies in milliseconds, times in seconds since the epoch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from device_client.wire.limits import MAX_METRICS_PER_WINDOW
from device_client.wire.messages import MessageKey, MetricTotals, TelemetryWindow
from device_client.wire.shadow import ShadowTotals
from device_client.wire.sketch import LatencySketch

LOCAL_ROUTE: Final = "local"


@dataclass(frozen=True)
class WindowKey:
    """What a window is about. Windows of one key add up; others never do."""

    model: str
    version: str
    digest: str
    revision: int
    route: str
    shadow: str = ""  # the digest of what ran beside it


@dataclass
class Window:
    """The running totals of one key since `started_at`."""

    key: WindowKey
    started_at: float
    n: int = 0
    errors: int = 0
    nan: int = 0
    latency: LatencySketch = field(default_factory=LatencySketch)
    latency_sum_ms: float = 0.0
    latency_sum_squares: float = 0.0
    confidence_sum: float = 0.0
    during_update: bool = False
    metrics: dict[str, tuple[int, float, float]] = field(default_factory=dict)
    crashes: int = 0
    compared: int = 0
    agreed: int = 0
    shadow: ShadowTotals | None = None

    def answered(self, latency_ms: float, confidence: float, *, is_nan: bool) -> None:
        """One inference that returned."""
        self.n += 1
        self.latency.add(latency_ms)
        self.latency_sum_ms += latency_ms
        self.latency_sum_squares += latency_ms * latency_ms
        if is_nan:
            self.nan += 1
        else:
            self.confidence_sum += confidence

    def failed(self) -> None:
        """One inference that raised."""
        self.n += 1
        self.errors += 1

    def measured(self, name: str, value: float) -> bool:
        """Add to a custom metric; False if there are too many different ones already."""
        n, total, squared = self.metrics.get(name, (0, 0.0, 0.0))
        if n == 0 and len(self.metrics) >= MAX_METRICS_PER_WINDOW:
            return False
        self.metrics[name] = (n + 1, total + value, squared + value * value)
        return True

    def referred(self, *, agrees: bool) -> None:
        """A reference answer came for one inference."""
        self.compared += 1
        self.agreed += agrees

    @property
    def empty(self) -> bool:
        """Nothing happened in this window."""
        return self.n == self.crashes == self.compared == 0 and not self.metrics and self.shadow is None

    def message(self, key: MessageKey, *, ended_at: float, clock_trusted: bool, rss_bytes: int) -> TelemetryWindow:
        """The window as it is sent."""
        return TelemetryWindow(
            key=key,
            started_at=max(0, int(self.started_at)),
            duration_s=max(0.0, round(ended_at - self.started_at, 3)),
            model=self.key.model,
            version=self.key.version,
            digest=self.key.digest,
            revision=self.key.revision,
            route=self.key.route,
            n=self.n,
            errors=self.errors,
            nan=self.nan,
            latency=self.latency,
            latency_sum_ms=self.latency_sum_ms,
            latency_sum_squares=self.latency_sum_squares,
            during_update=self.during_update,
            clock_trusted=clock_trusted,
            rss_bytes=rss_bytes,
            confidence_sum=self.confidence_sum,
            metrics={name: MetricTotals(*totals) for name, totals in self.metrics.items()},
            crashes=self.crashes,
            compared=self.compared,
            agreed=self.agreed,
            shadow=self.shadow,
        )


def merge(first: TelemetryWindow, second: TelemetryWindow, key: MessageKey) -> TelemetryWindow:
    """One window that says what both said; the caller has made sure that neither was sent and that their keys agree."""
    sketch = LatencySketch()
    sketch.merge(first.latency)
    sketch.merge(second.latency)
    started = min(first.started_at, second.started_at)
    ended = max(first.started_at + first.duration_s, second.started_at + second.duration_s)
    return TelemetryWindow(
        key=key,
        started_at=started,
        duration_s=ended - started,
        model=first.model,
        version=first.version,
        digest=first.digest,
        revision=first.revision,
        route=first.route,
        n=first.n + second.n,
        errors=first.errors + second.errors,
        nan=first.nan + second.nan,
        latency=sketch,
        latency_sum_ms=first.latency_sum_ms + second.latency_sum_ms,
        latency_sum_squares=first.latency_sum_squares + second.latency_sum_squares,
        during_update=first.during_update or second.during_update,
        clock_trusted=first.clock_trusted and second.clock_trusted,
        rss_bytes=max(first.rss_bytes, second.rss_bytes),
        confidence_sum=first.confidence_sum + second.confidence_sum,
        metrics=_merge_metrics(first.metrics, second.metrics),
        crashes=first.crashes + second.crashes,
        compared=first.compared + second.compared,
        agreed=first.agreed + second.agreed,
        shadow=first.shadow.plus(second.shadow) if first.shadow and second.shadow else first.shadow or second.shadow,
    )


def _merge_metrics(first: Mapping[str, MetricTotals], second: Mapping[str, MetricTotals]) -> dict[str, MetricTotals]:
    merged = dict(first)
    for name, more in second.items():
        have = merged.get(name)
        merged[name] = (
            more
            if have is None
            else MetricTotals(have.n + more.n, have.total + more.total, have.total_squared + more.total_squared)
        )
    return dict(list(merged.items())[:MAX_METRICS_PER_WINDOW])


def mergeable(window: TelemetryWindow) -> WindowKey | None:
    """The key under which an unsent window may be merged; None for windows that must stand alone."""
    if window.during_update or not window.clock_trusted:
        return None
    shadow = "" if window.shadow is None else window.shadow.digest
    return WindowKey(window.model, window.version, window.digest, window.revision, window.route, shadow)
