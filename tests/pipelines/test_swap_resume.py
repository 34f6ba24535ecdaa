"""A swap of a folder of pictures that was broken off goes on as if it had not been."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from accel.cli import main
from accel.core import Cancel, Cancelled, ConfigError, InputError, Refused
from accel.pipelines.demo import PORTRAIT, moving_portrait
from accel.pipelines.provenance import ProvenanceConfig
from accel.pipelines.swap import swap_video
from accel.provenance.ledger import Ledger
from accel.video.picture_journal import LIST
from accel.weights.assets import asset

SOURCE = [str(asset(PORTRAIT))]
COUNT = 7


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for index, picture in enumerate(moving_portrait(COUNT, 400, 300)):
        Image.fromarray(picture).save(folder / f"{index:03}.png")
    return folder


def broken_off(pictures, out, after=3, **settings):
    cancel = Cancel()

    def progress(event):
        if event.done == after:
            cancel.set()

    with pytest.raises(Cancelled) as caught:
        swap_video(pictures, out, sources=SOURCE, progress=progress, cancel=cancel, **settings)
    assert not out.exists()
    return str(caught.value)


def pixels(folder):
    return {path.name: np.asarray(Image.open(path)) for path in sorted(folder.iterdir())}


def counts(report):
    names = ("frames", "frames_with_faces", "frames_swapped", "faces", "swapped", "tracks")
    return {name: report[name] for name in names}


def test_it_goes_on_and_nothing_differs(pictures, tmp_path):
    unmarked = {"provenance": ProvenanceConfig(watermark="off")}  # a mark is drawn by lot
    told = broken_off(pictures, tmp_path / "out", **unmarked)
    assert told == "3 pictures are done, the same command goes on"
    left = tmp_path / ".out.unfinished"
    times = {path.name: path.stat().st_mtime_ns for path in left.glob("*.png")}
    assert len(times) == 3
    report = swap_video(pictures, tmp_path / "out", sources=SOURCE, **unmarked)
    assert report["notes"] == ["went on after 3 pictures that an earlier run finished"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]
    for name, when in times.items():
        assert (tmp_path / "out" / name).stat().st_mtime_ns == when
    whole = swap_video(pictures, tmp_path / "whole", sources=SOURCE, **unmarked)
    assert counts(report) == counts(whole)
    some, others = pixels(tmp_path / "out"), pixels(tmp_path / "whole")
    assert list(some) == list(others)
    assert len(some) == COUNT
    assert all(np.array_equal(some[name], others[name]) for name in some)


def test_every_picture_is_signed_and_listed_once(pictures, tmp_path):
    before = len(list(Ledger().each()))
    broken_off(pictures, tmp_path / "out")
    assert len(list(Ledger().each())) == before  # nobody may have them yet
    report = swap_video(pictures, tmp_path / "out", sources=SOURCE)
    assert report["marked"]["files"] == COUNT
    assert len(set(report["marked"]["marks"])) == COUNT
    assert report["marked"]["credential"] == "embedded"
    assert len(list(Ledger().each())) == before + COUNT


def test_it_may_be_broken_off_twice(pictures, tmp_path):
    broken_off(pictures, tmp_path / "out", after=2)
    told = broken_off(pictures, tmp_path / "out", after=5)
    assert "5 pictures are done" in told
    assert swap_video(pictures, tmp_path / "out", sources=SOURCE)["frames_swapped"] == COUNT


def test_other_settings_are_named_and_overwrite_begins_anew(pictures, tmp_path):
    broken_off(pictures, tmp_path / "out")
    with pytest.raises(ConfigError, match=r'3 pictures .* \("min_score" 0\.5, now 0\.4\)'):
        swap_video(pictures, tmp_path / "out", sources=SOURCE, min_score=0.4)
    assert len(list((tmp_path / ".out.unfinished").glob("*.png"))) == 3
    report = swap_video(pictures, tmp_path / "out", sources=SOURCE, min_score=0.4, overwrite=True)
    assert report["notes"] == []
    assert report["frames_swapped"] == COUNT


@pytest.mark.parametrize("change", ["input", "output", "list", "told", "gone"])
def test_what_was_changed_meanwhile_is_made_again(pictures, tmp_path, change):
    broken_off(pictures, tmp_path / "out")
    left = tmp_path / ".out.unfinished"
    if change == "input":
        Image.open(pictures / "002.png").save(pictures / "001.png")
    elif change == "output":
        (left / "001.png").write_bytes(b"not a picture")
    elif change == "gone":
        (left / "001.png").unlink()
    elif change == "list":
        lines = (left / LIST).read_bytes().splitlines(True)
        (left / LIST).write_bytes(lines[0] + lines[1] + lines[2][:20])
    else:
        lines = [json.loads(line) for line in (left / LIST).read_text().splitlines()]
        lines[2]["told"]["looks"] = ["a" * 17]
        (left / LIST).write_text("".join(json.dumps(line) + "\n" for line in lines))
    report = swap_video(pictures, tmp_path / "out", sources=SOURCE)
    assert report["notes"] == ["went on after 1 pictures that an earlier run finished"]
    assert report["frames_swapped"] == COUNT == len(list((tmp_path / "out").iterdir()))


@pytest.mark.parametrize("text", [b"", b"{}\n", b"[1]\n{}\n", b"\xff\n", b'{"kind": 1}\n'])
def test_a_list_of_anything_else_costs_work_alone(pictures, tmp_path, text):
    left = tmp_path / ".out.unfinished"
    left.mkdir()
    (left / LIST).write_bytes(text)
    (left / "inside").mkdir()
    (left / "away.png").symlink_to(pictures / "000.png")
    report = swap_video(pictures, tmp_path / "out", sources=SOURCE)
    assert report["notes"] == []
    assert len(list((tmp_path / "out").iterdir())) == COUNT
    assert (pictures / "000.png").exists()


def test_a_link_in_its_place_is_not_followed(pictures, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "keep.txt").write_text("kept")
    (tmp_path / ".out.unfinished").symlink_to(elsewhere)
    with pytest.raises(ConfigError, match="must be a folder of this user"):
        swap_video(pictures, tmp_path / "out", sources=SOURCE)
    assert (elsewhere / "keep.txt").read_text() == "kept"


def test_a_damaged_picture_costs_none_of_those_before(pictures, tmp_path):
    for index in range(COUNT, 36):  # more than are read ahead
        shutil.copy(pictures / f"{index % COUNT:03}.png", pictures / f"{index:03}.png")
    whole = (pictures / "035.png").read_bytes()
    (pictures / "035.png").write_bytes(whole[:500])
    with pytest.raises(InputError, match=r"035\.png.*; \d+ pictures? (is|are) done"):
        swap_video(pictures, tmp_path / "out", sources=SOURCE)
    (pictures / "035.png").write_bytes(whole)
    report = swap_video(pictures, tmp_path / "out", sources=SOURCE)
    assert "went on after" in report["notes"][0]
    assert report["frames"] == 36 == len(list((tmp_path / "out").iterdir()))


def test_of_what_the_gate_refuses_nothing_is_left(pictures, tmp_path):
    class No:
        def check(self, frames):
            if frames[-1].index >= COUNT - 1:
                raise Refused("no")

    with pytest.raises(Refused, match=r"^no$"):
        swap_video(pictures, tmp_path / "out", sources=SOURCE, gate=No())
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_killed_command_goes_on(pictures, tmp_path):
    command = [sys.executable, "-m", "accel", "swap", str(pictures), str(tmp_path / "out"),
               "--source", SOURCE[0]]  # fmt: skip
    listed = tmp_path / ".out.unfinished" / LIST
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    end = time.monotonic() + 120
    while time.monotonic() < end and running.poll() is None:
        if listed.exists() and listed.read_bytes().count(b"\n") > 2:
            break
        time.sleep(0.005)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    assert not (tmp_path / "out").exists()
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "went on after" in done.stdout + done.stderr
    assert len(list((tmp_path / "out").iterdir())) == COUNT
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def test_ctrl_c_says_what_is_done(pictures, tmp_path, capsys, monkeypatch):
    def interrupted(event):
        if event.done == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr("accel.cli.swap.with_progress", lambda work: work(interrupted, Cancel()))
    assert main(["swap", str(pictures), str(tmp_path / "out"), "--source", SOURCE[0]]) == 130
    told = "accel: cancelled; 4 pictures are done, the same command goes on\n"
    assert capsys.readouterr().err == told


def test_two_at_once_are_not_let_into_one_folder(pictures, tmp_path):
    second = []

    def progress(event):
        if event.done == 2:
            with pytest.raises(ConfigError, match="is being made by another process") as caught:
                swap_video(pictures, tmp_path / "out", sources=SOURCE)
            second.append(caught.value)

    report = swap_video(pictures, tmp_path / "out", sources=SOURCE, progress=progress)
    assert second
    assert report["frames_swapped"] == COUNT
