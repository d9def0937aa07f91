"""Django's view of the supervisor: the home of the `up` and `prepare` commands."""

from django.apps import AppConfig


class UpConfig(AppConfig):
    """Commands only: it has no models."""

    name = "fleet.entrypoints.up"
    label = "up"
