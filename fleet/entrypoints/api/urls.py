"""Routes of the REST interface, below /api/v1/."""

from django.urls import path, re_path

from fleet.entrypoints.api import converters
from fleet.entrypoints.api.views import (
    catalogue,
    devices,
    experiments,
    figures,
    rollouts,
    schema,
    stops,
    trust,
    versions,
)

converters.register()

urlpatterns = [
    path("schema", schema.Schema.as_view(), name="schema"),
    path("me", trust.Me.as_view(), name="me"),
    path("namespaces", catalogue.Namespaces.as_view(), name="namespaces"),
    path("namespaces/<namespace:namespace>", catalogue.Namespace.as_view(), name="namespace"),
    path("models", catalogue.Models.as_view(), name="models"),
    path("models/<model:model>", catalogue.Model.as_view(), name="model"),
    path("models/<model:model>/role", versions.Role.as_view(), name="model-role"),
    path("models/<model:model>/versions", versions.Versions.as_view(), name="versions"),
    path("models/<model:model>/versions/<version:version>", versions.Version.as_view(), name="version"),
    path(
        "models/<model:model>/versions/<version:version>:revoke", versions.Revocation.as_view(), name="revoke-version"
    ),
    path(
        "models/<model:model>/versions/<version:version>/inspection",
        versions.Inspection.as_view(),
        name="version-inspection",
    ),
    path("models/<model:model>/aliases", catalogue.Aliases.as_view(), name="aliases"),
    path("models/<model:model>/aliases/<name:alias>", catalogue.Alias.as_view(), name="alias"),
    path("models/<model:model>/deltas", catalogue.Deltas.as_view(), name="deltas"),
    path("models/<model:model>/savings", catalogue.Savings.as_view(), name="savings"),
    path("models/<model:model>/performance", figures.Performance.as_view(), name="performance"),
    path("uploads", versions.Uploads.as_view(), name="uploads"),
    path("uploads/<sha256:sha256>", versions.Upload.as_view(), name="upload"),
    path("plan", rollouts.Plan.as_view(), name="plan"),
    path("rollouts", rollouts.Rollouts.as_view(), name="rollouts"),
    path("rollouts/<rollout:rollout>", rollouts.Rollout.as_view(), name="rollout"),
    path("rollouts/<rollout:rollout>:approve", rollouts.Approval.as_view(), name="approve-rollout"),
    path("rollouts/<rollout:rollout>:<action:action>", rollouts.RolloutAction.as_view(), name="rollout-action"),
    path("rollouts/<rollout:rollout>/gates", rollouts.Gates.as_view(), name="rollout-gates"),
    path("rollouts/<rollout:rollout>/phases", rollouts.Phases.as_view(), name="rollout-phases"),
    path("rollouts/<rollout:rollout>/decisions", rollouts.Decisions.as_view(), name="rollout-decisions"),
    path("experiments", experiments.Experiments.as_view(), name="experiments"),
    path("experiments/<experiment:experiment>", experiments.Experiment.as_view(), name="experiment"),
    path(
        "experiments/<experiment:experiment>:<experiment_action:action>",
        experiments.ExperimentAction.as_view(),
        name="experiment-action",
    ),
    path("experiments/<experiment:experiment>/plan", experiments.ExperimentPlan.as_view(), name="experiment-plan"),
    path("experiments/<experiment:experiment>/results", experiments.Results.as_view(), name="experiment-results"),
    path("experiments/<experiment:experiment>/looks", experiments.Looks.as_view(), name="experiment-looks"),
    path(
        "experiments/<experiment:experiment>/decisions",
        experiments.ExperimentDecisions.as_view(),
        name="experiment-decisions",
    ),
    path("stops", stops.Stops.as_view(), name="stops"),
    path("stops:lift", stops.StopLifting.as_view(), name="lift-stop"),
    path("devices", devices.Devices.as_view(), name="devices"),
    path("devices/<device:device>", devices.Device.as_view(), name="device"),
    path("devices/<device:device>:revoke", devices.DeviceRevocation.as_view(), name="revoke-device"),
    path("devices/<device:device>/explain", devices.Explanation.as_view(), name="device-explain"),
    path("devices/<device:device>/timeline", devices.Timeline.as_view(), name="device-timeline"),
    path("groups", devices.Groups.as_view(), name="groups"),
    path("groups/<name:group>", devices.Group.as_view(), name="group"),
    path("enrolment/claims", trust.Claims.as_view(), name="claims"),
    path("tokens", trust.Tokens.as_view(), name="tokens"),
    path("tokens/<number:token_id>", trust.Token.as_view(), name="token"),
    path("trust", trust.TrustState.as_view(), name="trust"),
    path("trust/online-keys", trust.OnlineKeys.as_view(), name="online-keys"),
    path("trust/roots", trust.Roots.as_view(), name="roots"),
    path("trust/<repository:repository>/root", trust.RootRotation.as_view(), name="root"),
    path("trust/image/targets", trust.ImageTargets.as_view(), name="image-targets"),
    path("labels:batch", figures.Labels.as_view(), name="labels"),
    path("dropped", figures.Dropped.as_view(), name="dropped"),
    path("audit", figures.Audit.as_view(), name="audit"),
    re_path(r"^[\s\S]*$", schema.NoSuchAddress.as_view(), name="no-such-address"),
]
