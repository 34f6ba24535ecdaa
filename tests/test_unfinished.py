"""Files appear whole or not at all; what killed processes leave half written goes, what others
write or own stays.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from accel.unfinished import (
    YOUNG_S,
    Unfinished,
    leftovers,
    partial_of,
    passing_name,
    scratch_of,
    whole,
    write_whole,
)
from accel.video.read import VideoReader
from accel.video.write import VideoWriter
from tests.video.clips import make_clip, transcode

needs_locks = pytest.mark.skipif(os.name == "nt", reason="leftovers are told by POSIX locks")
TOKEN = "0123abcd"
KILLED = """
import os, signal, sys
from pathlib import Path
from accel.unfinished import Unfinished
Unfinished(Path(sys.argv[1])).path.write_bytes(b"half a film")
os.kill(os.getpid(), signal.SIGKILL)
"""


def aged(path: Path) -> Path:
    long_ago = time.time() - 2 * YOUNG_S
    os.utime(path, (long_ago, long_ago), follow_symlinks=False)
    return path


@needs_locks
def test_what_a_killed_process_left_goes_with_the_next_file_of_that_name(tmp_path):
    out = tmp_path / "out.mp4"
    subprocess.run([sys.executable, "-c", KILLED, str(out)], check=False)
    (left,) = tmp_path.iterdir()
    assert left.read_bytes() == b"half a film"
    Unfinished(tmp_path / "other.mp4").close()
    assert left.exists()
    aged(left)
    Unfinished(out).close()
    assert not left.exists()


@needs_locks
def test_what_a_process_left_that_was_killed_while_it_signed_goes_too(tmp_path):
    out = tmp_path / "out.mp4"
    half = passing_name(out, TOKEN)
    half.write_bytes(b"a film")
    scratch_of(half).write_bytes(b"half a signed film")
    aged(half)
    assert leftovers(out) == [half, scratch_of(half)]
    Unfinished(out).close()
    assert not half.exists()
    assert not scratch_of(half).exists()


@needs_locks
def test_what_is_being_written_stays(tmp_path):
    out = tmp_path / "out.mp4"
    held = Unfinished(out)
    aged(held.path)
    assert leftovers(out) == []
    held.close()
    assert leftovers(out) == [held.path]


@needs_locks
def test_a_file_that_is_new_stays(tmp_path):
    path = passing_name(tmp_path / "out.mp4", TOKEN)
    path.write_bytes(b"not locked yet")
    assert leftovers(tmp_path / "out.mp4") == []


@needs_locks
def test_files_and_links_of_others_stay(tmp_path):
    out = tmp_path / "out.mp4"
    names = [
        ".out.partial.mp4", ".out.0123abc.partial.mp4", ".out.0123ABCD.partial.mp4",
        f".out.{TOKEN}.partial.mkv", f".out2.{TOKEN}.partial.mp4", f"out.{TOKEN}.partial.mp4",
        f".out.{TOKEN}.partial.mp4.bak",
    ]  # fmt: skip
    for name in names:
        (tmp_path / name).write_bytes(b"mine")
        aged(tmp_path / name)
    link, folder = passing_name(out, "1" * 8), passing_name(out, "2" * 8)
    link.symlink_to(tmp_path / names[0])
    aged(link)
    folder.mkdir()
    aged(folder)
    assert leftovers(out) == []


@needs_locks
def test_a_name_with_signs_that_mean_something_to_patterns(tmp_path):
    out = tmp_path / "a[b]+(c).mp4"
    path = passing_name(out, TOKEN)
    path.write_bytes(b"half")
    aged(path)
    assert leftovers(out) == [path]


@needs_locks
def test_films_are_held_while_they_grow_and_let_go_of_at_the_end(tmp_path):
    source, out = make_clip(tmp_path / "a.mp4"), tmp_path / "b.mp4"
    with VideoReader(source) as reader, VideoWriter(out, reader) as writer:
        for frame in reader:
            writer.write(frame)
        aged(writer.partial)
        assert leftovers(out) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "b.mp4"]
    left = passing_name(out, TOKEN)
    left.write_bytes(b"half")
    aged(left)
    transcode(source, out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "b.mp4"]


def test_a_file_appears_when_it_is_whole(tmp_path):
    path = tmp_path / "list.json"
    with whole(path) as partial:
        partial.write_text("new")
        assert not path.exists()
    assert [p.name for p in tmp_path.iterdir()] == ["list.json"]
    assert path.read_text() == "new"


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "list.json"
    path.write_text("old")
    with pytest.raises(TypeError), whole(path) as partial, partial.open("w") as file:
        file.writelines(["half", None])
    assert [p.name for p in tmp_path.iterdir()] == ["list.json"]
    assert path.read_text() == "old"


def test_an_error_without_a_name_gets_the_files(tmp_path):
    path = tmp_path / "list.json"
    with pytest.raises(OSError, match=r"list\.json") as caught, whole(path):
        raise OSError(28, "No space left on device")
    assert caught.value.filename == str(path)


def test_a_link_under_the_passing_name_is_not_followed(tmp_path):
    path, other = tmp_path / "list.json", tmp_path / "other"
    other.write_text("mine")
    partial_of(path).symlink_to(other)
    write_whole(path, b"new")
    assert other.read_text() == "mine"
    assert not path.is_symlink()
    assert path.read_bytes() == b"new"
