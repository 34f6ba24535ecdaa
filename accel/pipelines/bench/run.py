"""One run of the suite: ceilings first, then the groups asked for, then the report."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from accel.core import (
    Cancel,
    ConfigError,
    InputError,
    Progress,
    ProgressCallback,
    choose_device,
    read_json,
)
from accel.pipelines.bench.jobs import bench_generate, bench_networks, bench_swap
from accel.pipelines.bench.kernels import bench_kernels
from accel.pipelines.bench.machine import conditions, measure_ceilings
from accel.pipelines.bench.measure import Row

SCHEMA = "accel-bench/1"  # schema.json beside this file says what a report holds
GROUPS = ("kernels", "networks", "swap", "generate")
REFERENCE = Path(__file__).parent / "reference.json"
MAX_REPORT_BYTES = 16 << 20
MOST = 1e30  # above any figure of a machine


def run_bench(
    groups: tuple[str, ...] = GROUPS,
    *,
    device: str = "auto",
    quick: bool = False,
    progress: ProgressCallback | None = None,
    cancel: Cancel | None = None,
    found: Callable[[Row], None] | None = None,
) -> dict[str, Any]:
    """Measure; return the report that `--json` writes.

    groups: of GROUPS. quick: fewer and smaller cases, about a minute.
    found: called with each row as soon as it is known.
    Raises ConfigError for an unknown group, for a device that is not there, and where a figure for
    a GPU would not come from it.
    """
    unknown = sorted(set(groups) - set(GROUPS))
    if unknown:
        raise ConfigError(f"bench: groups must be of {', '.join(GROUPS)}, got {', '.join(unknown)}")
    where, started = choose_device(device), time.perf_counter()
    ceilings = measure_ceilings(where, codec="swap" in groups)
    makers: dict[str, Callable[[], Iterator[Row]]] = {
        "kernels": lambda: bench_kernels(where, ceilings, quick=quick),
        "networks": lambda: bench_networks(where, quick=quick),
        "swap": lambda: bench_swap(where, ceilings, quick=quick),
        "generate": lambda: bench_generate(where, quick=quick),
    }
    rows: list[Row] = []
    for group in GROUPS:
        for row in makers[group]() if group in groups else ():
            if cancel:
                cancel.check()
            rows.append(row)
            if found:
                found(row)
            if progress:
                progress(Progress(stage=f"{group}: {row.name}", done=len(rows)))
    measured = [row.json() for row in rows]
    return {
        "schema": SCHEMA,
        "conditions": conditions(where),
        "quick": quick,
        "ceilings": ceilings.json(),
        "rows": measured,
        "scaling": scaling(measured),
        "score": score(measured),
        "seconds": round(time.perf_counter() - started, 1),
    }


def scaling(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """How many times as fast all threads are as one, of what was measured with both.

    One thread is timed by its CPU time, all by the clock on the wall: on a busy machine these are
    too small.
    """
    one = {key(row)[:4]: row for row in rows if row["threads"] == 1}
    return [
        {
            "group": row["group"], "name": row["name"], "case": row["case"],
            "threads": row["threads"],
            "times": round(one[key(row)[:4]]["seconds"] / row["seconds"], 3),
        }
        for row in rows
        if row["threads"] > 1 and key(row)[:4] in one
    ]  # fmt: skip


def key(row: dict[str, Any]) -> tuple[str, str, str, str, int]:
    """What makes two rows of two reports the same measurement."""
    return row["group"], row["name"], row["case"], row["device"], row["threads"]


def _counterpart(rates: dict[int, float], threads: int) -> float | None:
    """The reference's rate with as many threads: one, or all that a machine has.

    Whole jobs take all threads there are, be that one.
    """
    most = max(rates, default=0)
    if threads > 1 or 1 not in rates:
        return rates[most] if most > 1 else None
    return rates[1]


def score(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The geometric mean of this machine's rates over those of the machine in reference.json.

    100 is that machine (two virtual cores of a server CPU), by group and over all groups. All
    threads are set against all of the reference's; a GPU against the same work on its CPU.
    """
    known: dict[tuple[str, str, str], dict[int, float]] = {}
    for row in read_report(REFERENCE)["rows"]:
        known.setdefault(key(row)[:3], {})[row["threads"]] = row["rate"]
    ratios: dict[str, list[float]] = {}
    for row in rows:
        reference = _counterpart(known.get(key(row)[:3], {}), row["threads"])
        if reference and row["rate"]:
            ratios.setdefault(row["group"], []).append(math.log(row["rate"] / reference))
    groups = {g: round(100 * math.exp(sum(r) / len(r)), 1) for g, r in ratios.items()}
    whole = (
        100 * math.exp(sum(math.log(s / 100) for s in groups.values()) / len(groups))
        if groups
        else None
    )
    return {"all": round(whole, 1) if whole else None, "groups": groups}


def read_report(path: Path) -> dict[str, Any]:
    """Read a report; InputError when it is none."""
    report = read_json(path, "a bench report in JSON", MAX_REPORT_BYTES)
    if isinstance(report, dict) and report.get("kind") == "predicted":
        raise InputError(f"{path}: must be measured, holds predictions")
    if not isinstance(report, dict) or report.get("schema") != SCHEMA:
        raise InputError(f"{path}: a bench report must have the schema {SCHEMA}")
    rows = report.get("rows")
    for row in rows if isinstance(rows, list) else [None]:
        if not _is_whole(row):
            raise InputError(f"{path}: a bench report's rows must be whole, got {ascii(row)[:60]}")
    return report


def _is_whole(row: Any) -> bool:
    """Whether a stranger's row has what comparisons read, and prints as one line."""
    if not isinstance(row, dict):
        return False
    row.setdefault("unit", "")
    row.setdefault("peers", {})
    names = [row.get(name) for name in ("group", "name", "case", "device", "unit")]
    peers = row["peers"] if isinstance(row["peers"], dict) else {"": None}
    threads = row.get("threads")
    return (
        all(isinstance(name, str) and name.isprintable() for name in [*names, *peers])
        and isinstance(threads, int)
        and not isinstance(threads, bool)
        and all(_is_above_zero(v) for v in (row.get("rate"), row.get("seconds"), *peers.values()))
    )


def _is_above_zero(value: Any) -> bool:
    """A whole number may have more digits than a float holds."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and 0 < value < MOST


def describe(report: dict[str, Any]) -> str:
    """The machine of a report, which may be a stranger's, on one line."""
    told = report.get("conditions")
    said = told if isinstance(told, dict) else {}
    whole = report.get("score")
    points = whole.get("all") if isinstance(whole, dict) else None
    words = [str(said.get("device") or "a machine that is not named")]
    words += [f"{name} {said[name]}" for name in ("cores", "instructions", "accel", "date")
              if isinstance(said.get(name), str | int)]  # fmt: skip
    words += ["quick"] if report.get("quick") is True else []
    words += [f"score {points:.0f}"] if _is_above_zero(points) else []
    return "".join(c if c.isprintable() else "?" for c in ", ".join(words))[:200]
