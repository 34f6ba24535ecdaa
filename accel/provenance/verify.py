"""What can be said of a file's origin, offline: what is proven, what is indicated, what is unknown.

Five levels, never a verdict on truth. PROVEN: a signed statement, intact. INDICATED: an invisible
mark. DECLARED: words that anyone could have written. LEDGER: this machine's own list. UNKNOWN: the
rest. Finding nothing says nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from accel.core import InputError
from accel.provenance import c2pa, xmp
from accel.provenance.ledger import Entry, Ledger, look
from accel.provenance.watermark import PRESENT, Detector, Found
from accel.provenance.words import CONCLUSIONS, EXPLANATION, LEVELS, WORDS

PROVEN, BROKEN, INDICATED, NOTHING, UNREADABLE = range(5)  # exit statuses
AGREES = 6.0  # agreement with an id one suspects, from which it is no accident
ENOUGH = 25  # frames after which a readable mark ends the search
MOST = 150  # frames that are looked at
LOOKS = 8

Frames = Iterable[tuple[NDArray[Any], float]]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was found. level: as the module says. what: which sentence of `words.WORDS`.

    facts: what is put into the sentence; strings in it may come from strangers and are cleaned.
    """

    level: str
    what: str
    facts: Mapping[str, Any] = field(default_factory=dict)

    def text(self, language: str) -> str:
        return WORDS[self.what][language].format_map(self.facts)


@dataclass(frozen=True, kw_only=True)
class Report:
    """All that was found in one file, the strongest first.

    status: 0 a signed statement is intact, 1 one is broken or contradicts what was found, 2
    indications only, 3 nothing, 4 the file could not be read.
    """

    name: str
    status: int
    conclusion: str
    findings: tuple[Finding, ...]
    history: tuple[Mapping[str, Any], ...] = ()

    def text(self, language: str = "en", *, explain: bool = False) -> str:
        """For a person; language is `en` or `ko`."""
        rows = [(LEVELS[one.level][language], one.text(language)) for one in self.findings]
        rows.append((LEVELS["CONCLUSION"][language], CONCLUSIONS[self.conclusion][language]))
        width = max(len(level) for level, _ in rows) + 2
        lines = [clean(self.name), *(level.ljust(width) + told for level, told in rows)]
        return "\n".join(lines + (EXPLANATION[language].split("\n") if explain else []))

    def json(self) -> dict[str, Any]:
        findings = [asdict(one) | {"text": one.text("en")} for one in self.findings]
        return {
            "file": self.name,
            "status": self.status,
            "conclusion": self.conclusion,
            "text": CONCLUSIONS[self.conclusion]["en"],
            "findings": findings,
            "history": [dict(chapter) for chapter in self.history],
        }


def examine(
    path: Path,
    frames: Frames | None = None,
    *,
    anchors: Iterable[str] = (),
    ledger: Ledger | None = None,
) -> Report:
    """Look at every layer of a file and say what was found. Nothing is fetched or written.

    frames: its luma planes [H, W] in 8-bit codes, each with its weight (`watermark.WEIGHTS`);
        read one by one until enough was seen. None looks for no invisible mark.
    anchors: PEM certificates of the roots to trust. ledger: None looks into no list.
    """
    try:
        credential = c2pa.read(path, anchors=anchors)
        said = xmp.declared(path)
        sha256 = c2pa.sha256_of(path)
    except (InputError, OSError):
        return Report(name=path.name, status=UNREADABLE, conclusion="unreadable", findings=())
    findings = [] if credential is None else [_of_credential(credential)]
    seen, looks, undecoded = _watch(frames)
    suspected = credential.mark if credential is not None else None
    entries = _entries(ledger, sha256, seen.ident if seen else suspected, looks)
    findings += _of_mark(seen, suspected, [e.mark for e in entries if e.mark])
    findings += [_of_declaration(one) for one in said]
    findings += [_of_entry(entry, sha256) for entry in entries[-3:]]
    if undecoded:
        findings.append(Finding(level="UNKNOWN", what="undecoded"))
    status, conclusion = _conclude(credential, seen, findings, undecoded)
    return Report(
        name=path.name, status=status, conclusion=conclusion, findings=tuple(findings),
        history=_cleaned(credential.history) if credential else (),
    )  # fmt: skip


def clean(text: object, most: int = 80) -> str:
    """Make a stranger's text fit for a terminal: no control characters, no endless lines."""
    printable = "".join(c if c.isprintable() else " " for c in str(text))
    short = re.sub(r"\s+", " ", printable).strip()
    return short if len(short) <= most else short[: most - 1] + "…"


def _watch(frames: Frames | None) -> tuple[Found | None, tuple[str, ...], bool]:
    """Look for a mark; also return a few looks, and whether decoding failed."""
    if frames is None:
        return None, (), False
    detector = Detector()
    looks: list[str] = []
    try:
        for index, (luma, weight) in enumerate(frames):
            if index % ENOUGH == 0 and len(looks) < LOOKS:
                looks.append(look(luma))
            detector.add(luma, weight)
            if detector.frames >= MOST:
                break
            if detector.frames % ENOUGH == 0 and detector.find(thorough=False).ident:
                break
    except InputError:
        if not detector.frames:
            return None, (), True
    except ValueError:  # the frame size changes: what was seen before it counts
        pass
    if not detector.frames:
        return None, (), True
    return detector.find(), tuple(looks), False


def _entries(
    ledger: Ledger | None, sha256: str, ident: str | None, looks: tuple[str, ...]
) -> list[Entry]:
    if ledger is None:
        return []
    return (
        ledger.with_file(sha256)
        or (ledger.with_mark(ident) if ident else [])
        or ledger.looking_like(looks)
    )


def _of_credential(credential: c2pa.Credential) -> Finding:
    facts = {
        "signer": clean(credential.signer) or "?",
        "serial": clean(credential.serial),
        "generator": clean(credential.generator) or "?",
        "actions": ", ".join(clean(one, 40) for one in credential.actions[:8]) or "-",
        "types": ", ".join(clean(one, 60) for one in credential.source_types[:8]) or "-",
        "inputs": len(credential.inputs),
        "consent": clean(_consent(credential), 40),
        "reasons": ", ".join(clean(one, 60) for one in credential.reasons[:4]),
        "mark": clean(credential.mark or "-", 40),
    }
    if not credential.intact:
        return Finding(level="UNKNOWN", what=f"credential {credential.state}", facts=facts)
    return Finding(level="PROVEN", what=f"credential {credential.state}", facts=facts)


def _consent(credential: c2pa.Credential) -> str:
    told = credential.run.get("consent") if isinstance(credential.run, Mapping) else None
    return str(told.get("claim", "-")) if isinstance(told, Mapping) else "-"


def _of_mark(found: Found | None, suspected: str | None, known: list[str]) -> list[Finding]:
    if found is None:
        return []
    facts: dict[str, Any] = {
        "score": round(found.score, 1), "ident": found.ident or "", "corrected": found.corrected,
        "turned": found.turned, "shown": round(found.shown, 3), "frames": found.frames,
        "stated": clean(suspected or "", 40), "usual": PRESENT,
    }  # fmt: skip
    if found.ident:
        other = suspected is not None and suspected != found.ident
        what = "mark contradicts" if other else "mark same" if suspected else "mark read"
        return [Finding(level="INDICATED", what=what, facts=facts)]
    for ident in filter(_is_ident, dict.fromkeys([suspected, *known])):
        agreement = found.agreement(str(ident))
        if agreement >= AGREES:
            facts |= {"ident": str(ident), "agreement": round(agreement, 1)}
            return [Finding(level="INDICATED", what="mark agrees", facts=facts)]
    if found.present:
        return [Finding(level="INDICATED", what="mark present", facts=facts)]
    return [Finding(level="UNKNOWN", what="mark missing", facts=facts)] if suspected else []


def _is_ident(ident: str | None) -> bool:
    return ident is not None and re.fullmatch(r"[0-9a-f]{12}", ident) is not None


def _of_declaration(one: xmp.Declared) -> Finding:
    what = "declared type" if one.source_type else "declared note"
    facts = {"type": clean(one.source_type), "where": one.where}
    return Finding(level="DECLARED", what=what, facts=facts)


def _of_entry(entry: Entry, sha256: str) -> Finding:
    facts = {"time": entry.time, "number": entry.number, "task": entry.task}
    same = entry.sha256 == sha256
    return Finding(level="LEDGER", what="ledger file" if same else "ledger like", facts=facts)


def _conclude(
    credential: c2pa.Credential | None,
    seen: Found | None,
    findings: list[Finding],
    undecoded: bool,
) -> tuple[int, str]:
    if credential is not None:
        if not credential.intact:
            return BROKEN, "broken"
        other = any(one.what == "mark contradicts" for one in findings)
        silent = not credential.involves_ai and seen is not None and seen.present
        if other or silent:
            return BROKEN, "contradictory"
        return PROVEN, "proven AI" if credential.involves_ai else "proven other"
    levels = {one.level for one in findings}
    if "INDICATED" in levels:
        return INDICATED, "indicated"
    if "LEDGER" in levels:
        return INDICATED, "listed"
    if "DECLARED" in levels:
        return INDICATED, "declared"
    return (UNREADABLE, "unreadable") if undecoded else (NOTHING, "unknown")


def _cleaned(history: Iterable[Mapping[str, Any]]) -> tuple[Mapping[str, Any], ...]:
    return tuple(
        {
            key: [clean(one) for one in value] if isinstance(value, list) else clean(value)
            for key, value in chapter.items()
        }
        for chapter in history
    )
