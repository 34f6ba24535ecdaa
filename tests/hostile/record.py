"""Run every attack and keep what each did: `python -m tests.hostile.record [--confined]`.

Writes benchmarks/results/attacks.json: for a mode ("plain", or "confined" with `--untrusted`) and
an attack its exit status, seconds of processor time and by the clock, peak of resident MB, lines
printed, and what was wrong. `--minutes` ends it early; run again, it goes on with the attacks that
have no row yet, or with `--again` runs all.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.harness import RESULTS, conditions
from tests.hostile.every import ATTACKS
from tests.hostile.judge import ROOT, faults, left_outside

COLUMNS = ("status", "busy_s", "seconds", "peak_mb", "lines", "faults")
FILE = RESULTS / "attacks.json"
SHARE = 12  # attacks that share a process's start, and a folder


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="ATTACK", help="some attacks, by name")
    parser.add_argument("--confined", action="store_true", help="with --untrusted")
    parser.add_argument("--again", action="store_true", help="those too that were run before")
    parser.add_argument("--minutes", type=float, default=1e9, help="after which none is begun")
    parser.add_argument("--file", type=Path, default=FILE, help="of the results")
    args = parser.parse_args()
    mode = "confined" if args.confined else "plain"
    told = json.loads(args.file.read_text()) if args.file.exists() else {"modes": {}}
    rows = told["modes"].setdefault(mode, {})
    for gone in rows.keys() - ATTACKS.keys():
        del rows[gone]
    names = [n for n in args.names or ATTACKS if args.again or args.names or n not in rows]
    end = time.monotonic() + 60 * args.minutes
    for at in range(0, len(names), SHARE):
        if time.monotonic() > end:
            break
        for name, report, wrong in taken(names[at : at + SHARE], args.confined):
            rows[name] = [report["status"], round(report.get("busy_s", 0), 2),
                          round(report.get("seconds", 0), 1), round(report.get("peak_mb", 0)),
                          (report["out"] + report["err"]).count("\n"), wrong]  # fmt: skip
            for fault in wrong:
                print(f"{mode} {name}: {fault}\n    {report['err'][:300]!r}", flush=True)
        write(args.file, told["modes"])
    return int(any(row[-1] for row in rows.values()))


def taken(names: list[str], is_confined: bool) -> Iterator[tuple[str, dict, list[str]]]:
    """Run some attacks in one battery: name, report and faults of each."""
    folder = Path(tempfile.mkdtemp(prefix="attacks-"))
    place = folder / "in"
    place.mkdir()
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            reports = list(battery(place, names, server.getsockname()[1], is_confined))
            server.settimeout(0.1)
            try:
                server.accept()[0].close()
                wrong = ["one of this share asked for a URL"]
            except TimeoutError:
                wrong = []
        wrong += left_outside(place, set(names))
        for report in reports:
            name = report["name"]
            yield name, report, faults(ATTACKS[name], report) + wrong
    finally:
        subprocess.run(["chmod", "-R", "u+rwx", folder], stderr=subprocess.DEVNULL)
        subprocess.run(["rm", "-rf", folder])  # some folders are too deep for Python's own way


def battery(folder: Path, names: list[str], port: int, is_confined: bool) -> Iterator[dict]:
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {"PYTHONPATH": os.pathsep.join(paths), "CONFINED": str(int(is_confined))}
    command = [sys.executable, "-m", "tests.hostile.battery", str(folder)]
    with subprocess.Popen(
        [*command, f"http://127.0.0.1:{port}", *names],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as ran:
        for line in ran.stdout:
            yield json.loads(line)
    if ran.returncode:
        raise SystemExit(f"the battery ended with status {ran.returncode}")


def write(file: Path, modes: dict[str, dict[str, list]]) -> None:
    """The file: a summary of each mode, then an attack a line."""
    order = {name: index for index, name in enumerate(ATTACKS)}
    summary = {mode: summed(rows) for mode, rows in modes.items()}
    head = {"summary": summary, "columns": COLUMNS, **conditions(1)}
    text = json.dumps(head, indent=1)[:-2] + ',\n "modes": {'
    for mode, rows in modes.items():
        lines = [f"   {json.dumps(name)}: {json.dumps(rows[name])}"
                 for name in sorted(rows, key=order.__getitem__)]  # fmt: skip
        text += f"\n  {json.dumps(mode)}: {{\n" + ",\n".join(lines) + "\n  },"
    file.write_text(text.removesuffix(",") + "\n }\n}\n")


def summed(rows: dict[str, list]) -> dict[str, object]:
    """Of one mode: how many of all attacks were run, the worst of them, and those that failed."""
    if not rows:
        return {"run": 0}
    refused = {name: row for name, row in rows.items() if row[0] and "photograph_" not in name}
    slowest = max(refused, key=lambda name: refused[name][1], default="")
    largest = max(rows, key=lambda name: rows[name][3])
    return {"run": len(rows), "of": len(ATTACKS), "failed": [n for n in rows if rows[n][-1]],
            "slowest_refusal": [slowest, *refused.get(slowest, [0, 0])[1:2]],
            "largest": [largest, rows[largest][3]]}  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
