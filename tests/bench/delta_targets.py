"""What the deltas must show, what they showed, and the means of it by kind. Pure: figures in, rows out."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import exp, log
from typing import Any, Final

# Ratios of patch sizes to bsdiff4's, geometric means by kind.
SIZE_TARGETS: Final[Mapping[str, float]] = {
    "fp32": 0.62,
    "fp16": 0.76,
    "bf16": 0.63,
    "int8": 0.85,
    "fp32-lora": 0.10,
    "fp32-pruned": 0.01,
    "cast": 0.01,
    "fp32-to-int8": 0.01,
}
FINE_TUNED: Final = ("fp32", "fp16", "bf16", "int8")
OVERALL_TARGET: Final = 0.72
# Kind -> (smallest new file in bytes, CPU to create over bsdiff4's).
CPU_TARGETS: Final[Mapping[str, tuple[int, float]]] = {
    "fp32": (40_000_000, 1 / 100),
    "fp16": (40_000_000, 1 / 60),
    "bf16": (40_000_000, 1 / 60),
    "int8": (20_000_000, 1 / 20),
}
FULL_SLACK_BYTES: Final = 256
CREATE_MB_PER_S: Final = 80.0
CREATE_ABOVE_INTERPRETER_MIB: Final = 256.0
APPLY_PEAK_MIB: Final = 48.0
APPLY_MB_PER_S: Final = 150.0
# Below this, starting an interpreter is most of the time that is measured.
SPEED_FROM_BYTES: Final = 40_000_000


@dataclass(frozen=True)
class Row:
    """A target beside a result. No result: nothing that was measured says anything of it."""

    what: str
    target: str
    result: str
    is_met: bool | None

    def encode(self) -> dict[str, object]:
        """As JSON has it."""
        return {"what": self.what, "target": self.target, "result": self.result, "met": self.is_met}


def geometric_mean(values: Iterable[float]) -> float | None:
    """None for no values. A size of 0 counts as one byte would: it is kept from being 0 by the caller."""
    logs = [log(value) for value in values]
    return exp(sum(logs) / len(logs)) if logs else None


def ratio(pair: Mapping[str, Any], figure: str) -> float | None:
    """A pair's figure over bsdiff4's; None without that baseline."""
    baseline = pair["baselines"].get("bsdiff4", {}).get(figure)
    return max(pair[figure], 1e-9) / max(baseline, 1e-9) if baseline is not None else None


def summarise(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Geometric means by kind, and of all pairs that have a baseline. Those that failed are named, and in no mean."""
    pairs = _measured(results)
    kinds: dict[str, dict[str, Any]] = {}
    for kind in sorted({pair["kind"] for pair in pairs}):
        kinds[kind] = _means([pair for pair in pairs if pair["kind"] == kind])
    return {
        "by_kind": kinds,
        "fine_tuned": _means([pair for pair in pairs if pair["kind"] in FINE_TUNED]),
        "all": _means(pairs),
        "failed": [pair["name"] for pair in results if "error" in pair],
    }


def _measured(results: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [pair for pair in results if "error" not in pair]


def _means(pairs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    def mean(figure: str) -> float | None:
        return geometric_mean(value for pair in pairs if (value := ratio(pair, figure)) is not None)

    def rounded(value: float | None) -> float | None:
        return None if value is None else float(f"{value:.4g}")

    return {
        "pairs": len(pairs),
        "patch_to_new": rounded(
            geometric_mean(max(pair["patch_bytes"], 1) / max(pair["new_bytes"], 1) for pair in pairs)
        ),
        "patch_to_bsdiff4": rounded(mean("patch_bytes")),
        "create_cpu_to_bsdiff4": rounded(mean("create_cpu_s")),
        "tensor1_to_entropy_bound": rounded(
            geometric_mean(
                pair.get("tensor1_bytes", pair["patch_bytes"]) / pair["entropy_bound_bytes"]
                for pair in pairs
                if pair.get("entropy_bound_bytes")
            )
        ),
        "apply_to_bsdiff4": rounded(mean("apply_s")),
        "sha256_ok": all(pair["sha256_ok"] for pair in pairs),
    }


def rows(results: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Every target with its result. A pair that failed came out wrong, and says nothing else."""
    pairs = _measured(results)
    found = [_size_row(kind, target, pairs) for kind, target in SIZE_TARGETS.items()]
    found.append(
        _at_most(
            "size / bsdiff4, fine-tuned overall", OVERALL_TARGET, summarise(pairs)["fine_tuned"]["patch_to_bsdiff4"]
        )
    )
    for kind, (smallest, target) in CPU_TARGETS.items():
        ratios = [
            value
            for pair in pairs
            if pair["kind"] == kind and pair["new_bytes"] >= smallest and (value := ratio(pair, "create_cpu_s"))
        ]
        mean = geometric_mean(ratios)
        found.append(
            Row(
                f"CPU to create / bsdiff4, {kind} >= {smallest // 10**6} MB",
                f"<= 1/{1 / target:.0f}",
                "not measured" if mean is None else f"1/{1 / mean:.0f}",
                None if mean is None else mean <= target,
            )
        )
    return [*found, *_resource_rows(pairs), Row("sha256 of every result", "right", *_shas(results))]


def _size_row(kind: str, target: float, pairs: Sequence[Mapping[str, Any]]) -> Row:
    ratios = [value for pair in pairs if pair["kind"] == kind and (value := ratio(pair, "patch_bytes")) is not None]
    return _at_most(f"size / bsdiff4, {kind}", target, geometric_mean(ratios))


def _at_most(what: str, target: float, value: float | None) -> Row:
    if value is None:
        return Row(what, f"<= {target:g}", "not measured", None)
    return Row(what, f"<= {target:g}", f"{value:.4g}", value <= target)


def _resource_rows(pairs: Sequence[Mapping[str, Any]]) -> list[Row]:
    large = [pair for pair in pairs if pair["new_bytes"] >= SPEED_FROM_BYTES]
    excess = [
        pair["patch_bytes"] - min(pair["full_bytes"], pair["new_bytes"]) for pair in pairs if pair.get("full_bytes")
    ]
    worst = max(excess, default=None)
    above = max((pair["create_above_interpreter_mib"] for pair in pairs), default=None)
    apply_peak = max((pair["apply_peak_rss_mib"] for pair in pairs), default=None)
    create = geometric_mean(pair["new_bytes"] / 1e6 / pair["create_s"] for pair in large)
    apply = geometric_mean(pair["new_bytes"] / 1e6 / pair["apply_s"] for pair in large)
    working = geometric_mean(
        pair["new_bytes"] / 1e6 / (pair["apply_cpu_s"] - pair["apply_start_cpu_s"])
        for pair in large
        if pair.get("apply_start_cpu_s")
    )
    create_cpu = geometric_mean(
        pair["new_bytes"] / 1e6 / pair["verified_cpu_s"] for pair in large if "verified_cpu_s" in pair
    )
    return [
        Row(
            "worst size above the best full encoding, bytes",
            f"<= {FULL_SLACK_BYTES}",
            "not measured" if worst is None else str(worst),
            None if worst is None else worst <= FULL_SLACK_BYTES,
        ),
        _figure(
            "create with verification, MB/s of wall time (>= 40 MB)",
            f">= {CREATE_MB_PER_S:g}",
            create,
            lambda v: v >= CREATE_MB_PER_S,
        ),
        _figure("the same, MB for each second of CPU", "-", create_cpu, None),
        _figure(
            "create peak above the interpreter, MiB",
            f"<= {CREATE_ABOVE_INTERPRETER_MIB:g}",
            above,
            lambda v: v <= CREATE_ABOVE_INTERPRETER_MIB,
        ),
        _figure("apply peak, whole process, MiB", f"<= {APPLY_PEAK_MIB:g}", apply_peak, lambda v: v <= APPLY_PEAK_MIB),
        _figure(
            "apply, MB for each second of CPU, once started (>= 40 MB)",
            f">= {APPLY_MB_PER_S:g}",
            working,
            lambda v: v >= APPLY_MB_PER_S,
        ),
        _figure("the same, MB/s of wall time from the process's start", "-", apply, None),
    ]


def _shas(pairs: Sequence[Mapping[str, Any]]) -> tuple[str, bool]:
    right = sum(pair["sha256_ok"] for pair in pairs)
    return f"{right} of {len(pairs)}", right == len(pairs)


def _figure(what: str, target: str, value: float | None, holds: Callable[[float], bool] | None) -> Row:
    if value is None:
        return Row(what, target, "not measured", None)
    return Row(what, target, f"{value:.1f}", None if holds is None else holds(value))
