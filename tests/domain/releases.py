"""Small releases and devices for tests of the domain."""

from datetime import UTC, datetime, timedelta

from device_client.wire.bucketing import BUCKETS
from device_client.wire.bundles import BundleFile, Contract, FileRole, Manifest, Requirements
from device_client.wire.messages import Capabilities, Denied, RunningModel
from device_client.wire.names import VariantName
from fleet.domain.facts import Build, DeviceFacts, Rule, RuleState
from fleet.domain.filters.filter import Filter

MODEL = "vision.digits"
NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
CAPABLE = Capabilities(runtimes={"onnx": "1.22"}, max_opset=21, max_ir_version=10, ram_bytes=2**30, disk_bytes=2**30)


def build(
    version: str = "1",
    variant: str = "onnx-fp32-any",
    *,
    contract: Contract | None = None,
    requirements: Requirements | None = None,
) -> Build:
    """One variant with its own weights."""
    name = f"{version}{variant}".encode().hex()[:64].ljust(64, "0")
    manifest = Manifest(
        model=MODEL,
        version=version,
        variant=VariantName.parse(variant),
        format="onnx",
        files=(BundleFile("model.onnx", FileRole.WEIGHTS, name, 1_000),),
        contract=contract or Contract(),
        requirements=requirements or Requirements(opset=17, ir_version=8),
    )
    return Build(manifest.digest, manifest)


def rule(
    number: int,
    version: str,
    *,
    state: RuleState = RuleState.RUNNING,
    treated_end: int = BUCKETS,
    builds: tuple[Build, ...] | None = None,
    seed: str = "seed",
    phase: int = 0,
    priority: int = 0,
    hardware_classes: frozenset[str] = frozenset(),
    groups: frozenset[str] = frozenset(),
    starts_at: datetime | None = None,
    filter: Filter | None = None,  # noqa: A002 - as the field is called
) -> Rule:
    """Rule `number` was made, and if completed ended, `number` minutes after NOW."""
    at = NOW + timedelta(minutes=number)
    return Rule(
        id=number,
        source=f"r-{number:012x}",
        model=MODEL,
        version=version,
        version_id=int(version),
        builds=builds if builds is not None else (build(version),),
        state=state,
        seed=seed,
        created_at=at,
        phase=phase,
        treated_end=treated_end,
        hardware_classes=hardware_classes,
        groups=groups,
        filter=filter,
        priority=priority,
        starts_at=starts_at,
        ended_at=at if state is RuleState.COMPLETED else None,
    )


def device(
    device_id: str = "cam-01",
    *,
    runs: Build | None = None,
    denied: tuple[Denied, ...] = (),
    capabilities: Capabilities = CAPABLE,
    hardware_class: str = "edge-std",
    groups: frozenset[str] = frozenset(),
    contract: Contract | None = None,
    is_active: bool = True,
) -> DeviceFacts:
    """A device that asks for MODEL and may run a build of it."""
    running = RunningModel(
        model=MODEL,
        version="" if runs is None else runs.manifest.version,
        digest="" if runs is None else runs.digest,
        denied=denied,
        contract=contract,
    )
    return DeviceFacts(
        device_id=device_id,
        hardware_class=hardware_class,
        capabilities=capabilities,
        groups=groups,
        models={MODEL: running},
        is_active=is_active,
    )
