"""What the director says to one device, inside the `custom` fields of its signed TUF targets.

The director's targets role for a device holds:
- `device/<id>`: zero-length, always present; its custom is a `Binding` (nonce echo, poll interval, answers per model);
- `models/...json`: a copy of the image repository's length and hash for each assigned manifest; custom = `Assigned`;
- `deltas/...`: patches that this device can apply; custom = `DeltaOffer`.

Everything here is authenticated by the director's signature; nothing here can make a device run bytes that the
pipeline did not sign.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from device_client.wire import limits
from device_client.wire.errors import MalformedMessageError
from device_client.wire.fields import Fields
from device_client.wire.names import HEX_ID, parse_model, parse_sha256
from device_client.wire.shadow import ShadowBudget

CUSTOM_VERSION: Final = 1


class Decision(str, Enum):
    """What a check was answered, per model."""

    NOW = "now"  # the assigned version is among the targets
    LATER = "later"  # ask again at `until`
    NOTHING = "nothing"  # no version for this device; `because` says why


class Arm(str, Enum):
    """Why a device runs what it runs. `baseline` covers completed rollouts and reverts."""

    TREATED = "treated"
    BASELINE = "baseline"


@dataclass(frozen=True)
class Answer:
    """The director's answer for one model. `plan_key` names the retained plan notice to subscribe to."""

    decision: Decision
    because: str
    plan_key: str
    until: int | None = None  # seconds since the epoch, with LATER


@dataclass(frozen=True)
class Binding:
    """Custom of `device/<id>`. `issued_at` (seconds since the epoch) raises the device's persisted time floor."""

    nonce: str
    issued_at: int
    poll_interval_s: int
    answers: Mapping[str, Answer] = field(default_factory=dict)

    def encode(self) -> dict[str, object]:
        """The JSON form."""
        return {
            "v": CUSTOM_VERSION,
            "nonce": self.nonce,
            "issued_at": self.issued_at,
            "poll_interval_s": self.poll_interval_s,
            "answers": {
                model: {"decision": a.decision.value, "because": a.because, "plan_key": a.plan_key, "until": a.until}
                for model, a in self.answers.items()
            },
        }

    @classmethod
    def parse(cls, value: object) -> "Binding":
        """Inverse of `encode`; raises `WireError`."""
        fields = Fields.of(value, "binding")
        fields.require_version(CUSTOM_VERSION)
        answers = fields.raw("answers") or {}
        if not isinstance(answers, dict) or len(answers) > limits.MAX_MODELS_PER_DEVICE:
            raise MalformedMessageError(f"binding.answers: expected an object of answers, got {answers!r:.60}")
        return cls(
            nonce=fields.text("nonce", max_chars=64),
            issued_at=fields.integer("issued_at"),
            poll_interval_s=fields.integer("poll_interval_s", minimum=1),
            answers={parse_model(model): _answer(Fields.of(item, "answer")) for model, item in answers.items()},
        )


def _answer(fields: Fields) -> Answer:
    decision = fields.text("decision", max_chars=16)
    key = fields.text("plan_key", max_chars=64)
    if decision not in Decision._value2member_map_ or HEX_ID.fullmatch(key) is None:
        raise MalformedMessageError(f"expected a decision and a plan key, got {decision!r} and {key!r}")
    until = fields.integer("until") if fields.has("until") else None
    return Answer(Decision(decision), fields.text("because"), key, until)


@dataclass(frozen=True)
class DevicePolicy:
    """How a device carries out an assignment. Durations in seconds; zero bandwidth means unlimited."""

    window_s: float = 60.0  # length of a telemetry window
    probation_s: float = 300.0
    probation_inferences: int = 20  # probation also needs this many inferences, if the application makes any
    probation_max_errors: int = 3
    download_bytes_per_s: int = 0
    download_deadline_s: float = 86_400.0
    slow_ms: float = 100.0  # the SLO: an inference slower than this counts as slow

    def encode(self) -> dict[str, object]:
        """The JSON form."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @classmethod
    def parse(cls, fields: Fields) -> "DevicePolicy":
        """Read from JSON; absent fields keep their defaults."""
        default = cls()
        return cls(
            window_s=fields.number("window_s", minimum=0.2, maximum=86_400, default=default.window_s),
            probation_s=fields.number("probation_s", maximum=604_800, default=default.probation_s),
            probation_inferences=fields.integer("probation_inferences", default=default.probation_inferences),
            probation_max_errors=fields.integer("probation_max_errors", default=default.probation_max_errors),
            download_bytes_per_s=fields.integer("download_bytes_per_s", default=default.download_bytes_per_s),
            download_deadline_s=fields.number("download_deadline_s", minimum=1, default=default.download_deadline_s),
            slow_ms=fields.number("slow_ms", minimum=0.001, default=default.slow_ms),
        )

    def encode_signed(self) -> dict[str, object]:
        """The form inside signed metadata, whose canonical JSON knows integers only: fractions in thousandths."""
        return {
            **{name: getattr(self, name) for name in self.__dataclass_fields__ if name not in _THOUSANDTHS},
            **{key: round(getattr(self, name) * 1_000) for name, key in _THOUSANDTHS.items()},
        }

    @classmethod
    def parse_signed(cls, fields: Fields) -> "DevicePolicy":
        """Inverse of `encode_signed`, with the bounds of `parse`."""
        integers = {name: fields.raw(name) for name in cls.__dataclass_fields__ if name not in _THOUSANDTHS}
        fractions = {name: fields.integer(key) / 1_000 for name, key in _THOUSANDTHS.items() if fields.has(key)}
        return cls.parse(Fields({**integers, **fractions}, "assigned.policy"))


_THOUSANDTHS: Final[Mapping[str, str]] = {
    "window_s": "window_ms",
    "probation_s": "probation_ms",
    "download_deadline_s": "download_deadline_ms",
    "slow_ms": "slow_us",
}


@dataclass(frozen=True)
class Assigned:
    """Custom of a `models/...json` target: this manifest is to run on this device, because of `rollout`.

    `revision` rises with every change of what the device is told for this model; telemetry and labels echo it.
    `rollout` is empty for a baseline that no rollout made. `reason` is a sentence for people. With `shadow` the manifest
    is not to be served but to run beside what is, within this budget.
    """

    model: str
    version: str
    revision: int
    rollout: str
    arm: Arm
    phase: int
    reason: str
    policy: DevicePolicy = field(default_factory=DevicePolicy)
    parameters: Mapping[str, str] = field(default_factory=dict)
    shadow: ShadowBudget | None = None

    def encode(self) -> dict[str, object]:
        """The JSON form."""
        return {
            **({} if self.shadow is None else {"shadow": self.shadow.encode_signed()}),
            "v": CUSTOM_VERSION,
            "model": self.model,
            "version": self.version,
            "revision": self.revision,
            "rollout": self.rollout,
            "arm": self.arm.value,
            "phase": self.phase,
            "reason": self.reason,
            "policy": self.policy.encode_signed(),
            "parameters": dict(self.parameters),
        }

    @classmethod
    def parse(cls, value: object) -> "Assigned":
        """Inverse of `encode`; raises `WireError`."""
        fields = Fields.of(value, "assigned")
        fields.require_version(CUSTOM_VERSION)
        arm = fields.text("arm", max_chars=16)
        if arm not in Arm._value2member_map_:
            raise MalformedMessageError(f"assigned.arm: expected one of {[item.value for item in Arm]}, got {arm!r}")
        return cls(
            model=fields.name("model", parse_model),
            version=fields.text("version", max_chars=64),
            revision=fields.integer("revision"),
            rollout=fields.text("rollout", max_chars=64),
            arm=Arm(arm),
            phase=fields.integer("phase"),
            reason=fields.text("reason"),
            policy=DevicePolicy.parse_signed(fields.child("policy")),
            parameters=fields.pairs("parameters", max_items=limits.MAX_ATTRIBUTES),
            shadow=ShadowBudget.parse_signed(fields.child("shadow")) if fields.has("shadow") else None,
        )


@dataclass(frozen=True)
class DeltaOffer:
    """Custom of a `deltas/...` target: turns the blob `old_sha256` into `new_sha256` with `codec`."""

    old_sha256: str
    new_sha256: str
    codec: str

    def encode(self) -> dict[str, object]:
        """The JSON form."""
        return {"v": CUSTOM_VERSION, "old": self.old_sha256, "new": self.new_sha256, "codec": self.codec}

    @classmethod
    def parse(cls, value: object) -> "DeltaOffer":
        """Inverse of `encode`; raises `WireError`."""
        fields = Fields.of(value, "delta")
        fields.require_version(CUSTOM_VERSION)
        return cls(
            old_sha256=fields.name("old", parse_sha256),
            new_sha256=fields.name("new", parse_sha256),
            codec=fields.text("codec", max_chars=32),
        )
