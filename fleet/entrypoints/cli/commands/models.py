"""`modelfleet models`, `versions` and `alias`: what can be released, and the names that move."""

from argparse import Namespace
from pathlib import Path

from tuf.api.metadata import Targets

from fleet.domain import repository
from fleet.domain.repository import Profile
from fleet.entrypoints.cli import passphrases
from fleet.entrypoints.cli.api import Api, model_path, version_path
from fleet.entrypoints.cli.context import Context
from fleet.entrypoints.cli.errors import CommandError, ExitCode, ServerRefusedError
from fleet.entrypoints.cli.grammar import Commands
from fleet.entrypoints.cli.quantities import parse_model_name, parse_model_version, show_bytes, show_time
from fleet.entrypoints.cli.roles import PUBLISH_TIMEOUT_S, RoleSigner, SignedRole, open_role_signer
from fleet.ports.key_sets import KeyName
from fleet.wiring import cli as wiring

CREATE_DETAILS = """
Creates the namespace if it is new, then signs with image-targets that this model's versions are the pipeline key's to
sign. Can be repeated after an interruption."""

REVOKE_DETAILS = """
Cannot be undone. Devices that run it go on until a rollout moves them; revert or roll out another version first."""


def register(commands: Commands) -> None:
    """Add the parsers."""
    group = commands.group("models", "models and who signs them")
    create = group.add("create", run_create, "register a model and delegate it to the pipeline key", CREATE_DETAILS)
    create.add_argument("model", type=parse_model_name, metavar="NAMESPACE.NAME")
    create.add_argument("--keys", type=Path, required=True, metavar="DIR", help="the key set")
    create.add_argument(
        "--profile",
        choices=[item.value for item in Profile],
        default=Profile.DEV.value,
        help="of a new namespace: dev needs one signature for a version, prod needs two (default: dev)",
    )
    create.add_argument("--description", default="", metavar="TEXT")
    passphrases.add_options(create)
    group.add("list", run_list, "all models")
    versions = commands.add("versions", run_versions, "the versions of a model")
    versions.add_argument("model", type=parse_model_name)
    revoke = commands.add(
        "revoke", run_revoke, "take a version out of the signed role: no device can install it", REVOKE_DETAILS
    )
    revoke.add_argument("version", type=parse_model_version, metavar="MODEL@VERSION")
    revoke.add_argument("--keys", type=Path, required=True, metavar="DIR", help="the key set")
    passphrases.add_options(revoke)
    aliases = commands.group("alias", "names that move from version to version")
    setting = aliases.add("set", run_alias_set, "let an alias name a version")
    setting.add_argument("alias", metavar="NAME", help="such as champion")
    setting.add_argument("version", type=parse_model_version, metavar="MODEL@VERSION")
    listing = aliases.add("list", run_alias_list, "the aliases of a model")
    listing.add_argument("model", type=parse_model_name)


def run_create(context: Context, arguments: Namespace) -> int:
    """Each step is skipped if an earlier, interrupted run did it."""
    model, profile = arguments.model, Profile(arguments.profile)
    if profile is Profile.PROD:
        raise CommandError(
            "role_threshold",
            "a prod namespace needs signatures of two holders for a version; this command has one key set",
        )
    api = context.api()
    signer = open_role_signer(api.url, arguments.keys, passphrases.passphrase_source(arguments, context.environment))
    delegated = signer.is_delegated(model)  # first of all: is there a verifiable repository to sign on top of?
    namespace = model.partition(".")[0]
    _create_unless_there(api, "/namespaces", {"name": namespace, "profile": profile.value})
    _create_unless_there(api, "/models", {"name": model, "description": arguments.description})
    if not delegated:
        _delegate(api, signer, model)
    role = signer.sign(model, KeyName.PIPELINE, repository.model_role(profile=profile, now=wiring.now()), profile)
    api.post(f"{model_path(model)}/role", {"metadata": role.text})
    signer.remember(role)
    signer.await_published(role, PUBLISH_TIMEOUT_S)
    context.console.result(
        {"model": model, "namespace": namespace, "profile": profile.value, "role_version": role.version},
        f"{model}: created; its versions are signed with the pipeline key of {arguments.keys}",
    )
    return ExitCode.HEALTHY


def run_list(context: Context, _: Namespace) -> int:
    """All models, as the server has them."""
    models = list(context.api().items("/models"))
    rows = [(item["name"], item.get("latest_version"), item.get("description")) for item in models]
    context.console.table(
        models, ("model", "latest", "description"), rows, empty="no models: `modelfleet models create` makes one"
    )
    return ExitCode.HEALTHY


def run_versions(context: Context, arguments: Namespace) -> int:
    """Versions, the newest first."""
    versions = list(context.api().items(f"{model_path(arguments.model)}/versions"))
    rows = [
        (
            item["version"],
            item["state"],
            ", ".join(f"{part['variant']} ({show_bytes(part['content_bytes'])})" for part in item["variants"]),
            item.get("git_sha"),
            show_time(item["created_at"]),
        )
        for item in versions
    ]
    empty = f"{arguments.model} has no versions: `modelfleet push` makes one"
    context.console.table(versions, ("version", "state", "variants", "git", "created"), rows, empty=empty)
    return ExitCode.HEALTHY


def run_revoke(context: Context, arguments: Namespace) -> int:
    """The pipeline's own signature takes the version away; the server could not do it, nor undo it."""
    model, label = arguments.version
    api = context.api()
    signer = open_role_signer(api.url, arguments.keys, passphrases.passphrase_source(arguments, context.environment))
    current = signer.of_model(model)
    profile = signer.profile_of(model)
    metadata = repository.without_version(current.content, label, profile=profile, now=wiring.now())
    if len(metadata.signed.targets) == len(current.content.targets):
        raise CommandError("version_unknown", f"expected a version that {model}'s signed role lists, got {label}")
    role = signer.sign(model, KeyName.PIPELINE, metadata, profile)
    record = api.post(f"{version_path(model, label)}:revoke", {"metadata": role.text})
    signer.remember(role)
    signer.await_published(role, PUBLISH_TIMEOUT_S)
    context.console.result(
        {"model": model, "version": label, "state": record.get("state"), "role_version": role.version},
        f"{model}@{label} is revoked: no device that sees this can install it again",
    )
    return ExitCode.HEALTHY


def run_alias_set(context: Context, arguments: Namespace) -> int:
    """Aliases are labels: moving one changes no device."""
    model, version = arguments.version
    answer = context.api().put(f"{model_path(model)}/aliases/{arguments.alias}", {"version": version})
    context.console.result(answer, f"{model}: {arguments.alias} is now version {version}")
    return ExitCode.HEALTHY


def run_alias_list(context: Context, arguments: Namespace) -> int:
    """The aliases of a model."""
    aliases = list(context.api().items(f"{model_path(arguments.model)}/aliases"))
    rows = [(item["name"], item["version"]) for item in aliases]
    context.console.table(aliases, ("alias", "version"), rows, empty=f"{arguments.model} has no aliases")
    return ExitCode.HEALTHY


def _create_unless_there(api: Api, path: str, body: dict[str, str]) -> None:
    try:
        api.post(path, body)
    except ServerRefusedError as error:
        if error.status != 409:  # noqa: PLR2004 - conflict: it exists
            raise


def _delegate(api: Api, signer: RoleSigner, model: str) -> SignedRole:
    """Top-level targets that name the pipeline key for this model."""
    metadata = repository.with_model(
        signer.top_level().content,
        model=model,
        keys=[signer.public_key(KeyName.PIPELINE)],
        threshold=1,
        now=wiring.now(),
    )
    targets = signer.sign(Targets.type, KeyName.IMAGE_TARGETS, metadata, None)
    api.post("/trust/image/targets", {"metadata": targets.text})
    signer.remember(targets)
    return targets
