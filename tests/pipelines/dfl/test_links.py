"""Links that a workspace brings along lead nothing out of it."""

from __future__ import annotations

import pytest

from accel.core import InputError
from accel.pipelines.dfl.made import LIST_NAME, made_in, remember, renamed, write_whole


@pytest.fixture
def outside(tmp_path):
    """A folder, and a file beside it that nothing may change."""
    victim = tmp_path / "victim"
    victim.write_text("mine")
    folder = tmp_path / "workspace"
    folder.mkdir()
    yield folder, victim
    assert victim.read_text() == "mine"


def test_a_file_under_a_passing_name(outside):
    folder, victim = outside
    (folder / ".a.json.partial").symlink_to(victim)
    write_whole(folder / "a.json", b"theirs")
    assert (folder / "a.json").read_bytes() == b"theirs"


def test_the_list_of_what_was_made(outside):
    folder, victim = outside
    (folder / LIST_NAME).symlink_to(victim)
    with pytest.raises(InputError, match="must be a plain file, got a link"):
        remember(folder, ["a.png"])
    (folder / LIST_NAME).unlink()
    remember(folder, ["a.png"])
    (folder / f"{LIST_NAME}.partial").symlink_to(victim)
    renamed(folder, {"a.png": folder / "b.png"})
    assert made_in(folder) == [folder / LIST_NAME]
