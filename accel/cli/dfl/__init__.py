"""`accel dfl`: the steps of the DeepFaceLab workflow, one module for those that belong together."""

from __future__ import annotations

import argparse
import importlib
from typing import Any

from accel.cli.shared import BAD_INPUT

# Modules of this package, in the order that `accel dfl --help` lists their commands.
MODULES = ("workspace", "train", "merge")


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "dfl",
        help="the DeepFaceLab workflow: frames, faces, training, merging, on a workspace folder",
        description="The DeepFaceLab workflow on a workspace folder that holds data_src.mp4 and"
        " data_dst.mp4 (or mov, mkv, webm, avi, gif).",
        epilog="examples:\n"
        "  accel dfl extract workspace --side src\n"
        "  accel dfl extract workspace --side dst\n"
        "  accel dfl sort workspace --side src --by blur\n"
        "  accel dfl encode workspace --to result.mp4",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )

    def bare(args: argparse.Namespace) -> int:
        parser.print_help()
        return BAD_INPUT

    parser.set_defaults(run=bare)
    steps = parser.add_subparsers(metavar="STEP")
    for name in MODULES:
        importlib.import_module(f"accel.cli.dfl.{name}").add(steps)
