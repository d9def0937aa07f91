"""Routes of the health checks."""

from django.urls import path

from fleet.entrypoints.health.views import healthz, readyz

urlpatterns = [path("healthz", healthz), path("readyz", readyz)]
