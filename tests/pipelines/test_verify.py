"""Verifying files as they lie on a disk: films, stills, folders, files that are neither."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from accel.core import ConfigError
from accel.kernels import Planes, yuv_layout
from accel.pipelines.verify import verify_file, verify_files, windows
from accel.provenance.c2pa import Input, Statement, sign
from accel.provenance.keys import local_identity
from accel.provenance.ledger import Ledger
from accel.provenance.media import sha256_of
from accel.provenance.watermark import Mark
from accel.weights.assets import asset
from tests.provenance.film import encode, film

MARK = "c0ffee123456"


@pytest.fixture(autouse=True)
def home(tmp_path_factory, monkeypatch) -> Path:
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("ACCEL_HOME", str(folder))
    return folder


@pytest.fixture(scope="module")
def marked(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("film") / "marked.mp4"
    mark, frames = Mark(MARK), film(26)
    for planes in frames:
        mark.add(planes)
    path.write_bytes(encode(frames))
    return path


def test_a_signed_film(marked, tmp_path):
    path = Path(shutil.copy(marked, tmp_path / "out.mp4"))
    source = Input(path=asset("astronaut.png"), role="source")
    statement = Statement(task="face_swap", inputs=(Input(path=marked), source), mark=MARK)
    sign(path, statement, local_identity(), version="0.1.0")
    Ledger().add(task="face_swap", sha256=sha256_of(path), mark=MARK)
    report = verify_file(path)
    assert report.status == 0
    whats = [one.what for one in report.findings]
    assert whats == ["credential trusted", "mark same", "ledger file"]


def test_a_stripped_film_and_a_folder(marked, tmp_path, home):
    shutil.copy(marked, tmp_path / "a.mp4")
    shutil.copy(asset("astronaut.png"), tmp_path / "b.png")
    (tmp_path / "c.txt").write_text("no picture")
    reports = list(verify_files([tmp_path]))
    assert [report.status for report in reports] == [2, 3, 4]
    assert not any(home.iterdir())  # looking makes neither key nor ledger


@pytest.mark.parametrize("keep", [0.0, 0.01, 0.5])
def test_a_damaged_film_is_one_clear_answer(marked, tmp_path, keep):
    path = tmp_path / "a.mp4"
    data = marked.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    report = verify_file(path)
    assert report.status in (2, 4)
    assert report.text("ko")


def flat(codes) -> list[Planes]:
    """Tiny frames, each of one brightness."""
    return [
        Planes(
            torch.full((32, 32), int(code), dtype=torch.uint8),
            *(torch.full((16, 16), 128, dtype=torch.uint8) for _ in range(2)),
            yuv_layout(),
        )
        for code in codes
    ]


@pytest.mark.parametrize("container", ["mp4", "matroska", "mpegts"])
def test_a_film_is_looked_at_over_its_whole_length(tmp_path, container):
    path = tmp_path / "long"
    path.write_bytes(encode(flat(np.linspace(20, 230, 500)), container=container))
    seen = [[float(luma.mean()) for luma, _ in window] for window in windows(path)]
    assert len(seen[0]) == 75
    assert max(map(len, seen[1:])) <= 25
    places = np.array([window[0] for window in seen])
    assert (np.diff(places) >= 0).all()
    assert places[0] < 25
    assert places[-1] > 150  # the last key frame before nine tenths of the film


def test_no_frame_is_looked_at_twice_where_key_frames_are_far_apart(tmp_path):
    (tmp_path / "a.mp4").write_bytes(encode(flat([90] * 120)))  # one key frame
    assert sum(len(list(window)) for window in windows(tmp_path / "a.mp4")) == 120


def test_three_seconds_are_looked_at_first_at_any_rate(tmp_path):
    (tmp_path / "a.mp4").write_bytes(encode(flat([90] * 200), rate=60))
    assert len(list(next(windows(tmp_path / "a.mp4")))) == 180


def test_of_large_frames_fewer_are_looked_at_and_passed_over(tmp_path, monkeypatch):
    """A film of 200 kB, 8192x4320 at 240 a second, took minutes."""
    monkeypatch.setattr("accel.pipelines.verify.MOST_PX", 1)
    (tmp_path / "a.mp4").write_bytes(encode(flat([90] * 120), rate=60))  # one key frame
    assert [len(list(one)) for one in windows(tmp_path / "a.mp4")] == [25, 3, *[0] * 8]


@pytest.mark.slow
def test_a_mark_in_the_last_third_is_found(tmp_path):
    mark, frames = Mark(MARK), film(300)
    for planes in frames[180:]:
        mark.add(planes)
    (tmp_path / "a.mp4").write_bytes(encode(frames))
    report = verify_file(tmp_path / "a.mp4")
    assert [one.what for one in report.findings] == ["mark read"]
    assert MARK in report.text()


def test_files_of_a_folder_are_told_apart(tmp_path, home):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        shutil.copy(asset("astronaut.png"), tmp_path / name / "a.png")
    assert [one.name for one in verify_files([tmp_path])] == ["one/a.png", "two/a.png"]


def test_a_named_sidecar_stands_for_its_file_which_is_told_of_once(tmp_path, home):
    for name in ("film.mkv", "film.mkv.c2pa", "photo.c2pa", "photo.jpg", "alone.c2pa", "twin.c2pa"):
        (tmp_path / name).write_bytes(b"?")
    for name in ("twin.mp4", "twin.webm"):
        (tmp_path / name).write_bytes(b"?")
    told = [one.name for one in verify_files(sorted(tmp_path.iterdir()))]
    assert told == ["alone.c2pa", "film.mkv", "photo.jpg", "twin.c2pa", "twin.mp4", "twin.webm"]


def test_why_a_file_was_not_read_is_said(tmp_path, home):
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "pipe.mp4")
    names = ("absent.mp4", "empty", "pipe.mp4", "x" * 300, "a\0b")
    reports = list(verify_files([tmp_path / name for name in names]))
    assert [one.findings[0].what for one in reports] == [
        "no such file", "empty folder", "not to be read", "no such file", "no such file",
    ]  # fmt: skip
    assert {one.status for one in reports} == {4}
    assert "there is no such file" in reports[0].text("en")


def test_a_damaged_root_of_our_own_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCEL_HOME", str(tmp_path))
    (tmp_path / "identity").mkdir()
    (tmp_path / "identity" / "root.pem").write_bytes(b"\xff\xfe no certificate")
    with pytest.raises(ConfigError, match=r"root\.pem: must hold certificates in PEM"):
        verify_file(asset("astronaut.png"))
