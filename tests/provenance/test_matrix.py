"""verify on the whole matrix: each state of each layer, in each kind of file."""

from __future__ import annotations

import io
import json
import shutil
import sqlite3
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import c2pa
import numpy as np
import pytest
import torch
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from PIL import Image

from accel.cli import main
from accel.pipelines.verify import windows
from accel.provenance import keys, verify
from accel.provenance.c2pa import Statement, sidecar_of, sign
from accel.provenance.keys import Identity, local_identity
from accel.provenance.ledger import Ledger
from accel.provenance.media import media_type, sha256_of
from accel.provenance.tile import KEY
from accel.provenance.verify import BROKEN, INDICATED, NOTHING, PROVEN, examine
from accel.provenance.watermark import Mark
from accel.provenance.words import CONCLUSIONS
from accel.provenance.xmp import declare
from tests.provenance.film import encode, film, portrait

MARK, OTHER = "c0ffee123456", "0badc0de0001"
KINDS = ("png", "jpg", "webp", "mp4", "mkv")
# own: a root that is trusted; unknown: a root that is not; tampered: the media changed since;
# foreign: another tool says a camera made it; beside: another tool's, in a file beside the media.
CREDENTIALS = ("own", "unknown", "tampered", "none", "foreign", "expired", "beside")
MARKS = ("same", "none", "other key's", "other file's")
LEDGERS = ("entry", "none", "broken")
SHORT_S = 6.0  # how long the certificate lives that will have run out


@pytest.fixture(scope="module")
def unknown(tmp_path_factory) -> Identity:
    return local_identity(tmp_path_factory.mktemp("unknown"))


def media(path: Path, which: str) -> None:
    """Write a picture or a short film that carries one kind of mark."""
    idents = {"same": MARK, "other key's": MARK, "other file's": OTHER}
    mark = None
    if which in idents:
        key = b"another key" if which == "other key's" else KEY
        mark = Mark(idents[which], strength=2.5, key=key)
    if path.suffix in (".mp4", ".mkv"):
        frames = film(4)
        for planes in frames:
            if mark:
                mark.add(planes)
        path.write_bytes(encode(frames, container="mp4" if path.suffix == ".mp4" else "matroska"))
        return
    rgb = torch.from_numpy(portrait()[:360, :360].copy())
    if mark:
        mark.add_rgb(rgb)
    Image.fromarray(rgb.numpy()).save(path, quality=90)


def short_lived() -> tuple[Identity, float]:
    """An identity, and the time from which its certificate is no longer valid."""
    root_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    name = keys._subject("a root")
    root = keys._issue(name, root_key.public_key(), name, root_key, days=1, is_root=True)
    subject = keys._subject("a leaf that runs out")
    leaf = keys._issue(subject, key.public_key(), name, root_key, days=SHORT_S / 86400)  # type: ignore[arg-type]
    pems = [one.public_bytes(serialization.Encoding.PEM).decode() for one in (leaf, root)]
    ends = x509.load_pem_x509_certificates(pems[0].encode())[0].not_valid_after_utc.timestamp()
    made = Identity(certificates="".join(pems), root=pems[1], algorithm="es256", key=keys._pem(key))
    return made, ends


def sign_as_another_tool(path: Path, identity: Identity, *, beside: bool) -> None:
    kind, may_hold = media_type(path)
    told = {
        "claim_generator_info": [{"name": "Darkroom", "version": "9"}],
        "title": path.name,
        "assertions": [
            {
                "label": "c2pa.actions.v2",
                "data": {
                    "actions": [
                        {
                            "action": "c2pa.created",
                            "digitalSourceType": "http://cv.iptc.org/newscodes/digitalsourcetype/"
                            "digitalCapture",
                        }
                    ]
                },
            },
            {"label": "com.example.shot", "data": {"iso": 200}},
        ],
    }
    info = c2pa.C2paSignerInfo(b"es256", identity.certificates.encode(), identity.key, None)
    settings = {
        "verify": {"verify_after_sign": False},
        "builder": {"thumbnail": {"enabled": False}},
    }
    out = io.BytesIO()
    with (
        c2pa.Builder(json.dumps(told), context=c2pa.Context.from_dict(settings)) as builder,
        c2pa.Signer.from_info(info) as signer,
    ):
        if beside or not may_hold:
            builder.set_no_embed()
        store = builder.sign(signer, kind, io.BytesIO(path.read_bytes()), out)
    if beside:
        path.with_suffix(".c2pa").write_bytes(store)
    elif may_hold:
        path.write_bytes(out.getvalue())
    else:
        sidecar_of(path).write_bytes(store)


def change_media(path: Path) -> None:
    """Change one byte of what is shown, none of the credential."""
    data = bytearray(path.read_bytes())
    marks = {"png": b"IDAT", "webp": b"VP8", "mp4": b"mdat"}
    kind = path.suffix[1:]
    at = data.index(marks[kind]) + 200 if kind in marks else len(data) - 100
    data[at] ^= 1
    path.write_bytes(data)


def give_credential(path: Path, which: str, identity: Identity, unknown: Identity) -> float:
    """Sign a file in one of the ways; return the time from which it is in that state."""
    if which in ("foreign", "beside"):
        sign_as_another_tool(path, unknown, beside=which == "beside")
    elif which == "expired":
        short, ends = short_lived()
        sign(path, Statement(task="generate", mark=MARK), short)
        return ends
    elif which != "none":
        signer = unknown if which == "unknown" else identity
        sign(path, Statement(task="generate", mark=MARK), signer)
    if which == "tampered":
        change_media(path)
    return 0.0


@pytest.fixture(
    scope="module",
    params=[KINDS[0], *(pytest.param(one, marks=pytest.mark.slow) for one in KINDS[1:])],
)
def files(request, tmp_path_factory, identity, unknown) -> Iterator[dict[tuple, Path]]:
    """One file for each mark, declaration and credential."""
    folder, made, ready = tmp_path_factory.mktemp(request.param), {}, 0.0
    for which in MARKS:
        plain = folder / f"{MARKS.index(which)}.{request.param}"
        media(plain, which)
        for declares, credential in product((False, True), CREDENTIALS):
            place = folder / f"{MARKS.index(which)}-{declares}-{credential}"
            place.mkdir()
            path = Path(shutil.copy(plain, place / f"file.{request.param}"))
            # XMP has no place in a Matroska film.
            is_declared = declares and declare(path, "generate")
            ready = max(ready, give_credential(path, credential, identity, unknown))
            made[which, declares, credential] = (path, is_declared)
    time.sleep(max(0.0, ready - time.time() + 1))
    yield made
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def watched(files) -> dict[str, tuple]:
    """What the detector sees in each picture; it is asked once, as signing changes no pixel."""
    seen = {}
    for which in MARKS:
        path, _ = files[which, False, "none"]
        seen[which] = verify._watch(windows(path))
    return seen


def ledger_of(path: Path, which: str, folder: Path) -> Ledger:
    ledger = Ledger(folder / f"{which}.sqlite")
    ledger.path.unlink(missing_ok=True)
    if which == "none":
        return ledger
    ledger.add(task="generate", sha256=sha256_of(path), mark=MARK, consent="own")
    if which == "broken":
        ledger.add(task="generate", sha256="0" * 64)
        with sqlite3.connect(ledger.path) as base:
            base.execute("UPDATE entries SET consent = 'licensed' WHERE number = 1")
    return ledger


SAID = {  # the finding and the level of each credential
    "own": ("PROVEN", "credential trusted"),
    "unknown": ("PROVEN", "credential valid"),
    "foreign": ("PROVEN", "credential valid"),
    "beside": ("PROVEN", "credential valid"),
    "tampered": ("UNKNOWN", "credential broken"),
    "expired": ("UNKNOWN", "credential expired"),
}


def expected(credential: str, mark: str, declares: bool, ledger: str) -> tuple[int, str]:
    """Exit status and conclusion."""
    is_marked = mark in ("same", "other file's")
    if credential in ("tampered", "expired"):
        return BROKEN, "expired" if credential == "expired" else "broken"
    if credential in ("own", "unknown"):  # they name the mark
        return (BROKEN, "contradictory") if mark == "other file's" else (PROVEN, "proven AI")
    if credential in ("foreign", "beside"):  # they say that a camera made it
        contradicted = is_marked or ledger == "entry"
        return (BROKEN, "contradictory") if contradicted else (PROVEN, "proven other")
    if is_marked:
        return INDICATED, "indicated"
    if ledger == "entry":
        return INDICATED, "listed"
    return (INDICATED, "declared") if declares else (NOTHING, "unknown")


def expected_mark(credential: str, mark: str) -> str | None:
    """What is said of the invisible mark."""
    names_it = credential in ("own", "unknown", "tampered", "expired")
    if mark in ("none", "other key's"):
        return "mark missing" if names_it else None
    if not names_it:
        return "mark read"
    return "mark same" if mark == "same" else "mark contradicts"


@pytest.mark.parametrize("mark", MARKS)
@pytest.mark.parametrize("credential", CREDENTIALS)
def test_verdict(credential, mark, files, watched, identity, tmp_path, monkeypatch):
    monkeypatch.setattr(verify, "_watch", lambda stretches: watched[mark])
    for wishes, listed in product((False, True), LEDGERS):
        path, declares = files[mark, wishes, credential]
        report = examine(
            path, [], anchors=[identity.root], ledger=ledger_of(path, listed, tmp_path)
        )
        told = (path.suffix, credential, mark, declares, listed, report.text())
        assert (report.status, report.conclusion) == expected(credential, mark, declares, listed), (
            told
        )
        said = {one.what: one.level for one in report.findings}
        if credential == "none":
            assert not any(what.startswith("credential") for what in said), told
        else:
            level, what = SAID[credential]
            assert said.get(what) == level, told
        of_mark = [what for what in said if what.startswith("mark")]
        assert of_mark == list(filter(None, [expected_mark(credential, mark)])), told
        assert ("declared type" in said) == declares, told
        of_ledger = {"entry": ["ledger file"], "broken": ["ledger broken"], "none": []}[listed]
        assert [what for what in said if what.startswith("ledger")] == of_ledger, told
        check_words(report)


def check_words(report) -> None:
    """Both languages say each finding and the conclusion; JSON says the same."""
    for language in ("en", "ko"):
        text = report.text(language, explain=True)
        assert CONCLUSIONS[report.conclusion][language] in text
        assert all(one.text(language) in text for one in report.findings)
        assert "{" not in text
    told = json.loads(json.dumps(report.json()))
    assert (told["status"], told["conclusion"]) == (report.status, report.conclusion)
    assert [one["what"] for one in told["findings"]] == [one.what for one in report.findings]


def test_exit_status_of_the_command(files, identity, tmp_path, monkeypatch, capsys):
    """The command on real files, with nothing replaced: one of each status."""
    monkeypatch.setenv("ACCEL_HOME", str(tmp_path))
    root = tmp_path / "root.pem"
    root.write_text(identity.root)
    wanted = {
        ("same", "own"): (0, "PROVEN"),
        ("same", "tampered"): (1, "UNKNOWN"),
        ("other file's", "own"): (1, "CONCLUSION"),
        ("same", "none"): (2, "INDICATED"),
        ("none", "none"): (3, "CONCLUSION"),
    }
    for (mark, credential), (status, word) in wanted.items():
        path, _ = files[mark, False, credential]
        assert main(["verify", str(path), "--trust", str(root), "--language", "en"]) == status
        out, err = capsys.readouterr()
        assert word in out
        assert err == ""
    empty = tmp_path / f"empty{path.suffix}"
    empty.write_bytes(b"")
    assert main(["verify", str(empty), "--language", "ko"]) == 4
    assert "파일을 읽을 수 없습니다" in capsys.readouterr().out


def test_a_damaged_ledger_is_said_and_hides_nothing(tmp_path, identity):
    path = tmp_path / "a.png"
    media(path, "none")
    sign(path, Statement(task="generate"), identity)
    (tmp_path / "ledger.sqlite").write_bytes(b"no data base" * 100)
    report = examine(path, anchors=[identity.root], ledger=Ledger(tmp_path / "ledger.sqlite"))
    assert report.status == PROVEN
    assert [one.what for one in report.findings] == ["credential trusted", "ledger unusable"]
    assert np.array_equal(np.asarray(Image.open(path)).shape, (360, 360, 3))
