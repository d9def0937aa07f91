"""Routes of the whole server: pages, REST, devices, administration, health."""

from django.contrib import admin
from django.urls import URLPattern, URLResolver, include, path

from fleet.entrypoints.api.metrics import Metrics

urlpatterns: list[URLPattern | URLResolver] = [
    path("admin/", admin.site.urls),
    path("api/v1/", include("fleet.entrypoints.api.urls")),
    path("metrics", Metrics.as_view(), name="metrics"),
    path("", include("fleet.entrypoints.health.urls")),
    path("", include("fleet.entrypoints.device_api.urls")),
    path("", include("fleet.entrypoints.ui.urls")),
]
