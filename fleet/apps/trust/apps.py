"""Django's registration of the `trust` app."""

from django.apps import AppConfig


class TrustConfig(AppConfig):
    """Label and import path of the app."""

    name = "fleet.apps.trust"
    label = "trust"
    default_auto_field = "django.db.models.BigAutoField"
