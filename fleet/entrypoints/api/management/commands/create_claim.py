"""`manage.py create_claim`: lets one device join; prints the command to run on it."""

import hashlib
import shlex
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from fleet.apps.trust import selectors, services
from fleet.domain.errors import ModelfleetError
from fleet.wiring import server


class Command(BaseCommand):
    """Prints one line on standard output."""

    help = "Let one device join: prints the command to run on it, which works once."

    def add_arguments(self, parser: CommandParser) -> None:
        """Which device, and for how long."""
        parser.add_argument("device_id")
        parser.add_argument("--hardware-class", required=True)
        parser.add_argument("--attribute", action="append", default=[], metavar="KEY=VALUE")
        parser.add_argument("--expires-s", type=int, default=86_400, help="default: a day")

    def handle(self, *_args: Any, **options: Any) -> None:
        """Create and print."""
        anchors = selectors.anchors(server.certificate_authority().anchor_pem())
        if anchors is None:
            raise CommandError("expected imported roots, got none: run `modelfleet keys init`")
        try:
            _record, token = services.create_claim(
                device_id=options["device_id"],
                hardware_class=options["hardware_class"],
                attributes=dict(item.partition("=")[::2] for item in options["attribute"]),
                expires_in_s=options["expires_s"],
                actor="manage.py",
                now=server.clock().now(),
            )
        except ModelfleetError as error:
            raise CommandError(error.message) from error
        url, pin = settings.MODELFLEET.device_url, hashlib.sha256(anchors).hexdigest()
        self.stdout.write(shlex.join(["modelfleet-device", "enroll", url, "--token", token, "--pin", pin]))
