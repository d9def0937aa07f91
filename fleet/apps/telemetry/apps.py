"""Django's registration of the `telemetry` app."""

from django.apps import AppConfig


class TelemetryConfig(AppConfig):
    """Label and import path of the app."""

    name = "fleet.apps.telemetry"
    label = "telemetry"
    default_auto_field = "django.db.models.BigAutoField"
