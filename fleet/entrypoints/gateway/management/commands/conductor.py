"""`manage.py conductor`: judges the gates and moves the rollouts."""

import os
import secrets
import socket
import threading
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from fleet.apps.experiments import dry_runs as experiment_dry_runs
from fleet.apps.experiments import services as experiments
from fleet.apps.rollouts import dry_runs
from fleet.apps.rollouts import services as rollouts
from fleet.entrypoints.gateway.conductor import INTERVAL_S, Conductor
from fleet.entrypoints.gateway.lifecycle import stop_on_signals
from fleet.entrypoints.gateway.worker import FINISH_S, Worker
from fleet.wiring import server


class Command(BaseCommand):
    """Runs until SIGTERM."""

    help = "Judge the gates of rollouts and move them. Run two where one must not be missed: one of them leads."

    def add_arguments(self, parser: CommandParser) -> None:
        """How often to look."""
        parser.add_argument("--interval", type=float, default=INTERVAL_S, metavar="SECONDS", help="default: 1")

    def handle(self, *_args: Any, **options: Any) -> None:
        """Work until told to stop."""
        holder = f"{socket.gethostname()[:32]}:{os.getpid()}:{secrets.token_hex(4)}"
        with stop_on_signals() as stop:
            # Populations are counted here too, beside the ticks: workers may be building patches for minutes.
            counter = Worker(
                {
                    rollouts.JOB_KIND: rollouts.count_population,
                    experiments.JOB_KIND: experiments.count_population,
                    dry_runs.JOB_KIND: dry_runs.answer,
                    experiment_dry_runs.JOB_KIND: experiment_dry_runs.answer,
                },
                holder,
                server.clock(),
                stop,
            )
            counting = threading.Thread(target=counter.run, name="counter", daemon=True)
            counting.start()
            Conductor(holder, server.clock(), stop, interval_s=max(0.05, options["interval"])).run()
            counting.join(FINISH_S)
