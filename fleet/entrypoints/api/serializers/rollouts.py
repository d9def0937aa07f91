"""Rollouts, plans, gates, decisions."""

from typing import Any

from drf_spectacular.utils import OpenApiExample, extend_schema_serializer
from rest_framework import serializers
from rest_framework.serializers import Serializer

from fleet.domain.rollout_states import RolloutState
from fleet.entrypoints.api.pagination import PageQuery
from fleet.entrypoints.api.serializers.fields import PlainField

VERSION_HELP = "A version's label, or an alias, which is resolved at once: the answer says the label."


@extend_schema_serializer(
    examples=[
        OpenApiExample(
            "A preset", {"model": "vision.defects", "version": "challenger", "policy": {"preset": "safe-ramp"}}
        ),
        OpenApiExample(
            "A preset with an accuracy gate, for one site at night",
            {
                "model": "vision.defects",
                "version": "12",
                "against": "champion",
                "policy": {
                    "preset": "canary-then-all",
                    "gates": {"accuracy": {"margin_points": 2, "min_labels_per_device": 20}},
                    "population": {"filter": 'attributes.site == "oslo"'},
                    "windows": {"hours": ["22:00-06:00"]},
                    "approvals": 1,
                },
            },
        ),
    ]
)
class PlanBody(Serializer[Any]):
    """What a rollout would do."""

    model = serializers.CharField(max_length=63)
    version = serializers.CharField(max_length=64, help_text=VERSION_HELP)
    policy = serializers.JSONField(help_text='A policy, or {"preset": name} with fields of its own.')
    against = serializers.CharField(
        max_length=64,
        required=False,
        allow_null=True,
        default=None,
        help_text="The version or alias that untreated devices are expected to run; 409 if they run another.",
    )
    seed = serializers.CharField(
        max_length=64, required=False, allow_null=True, default=None, help_text="Who is first; random if absent."
    )


class RolloutQuery(PageQuery):
    """Which rollouts."""

    model = serializers.CharField(required=False, max_length=63)
    version = serializers.CharField(
        required=False, max_length=64, help_text="A label, or with `model` an alias; 404 if the model has none such."
    )
    state = serializers.ChoiceField([item.value for item in RolloutState], required=False)


class FindingSerializer(Serializer[Any]):
    """One thing to know about a plan."""

    level = serializers.CharField(source="level.value", help_text="`error` refuses the start.")
    code = serializers.CharField()
    sentence = serializers.CharField()


class ApprovalBody(Serializer[Any]):
    """Why it may go on."""

    reason = serializers.CharField(max_length=500)
    emergency = serializers.BooleanField(default=False, help_text="Needs scope `admin`; is enough alone.")


class ApprovalSerializer(Serializer[Any]):
    """One person's consent."""

    actor = serializers.CharField()
    reason = serializers.CharField()
    emergency = serializers.BooleanField(source="is_emergency")
    at = serializers.DateTimeField()


class RolloutSerializer(Serializer[Any]):
    """One rollout. `revision` rises with every change; send it as If-Match to act on what you saw."""

    id = serializers.CharField()
    model = serializers.CharField()
    version = serializers.CharField()
    against = serializers.CharField(allow_null=True)
    state = serializers.CharField(source="state.value")
    seed = serializers.CharField()
    policy = PlainField(help_text="The whole policy, presets and defaults written out: docs/rollouts.md.")
    phase = serializers.IntegerField()
    phases = serializers.IntegerField()
    share = serializers.FloatField()
    reach = serializers.CharField(help_text="Whom the present phase reaches.")
    phase_started_at = serializers.DateTimeField(allow_null=True)
    revision = serializers.IntegerField()
    because = serializers.CharField()
    created_by = serializers.CharField()
    created_at = serializers.DateTimeField()
    started_at = serializers.DateTimeField(allow_null=True)
    reverting_since_at = serializers.DateTimeField(allow_null=True)
    steps_left = serializers.IntegerField(help_text="Of a revert in steps; `:revert` again takes them at once.")
    ended_at = serializers.DateTimeField(allow_null=True)
    findings = FindingSerializer(many=True)
    approvals_required = serializers.IntegerField()
    ignores_quiet_hours = serializers.BooleanField()
    approvals = ApprovalSerializer(many=True)


class PlanSerializer(Serializer[Any]):
    """A dry run: who would get what, who nothing and why, what the gates could see."""

    model = serializers.CharField()
    version = serializers.CharField()
    against = serializers.CharField(allow_null=True)
    policy = PlainField(help_text="As it would be stored: presets fitted to the fleet, defaults written out.")
    population = serializers.IntegerField()
    eligible = serializers.IntegerField()
    variants = PlainField(help_text="Devices by variant.")
    refused = PlainField(help_text="Devices that would get nothing, by reason.")
    outside = PlainField(help_text="Devices that ask for the model and are not in the population, by reason.")
    words = serializers.ListField(child=serializers.CharField(), help_text="Whom each phase reaches.")
    phases = PlainField(
        help_text="For each phase `classes`: how many devices it treats, keeps as control, and has, by hardware class."
    )
    findings = FindingSerializer(many=True)
    detectable = PlainField(
        help_text="What each gate can see, by phase and class: `drop_points` that fail it, `proves_points` that pass, for "
        "counts `devices` that fail and `held_at` that hold it; `sentence` says it in words."
    )
    counted_at = serializers.DateTimeField()


class ActionBody(Serializer[Any]):
    """Why."""

    reason = serializers.CharField(max_length=500, allow_blank=True, default="")


class GatesSerializer(Serializer[Any]):
    """The gates of the present phase as they stand, each with its evidence."""

    rollout = serializers.CharField()
    phase = serializers.IntegerField()
    at = serializers.DateTimeField()
    frozen = serializers.BooleanField(help_text="As they stood when the phase ended.")
    verdict = PlainField(help_text="Of all gates together: `pass`, `fail`, `wait` or `inconclusive`.")
    action = PlainField(help_text="What the conductor would do now.")
    sentence = serializers.CharField()
    gates = PlainField(
        help_text="Each with `name`, `kind`, `stratum`, `verdict`, `sentence`, `advisory` and `evidence`: docs/rollouts.md."
    )
    notes = serializers.ListField(child=serializers.CharField())
    counts = PlainField(help_text="`classes`: the phase's `treated`, `control` and `population` by hardware class.")
    offers = PlainField(
        help_text="By hardware class, all phases so far: `offered`, `committed`, `failed`, `rolled_back`, `silent`."
    )
    earliest_at = serializers.DateTimeField(allow_null=True)
    deadline_at = serializers.DateTimeField(allow_null=True)


class DecisionSerializer(Serializer[Any]):
    """One decision with its frozen evidence."""

    id = serializers.IntegerField()
    rollout = serializers.CharField()
    model = serializers.CharField()
    version = serializers.CharField()
    phase = serializers.IntegerField()
    at = serializers.DateTimeField()
    action = serializers.CharField()
    verdict = serializers.CharField()
    actor = serializers.CharField()
    sentence = serializers.CharField()
    evidence = PlainField(help_text="What was seen then: the gates as `gates` shows them, or what else decided it.")


class PhaseSerializer(Serializer[Any]):
    """One phase as it happened."""

    index = serializers.IntegerField()
    share = serializers.FloatField()
    counts = PlainField(help_text="`classes`: its devices by hardware class; none until it is counted.")
    is_counted = serializers.BooleanField(help_text="Large fleets are counted by a job, some seconds later.")
    verdict = PlainField(help_text="Of its gates at its end; null before.")
    judgement = PlainField(help_text="The gates at its end, with `notes` and the error `budget` that they used.")
    started_at = serializers.DateTimeField()
    ended_at = serializers.DateTimeField(allow_null=True)


class PhasesSerializer(Serializer[Any]):
    """The phases that have begun."""

    results = PhaseSerializer(many=True)
