"""One model's update on one device as data: what is to be installed, how far it is, and what can happen to it.

Values only. `Deployment` is what the journal keeps, so every field survives a power cut; `encode` and `parse` are its
stored form. A stored form that this code does not understand raises `WireError`, and the caller rolls back.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from device_client.wire.director import Arm, DevicePolicy
from device_client.wire.errors import MalformedMessageError
from device_client.wire.fields import Fields
from device_client.wire.limits import MAX_ATTRIBUTES, MAX_TICKETS
from device_client.wire.names import parse_model, parse_sha256
from device_client.wire.states import FailureCode, Transport, UpdateState

STORED_VERSION: Final = 1


@dataclass(frozen=True)
class Patch:
    """A delta that the director offers: turns one weights file that we may have into another."""

    old_sha256: str
    new_sha256: str
    codec: str
    sha256: str
    length: int


@dataclass(frozen=True)
class Target:
    """What both repositories agree that this device should run, and where its bytes can be had."""

    version: str
    digest: str
    path: str
    length: int
    rollout: str
    revision: int
    arm: Arm
    phase: int
    reason: str
    policy: DevicePolicy = field(default_factory=DevicePolicy)
    parameters: Mapping[str, str] = field(default_factory=dict)
    patches: tuple[Patch, ...] = ()
    tickets: Mapping[str, str] = field(default_factory=dict)

    def encode(self) -> dict[str, object]:
        """The stored form."""
        return {
            "version": self.version,
            "digest": self.digest,
            "path": self.path,
            "length": self.length,
            "rollout": self.rollout,
            "revision": self.revision,
            "arm": self.arm.value,
            "phase": self.phase,
            "reason": self.reason,
            "policy": self.policy.encode(),
            "parameters": dict(self.parameters),
            "patches": [
                {
                    "old": patch.old_sha256,
                    "new": patch.new_sha256,
                    "codec": patch.codec,
                    "sha256": patch.sha256,
                    "length": patch.length,
                }
                for patch in self.patches
            ],
            "tickets": dict(self.tickets),
        }

    @classmethod
    def parse(cls, fields: Fields) -> "Target":
        """Inverse of `encode`."""
        return cls(
            version=fields.text("version"),
            digest=fields.name("digest", parse_sha256),
            path=fields.text("path"),
            length=fields.integer("length"),
            rollout=fields.text("rollout"),
            revision=fields.integer("revision"),
            arm=Arm(fields.text("arm")),
            phase=fields.integer("phase"),
            reason=fields.text("reason"),
            policy=DevicePolicy.parse(fields.child("policy")),
            parameters=fields.pairs("parameters", max_items=MAX_ATTRIBUTES),
            patches=tuple(
                Patch(
                    old_sha256=item.name("old", parse_sha256),
                    new_sha256=item.name("new", parse_sha256),
                    codec=item.text("codec"),
                    sha256=item.name("sha256", parse_sha256),
                    length=item.integer("length"),
                )
                for item in fields.children("patches", max_items=MAX_TICKETS)
            ),
            tickets=fields.pairs("tickets", max_items=MAX_TICKETS),
        )


@dataclass(frozen=True)
class Deployment:
    """The state of one model's update.

    `serial` tells late results of an abandoned attempt from those of the present one. `origin` is the digest that was
    active when the deployment began (empty: none), `proven` the digest that last passed its probation here. `codec` is
    that of the patch by which the bytes come (empty: none), `fallbacks` has the codecs of the patches given up before.
    """

    model: str
    state: UpdateState = UpdateState.IDLE
    serial: int = 0
    target: Target | None = None
    origin: str = ""
    proven: str = ""
    transport: Transport = Transport.NONE
    bytes_received: int = 0
    bytes_total: int = 0
    resumed_from: int = 0
    restarts: int = 0
    failure: FailureCode | None = None
    deny: bool = False
    detail: str = ""
    began_at: float = 0.0
    probation_at: float = 0.0
    codec: str = ""
    fallbacks: tuple[str, ...] = ()

    @property
    def aim(self) -> Target:
        """The target of a deployment that is under way; raises `MalformedMessageError` if there is none."""
        if self.target is None:
            raise MalformedMessageError(f"expected a deployment with a target, got one in state {self.state.value}")
        return self.target

    def encode(self) -> dict[str, object]:
        """The stored form."""
        return {
            "v": STORED_VERSION,
            "model": self.model,
            "state": self.state.value,
            "serial": self.serial,
            "target": None if self.target is None else self.target.encode(),
            "origin": self.origin,
            "proven": self.proven,
            "transport": self.transport.value,
            "bytes_received": self.bytes_received,
            "bytes_total": self.bytes_total,
            "resumed_from": self.resumed_from,
            "restarts": self.restarts,
            "failure": None if self.failure is None else self.failure.value,
            "deny": self.deny,
            "detail": self.detail,
            "began_at": self.began_at,
            "probation_at": self.probation_at,
            "codec": self.codec,
            "fallbacks": list(self.fallbacks),
        }

    @classmethod
    def parse(cls, value: object) -> "Deployment":
        """Inverse of `encode`; raises `WireError` for anything that this code does not know."""
        fields = Fields.of(value, "deployment")
        fields.require_version(STORED_VERSION)
        try:
            return cls(
                model=fields.name("model", parse_model),
                state=UpdateState(fields.text("state")),
                serial=fields.integer("serial"),
                target=Target.parse(fields.child("target")) if fields.has("target") else None,
                origin=fields.text("origin"),
                proven=fields.text("proven"),
                transport=Transport(fields.text("transport")),
                bytes_received=fields.integer("bytes_received"),
                bytes_total=fields.integer("bytes_total"),
                resumed_from=fields.integer("resumed_from"),
                restarts=fields.integer("restarts"),
                failure=FailureCode(fields.text("failure")) if fields.has("failure") else None,
                deny=fields.flag("deny", default=False),
                detail=fields.text("detail", default=""),
                began_at=fields.number("began_at"),
                probation_at=fields.number("probation_at"),
                codec=fields.text("codec", default=""),
                fallbacks=fields.texts("fallbacks"),
            )
        except ValueError as error:
            raise MalformedMessageError(f"deployment: expected known enumeration values, got {error}") from error


# ---------------------------------------------------------------- what can happen


@dataclass(frozen=True)
class Assigned:
    """Both repositories agree on `target`. `active` is the digest that this device serves now. `is_later`: the target is for
    the meantime, and what was under way may be assigned again.
    """

    target: Target
    active: str
    is_later: bool = False


@dataclass(frozen=True)
class Refused:
    """An assignment that policy or the image repository does not allow. It has not touched anything."""

    target: Target
    failure: FailureCode
    detail: str
    deny: bool


@dataclass(frozen=True)
class Withdrawn:
    """The director no longer assigns anything for this model, or (`is_later`) not yet."""

    because: str
    is_later: bool = False


@dataclass(frozen=True)
class Proceeded:
    """A waiting point (assigned, staged) may be left."""


@dataclass(frozen=True)
class PreflightPassed:
    """Conditions hold. `in_slot`: the bundle is on this device already, nothing has to be fetched."""

    in_slot: bool


@dataclass(frozen=True)
class FetchPlanned:
    """How the bytes will come, how many of them were here before, and which patches were given up by now."""

    transport: Transport
    bytes_total: int
    resumed_from: int
    codec: str = ""
    fallbacks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Fetched:
    """All files are staged."""

    transport: Transport
    bytes_received: int
    bytes_total: int
    codec: str = ""
    fallbacks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verified:
    """The staged files are those that were signed, and have become an immutable slot."""


@dataclass(frozen=True)
class SelfTestPassed:
    """The golden samples were answered as signed."""


@dataclass(frozen=True)
class Activated:
    """The slot is current and new leases get it."""


@dataclass(frozen=True)
class Survived:
    """Probation has passed."""


@dataclass(frozen=True)
class Failed:
    """Something ended the update."""

    failure: FailureCode
    detail: str
    deny: bool


@dataclass(frozen=True)
class RolledBack:
    """What ran before runs again; `active` is its digest."""

    active: str


@dataclass(frozen=True)
class Recalled:
    """A person at the device asks for the previous version."""

    detail: str


@dataclass(frozen=True)
class Restarted:
    """The client has started again. `clean`: it had been stopped in an orderly way. `has_earlier`: another version is
    here to go back to.
    """

    clean: bool
    has_earlier: bool


@dataclass(frozen=True)
class Steadied:
    """The client has run for so long since its last unclean start that it could talk to the server."""


Event = (
    Assigned
    | Refused
    | Withdrawn
    | Proceeded
    | PreflightPassed
    | FetchPlanned
    | Fetched
    | Verified
    | SelfTestPassed
    | Activated
    | Survived
    | Failed
    | RolledBack
    | Recalled
    | Restarted
    | Steadied
)


# ---------------------------------------------------------------- what is to be done


@dataclass(frozen=True)
class Report:
    """Tell the server about `deployment`. Recorded in the same transaction as the new state."""

    deployment: Deployment
    state: UpdateState


@dataclass(frozen=True)
class Deny:
    """Never try `digest` again under `rollout`. Recorded in the same transaction as the new state."""

    digest: str
    rollout: str


@dataclass(frozen=True)
class Proceed:
    """Go on from a waiting point as soon as policy allows."""


@dataclass(frozen=True)
class RunPreflight:
    """Look for the slot, measure disk and conditions."""


@dataclass(frozen=True)
class Fetch:
    """Get every file of the bundle into staging; does nothing if that is under way."""


@dataclass(frozen=True)
class Verify:
    """Check the staged bundle and make it a slot."""


@dataclass(frozen=True)
class SelfTest:
    """Load the slot beside the running model and ask it its golden samples."""


@dataclass(frozen=True)
class Activate:
    """Make the slot current, then switch new leases to it."""


@dataclass(frozen=True)
class Watch:
    """Begin, or go on with, the probation."""


@dataclass(frozen=True)
class RollBack:
    """Make `origin` current again, or the factory model, or nothing."""


@dataclass(frozen=True)
class Adopt:
    """The running model goes on under a new revision, policy and parameters."""


@dataclass(frozen=True)
class StopWork:
    """Abandon what is being done for the previous target; remove what it staged under `digest`, unless it `keeps` that."""

    digest: str
    keeps: bool = False


@dataclass(frozen=True)
class Collect:
    """Remove slots and staging directories that nothing refers to."""


@dataclass(frozen=True)
class AskAgain:
    """This is no moment to change course; check in once the present step is over."""


Effect = (
    Report
    | Deny
    | Proceed
    | RunPreflight
    | Fetch
    | Verify
    | SelfTest
    | Activate
    | Watch
    | RollBack
    | Adopt
    | StopWork
    | Collect
    | AskAgain
)
