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
    before: dict[str, Any], after: dict[str, Any], allowed: float = ALLOWED, *, whole: bool = False
) -> list[dict[str, Any]]:
    """Rows whose advantage over their peers shrank by more than `allowed`, or is gone.

    Ratios within one run are compared, not times: another machine, or a busy one, must not fail it.
    A lead is gone (`after` is None) where a row has no such peer any more, as when the kernel that
    led was not taken; with `whole`, where the row itself is missing, too. Raises ConfigError where
    the two share no lead at all: nothing would have been looked at.
    """
    new = {key(row): row for row in after["rows"]}
    found, looked_at = [], 0
    for row in before["rows"]:
        if key(row) not in new and not whole:
            continue
        now = new.get(key(row), {}).get("peers", {})
        for peer, was in row.get("peers", {}).items():
            looked_at += 1
            is_now = now.get(peer)
            if is_now is None or is_now * allowed < was:
                found.append(
                    {"name": row["name"], "case": row["case"], "peer": peer,
                     "before": was, "after": is_now}
                )  # fmt: skip
    if not looked_at:
        raise ConfigError("bench: the two reports must share a lead over a peer, but share none")
    return found


def told(lead: dict[str, Any]) -> str:
    """One of `slower`, as a line."""
    now = "gone" if lead["after"] is None else f"{lead['after']:.2f} x"
    return f"{lead['name']} {lead['case']}: was {lead['before']:.2f} x {lead['peer']}, is {now}"
