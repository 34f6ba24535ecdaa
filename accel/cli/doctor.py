"""`accel doctor`."""

from __future__ import annotations

import argparse
from typing import Any

from accel.cli.shared import DONE, command, deliver


def add(commands: Any) -> None:
    parser = command(
        commands,
        "doctor",
        "say what works on this machine, and why the rest does not",
        "  accel doctor\n  accel doctor --json -\n\n"
        "Ends with 0 when everything that is needed works, else with 1.",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from accel.pipelines.doctor import describe, examine

    report = examine()
    deliver(report, args.json, describe(report))
    return DONE if report["works"] else 1
