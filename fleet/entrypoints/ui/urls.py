"""Routes of the pages."""

from django.contrib.auth.views import LoginView, LogoutView
from django.templatetags.static import static
from django.urls import path
from django.views.generic import RedirectView

from fleet.entrypoints.ui.views import (
    audit,
    devices,
    enrol,
    experiments,
    models,
    namespaces,
    overview,
    rollouts,
    starts,
    stops,
    webhooks,
)

app_name = "ui"

urlpatterns = [
    path("", overview.fleet, name="fleet"),
    path("models", models.models, name="models"),
    path("models/<str:name>", models.model, name="model"),
    path("models/<str:name>/versions/<str:label>", models.version, name="version"),
    path("rollouts", rollouts.rollouts, name="rollouts"),
    path("rollouts/new", starts.start, name="start-rollout"),
    path("rollouts/<str:rollout_id>", rollouts.cockpit, name="rollout"),
    path("rollouts/<str:rollout_id>/decisions/<int:decision_id>", rollouts.decision, name="decision"),
    path("rollouts/<str:rollout_id>/<str:action>", rollouts.act, name="act"),
    path("experiments", experiments.experiments, name="experiments"),
    path("experiments/<str:experiment_id>", experiments.experiment, name="experiment"),
    path("experiments/<str:experiment_id>/<str:action>", experiments.act, name="experiment-act"),
    path("stops", stops.stop, name="stops"),
    path("devices", devices.devices, name="devices"),
    path("devices/<str:device_id>", devices.device, name="device"),
    path("enrol", enrol.enrol, name="enrol"),
    path("namespaces", namespaces.namespaces, name="namespaces"),
    path("namespaces/<str:name>", namespaces.namespace, name="namespace"),
    path("audit", audit.audit, name="audit"),
    path("webhooks", webhooks.webhooks, name="webhooks"),
    path("webhooks/<int:webhook_id>/<str:action>", webhooks.act, name="webhook-act"),
    path(
        "login", LoginView.as_view(template_name="session/login.html", redirect_authenticated_user=True), name="login"
    ),
    path("logout", LogoutView.as_view(), name="logout"),
    # Browsers ask for this on pages that name no icon, such as the administration's.
    path("favicon.ico", RedirectView.as_view(url=static("ui/favicon.svg")), name="favicon"),
]
