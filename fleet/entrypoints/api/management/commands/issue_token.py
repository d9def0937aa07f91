"""`manage.py issue_token`: a token for a pipeline, printed once."""

from typing import Any

from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandError, CommandParser

from fleet.apps.trust import services
from fleet.domain.approvals import person
from fleet.domain.errors import ModelfleetError
from fleet.domain.scopes import Scope
from fleet.wiring import server

DAY_S = 86_400


class Command(BaseCommand):
    """Prints the token on standard output and nothing else, so that a script can take it."""

    help = "Issue an API token. It is printed once and not kept."

    def add_arguments(self, parser: CommandParser) -> None:
        """Name, scopes, life."""
        parser.add_argument("--name", required=True, help="what or whom the token is for")
        parser.add_argument(
            "--scopes",
            required=True,
            help=f"separated by commas: {', '.join(scope.value for scope in Scope)}; "
            "some take a namespace, as in model:write:vision",
        )
        parser.add_argument(
            "--user",
            help="whose it is: it can approve what this user did not start (default: nobody's; approves nothing)",
        )
        parser.add_argument("--days", type=float, default=90, help="how long it is valid (default: 90)")

    def handle(self, *_args: Any, **options: Any) -> None:
        """Issue and print."""
        user = None
        if options["user"]:
            user = get_user_model().objects.filter(username=options["user"]).first()
            if user is None:
                raise CommandError(
                    f"expected the name of a user, got {options['user']}: see `manage.py createsuperuser`"
                )
        try:
            _record, token = services.issue_token(
                name=options["name"],
                granted=[scope.strip() for scope in options["scopes"].split(",") if scope.strip()],
                expires_in_s=options["days"] * DAY_S,
                actor="manage.py",
                owner="" if user is None else person(user.pk),
                now=server.clock().now(),
            )
        except ModelfleetError as error:
            raise CommandError(error.message) from error
        self.stdout.write(token)
