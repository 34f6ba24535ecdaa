"""What a credential that was read says, from the library's report, which may be a stranger's work.

Source: C2PA technical specification 2.4.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from accel.provenance.statement import RUN
from accel.provenance.tile import SCHEME


@dataclass(frozen=True, kw_only=True)
class Credential:
    """What a file's credential says, and whether it can be believed to be unaltered.

    state: `trusted` (intact, its signer leads to a root that the reader trusts), `valid` (intact,
        signer unknown), `expired` (it fits, but the certificate has run out, and no time stamp
        tells that it was signed before), `broken` (what is signed and what is there differ) or
        `unreadable`.
    reasons: the codes of the C2PA specification that say what is wrong.
    signer, issuer, serial: of the certificate; the first two are names that anyone may choose.
    source_types, actions: of the latest statement, shortened to their last words.
    run: our own assertion, empty for files of other tools.
    history: the latest statement first, then those of its inputs.
    """

    state: str
    reasons: tuple[str, ...] = ()
    signer: str = ""
    issuer: str = ""
    serial: str = ""
    time: str = ""  # of a time stamp authority; "" when there is none
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
        return any("rainedAlgorithmic" in kind for kind in self.source_types)


def credential_of(told: Mapping[str, Any], state: str, beside: bool) -> Credential:
    """Take a credential out of the library's report.

    Raises TypeError, AttributeError, LookupError or ValueError where a damaged store holds a list
    in place of a map, and the like.
    """
    manifests = told["manifests"]
    active = manifests[told["active_manifest"]]
    results = told.get("validation_results") or {}
    failures = [one["code"] for one in results.get("activeManifest", {}).get("failure", [])]
    for delta in results.get("ingredientDeltas") or []:
        failures += [one["code"] for one in delta["validationDeltas"].get("failure", [])]
    data = {one["label"]: one.get("data") for one in active.get("assertions") or []}
    steps = _steps(active)
    signature = active.get("signature_info") or {}
    run = data.get(RUN) or {}
    return Credential(
        state=_state(state, set(failures)),
        reasons=tuple(sorted({str(code) for code in failures})),
        signer=str(signature.get("common_name", "")),
        issuer=str(signature.get("issuer", "")),
        serial=str(signature.get("cert_serial_number", "")),
        time=str(signature.get("time") or ""),
        generator=_generator(active),
        actions=_actions(steps),
        source_types=_source_types(steps),
        mark=_mark_of(data),
        run=run,
        inputs=tuple(run.get("inputs") or active.get("ingredients") or ()),
        history=tuple(_chapter(manifests, label) for label in _chain(manifests, told)),
        beside=beside,
    )


def _state(said: str, failures: set[str]) -> str:
    if said == "Trusted":
        return "trusted"
    failures = failures - {"signingCredential.untrusted"}
    if said == "Valid" and not failures:
        return "valid"
    return "expired" if failures == {"signingCredential.expired"} else "broken"


def _steps(manifest: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [
        step
        for one in manifest.get("assertions") or []
        if str(one["label"]).startswith("c2pa.actions")
        for step in one["data"]["actions"]
    ]


def _actions(steps: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    return tuple(_last_word(step["action"], ".") for step in steps)


def _source_types(steps: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    told = (step.get("digitalSourceType") for step in steps)
    return tuple(_last_word(one, "/") for one in told if one)


def _generator(manifest: Mapping[str, Any]) -> str:
    info = (manifest.get("claim_generator_info") or [{}])[0]
    named = " ".join(str(info[key]) for key in ("name", "version") if info.get(key))
    return named or str(manifest.get("claim_generator") or "")


def _mark_of(data: Mapping[str, Any]) -> str | None:
    binding = data.get("c2pa.soft-binding")
    if not binding or binding["alg"] != SCHEME:
        return None
    return str(binding["blocks"][0]["value"])


def _last_word(text: object, separator: str) -> str:
    return str(text).rstrip(separator).rsplit(separator, 1)[-1]


def _chain(manifests: Mapping[str, Any], told: Mapping[str, Any]) -> list[str]:
    """Labels of the statements, the latest first, each once: a hostile store may run in circles."""
    labels: list[str] = []
    waiting = [told["active_manifest"]]
    while waiting and len(labels) < 100:
        label = waiting.pop(0)
        if label in labels or label not in manifests:
            continue
        labels.append(label)
        for ingredient in manifests[label].get("ingredients") or []:
            waiting.append(ingredient.get("active_manifest"))
    return labels


def _chapter(manifests: Mapping[str, Any], label: str) -> dict[str, Any]:
    """One statement of the history, for a person to read."""
    manifest = manifests[label]
    steps = _steps(manifest)
    signature = manifest.get("signature_info") or {}
    return {
        "label": label,
        "generator": _generator(manifest),
        "signer": str(signature.get("common_name", "")),
        "issuer": str(signature.get("issuer", "")),
        "actions": list(_actions(steps)),
        "sourceTypes": list(_source_types(steps)),
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
