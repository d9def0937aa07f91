"""`modelfleet delta`: makes, applies and looks into deltas between files on this machine. Talks to no server."""

from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from device_client.wire.errors import WireError
from device_client.wire.tensor1.errors import WrongBaseError
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
    with _one_line(arguments):
        made = wiring.create_patch(arguments.old, arguments.new, arguments.patch, codec, portable=arguments.portable)
    tensors = [{**asdict(item), "bits_per_weight": round(item.bits_per_weight, 4)} for item in made.tensors]
    said = f"{arguments.patch}: {made.codec.value}, {_share(made.patch_bytes, made.new_bytes)}"
    if made.taken_as_bytes:
        said += f"; {made.taken_as_bytes} tensors are too small and too many, and were taken as bytes"
    context.console.result(
        {**asdict(made), "codec": made.codec.value, "tensors": tensors, "patch": str(arguments.patch)}, said
    )
    return ExitCode.HEALTHY


def run_apply(context: Context, arguments: Namespace) -> int:
    """Rebuild the new file."""
    with _one_line(arguments):
        size = wiring.apply_patch(arguments.old, arguments.patch, arguments.new)
    context.console.result(
        {"new": str(arguments.new), "new_bytes": size}, f"{arguments.new}: {show_bytes(size)}, sha256 as announced"
    )
    return ExitCode.HEALTHY


def run_inspect(context: Context, arguments: Namespace) -> int:
    """Show what each tensor costs."""
    with _one_line(arguments):
        found = wiring.inspect_patch(arguments.patch, arguments.model)
    parts = [{**asdict(part), "bits_per_weight": round(part.bits_per_weight, 4)} for part in found.parts]
    rows = [
        (
            (part.name or f"@{part.output_offset}") + (f" and {part.tensors - 1} more" if part.tensors > 1 else ""),
            part.predictor or part.kind,
            part.dtype,
            part.elements,
            f"{part.bits_per_weight:.3f}",
            part.patch_bytes,
            part.output_bytes,
        )
        for part in found.parts
    ]
    head = [f"{arguments.patch}: {found.codec.value}, {_share(found.patch_bytes, found.new_bytes)}"]
    if found.is_verbatim:
        head.append("the whole new file as it is")
    if found.old_bytes is not None:
        head.append(f"old file: {found.old_bytes} bytes, sha256 {found.old_sha256}")
        head.append(f"new file: {found.new_bytes} bytes, sha256 {found.new_sha256}")
    if found.parts:
        needs = "needs pcodec" if found.needs_pcodec else "needs no pcodec"
        head.append(f"{len(found.parts)} instructions, blocks of {found.block_bytes} bytes, {needs}")
        head.append(f"header and table with literals: {found.header_bytes} bytes; the rest is in the records:")
    context.console.table(
        {**asdict(found), "codec": found.codec.value, "parts": parts},
        ("TENSOR", "PREDICTOR", "DTYPE", "WEIGHTS", "BITS/WEIGHT", "PATCH BYTES", "NEW BYTES"),
        rows,
        above=head,
    )
    return ExitCode.HEALTHY


def _share(part_bytes: int, whole_bytes: int) -> str:
    """A size, and how much of another that is where it has one."""
    share = (
        f"{100 * part_bytes / whole_bytes:.3f} % of {show_bytes(whole_bytes)}" if whole_bytes else "of an empty file"
    )
    return f"{show_bytes(part_bytes)}, {share}"


@contextmanager
def _one_line(arguments: Namespace) -> Iterator[None]:
    """What can go wrong with files and patches, as this command's errors, each with the file that it is about."""
    try:
        yield
    except WrongBaseError as error:
        raise CommandError(error.code, f"{arguments.old}: {error}") from error
    except WireError as error:
        raise CommandError(error.code, f"{arguments.patch}: {error}") from error
    except DeltaTooExpensiveError as error:
        raise CommandError("delta_too_expensive", f"{arguments.patch}: {error}") from error
    except MemoryError as error:
        said = f"{arguments.patch}: expected memory for these files and this patch, got too little"
        raise CommandError("memory_short", said) from error
    except (ValueError, OverflowError) as error:
        message = str(error).replace("\n", " ")
        raise CommandError(
            "delta_failed", f"{arguments.patch}: expected files and a patch that fit together, got: {message}"
        ) from error
    except OSError as error:
        raise CommandError("file_unusable", f"{error.filename or 'file'}: {error.strerror or error}") from error
    except ImportError as error:
        raise CommandError(
            "library_missing", f"expected the libraries that deltas need (numpy, pcodec, bsdiff4), got {error}"
        ) from error
