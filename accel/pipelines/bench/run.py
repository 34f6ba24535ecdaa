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
        "score": score(measured, where.type),
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


def score(rows: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    """The geometric mean of this machine's rates over those of the machine in reference.json.

    100 is that machine (two virtual cores of a server CPU), by group and over all groups.
    """
    known = {key(row): row["rate"] for row in read_report(REFERENCE)["rows"]}
    if kind != "cpu":  # a GPU is scored against the same work on the reference's CPU
        known = {(*k[:3], kind, k[4]): rate for k, rate in known.items()}
    ratios: dict[str, list[float]] = {}
    for row in rows:
        reference = known.get(key(row))
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
    names = {"group": str, "name": str, "case": str, "device": str, "threads": int}
    for row in rows if isinstance(rows, list) else [None]:
        fields: dict[str, Any] = row if isinstance(row, dict) else {}
        whole = all(isinstance(fields.get(n), t) for n, t in names.items())
        if not whole or not all(
            isinstance(fields.get(n), int | float) for n in ("rate", "seconds")
        ):
            raise InputError(f"{path}: a bench report's rows must be whole, got {str(row)[:60]}")
    return report
