"""`accel ledger`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from accel.cli.shared import DONE, command, deliver
from accel.core import ConfigError, one_line, open_file


def add(commands: Any) -> None:
    parser = command(
        commands,
        "ledger",
        "show, check or export this machine's list of what was made",
        "  accel ledger list --last 20\n"
        "  accel ledger verify\n"
        "  accel ledger export --json ledger.json\n\n"
        "`verify` ends with 0 when the chain holds, else with 1.",
    )
    parser.add_argument("what", choices=("list", "verify", "export"))
    parser.add_argument("--last", type=int, metavar="N", help="the last N entries alone")
    parser.add_argument("--file", type=Path, help="another ledger than this machine's")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from accel.pipelines.verify import Ledger

    if args.last is not None and args.last < 1:
        raise ConfigError(f"ledger: --last must be at least 1, got {args.last}")
    if args.file:  # this machine's may not be there yet; one that was named must be
        open_file(args.file, "a ledger").close()
    ledger = Ledger(args.file)
    faults = ledger.faults() if args.what == "verify" else []
    entries = [] if faults else ledger.entries(args.last)
    told = {
        "ledger": str(ledger.path),
        "entries": [vars(entry) | {"looks": list(entry.looks)} for entry in entries],
        "faults": faults,
    }
    if args.what == "export" and args.json not in (None, "-"):
        text = f"{_counted(len(entries))} written to {args.json}"
    elif args.what == "export":
        text = ledger.export(args.last).rstrip("\n")
    elif faults:
        text = "\n".join(faults)
    elif args.what == "verify":
        last = f", the last hash is {entries[-1].hash}" if entries else ""
        text = one_line(f"the chain of {_counted(len(ledger.entries()))} holds{last}")
    else:
        text = "\n".join(map(_line, entries)) or f"no entries in {ledger.path}"
    deliver(told, args.json, text)
    return 1 if faults else DONE


def _counted(entries: int) -> str:
    return "1 entry" if entries == 1 else f"{entries} entries"


def _line(entry: Any) -> str:
    """One entry in columns; its words may be a stranger's."""
    time, task, mark, sha256, consent = (
        one_line(text, 40)
        for text in (entry.time, entry.task, entry.mark or "no mark", entry.sha256, entry.consent)
    )
    return f"{entry.number:5}  {time}  {task:10} {mark:12}  {sha256[:16]}  {consent}"
