"""Django's registration of the `audit` app."""

from django.apps import AppConfig


class AuditConfig(AppConfig):
    """Label and import path of the app."""

    name = "fleet.apps.audit"
    label = "audit"
    default_auto_field = "django.db.models.BigAutoField"
