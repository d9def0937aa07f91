"""`manage.py ingest`: takes what devices report into the database."""

from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from fleet.entrypoints.gateway.ingest import Ingest
from fleet.entrypoints.gateway.lifecycle import stop_on_signals
from fleet.wiring import messaging, server


class Command(BaseCommand):
    """Runs until SIGTERM."""

    requires_system_checks = ()
    help = "Take what devices report from the broker into the database. Run as many as are needed, each as --member N."

    def add_arguments(self, parser: CommandParser) -> None:
        """The member's name is its session on the broker, so it must be stable and its own."""
        parser.add_argument("--member", default="1", help="tells several ingest processes apart")

    def handle(self, *_args: Any, **options: Any) -> None:
        """Work until told to stop."""
        with stop_on_signals() as stop:
            Ingest(messaging.broker("_ingest", options["member"]), server.clock(), stop).run()
