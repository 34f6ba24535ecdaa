"""What can be said of a file's origin, offline: what is proven, what is indicated, what is unknown.

Five levels, never a verdict on truth. PROVEN: a signed statement, intact. INDICATED: an invisible
mark. DECLARED: words that anyone could have written. LEDGER: this machine's own list. UNKNOWN: the
rest. Finding nothing says nothing.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from accel.core import InputError
from accel.provenance import c2pa, xmp
from accel.provenance.credential import UNLISTED
from accel.provenance.detector import PRESENT, Detector, Found
from accel.provenance.ledger import Entry, Ledger, look
from accel.provenance.media import sha256_of
from accel.provenance.words import CLAIM, CONCLUSIONS, EXPLANATION, LEVELS, PLACES, TIMES, WORDS

PROVEN, BROKEN, INDICATED, NOTHING, UNREADABLE = range(5)  # exit statuses
AGREES = 6.0  # agreement with an id one suspects, from which it is no accident
ENOUGH = 25  # frames after which a readable mark ends the search
LOOKS = 16

Frames = Iterable[tuple[NDArray[Any], float]]  # lumas [H, W] in 8-bit codes, and their weights


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was found. level: as the module says. what: which sentence of `words.WORDS`.

    facts: what is put into the sentence; strings in it may come from strangers and are cleaned.
    """

    level: str
    what: str
    facts: Mapping[str, Any] = field(default_factory=dict)

    def text(self, language: str) -> str:
        claims = self.facts.get("consent", "-") != "-"
        claim = CLAIM[language].format_map(self.facts) if claims else ""
        when = TIMES[self.facts.get("stamp", "none")][language].format_map(self.facts)
        said = {**self.facts, "claim": claim, "when": when}
        if place := PLACES.get(self.facts.get("where", "")):
            said["where"] = place[language]
        return WORDS[self.what][language].format_map(said)


@dataclass(frozen=True, kw_only=True)
class Report:
    """All that was found in one file, the strongest first.

    status: 0 a signed statement is intact, 1 one is broken or irregular, has run out or contradicts
    what was found, 2 indications only, 3 nothing, 4 the file could not be read.
    """

    name: str
    status: int
    conclusion: str
    findings: tuple[Finding, ...]
    history: tuple[Mapping[str, Any], ...] = ()

    @property
    def shown_name(self) -> str:
        return clean(self.name)

    def text(self, language: str = "en", *, explain: bool = False) -> str:
        """For a person; language is `en` or `ko`."""
        rows = [(LEVELS[one.level][language], one.text(language)) for one in self.findings]
        rows.append((LEVELS["CONCLUSION"][language], CONCLUSIONS[self.conclusion][language]))
        width = max(_columns(level) for level, _ in rows) + 2
        lines = [self.shown_name]
        lines += [level + " " * (width - _columns(level)) + told for level, told in rows]
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
    windows: Iterable[Frames] | None = None,
    *,
    anchors: Iterable[str] = (),
    ledger: Ledger | None = None,
) -> Report:
    """Look at every layer of a file and say what was found. Nothing is fetched or written.

    windows: stretches of the film, each a row of luma planes [H, W] in 8-bit codes with their
        weights (`detector.weight_of`); taken one by one until a mark was read. A part of a film may
        come from elsewhere, so each stretch is looked at by itself, then all of them together.
        None looks for no invisible mark.
    anchors: PEM certificates of the roots to trust. ledger: None looks into no list.
    """
    try:
        credential = c2pa.read(path, anchors=anchors)
        said = xmp.declared(path)
        sha256 = sha256_of(path)
    except (InputError, OSError):
        return nothing_readable(path)
    findings = [] if credential is None else _of_credential(credential)
    seen, looks, undecoded = _watch(windows)
    entries, of_ledger = _of_ledger(ledger, sha256, _ident_of(seen, credential), looks)
    findings += _of_mark(seen, credential, [e.mark for e in entries if e.mark])
    findings += [_of_declaration(one) for one in said]
    findings += of_ledger
    if undecoded:
        findings.append(Finding(level="UNKNOWN", what="undecoded"))
    status, conclusion = _conclude(credential, seen, findings, undecoded)
    return Report(
        name=path.name, status=status, conclusion=conclusion, findings=tuple(findings),
        history=_cleaned(credential.history) if credential else (),
    )  # fmt: skip


def nothing_readable(path: Path) -> Report:
    """What is said of a file that could not be opened, and of a folder without one."""
    if os.path.isdir(path):
        why = "empty folder"
    else:
        why = "not to be read" if os.path.exists(path) else "no such file"
    found = (Finding(level="UNKNOWN", what=why),)
    return Report(name=path.name, status=UNREADABLE, conclusion="unreadable", findings=found)


def clean(text: object, most: int = 80) -> str:
    """Make a stranger's text fit for a terminal: no control characters, no endless lines."""
    printable = "".join(c if c.isprintable() else " " for c in str(text))
    short = re.sub(r"\s+", " ", printable).strip()
    return short if len(short) <= most else short[: most - 1] + "…"


def _columns(text: str) -> int:
    """How many columns of a terminal a text takes; a Korean letter takes two."""
    return sum(1 + (unicodedata.east_asian_width(c) in "WF") for c in text)


def _watch(windows: Iterable[Frames] | None) -> tuple[Found | None, tuple[str, ...], bool]:
    """Look for a mark; also return a few looks, and whether decoding failed."""
    if windows is None:
        return None, (), False
    detectors: list[Detector] = []
    looks: list[str] = []
    try:
        for window in windows:
            detectors.append(Detector())
            found = _watch_window(window, detectors[-1], looks)
            if found is not None:
                return found, tuple(looks), False
    except InputError:  # what was seen before counts
        pass
    detectors = [one for one in detectors if one.frames]
    if not detectors:
        return None, (), True
    return _thorough(detectors), tuple(looks[:LOOKS]), False


def _watch_window(frames: Frames, detector: Detector, looks: list[str]) -> Found | None:
    """Take one stretch of a film; return the mark as soon as it can be read."""
    for luma, weight in frames:
        if detector.frames % ENOUGH == 0:
            looks.append(look(luma))
        try:
            detector.add(luma, weight)
        except ValueError:  # the frame size changes
            break
        if detector.frames % ENOUGH == 0 and (found := detector.find(thorough=False)).ident:
            return found
    if detector.frames and (found := detector.find(thorough=False)).ident:
        return found
    return None


def _thorough(detectors: list[Detector]) -> Found:
    """Look in all stretches together, then in the best of them, also for cut and turned ones."""
    whole = Detector()
    for one in detectors:
        with suppress(ValueError):  # of another size
            whole.join(one)
    found = whole.find()
    if found.ident or len(detectors) == 1:
        return found
    best = max(detectors, key=lambda one: one.find(thorough=False).score).find()
    return max((found, best), key=lambda one: (one.ident is not None, one.score))


def _of_ledger(
    ledger: Ledger | None, sha256: str, ident: str | None, looks: tuple[str, ...]
) -> tuple[list[Entry], list[Finding]]:
    """The entries that count, and what is said of them; none count of a list that was altered."""
    if ledger is None:
        return [], []
    try:
        entries = (
            ledger.with_file(sha256)
            or (ledger.with_mark(ident) if ident else [])
            or ledger.looking_like(looks)
        )
        faults = ledger.faults() if entries else []
    except InputError:
        return [], [Finding(level="UNKNOWN", what="ledger unusable")]
    if faults:
        facts = {"number": entries[-1].number, "fault": clean(faults[0])}
        return [], [Finding(level="UNKNOWN", what="ledger broken", facts=facts)]
    return entries, [_of_entry(entry, sha256, ident) for entry in entries[-3:]]


def _of_credential(credential: c2pa.Credential) -> list[Finding]:
    wrong = [
        one for one in credential.reasons if one != UNLISTED
    ]  # an unknown signer breaks nothing
    facts = {
        "signer": clean(credential.signer) or "?",
        "serial": clean(credential.serial),
        "generator": clean(credential.generator) or "?",
        "actions": ", ".join(clean(one, 40) for one in credential.actions[:8]) or "-",
        "types": ", ".join(clean(one, 60) for one in credential.source_types[:8]) or "-",
        "inputs": len(credential.inputs),
        "consent": clean(_consent(credential), 40),
        "reasons": ", ".join(clean(one, 60) for one in wrong[:4]),
        "mark": clean(credential.mark or "-", 40),
        "time": clean(credential.time, 40),
        "stamp": "trusted" if credential.time_proven else "unlisted" if credential.time else "none",
    }
    level = "PROVEN" if credential.intact else "UNKNOWN"
    found = [Finding(level=level, what=f"credential {credential.state}", facts=facts)]
    if credential.intact and (doubtful := credential.doubtful):
        codes = dict.fromkeys(clean(code, 60) for one in doubtful for code in one["faults"])
        facts = {"count": len(doubtful), "reasons": ", ".join(list(codes)[:4])}
        found.append(Finding(level="UNKNOWN", what="history doubtful", facts=facts))
    return found


def _consent(credential: c2pa.Credential) -> str:
    told = credential.run.get("consent")
    return str(told.get("claim", "-")) if isinstance(told, Mapping) else "-"


def _ident_of(seen: Found | None, credential: c2pa.Credential | None) -> str | None:
    """What the ledger is asked for: the id that was read, else the one that was signed."""
    if seen is not None and seen.ident:
        return seen.ident
    return credential.mark if credential is not None and credential.intact else None


def _of_mark(
    found: Found | None, credential: c2pa.Credential | None, known: list[str]
) -> list[Finding]:
    if found is None:
        return []
    suspected = credential.mark if credential else None
    earlier = credential.marks if credential else ()
    facts: dict[str, Any] = {
        "score": round(found.score, 1), "ident": found.ident or "", "corrected": found.corrected,
        "turned": found.turned, "shown": round(found.shown, 3), "frames": found.frames,
        "widened": round(found.widened, 3), "stated": clean(suspected or "", 40), "usual": PRESENT,
    }  # fmt: skip
    if found.ident:
        same = found.ident in (suspected, *earlier)  # an input's may be what can be read
        what = "mark same" if same else "mark contradicts" if suspected else "mark read"
        return [Finding(level="INDICATED", what=what, facts=facts)]
    for ident in filter(_is_ident, dict.fromkeys([suspected, *earlier, *known])):
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


def _of_entry(entry: Entry, sha256: str, ident: str | None) -> Finding:
    facts = {"time": clean(entry.time), "number": entry.number, "task": clean(entry.task)}
    by_mark = ident is not None and entry.mark == ident
    what = "file" if entry.sha256 == sha256 else "mark" if by_mark else "like"
    return Finding(level="LEDGER", what=f"ledger {what}", facts=facts)


def _conclude(
    credential: c2pa.Credential | None,
    seen: Found | None,
    findings: list[Finding],
    undecoded: bool,
) -> tuple[int, str]:
    if credential is not None:
        if not credential.intact:
            known = credential.state in ("expired", "irregular")
            return BROKEN, credential.state if known else "broken"
        other = any(one.what == "mark contradicts" for one in findings)
        is_made_here = any(one.what == "ledger file" for one in findings)
        is_ours = is_made_here or (seen is not None and seen.present)
        if other or (is_ours and credential.is_silent_on_ai):
            return BROKEN, "contradictory"
        if credential.involves_ai:
            return PROVEN, "proven AI"
        return PROVEN, "proven in part" if credential.doubtful else "proven other"
    levels = {one.level for one in findings}
    if "INDICATED" in levels:
        return INDICATED, "indicated"
    if "LEDGER" in levels:
        same = any(one.what == "ledger file" for one in findings)
        return INDICATED, "listed" if same else "resembles"
    if "DECLARED" in levels:
        return INDICATED, "declared"
    return (UNREADABLE, "unreadable") if undecoded else (NOTHING, "unknown")


def _cleaned(told: Any) -> Any:
    """The same with every text made fit for a terminal."""
    if isinstance(told, Mapping):
        return {clean(key): _cleaned(value) for key, value in told.items()}
    if isinstance(told, list | tuple):
        return tuple(_cleaned(one) for one in told[:100])
    return told if isinstance(told, int | float | None) else clean(told)
