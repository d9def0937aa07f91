"""A laptop's key ceremony for tests: keys in memory, first roots signed and imported."""

from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric import ed25519
from securesystemslib.signer import CryptoSigner, Signer

from fleet.apps.trust import services as trust
from fleet.apps.trust.records import OnlineKeys
from fleet.domain import repository as roles
from tests.server.catalogue import NOW


@dataclass(frozen=True)
class Keys:
    """The signers of one installation."""

    root: Signer
    targets: Signer
    director_root: Signer
    snapshot: Signer
    timestamp: Signer
    director: Signer


def new_signer() -> Signer:
    """An Ed25519 key that lives in memory."""
    return CryptoSigner(ed25519.Ed25519PrivateKey.generate())


def hold_ceremony() -> Keys:
    """Make keys, sign the first roots and import them."""
    keys = Keys(*(new_signer() for _ in range(6)))
    import_first_roots(keys)
    return keys


def import_first_roots(keys: Keys) -> None:
    """Sign the first roots with these keys and import them."""
    image = roles.image_root(
        root_keys=[keys.root.public_key],
        targets_keys=[keys.targets.public_key],
        snapshot_key=keys.snapshot.public_key,
        timestamp_key=keys.timestamp.public_key,
        threshold=1,
        now=NOW,
    )
    director = roles.director_root(
        root_keys=[keys.director_root.public_key], online_key=keys.director.public_key, threshold=1, now=NOW
    )
    trust.import_roots(
        image_root=roles.signed(image, [keys.root]),
        image_targets=roles.signed(roles.image_targets(now=NOW), [keys.targets]),
        director_root=roles.signed(director, [keys.director_root]),
        online=OnlineKeys(
            snapshot=keys.snapshot.public_key,
            timestamp=keys.timestamp.public_key,
            director=keys.director.public_key,
        ),
        actor="test",
        now=NOW,
    )
