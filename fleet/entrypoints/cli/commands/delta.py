"""`modelfleet delta`: makes, applies and looks into deltas between files on this machine. Talks to no server."""

from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from device_client.wire.errors import WireError
from fleet.entrypoints.cli.context import Context
from fleet.entrypoints.cli.errors import CommandError, ExitCode
from fleet.entrypoints.cli.grammar import Commands
from fleet.entrypoints.cli.quantities import show_bytes
from fleet.ports.delta_encoder import DeltaTooExpensiveError
from fleet.wiring import cli as wiring

AUTO = "auto"


def register(commands: Commands) -> None:
    """Add the parsers."""
    group = commands.group("delta", "deltas between two files of weights")
    create = group.add("create", run_create, "make a patch that turns OLD into NEW, and prove that it does")
    create.add_argument("old", metavar="OLD", type=Path)
    create.add_argument("new", metavar="NEW", type=Path)
    create.add_argument("patch", metavar="PATCH", type=Path)
    create.add_argument(
        "--codec",
        choices=(AUTO, "tensor1", "bsdiff4"),
        default=AUTO,
        help="auto (the default) makes the smaller one where trying both is cheap",
    )
    create.add_argument(
        "--portable", action="store_true", help="tensor1 for devices without pcodec (32-bit ARM, musl): larger"
    )
    apply = group.add("apply", run_apply, "make NEW out of OLD and PATCH; NEW appears whole and right, or not at all")
    apply.add_argument("old", metavar="OLD", type=Path)
    apply.add_argument("patch", metavar="PATCH", type=Path)
    apply.add_argument("new", metavar="NEW", type=Path)
    inspect = group.add("inspect", run_inspect, "what a patch is made of, tensor by tensor")
    inspect.add_argument("patch", metavar="PATCH", type=Path)
    inspect.add_argument("--model", metavar="NEW", type=Path, help="the new file, to name tensors by")


def run_create(context: Context, arguments: Namespace) -> int:
    """Make and prove a patch."""
    codec = None if arguments.codec == AUTO else arguments.codec
    with _one_line():
        made = wiring.create_patch(arguments.old, arguments.new, arguments.patch, codec, portable=arguments.portable)
    share = 100 * made.patch_bytes / max(made.new_bytes, 1)
    tensors = [{**asdict(item), "bits_per_weight": round(item.bits_per_weight, 4)} for item in made.tensors]
    context.console.result(
        {**asdict(made), "codec": made.codec.value, "tensors": tensors, "patch": str(arguments.patch)},
        f"{arguments.patch}: {made.codec.value}, {show_bytes(made.patch_bytes)}, "
        f"{share:.3f} % of {show_bytes(made.new_bytes)}",
    )
    return ExitCode.HEALTHY


def run_apply(context: Context, arguments: Namespace) -> int:
    """Rebuild the new file."""
    with _one_line():
        size = wiring.apply_patch(arguments.old, arguments.patch, arguments.new)
    context.console.result(
        {"new": str(arguments.new), "new_bytes": size}, f"{arguments.new}: {show_bytes(size)}, sha256 as announced"
    )
    return ExitCode.HEALTHY


def run_inspect(context: Context, arguments: Namespace) -> int:
    """Show what each tensor costs."""
    with _one_line():
        found = wiring.inspect_patch(arguments.patch, arguments.model)
    parts = [{**asdict(part), "bits_per_weight": round(part.bits_per_weight, 4)} for part in found.parts]
    rows = [
        (
            part.name or f"@{part.output_offset}",
            part.predictor or part.kind,
            part.dtype,
            part.elements,
            f"{part.bits_per_weight:.3f}",
            part.patch_bytes,
            part.output_bytes,
        )
        for part in found.parts
    ]
    context.console.table(
        {**asdict(found), "codec": found.codec.value, "parts": parts},
        ("TENSOR", "PREDICTOR", "DTYPE", "WEIGHTS", "BITS/WEIGHT", "PATCH BYTES", "NEW BYTES"),
        rows,
        empty=f"{arguments.patch}: {found.codec.value}, {found.patch_bytes} bytes, makes {found.new_bytes} bytes"
        + (", the whole new file as it is" if found.is_verbatim else ""),
    )
    return ExitCode.HEALTHY


@contextmanager
def _one_line() -> Iterator[None]:
    """What can go wrong with files and patches, as this command's errors."""
    try:
        yield
    except WireError as error:
        raise CommandError(error.code, str(error)) from error
    except DeltaTooExpensiveError as error:
        raise CommandError("delta_too_expensive", str(error)) from error
    except MemoryError as error:
        raise CommandError("memory_short", "expected memory for these files and this patch, got too little") from error
    except (ValueError, OverflowError) as error:
        message = str(error).replace("\n", " ")
        raise CommandError("delta_failed", f"expected files and a patch that fit together, got: {message}") from error
    except OSError as error:
        raise CommandError("file_unusable", f"{error.filename or 'file'}: {error.strerror or error}") from error
    except ImportError as error:
        raise CommandError(
            "library_missing", f"expected the libraries that deltas need (numpy, pcodec, bsdiff4), got {error}"
        ) from error
