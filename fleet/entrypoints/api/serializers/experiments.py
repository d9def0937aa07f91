"""Experiments, their plans, results and decisions."""

from typing import Any

from drf_spectacular.utils import OpenApiExample, extend_schema_serializer
from rest_framework import serializers
from rest_framework.serializers import Serializer

from fleet.domain.experiment_states import ExperimentState
from fleet.domain.gate_policy import YEAR_S
from fleet.entrypoints.api.pagination import PageQuery
from fleet.entrypoints.api.serializers.fields import PlainField
from fleet.entrypoints.api.serializers.rollouts import ApprovalSerializer, FindingSerializer


@extend_schema_serializer(
    examples=[
        OpenApiExample(
            "Is the smaller build as good?",
            {
                "model": "vision.defects",
                "spec": {
                    "arms": [{"name": "fp32", "version": "champion"}, {"name": "int8", "version": "12"}],
                    "success": {"accuracy": {"effect_points": 1}},
                    "guardrails": {"latency": {"slow_ms": 50, "margin_points": 2}},
                    "duration_s": 1_209_600,
                },
            },
        )
    ]
)
class ExperimentBody(Serializer[Any]):
    """What is to be compared."""

    model = serializers.CharField(max_length=63)
    spec = serializers.JSONField(help_text="Arms, success metrics, guardrails, time: docs/experiments.md.")


class ExperimentQuery(PageQuery):
    """Which experiments."""

    model = serializers.CharField(required=False, max_length=63)
    state = serializers.ChoiceField([item.value for item in ExperimentState], required=False)


class ExperimentPlanQuery(Serializer[Any]):
    """Under which order of the devices."""

    seed = serializers.CharField(required=False, max_length=64)


class ExperimentActionBody(Serializer[Any]):
    """Why, and what the action needs."""

    reason = serializers.CharField(max_length=500, allow_blank=True, default="")
    seed = serializers.CharField(
        max_length=64, required=False, allow_null=True, default=None, help_text="`start`: random if absent."
    )
    override_quiet = serializers.BooleanField(
        default=False, help_text="`start`: in the namespace's quiet hours, too; needs a reason."
    )
    extra_s = serializers.FloatField(
        required=False, default=0.0, min_value=0, max_value=YEAR_S, help_text="`extend`: how much longer."
    )
    policy = serializers.JSONField(
        required=False,
        default=lambda: {"preset": "safe-ramp"},
        help_text="`promote`: the policy of the winner's rollout, or a preset.",
    )


class ExperimentSerializer(Serializer[Any]):
    """One experiment. `revision` rises with every change; send it as If-Match to act on what you saw."""

    id = serializers.CharField()
    model = serializers.CharField()
    state = serializers.CharField(source="state.value")
    seed = serializers.CharField()
    spec = PlainField(help_text="The whole specification, defaults written out: docs/experiments.md.")
    verdict = serializers.CharField(help_text="`ship`, `harm`, `mismatch`, `inconclusive`, or empty.")
    winner = serializers.CharField(help_text="An arm's name, or empty.")
    because = serializers.CharField()
    rollout = serializers.CharField(allow_null=True, help_text="What a promotion became.")
    revision = serializers.IntegerField()
    created_by = serializers.CharField()
    created_at = serializers.DateTimeField()
    started_at = serializers.DateTimeField(allow_null=True)
    ends_at = serializers.DateTimeField(allow_null=True)
    decided_at = serializers.DateTimeField(allow_null=True)
    ended_at = serializers.DateTimeField(allow_null=True)
    findings = FindingSerializer(many=True)
    approvals_required = serializers.IntegerField()
    approvals = ApprovalSerializer(many=True)


class ExperimentPlanSerializer(Serializer[Any]):
    """A dry run: devices of each arm, what its comparisons need, what this fleet can see."""

    experiment = serializers.CharField()
    population = serializers.IntegerField()
    eligible = serializers.IntegerField(help_text="Devices that have a build of every arm.")
    refused = PlainField(help_text="Devices that have not, by the version that does not fit.")
    arms = PlainField(help_text="Each with `name`, `version`, `share` and its devices by hardware class.")
    sizes = PlainField(
        help_text="For each arm and metric: the effect, the devices that it needs, the effect that this fleet can see."
    )
    findings = FindingSerializer(many=True)
    duration_s = serializers.FloatField()
    counted_at = serializers.DateTimeField()


class ResultsSerializer(Serializer[Any]):
    """What it shows now, or showed when it was decided. Look at `assigned` and `reporting` first."""

    experiment = serializers.CharField()
    at = serializers.DateTimeField()
    frozen = serializers.BooleanField(help_text="As it stood when it was decided or stopped.")
    verdict = serializers.CharField()
    winner = serializers.CharField()
    sentence = serializers.CharField()
    arms = PlainField(help_text="What became of the offers of each arm: offered, installed, failed, gone back.")
    assigned = PlainField(help_text="Whether devices fell on the arms as meant: sample-ratio mismatch.")
    reporting = PlainField(help_text="The same of the devices that report.")
    comparisons = PlainField(help_text="Treatment minus control with intervals, per metric and class.")
    notes = serializers.ListField(child=serializers.CharField())


class LooksSerializer(Serializer[Any]):
    """The intervals over time, the oldest first."""

    results = PlainField(help_text="Each with `at` and `intervals`: by arm and metric, over all classes.")


class ExperimentDecisionSerializer(Serializer[Any]):
    """One decision with its frozen evidence."""

    id = serializers.IntegerField()
    experiment = serializers.CharField()
    model = serializers.CharField()
    at = serializers.DateTimeField()
    action = serializers.CharField()
    verdict = serializers.CharField()
    actor = serializers.CharField()
    sentence = serializers.CharField()
    evidence = PlainField(help_text="What was seen then: the results as they stood, or what else decided it.")
