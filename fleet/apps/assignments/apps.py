"""Django's registration of the `assignments` app."""

from django.apps import AppConfig


class AssignmentsConfig(AppConfig):
    """Label and import path of the app."""

    name = "fleet.apps.assignments"
    label = "assignments"
    default_auto_field = "django.db.models.BigAutoField"
