"""Credentials: written and read back in every container, broken ones, foreign ones, no network."""

from __future__ import annotations

import io
import json
import shutil
import socket
import zlib
from pathlib import Path

import av
import c2pa
import numpy as np
import pytest
from PIL import Image

from accel.core import ConfigError, InputError
from accel.provenance.c2pa import (
    SOURCE_TYPES,
    CredentialError,
    Input,
    Statement,
    _sign_into,
    read,
    sidecar_of,
    sign,
)
from accel.provenance.keys import local_identity
from accel.provenance.media import sha256_of
from accel.weights.assets import asset
from tests.provenance.film import encode, film

MARK = "c0ffee123456"
PICTURES = ["png", "jpg", "webp"]
FILMS = ["mp4", "mov"]


def picture(path: Path, side: int = 64) -> Path:
    Image.open(asset("astronaut.png")).convert("RGB").resize((side, side)).save(path)
    return path


@pytest.fixture(scope="session")
def films(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    for kind, container in (("mp4", "mp4"), ("mov", "mov"), ("mkv", "matroska")):
        (folder / f"film.{kind}").write_bytes(encode(film(3, 64, 96), container=container))
    return folder


def media(kind: str, folder: Path, films: Path) -> Path:
    if kind in PICTURES:
        return picture(folder / f"file.{kind}")
    return Path(shutil.copy(films / f"film.{kind}", folder / f"file.{kind}"))


GENERATED = Statement(task="generate", mark=MARK, networks={"nano": "ab" * 32}, consent="fiction")


@pytest.mark.parametrize("kind", PICTURES + FILMS)
def test_reads_back_from(kind, tmp_path, films, identity):
    path = media(kind, tmp_path, films)
    before = path.stat().st_size
    made = sign(path, GENERATED, identity, version="0.1.0")
    assert 0 < path.stat().st_size - before < 20_000
    assert read(path, anchors=[identity.root]) == made
    assert made.state == "trusted"
    assert made.mark == MARK
    assert made.source_types == ("trainedAlgorithmicMedia",)
    assert made.run["networks"] == [{"name": "nano", "sha256": "ab" * 32}]
    assert made.run["consent"]["claim"] == "fiction"
    assert made.generator == "accel 0.1.0"
    assert made.involves_ai
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("kind", PICTURES)
def test_the_picture_itself_stays_as_it_was(kind, tmp_path, identity):
    path = picture(tmp_path / f"file.{kind}")
    before = np.asarray(Image.open(path))
    sign(path, GENERATED, identity)
    assert (np.asarray(Image.open(path)) == before).all()


def test_other_containers_get_a_file_beside(tmp_path, films, identity):
    path = media("mkv", tmp_path, films)
    before = sha256_of(path)
    made = sign(path, GENERATED, identity)
    assert sha256_of(path) == before
    assert sidecar_of(path).is_file()
    assert made.beside
    assert read(path, anchors=[identity.root]) == made
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert read(path, anchors=[identity.root]).state == "broken"


def test_a_stranger_sees_a_valid_statement_of_an_unknown_signer(tmp_path, identity):
    path = picture(tmp_path / "a.png")
    sign(path, GENERATED, identity)
    seen = read(path)
    assert seen.state == "valid"
    assert seen.reasons == ("signingCredential.untrusted",)
    assert seen.serial == identity.serial
    other = local_identity(tmp_path / "other")
    assert read(path, anchors=[other.root]).state == "valid"


def swap_of(target: Path, source: Path, **more) -> Statement:
    inputs = (Input(path=target), Input(path=source, role="source"))
    return Statement(task="face_swap", inputs=inputs, mark=MARK, **more)


def test_a_swap_names_its_inputs_by_hash_and_carries_no_picture(tmp_path, films, identity):
    target, source = films / "film.mp4", picture(tmp_path / "her name.jpg", 256)
    out = media("mp4", tmp_path, films)
    made = sign(out, swap_of(target, source, consent="licensed"), identity)
    assert made.actions == ("opened", "placed", "edited", "bound")
    assert made.source_types == ("compositeWithTrainedAlgorithmicMedia",)
    assert [(one["role"], one["sha256"]) for one in made.inputs] == [
        ("target", sha256_of(target)),
        ("source", sha256_of(source)),
    ]
    added = out.read_bytes()[target.stat().st_size :]
    assert len(added) < 20_000
    assert b"\xff\xd8\xff" not in added
    assert b"her name" not in out.read_bytes()


def test_the_history_of_an_input_is_kept(tmp_path, identity):
    target, source = picture(tmp_path / "t.png"), picture(tmp_path / "s.png")
    sign(target, GENERATED, identity, version="0.0.9")
    sign(source, GENERATED, identity)
    out = picture(tmp_path / "out.png", 80)
    made = sign(out, swap_of(target, source), identity)
    assert [chapter["actions"][0] for chapter in made.history] == ["opened", "created", "created"]
    assert [one["generator"] for one in made.history[1:]] == ["accel 0.0.9", "accel 0"]
    assert [one["history"] for one in made.inputs] == ["carried", "carried"]
    assert all(one["credential"]["state"] == "valid" for one in made.inputs)


def test_changed_media_break_it(tmp_path, films, identity):
    path = media("mp4", tmp_path, films)
    sign(path, GENERATED, identity)
    data = bytearray(path.read_bytes())
    at = data.index(b"mdat") + 200
    data[at] ^= 1
    path.write_bytes(data)
    seen = read(path, anchors=[identity.root])
    assert seen.state == "broken"
    assert "assertion.bmffHash.mismatch" in seen.reasons


def test_a_credential_moved_to_another_picture_is_broken(tmp_path, identity):
    path = picture(tmp_path / "a.png")
    sign(path, GENERATED, identity)
    data = path.read_bytes()
    at = data.index(b"caBX") - 4
    chunk = data[at : at + int.from_bytes(data[at : at + 4], "big") + 12]
    other = picture(tmp_path / "b.png", 48).read_bytes()
    (tmp_path / "b.png").write_bytes(other[:33] + chunk + other[33:])
    assert read(tmp_path / "b.png", anchors=[identity.root]).state == "broken"


@pytest.mark.parametrize("step", [29, pytest.param(1, marks=pytest.mark.slow)])
def test_flipped_bytes_never_change_the_meaning(step, tmp_path, identity):
    path = picture(tmp_path / "a.png", 16)
    whole = sign(path, GENERATED, identity)
    data = path.read_bytes()
    start = data.index(b"caBX") + 4
    size = int.from_bytes(data[start - 8 : start - 4], "big")
    states = set()
    for at in range(start, start + size, step):
        bad = bytearray(data)
        bad[at] ^= 0xFF
        check = zlib.crc32(bytes(bad[start - 4 : start + size]))  # so that only the credential errs
        bad[start + size : start + size + 4] = check.to_bytes(4, "big")
        path.write_bytes(bad)
        seen = read(path, anchors=[identity.root])
        states.add(seen.state if seen else "none")
        if seen and seen.intact:
            assert seen == whole
    assert "broken" in states


@pytest.mark.parametrize("keep", [0.3, 0.6, 0.95])
def test_a_truncated_file_is_no_traceback(keep, tmp_path, films, identity):
    path = media("mp4", tmp_path, films)
    sign(path, GENERATED, identity)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    seen = read(path, anchors=[identity.root])
    assert seen is None or not seen.intact


DAMAGED = {
    "a.png": b"\x89PNG\r\n\x1a\nnot a picture", "a.jpg": b"\xff\xd8\xff\xe0nothing",
    "a.webp": b"RIFF\x00\x00\x00\x00WEBPVP8 ", "a.mp4": b"\x00\x00\x00\x18ftypisom" + b"moov" * 99,
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_that_never_had_one_has_none(name, tmp_path):
    """That something is broken does not mean that it was signed."""
    (tmp_path / name).write_bytes(DAMAGED[name])
    assert read(tmp_path / name) is None
    (tmp_path / name).write_bytes(DAMAGED[name] + b"jumdc2pa")
    seen = read(tmp_path / name)
    assert seen is None or not seen.intact


def test_files_without_one(tmp_path, films):
    assert read(picture(tmp_path / "a.png")) is None
    assert read(films / "film.mkv") is None
    (tmp_path / "empty").write_bytes(b"")
    assert read(tmp_path / "empty") is None
    with pytest.raises(InputError, match="no such file"):
        read(tmp_path / "absent.png")


def test_a_saved_again_copy_has_none(tmp_path, identity):
    path = picture(tmp_path / "a.png")
    sign(path, GENERATED, identity)
    Image.open(path).save(tmp_path / "b.png")
    assert read(tmp_path / "b.png") is None


def test_a_failure_leaves_the_file_alone(tmp_path, identity):
    path = tmp_path / "a.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"not a picture")
    with pytest.raises(CredentialError, match="could not be made"):
        sign(path, GENERATED, identity)
    assert path.read_bytes().endswith(b"not a picture")
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_nothing_is_fetched(tmp_path, identity):
    """A file may name a web address where its credential lies; only a person may go there."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        server.settimeout(0.3)
        url = f"http://127.0.0.1:{server.getsockname()[1]}/credential.c2pa"
        info = c2pa.C2paSignerInfo(b"es256", identity.certificates.encode(), identity.key, None)
        created = {"action": "c2pa.created", "digitalSourceType": f"{SOURCE_TYPES}digitalCapture"}
        actions = {"label": "c2pa.actions.v2", "data": {"actions": [created]}}
        told = json.dumps({"title": "x", "assertions": [actions]})
        out = io.BytesIO()
        with c2pa.Builder(told) as builder:
            builder.set_no_embed()
            builder.set_remote_url(url)
            data = picture(tmp_path / "a.jpg").read_bytes()
            builder.sign(c2pa.Signer.from_info(info), "image/jpeg", io.BytesIO(data), out)
        (tmp_path / "b.jpg").write_bytes(out.getvalue())
        assert url.encode() in out.getvalue()
        seen = read(tmp_path / "b.jpg")
        assert seen is None or not seen.intact
        with pytest.raises(TimeoutError):
            server.accept()


def test_statements_that_cannot_be_made(tmp_path):
    path = picture(tmp_path / "a.png")
    with pytest.raises(ConfigError, match="task must be one of"):
        Statement(task="capture")
    with pytest.raises(ConfigError, match="consent must be one of"):
        Statement(task="generate", consent="yes")
    with pytest.raises(ConfigError, match="needs 1 target, got 0"):
        Statement(task="face_swap")
    with pytest.raises(ConfigError, match="role of an input"):
        Input(path=path, role="victim")


def test_a_signed_film_still_plays(tmp_path, films, identity):
    path = media("mp4", tmp_path, films)
    sign(path, GENERATED, identity)
    with av.open(str(path)) as file:
        assert sum(1 for _ in file.decode(video=0)) == 3


MANY_PARTS = {
    "png": b"\x89PNG\r\n\x1a\n" + b"\0\0\0\0prVt\0\0\0\0" * 100_001,
    "gif": b"GIF89a\x40\0\x40\0\0\0\0" + b"!\xfe\1a\0" * 100_001,
    "webp": b"RIFF\0\0\x10\0WEBP" + b"JUNK\0\0\0\0" * 100_001,
    "jpg": b"\xff\xd8" + b"\xff\xe5\0\2" * 100_001,
}


@pytest.mark.parametrize("suffix", MANY_PARTS)
def test_a_picture_of_very_many_parts_is_refused(suffix, tmp_path):
    """c2pa-rs takes some 20 microseconds for each."""
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(MANY_PARTS[suffix])
    with pytest.raises(InputError, match="must be of 100000 parts at most"):
        read(path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_told_as_such():
    class Builder:
        def sign(self, signer, kind, media, out):
            try:
                out.write(bytes(1 << 20))
            except OSError as error:  # its message is lost on the way through the library
                raise c2pa.C2paError("Io: Other") from error

    with pytest.raises(OSError, match="No space left on device") as caught:
        _sign_into(Path("/dev/full"), Builder(), None, "image/png", None)
    assert caught.value.filename == "/dev/full"
