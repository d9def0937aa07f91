"""Django's registration of the `devices` app."""

from django.apps import AppConfig


class DevicesConfig(AppConfig):
    """Label and import path of the app."""

    name = "fleet.apps.devices"
    label = "devices"
    default_auto_field = "django.db.models.BigAutoField"
