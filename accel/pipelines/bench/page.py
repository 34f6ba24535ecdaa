"""A report as one page of HTML: the machine's score, its ceilings, and a bar for every figure."""

from __future__ import annotations

from html import escape
from typing import Any

STYLE = """
:root{color-scheme:light dark}
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:74rem;padding:0 1rem;color:#222}
h1{margin-bottom:.2rem}small,.dim{color:#666}
small.noisy{color:#c33}.wide{overflow-x:auto}td svg{display:block}
table{border-collapse:collapse;width:100%}
td,th{padding:.25rem .5rem;text-align:left;border-bottom:1px solid #e4e4e4;vertical-align:middle}
td.n{text-align:right;font-variant-numeric:tabular-nums}td.n,td.case{white-space:nowrap}
td.limit{min-width:10rem}
.score{display:flex;gap:1rem;flex-wrap:wrap}.score div{border:1px solid #ddd;border-radius:.6rem;
padding:.6rem 1.2rem;text-align:center}.score b{display:block;font-size:2rem}
@media(prefers-color-scheme:dark){body{background:#16181c;color:#ddd}td,th{border-color:#333}
small,.dim{color:#999}.score div{border-color:#444}}
"""
WIDTH = 80  # of a bar, in pixels
NOISY = 0.15  # a spread above it is pointed out
FACTS = {  # what conditions call it -> what the page does, and its unit
    "cores": ("cores", ""), "instructions": ("instructions", ""), "caches": ("caches", ""),
    "microcode": ("microcode", ""), "mhz": ("clock", " MHz"), "governor": ("governor", ""),
    "virtual": ("virtual", ""), "memory_mb": ("memory", " MB"), "power_w": ("power", " W"),
    "system": ("system", ""), "torch": ("torch", ""), "accel": ("accel", ""),
    "date": ("date", ""), "load": ("load", ""),
}  # fmt: skip


def page(report: dict[str, Any]) -> str:
    """Self-contained HTML; every string of the report is escaped."""
    made = report["conditions"]
    groups = list(dict.fromkeys(row["group"] for row in report["rows"]))
    facts = ", ".join(
        f"{label} {_fact(made[name])}{unit * (made[name] is not None)}"
        for name, (label, unit) in FACTS.items()
        if name in made
    )
    parts = [
        "<!doctype html><meta charset=utf-8><meta name=viewport content='width=device-width'>",
        f"<title>accel bench: {escape(str(made['device']))}</title><style>{STYLE}</style>",
        f"<h1>{escape(str(made['device']))}</h1><p class=dim>{escape(facts)}</p>",
        _scores(report["score"]),
        _ceilings(report["ceilings"]),
        *(_group(g, [r for r in report["rows"] if r["group"] == g]) for g in groups),
        _scaling(report.get("scaling") or []),
        "<p class=dim>Medians of calls that took turns, after one that warms up; &plusmn; is half"
        " the middle half, red where the machine was too busy to say. One thread (1T) means CPU"
        " time, more mean the clock on the wall. A share is of the ceiling measured in the same"
        " run; where"
        " it is above 100 %, what stands beside it says how. The bar of a peer is how long it"
        " takes for the same work; shorter is faster.</p>",
    ]
    return "\n".join(parts) + "\n"


def _scores(score: dict[str, Any]) -> str:
    if not score.get("all"):
        return ""
    cells = [("all", score["all"]), *score["groups"].items()]
    inside = "".join(f"<div><b>{value:.0f}</b>{escape(name)}</div>" for name, value in cells)
    return (
        f"<div class=score>{inside}</div>"
        "<p class=dim>100 is the reference machine: two virtual cores.</p>"
    )


def _ceilings(found: dict[str, Any]) -> str:
    lines = [
        ("multiply-adds, one thread", found.get("gflops_one"), "GFLOP/s"),
        (f"multiply-adds, {found.get('threads')} threads", found.get("gflops"), "GFLOP/s"),
        *(
            (f"multiply-adds, one thread, {name}", value, "GFLOP/s")
            for name, value in (found.get("by_instructions") or {}).items()
        ),
        ("tile registers, bfloat16, one thread", found.get("tiles_one"), "GFLOP/s"),
        (
            f"tile registers, bfloat16, {found.get('threads')} threads",
            found.get("tiles"),
            "GFLOP/s",
        ),
        ("memory copied, one thread", found.get("gbytes"), "GB/s"),
        (f"memory copied, {found.get('threads')} threads", found.get("gbytes_all"), "GB/s"),
        ("bare transcode, 1080p", found.get("transcode_fps"), "frames/s"),
    ]
    rows = "".join(
        f"<tr><td>{escape(name)}<td class=n>{value:.1f} {unit}"
        for name, value, unit in lines
        if value is not None
    )
    return f"<h2>Ceilings</h2><table>{rows}</table>"


def _group(name: str, rows: list[dict[str, Any]]) -> str:
    body = "".join(_row(row) for row in rows)
    head = "<tr><th>what<th>case<th>threads<th>time<th>rate<th>of the limit<th>against peers"
    return f"<h2>{escape(name)}</h2><div class=wide><table>{head}{body}</table></div>"


def _scaling(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return ""
    body = "".join(
        f"<tr><td>{escape(row['name'])}<td>{escape(row['case'])}"
        f"<td class=n>{row['threads']}<td class=n>{row['times']:.2f}&times;"
        for row in rows
    )
    head = "<tr><th>what<th>case<th>threads<th>as fast as one"
    return f"<h2>All threads against one</h2><table>{head}{body}</table>"


def _fact(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{k} {v}" for k, v in value.items())
    return "n/a" if value is None else str(value)


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"


def _row(row: dict[str, Any]) -> str:
    share, noisy = row.get("share"), " class=noisy" if row["spread"] > NOISY else ""
    spread = f"&plusmn;{row['spread']:.0%}" if row["spread"] else "once"
    why = f"; {row['note']}" if row.get("note") else ""
    limit = f"<small>{escape((row.get('limit') or '') + why)}</small>"
    by = ", ".join(filter(None, (row.get("implementation"), row.get("dtype"))))
    by = f"<br><small>{escape(by)}</small>" if row.get("implementation") else ""
    return (
        f"<tr><td>{escape(row['name'])}{by}<td class=case>{escape(row['case'])}"
        f"<td class=n>{row['threads']}T"
        f"<td class=n>{_number(row['seconds'] * 1e3)} ms"
        f" <small{noisy}>{spread}</small>"
        f"<td class=n>{_number(row['rate'])} {escape(row['unit'])}"
        f"<td class=limit>{f'{share:.0%}' if share is not None else ''} {limit if share else ''}"
        f"<td>{_bars(row.get('peers') or {})}"
    )


def _bars(peers: dict[str, float]) -> str:
    """Our time and the peers', as bars of one scale."""
    if not peers:
        return ""
    lengths = {"accel": 1.0, **peers}
    longest = max(lengths.values())
    bars = []
    for i, (name, length) in enumerate(lengths.items()):
        colour = "#2a7" if name == "accel" else "#aaa"
        bars.append(
            f"<rect y='{i * 16}' width='{length / longest * WIDTH:.1f}' height='12'"
            f" fill='{colour}'/>"
            f"<text x='{WIDTH + 6}' y='{i * 16 + 10}' font-size='11' fill='currentColor'>"
            f"{escape(name)} {length:.2f}&times;</text>"
        )
    return f"<svg width='{WIDTH + 116}' height='{16 * len(lengths)}'>{''.join(bars)}</svg>"
