"""Django's registration of the `webhooks` app."""

from django.apps import AppConfig


class WebhooksConfig(AppConfig):
    """Label and import path of the app."""

    name = "fleet.apps.webhooks"
    label = "webhooks"
    default_auto_field = "django.db.models.BigAutoField"
