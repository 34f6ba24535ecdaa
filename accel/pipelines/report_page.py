"""What `verify` found as one page of HTML: no script, nothing loaded, every text escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from accel.provenance.verify import BROKEN, Report
from accel.provenance.words import CONCLUSIONS, EXPLANATION, LEVELS, PAGE

MOST_CHAPTERS = 12  # that are drawn; a hostile history may have a hundred
_BOX_W, _BOX_H, _GAP_X, _GAP_Y = 250, 86, 60, 18

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem;
  color: #1c2430; background: #fff; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2.5rem; word-break: break-all; }
.conclusion { font-size: 1.1rem; font-weight: 600; border-left: .3rem solid #56657a;
  padding-left: .8rem; }
dl { display: grid; grid-template-columns: 9rem 1fr; gap: .5rem 1rem; }
dt { font-weight: 600; } dd { margin: 0; word-break: break-word; }
.PROVEN { color: #14532d; } .INDICATED { color: #7a4a00; } .DECLARED { color: #374d7c; }
.LEDGER { color: #4c3a78; } .UNKNOWN { color: #5b5b5b; }
.drawn { overflow-x: auto; direction: rtl; text-align: left; } .drawn > * { direction: ltr; }
.broken { opacity: .5; }
svg text { font: 13px system-ui, sans-serif; fill: #1c2430; }
svg .small { font-size: 11px; fill: #56657a; } pre { white-space: pre-wrap; font: inherit; }
@media (prefers-color-scheme: dark) { body { color: #e7ebf1; background: #14181f; }
  .PROVEN { color: #7ad69a; } .INDICATED { color: #f0b45c; } .DECLARED { color: #9db8f2; }
  .LEDGER { color: #c3aef5; } .UNKNOWN { color: #b0b0b0; } }
"""


def page(reports: Sequence[Report], language: str = "en") -> str:
    """A page about files; language is `en` or `ko`."""
    words = {key: said[language] for key, said in PAGE.items()}
    sections = "\n".join(_section(report, language, words) for report in reports)
    return f"""<!doctype html>
<html lang="{language}"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(words["title"])}</title><style>{_STYLE}</style></head>
<body><h1>{escape(words["title"])}</h1>
{sections}
<h2>{escape(words["ask"])}</h2><pre>{escape(EXPLANATION[language])}</pre>
</body></html>
"""


def _section(report: Report, language: str, words: Mapping[str, str]) -> str:
    rows = "\n".join(
        f'<dt class="{escape(one.level)}">{escape(LEVELS[one.level][language])}</dt>'
        f"<dd>{escape(one.text(language))}</dd>"
        for one in report.findings
    )
    drawn = draw_history(report.history, words) if report.history else ""
    holds = report.status != BROKEN or report.conclusion == "contradictory"
    heading = f"<h3>{escape(words['history' if holds else 'history broken'])}</h3>" if drawn else ""
    if drawn:
        drawn = f'<div class="{"drawn" if holds else "drawn broken"}">{drawn}</div>'
    return (
        f"<section><h2>{escape(report.shown_name)}</h2>\n"
        f'<p class="conclusion">{escape(CONCLUSIONS[report.conclusion][language])}</p>\n'
        f"<dl>{rows}</dl>\n{heading}{drawn}</section>"
    )


def draw_history(history: Sequence[Mapping[str, Any]], words: Mapping[str, str]) -> str:
    """The signed statements as boxes, the latest on the right, an arrow from each input."""
    boxes = _boxes(history[:MOST_CHAPTERS], words)
    depth = max(box["depth"] for box in boxes)
    heights: dict[int, int] = {}
    for box in boxes:
        row = heights.get(box["depth"], 0)
        heights[box["depth"]] = row + 1
        box["x"] = 10 + (depth - box["depth"]) * (_BOX_W + _GAP_X)
        box["y"] = 10 + row * (_BOX_H + _GAP_Y)
    width = 20 + (depth + 1) * _BOX_W + depth * _GAP_X
    height = 20 + max(heights.values()) * (_BOX_H + _GAP_Y) - _GAP_Y
    places = {box["label"]: box for box in boxes}
    arrows = "".join(_arrow(box, places[box["into"]]) for box in boxes if box["into"] in places)
    more = len(history) - MOST_CHAPTERS
    left_out = f"<p>{escape(words['more'].format(count=more))}</p>" if more > 0 else ""
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" role="img"'
        f' aria-label="{escape(words["history"], quote=True)}">'
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8"'
        ' markerHeight="8" orient="auto"><path d="M0 0L8 4L0 8z" fill="#56657a"/></marker></defs>'
        f"{arrows}{''.join(map(_drawn, boxes))}</svg>{left_out}"
    )


def _boxes(history: Sequence[Mapping[str, Any]], words: Mapping[str, str]) -> list[dict[str, Any]]:
    """One box for each statement and for each input that has none of its own."""
    chapters = {str(one["label"]): one for one in history}
    boxes: list[dict[str, Any]] = []
    waiting = [(str(history[0]["label"]), "", 0)]
    placed: set[str] = set()
    while waiting:
        label, into, depth = waiting.pop(0)
        if label in placed:
            continue
        placed.add(label)
        chapter = chapters[label]
        lines = [
            words["signer"].format(name=chapter["signer"] or "?"),
            ", ".join(map(str, chapter["actions"])) or "-",
            ", ".join(map(str, chapter["sourceTypes"])) or "-",
        ]
        if not chapter["holds"]:
            lines[-1] = words["doubtful"]
        boxes.append(
            {"label": label, "into": into, "depth": depth, "title": str(chapter["generator"]),
             "lines": lines, "signed": chapter["holds"]}
        )  # fmt: skip
        for number, one in enumerate(chapter.get("inputs") or ()):
            if one["label"] in chapters:
                waiting.append((one["label"], label, depth + 1))
            elif len(boxes) < 3 * MOST_CHAPTERS:
                boxes.append(
                    {"label": f"{label}/{number}", "into": label, "depth": depth + 1,
                     "title": one["title"] or words["input"],
                     "lines": [words.get(one["relationship"], one["relationship"]),
                               words["left out" if one["label"] else "unsigned"]],
                     "signed": False}
                )  # fmt: skip
    return boxes


def _drawn(box: Mapping[str, Any]) -> str:
    x, y = box["x"], box["y"]
    dash = "" if box["signed"] else ' stroke-dasharray="4 3"'
    fill = "#eef3fa" if box["signed"] else "#f6f6f6"
    lines = "".join(
        f'<text class="small" x="{x + 10}" y="{y + 40 + 16 * row}">{escape(_short(one, 38))}</text>'
        for row, one in enumerate(box["lines"])
    )
    return (
        f'<g><rect x="{x}" y="{y}" width="{_BOX_W}" height="{_BOX_H}" rx="6" fill="{fill}"'
        f' stroke="#56657a"{dash}/>'
        f'<text x="{x + 10}" y="{y + 22}">{escape(_short(box["title"], 30))}</text>{lines}</g>'
    )


def _arrow(start: Mapping[str, Any], end: Mapping[str, Any]) -> str:
    x0, y0 = start["x"] + _BOX_W, start["y"] + _BOX_H // 2
    x1, y1 = end["x"], end["y"] + _BOX_H // 2
    middle = (x0 + x1) // 2
    return (
        f'<path d="M{x0} {y0}C{middle} {y0} {middle} {y1} {x1} {y1}" fill="none"'
        ' stroke="#56657a" marker-end="url(#tip)"/>'
    )


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
