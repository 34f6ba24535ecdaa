"""The content gate before merging: a stop leaves nothing behind, whatever it was to become."""

from __future__ import annotations

import re

import numpy as np
import pytest

from accel.cli import main
from accel.core import Refused
from accel.faces.merge_settings import MergeSettings
from accel.pipelines import gate as gates
from accel.pipelines.dfl.merge import MARKED_LATER, MergeConfig, merge_faces
from tests.pipelines.dfl.merge_clip import FRAMES, add_film, make_workspace

LAST = FRAMES - 1
SHOWN = MergeSettings(mask="dst")


class StopsAt:
    """Lets frames pass until one of this number comes."""

    def __init__(self, number: int) -> None:
        self.number, self.seen = number, []

    def check(self, frames) -> None:
        self.seen += [frame.index for frame in frames]
        if self.number in self.seen:
            raise Refused("frame so and so")


@pytest.fixture
def workspace(tmp_path):
    return make_workspace(tmp_path / "workspace")


def written(workspace) -> list[str]:
    return sorted(path.name for path in workspace.rglob("merged*/*.png"))


@pytest.mark.parametrize("to", [None, "result.mp4"])
def test_a_stop_leaves_nothing(workspace, to):
    if to:
        add_film(workspace)
    before = sorted(workspace.rglob("*"))
    gate = StopsAt(LAST)
    config = MergeConfig(settings=SHOWN, to=to and workspace / to)
    with pytest.raises(Refused):
        merge_faces(workspace, config, gate=gate)
    assert gate.seen == list(range(FRAMES))
    assert written(workspace) == []
    assert [p for p in sorted(workspace.rglob("*")) if p.suffix in (".mp4", ".partial")] == [
        p for p in before if p.suffix == ".mp4"
    ]


@pytest.mark.parametrize("from_film", [False, True])
def test_each_picture_of_a_folder_is_looked_at(workspace, monkeypatch, from_film):
    """A folder may hold anything between two pictures that look alike; a film is one thing."""
    looks = []

    def classify(views):
        looks.append(len(views))
        return np.array([[0.0, 0.0, 1.0, 0.0, 0.0]], np.float32)

    monkeypatch.setattr(gates, "_network", lambda: classify)
    if from_film:
        add_film(workspace)
        for picture in (workspace / "data_dst").glob("*.png"):
            picture.unlink()
    merge_faces(workspace, MergeConfig(settings=SHOWN))
    assert len(looks) == (1 if from_film else FRAMES)


def test_what_is_merged_already_is_not_looked_at_again_and_stays(workspace):
    merge_faces(workspace, MergeConfig(settings=SHOWN))
    (workspace / "data_dst" / "merged" / "00002.png").unlink()
    kept = written(workspace)
    gate = StopsAt(1)
    with pytest.raises(Refused):
        merge_faces(workspace, MergeConfig(settings=SHOWN), gate=gate)
    assert gate.seen == [1]
    assert len(kept) - len(written(workspace)) == 1  # its mask


def test_the_command_ends_with_3(workspace, monkeypatch, capsys):
    odds = np.zeros((1, len(gates.CLASSES)), np.float32)
    odds[:, gates.CLASSES.index("porn")] = 0.97
    monkeypatch.setattr(gates, "_network", lambda: lambda views: odds)
    assert main(["dfl", "merge", str(workspace), "--mask", "dst"]) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert re.match(r"accel: refused: frame 0 \(0\.0 s\) looks like .*score 0\.97", err)
    assert err.count("\n") == 1
    assert written(workspace) == []


def test_pictures_on_the_way_say_that_they_are_not_marked(workspace, capsys):
    assert main(["dfl", "merge", str(workspace), "--mask", "dst"]) == 0
    assert MARKED_LATER in capsys.readouterr().out
