"""Two reports side by side, and a gate: what became slower than it may."""

from __future__ import annotations

from typing import Any

from accel.core import ConfigError
from accel.pipelines.bench.run import key

ALLOWED = 1.25  # noise of a shared machine


def compare(before: dict[str, Any], after: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows that both have: name, both rates, and their ratio (above 1 is faster now)."""
    old = {key(row): row for row in before["rows"]}
    pairs = [(old[key(row)], row) for row in after["rows"] if key(row) in old]
    if not pairs:
        raise ConfigError("bench: the two reports must share a measurement, but they share none")
    return [
        {
            "group": new["group"],
            "name": new["name"],
            "case": new["case"],
            "before": was["rate"],
            "after": new["rate"],
            "unit": new.get("unit", ""),
            "ratio": round(new["rate"] / was["rate"], 3) if was["rate"] else None,
        }
        for was, new in pairs
    ]


def slower(
    before: dict[str, Any], after: dict[str, Any], allowed: float = ALLOWED
) -> list[dict[str, Any]]:
    """Rows whose advantage over their peers shrank by more than `allowed`.

    Ratios within one run are compared, not times: another machine, or a busy one, must not fail it.
    """
    old = {key(row): row for row in before["rows"]}
    found = []
    for row in after["rows"]:
        was = old.get(key(row), {}).get("peers", {})
        for peer, ratio in row.get("peers", {}).items():
            if peer in was and ratio * allowed < was[peer]:
                found.append(
                    {"name": row["name"], "case": row["case"], "peer": peer,
                     "before": was[peer], "after": ratio}
                )  # fmt: skip
    return found
