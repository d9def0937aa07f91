#!/usr/bin/env python
"""The server's commands: `manage.py up` runs everything; each process of the fleet is a command of its own."""

import os
import sys


def main() -> None:
    """Hand the command line to Django; an environment that makes no sense is one line, not a traceback."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "fleet.config.settings")
    from django.core.exceptions import ImproperlyConfigured
    from django.core.management import execute_from_command_line

    try:
        execute_from_command_line(sys.argv)
    except ImproperlyConfigured as error:
        sys.exit(f"CommandError: {error}")


if __name__ == "__main__":
    main()
