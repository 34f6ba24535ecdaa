"""Files of other tools: what their signed history says is read as it is, and carried along.

They are signed with c2pa-python directly, as a stranger's program would.
"""

from __future__ import annotations

import io
import json
import shutil
import wave
from dataclasses import replace
from pathlib import Path

import c2pa
import pytest
from PIL import Image

from accel.provenance.c2pa import (
    SOURCE_TYPES,
    CredentialError,
    Input,
    Statement,
    read,
    sidecar_of,
    sign,
)
from accel.provenance.credential import credential_of
from accel.provenance.keys import Identity, local_identity
from accel.provenance.statement import RUN
from accel.provenance.tile import SCHEME
from accel.provenance.verify import BROKEN, PROVEN, examine
from tests.provenance.film import encode, film, portrait

MARK = "c0ffee123456"


@pytest.fixture(scope="module")
def studio(tmp_path_factory) -> Identity:
    return local_identity(tmp_path_factory.mktemp("studio"))


def picture(path: Path, side: int = 64) -> Path:
    Image.fromarray(portrait()).resize((side, side)).save(path)
    return path


def created(kind: str) -> list[dict]:
    return [{"action": "c2pa.created", "digitalSourceType": SOURCE_TYPES + kind}]


def tool(path: Path, studio: Identity, kind: str, actions, *, parent: Path | None = None,
         assertions=(), thumbnail: bool = False, beside: Path | None = None) -> Path:  # fmt: skip
    """Sign a file in place as another tool does; `beside` takes the credential instead."""
    if parent:
        opened = {"action": "c2pa.opened", "parameters": {"ingredientIds": ["i"]}}
        actions = [opened, *actions]
    told = {
        "claim_generator_info": [{"name": "Darkroom", "version": "9"}],
        "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": actions}}, *assertions],
    }
    settings = {
        "verify": {"verify_after_sign": False},
        "builder": {"thumbnail": {"enabled": thumbnail}},
    }
    info = c2pa.C2paSignerInfo(b"es256", studio.certificates.encode(), studio.key, None)
    out = io.BytesIO()
    with (
        c2pa.Builder(json.dumps(told), context=c2pa.Context.from_dict(settings)) as builder,
        c2pa.Signer.from_info(info) as signer,
    ):
        if parent:
            one = {"title": "in", "relationship": "parentOf", "instance_id": "i", "label": "i"}
            builder.add_ingredient(one, "image/png", io.BytesIO(parent.read_bytes()))
        if beside:
            builder.set_no_embed()
        store = builder.sign(signer, kind, io.BytesIO(path.read_bytes()), out)
    if beside:
        beside.write_bytes(store)
    else:
        path.write_bytes(out.getvalue())
    return path


@pytest.fixture
def made(tmp_path, studio) -> Path:
    """A picture that another tool says an AI has made."""
    path = picture(tmp_path / "made.png")
    return tool(path, studio, "image/png", created("trainedAlgorithmicMedia"))


IRREGULAR = {
    "edited before it was opened": [{"action": "c2pa.edited"}],
    "opened from nothing": [{"action": "c2pa.opened"}],
    "created twice": created("digitalCapture") + created("trainedAlgorithmicMedia"),
    "placed from nothing": [*created("digitalCapture"), {"action": "c2pa.placed"}],
}


@pytest.mark.parametrize("actions", IRREGULAR.values(), ids=IRREGULAR.keys())
def test_what_was_malformed_when_signed_is_not_called_changed(tmp_path, studio, actions):
    """It said that one of them was changed after signing."""
    path = tool(picture(tmp_path / "a.png"), studio, "image/png", actions)
    report = examine(path, anchors=[studio.root])
    assert (report.status, report.conclusion) == (BROKEN, "irregular")
    assert [one.what for one in report.findings] == ["credential irregular"]
    assert "was changed after" not in report.text("en")
    assert "assertion.action." in report.text("ko")
    data = bytearray(path.read_bytes())
    data[data.index(b"IDAT") + 30] ^= 1
    path.write_bytes(data)
    changed = examine(path, anchors=[studio.root])
    assert (changed.status, changed.conclusion) == (BROKEN, "broken")
    assert "was changed after" in changed.text("en")


def test_another_key_than_the_certificates_is_said(tmp_path, studio):
    other = local_identity(tmp_path / "other")
    forged = replace(studio, key=other.key)
    path = tool(picture(tmp_path / "a.png"), forged, "image/png", created("digitalCapture"))
    report = examine(path, anchors=[studio.root])
    assert (report.status, report.conclusion) == (BROKEN, "broken")
    assert "another key than it names" in report.text("en")


def edited(tmp_path: Path, studio: Identity, parent: Path, **more) -> Path:
    cropped = [{"action": "c2pa.cropped"}]
    path = picture(tmp_path / "edited.png", 48)
    return tool(path, studio, "image/png", cropped, parent=parent, **more)


def test_ai_in_an_earlier_statement_is_not_forgotten(tmp_path, studio, made):
    """The latest tool names no AI; the one before it does."""
    report = examine(edited(tmp_path, studio, made), anchors=[studio.root])
    assert (report.status, report.conclusion) == (PROVEN, "proven AI")
    assert "names no AI" not in report.text()


def test_an_earlier_statement_that_did_not_hold_does_not_count(tmp_path, studio, made):
    data = bytearray(made.read_bytes())
    data[data.index(b"IDAT") + 30] ^= 1
    made.write_bytes(data)
    path = edited(tmp_path, studio, made)
    report = examine(path, anchors=[studio.root])
    assert (report.status, report.conclusion) == (PROVEN, "proven in part")
    doubtful = report.findings[1]
    assert (doubtful.level, doubtful.what) == ("UNKNOWN", "history doubtful")
    assert doubtful.facts == {"count": 1, "reasons": "assertion.dataHash.mismatch"}
    assert [one["holds"] for one in report.history] == [True, False]
    # What went in before it hangs on it.
    later = picture(tmp_path / "later.png", 40)
    tool(later, studio, "image/png", [{"action": "c2pa.cropped"}], parent=path)
    assert [one["holds"] for one in read(later).history] == [True, True, False]


def test_codes_of_older_statements_are_told_apart():
    """They come in one list, what was in order among them."""
    codes = ["claimSignature.validated", "assertion.dataHash.match", "signingCredential.untrusted"]
    for wrong in ([], ["assertion.dataHash.mismatch"]):
        status = [{"code": code} for code in codes + wrong]
        told = {
            "active_manifest": "b",
            "manifests": {
                "a": {"assertions": [{"label": "c2pa.actions", "data": {"actions": created("x")}}]},
                "b": {"ingredients": [{"active_manifest": "a", "validation_status": status}]},
            },
        }
        found = credential_of(told, "Valid", False)
        assert [one["holds"] for one in found.history] == [True, not wrong]
        assert found.history[1]["faults"] == wrong


def test_a_source_type_in_signed_metadata_counts(tmp_path, studio):
    data = {
        "@context": {"Iptc4xmpExt": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"},
        "Iptc4xmpExt:DigitalSourceType": f"{SOURCE_TYPES}trainedAlgorithmicMedia",
    }
    path = picture(tmp_path / "a.png")
    action = [{"action": "c2pa.created", "digitalSourceType": SOURCE_TYPES + "digitalCreation"}]
    metadata = {"label": "org.example.metadata", "data": data}
    tool(path, studio, "image/png", action, assertions=[metadata])
    assert read(path).source_types == ("digitalCreation", "trainedAlgorithmicMedia")


ODD = {
    "a run that is a list": (RUN, [1, 2]),
    "inputs that are a word": (RUN, {"inputs": "abc", "consent": "yes"}),
    "a claim that is a map": (RUN, {"inputs": {"a": 1}, "consent": {"claim": {"x": [1]}}}),
    "a binding without a name": ("c2pa.soft-binding", {"blocks": []}),
    "a binding without a block": ("c2pa.soft-binding", {"alg": SCHEME, "blocks": []}),
    "another tool's binding": ("c2pa.soft-binding", {"alg": "com.adobe.trustmark.P", "blocks": []}),
}


@pytest.mark.parametrize("which", ODD)
def test_an_assertion_of_an_odd_shape_is_no_damage(which, tmp_path, studio):
    label, data = ODD[which]
    path = picture(tmp_path / "a.png")
    odd = {"label": label, "data": data}
    tool(path, studio, "image/png", created("digitalCapture"), assertions=[odd])
    report = examine(path, anchors=[studio.root])
    assert (report.status, report.conclusion) == (PROVEN, "proven other")
    assert "digitalCapture" in report.text("ko")


def other_kind(folder: Path, suffix: str) -> Path:
    path = folder / f"a.{suffix}"
    if suffix == "avi":
        path.write_bytes(encode(film(3, 64, 96), container="avi"))
    elif suffix == "wav":
        with wave.open(str(path), "wb") as sound:
            sound.setparams((1, 2, 8000, 0, "NONE", ""))
            sound.writeframes(bytes(1000))
    else:
        picture(path)
    return path


@pytest.mark.parametrize(
    ("suffix", "kind"),
    [("tiff", "image/tiff"), ("gif", "image/gif"), ("avif", "image/avif"), ("avi", "video/avi"),
     ("wav", "audio/wav")],
)  # fmt: skip
def test_credentials_in_other_kinds_of_file_are_read(suffix, kind, tmp_path, studio):
    path = other_kind(tmp_path, suffix)
    tool(path, studio, kind, created("trainedAlgorithmicMedia"))
    assert read(path, anchors=[studio.root]).state == "trusted"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert read(path, anchors=[studio.root]).state == "broken"


def test_our_own_beside_another_kind_is_read(tmp_path, identity):
    path = other_kind(tmp_path, "tiff")
    sign(path, Statement(task="generate"), identity)
    assert read(path, anchors=[identity.root]).state == "trusted"
    assert sidecar_of(path).is_file()


# --- what is carried along ---------------------------------------------------------------------


def swap(out: Path, target: Path, source: Path, identity: Identity):
    inputs = (Input(path=target), Input(path=source, role="source"))
    return sign(out, Statement(task="face_swap", inputs=inputs, mark=MARK), identity)


def test_the_history_comes_along_without_its_pictures(tmp_path, studio, identity):
    """Thumbnails show faces; they are redacted, and each redaction is told of."""
    capture = created("digitalCapture")
    first = tool(picture(tmp_path / "t.png", 256), studio, "image/png", capture, thumbnail=True)
    target = edited(tmp_path, studio, first, thumbnail=True)
    source = tool(picture(tmp_path / "s.png", 200), studio, "image/png", capture, thumbnail=True)
    assert all(b"\xff\xd8\xff" in one.read_bytes() for one in (first, target, source))
    out = picture(tmp_path / "out.png", 80)
    made = swap(out, target, source, identity)
    assert made.state == "trusted"
    assert b"\xff\xd8\xff" not in out.read_bytes()
    assert made.actions.count("redacted") == 4  # three of the target's, one of the source's
    assert len(made.history) == 4
    assert all(one["holds"] for one in made.history)
    again = picture(tmp_path / "again.png", 72)  # there is nothing left to redact
    assert "redacted" not in swap(again, out, out, identity).actions


def test_the_history_of_a_film_with_its_credential_beside_it_comes_along(
    tmp_path, studio, identity
):
    target = tmp_path / "in.mkv"
    target.write_bytes(encode(film(3, 64, 96), container="matroska"))
    kind, side = "application/octet-stream", tmp_path / "in.c2pa"
    tool(target, studio, kind, created("digitalCapture"), beside=side)
    out = Path(shutil.copy(target, tmp_path / "out.mkv"))
    made = swap(out, target, picture(tmp_path / "s.png"), identity)
    assert [one["sourceTypes"] for one in made.history] == [
        ["compositeWithTrainedAlgorithmicMedia"],
        ["digitalCapture"],
    ]
    assert made.inputs[0]["credential"]["generator"] == "Darkroom 9"
    assert read(out, anchors=[identity.root]) == made


def test_a_history_that_cannot_be_carried_is_summed_up(
    tmp_path, studio, identity, made, monkeypatch
):
    add = c2pa.Builder.add_ingredient

    def refuse(self, ingredient, kind, stream):
        if kind == "image/png":
            raise c2pa.C2paError("such a history cannot be carried")
        add(self, ingredient, kind, stream)

    monkeypatch.setattr(c2pa.Builder, "add_ingredient", refuse)
    out = swap(picture(tmp_path / "out.png"), made, picture(tmp_path / "s.png"), identity)
    assert out.inputs[0]["history"] == "summed up"
    assert out.inputs[0]["credential"]["sourceTypes"] == ["trainedAlgorithmicMedia"]
    monkeypatch.setattr(
        c2pa.Builder, "add_ingredient", lambda *args: refuse(*args[:2], "image/png", 0)
    )
    with pytest.raises(CredentialError, match="cannot be carried"):
        swap(picture(tmp_path / "b.png"), picture(tmp_path / "t.png"), made, identity)


# --- time stamps -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "said"),
    [("timeStamp.trusted", "as an authority that you trust"), ("timeStamp.untrusted", "on none of"),
     ("", "No time is proven. ")],
)  # fmt: skip
def test_a_time_is_proven_by_an_authority_that_the_reader_trusts(
    code, said, tmp_path, identity, monkeypatch
):
    """As the library reports stamps that were made with an authority of one's own."""
    path = picture(tmp_path / "a.png")
    sign(path, Statement(task="generate"), identity)
    take = credential_of

    def stamped(told, state, beside):
        if code:
            told["manifests"][told["active_manifest"]]["signature_info"]["time"] = "2026-11-01"
            told["validation_results"]["activeManifest"]["success"].append({"code": code})
        return take(told, state, beside)

    monkeypatch.setattr("accel.provenance.c2pa_read.credential_of", stamped)
    text = examine(path, anchors=[identity.root]).text().replace("\n", " ")
    assert said in text
    assert ("2026-11-01" in text) == bool(code)


def test_a_history_of_very_many_pictures_is_summed_up(tmp_path, studio, identity, monkeypatch):
    monkeypatch.setattr("accel.provenance.c2pa._MOST_PICTURES", 0)
    target = picture(tmp_path / "t.png", 200)
    tool(target, studio, "image/png", created("digitalCapture"), thumbnail=True)
    out = picture(tmp_path / "out.png")
    made = swap(out, target, picture(tmp_path / "s.png"), identity)
    assert made.inputs[0]["history"] == "summed up"
    assert len(made.history) == 1
    assert b"\xff\xd8\xff" not in out.read_bytes()
