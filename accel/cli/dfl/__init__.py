"""`accel dfl`: the steps of the DeepFaceLab workflow, one module for those that belong together."""

from __future__ import annotations

import argparse
from typing import Any

from accel.cli.dfl import merge, train, workspace
from accel.cli.shared import BAD_INPUT


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "dfl",
        help="the DeepFaceLab workflow: frames, faces, training, merging, on a workspace folder",
        description="The DeepFaceLab workflow on a workspace folder that holds data_src.mp4 and"
        " data_dst.mp4 (or mov, mkv, webm, avi, gif).",
        epilog="examples:\n"
        "  accel dfl extract workspace --side src\n"
        "  accel dfl extract workspace --side dst\n"
        "  accel dfl sort workspace --side src --by final\n"
        "  accel dfl train workspace --model quick96 --iterations 100000\n"
        "  accel dfl merge workspace --to workspace/result.mp4",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )

    def bare(args: argparse.Namespace) -> int:
        parser.print_help()
        return BAD_INPUT

    parser.set_defaults(run=bare)
    steps = parser.add_subparsers(metavar="STEP")
    # In the order in which they are done: that is how `accel dfl --help` lists them.
    workspace.add(steps)
    train.add(steps)
    merge.add(steps)
    workspace.add_encode(steps)
    train.add_export(steps)
