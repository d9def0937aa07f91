"""`modelfleet push`: a version, from files to signed, uploaded and published."""

import hashlib
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from device_client.wire.bundles import FileRole, Manifest
from device_client.wire.errors import WireError
from device_client.wire.names import ManifestPath, parse_version
from fleet.domain import repository
from fleet.domain.repository import NamedTarget
from fleet.entrypoints.cli import passphrases
from fleet.entrypoints.cli.api import Api, JsonObject, model_path, version_path
from fleet.entrypoints.cli.console import Console
from fleet.entrypoints.cli.context import Context
from fleet.entrypoints.cli.errors import CommandError, ExitCode, ServerRefusedError
from fleet.entrypoints.cli.grammar import Commands
from fleet.entrypoints.cli.polling import poll
from fleet.entrypoints.cli.quantities import parse_duration_s, parse_model_name, show_bytes
from fleet.entrypoints.cli.release_files import ANY_HARDWARE, Release, read_release, read_single
from fleet.entrypoints.cli.roles import PUBLISH_TIMEOUT_S, RoleSigner, SignedRole, open_role_signer
from fleet.entrypoints.cli.signing import next_label
from fleet.entrypoints.cli.uploads import Blob, upload
from fleet.ports.key_sets import KeyName
from fleet.wiring import cli as wiring

LOST_ANSWER_TIMEOUT_S: Final = 15.0
# How often a push signs again because somebody else was faster. Each time somebody did get a version out, so pushes of
# one model at the same moment all end, one after the other.
MAX_ATTEMPTS: Final = 8
_SOMEBODY_WAS_FASTER: Final = frozenset({"role_version", "version_exists"})
DETAILS = """
FILES is one model file, or a directory with modelfleet.json, which names the variants:
  {"variants": [{"dir": "onnx-int8-any", "runtime": "onnx", "precision": "int8", "hardware": "any",
                 "weights": "model.onnx"}],
   "contract": {"inputs": {"image": ["float32", [1, 64]]}, "outputs": {"scores": ["float32", [1, 10]]}},
   "labels": "labels.txt"}
Every file in a variant's directory becomes part of its bundle. Inputs and outputs that are not given are read from the
file. Uploads go on where an interrupted run stopped. Nothing is signed on top of metadata that does not verify. When
somebody else pushed the same model meanwhile, this push is signed again on top of theirs."""


def register(commands: Commands) -> None:
    """Add the parser."""
    parser = commands.add("push", run_push, "sign and publish a new version of a model", DETAILS)
    parser.add_argument("model", type=parse_model_name)
    parser.add_argument("files", type=Path, metavar="FILES")
    parser.add_argument("--keys", type=Path, required=True, metavar="DIR", help="the key set")
    parser.add_argument("--version", metavar="LABEL", help="default: one more than the last")
    parser.add_argument("--notes", default="", metavar="TEXT", help="what is new")
    parser.add_argument("--git-sha", default="", metavar="SHA", help="what it was built from")
    parser.add_argument("--hardware", default=ANY_HARDWARE, help="of a single file: which hardware it is built for")
    parser.add_argument("--labels", type=Path, metavar="FILE", help="beside a single file: one label a line")
    parser.add_argument("--golden", type=Path, metavar="FILE", help="beside a single file: samples for the self-test")
    parser.add_argument("--print", choices=["version"], dest="print_only", help="print nothing but this")
    parser.add_argument("--no-wait", dest="wait", action="store_false", help="do not wait until it is published")
    parser.add_argument("--wait", dest="wait", action="store_true", help="wait until it is published (the default)")
    parser.add_argument("--timeout", type=parse_duration_s, default=PUBLISH_TIMEOUT_S, help="how long to wait (60s)")
    passphrases.add_options(parser)
    parser.set_defaults(wait=True)


@dataclass(frozen=True)
class Push:
    """One version on its way: its manifests, the blobs behind them, and the role that signs them."""

    model: str
    version: str
    manifests: tuple[Manifest, ...]
    blobs: tuple[Blob, ...]
    role: SignedRole


def run_push(context: Context, arguments: Namespace) -> int:
    """Read, verify what is published, upload, sign on top of it, finalise, wait."""
    release = _read(arguments)
    api = context.api()
    passphrase = passphrases.passphrase_source(arguments, context.environment)
    signer = open_role_signer(api.url, arguments.keys, passphrase)
    push, record, sent_bytes = _hand_over(context, arguments, release, signer)
    signer.remember(push.role)
    if arguments.wait:
        record = await_version(api, signer, push, timeout_s=arguments.timeout)
    _report(context.console, push, record, sent_bytes, print_only=arguments.print_only is not None)
    return ExitCode.HEALTHY


def _hand_over(
    context: Context, arguments: Namespace, release: Release, signer: RoleSigner
) -> tuple[Push, JsonObject, int]:
    """Sign, upload and finalise; from the start again when somebody else pushed meanwhile.

    Returns what was accepted, the server's record of it, and the bytes sent. Raises CommandError.
    """
    api = context.api()
    sent_bytes = 0
    for attempt in range(1, MAX_ATTEMPTS + 1):
        push = prepare(api, signer, release, arguments.model, arguments.version, timeout_s=arguments.timeout)
        sent_bytes += sum(upload(api, context.console, blob) for blob in push.blobs)
        body: JsonObject = {
            "manifests": [manifest.encode().decode() for manifest in push.manifests],
            "role": push.role.text,
            "notes": arguments.notes or release.notes,
            "git_sha": arguments.git_sha,
            "metadata": dict(release.metadata or {}),
        }
        try:
            return push, finalise(api, push, body), sent_bytes
        except ServerRefusedError as error:
            if error.code not in _SOMEBODY_WAS_FASTER:
                raise
            context.console.note(f"somebody else pushed {arguments.model} meanwhile: signing again on top of theirs")
            if attempt < MAX_ATTEMPTS:
                signer.await_published(push.role, arguments.timeout)
    raise CommandError(
        "pushed_meanwhile",
        f"{arguments.model}: others were faster {MAX_ATTEMPTS} times; everything is uploaded, run again",
    )


def prepare(api: Api, signer: RoleSigner, release: Release, model: str, label: str | None, *, timeout_s: float) -> Push:
    """Manifests under the next label and the role's next version that signs them; nothing is sent."""
    current = signer.of_model(model, timeout_s)
    version = _label(label) or next_label(
        current, [str(item["version"]) for item in api.items(f"{model_path(model)}/versions")]
    )
    manifests = tuple(variant.manifest(model, version) for variant in release.variants)
    profile = signer.profile_of(model)
    try:
        metadata = repository.with_targets(
            current.content, [_target(item) for item in manifests], profile=profile, now=wiring.now()
        )
    except ValueError as error:
        raise CommandError("version_exists", str(error)) from error
    blobs = {file.entry.sha256: file.blob for variant in release.variants for file in variant.files}
    return Push(
        model=model,
        version=version,
        manifests=manifests,
        blobs=tuple(blobs.values()),
        role=signer.sign(model, KeyName.PIPELINE, metadata, profile),
    )


def finalise(api: Api, push: Push, body: JsonObject) -> JsonObject:
    """Hand the version over. An answer that got lost is asked for again: under its key it is the same request."""
    key = f"{push.model}-{push.role.version}-{hashlib.sha256(push.role.payload).hexdigest()[:32]}"

    def ask() -> JsonObject | None:
        try:
            return api.post(f"{model_path(push.model)}/versions", body, headers={"Idempotency-Key": key})
        except CommandError as error:
            if error.code != "server_unreachable":
                raise
            return None

    record = poll(ask, timeout_s=LOST_ANSWER_TIMEOUT_S)
    if record is None:
        raise CommandError(
            "server_unreachable",
            f"{push.model}@{push.version}: no answer from {api.url}; `modelfleet versions {push.model}` tells if it was taken",
        )
    return record


def await_version(api: Api, signer: RoleSigner, push: Push, *, timeout_s: float) -> JsonObject:
    """Wait until the server says `published` and the published repository proves it. Raises CommandError."""

    def published() -> JsonObject | None:
        record = api.get(version_path(push.model, push.version))
        return None if record.get("state") == "publishing" else record

    record = poll(published, timeout_s=timeout_s)
    if record is None:
        raise CommandError(
            "not_published",
            f"{push.model}@{push.version}: accepted, but not published within {timeout_s:g} s: "
            "is the publisher process running?",
        )
    if record.get("state") != "published":
        raise CommandError(
            "not_published", f"{push.model}@{push.version}: expected published, got {record.get('state')}"
        )
    signer.await_published(push.role, timeout_s)
    return record


def _read(arguments: Namespace) -> Release:
    companions = {FileRole.LABELS: arguments.labels, FileRole.GOLDEN: arguments.golden}
    given = {role: path for role, path in companions.items() if path is not None}
    if arguments.files.is_file():
        return read_single(arguments.files, hardware=arguments.hardware, companions=given)
    if given or arguments.hardware != ANY_HARDWARE:
        raise CommandError("usage", "--labels, --golden and --hardware describe a single file, got a directory")
    return read_release(arguments.files)


def _label(label: str | None) -> str | None:
    try:
        return None if label is None else parse_version(label)
    except WireError as error:
        raise CommandError("usage", f"--version: {error}") from error


def _target(manifest: Manifest) -> NamedTarget:
    path = ManifestPath(manifest.model, manifest.version, manifest.variant)
    return NamedTarget(str(path), len(manifest.encode()), manifest.digest)


def _report(console: Console, push: Push, record: Mapping[str, Any], sent_bytes: int, *, print_only: bool) -> None:
    total_bytes = sum(blob.length for blob in push.blobs)
    document = {
        "model": push.model,
        "version": push.version,
        "state": record.get("state"),
        "role_version": push.role.version,
        "bytes_total": total_bytes,
        "bytes_sent": sent_bytes,
        "variants": [
            {"variant": item.variant.slug, "digest": item.digest, "content_bytes": item.content_bytes}
            for item in push.manifests
        ],
    }
    files = "1 file" if len(push.blobs) == 1 else f"{len(push.blobs)} files"
    sizes = f"{show_bytes(total_bytes)} in {files}, {show_bytes(sent_bytes)} sent"
    lines = [
        f"{push.model}@{push.version} is {document['state']} ({sizes})",
        *(f"  {item.variant.slug:16} {item.digest[:16]}" for item in push.manifests),
    ]
    console.result(document, *([push.version] if print_only else lines))
