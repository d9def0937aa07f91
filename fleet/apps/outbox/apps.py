"""Django's registration of the `outbox` app."""

from django.apps import AppConfig


class OutboxConfig(AppConfig):
    """Label and import path of the app."""

    name = "fleet.apps.outbox"
    label = "outbox"
    default_auto_field = "django.db.models.BigAutoField"
