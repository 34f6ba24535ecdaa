"""What a credential that was read says, from the library's report, which may be a stranger's work.

Source: C2PA technical specification 2.4.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from accel.provenance.statement import RUN
from accel.provenance.tile import SCHEME

_MOST_STATEMENTS = 100  # of a history that are told of
UNLISTED = "signingCredential.untrusted"  # the signer is on no list of the reader's
# The last word of a code that says that something was found in order.
_IN_ORDER = {"match", "validated", "trusted", "insideValidity", "skipped", "notRevoked"}
# And of one that may tell of a change after signing.
_DIFFERS = {
    "mismatch",
    "missing",
    "inaccessible",
    "undeclared",
    "unreferenced",
    "multiple",
    "error",
}
_OF_CONTENT = re.compile(r"assertion\.\w+Hash\.match").fullmatch  # the media's own hash fits


@dataclass(frozen=True, kw_only=True)
class Credential:
    """What a file's credential says, and whether it can be believed to be unaltered.

    state: `trusted` (intact, its signer leads to a root that the reader trusts), `valid` (intact,
        signer unknown), `expired` (it fits, but the certificate has run out, and no time stamp
        tells that it was signed before), `irregular` (it fits, but was made against the rules of
        the specification), `broken` (what is signed and what is there differ) or `unreadable`.
    reasons: the codes of the C2PA specification that say what is wrong.
    signer, issuer, serial: of the certificate; the first two are names that anyone may choose.
    time: of a time stamp authority, "" when there is none. time_proven: the reader trusts it.
    source_types, actions: of the latest statement, shortened to their last words.
    run: our own assertion, empty for files of other tools.
    history: the latest statement first, then those of its inputs. Each tells in `holds` whether
        all that leads to it was in order when it was taken over, else in `faults` what was not.
    """

    state: str
    reasons: tuple[str, ...] = ()
    signer: str = ""
    issuer: str = ""
    serial: str = ""
    time: str = ""
    time_proven: bool = False
    generator: str = ""
    actions: tuple[str, ...] = ()
    source_types: tuple[str, ...] = ()
    mark: str | None = None
    run: Mapping[str, Any] = field(default_factory=dict)
    inputs: tuple[Mapping[str, Any], ...] = ()
    history: tuple[Mapping[str, Any], ...] = ()
    beside: bool = False  # in a .c2pa file beside the media

    @property
    def intact(self) -> bool:
        return self.state in ("trusted", "valid")

    @property
    def involves_ai(self) -> bool:
        """Whether some statement of the history that holds names AI, not the latest alone."""
        return any(_names_ai(one) for one in self.history if one["holds"])

    @property
    def doubtful(self) -> tuple[Mapping[str, Any], ...]:
        """Statements of the history that did not hold when they were taken over."""
        return tuple(one for one in self.history if not one["holds"])

    @property
    def is_silent_on_ai(self) -> bool:
        """Whether no statement at all names AI, be it one that holds or not."""
        return not any(map(_names_ai, self.history))

    @property
    def marks(self) -> tuple[str, ...]:
        """Ids of marks that statements of the history name, the latest first."""
        return tuple(one["mark"] for one in self.history if one["holds"] and one["mark"])


def credential_of(told: Mapping[str, Any], state: str, beside: bool) -> Credential:
    """Take a credential out of the library's report.

    Raises TypeError, AttributeError, LookupError or ValueError where a damaged store holds a list
    in place of a map, and the like. Assertions are free to hold anything: of those, what is not as
    it should be is passed over.
    """
    manifests = told["manifests"]
    active = manifests[told["active_manifest"]]
    results = told.get("validation_results") or {}
    latest = results.get("activeManifest") or {}
    failures = {str(one["code"]) for one in latest.get("failure") or []}
    successes = {str(one["code"]) for one in latest.get("success") or []}
    for delta in results.get("ingredientDeltas") or []:
        failures |= {str(one["code"]) for one in delta["validationDeltas"].get("failure") or []}
    signature = active.get("signature_info") or {}
    run = next((data for label, data in _assertions(active) if label == RUN), {})
    listed = run.get("inputs")
    steps = _steps(active)
    return Credential(
        state=_state(state, failures, successes),
        reasons=tuple(sorted(failures)),
        signer=str(signature.get("common_name", "")),
        issuer=str(signature.get("issuer", "")),
        serial=str(signature.get("cert_serial_number", "")),
        time=str(signature.get("time") or ""),
        time_proven="timeStamp.trusted" in successes,
        generator=_generator(active),
        actions=_actions(steps),
        source_types=_source_types(active),
        mark=_mark_of(active),
        run=run,
        inputs=tuple(listed if isinstance(listed, list) else active.get("ingredients") or ()),
        history=tuple(_history(manifests, told["active_manifest"])),
        beside=beside,
    )


def _names_ai(chapter: Mapping[str, Any]) -> bool:
    return any("rainedAlgorithmic" in kind for kind in chapter["sourceTypes"])


def _state(said: str, failures: set[str], successes: set[str]) -> str:
    if said == "Trusted":
        return "trusted"
    failures = failures - {UNLISTED}
    if said == "Valid" and not failures:
        return "valid"
    if failures == {"signingCredential.expired"}:
        return "expired"
    # Each part is as it was signed, so that what is wrong was so from the start.
    is_whole = "claimSignature.validated" in successes and any(map(_OF_CONTENT, successes))
    differs = any(_last_word(code, ".") in _DIFFERS for code in failures)
    return "irregular" if failures and is_whole and not differs else "broken"


def _assertions(manifest: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Labels and contents of those assertions that hold a map."""
    found = ((str(one["label"]), one.get("data")) for one in manifest.get("assertions") or [])
    return [(label, data) for label, data in found if isinstance(data, Mapping)]


def _steps(manifest: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    listed = (
        data.get("actions")
        for label, data in _assertions(manifest)
        if label.startswith("c2pa.actions")
    )
    return [
        step
        for steps in listed
        if isinstance(steps, list)
        for step in steps
        if isinstance(step, Mapping)
    ]


def _actions(steps: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    return tuple(_last_word(step.get("action", ""), ".") for step in steps)


def _source_types(manifest: Mapping[str, Any]) -> tuple[str, ...]:
    """Of the steps, and of metadata that was signed (`Iptc4xmpExt:DigitalSourceType`)."""
    told = [step.get("digitalSourceType") for step in _steps(manifest)]
    for _, data in _assertions(manifest):
        told += [data[key] for key in data if str(key).lower().endswith("digitalsourcetype")]
    return tuple(dict.fromkeys(_last_word(one, "/") for one in told if one))


def _generator(manifest: Mapping[str, Any]) -> str:
    info = (manifest.get("claim_generator_info") or [{}])[0]
    named = " ".join(str(info[key]) for key in ("name", "version") if info.get(key))
    return named or str(manifest.get("claim_generator") or "")


def _mark_of(manifest: Mapping[str, Any]) -> str | None:
    """Id of our mark; there may be other tools' bindings beside it."""
    for label, data in _assertions(manifest):
        if label == "c2pa.soft-binding" and data.get("alg") == SCHEME:
            for block in data.get("blocks") or ():
                if isinstance(block, Mapping) and block.get("value"):
                    return str(block["value"])
    return None


def _last_word(text: object, separator: str) -> str:
    return str(text).rstrip(separator).rsplit(separator, 1)[-1]


def _history(manifests: Mapping[str, Any], active: str) -> list[dict[str, Any]]:
    """The statements, the latest first, each once: a hostile store may run in circles."""
    sound = _reached(manifests, active, holding=True)
    return [
        _chapter(manifests[label], label, label in sound, found)
        for label, found in _reached(manifests, active, holding=False).items()
    ]


def _reached(
    manifests: Mapping[str, Any], active: str, *, holding: bool
) -> dict[str, tuple[str, ...]]:
    """Statements that lead to the latest one, with the faults of what leads there.

    holding: go by those inputs alone that were in order when they were taken over.
    """
    found: dict[str, tuple[str, ...]] = {}
    waiting: list[tuple[Any, tuple[str, ...]]] = [(active, ())]
    while waiting and len(found) < _MOST_STATEMENTS:
        label, faults = waiting.pop(0)
        if label in found or label not in manifests:
            continue
        found[label] = faults
        for one in manifests[label].get("ingredients") or []:
            wrong = _faults(one)
            if not (wrong and holding):
                waiting.append((one.get("active_manifest"), wrong or faults))
    return found


def _faults(ingredient: Mapping[str, Any]) -> tuple[str, ...]:
    """Codes of what was wrong with an input's own credential when it was taken over."""
    results = ingredient.get("validation_results") or {}
    told = list((results.get("activeManifest") or {}).get("failure") or [])
    for delta in results.get("ingredientDeltas") or []:
        told += delta["validationDeltas"].get("failure") or []
    told += ingredient.get("validation_status") or []  # of older statements: all codes in one list
    codes = {str(one["code"]) for one in told} - {UNLISTED}
    return tuple(sorted(code for code in codes if _last_word(code, ".") not in _IN_ORDER))


def _chapter(
    manifest: Mapping[str, Any], label: str, holds: bool, faults: tuple[str, ...]
) -> dict[str, Any]:
    """One statement of the history, for a person to read."""
    signature = manifest.get("signature_info") or {}
    return {
        "label": label,
        "generator": _generator(manifest),
        "signer": str(signature.get("common_name", "")),
        "issuer": str(signature.get("issuer", "")),
        "actions": list(_actions(_steps(manifest))),
        "sourceTypes": list(_source_types(manifest)),
        "mark": _mark_of(manifest),
        "holds": holds,
        "faults": [] if holds else list(faults),
        # What went in; `label` names its own chapter, when it has one.
        "inputs": [
            {
                "title": str(one.get("title") or ""),
                "relationship": str(one.get("relationship") or ""),
                "label": str(one.get("active_manifest") or ""),
            }
            for one in manifest.get("ingredients") or []
        ],
    }
