"""What is wrong with how a command took an attack, from the battery's report of it."""

from __future__ import annotations

import re
from pathlib import Path

from tests.hostile.attacks import Attack

ROOT = Path(__file__).parent.parent.parent
BUSY_S = 5.0  # of processor time, all threads together
PEAK_MB = 1000


def faults(attack: Attack, report: dict) -> list[str]:
    """Every promise of docs/security.md that is broken, in words; none when all is well."""
    if "words" not in report:
        return [f"it did not end by itself: {report['status']}"]
    out, err, status = report["out"], report["err"], report["status"]
    printed = (out + err).replace("\n", "").replace("\t", "")
    places = [place for place in (str(ROOT), f"{Path.home()}/", "site-packages") if place in err]
    # A file that is read after all is worked on as any other, and so is a whole photograph.
    is_refused = status and not attack.name.startswith("photograph_")
    wrong = {
        f"status {status}": status not in attack.statuses,
        "a traceback": "Traceback" in out + err,
        f"does not say {attack.says!r}": attack.says not in err,
        "not one line": status == 2 and not out and not is_one_line(err),
        f"not printable: {printed[:200]!a}": not printed.isprintable(),
        f"names {places}": bool(places),
        f"{report['busy_s']:.1f} s of processor time": is_refused and report["busy_s"] >= BUSY_S,
        f"{report['peak_mb']:.0f} MB": report["peak_mb"] >= PEAK_MB,
        f"{report['sockets']}": bool(report["sockets"]),
        f"made or changed {unasked(report)}": bool(unasked(report)),
        "somebody else's file was changed": not report["kept"],
    }
    return [what for what, is_so in wrong.items() if is_so]


def is_one_line(err: str) -> bool:
    return err.startswith("accel: ") and err.count("\n") == 1


def unasked(report: dict) -> list[str]:
    """What a command made or changed that its words do not name.

    The workflow's own folders may hold what was done before a step stopped: it is resumed there.
    Nothing unfinished may stay even there.
    """
    words = report["words"]
    # Verifying has other statuses; a report that cannot be written comes after the film.
    done = report["status"] == 0 or words[0] == "verify" or "--json" in words
    named = {*words, *(f"{word}.c2pa" for word in words)} if done else set()
    found = [name for name in report["new"] + report["changed"] if name not in named]
    # Keys and ledger lie in an attack's own home, which a step may have made before it stopped.
    found = [name for name in found if not name.startswith("home/") or is_unfinished(name)]
    if words[0] == "dfl":
        return [name for name in found if not name.startswith("w/") or is_unfinished(name)]
    return found


def is_unfinished(name: str) -> bool:
    return re.search(r"\.partial|canary|\.tmp", name) is not None


def left_outside(folder: Path, names: set[str]) -> list[str]:
    """What lies about that no attack's own folder should hold, in `folder` and outside it."""
    expected = names | {f"{n}.{end}" for n in names for end in ("out", "err")} | {"home"}
    canaries = (folder.parent / "canary", Path("/tmp/canary"), Path("/canary"))
    found = [one.name for one in folder.iterdir() if one.name not in expected]
    return found + [str(one) for one in canaries if one.exists()]
