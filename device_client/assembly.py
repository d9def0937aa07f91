"""The composition root of the device client: it puts adapters and runtimes into the agent, and nobody else does.

What takes long to import (TUF, MQTT, HTTP) is imported where it is needed: `status` must answer in a moment.
"""

import os
import platform
import random
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Final

from device_client import __version__, runtimes
from device_client.adapters import durable
from device_client.adapters.clock import SystemClock
from device_client.adapters.database import Database
from device_client.adapters.journal import SqliteJournal
from device_client.adapters.outbox import SqliteOutbox, life_of
from device_client.adapters.slots import FileSlots
from device_client.adapters.surroundings import present, time_zone
from device_client.agent.installer import Installer
from device_client.agent.loop import Agent
from device_client.config import Config, StatePaths
from device_client.core.errors import ConfigError, DeviceError, EnrolmentError, LoadError
from device_client.core.profile import Profile
from device_client.ports import Clock, Host, LoadedModel, Meter, Runtime, ShadowRuns
from device_client.wire.bundles import BundleFile, Contract, FileRole, Manifest
from device_client.wire.delta import applicable_codecs
from device_client.wire.errors import WireError
from device_client.wire.fields import decode_object
from device_client.wire.messages import Capabilities
from device_client.wire.names import ANY_HARDWARE, VariantName

if TYPE_CHECKING:
    from urllib3 import PoolManager

BOOT_BYTES: Final = 8
NONCE_BYTES: Final = 16
MAX_SERVER_CONFIG_BYTES: Final = 16_384
FALLBACK_FILE: Final = "fallback"


@dataclass(frozen=True)
class Parts:
    """What an agent is made of, for those who look at it or stop it."""

    agent: Agent
    journal: SqliteJournal
    outbox: SqliteOutbox
    slots: FileSlots
    database: Database


def system_clock() -> Clock:
    """This machine's clocks."""
    return SystemClock()


def installed_runtimes(threads: int = 1) -> Mapping[str, Runtime]:
    """The inference runtimes of this environment."""
    return runtimes.installed(threads)


def shadow_runs(paths: StatePaths) -> ShadowRuns:
    """Where candidates run beside what is served."""
    from device_client.adapters.shadow import ChildShadows

    return ChildShadows(lambda: present(paths.root).free_ram_bytes)


def probe(config: Config, paths: StatePaths, found: Mapping[str, Runtime]) -> Capabilities:
    """What this device can do, as it is told to the director."""
    probes = {name: runtime.probe() for name, runtime in found.items()}
    return Capabilities(
        runtimes={name: item.version for name, item in probes.items()},
        precisions=config.precisions,
        accelerators=tuple(sorted({part for item in probes.values() for part in item.accelerators})),
        codecs=tuple(codec.value for codec in applicable_codecs()),
        arch=platform.machine()[:32],
        ram_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        disk_bytes=shutil.disk_usage(paths.root).total,
        max_opset=max((item.max_opset for item in probes.values()), default=0),
        max_ir_version=max((item.max_ir_version for item in probes.values()), default=0),
        client_version=__version__,
        in_place=config.in_place,
        shadow=True,
    )


def _attributes(config: Config) -> Mapping[str, str]:
    """What the device says of itself; windows in its own time are by `time_zone`, which the system gives if nobody else."""
    zone = time_zone()
    return {**({"time_zone": zone} if zone else {}), **config.attributes}


def build(
    config: Config,
    paths: StatePaths,
    *,
    host: Host,
    meter: Meter,
    found: Mapping[str, Runtime],
    models: Sequence[str] = (),
    contracts: Mapping[str, Contract],
) -> Parts:
    """An agent over the real world. Raises `ConfigError` when the identity or the anchors are missing."""
    from device_client.adapters import identity
    from device_client.adapters.http import HttpDownloads, connect
    from device_client.adapters.metadata import MetadataFetcher
    from device_client.adapters.mqtt import BrokerAddress, MqttBroker
    from device_client.adapters.patch import ChildPatcher
    from device_client.adapters.trust import TufTrust

    clock = SystemClock()
    ours = identity.IdentityPaths(paths.identity)
    anchors = identity.load_anchors(ours)
    not_before_at = identity.certificate_validity(ours).not_before_at
    database = Database(paths.database)
    boot = life_of(database, lambda: secrets.token_hex(BOOT_BYTES))
    journal, outbox = SqliteJournal(database, boot), SqliteOutbox(database, boot)
    slots = FileSlots(paths.models)
    pool = connect(anchors.authority_pem)
    dice: Callable[[], float] = random.SystemRandom().random
    profile = Profile(
        device_id=config.device_id,
        models=tuple(dict.fromkeys((*config.models, *models))),
        hardware_class=config.hardware_class,
        precisions=config.precisions,
        bandwidth_bytes_per_s=config.bandwidth_bytes_per_s,
        attributes=_attributes(config),
        contracts=dict(contracts),
        capabilities=probe(config, paths, found),
    )
    installer = Installer(
        profile=profile,
        slots=slots,
        downloads=HttpDownloads(pool, clock, config.server_url),
        patcher=ChildPatcher(),
        host=host,
        journal=journal,
        clock=clock,
        dice=dice,
    )
    agent = Agent(
        profile=profile,
        present=lambda: present(paths.root),
        journal=journal,
        outbox=outbox,
        slots=slots,
        trust=TufTrust(
            paths.trust,
            device_id=config.device_id,
            director_root=anchors.director_root,
            image_root=anchors.image_root,
            image_url=config.image_url,
            fetcher=MetadataFetcher(pool, clock),
            journal=journal,
            clock=clock,
            floor=not_before_at,
        ),
        installer=installer,
        host=host,
        meter=meter,
        broker=MqttBroker(
            BrokerAddress(config.broker_host, config.broker_port, ours.authority, ours.certificate, ours.key),
            config.device_id,
            lambda: _where_the_broker_is(pool, config, paths),
        ),
        identity=identity.StoredIdentity(ours, config.device_id, config.server_url, pool),
        clock=clock,
        dice=dice,
        make_nonce=lambda: secrets.token_hex(NONCE_BYTES),
    )
    return Parts(agent, journal, outbox, slots, database)


@contextmanager
def sole_agent(paths: StatePaths) -> Iterator[None]:
    """Hold the state directory for the life of an agent; raises `ConfigError` if another process has it."""
    try:
        durable.make_directory(paths.root)
        with durable.exclusively(paths.lock) as mine:
            if not mine:
                raise ConfigError(f"expected a free state directory, got {paths.root} in use by another agent")
            yield
    except OSError as error:
        raise ConfigError(f"expected a writable state directory {paths.root}, got {error.strerror or error}") from error


def enrol(server_url: str, *, token: str, pin: str, wanted_id: str, paths: StatePaths, choices: Config) -> Config:
    """Make this device a member of a fleet. Nothing is spent before everything that can be checked was checked.

    `choices` carries what a person chose (models, class, limits); its identity and addresses are replaced.
    """
    from device_client.adapters import identity
    from device_client.adapters.http import connect, get_document

    if paths.config.exists():
        raise EnrolmentError(f"expected a state directory without a device, got {paths.config}")
    try:
        durable.make_directory(paths.identity)
        ours = identity.IdentityPaths(paths.identity)
        document = identity.fetch_anchors(server_url, pin)
        anchors = identity.Anchors.parse(document)
        pool = connect(anchors.authority_pem)
        told = get_document(pool, f"{server_url.rstrip('/')}/device/v1/config", MAX_SERVER_CONFIG_BYTES)
        config = _server_config(server_url, told, choices)
        key = identity.make_key(ours)
        durable.write_file(ours.anchors, document)
        durable.write_file(ours.authority, anchors.authority_pem.encode())
        granted = identity.present_claim(server_url, token, identity.make_request(key, wanted_id), key, pool)
        durable.write_file(ours.certificate, granted.chain_pem)
        config = replace(
            config,
            device_id=granted.device_id,
            hardware_class=granted.hardware_class if config.hardware_class == ANY_HARDWARE else config.hardware_class,
        )
        durable.write_file(paths.config, config.encode())
    except OSError as error:
        raise EnrolmentError(
            f"expected a writable state directory {paths.root}, got {error.strerror or error}"
        ) from error
    return config


def _server_config(server_url: str, payload: bytes, choices: Config) -> Config:
    """What the server tells every device: where its broker and its image repository are."""
    try:
        fields = decode_object(payload, max_bytes=MAX_SERVER_CONFIG_BYTES)
        return replace(
            choices,
            server_url=server_url.rstrip("/"),
            broker_host=fields.text("broker_host"),
            broker_port=fields.integer("broker_port", minimum=1, maximum=65_535),
            image_url=fields.text("image_url").rstrip("/"),
        )
    except WireError as error:
        raise EnrolmentError(f"device configuration of {server_url}: {error}") from error


def installed_slots(paths: StatePaths) -> FileSlots:
    """What is installed on this device."""
    return FileSlots(paths.models)


def _where_the_broker_is(pool: "PoolManager", config: Config, paths: StatePaths) -> tuple[str, int] | None:
    """The broker's address as the server tells it now, kept for the next start; None if the server does not answer."""
    from device_client.adapters.http import get_document

    try:
        told = get_document(pool, f"{config.server_url}/device/v1/config", MAX_SERVER_CONFIG_BYTES)
        found = _server_config(config.server_url, told, config)
        if found != config:
            save_config(paths, found)
    except (DeviceError, OSError):
        return None
    return found.broker_host, found.broker_port


@contextmanager
def stored(paths: StatePaths) -> Iterator[tuple[SqliteJournal, SqliteOutbox, FileSlots]]:
    """The stored state, for looking at it or leaving a request while an agent may be running."""
    database = Database(paths.database)
    try:
        boot = life_of(database, lambda: secrets.token_hex(BOOT_BYTES))
        yield SqliteJournal(database, boot), SqliteOutbox(database, boot), FileSlots(paths.models)
    finally:
        database.close()


def save_config(paths: StatePaths, config: Config) -> None:
    """Replace `device.json`."""
    durable.write_file(paths.config, config.encode())


def load_fallback(path: Path, model: str, found: Mapping[str, Runtime]) -> LoadedModel:
    """Load a file that the application ships itself; its name says for which runtime it is. Raises `LoadError`."""
    runtime = found.get(path.suffix.removeprefix("."))
    if runtime is None:
        raise LoadError(f"expected a fallback for one of {sorted(found)}, got {path.name}")
    try:
        weights = path.read_bytes()
    except OSError as error:
        raise LoadError(f"expected a readable fallback {path}, got {error.strerror or error}") from error
    file = BundleFile(FALLBACK_FILE, FileRole.WEIGHTS, sha256(weights).hexdigest(), len(weights))
    variant = VariantName(runtime.name, "any", ANY_HARDWARE)
    return runtime.load(weights, Manifest(model, "factory", variant, runtime.name, (file,)))
