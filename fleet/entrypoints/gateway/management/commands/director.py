"""`manage.py director`: answers the checks of devices with signed bundles."""

from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from fleet.entrypoints.gateway.director import Director
from fleet.entrypoints.gateway.lifecycle import stop_on_signals
from fleet.wiring import messaging, server


class Command(BaseCommand):
    """Runs until SIGTERM."""

    requires_system_checks = ()
    help = "Answer the checks of devices with signed bundles. Run as many as are needed, each as --member N."

    def add_arguments(self, parser: CommandParser) -> None:
        """The member's name is its session on the broker, so it must be stable and its own."""
        parser.add_argument("--member", default="1", help="tells several director processes apart")

    def handle(self, *_args: Any, **options: Any) -> None:
        """Work until told to stop."""
        store = server.blob_store()
        with stop_on_signals() as stop:
            Director(
                messaging.broker("_director", options["member"]),
                server.clock(),
                server.signer("director"),
                lambda sha256: store.url(sha256, server.TICKET_TTL_S),
                stop,
            ).run()
