"""MQTT payloads, version 1: one frozen dataclass a message, each with `encode` and `parse`.

`parse` takes the bytes of one MQTT message and returns the message or raises a `WireError` with a counted code.
Device identity is never read from a payload: it comes from the topic.

Sequence numbers: every message that must not be lost (`StateReport`, `TelemetryWindow`, `LabelBatch`) carries
(boot, seq), unique on the device for ever; the server stores it once and acknowledges that very pair after commit.
"""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, TypeVar

from device_client.wire import canonical, limits
from device_client.wire.bucketing import BucketRange
from device_client.wire.bundles import Contract, encode_contract, parse_contract
from device_client.wire.errors import MalformedMessageError
from device_client.wire.fields import Fields, decode_object
from device_client.wire.names import HEX_ID, parse_model, parse_sha256, parse_version
from device_client.wire.predictions import MAX_ID_CHARS
from device_client.wire.shadow import ShadowTotals
from device_client.wire.sketch import LatencySketch
from device_client.wire.states import FailureCode, Transport, UpdateState

MESSAGE_VERSION: Final = 1
MAX_BUNDLE_FILES: Final = 32

EnumMember = TypeVar("EnumMember", bound=Enum)


def _hex(fields: Fields, key: str) -> str:
    value = fields.text(key, max_chars=64)
    if HEX_ID.fullmatch(value) is None:
        raise MalformedMessageError(f"{key}: expected 8 to 64 hexadecimal digits, got {value!r}")
    return value


@dataclass(frozen=True)
class MessageKey:
    """(boot, seq): what makes a message from one device unique. `boot` names the life of the device's outbox."""

    boot: str
    seq: int

    @classmethod
    def parse(cls, fields: Fields) -> "MessageKey":
        """Read from a message."""
        return cls(_hex(fields, "boot"), fields.integer("seq"))


# ---------------------------------------------------------------- check and its answer


@dataclass(frozen=True)
class Capabilities:
    """What a device probed of itself. `precisions` empty means any; RAM and disk in bytes, zero means unknown.

    `in_place`: its owner lets it turn an installed file into the next one where it lies when there is no room for two.
    `shadow`: it can run a candidate beside the champion.
    """

    runtimes: Mapping[str, str] = field(default_factory=dict)  # runtime name -> version
    precisions: tuple[str, ...] = ()
    accelerators: tuple[str, ...] = ()
    codecs: tuple[str, ...] = ()
    arch: str = ""
    ram_bytes: int = 0
    disk_bytes: int = 0
    max_opset: int = 0
    max_ir_version: int = 0
    client_version: str = ""
    in_place: bool = False
    shadow: bool = False

    def encode(self) -> dict[str, object]:
        """The JSON form. What is not so is left out where older readers and digests do not know of it."""
        return {
            **({"in_place": True} if self.in_place else {}),
            **({"shadow": True} if self.shadow else {}),
            "runtimes": dict(self.runtimes),
            "precisions": list(self.precisions),
            "accelerators": list(self.accelerators),
            "codecs": list(self.codecs),
            "arch": self.arch,
            "ram_bytes": self.ram_bytes,
            "disk_bytes": self.disk_bytes,
            "max_opset": self.max_opset,
            "max_ir_version": self.max_ir_version,
            "client_version": self.client_version,
        }

    @property
    def digest(self) -> str:
        """Names this set of capabilities, so that an unchanged one need not be sent again."""
        return canonical.digest(self.encode())

    @classmethod
    def parse(cls, fields: Fields) -> "Capabilities":
        """Inverse of `encode`."""
        return cls(
            runtimes=fields.pairs("runtimes", max_items=16, max_chars=64),
            precisions=fields.texts("precisions", max_chars=32),
            accelerators=fields.texts("accelerators", max_chars=64),
            codecs=fields.texts("codecs", max_chars=32),
            arch=fields.text("arch", max_chars=32, default=""),
            ram_bytes=fields.integer("ram_bytes", default=0),
            disk_bytes=fields.integer("disk_bytes", default=0),
            max_opset=fields.integer("max_opset", default=0),
            max_ir_version=fields.integer("max_ir_version", default=0),
            client_version=fields.text("client_version", max_chars=32, default=""),
            in_place=fields.flag("in_place", default=False),
            shadow=fields.flag("shadow", default=False),
        )


@dataclass(frozen=True)
class Present:
    """How a device is at this moment, as far as it can tell; None is what it cannot. Free space in bytes."""

    metered: bool | None = None
    charging: bool | None = None
    idle: bool | None = None
    free_disk_bytes: int | None = None
    free_ram_bytes: int | None = None

    def encode(self) -> dict[str, object]:
        """The JSON form; what is not known is left out."""
        every = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {name: value for name, value in every.items() if value is not None}

    @classmethod
    def parse(cls, fields: Fields) -> "Present":
        """Inverse of `encode`."""
        return cls(
            metered=fields.flag("metered") if fields.has("metered") else None,
            charging=fields.flag("charging") if fields.has("charging") else None,
            idle=fields.flag("idle") if fields.has("idle") else None,
            free_disk_bytes=fields.integer("free_disk_bytes") if fields.has("free_disk_bytes") else None,
            free_ram_bytes=fields.integer("free_ram_bytes") if fields.has("free_ram_bytes") else None,
        )


@dataclass(frozen=True)
class Denied:
    """A digest that failed here under a rollout; the device will not try it again until a new rollout."""

    digest: str
    rollout: str


@dataclass(frozen=True)
class RunningModel:
    """What the device runs for one model that it was asked to run. Empty digest: nothing but the factory fallback."""

    model: str
    version: str = ""
    digest: str = ""
    weights_sha256: str = ""
    revision: int = 0
    state: UpdateState = UpdateState.IDLE
    contract: Contract | None = None
    denied: tuple[Denied, ...] = ()


class CheckReason(str, Enum):
    """Why a device asks."""

    START = "start"
    PERIODIC = "periodic"
    PLAN = "plan"
    POKE = "poke"
    RETRY = "retry"


@dataclass(frozen=True)
class Check:
    """`up/check`: what I run, what I can do, sign me an answer over this nonce."""

    nonce: str
    reason: CheckReason
    models: tuple[RunningModel, ...]
    director_version: int
    clock: int  # the device's idea of the time, seconds since the epoch
    capabilities: Capabilities
    attributes: Mapping[str, str] = field(default_factory=dict)
    present: Present = field(default_factory=Present)

    def encode(self) -> bytes:
        """The MQTT payload."""
        present = self.present.encode()
        return canonical.encode(
            {
                "v": MESSAGE_VERSION,
                "nonce": self.nonce,
                "reason": self.reason.value,
                "models": [_encode_running(item) for item in self.models],
                "director_version": self.director_version,
                "clock": self.clock,
                "capabilities": self.capabilities.encode(),
                "attributes": dict(self.attributes),
                **({"present": present} if present else {}),
            }
        )

    @classmethod
    def parse(cls, payload: bytes) -> "Check":
        """Inverse of `encode`; raises `WireError`."""
        fields = decode_object(payload)
        fields.require_version(MESSAGE_VERSION)
        return cls(
            nonce=_hex(fields, "nonce"),
            reason=_enum(CheckReason, fields, "reason"),
            models=tuple(_running(item) for item in fields.children("models", max_items=limits.MAX_MODELS_PER_DEVICE)),
            director_version=fields.integer("director_version", default=0),
            clock=fields.integer("clock", default=0),
            capabilities=Capabilities.parse(fields.child("capabilities")),
            attributes=fields.pairs("attributes", max_items=limits.MAX_ATTRIBUTES, max_chars=128),
            present=Present.parse(fields.child("present")),
        )


def _encode_running(item: RunningModel) -> dict[str, object]:
    return {
        "model": item.model,
        "version": item.version,
        "digest": item.digest,
        "weights_sha256": item.weights_sha256,
        "revision": item.revision,
        "state": item.state.value,
        "contract": None if item.contract is None else encode_contract(item.contract),
        "denied": [{"digest": denied.digest, "rollout": denied.rollout} for denied in item.denied],
    }


def _running(fields: Fields) -> RunningModel:
    return RunningModel(
        model=fields.name("model", parse_model),
        version=fields.text("version", max_chars=64, default=""),
        digest=_optional_sha256(fields, "digest"),
        weights_sha256=_optional_sha256(fields, "weights_sha256"),
        revision=fields.integer("revision", default=0),
        state=_enum(UpdateState, fields, "state"),
        contract=parse_contract(fields.raw("contract")) if fields.has("contract") else None,
        denied=tuple(
            Denied(item.name("digest", parse_sha256), item.text("rollout", max_chars=64))
            for item in fields.children("denied", max_items=64)
        ),
    )


def _optional_sha256(fields: Fields, key: str) -> str:
    return fields.name(key, parse_sha256) if fields.text(key, max_chars=64, default="") else ""


@dataclass(frozen=True)
class BundleMessage:
    """`down/bundle`: the signed answer to a nonce. `director` maps file names to the exact text of TUF metadata.

    `tickets` (sha256 -> URL, relative ones to the enrolled server) are not signed and need not be: the bytes behind
    them are checked against signed hashes.
    """

    nonce: str
    director: Mapping[str, str]
    tickets: Mapping[str, str] = field(default_factory=dict)

    def encode(self) -> bytes:
        """The MQTT payload."""
        return canonical.encode(
            {
                "v": MESSAGE_VERSION,
                "nonce": self.nonce,
                "director": dict(self.director),
                "tickets": dict(self.tickets),
            }
        )

    @classmethod
    def parse(cls, payload: bytes) -> "BundleMessage":
        """Inverse of `encode`; raises `WireError`."""
        fields = decode_object(payload)
        fields.require_version(MESSAGE_VERSION)
        return cls(
            nonce=_hex(fields, "nonce"),
            director=fields.pairs("director", max_items=MAX_BUNDLE_FILES, max_chars=limits.MAX_MESSAGE_BYTES),
            tickets=fields.pairs("tickets", max_items=limits.MAX_TICKETS),
        )


# ---------------------------------------------------------------- server to devices, unsigned hints


class RuleState(str, Enum):
    """What a rule in a plan notice asks of the devices in its ranges."""

    RUN = "run"  # check in after your jitter
    HALT = "halt"  # stop a download under way and check in


@dataclass(frozen=True)
class PlanRule:
    """One rule of a plan notice. It names nothing: any device of the broker may read it."""

    state: RuleState
    seed: str
    ranges: tuple[BucketRange, ...]
    jitter_s: float

    def encode(self) -> dict[str, object]:
        """The JSON form."""
        return {
            "state": self.state.value,
            "seed": self.seed,
            "ranges": [{"start": item.start, "end": item.end} for item in self.ranges],
            "jitter_s": self.jitter_s,
        }


@dataclass(frozen=True)
class PlanNotice:
    """`plan/<model key>`, retained: a hint that can make a device check in or wait, no more."""

    revision: int
    rules: tuple[PlanRule, ...]

    def encode(self) -> bytes:
        """The MQTT payload."""
        return canonical.encode(
            {"v": MESSAGE_VERSION, "revision": self.revision, "rules": [rule.encode() for rule in self.rules]}
        )

    @classmethod
    def parse(cls, payload: bytes) -> "PlanNotice":
        """Inverse of `encode`; raises `WireError`."""
        fields = decode_object(payload)
        fields.require_version(MESSAGE_VERSION)
        return cls(
            revision=fields.integer("revision"),
            rules=tuple(
                PlanRule(
                    state=_enum(RuleState, rule, "state"),
                    seed=rule.text("seed", max_chars=64),
                    ranges=tuple(
                        BucketRange(item.integer("start"), item.integer("end"))
                        for item in rule.children("ranges", max_items=limits.MAX_RANGES_PER_RULE)
                    ),
                    jitter_s=rule.number("jitter_s", maximum=86_400, default=0.0),
                )
                for rule in fields.children("rules", max_items=limits.MAX_RULES_PER_NOTICE)
            ),
        )


@dataclass(frozen=True)
class Ack:
    """`down/ack`: these very messages are durable. Exact pairs, so that several ingest workers cannot lie."""

    boot: str
    seqs: tuple[int, ...]

    def encode(self) -> bytes:
        """The MQTT payload."""
        return canonical.encode({"v": MESSAGE_VERSION, "boot": self.boot, "seqs": list(self.seqs)})

    @classmethod
    def parse(cls, payload: bytes) -> "Ack":
        """Inverse of `encode`; raises `WireError`."""
        fields = decode_object(payload)
        fields.require_version(MESSAGE_VERSION)
        seqs = fields.raw("seqs")
        if not isinstance(seqs, list) or not all(type(item) is int and item >= 0 for item in seqs):
            raise MalformedMessageError(f"seqs: expected a list of sequence numbers, got {seqs!r:.60}")
        return cls(_hex(fields, "boot"), tuple(seqs))


# ---------------------------------------------------------------- devices to server, durable


@dataclass(frozen=True)
class StateReport:
    """`up/state`: a transition of one model's update. `digest` is what the report is about.

    `active_digest` and `active_version` are what the device serves after the transition: the attestation that law 1
    counts. `bytes_received` counts what this deployment took over the network, `bytes_total` what a full download
    would have taken; `resumed_from` is the offset at which a download went on after an interruption. `codec` is that of
    the patch that brought (or is bringing) the bytes, empty for full files; `fallbacks` has the codec of each patch that
    was given up before, in order. Both are left out of the payload when they say nothing.
    """

    key: MessageKey
    at: int
    model: str
    version: str
    digest: str
    rollout: str
    revision: int
    state: UpdateState
    active_version: str = ""
    active_digest: str = ""
    transport: Transport = Transport.NONE
    bytes_received: int = 0
    bytes_total: int = 0
    resumed_from: int = 0
    failure: FailureCode | None = None
    detail: str = ""
    codec: str = ""
    fallbacks: tuple[str, ...] = ()

    def encode(self) -> bytes:
        """The MQTT payload."""
        return canonical.encode(
            {
                **({"codec": self.codec} if self.codec else {}),
                **({"fallbacks": list(self.fallbacks)} if self.fallbacks else {}),
                "v": MESSAGE_VERSION,
                "boot": self.key.boot,
                "seq": self.key.seq,
                "at": self.at,
                "model": self.model,
                "version": self.version,
                "digest": self.digest,
                "rollout": self.rollout,
                "revision": self.revision,
                "state": self.state.value,
                "active_version": self.active_version,
                "active_digest": self.active_digest,
                "transport": self.transport.value,
                "bytes_received": self.bytes_received,
                "bytes_total": self.bytes_total,
                "resumed_from": self.resumed_from,
                "failure": None if self.failure is None else self.failure.value,
                "detail": self.detail[: limits.MAX_TEXT_CHARS],
            }
        )

    @classmethod
    def parse(cls, payload: bytes) -> "StateReport":
        """Inverse of `encode`; raises `WireError`."""
        fields = decode_object(payload)
        fields.require_version(MESSAGE_VERSION)
        return cls(
            key=MessageKey.parse(fields),
            at=fields.integer("at"),
            model=fields.name("model", parse_model),
            version=fields.text("version", max_chars=64, default=""),
            digest=_optional_sha256(fields, "digest"),
            rollout=fields.text("rollout", max_chars=64, default=""),
            revision=fields.integer("revision", default=0),
            state=_enum(UpdateState, fields, "state"),
            active_version=fields.text("active_version", max_chars=64, default=""),
            active_digest=_optional_sha256(fields, "active_digest"),
            transport=_enum(Transport, fields, "transport"),
            bytes_received=fields.integer("bytes_received", default=0),
            bytes_total=fields.integer("bytes_total", default=0),
            resumed_from=fields.integer("resumed_from", default=0),
            failure=_enum(FailureCode, fields, "failure") if fields.has("failure") else None,
            detail=fields.text("detail", default=""),
            codec=fields.text("codec", max_chars=32, default=""),
            fallbacks=fields.texts("fallbacks", max_items=limits.MAX_TICKETS, max_chars=32),
        )


@dataclass(frozen=True)
class MetricTotals:
    """Sufficient statistics of one custom metric in one window."""

    n: int
    total: float
    total_squared: float


@dataclass(frozen=True)
class TelemetryWindow:
    """`up/telemetry`: sufficient statistics of one (model, version, revision, route) over one stretch of time.

    `n` counts inferences asked for, `errors` those that failed, `nan` those with a NaN output. Latencies in
    milliseconds. `during_update` windows overlapped a swap or download and are left out of comparisons.
    `rss_bytes` is the process's peak. `started_at` is the device's clock, seconds since the epoch; `clock_trusted`
    says whether it was set since the last signed time.
    `crashes` counts unclean ends of the process that served this version, found at its next start; of `compared` answers,
    for which a reference came by another route (a cloud), `agreed` were the same. `shadow` is of the candidate beside it.
    """

    key: MessageKey
    started_at: int
    duration_s: float
    model: str
    version: str
    digest: str
    revision: int
    route: str
    n: int
    errors: int
    nan: int
    latency: LatencySketch
    latency_sum_ms: float
    latency_sum_squares: float
    during_update: bool = False
    clock_trusted: bool = True
    rss_bytes: int = 0
    confidence_sum: float = 0.0
    metrics: Mapping[str, MetricTotals] = field(default_factory=dict)
    crashes: int = 0
    compared: int = 0
    agreed: int = 0
    shadow: ShadowTotals | None = None

    def encode(self) -> bytes:
        """The MQTT payload."""
        return canonical.encode(
            {
                "v": MESSAGE_VERSION,
                "boot": self.key.boot,
                "seq": self.key.seq,
                "started_at": self.started_at,
                "duration_s": self.duration_s,
                "model": self.model,
                "version": self.version,
                "digest": self.digest,
                "revision": self.revision,
                "route": self.route,
                "n": self.n,
                "errors": self.errors,
                "nan": self.nan,
                "latency": base64.b64encode(self.latency.encode()).decode(),
                "latency_sum_ms": self.latency_sum_ms,
                "latency_sum_squares": self.latency_sum_squares,
                "during_update": self.during_update,
                "clock_trusted": self.clock_trusted,
                "rss_bytes": self.rss_bytes,
                "confidence_sum": self.confidence_sum,
                "metrics": {
                    name: {"n": item.n, "total": item.total, "total_squared": item.total_squared}
                    for name, item in self.metrics.items()
                },
                # Left out where there is nothing to say, as in the first release, which did not know them.
                **{name: count for name in ("crashes", "compared", "agreed") if (count := getattr(self, name))},
                **({} if self.shadow is None else {"shadow": self.shadow.encode()}),
            }
        )

    @classmethod
    def parse(cls, payload: bytes) -> "TelemetryWindow":
        """Inverse of `encode`; raises `WireError`. Counts that contradict each other are refused."""
        fields = decode_object(payload)
        fields.require_version(MESSAGE_VERSION)
        window = cls(
            key=MessageKey.parse(fields),
            started_at=fields.integer("started_at"),
            duration_s=fields.number("duration_s", maximum=31_536_000),
            model=fields.name("model", parse_model),
            version=fields.name("version", parse_version),
            digest=_optional_sha256(fields, "digest"),
            revision=fields.integer("revision", default=0),
            route=fields.text("route", max_chars=16, default="local"),
            n=fields.integer("n", maximum=limits.MAX_INFERENCES_PER_WINDOW),
            errors=fields.integer("errors", default=0),
            nan=fields.integer("nan", default=0),
            latency=_sketch(fields, "latency"),
            latency_sum_ms=fields.number("latency_sum_ms", default=0.0),
            latency_sum_squares=fields.number("latency_sum_squares", default=0.0),
            during_update=fields.flag("during_update", default=False),
            clock_trusted=fields.flag("clock_trusted", default=True),
            rss_bytes=fields.integer("rss_bytes", default=0),
            confidence_sum=fields.number("confidence_sum", default=0.0),
            metrics=_metrics(fields.raw("metrics")),
            crashes=fields.integer("crashes", default=0, maximum=limits.MAX_INFERENCES_PER_WINDOW),
            compared=fields.integer("compared", default=0, maximum=limits.MAX_INFERENCES_PER_WINDOW),
            agreed=fields.integer("agreed", default=0),
            shadow=ShadowTotals.parse(fields.child("shadow")) if fields.has("shadow") else None,
        )
        if window.agreed > window.compared:
            raise MalformedMessageError(f"expected agreed <= compared, got {window.agreed} and {window.compared}")
        if window.errors > window.n or window.nan > window.n or window.latency.total > window.n:
            raise MalformedMessageError(
                f"expected errors, nan and latencies <= n, got n={window.n} errors={window.errors} "
                f"nan={window.nan} latencies={window.latency.total}"
            )
        return window


def _sketch(fields: Fields, key: str) -> LatencySketch:
    try:
        payload = base64.b64decode(fields.text(key, max_chars=2 * limits.MAX_SKETCH_BYTES), validate=True)
    except (binascii.Error, ValueError) as error:
        raise MalformedMessageError(f"{key}: expected base64, got {error}") from error
    return LatencySketch.decode(payload)


def _metrics(value: object) -> dict[str, MetricTotals]:
    if value is None:
        return {}
    if not isinstance(value, dict) or len(value) > limits.MAX_METRICS_PER_WINDOW:
        raise MalformedMessageError(f"metrics: expected at most {limits.MAX_METRICS_PER_WINDOW} metrics")
    metrics = {}
    for name, item in value.items():
        fields = Fields.of(item, f"metrics.{name[:64]}")
        metrics[str(name)[:64]] = MetricTotals(
            n=fields.integer("n"),
            total=fields.number("total", minimum=-1e18),
            total_squared=fields.number("total_squared"),
        )
    return metrics


@dataclass(frozen=True)
class Label:
    """What a prediction should have been. (`prediction`, `source`) is unique on the server."""

    prediction: str
    label: str
    correct: bool
    source: str


@dataclass(frozen=True)
class LabelBatch:
    """`up/label`: labels that arrived on the device, at most `MAX_LABELS_PER_MESSAGE`."""

    key: MessageKey
    labels: tuple[Label, ...]

    def encode(self) -> bytes:
        """The MQTT payload."""
        return canonical.encode(
            {
                "v": MESSAGE_VERSION,
                "boot": self.key.boot,
                "seq": self.key.seq,
                "labels": [
                    {"id": item.prediction, "label": item.label, "correct": item.correct, "source": item.source}
                    for item in self.labels
                ],
            }
        )

    @classmethod
    def parse(cls, payload: bytes) -> "LabelBatch":
        """Inverse of `encode`; raises `WireError`."""
        fields = decode_object(payload)
        fields.require_version(MESSAGE_VERSION)
        return cls(
            key=MessageKey.parse(fields),
            labels=tuple(
                Label(
                    prediction=item.text("id", max_chars=MAX_ID_CHARS),
                    label=item.text("label", max_chars=64),
                    correct=item.flag("correct"),
                    source=item.text("source", max_chars=32, default="app"),
                )
                for item in fields.children("labels", max_items=limits.MAX_LABELS_PER_MESSAGE)
            ),
        )


# ---------------------------------------------------------------- presence and certificate renewal


@dataclass(frozen=True)
class Presence:
    """`up/presence`, retained; the last will says offline."""

    online: bool
    client_version: str = ""

    def encode(self) -> bytes:
        """The MQTT payload."""
        return canonical.encode({"v": MESSAGE_VERSION, "online": self.online, "client_version": self.client_version})

    @classmethod
    def parse(cls, payload: bytes) -> "Presence":
        """Inverse of `encode`; raises `WireError`."""
        fields = decode_object(payload)
        fields.require_version(MESSAGE_VERSION)
        return cls(fields.flag("online"), fields.text("client_version", max_chars=32, default=""))


def _enum(kind: type[EnumMember], fields: Fields, key: str) -> EnumMember:
    value = fields.text(key, max_chars=32)
    if value not in kind._value2member_map_:
        raise MalformedMessageError(f"{key}: expected one of {[item.value for item in kind]}, got {value!r}")
    return kind(value)
