"""Django's registration of the `registry` app."""

from django.apps import AppConfig


class RegistryConfig(AppConfig):
    """Label and import path of the app."""

    name = "fleet.apps.registry"
    label = "registry"
    default_auto_field = "django.db.models.BigAutoField"
