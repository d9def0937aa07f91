"""`/metrics` for Prometheus: what the database knows, counted when asked; large fleets a minute ago. Needs a token or session that may read.

Everything is an aggregate: a scrape costs a constant number of queries, whatever the fleet's size.
"""

from collections.abc import Iterable

from django.http import HttpResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request

from device_client.wire.states import Transport
from fleet.apps.devices import counts
from fleet.apps.jobs import selectors as jobs
from fleet.apps.outbox import selectors as outbox
from fleet.apps.registry import selectors as registry
from fleet.apps.rollouts import selectors as rollouts
from fleet.apps.telemetry import selectors as telemetry
from fleet.apps.telemetry.savings import savings
from fleet.apps.trust import selectors as trust
from fleet.domain.scopes import Scope
from fleet.entrypoints.api.access import require_everything
from fleet.entrypoints.api.base import ApiView
from fleet.wiring import server


class Metrics(ApiView):
    """The figures in Prometheus' text form."""

    scopes = {"GET": Scope.READ}
    schema = None

    def perform_content_negotiation(self, request: Request, force: bool = False) -> tuple[BaseRenderer, str]:  # noqa: ARG002, FBT001, FBT002 - the base class's signature
        """Prometheus asks for its own text format and gets it; only problems are rendered by DRF."""
        renderer = self.get_renderers()[0]
        return renderer, renderer.media_type or ""

    def get(self, _request: Request) -> HttpResponse:
        """Counted now."""
        require_everything(self.principal)
        collected = CollectorRegistry(auto_describe=False)
        collected.register(_Figures())
        return HttpResponse(generate_latest(collected), content_type=CONTENT_TYPE_LATEST)


class _Figures(Collector):
    """Asks the selectors."""

    def collect(self) -> Iterable[Metric]:
        """One family after the other."""
        yield from _rollouts()
        yield from _work()
        yield from _fleet()
        yield from _models()
        yield from _updates()
        yield from _trust()


def _rollouts() -> Iterable[Metric]:
    family = GaugeMetricFamily("modelfleet_rollouts", "Rollouts by state.", labels=["state"])
    for state, count in rollouts.count_by_state().items():
        family.add_metric([state], count)
    yield family


def _work() -> Iterable[Metric]:
    yield GaugeMetricFamily("modelfleet_outbox_messages", "Messages that wait for the publisher.", outbox.depth())
    oldest = outbox.oldest_at()
    waited_s = 0.0 if oldest is None else max(0.0, (server.clock().now() - oldest).total_seconds())
    yield GaugeMetricFamily("modelfleet_outbox_oldest_seconds", "Age of the oldest message that waits.", waited_s)
    family = GaugeMetricFamily("modelfleet_jobs", "Work by kind and state.", labels=["kind", "state"])
    for (kind, state), count in jobs.counts().items():
        family.add_metric([kind, state], count)
    yield family
    dropped = CounterMetricFamily(
        "modelfleet_dropped_messages", "Messages of devices that were refused.", labels=["kind", "code"]
    )
    for item in telemetry.dropped():
        dropped.add_metric([item.kind, item.code], item.count)
    yield dropped


def _fleet() -> Iterable[Metric]:
    labels = ["model", "version", "hardware_class"]
    total = GaugeMetricFamily("modelfleet_devices", "Devices by the version that they attest.", labels=labels)
    online = GaugeMetricFamily("modelfleet_devices_online", "Those of them that are online.", labels=labels)
    now = server.clock().now()
    for model in registry.models():
        for item in counts.running(model.name, now).rows:
            named = [model.name, item.version, item.hardware_class]
            total.add_metric(named, item.count)
            online.add_metric(named, item.online)
    yield total
    yield online


def _models() -> Iterable[Metric]:
    labels = ["model", "version", "hardware_class"]
    inferences = CounterMetricFamily("modelfleet_inferences", "Inferences that devices reported.", labels=labels)
    errors = CounterMetricFamily("modelfleet_inference_errors", "Inferences that failed.", labels=labels)
    labelled = CounterMetricFamily("modelfleet_labels", "Labels that were credited.", labels=labels)
    correct = CounterMetricFamily("modelfleet_labels_correct", "Labels that agree.", labels=labels)
    for model in registry.models():
        for item in telemetry.version_summary(model.name):
            named = [model.name, item.version, item.hardware_class]
            inferences.add_metric(named, item.n)
            errors.add_metric(named, item.errors)
            labelled.add_metric(named, item.labels)
            correct.add_metric(named, item.correct)
    yield from (inferences, errors, labelled, correct)


def _updates() -> Iterable[Metric]:
    labels = ["model", "format", "transport", "codec"]
    done = CounterMetricFamily(
        "modelfleet_updates", "Updates that were installed, by how their bytes came.", labels=labels
    )
    failed = CounterMetricFamily("modelfleet_updates_failed", "Updates that were not installed.", labels=labels)
    received = CounterMetricFamily(
        "modelfleet_update_bytes_received", "Bytes that installed updates took.", labels=labels
    )
    full = CounterMetricFamily("modelfleet_update_bytes_full", "What full downloads would have taken.", labels=labels)
    fallbacks = CounterMetricFamily(
        "modelfleet_patch_fallbacks", "Devices that gave up a patch of this codec.", labels=labels
    )
    saved = GaugeMetricFamily(
        "modelfleet_update_bytes_saved", "Bytes that updates by delta did not take.", labels=["model"]
    )
    sums: dict[tuple[str, ...], list[int]] = {}
    by_delta: dict[str, int] = {}
    for item in savings():
        values = (item.updates, item.failed, item.bytes_received, item.bytes_total, item.fallbacks)
        total = sums.setdefault((item.model, item.format, item.transport, item.codec), [0] * len(values))
        total[:] = [before + value for before, value in zip(total, values, strict=True)]
        if item.transport == Transport.DELTA.value:
            by_delta[item.model] = by_delta.get(item.model, 0) + item.bytes_saved
    families = (done, failed, received, full, fallbacks)
    for key, total in sums.items():
        for family, value in zip(families, total, strict=True):
            family.add_metric(list(key), value)
    for model, count in by_delta.items():
        saved.add_metric([model], count)
    yield from (*families, saved)
    deltas = GaugeMetricFamily(
        "modelfleet_deltas", "Patches between files by codec and state.", labels=["codec", "state"]
    )
    sizes = GaugeMetricFamily("modelfleet_delta_bytes", "Bytes of the patches that are kept.", labels=["codec"])
    for counted in registry.delta_counts():
        deltas.add_metric([counted.codec, counted.state], counted.count)
        if counted.patch_bytes:
            sizes.add_metric([counted.codec], counted.patch_bytes)
    yield from (deltas, sizes)


def _trust() -> Iterable[Metric]:
    family = GaugeMetricFamily(
        "modelfleet_role_expires_timestamp_seconds", "When a signed role expires.", labels=["repository", "role"]
    )
    for role in trust.trust_state().roles:
        family.add_metric([role.repository.value, role.role], role.expires_at.timestamp())
    yield family
