"""`manage.py worker`: does the work that is queued as rows."""

import os
import socket
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from django.core.management.base import BaseCommand

from fleet.apps.assignments import services as assignments
from fleet.apps.devices import counts as fleet_counts
from fleet.apps.experiments import dry_runs as experiment_dry_runs
from fleet.apps.experiments import services as experiments
from fleet.apps.jobs import services as jobs
from fleet.apps.rollouts import dry_runs, watch
from fleet.apps.rollouts import services as rollouts
from fleet.apps.telemetry import retention
from fleet.apps.webhooks import services as webhooks
from fleet.entrypoints.gateway.lifecycle import stop_on_signals
from fleet.entrypoints.gateway.worker import Worker, run_together
from fleet.wiring import server

TELLERS: Final = 3  # a receiver that does not answer keeps one busy for a quarter of a minute
ANNOUNCE_S: Final = 0.5


class Command(BaseCommand):
    """Runs until SIGTERM."""

    requires_system_checks = ()
    help = "Do the work that is queued as rows: deltas, populations, counts, webhooks, abandoned uploads. Run as many as are needed."

    def handle(self, *_args: Any, **_options: Any) -> None:
        """Work until told to stop."""
        owner = f"{socket.gethostname()[:40]}:{os.getpid()}"
        with stop_on_signals() as stop:
            kinds = {
                "delta": _build_delta,
                "delta-plan": server.plan_deltas,
                "delta-review": server.review_deltas,
                "sweep": _sweep,
                rollouts.JOB_KIND: rollouts.count_population,
                experiments.JOB_KIND: experiments.count_population,
                dry_runs.JOB_KIND: dry_runs.answer,
                experiment_dry_runs.JOB_KIND: experiment_dry_runs.answer,
                watch.JOB_KIND: watch.begin,
                assignments.HOLDBACK_JOB_KIND: _end_holdback,
                fleet_counts.JOB_KIND: fleet_counts.count,
            }
            # Whoever waits for a webhook must not wait for a patch that is being built, nor for another one's receiver.
            telling = {webhooks.JOB_KIND: server.deliver_webhook}
            tellers = [
                Worker(telling, f"{owner}:{number}", server.clock(), stop, tidy=_announce, tidy_s=ANNOUNCE_S)
                for number in range(TELLERS)
            ]
            run_together([Worker(kinds, owner, server.clock(), stop, tidy=_tidy), *tellers], stop)


def _tidy(now: datetime) -> None:
    server.tidy_deltas(now)
    retention.purge(now=now)
    jobs.purge(now=now)
    fleet_counts.ask(now)
    webhooks.purge(now=now)


def _announce(now: datetime) -> None:
    webhooks.announce(now=now)


def _end_holdback(payload: Mapping[str, object], now: datetime) -> None:
    assignments.end_holdback(rule_id=int(str(payload["rule"])), now=now)


def _build_delta(payload: Mapping[str, object], now: datetime) -> None:
    server.build_delta({name: str(value) for name, value in payload.items()}, now)


def _sweep(_payload: Mapping[str, object], now: datetime) -> None:
    server.sweep_blobs(now)
