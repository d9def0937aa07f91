"""`manage.py publisher`: hands the outbox to the broker and publishes the image repository."""

from typing import Any

from django.core.management.base import BaseCommand

from fleet.entrypoints.gateway.lifecycle import stop_on_signals
from fleet.entrypoints.gateway.publisher import Publisher
from fleet.wiring import installation, messaging, server


class Command(BaseCommand):
    """Runs until SIGTERM."""

    requires_system_checks = ()
    help = "Hand the outbox to the broker and publish the image repository. Run one."

    def handle(self, *_args: Any, **_options: Any) -> None:
        """Work until told to stop."""
        with stop_on_signals() as stop:
            Publisher(
                messaging.broker("_publisher"),
                server.clock(),
                server.publish_image,
                installation.shut_out_revoked,
                stop,
            ).run()
