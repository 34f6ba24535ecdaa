"""What a run writes is marked; what was asked for and fails leaves nothing behind."""

from __future__ import annotations

import datetime
import errno
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from accel.cli import main
from accel.core import ConfigError
from accel.pipelines.demo import PORTRAIT, moving_portrait
from accel.pipelines.provenance import Marker, ProvenanceConfig, earlier_mark
from accel.pipelines.swap import swap_video
from accel.pipelines.verify import Ledger, verify_file
from accel.provenance import c2pa, keys
from accel.provenance.label import Label
from accel.provenance.media import sha256_of
from accel.weights.assets import asset
from tests.pipelines.clips import decode, write_clip

SOURCE = [str(asset(PORTRAIT))]


class Untouched:
    """A gate that tells whether any work was begun."""

    def check(self, frames):
        raise AssertionError("a frame was looked at")


ALL = ["credential trusted", "mark same", "declared type", "ledger file"]


@pytest.fixture(autouse=True)
def home(tmp_path_factory, monkeypatch) -> Path:
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("ACCEL_HOME", str(folder))
    return folder


def whats(path: Path) -> list[str]:
    return [one.what for one in verify_file(path).findings]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def film(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("film")
    return write_clip(folder / "clip.mp4", 26, width=640, height=360)


def test_a_film_gets_every_mark(film, tmp_path):
    out = tmp_path / "out.mp4"
    report = swap_video(
        film, out, sources=SOURCE, provenance=ProvenanceConfig(consent="fiction", language="en")
    )
    assert whats(out) == ALL
    told = report["marked"]
    assert told["credential"] == "embedded"
    assert told["ledger"] == [1]
    assert told["switched_off"] == []
    assert f"invisible mark {told['marks'][0]} (whole frame), label in the corner" in told["line"]
    assert "consent fiction" in told["line"]
    made = c2pa.read(out)
    assert made.run["task"] == "face_swap"
    assert made.run["consent"]["claim"] == "fiction"
    assert [one["role"] for one in made.run["inputs"]] == ["target", "source"]
    assert made.run["inputs"][0]["sha256"] == sha256_of(film)
    assert str(film.name) not in str(made)  # no file name of the user's
    x0, y0, x1, y1 = Label("face_swap", language="en").box(360, 640)
    for _, planes in decode(out)[::8]:
        inside = planes[0][y0:y1, x0:x1]
        assert (inside > 190).mean() > 0.05
        assert (inside < 110).mean() > 0.3

    again = tmp_path / "again.mp4"
    report = swap_video(out, again, sources=SOURCE)
    assert report["marked"]["marks"] == told["marks"] == report["marked"]["earlier_marks"]
    assert "kept from the input" in report["marked"]["line"]
    assert whats(again) == ALL
    assert len(c2pa.read(again).history) == 2  # the first swap's statement came along


def test_files_without_room_get_it_beside_them_under_their_whole_name(tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", 3)
    for name in ("out.mkv", "out.gif"):
        swap_video(clip, tmp_path / name, sources=SOURCE)
    assert names(tmp_path) == ["clip.mp4", "out.gif", "out.gif.c2pa", "out.mkv", "out.mkv.c2pa"]
    assert whats(tmp_path / "out.mkv")[0] == whats(tmp_path / "out.gif")[0] == "credential trusted"
    with pytest.raises(ConfigError, match=r"out\.mkv exists"):
        swap_video(clip, tmp_path / "out.mkv", sources=SOURCE)
    off = ProvenanceConfig(credentials=False, watermark="off", label="off", ledger=False)
    report = swap_video(clip, tmp_path / "out.mkv", sources=SOURCE, overwrite=True, provenance=off)
    assert "out.mkv.c2pa" not in names(tmp_path)  # it told of the file that is gone
    assert report["marked"]["line"].startswith("marked: NO; you switched off: invisible mark")
    assert "credential" not in " ".join(whats(tmp_path / "out.mkv"))


@pytest.mark.parametrize(
    "suffix", ["png", *(pytest.param(name, marks=pytest.mark.slow) for name in ("jpg", "webp"))]
)
def test_a_still_gets_every_mark(tmp_path, suffix):
    Image.fromarray(next(moving_portrait(1, 640, 480))).save(tmp_path / "in.png")
    swap_video(tmp_path / "in.png", tmp_path / f"out.{suffix}", sources=SOURCE)
    assert whats(tmp_path / f"out.{suffix}") == ALL
    assert names(tmp_path) == ["in.png", f"out.{suffix}"]


def test_of_a_folder_the_altered_pictures_are_marked(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for index, picture in enumerate(moving_portrait(2, 640, 480)):
        Image.fromarray(picture).save(folder / f"{index}.png")
    lawn = Image.new("RGB", (300, 200), (90, 120, 90))
    lawn.save(folder / "2.png")
    lawn.save(folder / "3.bmp")
    report = swap_video(folder, tmp_path / "out", sources=SOURCE)
    assert report["marked"]["files"] == 2
    assert len(set(report["marked"]["marks"])) == 2
    assert names(tmp_path / "out") == ["0.png", "1.png", "2.png", "3.bmp"]
    assert whats(tmp_path / "out" / "0.png") == whats(tmp_path / "out" / "1.png") == ALL
    assert whats(tmp_path / "out" / "2.png") == []
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / "2.png")), np.asarray(lawn))


def test_marking_that_fails_is_an_error_and_leaves_nothing(tmp_path, monkeypatch, capsys):
    clip = write_clip(tmp_path / "clip.mp4", 3)

    def fail(*args, **options):
        raise c2pa.CredentialError("the credential could not be made: no ink")

    monkeypatch.setattr(c2pa, "sign", fail)
    for name in ("out.mp4", "out.mkv", "out"):
        status = main(["swap", str(clip), str(tmp_path / name), "--source", SOURCE[0]])
        err = capsys.readouterr().err
        assert (status, err) == (2, "accel: the credential could not be made: no ink\n")
    assert names(tmp_path) == ["clip.mp4"]


def test_a_ledger_that_cannot_be_written_is_an_error_too(tmp_path, home):
    clip = write_clip(tmp_path / "clip.mp4", 3)
    (home / "ledger.sqlite").write_text("this is no ledger, it is a text of some length" * 30)
    with pytest.raises(ConfigError, match="ledger"):
        swap_video(clip, tmp_path / "out.mkv", sources=SOURCE)
    assert names(tmp_path) == ["clip.mp4"]


def test_an_own_certificate_signs(tmp_path, monkeypatch):
    clip = write_clip(tmp_path / "clip.mp4", 3)
    other = tmp_path / "other"
    keys.local_identity(other)
    chain = tmp_path / "chain.pem"
    chain.write_bytes(
        (other / "identity/leaf.pem").read_bytes() + (other / "identity/root.pem").read_bytes()
    )
    own = ProvenanceConfig(certificate=chain, key=other / "identity/leaf.pem")
    report = swap_video(clip, tmp_path / "out.mp4", sources=SOURCE, provenance=own)
    root = (other / "identity/root.pem").read_text()
    assert report["marked"]["signer"] == keys.local_identity(other).fingerprint
    assert (
        verify_file(tmp_path / "out.mp4", anchors=[root]).findings[0].what == "credential trusted"
    )
    assert verify_file(tmp_path / "out.mp4").findings[0].what == "credential valid"


def test_a_certificate_that_ran_out_is_an_error(tmp_path, monkeypatch):
    before = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=4000)
    with monkeypatch.context() as patched:
        patched.setattr(keys, "_now", lambda: before)
        old = keys.local_identity(tmp_path / "old")
    chain = tmp_path / "chain.pem"
    chain.write_text(old.certificates)
    key = tmp_path / "key.pem"
    key.write_bytes(old.key)
    clip = write_clip(tmp_path / "clip.mp4", 2)
    own = ProvenanceConfig(certificate=chain, key=key)
    with pytest.raises(ConfigError, match=r"chain\.pem: the certificate ran out on"):
        swap_video(clip, tmp_path / "out.mp4", sources=SOURCE, provenance=own, gate=Untouched())
    assert not (tmp_path / "out.mp4").exists()


def test_a_generated_picture(tmp_path):
    rgb = next(moving_portrait(1, 512, 512)).copy()
    plain = rgb.copy()
    marker = Marker(task="generate", networks={"unet": "ab" * 32}, settings={"steps": 4})
    told = marker.save(rgb, tmp_path / "a.png")
    assert whats(tmp_path / "a.png") == ALL
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), rgb)
    # No label on it by default; of one id in thirty the pattern's largest step is 7.
    assert 0 < np.abs(rgb.astype(int) - plain).max() <= 8
    made = c2pa.read(tmp_path / "a.png")
    assert made.source_types == ("trainedAlgorithmicMedia",)
    assert made.run["networks"] == [{"name": "unet", "sha256": "ab" * 32}]
    assert Ledger().with_mark(told["mark"])[0].number == told["entry"]
    assert "visible label" not in marker.line()


def test_a_generated_picture_that_cannot_be_sealed_leaves_nothing(tmp_path, monkeypatch):
    marker = Marker(task="generate")
    monkeypatch.setattr(Ledger, "add", lambda *args, **told: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        marker.save(np.zeros((64, 64, 3), np.uint8), tmp_path / "a.bmp")
    assert names(tmp_path) == []


def test_a_full_disk_is_told_with_the_pictures_name(tmp_path, monkeypatch):
    def full(*args, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OSError, match="No space left") as caught:
        Marker(task="generate").save(np.zeros((64, 64, 3), np.uint8), tmp_path / "a.png")
    assert caught.value.filename == str(tmp_path / "a.png")
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"watermark": "yes"}, "watermark must be one of"),
        ({"label": "top"}, "label must be one of"),
        ({"consent": "sure"}, "consent must be one of"),
        ({"key": Path("a")}, "go together"),
    ],
)
def test_settings_that_cannot_be(settings, text):
    with pytest.raises(ConfigError, match=text):
        ProvenanceConfig(**settings)


def test_face_alone_is_for_faces():
    with pytest.raises(ConfigError, match="for swapped faces"):
        Marker(ProvenanceConfig(watermark="face"), task="generate")


def test_frames_that_no_mark_fits_into_end_the_search_for_one():
    """A film whose frames change in size, or have one line, ended in a traceback."""
    wide, narrow = np.full((64, 96), 90.0), np.full((32, 48), 90.0)
    assert earlier_mark([(wide, 1.0), (narrow, 1.0)]) is None
    assert earlier_mark([(np.zeros((1, 1)), 1.0)]) is None
