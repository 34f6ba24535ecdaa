"""`accel doctor`."""

from __future__ import annotations

import argparse
from typing import Any

from accel.cli.shared import command, deliver


def add(commands: Any) -> None:
    parser = command(
        commands,
        "doctor",
        "say what works on this machine, and why the rest does not",
        "  accel doctor\n  accel doctor --json -",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    from accel.pipelines.doctor import describe, examine

    report = examine()
    deliver(report, args.json, describe(report))
