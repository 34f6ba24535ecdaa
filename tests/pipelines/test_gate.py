"""The content gate: when it looks, what it stops, that nothing is left behind."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from accel.cli import main
from accel.core import Refused
from accel.kernels import Planes, yuv_layout
from accel.pipelines import gate as gates
from accel.pipelines.demo import PORTRAIT
from accel.pipelines.gate import CLASSES, ContentGate
from accel.pipelines.swap import swap_video
from accel.video.read import open_video
from accel.weights.assets import asset
from tests.pipelines.clips import write_clip

SOURCE = [str(asset(PORTRAIT))]


class Judge:
    """A classifier that says what it is told, view by view, and the last thing ever after."""

    def __init__(self, *scores: float):
        self.scores = list(scores)
        self.views: list[np.ndarray] = []

    def __call__(self, views):
        self.views.append(views)
        score = self.scores.pop(0) if len(self.scores) > 1 else self.scores[0]
        odds = np.zeros((len(views), len(CLASSES)), np.float32)
        odds[:, CLASSES.index("porn")] = score
        odds[:, CLASSES.index("neutral")] = 1 - score
        return odds


def portrait() -> np.ndarray:
    return cv2.cvtColor(cv2.imread(SOURCE[0]), cv2.COLOR_BGR2RGB)


def test_a_portrait_passes():
    gate = ContentGate()
    gate.check_picture(portrait())
    assert gate.looks == 1
    assert gate.highest < 0.1


def test_one_suspicious_view_alone_does_not_stop():
    gate = ContentGate(classify=Judge(0.95, 0.8, 0.3, 0.7))
    gate.check_picture(portrait())
    assert 0.6 < gate.highest < 0.85


def test_all_views_agreeing_stop_with_what_and_why():
    with pytest.raises(Refused, match=r"the photo looks like sexual content \(score 0\.95"):
        ContentGate(classify=Judge(0.95)).check_picture(portrait(), "the photo")


def test_a_film_is_looked_at_each_second_and_where_it_becomes_another(tmp_path):
    rng = np.random.default_rng(0)
    scenes = [rng.integers(0, 256, (9, 16, 3), dtype=np.uint8) for _ in range(2)]
    large = [cv2.resize(s, (320, 180), interpolation=cv2.INTER_CUBIC) for s in scenes]
    clip = write_clip(tmp_path / "a.mp4", width=320, height=180, pictures=[large[0]] * 60)
    cut = write_clip(
        tmp_path / "b.mp4", width=320, height=180, pictures=[large[0]] * 10 + [large[1]] * 10
    )
    looks = []
    for path in (clip, cut):
        gate = ContentGate(classify=Judge(0.1))
        with open_video(path) as reader:
            gate.check(list(reader))
        looks.append(gate.looks)
    assert looks == [3, 2]  # 2.5 seconds of one scene; one cut


@pytest.mark.parametrize("rate", [24, 60, 120])
def test_a_scene_of_ten_frames_is_seen_wherever_it_lies(rate):
    rng = np.random.default_rng(1)
    usual, other = (
        Planes(
            torch.from_numpy(cv2.resize(rng.integers(30, 220, (9, 16), np.uint8), (64, 36))),
            *torch.full((2, 18, 32), 128, dtype=torch.uint8),
            yuv_layout(),
        )
        for _ in range(2)
    )
    for start in range(rate, rate + rate // 2, 3):
        seen = []
        gate = ContentGate(classify=Judge(0.1))
        for i in range(2 * rate):
            looks = gate.looks
            planes = other if start <= i < start + 10 else usual
            gate.check([SimpleNamespace(index=i, time_s=i / rate, planes=planes)])
            if gate.looks > looks and planes is other:
                seen.append(i)
        assert seen, start


def test_each_picture_of_a_folder_is_looked_at(tmp_path, monkeypatch):
    judge = Judge(0.1, 0.1, 0.99)
    monkeypatch.setattr(gates, "_network", lambda: judge)
    (tmp_path / "in").mkdir()
    for name in "abcd":
        cv2.imwrite(str(tmp_path / "in" / f"{name}.jpg"), portrait()[:, :, ::-1])
    with pytest.raises(Refused, match="frame 2 "):
        swap_video(tmp_path / "in", tmp_path / "out", sources=SOURCE)
    assert not (tmp_path / "out").exists()


def test_a_turned_film_is_looked_at_upright(tmp_path):
    picture = np.zeros((180, 320, 3), np.uint8)
    picture[:, :160] = 255  # left half is bright, as stored
    clip = write_clip(tmp_path / "a.mp4", width=320, height=180, pictures=[picture])
    judge = Judge(0.1)
    with open_video(clip) as reader:
        ContentGate(rotation=90, classify=judge).check(list(reader))
    view = judge.views[0][0]
    assert view[:100].mean() > 0.9 > 0.1 > view[124:].mean()  # clockwise: what was left is on top


def test_a_stop_ends_with_3_and_writes_nothing(tmp_path, capsys, monkeypatch):
    clip = write_clip(tmp_path / "clip.mp4", 60)
    monkeypatch.setattr(gates, "_network", lambda: Judge(0.1, 0.1, 0.99))
    status = main(["swap", str(clip), str(tmp_path / "out.mp4"), "--source", SOURCE[0]])
    err = capsys.readouterr().err
    assert status == 3
    assert re.match(r"accel: refused: frame \d+ \(\d\.\d s\) looks like .*score 0\.99", err)
    assert err.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["clip.mp4"]


def test_the_command_line_cannot_switch_it_off(capsys):
    with pytest.raises(SystemExit):
        main(["swap", "--help"])
    assert "gate" not in capsys.readouterr().out


def test_an_embedder_brings_a_gate(tmp_path):
    class Own:
        seen: list[int] = []

        def check(self, frames):
            self.seen += [frame.index for frame in frames]

    clip = write_clip(tmp_path / "clip.mp4", 6)
    swap_video(clip, tmp_path / "out.mp4", sources=SOURCE, gate=Own())
    assert Own.seen == [0, 1, 2, 3, 4, 5]


def test_the_classifier_is_the_one_listed():
    assert Path(asset(gates.NETWORK)).stat().st_size == 2870290
