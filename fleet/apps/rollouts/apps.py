"""Django's registration of the `rollouts` app."""

from django.apps import AppConfig


class RolloutsConfig(AppConfig):
    """Label and import path of the app."""

    name = "fleet.apps.rollouts"
    label = "rollouts"
    default_auto_field = "django.db.models.BigAutoField"
