"""Rollouts in the field, and a shadow: real models, real processes, the product's own statistics. One fleet, its scenarios
side by side.

Every scenario has a model and devices of its own and shares eight control devices with the others. Each runs to its end in
a thread; its test looks at what came of it.
"""

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final

import pytest

from tests.e2e import field_models
from tests.e2e.field import CONTROL_SHARE, TREATED_SHARE, Download, Field, Squad, running, seed_for

# The fleet is started for the first test; on a machine that is busy otherwise, that alone takes minutes.
pytestmark = pytest.mark.timeout(900)

HALTED_S: Final = 4.0
SMALL_FILES_BYTES: Final = 16_384
SLOW_MS: Final = 5.0
DEVICE: Final = {"window_s": 1.0, "probation_s": 2.0, "probation_inferences": 5, "slow_ms": SLOW_MS}
LABELS: Final = 30

COMPARED: Final = tuple(f"field.{name}" for name in ("better", "confused", "slow"))
CRASHING, SILENT, REMOTE, SHADOWED = "field.crashing", "field.silent", "field.remote", "field.shadowed"

STEADY: Final = Squad("steady", 4, COMPARED)
FRAGILE: Final = Squad("fragile", 4, (CRASHING,), images_per_s=10.0)
DARK: Final = Squad("dark", 4, (SILENT,))
REMOTES: Final = Squad("remote", 3, (REMOTE,))
CONTROL: Final = Squad("control", 8, (*COMPARED, CRASHING, SILENT, SHADOWED))


@dataclass(frozen=True)
class Outcome:
    """What came of one rollout: its decisions, and by device what its application was given and counted."""

    state: str
    decisions: Sequence[Mapping[str, Any]]
    served: Mapping[str, Sequence[str]]
    failed: Mapping[str, int]

    @property
    def exposed(self) -> set[str]:
        """Devices that ever served version 2."""
        return {device for device, versions in self.served.items() if "2" in versions}


def policy(squad: Squad, gates: Mapping[str, object], **others: object) -> dict[str, object]:
    """A third, then all, of a squad and the control."""
    phase = {"min_duration_s": 2, "deadline_s": 3_600}
    return {
        "phases": [{"share": TREATED_SHARE, **phase}, {"share": 1.0, **phase}],
        "control_share": CONTROL_SHARE,
        "population": {"filter": f'attributes.role in ("{squad.role}", "{CONTROL.role}")'},
        "gates": {"install_failures": {"max_share": 0.1, "min_installed_share": 1.0}, **gates},
        "device": DEVICE,
        "allow_delta": False,
        **others,
    }


ERRORS: Final = {"errors": {"max_share": 0.01, "min_inferences_per_device": LABELS}}
ACCURACY: Final = {"accuracy": {"margin_points": 5, "min_labels_per_device": LABELS}}
LATENCY: Final = {"latency": {"slow_ms": SLOW_MS, "max_slow_share": 0.5, "min_inferences_per_device": LABELS}}
# Only the gate on crashes may stop it: devices that go back by themselves count as failed installs, too. Nothing bright may
# come by for a while, so nobody but a person may advance it.
CRASHES: Final = {"crashes": {"max_share": 0.05}, "install_failures": {"max_share": 0.95, "min_installed_share": 1.0}}
SILENCE: Final = {"silence": {"grace_s": 15, "max_share": 0.1}}


def install(field: Field, model: str, ids: Sequence[str]) -> None:
    """Version 1 for everybody at once."""
    gates = {"install_failures": {"max_share": 0.1, "min_installed_share": 1.0}}
    phase = {"share": 1.0, "min_duration_s": 0, "deadline_s": 3_600}
    everyone = {"phases": [phase], "control_share": 0.0, "gates": gates, "device": DEVICE}
    rollout = field.start(model, "1", everyone)
    field.until(rollout, "completed")
    field.settled(model, ids, "1")


def outcome(field: Field, model: str, rollout: str, squads: Sequence[Squad]) -> Outcome:
    """What there is to see at the end."""
    each = [(field.squads[squad.role], device_id) for squad in squads for device_id in squad.ids]
    return Outcome(
        state=field.state(rollout),
        decisions=field.decisions(rollout),
        served={device_id: processes.served(device_id, model) for processes, device_id in each},
        failed={device_id: processes.counts(device_id, model)["failed"] for processes, device_id in each},
    )


def move(
    field: Field, model: str, squad: Squad, gates: Mapping[str, object], *, ends: str, **others: object
) -> Outcome:
    """Install version 1, roll out version 2, wait for the end."""
    ids = (*squad.ids, *CONTROL.ids)
    install(field, model, ids)
    rollout = field.start(model, "2", policy(squad, gates, **others), seed_for(squad.ids, CONTROL.ids))
    field.until(rollout, "completed", "reverted", "held", meanwhile=field.squads[squad.role].restart_ended)
    field.settled(model, ids, "2" if ends == "completed" else "1")
    return outcome(field, model, rollout, (squad, CONTROL))


def fall_silent(field: Field) -> Outcome:
    """Version 2 goes to four devices, which then give no sign of life: two are killed, two stand still."""
    ids = (*DARK.ids, *CONTROL.ids)
    install(field, SILENT, ids)
    dark = field.squads[DARK.role]
    phase = {"min_duration_s": 0, "deadline_s": 30}
    phases = [{"share": TREATED_SHARE, **phase}, {"share": 1.0, **phase}]
    patient = policy(DARK, SILENCE, phases=phases, auto_advance=False)
    rollout = field.start(SILENT, "2", patient, seed_for(DARK.ids, CONTROL.ids))
    field.settled(SILENT, DARK.ids, "2")
    for device_id in DARK.ids[:2]:
        dark.kill(device_id)
    for device_id in DARK.ids[2:]:
        dark.freeze(device_id)
    # A resume gives the phase its whole deadline again: however long the installs took, the silence fits in.
    if field.state(rollout) == "running":
        field.act(rollout, "pause")
    field.act(rollout, "resume")

    def go_on() -> None:
        # On a machine that stands still, the control is silent as well, which holds the rollout, as it should.
        if field.state(rollout) == "held":
            field.act(rollout, "resume")

    field.until(rollout, "reverting", "reverted", meanwhile=go_on)
    for device_id in DARK.ids[:2]:
        dark.start(device_id)
    for device_id in DARK.ids[2:]:
        dark.thaw(device_id)
    field.until(rollout, "reverted")
    field.settled(SILENT, ids, "1")
    return outcome(field, SILENT, rollout, (DARK, CONTROL))


@dataclass(frozen=True)
class Journey:
    """Two devices that were halted in mid-download, and one that was switched off meanwhile, over two rollouts."""

    at_halt: Mapping[str, Download]
    later: Mapping[str, Download]
    reports: Mapping[str, Sequence[Mapping[str, Any]]]
    served: Mapping[str, Sequence[str]]
    failed: Mapping[str, int]


def travel(field: Field) -> Journey:
    """Version 2 is halted while two devices download it, resumed, and reverted; version 3 completes; the third comes back."""
    remotes, (first, second, away) = field.squads[REMOTES.role], REMOTES.ids
    install(field, REMOTE, REMOTES.ids)
    remotes.leave(away)
    phase = {"share": 1.0, "min_duration_s": 0, "deadline_s": 3_600}
    gates = {"install_failures": {"max_share": 0.1, "min_installed_share": 1.0}}
    slowly = {
        "phases": [phase],
        "gates": gates,
        "allow_delta": False,
        "device": {**DEVICE, "download_bytes_per_s": 50_000},
    }
    rollout = field.start(REMOTE, "2", slowly)

    def look() -> dict[str, Download]:
        return {device_id: remotes.download(device_id, REMOTE) for device_id in (first, second)}

    field.wait("both to download", look, lambda seen: all(item.bytes_done > 100_000 for item in seen.values()))
    field.act(rollout, "pause")
    seen = [look()]

    def still() -> bool:
        seen.append(look())
        return seen[-1] == seen[-2] and all(item.state == "halted" for item in seen[-1].values())

    field.wait("the downloads to stop", still, lambda is_still: is_still)
    at_halt = look()
    time.sleep(HALTED_S)
    later = look()
    field.act(rollout, "resume")
    field.settled(REMOTE, (first, second), "2")
    field.act(rollout, "revert")
    field.until(rollout, "reverted")
    field.settled(REMOTE, (first, second), "1")
    gates = {"install_failures": {"max_share": 0.1, "min_installed_share": 0.6}}
    field.until(field.start(REMOTE, "3", {"phases": [phase], "gates": gates, "device": DEVICE}), "completed")
    remotes.start(away)
    field.settled(REMOTE, REMOTES.ids, "3")
    return Journey(
        at_halt,
        later,
        reports={device_id: field.reports(device_id, REMOTE, "2") for device_id in REMOTES.ids},
        served={device_id: remotes.served(device_id, REMOTE) for device_id in REMOTES.ids},
        failed={device_id: remotes.counts(device_id, REMOTE)["failed"] for device_id in REMOTES.ids},
    )


@dataclass(frozen=True)
class Shadowed:
    """What came of a shadow: the experiment, its comparisons, who had served what by then, and in the end."""

    experiment: Mapping[str, Any]
    comparisons: Sequence[Mapping[str, Any]]
    arms: Sequence[Mapping[str, Any]]
    served_at_verdict: Mapping[str, Sequence[str]]
    promoted: Outcome


def shadow(field: Field) -> Shadowed:
    """Version 2 runs beside version 1, is found better, and is promoted to everybody."""
    control = field.squads[CONTROL.role]
    install(field, SHADOWED, CONTROL.ids)
    experiment = field.compare(
        SHADOWED,
        {
            "arms": [
                {"name": "champion", "version": "1", "weight": 0},
                {"name": "candidate", "version": "2", "weight": 1},
            ],
            "shadow": {"inference_share": 1.0, "time_share": 0.5},
            "population": {"filter": f'attributes.role == "{CONTROL.role}"'},
            "success": {"accuracy": {"effect_points": 5, "min_labels_per_device": LABELS}},
            "guardrails": {
                "agreement": {"min_share": 0.3, "min_compared_per_device": LABELS},
                "errors": {"max_share": 0.05, "min_inferences_per_device": LABELS},
            },
            "duration_s": 3_600,
            "device": DEVICE,
            "allow_delta": False,
        },
    )
    decided = field.decided(experiment)
    results = field.control.get(f"experiments/{experiment}/results")
    served = {device_id: control.served(device_id, SHADOWED) for device_id in CONTROL.ids}
    phase = {"share": 1.0, "min_duration_s": 0, "deadline_s": 3_600}
    gates = {"install_failures": {"max_share": 0.1, "min_installed_share": 1.0}}
    rollout = field.promote(experiment, {"phases": [phase], "gates": gates, "device": DEVICE, "allow_delta": False})
    field.until(rollout, "completed")
    field.settled(SHADOWED, CONTROL.ids, "2")
    return Shadowed(
        decided, results["comparisons"], results["arms"], served, outcome(field, SHADOWED, rollout, (CONTROL,))
    )


@dataclass(frozen=True)
class Scenarios:
    """What is under way: a rollout each, the journey, and the shadow."""

    rollouts: Mapping[str, "Future[Outcome]"]
    journey: "Future[Journey]"
    shadow: "Future[Shadowed]"


@pytest.fixture(scope="module")
def scenarios(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scenarios]:
    """All scenarios under way in one fleet."""
    directory = tmp_path_factory.mktemp("field")
    made = field_models.build(directory / "models")
    versions = {
        "field.better": (made.usable, made.good),
        "field.confused": (made.good, made.confused),
        "field.slow": (made.good, made.slow),
        CRASHING: (made.good, made.crashing),
        SILENT: (made.usable, made.good),
        REMOTE: (made.good, made.large, made.usable),
        SHADOWED: (made.usable, made.good),
    }
    with running(directory, (STEADY, FRAGILE, DARK, REMOTES, CONTROL), versions) as field:
        steady = {**ERRORS, **ACCURACY}
        under_way: dict[str, Callable[[], Outcome]] = {
            "better": lambda: move(field, "field.better", STEADY, steady, ends="completed"),
            "confused": lambda: move(field, "field.confused", STEADY, steady, ends="reverted"),
            "slow": lambda: move(field, "field.slow", STEADY, {**ERRORS, **LATENCY}, ends="reverted"),
            "crashing": lambda: move(field, CRASHING, FRAGILE, CRASHES, ends="reverted", auto_advance=False),
            "silent": lambda: fall_silent(field),
        }
        journey, shadowed = field.threads.submit(travel, field), field.threads.submit(shadow, field)
        rollouts = {name: field.threads.submit(scenario) for name, scenario in under_way.items()}
        yield Scenarios(rollouts, journey, shadowed)


def verdict_of(seen: Outcome) -> str:
    """The sentence by which the conductor stopped it, which it did once, in the first phase."""
    (stopped,) = [item for item in seen.decisions if item["action"] == "revert"]
    assert (stopped["phase"], stopped["verdict"], stopped["actor"]) == (0, "fail", "conductor"), stopped
    return str(stopped["sentence"])


def assert_stopped_in_first_phase(seen: Outcome, squad: Squad) -> None:
    """Nobody but the first phase's devices ever served it, the control nothing but what it had, and no inference failed."""
    assert seen.state == "reverted"
    assert seen.exposed == set(squad.ids)
    assert {device: set(seen.served[device]) for device in CONTROL.ids} == {key: {"1"} for key in CONTROL.ids}
    assert {device: versions[-1] for device, versions in seen.served.items()} == dict.fromkeys(seen.served, "1")
    assert set(seen.failed.values()) == {0}


def test_rollout__good_model__ramps_to_everybody_without_a_failed_inference(scenarios: Scenarios) -> None:
    seen = scenarios.rollouts["better"].result()
    assert [item["action"] for item in seen.decisions] == ["start", "advance", "complete"]
    assert {device: tuple(versions) for device, versions in seen.served.items()} == dict.fromkeys(
        (*STEADY.ids, *CONTROL.ids), ("1", "2")
    )
    assert set(seen.failed.values()) == {0}


def test_rollout__model_is_wrong_in_the_field__accuracy_stops_it_in_the_first_phase(scenarios: Scenarios) -> None:
    seen = scenarios.rollouts["confused"].result()
    assert_stopped_in_first_phase(seen, STEADY)
    assert verdict_of(seen).startswith("FAIL: accuracy is ")


def test_rollout__model_is_slow__latency_stops_it_in_the_first_phase(scenarios: Scenarios) -> None:
    seen = scenarios.rollouts["slow"].result()
    assert_stopped_in_first_phase(seen, STEADY)
    assert verdict_of(seen).startswith(f"FAIL: the share of inferences slower than {SLOW_MS:g} ms is ")


def test_rollout__model_crashes_its_process__crashes_stop_it_in_the_first_phase(scenarios: Scenarios) -> None:
    seen = scenarios.rollouts["crashing"].result()
    assert_stopped_in_first_phase(seen, FRAGILE)
    assert "FAIL: 4 of 4 devices crashed (limit 5%)" in verdict_of(seen)


def test_rollout__devices_are_silent_after_they_took_it__silence_stops_it_in_the_first_phase(
    scenarios: Scenarios,
) -> None:
    seen = scenarios.rollouts["silent"].result()
    assert_stopped_in_first_phase(seen, DARK)
    assert re.search(
        r"of those watched, 4 of 4 and \d of 8 control devices are; counted at the deadline", verdict_of(seen)
    )


def test_rollout__halted_while_devices_download__bytes_stop_and_a_resume_goes_on_from_there(
    scenarios: Scenarios,
) -> None:
    seen = scenarios.journey.result()
    for device_id, halted in seen.at_halt.items():
        later = seen.later[device_id]
        assert (later.bytes_done, later.installed) == (halted.bytes_done, halted.installed)
        assert 0 < halted.bytes_done < halted.bytes_total
        assert len(halted.installed) == 1, "nothing of version 2 is installed"
        committed = seen.reports[device_id][-1]
        assert committed["state"] == "committed"
        # Small files of the bundle that had come whole are not resumed.
        assert halted.bytes_done - SMALL_FILES_BYTES <= committed["resumed_from"] <= halted.bytes_done
    assert set(seen.failed.values()) == {0}


def test_rollout__device_is_off_through_two_rollouts__goes_to_the_right_version_and_no_other(
    scenarios: Scenarios,
) -> None:
    seen = scenarios.journey.result()
    first, second, away = REMOTES.ids
    assert seen.served[first] == seen.served[second] == ["1", "2", "1", "3"]
    assert seen.served[away] == ["1", "1", "3"]
    assert seen.reports[away] == []


def test_shadow__better_candidate__wins_without_being_served_and_is_promoted_to_everybody(
    scenarios: Scenarios,
) -> None:
    seen = scenarios.shadow.result()
    assert (seen.experiment["verdict"], seen.experiment["winner"]) == ("ship", "candidate"), seen.experiment["because"]
    assert "higher than the champion's on the same inputs" in seen.experiment["because"]
    overall = {item["metric"]: item["finding"] for item in seen.comparisons if item["stratum"] == "all classes"}
    assert overall == {"accuracy": "better", "agreement": "pass", "errors": "pass"}
    candidate = next(item for item in seen.arms if item["name"] == "candidate")
    assert (candidate["offered"], candidate["committed"]) == (8, 8)
    assert seen.served_at_verdict == {key: ["1"] for key in CONTROL.ids}
    assert seen.promoted.served == {key: ["1", "2"] for key in CONTROL.ids}
    assert set(seen.promoted.failed.values()) == {0}
