"""Two runs at once on one workspace: the second says so and touches nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from accel.core import ConfigError
from accel.faces.faceset import faces_in
from accel.faces.sort import aside_of
from accel.pipelines.dfl.alone import LOCK, alone, alone_with
from accel.pipelines.dfl.clear import clear_workspace
from accel.pipelines.dfl.pack import pack_faces, unpack_faces
from accel.pipelines.dfl.sort import sort_faces
from accel.pipelines.dfl.train import TrainConfig, train
from tests.training.facesets import workspace

OPTIONS = {"resolution": 64, "archi": "df-ud", "ae_dims": 8, "e_dims": 4, "d_dims": 4}
SHORT = TrainConfig(model="saehd", iterations=1, options=OPTIONS, threads=1, device="cpu")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return workspace(tmp_path_factory.mktemp("alone") / "workspace", 3)


@pytest.fixture
def faces(made, tmp_path):
    shutil.copytree(made, tmp_path / "w")
    return tmp_path / "w"


@pytest.mark.parametrize(
    "step",
    [
        lambda root: sort_faces(root, "src", "blur"),
        lambda root: pack_faces(root, "src"),
        lambda root: unpack_faces(root, "src"),
    ],
)
def test_a_second_run_on_a_faceset_ends_at_once(faces, step):
    aligned = faces / "data_src" / "aligned"
    pack_faces(faces, "src", keep=True)
    before = {path.name: path.read_bytes() for path in aligned.iterdir() if path.is_file()}
    with alone(aligned), pytest.raises(ConfigError, match="another run is at work there"):
        step(faces)
    assert {p.name: p.read_bytes() for p in aligned.iterdir() if p.is_file()} == before
    (aligned / "faceset.pak").unlink()
    assert sort_faces(faces, "src", "blur")["faces"] == 3  # and it is free again


def test_faces_of_a_sort_that_runs_are_not_taken_from_it(faces):
    aligned = faces / "data_src" / "aligned"
    aside = aside_of(aligned)
    aside.mkdir()
    face = faces_in(aligned)[0]
    face.rename(aside / face.name)
    with alone(aligned), pytest.raises(ConfigError, match="another run is at work there"):
        train(faces, SHORT)
    assert [path.name for path in aside.iterdir()] == [face.name]
    assert train(faces, SHORT)["faces"]["src"] == 3  # of one that was killed they come back


def test_one_model_is_trained_by_one_run(faces):
    train(faces, SHORT)
    before = {path.name: path.read_bytes() for path in (faces / "model").iterdir()}
    longer = TrainConfig(model="saehd", iterations=3, threads=1, device="cpu")
    with alone_with(faces / "model", "new_SAEHD"):
        with pytest.raises(ConfigError, match="new_SAEHD is trained by another run"):
            train(faces, longer)
        other = TrainConfig(model="saehd", name="other", iterations=1, options=OPTIONS, threads=1)
        assert train(faces, other)["iterations"] == 1
    after = {path.name: path.read_bytes() for path in (faces / "model").iterdir()}
    assert {name: after[name] for name in before if name != ".accel-made"} == {
        name: content for name, content in before.items() if name != ".accel-made"
    }
    assert not list((faces / "model").glob(f".*{LOCK}"))


def test_what_a_killed_training_left_hinders_nobody_and_is_cleared(faces):
    train(faces, SHORT)
    left = faces / "model" / f".new_SAEHD{LOCK}"
    left.touch()
    mine = faces / "model" / ".mine.lock"
    mine.touch()
    clear_workspace(faces, parts=("model",), really=True)
    assert [path.name for path in (faces / "model").iterdir()] == [mine.name]
    left.touch()
    assert train(faces, SHORT)["iterations"] == 1
    assert not left.exists()


def test_a_training_that_cannot_begin_leaves_no_folder(tmp_path):
    root = workspace(tmp_path / "w", 1)
    for path in (root / "data_src" / "aligned").iterdir():
        path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(Exception, match="fit for training"):
        train(root, SHORT)
    assert not (root / "model").exists()


def test_a_folder_that_cannot_be_written_is_told_by_who_saves(made, monkeypatch):
    def refused(path: Path) -> int:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("accel.pipelines.dfl.alone._held_file", refused)
    with alone_with(made / "model", "new_SAEHD"):
        pass
