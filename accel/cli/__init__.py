"""The command line: one module per job, each with `add(commands)` and its `run`."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

# Read as torch loads OpenMP. Threads that spin while they wait take the cores from the thread that
# is waited for: on a busy machine a picture took six times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from accel.cli.shared import (
    BAD_INPUT,
    CUT_OFF,
    DONE,
    INTERRUPTED,
    REFUSED,
    UNREADABLE,
    Parser,
    check_target,
    take_untrusted,
)
from accel.core import Cancelled, ConfigError, InputError, Refused, one_line

# Modules of this package, in the order that `accel --help` lists them.
COMMANDS = (
    "swap",
    "generate",
    "dfl",
    "train_diffusion",
    "bench",
    "doctor",
    "demo",
    "verify",
    "ledger",
)
NOTHING_LEFT = "nothing half done was left behind"
NO_MEMORY = "needs more memory than this process may have"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status (0 done, 2 bad input, 3 refused, 130 cancelled)."""
    words = sys.argv[1:] if argv is None else list(argv)
    try:
        words, limits = take_untrusted(words)
        if limits is not None:
            from accel.pipelines.untrusted import ChildLimits, run_command

            try:
                return run_command(words, ChildLimits(**limits))  # type: ignore[arg-type]
            except InputError as error:  # what ended the child is no indication of anything
                status = UNREADABLE if words[:1] == ["verify"] else BAD_INPUT
                return _complain(str(error), status)
        args = _parser().parse_args(words)
        if getattr(args, "json", None) not in (None, "-"):  # better now than after hours
            given = [one for one in vars(args).values() if isinstance(one, Path)]
            check_target(Path(args.json), given)
        return args.run(args) or DONE
    except ConfigError as error:
        return _complain(str(error), BAD_INPUT)
    except BrokenPipeError:  # whoever read what is printed has seen enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python flushes once more at its end
        return CUT_OFF
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _complain(f"{where}{error.strerror or error}", BAD_INPUT)
    except MemoryError:
        return _complain(NO_MEMORY, BAD_INPUT)
    except Refused as error:
        return _complain(f"refused: {error}", REFUSED)
    except (Cancelled, KeyboardInterrupt) as error:
        said = str(error).removeprefix("cancelled")
        return _complain(f"cancelled; {said or NOTHING_LEFT}", INTERRUPTED)
    except RuntimeError as error:
        if str(error).startswith("Symlink loop"):  # `Path.resolve` has no class for it
            return _complain("a file that was named is a link that leads to itself", BAD_INPUT)
        if "can't allocate memory" not in str(error):  # neither has torch
            raise
        return _complain(NO_MEMORY, BAD_INPUT)


def _complain(text: str, status: int) -> int:
    print(f"accel: {one_line(text)}", file=sys.stderr)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="accel",
        description="Swap faces in video and sample images from generative models, fast.",
        epilog="`accel COMMAND --help` explains a command and gives examples.",
    )
    parser.add_argument("--version", action="store_true", help="print the version and stop")
    parser.set_defaults(run=lambda args: _run_bare(parser, args))
    commands = parser.add_subparsers(metavar="COMMAND")
    for name in COMMANDS:
        importlib.import_module(f"accel.cli.{name}").add(commands)
    return parser


def _run_bare(parser: argparse.ArgumentParser, args: argparse.Namespace) -> int:
    if args.version:
        import accel

        print(accel.__version__)
        return DONE
    parser.print_help()
    return BAD_INPUT
