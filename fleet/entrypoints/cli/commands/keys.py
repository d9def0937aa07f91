"""`modelfleet keys`: makes the keys that no server may hold, and re-signs what they signed before it expires."""

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from securesystemslib.signer import Key, Signer
from tuf.api.metadata import Metadata, Root, Targets

from fleet.domain import repository
from fleet.entrypoints.cli import passphrases
from fleet.entrypoints.cli.api import Api
from fleet.entrypoints.cli.context import Context
from fleet.entrypoints.cli.errors import CommandError, ExitCode
from fleet.entrypoints.cli.grammar import Commands
from fleet.entrypoints.cli.roles import PUBLISH_TIMEOUT_S, RoleSigner, SignedRole, open_role_signer
from fleet.ports.key_sets import AnchorName, KeyName, KeySet, KeySetUnusableError
from fleet.ports.verified_roles import VerifiedRole
from fleet.wiring import cli as wiring

PURPOSES: Mapping[KeyName, str] = {
    KeyName.IMAGE_ROOT: "says which keys count; used once a year",
    KeyName.IMAGE_TARGETS: "says which pipeline signs which model; used for each new model",
    KeyName.DIRECTOR_ROOT: "says which online key may assign versions to devices; used once a year",
    KeyName.PIPELINE: "signs versions; used with every push",
}
CEREMONY = """\
This set is for a trial: one person holds every key, and each role needs one signature.
For a real fleet: make image-root, image-targets and director-root on a machine without a network, keep them on hardware
tokens of three people with thresholds of two, and give the pipeline a key of a KMS by its signer URI in keys.json.
A pipeline needs keys.json, pipeline.pem, anchors/image-root.json and signed.json; leave the other keys at home, with a copy."""

NEXT = "next: modelfleet models create NAMESPACE.NAME --keys {directory}"


def register(commands: Commands) -> None:
    """Add the parsers."""
    group = commands.group("keys", "the keys that no server may hold")
    init = group.add("init", run_init, "make a key set and give the server its first roots", CEREMONY)
    _add_directory(init)
    init.add_argument("--no-passphrase", action="store_true", help="leave the private keys unencrypted (laptop trials)")
    passphrases.add_options(init)
    _add_directory(group.add("import", run_import, "give a server the roots of a key set that exists"))
    _add_directory(group.add("show", run_show, "what is in a key set"))
    refresh = group.add("refresh", run_refresh, "sign roles again that are past half of their life")
    _add_directory(refresh)
    refresh.add_argument("--all", action="store_true", help="also those that are not past half of their life")
    refresh.add_argument("--model", action="append", default=[], help="this model (repeatable; default: all known)")
    passphrases.add_options(refresh)


def _add_directory(parser: ArgumentParser) -> None:
    parser.add_argument("directory", type=Path, metavar="DIR", help="the key set")


def run_init(context: Context, arguments: Namespace) -> int:
    """Keys in memory, roots signed, all of it on disk, and only then to the server: nothing imported can be lost."""
    directory = arguments.directory.absolute()
    _require_outside_server(directory, context.environment)
    api = context.api()
    if api.get("/trust")["roots_imported"]:
        raise CommandError("roots_exist", f"{api.url} has roots already; use the key set that made them")
    secret = None if arguments.no_passphrase else passphrases.new_passphrase(arguments, context.environment)
    online = _online_keys(api)
    new = wiring.NewKeys()
    anchors = _sign_anchors(new.signers, online, wiring.now())
    keys = _usable(lambda: new.save(directory, anchors, secret))
    try:
        _import(api, keys)
    except CommandError as error:
        raise CommandError(
            error.code, f"{error.message} (the keys are in {directory}; `modelfleet keys import` tries again)"
        ) from error
    document = {"directory": str(directory), "encrypted": secret is not None, "imported_by": api.url, **_describe(keys)}
    heading = f"{directory}: a new key set, imported by {api.url}"
    context.console.result(document, heading, *_listing(document), CEREMONY, NEXT.format(directory=directory))
    return ExitCode.HEALTHY


def run_import(context: Context, arguments: Namespace) -> int:
    """The same anchors again, for a server that does not have them yet."""
    api = context.api()
    _import(api, wiring.key_set(arguments.directory))
    context.console.result({"imported_by": api.url}, f"imported by {api.url}")
    return ExitCode.HEALTHY


def run_show(context: Context, arguments: Namespace) -> int:
    """Public halves and records; no passphrase is needed."""
    keys = wiring.key_set(arguments.directory)
    document = {"directory": str(arguments.directory.absolute()), **_describe(keys)}
    context.console.result(document, *_listing(document))
    return ExitCode.HEALTHY


def run_refresh(context: Context, arguments: Namespace) -> int:
    """Meant for a schedule: does nothing while nothing is old."""
    api = context.api()
    passphrase = passphrases.passphrase_source(arguments, context.environment)
    signer = open_role_signer(api.url, arguments.directory, passphrase)
    now = wiring.now()
    signed: list[SignedRole] = []
    if not arguments.model:
        role = signer.top_level()
        lifetime = repository.TARGETS_LIFETIME
        if arguments.all or _is_past_half(role, lifetime.total_seconds(), now):
            metadata = repository.extended(role.content, lifetime=lifetime, now=now)
            signed.append(signer.sign(Targets.type, KeyName.IMAGE_TARGETS, metadata, None))
            api.post("/trust/image/targets", {"metadata": signed[-1].text})
            signer.remember(signed[-1])
    for model in arguments.model or signer.known_models():
        extended = _refresh_model(signer, model, now, everything=arguments.all)
        if extended is not None:
            api.post(f"/models/{model}/role", {"metadata": extended.text})
            signer.remember(extended)
            signed.append(extended)
    for item in signed:
        signer.await_published(item, PUBLISH_TIMEOUT_S)
    document = {"signed": [{"role": item.name, "version": item.version} for item in signed]}
    lines = [f"{item.name}: signed version {item.version}" for item in signed] or ["nothing is past half of its life"]
    context.console.result(document, *lines)
    return ExitCode.HEALTHY


def _refresh_model(signer: RoleSigner, model: str, now: datetime, *, everything: bool) -> SignedRole | None:
    profile = signer.profile_of(model)
    lifetime = repository.MODEL_ROLE_LIFETIMES[profile]
    role = signer.of_model(model)
    if not everything and not _is_past_half(role, lifetime.total_seconds(), now):
        return None
    metadata = repository.extended(role.content, lifetime=lifetime, now=now)
    return signer.sign(model, KeyName.PIPELINE, metadata, profile)


def _is_past_half(role: VerifiedRole, lifetime_s: float, now: datetime) -> bool:
    return (role.content.expires - now).total_seconds() < lifetime_s / 2


def _require_outside_server(directory: Path, environment: Mapping[str, str]) -> None:
    home = environment.get("MODELFLEET_HOME")
    if home and directory.is_relative_to(Path(home).absolute()):
        raise CommandError(
            "keys_within_server", f"{directory} is inside the server's directory {home}: keys must be out of its reach"
        )


def _online_keys(api: Api) -> dict[str, Key]:
    answer = api.get("/trust/online-keys")
    try:
        return {role: _key(answer[role]) for role in ("snapshot", "timestamp", "director")}
    except (KeyError, TypeError, ValueError) as error:
        raise CommandError("answer_malformed", f"online keys: expected three public keys, {error!r}") from error


def _key(value: dict[str, Any]) -> Key:
    fields = dict(value)
    return Key.from_dict(fields.pop("keyid"), fields)


def _sign_anchors(
    signers: Mapping[KeyName, Signer], online: Mapping[str, Key], now: datetime
) -> dict[AnchorName, bytes]:
    image: Metadata[Root] = repository.image_root(
        root_keys=[signers[KeyName.IMAGE_ROOT].public_key],
        targets_keys=[signers[KeyName.IMAGE_TARGETS].public_key],
        snapshot_key=online["snapshot"],
        timestamp_key=online["timestamp"],
        threshold=1,
        now=now,
    )
    director: Metadata[Root] = repository.director_root(
        root_keys=[signers[KeyName.DIRECTOR_ROOT].public_key], online_key=online["director"], threshold=1, now=now
    )
    return {
        AnchorName.IMAGE_ROOT: repository.signed(image, [signers[KeyName.IMAGE_ROOT]]),
        AnchorName.IMAGE_TARGETS: repository.signed(
            repository.image_targets(now=now), [signers[KeyName.IMAGE_TARGETS]]
        ),
        AnchorName.DIRECTOR_ROOT: repository.signed(director, [signers[KeyName.DIRECTOR_ROOT]]),
    }


def _import(api: Api, keys: KeySet) -> None:
    body = _usable(lambda: {name.value.replace("-", "_"): keys.anchor(name).decode() for name in AnchorName})
    api.post("/trust/roots", body)


def _describe(keys: KeySet) -> dict[str, Any]:
    public = _usable(keys.public_keys)
    recorded = _usable(keys.recorded)
    return {
        "keys": {
            name.value: {"keyid": key.keyid, "type": key.keytype, "purpose": PURPOSES[name]}
            for name, key in public.items()
        },
        "signed": {role: entry.version for role, entry in recorded.items()},
    }


def _listing(document: Mapping[str, Any]) -> list[str]:
    lines = [
        f"  {name:14} {entry['type']:8} {entry['keyid'][:16]}  {entry['purpose']}"
        for name, entry in document["keys"].items()
    ]
    return lines + [f"  signed {role}: version {version}" for role, version in document["signed"].items()]


def _usable(read: Any) -> Any:
    """Key set errors as this command's."""
    try:
        return read()
    except KeySetUnusableError as error:
        raise CommandError("keys_unusable", str(error)) from error
