"""The top-level targets and model roles of this key set: verified, signed anew, handed to the server, remembered."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from securesystemslib.signer import Key
from tuf.api.exceptions import UnsignedMetadataError
from tuf.api.metadata import Metadata, Targets

from fleet.domain.repository import Profile, signed
from fleet.entrypoints.cli.errors import CommandError
from fleet.entrypoints.cli.polling import poll
from fleet.entrypoints.cli.signing import require_not_older
from fleet.ports.key_sets import KeyName, KeySet, KeySetUnusableError, Passphrase, RecordedRole
from fleet.ports.verified_roles import (
    NotPublishedError,
    RepositoryUnavailableError,
    UnverifiableError,
    VerifiedRole,
    VerifiedRoles,
)
from fleet.wiring import cli as wiring

PUBLISH_TIMEOUT_S: Final = 60.0


@dataclass(frozen=True)
class SignedRole:
    """A role's next version, not sent yet."""

    name: str
    version: int
    payload: bytes
    profile: Profile | None

    @property
    def text(self) -> str:
        """As it travels in JSON."""
        return self.payload.decode()


class RoleSigner:
    """Signs roles with one key set on top of what one server publishes."""

    def __init__(self, keys: KeySet, published: VerifiedRoles, passphrase: Passphrase) -> None:
        self._keys = keys
        self._published = published
        self._passphrase = passphrase

    def top_level(self, timeout_s: float = PUBLISH_TIMEOUT_S) -> VerifiedRole:
        """The verified top-level targets, not older than what was signed. Raises CommandError."""
        return self._current(self._published.top_level, timeout_s)

    def of_model(self, model: str, timeout_s: float = PUBLISH_TIMEOUT_S) -> VerifiedRole:
        """The verified role of a model, not older than what was signed. Raises CommandError."""

        def ask() -> VerifiedRole:
            found = self._published.of_model(model)
            if found is None:
                raise CommandError(
                    "model_not_delegated",
                    f"{model} has no signed role at this server: run `modelfleet models create {model} --keys DIR`",
                )
            return found

        return self._current(ask, timeout_s)

    def is_delegated(self, model: str) -> bool:
        """Whether the verified top-level targets give `model` a role."""
        delegations = self.top_level().content.delegations
        return delegations is not None and model in (delegations.roles or {})

    def public_key(self, name: KeyName) -> Key:
        """The public half of a key of this set."""
        try:
            return self._keys.public_keys()[name]
        except KeySetUnusableError as error:
            raise CommandError("keys_unusable", str(error)) from error

    def sign(self, name: str, key: KeyName, metadata: Metadata[Targets], profile: Profile | None) -> SignedRole:
        """Sign one version of a role. It is not remembered until `remember`."""
        try:
            payload = signed(metadata, [self._keys.signer(key, self._passphrase)])
        except KeySetUnusableError as error:
            raise CommandError("keys_unusable", str(error)) from error
        except UnsignedMetadataError as error:
            raise CommandError("signing_failed", f"the {key.value} key did not sign: {error.__cause__}") from error
        return SignedRole(name, metadata.signed.version, payload, profile)

    def remember(self, role: SignedRole) -> None:
        """Never again sign on top of less than this. Called once the server has taken it."""
        entry = RecordedRole(role.version, hashlib.sha256(role.payload).hexdigest(), role.profile)
        try:
            self._keys.record(role.name, entry)
        except KeySetUnusableError as error:
            raise CommandError("keys_unusable", f"signed and sent, but not remembered: {error}") from error

    def await_published(self, role: SignedRole, timeout_s: float) -> None:
        """Wait until devices get this version (or a later one). Raises CommandError when time is up."""

        def published() -> bool | None:
            try:
                top_level = role.name == Targets.type
                found = self._published.top_level() if top_level else self._published.of_model(role.name)
            except RepositoryUnavailableError:
                return None  # also a link that is down for a moment: the version is accepted, there is time
            except UnverifiableError as error:
                raise CommandError("metadata_unverifiable", str(error)) from error
            return True if found is not None and found.version >= role.version else None

        if poll(published, timeout_s=timeout_s) is None:
            raise CommandError(
                "not_published",
                f"{role.name}: version {role.version} was accepted but not published within {timeout_s:g} s: "
                "is the publisher process running?",
            )

    def profile_of(self, model: str) -> Profile:
        """How long this model's role may live; strict for a key set that does not know the model."""
        recorded = self._recorded().get(model)
        return recorded.profile if recorded is not None and recorded.profile is not None else Profile.PROD

    def known_models(self) -> list[str]:
        """Models that this key set has signed for."""
        return sorted(set(self._recorded()) - {Targets.type})

    def _recorded(self) -> dict[str, RecordedRole]:
        try:
            return dict(self._keys.recorded())
        except KeySetUnusableError as error:
            raise CommandError("keys_unusable", str(error)) from error

    def _current(self, ask: Callable[[], VerifiedRole], timeout_s: float) -> VerifiedRole:
        """What is published, once it is no older than what was signed: the publisher may need a moment."""
        recorded = self._recorded()
        last: list[VerifiedRole] = []

        def caught_up() -> VerifiedRole | None:
            try:
                found = ask()
            except NotPublishedError:
                return None
            last[:] = [found]
            known = recorded.get(found.name)
            return found if known is None or found.version >= known.version else None

        try:
            found = poll(caught_up, timeout_s=timeout_s) or (last[0] if last else ask())
        except NotPublishedError as error:
            raise CommandError("not_published", f"{error}: is the publisher process running?") from error
        except RepositoryUnavailableError as error:
            raise CommandError("repository_unavailable", str(error)) from error
        except UnverifiableError as error:
            raise CommandError("metadata_unverifiable", str(error)) from error
        require_not_older(found, recorded)
        return found


def open_role_signer(url: str, directory: Path, passphrase: Passphrase) -> RoleSigner:
    """The key set in `directory`, on top of what the server at `url` publishes. Raises CommandError."""
    try:
        return RoleSigner(wiring.key_set(directory), wiring.verified_roles(url, directory), passphrase)
    except KeySetUnusableError as error:
        raise CommandError("keys_unusable", str(error)) from error
