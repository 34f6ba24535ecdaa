"""`accel ledger`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accel.cli.shared import DONE, command
from accel.core import ConfigError, one_line, open_file, open_text

if TYPE_CHECKING:
    from accel.pipelines.verify import Ledger


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
    chain = ledger.check() if args.what == "verify" else None
    faults = chain.faults if chain else []
    if args.json:
        count = _write(args.json, ledger, [] if faults else ledger.each(args.last), faults)
        if args.json == "-":
            return 1 if faults else DONE
        if args.what == "export":
            print(one_line(f"{_counted(count)} written to {args.json}"))
    if chain:
        last = f", the last hash is {chain.last}" if chain.rows else ""
        print("\n".join(faults) or one_line(f"the chain of {_counted(chain.rows)} holds{last}"))
    elif args.what == "list" or not args.json:
        _print(ledger, args)
    return 1 if faults else DONE


def _print(ledger: Ledger, args: argparse.Namespace) -> None:
    """The entries one by one: of a list of years the first ones are there at once."""
    from accel.pipelines.verify import as_json

    told = as_json if args.what == "export" else _line
    count = 0
    for entry in ledger.each(args.last):
        print(told(entry))
        count += 1
    if not count and args.what == "list":
        print(f"no entries in {one_line(str(ledger.path))}")


def _write(target: str, ledger: Ledger, entries: Iterable[Any], faults: list[str]) -> int:
    """The report, which may be longer than memory; returns how many entries it holds."""
    count = 0
    with nullcontext(sys.stdout) if target == "-" else open_text(Path(target)) as file:
        file.write(f'{{\n "ledger": {json.dumps(str(ledger.path))},\n "entries": [')
        for entry in entries:
            file.write(f"{',' if count else ''}\n  {json.dumps(vars(entry))}")
            count += 1
        file.write(f'\n ],\n "faults": {json.dumps(faults)}\n}}\n')
    return count


def _counted(entries: int) -> str:
    return "1 entry" if entries == 1 else f"{entries} entries"


def _line(entry: Any) -> str:
    """One entry in columns; its words may be a stranger's."""
    time, task, mark, sha256, consent = (
        one_line(text, 40)
        for text in (entry.time, entry.task, entry.mark or "no mark", entry.sha256, entry.consent)
    )
    return f"{entry.number:5}  {time}  {task:10} {mark:12}  {sha256[:16]}  {consent}"
