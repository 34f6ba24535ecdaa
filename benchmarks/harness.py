"""Time alternatives fairly on a noisy machine and keep the result as a committed file.

Alternatives run in turn, round after round, so that a drift of the clock or a neighbour's load
hits all of them; the median of the rounds is reported, and ratios are what to quote. On a CPU the
time is the process's CPU time by default (preemption does not count in it) with one thread.
"""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NotRequired, TypedDict, final

import numpy.typing as npt
import torch

from accel.kernels._op import FORCED, INTERPRETED, Implementation, Op
from accel.pipelines.bench import measure
from accel.pipelines.bench.machine import hardware_name

RESULTS = Path(__file__).parent / "results"
MOST_OFF = 1e-3  # of the largest value, on average
Call = Callable[[], object]
Args = tuple[Any, ...]  # what an operator is called with: tensors and numbers, each its own
Picture = npt.NDArray[Any]  # as OpenCV has them, of bytes or floats


class Figure(TypedDict):
    """One alternative on one case."""

    case: str
    implementation: str
    peer: bool
    median_ms: float
    ratio_to_ours: float
    GB_per_s: NotRequired[float]


@final
class Refusal(TypedDict):
    """An implementation that does not take the case, and why."""

    case: str
    implementation: str
    refused: str


class Conditions(TypedDict):
    """What a reader needs to judge a figure."""

    device: str
    cores: int | None
    threads: int
    clock: str
    torch: str
    python: str
    commit: str
    date: str


class Measured(Conditions):
    """What stands in the file of a kernel's benchmark."""

    op: str
    note: str
    rows: list[Figure | Refusal]


Written = dict[str, object]  # a row of any other benchmark, as it stands in its file


def bench_kernel(
    op: Op,
    cases: Sequence[tuple[str, Args]],
    *,
    peers: Callable[..., dict[str, Call]] | None = None,
    bytes_moved: Callable[..., int] | None = None,
    rounds: int = 15,
    threads: int = 1,
    note: str = "",
) -> Measured:
    """Time every implementation of `op`, and `peers(*args)` beside them, on each case.

    cases: (label, arguments of the op).
    peers: from the arguments, what other libraries would do, by name.
    Prints a table, writes benchmarks/results/<op>.json, returns what it wrote.
    """
    if FORCED or INTERPRETED:
        raise SystemExit("bench_kernel: unset ACCEL_KERNELS and TRITON_INTERPRET to measure")
    rows: list[Figure | Refusal] = []
    for label, args in cases:
        calls: dict[str, Call] = {}
        refused = {}
        for implementation in reversed(op.implementations):
            reason = implementation.why_not(*args)
            if reason:
                refused[implementation.name] = reason
            else:
                refuse_wrong(op, implementation, args)
                calls[implementation.name] = partial(implementation.run, *args)
        ours = set(calls)
        if peers:
            calls |= peers(*args)
        moved = bytes_moved(*args) if bytes_moved else None
        medians = interleaved(calls, rounds=rounds, threads=threads)
        best = min(medians[name] for name in ours)
        for name, seconds in medians.items():
            row = figure(label, name, seconds, best, peer=name not in ours)
            if moved:
                row["GB_per_s"] = round(moved / seconds / 1e9, 2)
            rows.append(row)
        rows += [Refusal(case=label, implementation=n, refused=r) for n, r in refused.items()]
    print_rows(op.name, rows)
    result = Measured(op=op.name, note=note, rows=rows, **conditions(threads))
    save(op.name, result)
    return result


def refuse_wrong(op: Op, implementation: Implementation, args: Args) -> None:
    """End the run, before anything is timed, where an implementation is not its reference.

    The mean difference counts: pixels on a triangle's edge may go either way.
    """
    if implementation.name == "reference":
        return
    results = zip(_results(implementation.run, args), _results(op.reference, args), strict=True)
    for got, want in results:
        scale = max(float(want.double().abs().max()), 1e-12) if want.numel() else 1.0
        off = (got.double() - want.double()).abs().mean() if got.shape == want.shape else math.inf
        if want.numel() and not float(off) <= MOST_OFF * scale:
            raise SystemExit(
                f"{op.name}: {implementation.name} must be within {MOST_OFF} of the reference,"
                f" is {float(off) / scale:.1e} off"
            )


def _results(run: Callable[..., object], args: Args) -> list[torch.Tensor]:
    """What a call returns, and its arguments, some of which it may have written."""
    mine = tuple(a.clone() if isinstance(a, torch.Tensor) else a for a in args)
    return [t for t in (run(*mine), *mine) if isinstance(t, torch.Tensor)]


def figure(case: str, name: str, seconds: float, ours: float, *, peer: bool) -> Figure:
    """A row: `seconds` of one alternative, and over `ours` on the same case."""
    return Figure(
        case=case, implementation=name, peer=peer, median_ms=round(seconds * 1e3, 4),
        ratio_to_ours=round(seconds / ours, 3),
    )  # fmt: skip


def interleaved(
    calls: Mapping[str, Call], *, rounds: int = 15, threads: int = 1, min_s: float = 0.01
) -> dict[str, float]:
    """Return the median seconds of each call, run in turn. A slow call is run fewer times."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    times = measure.interleaved(calls, rounds=rounds, device=device, threads=threads, min_s=min_s)
    return {name: timing.seconds for name, timing in times.items()}


def conditions(threads: int) -> Conditions:
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


def kept(name: str, rows: Sequence[Mapping[str, object]], *fields: str) -> list[Written]:
    """Rows of a committed result whose `fields` none of the new `rows` has: not measured again."""
    path = RESULTS / f"{name}.json"
    again = {tuple(row[f] for f in fields) for row in rows}
    old: list[Written] = json.loads(path.read_text())["rows"] if path.exists() else []
    return [row for row in old if tuple(row[f] for f in fields) not in again]


def save(name: str, result: Mapping[str, object]) -> None:
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")


def print_rows(title: str, rows: Sequence[Figure | Refusal]) -> None:
    print(f"\n{title}")
    for row in rows:
        if "median_ms" in row:
            speed = f"{row['GB_per_s']:8.2f} GB/s" if "GB_per_s" in row else ""
            print(
                f"  {row['case']:28} {row['implementation']:22}"
                f"{row['median_ms']:10.3f} ms {row['ratio_to_ours']:8.2f} x {speed}"
            )
        else:
            print(f"  {row['case']:28} {row['implementation']:22} - {row['refused']}")
