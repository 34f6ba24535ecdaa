"""Verifying files as they lie on a disk: films, stills, folders, files that are neither."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from accel.pipelines.verify import verify_file, verify_files
from accel.provenance.c2pa import Input, Statement, sha256_of, sign
from accel.provenance.keys import local_identity
from accel.provenance.ledger import Ledger
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
