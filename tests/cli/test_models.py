"""`modelfleet models`, `versions`, `alias` and `revoke`."""

from collections.abc import Callable
from pathlib import Path

from tests.cli.conftest import CommandLine
from tests.fakes.release_server import ReleaseServerSimulator


def test_models_create__new_model__delegated_to_the_pipeline_key_alone(
    modelfleet: CommandLine, server: ReleaseServerSimulator, keys: Path
) -> None:
    document = modelfleet.ok("models", "create", "vision.digits", "--keys", keys, "--description", "digits")
    assert (document["namespace"], document["role_version"]) == ("vision", 1)
    delegations = server.newest("targets").signed.delegations
    assert delegations is not None
    assert delegations.roles is not None
    role = delegations.roles["vision.digits"]
    assert (role.paths, role.terminating, role.threshold) == (["models/vision.digits/*/*"], True, 1)
    shown = modelfleet.ok("keys", "show", keys)
    assert role.keyids == [shown["keys"]["pipeline"]["keyid"]]
    assert shown["signed"] == {"targets": 2, "vision.digits": 1}
    assert "vision.digits" in modelfleet("models", "list").out


def test_models_create__second_model__keeps_the_first(
    modelfleet: CommandLine, server: ReleaseServerSimulator, model: str, keys: Path
) -> None:
    modelfleet.ok("models", "create", "vision.cracks", "--keys", keys)
    delegations = server.newest("targets").signed.delegations
    assert delegations is not None
    assert set(delegations.roles or {}) == {model, "vision.cracks"}
    assert len(delegations.keys) == 1


def test_models_create__interrupted_before_the_role__repeated_run_finishes(
    modelfleet: CommandLine, server: ReleaseServerSimulator, model: str, keys: Path
) -> None:
    del server.roles[model]
    for name in [name for name in server.metadata if "vision" in name]:
        del server.metadata[name]
    (keys / "signed.json").unlink()
    assert modelfleet.ok("models", "create", model, "--keys", keys)["role_version"] == 1


def test_models_create__model_that_exists__refused_and_role_untouched(
    modelfleet: CommandLine, server: ReleaseServerSimulator, model: str, keys: Path
) -> None:
    ran = modelfleet("models", "create", model, "--keys", keys)
    assert ran.code == 1
    assert len(server.roles[model]) == 1
    assert modelfleet.ok("keys", "show", keys)["signed"][model] == 1


def test_models_create__prod_with_one_key_set__says_what_is_missing(modelfleet: CommandLine, keys: Path) -> None:
    ran = modelfleet("models", "create", "vision.digits", "--keys", keys, "--profile", "prod")
    assert ran.code == 1
    assert "two holders" in ran.err


def test_models_create__malformed_name__usage_error(modelfleet: CommandLine, keys: Path) -> None:
    ran = modelfleet("models", "create", "Digits", "--keys", keys)
    assert ran.code == 1
    assert "<namespace>.<name>" in ran.err


def test_revoke__published_version__gone_from_the_role_and_its_label_not_reused(
    modelfleet: CommandLine, server: ReleaseServerSimulator, model: str, keys: Path, onnx_file: Callable[..., Path]
) -> None:
    modelfleet.ok("push", model, onnx_file(1), "--keys", keys)
    modelfleet.ok("push", model, onnx_file(2), "--keys", keys)
    assert modelfleet.ok("revoke", f"{model}@2", "--keys", keys)["state"] == "revoked"
    assert list(server.newest(model).signed.targets) == [f"models/{model}/1/onnx-fp32-any.json"]
    assert modelfleet.ok("push", model, onnx_file(3), "--keys", keys)["version"] == "3"


def test_revoke__version_that_is_not_listed__refused(modelfleet: CommandLine, model: str, keys: Path) -> None:
    ran = modelfleet("revoke", f"{model}@9", "--keys", keys)
    assert ran.code == 1
    assert "got 9" in ran.err


def test_alias_set__version__listed_under_its_name(modelfleet: CommandLine, model: str) -> None:
    modelfleet.ok("alias", "set", "champion", f"{model}@1")
    assert modelfleet.ok("alias", "list", model) == [{"name": "champion", "version": "1"}]


def test_versions__none_yet__says_how_to_make_one(modelfleet: CommandLine, model: str) -> None:
    assert "modelfleet push" in modelfleet("versions", model).out
    assert modelfleet.ok("versions", model) == []
