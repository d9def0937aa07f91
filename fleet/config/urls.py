"""Routes of the whole server: pages, REST, devices, administration, health."""

from importlib.util import find_spec

from django.contrib import admin
from django.urls import URLPattern, URLResolver, include, path

urlpatterns: list[URLPattern | URLResolver] = [
    path("admin/", admin.site.urls),
    path("", include("fleet.entrypoints.health.urls")),
]
# Until every entry point has landed, the ones that exist.
for prefix, module in (
    ("api/v1/", "fleet.entrypoints.api"),
    ("", "fleet.entrypoints.device_api"),
    ("", "fleet.entrypoints.ui"),
):
    if find_spec(module) and find_spec(f"{module}.urls"):
        urlpatterns.append(path(prefix, include(f"{module}.urls")))
