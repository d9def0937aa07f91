"""Django's registration of the `jobs` app."""

from django.apps import AppConfig


class JobsConfig(AppConfig):
    """Label and import path of the app."""

    name = "fleet.apps.jobs"
    label = "jobs"
    default_auto_field = "django.db.models.BigAutoField"
