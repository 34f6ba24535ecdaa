"""Fail when a kernel's lead over its peer shrank: what `make gate` and CI run.

    python -m benchmarks.gate           # against benchmarks/results/gate.json
    python -m benchmarks.gate --keep    # measure this kind of CPU anew and keep it there

Leads are ratios of CPU times within one run, so another machine of the same instruction set may
be compared, and a busy one. Still a neighbour can spoil a run: only what is slower in every one of
three runs fails. A kind of CPU that has no leads in the file passes, and is named.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from typing import Any

from accel.pipelines.bench.compare import slower, told
from accel.pipelines.bench.run import run_bench
from benchmarks.harness import RESULTS

FILE = RESULTS / "gate.json"
RUNS = 3
ALLOWED = 1.4  # a lead of 2.8 may become 2 before it fails; a kernel half as slow again fails


def kind(report: dict[str, Any]) -> str:
    """Leads depend on the instructions that kernel and peer have, little on the clock."""
    return str(report["conditions"]["instructions"])


def measure() -> dict[str, Any]:
    return run_bench(("kernels",), device="cpu", quick=True)


def keep(known: dict[str, Any]) -> None:
    """The median lead of several runs, as one report."""
    reports = [measure() for _ in range(RUNS)]
    for i, row in enumerate(reports[0]["rows"]):
        for peer in row["peers"]:
            leads = [report["rows"][i]["peers"][peer] for report in reports]
            row["peers"][peer] = round(statistics.median(leads), 3)
    known[kind(reports[0])] = reports[0]
    FILE.write_text(json.dumps(known, indent=1) + "\n")
    print(f"kept the leads of {kind(reports[0])} in {FILE}")


def check(known: dict[str, Any]) -> int:
    """Measure until nothing is slower, three times at most; what stays slower fails."""
    left: dict[tuple[str, str, str], dict[str, Any]] | None = None
    for _ in range(RUNS):
        report = measure()
        if kind(report) not in known:
            print(f"gate: no leads are kept for {kind(report)}: --keep measures them")
            return 0
        found = {
            (row["name"], row["case"], row["peer"]): row
            for row in slower(known[kind(report)], report, ALLOWED, whole=True)
        }
        left = found if left is None else {k: v for k, v in found.items() if k in left}
        if not left:
            print(f"gate: no lead over a peer shrank by more than {ALLOWED:g} x")
            return 0
    for row in (left or {}).values():
        print(f"gate: {told(row)}")
    return 1


def main() -> int:
    parser = argparse.ArgumentParser(description="fail when a kernel's lead over its peer shrank")
    parser.add_argument("--keep", action="store_true", help="keep this CPU's leads instead")
    keeping = parser.parse_args().keep
    known = json.loads(FILE.read_text()) if FILE.exists() else {}
    if keeping:
        keep(known)
        return 0
    return check(known)


if __name__ == "__main__":
    sys.exit(main())
