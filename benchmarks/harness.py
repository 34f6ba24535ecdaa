"""Time alternatives fairly on a noisy machine and keep the result as a committed file.

Alternatives run in turn, round after round, so that a drift of the clock or a neighbour's load
hits all of them; the median of the rounds is reported, and ratios are what to quote. On a CPU the
time is the process's CPU time by default (preemption does not count in it) with one thread.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from accel.kernels._op import FORCED, INTERPRETED, Op
from accel.pipelines.bench import measure
from accel.pipelines.bench.machine import hardware_name

RESULTS = Path(__file__).parent / "results"
Call = Callable[[], object]


def bench_kernel(
    op: Op,
    cases: Sequence[tuple[str, tuple]],
    *,
    peers: Callable[..., dict[str, Call]] | None = None,
    bytes_moved: Callable[..., int] | None = None,
    rounds: int = 15,
    threads: int = 1,
    note: str = "",
) -> dict:
    """Time every implementation of `op`, and `peers(*args)` beside them, on each case.

    cases: (label, arguments of the op).
    peers: from the arguments, what other libraries would do, by name.
    Prints a table, writes benchmarks/results/<op>.json, returns what it wrote.
    """
    if FORCED or INTERPRETED:
        raise SystemExit("bench_kernel: unset ACCEL_KERNELS and TRITON_INTERPRET to measure")
    rows = []
    for label, args in cases:
        calls: dict[str, Call] = {}
        refused = {}
        for implementation in reversed(op.implementations):
            reason = implementation.why_not(*args)
            if reason:
                refused[implementation.name] = reason
            else:
                calls[implementation.name] = lambda run=implementation.run, args=args: run(*args)
        ours = set(calls)
        if peers:
            calls |= peers(*args)
        moved = bytes_moved(*args) if bytes_moved else None
        medians = interleaved(calls, rounds=rounds, threads=threads)
        best = min(medians[name] for name in ours)
        for name, seconds in medians.items():
            rows.append(
                {
                    "case": label,
                    "implementation": name,
                    "peer": name not in ours,
                    "median_ms": round(seconds * 1e3, 4),
                    "ratio_to_ours": round(seconds / best, 3),
                    **({"GB_per_s": round(moved / seconds / 1e9, 2)} if moved else {}),
                }
            )
        rows += [{"case": label, "implementation": n, "refused": r} for n, r in refused.items()]
    result = {"op": op.name, "note": note, "rows": rows, **conditions(threads)}
    _print(op.name, rows)
    save(op.name, result)
    return result


def interleaved(
    calls: dict[str, Call], *, rounds: int = 15, threads: int = 1, min_s: float = 0.01
) -> dict[str, float]:
    """Return the median seconds of each call, run in turn. A slow call is run fewer times."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    times = measure.interleaved(calls, rounds=rounds, device=device, threads=threads, min_s=min_s)
    return {name: timing.seconds for name, timing in times.items()}


def conditions(threads: int) -> dict:
    """What a reader needs to judge a figure: machine, versions, commit."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return {
        "device": hardware_name(device),
        "cores": os.cpu_count(),
        "threads": threads,
        "clock": "process CPU time" if threads == 1 else "wall",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "commit": commit,
        "date": time.strftime("%Y-%m-%d"),
    }


def kept(name: str, rows: list[dict], *fields: str) -> list[dict]:
    """Rows of a committed result whose `fields` none of the new `rows` has: not measured again."""
    path = RESULTS / f"{name}.json"
    again = {tuple(row[f] for f in fields) for row in rows}
    old = json.loads(path.read_text())["rows"] if path.exists() else []
    return [row for row in old if tuple(row[f] for f in fields) not in again]


def save(name: str, result: dict) -> None:
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")


def _print(title: str, rows: list[dict]) -> None:
    print(f"\n{title}")
    for row in rows:
        if "refused" in row:
            print(f"  {row['case']:28} {row['implementation']:22} - {row['refused']}")
        else:
            speed = f"{row['GB_per_s']:8.2f} GB/s" if "GB_per_s" in row else ""
            print(
                f"  {row['case']:28} {row['implementation']:22}"
                f"{row['median_ms']:10.3f} ms {row['ratio_to_ours']:8.2f} x {speed}"
            )
