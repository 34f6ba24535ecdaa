"""verify: every combination of layers present, stripped, broken and foreign; words and statuses."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from string import Formatter

import numpy as np
import pytest
import torch
from PIL import Image

from accel.core import InputError
from accel.pipelines.verify import verify_files
from accel.provenance import verify, xmp
from accel.provenance.c2pa import Input, Statement, sign
from accel.provenance.keys import local_identity
from accel.provenance.ledger import Ledger, look
from accel.provenance.media import sha256_of
from accel.provenance.tile import KEY
from accel.provenance.verify import BROKEN, INDICATED, NOTHING, PROVEN, UNREADABLE, clean, examine
from accel.provenance.watermark import Mark
from accel.provenance.words import (
    CONCLUSIONS,
    EXPLANATION,
    LEVELS,
    PAGE,
    PLACES,
    TIMES,
    WORDS,
)
from accel.provenance.xmp import declare
from tests.provenance.film import gray, portrait

MARK = "c0ffee123456"


def picture(path: Path, mark: str | None = None) -> Path:
    rgb = torch.from_numpy(portrait().copy())
    if mark:
        Mark(mark).add_rgb(rgb)
    Image.fromarray(rgb.numpy()).save(path)
    return path


def frames(path: Path):
    yield gray(np.asarray(Image.open(path).convert("RGB"))), 1.0


def look_at(path: Path, identity=None, **more):
    return examine(path, [frames(path)], anchors=[identity.root] if identity else (), **more)


def levels(report) -> list[str]:
    return [one.level for one in report.findings]


@pytest.fixture
def whole(tmp_path, identity) -> Path:
    """A picture with every layer."""
    path = picture(tmp_path / "whole.png", MARK)
    declare(path, "generate")
    sign(path, Statement(task="generate", mark=MARK, consent="fiction"), identity, version="1")
    return path


def test_all_layers(whole, identity, tmp_path):
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.add(task="generate", sha256=sha256_of(whole), mark=MARK)
    report = look_at(whole, identity, ledger=ledger)
    assert report.status == PROVEN
    assert levels(report) == ["PROVEN", "INDICATED", "DECLARED", "LEDGER"]
    assert [one.what for one in report.findings][:2] == ["credential trusted", "mark same"]
    text = report.text("en")
    assert '"fiction" (a claim of the user)' in text
    assert "Made or altered with AI" in text
    assert report == look_at(whole, identity, ledger=ledger)


def test_an_unknown_signer_is_said(whole):
    report = look_at(whole)
    assert report.status == PROVEN
    assert report.findings[0].what == "credential valid"
    assert "on none of your lists" in report.text()


def test_saved_again_only_the_mark_is_left(whole, tmp_path):
    Image.open(whole).convert("RGB").save(tmp_path / "copy.jpg", quality=75)
    report = look_at(tmp_path / "copy.jpg")
    assert (report.status, levels(report)) == (INDICATED, ["INDICATED"])
    assert MARK in report.text("ko")


def test_the_ledger_links_a_stripped_copy(whole, tmp_path):
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.add(task="generate", sha256=sha256_of(whole), mark=MARK)
    Image.open(whole).convert("RGB").save(tmp_path / "copy.jpg", quality=75)
    report = look_at(tmp_path / "copy.jpg", ledger=ledger)
    assert [one.what for one in report.findings] == ["mark read", "ledger mark"]


def test_the_ledger_knows_an_unmarked_picture_by_its_look(tmp_path):
    path = picture(tmp_path / "a.png")
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.add(task="edit", sha256="0" * 64, looks=(look(gray(portrait())),))
    report = look_at(path, ledger=ledger)
    assert (report.status, report.conclusion) == (INDICATED, "resembles")


def test_words_alone(tmp_path):
    path = picture(tmp_path / "a.png")
    declare(path, "generate")
    report = look_at(path)
    assert (report.status, levels(report)) == (INDICATED, ["DECLARED"])


def test_nothing_found(tmp_path):
    report = look_at(picture(tmp_path / "a.png"))
    assert (report.status, report.conclusion, report.findings) == (NOTHING, "unknown", ())
    assert "no sign that AI was not used" in report.text()


def test_a_changed_picture_is_broken(whole, tmp_path, identity):
    data = whole.read_bytes()
    at = data.index(b"caBX") - 4
    chunk = data[at : at + int.from_bytes(data[at : at + 4], "big") + 12]
    other = picture(tmp_path / "b.png").read_bytes()
    (tmp_path / "b.png").write_bytes(other[:33] + chunk + other[33:])
    report = look_at(tmp_path / "b.png", identity)
    assert (report.status, report.conclusion) == (BROKEN, "broken")
    assert levels(report)[0] == "UNKNOWN"
    # That a signer is unknown is no reason why a credential does not fit.
    assert "(assertion.dataHash.mismatch)" in look_at(tmp_path / "b.png").text()


def test_a_mark_that_is_not_the_one_signed_contradicts(tmp_path, identity):
    path = picture(tmp_path / "a.png", "0badc0de0001")
    sign(path, Statement(task="generate", mark=MARK), identity)
    report = look_at(path, identity)
    assert (report.status, report.conclusion) == (BROKEN, "contradictory")


def test_the_mark_of_an_earlier_statement_contradicts_nothing(whole, tmp_path, identity):
    """A credential that named an id of its own was told to contradict the input's that was read."""
    path = Path(shutil.copy(whole, tmp_path / "again.png"))
    inputs = (Input(path=whole),)
    sign(path, Statement(task="edit", inputs=inputs, mark="0badc0de0001"), identity)
    report = look_at(path, identity)
    assert (report.status, report.conclusion) == (PROVEN, "proven AI")
    assert "mark same" in [one.what for one in report.findings]


def test_what_is_hidden_in_a_folder_is_passed_over(whole, tmp_path):
    """Files in hidden folders were looked at."""
    for name in ("a.png", ".b.png", ".c/d.png", "e/.f/g.png", "e/h.png"):
        path = tmp_path / ".at" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(whole, path)
    reports = verify_files([tmp_path / ".at"], ledger=Ledger(tmp_path / "none"))
    assert [one.name for one in reports] == ["a.png", "e/h.png"]


def test_a_stated_mark_that_is_absent_is_said(tmp_path, identity):
    path = picture(tmp_path / "a.png")
    sign(path, Statement(task="generate", mark=MARK), identity)
    report = look_at(path, identity)
    assert report.status == PROVEN
    assert report.findings[1].what == "mark missing"


def test_files_that_cannot_be_read(tmp_path):
    assert examine(tmp_path / "absent.png").status == UNREADABLE
    path = tmp_path / "notes.txt"
    path.write_text("hello")

    def fail():
        raise InputError("no picture")
        yield

    report = examine(path, [fail()])
    assert (report.status, report.conclusion) == (UNREADABLE, "unreadable")
    assert examine(tmp_path).status == UNREADABLE


def test_strangers_cannot_write_on_the_terminal():
    assert clean("a\x1b[31mred\nb\u202e") == "a [31mred b"
    assert len(clean("x" * 500)) == 80


def test_json_is_json(whole, identity):
    told = json.loads(json.dumps(look_at(whole, identity).json()))
    assert told["status"] == 0
    assert told["findings"][0]["facts"]["consent"] == "fiction"
    assert told["history"][0]["actions"] == ["created", "bound"]


def test_places_of_unsigned_words_are_named_in_the_readers_language():
    source = Path(xmp.__file__).read_text()
    for place in PLACES:
        assert f'where="{place}"' in source
        finding = verify.Finding(level="DECLARED", what="declared note", facts={"where": place})
        for language in ("en", "ko"):
            assert finding.text(language).startswith(PLACES[place][language])
    assert source.count('where="') == len(PLACES)


ALL = WORDS | TIMES | PLACES | CONCLUSIONS | LEVELS | PAGE | {"explanation": EXPLANATION}


@pytest.mark.parametrize("key", ALL)
def test_both_languages_say_the_same_facts_and_no_verdict(key):
    said = ALL[key]
    assert set(said) == {"en", "ko"}
    assert not re.search(r"\b(real|authentic|genuine|fake)", said["en"], re.IGNORECASE)
    assert not re.search(r"진짜|가짜|진본", said["ko"])
    used = [{name for _, name, *_ in Formatter().parse(text) if name} for text in said.values()]
    assert used[0] - {"turned"} == used[1] - {"turned"}


# --- every combination of layers --------------------------------------------------------------

CREDENTIALS = ("own", "foreign", "broken", "unreadable", "other tool's", "none")
MARKS = ("same", "other", "other key's", "none")


@pytest.fixture(scope="module")
def pictures() -> dict[str, np.ndarray]:  # [H, W, 3] uint8 RGB
    found = {}
    for which in MARKS:
        rgb = torch.from_numpy(portrait()[:300, :300].copy())
        if which != "none":
            key = b"another key" if which == "other key's" else KEY
            Mark("0badc0de0001" if which == "other" else MARK, key=key, strength=2.5).add_rgb(rgb)
        found[which] = rgb.numpy()
    return found


@pytest.fixture(scope="module")
def watched(pictures):
    """What the detector says of each picture; it is asked once."""
    return {which: verify._watch([[(gray(rgb), 1.0)]]) for which, rgb in pictures.items()}


def with_credential(path: Path, which: str, identity, foreign, rgb) -> None:
    if which == "none":
        return
    signer = foreign if which == "foreign" else identity
    if which == "other tool's":  # signed by someone we do not know, without a word on a mark
        sign(path, Statement(task="generate"), foreign)
        return
    sign(path, Statement(task="generate", mark=MARK), signer)
    data = bytearray(path.read_bytes())
    if which == "broken":  # a pixel was changed after signing
        at = data.index(b"IDAT") + 20
        data[at] ^= 1
    if which == "unreadable":
        at = data.index(b"jumb") + 8
        data[at : at + 400] = bytes(400)
    path.write_bytes(data)


def expected(credential: str, mark: str, declared: bool, listed: bool) -> int:
    if credential in ("broken", "unreadable"):
        return BROKEN
    if credential in ("own", "foreign"):
        return BROKEN if mark == "other" else PROVEN
    if credential == "other tool's":
        return PROVEN
    return INDICATED if mark in ("same", "other") or declared or listed else NOTHING


@pytest.mark.parametrize("mark", MARKS)
@pytest.mark.parametrize("credential", CREDENTIALS)
def test_every_combination(
    credential, mark, tmp_path, identity, foreign, pictures, watched, monkeypatch
):
    monkeypatch.setattr(verify, "_watch", lambda windows: watched[mark])
    for declares in (False, True):
        path = tmp_path / f"{declares}.png"
        Image.fromarray(pictures[mark]).save(path)
        if declares:
            declare(path, "generate")
        with_credential(path, credential, identity, foreign, pictures[mark])
        for is_listed in (False, True):
            ledger = Ledger(tmp_path / f"{declares}{is_listed}.sqlite")
            if is_listed:
                ledger.add(task="generate", sha256=sha256_of(path), mark=MARK)
            report = examine(path, [[]], anchors=[identity.root], ledger=ledger)
            told = (credential, mark, declares, is_listed, report.text())
            assert report.status == expected(credential, mark, declares, is_listed), told
            found = [one.what for one in report.findings]
            assert ("declared type" in found) == declares, told
            assert ("ledger file" in found) == is_listed, told
            named = {"own": "credential trusted", "foreign": "credential valid"}
            if credential in named:
                assert named[credential] in found
            if mark in ("same", "other"):
                assert any(what.startswith("mark ") for what in found), told
            else:
                assert not {"mark read", "mark same", "mark present"} & set(found), told
            assert set(levels(report)) <= set(LEVELS)


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    return local_identity(tmp_path_factory.mktemp("foreign"))
