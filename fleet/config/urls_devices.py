"""Routes of a web process that serves devices and nothing else, such as the one that `up --lan` opens to the network."""

from django.urls import URLPattern, URLResolver, include, path

urlpatterns: list[URLPattern | URLResolver] = [
    path("", include("fleet.entrypoints.health.urls")),
    path("", include("fleet.entrypoints.device_api.urls")),
]
