"""Django's registration of the REST entry point, which owns management commands and no models."""

from django.apps import AppConfig


class ApiConfig(AppConfig):
    """Label and import path."""

    name = "fleet.entrypoints.api"
    label = "api"
