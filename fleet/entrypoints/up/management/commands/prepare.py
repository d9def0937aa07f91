"""`manage.py prepare`: makes an installation ready to start. Safe to repeat; `manage.py up` runs it first."""

from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError

from fleet.wiring.installation import SecretsUnusableError, prepare_database_file, prepare_secrets


class Command(BaseCommand):
    """Secrets first, since everything else may need them, then the database's schema."""

    help = "Make the secrets that are missing, renew certificates, apply migrations."
    requires_system_checks = ()

    def handle(self, *_args: Any, **options: Any) -> None:
        """Say in one line what is wrong when it cannot be done."""
        home = settings.MODELFLEET.home
        try:
            home.mkdir(mode=0o700, parents=True, exist_ok=True)
            prepare_secrets()
            prepare_database_file()
        except OSError as error:
            raise CommandError(f"cannot write {error.filename or home}: {error.strerror}") from error
        except SecretsUnusableError as error:
            raise CommandError(str(error)) from error
        try:
            call_command("migrate", interactive=False, verbosity=max(0, options["verbosity"] - 1))
        except DatabaseError as error:
            raise CommandError(f"cannot prepare the database: {str(error).splitlines()[0]}") from error
        if options["verbosity"]:
            self.stdout.write(f"ready: {home}")
