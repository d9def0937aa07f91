"""Django's registration of the gateway, for the sake of its management commands."""

from django.apps import AppConfig


class GatewayConfig(AppConfig):
    """It has no models."""

    name = "fleet.entrypoints.gateway"
    label = "gateway"
