"""Routes of the whole server: pages, REST, devices, administration, health."""

import logging

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
    try:
        urlpatterns.append(path(prefix, include(f"{module}.urls")))
    except ImportError:
        logging.getLogger(__name__).warning("%s is not there yet", module, exc_info=True)
