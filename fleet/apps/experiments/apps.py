"""Django's registration of the `experiments` app."""

from django.apps import AppConfig


class ExperimentsConfig(AppConfig):
    """Label and import path of the app."""

    name = "fleet.apps.experiments"
    label = "experiments"
    default_auto_field = "django.db.models.BigAutoField"
