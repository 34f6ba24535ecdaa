"""Links in a workspace lead nothing out of it, and clearing takes nothing behind them."""

from __future__ import annotations

import pytest

from accel.core import InputError
from accel.pipelines.dfl.clear import clear_workspace
from accel.pipelines.dfl.made import LIST_NAME
from accel.pipelines.dfl.pack import pack_faces, unpack_faces
from accel.pipelines.dfl.workspace import FOLLOW_LINKS, Workspace

FOLDERS = ("data_src", "data_src/aligned", "data_dst/merged", "data_dst/merged_mask", "model",
           "data_dst/aligned", "data_src/aligned_debug", "data_src/aligned_sorting",
           "data_dst/aligned_trash", "model/new_SAEHD_autobackups")  # fmt: skip


@pytest.fixture
def theirs(tmp_path):
    """A folder beside the workspace with a file that a list calls made here."""
    folder = tmp_path / "theirs"
    for place in (folder, folder / "aligned", folder / "person"):
        place.mkdir()
        (place / "00001.jpg").write_text("kept")
        (place / LIST_NAME).write_text("00001.jpg\n")
    return folder


def linked(tmp_path, name, theirs):
    place = tmp_path / "w" / name
    place.parent.mkdir(parents=True)
    place.symlink_to(theirs)
    return tmp_path / "w"


def is_whole(theirs) -> bool:
    kept = [place / "00001.jpg" for place in (theirs, theirs / "aligned", theirs / "person")]
    return all(path.read_text() == "kept" for path in kept)


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_that_is_a_link_out_is_refused(tmp_path, theirs, name):
    root = linked(tmp_path, name, theirs)
    with pytest.raises(InputError, match="must lie in the workspace"):
        Workspace(root)
    assert is_whole(theirs)


@pytest.mark.parametrize("name", FOLDERS)
def test_clearing_takes_nothing_behind_a_link(tmp_path, theirs, name, monkeypatch):
    monkeypatch.setenv(FOLLOW_LINKS, "1")
    root = linked(tmp_path, name, theirs)
    report = clear_workspace(root, really=True)
    assert report["removed"] == 0
    assert is_whole(theirs)


@pytest.mark.parametrize("name", ["data_src/aligned/person", "model/inner"])
def test_clearing_takes_nothing_behind_a_link_further_in(tmp_path, theirs, name):
    root = linked(tmp_path, name, theirs)
    clear_workspace(root, really=True)
    assert is_whole(theirs)
    assert (root / name).is_symlink()


def test_a_link_within_the_workspace_is_followed_but_not_cleared_through(tmp_path):
    aligned = tmp_path / "data_src" / "aligned"
    aligned.mkdir(parents=True)
    (aligned / "00001.jpg").write_text("kept")
    (aligned / LIST_NAME).write_text("00001.jpg\n")
    (tmp_path / "model").symlink_to("data_src/aligned")
    clear_workspace(tmp_path, parts=("model",), really=True)
    assert (aligned / "00001.jpg").is_file()
    assert clear_workspace(tmp_path, parts=("aligned",), really=True)["removed"] == 1


def test_a_circle_of_links_is_refused(tmp_path):
    (tmp_path / "model").symlink_to("model")
    with pytest.raises(InputError, match="must lie in the workspace"):
        Workspace(tmp_path)


def test_the_workspace_itself_may_be_a_link(tmp_path, theirs):
    (tmp_path / "w").symlink_to(theirs)
    assert Workspace(tmp_path / "w").root == tmp_path / "w"


def faceset(folder, person):
    """A pak of one face of one person."""
    from tests.hostile.attacks_settings import face

    inner = folder / person
    inner.mkdir(parents=True)
    (inner / "00001.jpg").write_bytes(face())
    return inner


def test_packing_takes_nothing_behind_a_link(tmp_path):
    elsewhere = faceset(tmp_path, "elsewhere")
    aligned = tmp_path / "w" / "data_src" / "aligned"
    faceset(aligned, "one")
    (aligned / "two").symlink_to(elsewhere)
    assert pack_faces(tmp_path / "w", "src")["faces"] == 1
    assert (elsewhere / "00001.jpg").is_file()


def test_nothing_is_unpacked_through_a_link(tmp_path):
    aligned = tmp_path / "w" / "data_src" / "aligned"
    faceset(aligned, "one")
    pack_faces(tmp_path / "w", "src")
    (tmp_path / "elsewhere").mkdir()
    (aligned / "one").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="is a link"):
        unpack_faces(tmp_path / "w", "src")
    assert not any((tmp_path / "elsewhere").iterdir())
