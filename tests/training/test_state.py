"""A save is whole or not there, whenever the process dies and however full the disk is."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from accel.core import ConfigError, InputError
from accel.training import state
from accel.training.state import back_up, finish_saves, save_together, undisturbed

OLD = {"m_Quick96_a.npy": b"old a", "m_Quick96_b.npy": b"old b", "m_Quick96_data.dat": b"old"}
NEW = {name: content.replace(b"old", b"new") for name, content in OLD.items()}
STEM = "m_Quick96"


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_files_are_replaced_and_nothing_else_is_left(tmp_path):
    (tmp_path / "other.npy").write_bytes(b"x")
    save_together(tmp_path / "model", STEM, OLD)
    save_together(tmp_path / "model", STEM, NEW)
    assert content(tmp_path / "model") == NEW


def die_after(left, folder):
    """In a child process: save, and be killed at the call so many renames and flushes on."""

    def dying(call):
        def run(*args, **rest):
            nonlocal left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **rest)

        return run

    state.os.replace, state.os.fsync = dying(os.replace), dying(os.fsync)
    save_together(folder, STEM, NEW)
    os._exit(0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_at_any_point_it_is_all_old_or_all_new(tmp_path):
    seen = set()
    for left in range(20):
        folder = tmp_path / str(left)
        save_together(folder, STEM, OLD)
        child = os.fork()
        if not child:
            die_after(left, folder)
        _, status = os.waitpid(child, 0)
        with undisturbed(folder, STEM):
            found = content(folder)
        assert found in (OLD, NEW)
        seen.add(found == NEW)
        if os.waitstatus_to_exitcode(status) == 0:
            break
        assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
    else:
        pytest.fail("never came to an end")
    assert seen == {False, True}
    assert left > 8


@pytest.mark.parametrize("left", range(7))
def test_a_full_disk_leaves_the_last_save(tmp_path, monkeypatch, left):
    save_together(tmp_path, STEM, OLD)
    calls = 0

    def full(handle):
        nonlocal calls
        calls += 1
        if calls > left:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(state.os, "fsync", full)
    # The note is written fifth; once it is there, the save counts.
    if left < 5:
        with pytest.raises(ConfigError, match="No space left on device"):
            save_together(tmp_path, STEM, NEW)
        assert content(tmp_path) == OLD
    else:
        with pytest.raises((ConfigError, OSError)):
            save_together(tmp_path, STEM, NEW)
        monkeypatch.undo()
        finish_saves(tmp_path)
        assert content(tmp_path) == NEW


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_truly_full_device(tmp_path):
    save_together(tmp_path, STEM, OLD)
    (tmp_path / "m_Quick96_b.npy.partial").symlink_to("/dev/full")
    big = NEW | {"m_Quick96_b.npy": b"x" * 100_000}
    save_together(tmp_path, STEM, big)  # strays of a dead process are cleared first
    assert content(tmp_path) == big


def test_a_damaged_note_is_told(tmp_path):
    save_together(tmp_path, STEM, OLD)
    (tmp_path / f"{STEM}_{state.NOTE}").write_text("{")
    with pytest.raises(InputError, match="is damaged"):
        finish_saves(tmp_path)


def test_a_note_reaches_no_other_folder(tmp_path):
    folder = tmp_path / "model"
    save_together(folder, STEM, OLD)
    (tmp_path / "victim").write_bytes(b"safe")
    (folder / "victim.partial").write_bytes(b"gone")
    (folder / f"{STEM}_{state.NOTE}").write_text('["../victim"]')
    finish_saves(folder)
    assert (tmp_path / "victim").read_bytes() == b"safe"


def test_backups_move_up_and_the_oldest_goes(tmp_path):
    for number in range(4):
        save_together(tmp_path, STEM, {f"{STEM}_a.npy": str(number).encode()})
        back_up(tmp_path, STEM, 2)
    home = tmp_path / f"{STEM}_autobackups"
    assert sorted(path.name for path in home.iterdir()) == ["01", "02"]
    assert [(home / n / f"{STEM}_a.npy").read_bytes() for n in ("01", "02")] == [b"3", b"2"]


def test_backups_are_not_lost_to_a_full_disk(tmp_path, monkeypatch):
    for number in range(3):
        save_together(tmp_path, STEM, {f"{STEM}_a.npy": str(number).encode()})
        back_up(tmp_path, STEM, 2)
    home = tmp_path / f"{STEM}_autobackups"

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(state.shutil, "copy2", full)
    for _ in range(3):
        with pytest.raises(ConfigError, match="autobackups: could not be written to"):
            back_up(tmp_path, STEM, 2)
    assert [(home / n / f"{STEM}_a.npy").read_bytes() for n in ("01", "02")] == [b"2", b"1"]
    assert sorted(path.name for path in home.iterdir()) == ["01", "02"]


@pytest.mark.skipif(state.fcntl is None, reason="needs locks")
def test_who_reads_while_a_set_is_saved_sees_one_save(tmp_path):
    save_together(tmp_path, STEM, OLD)
    saving = threading.Thread(target=save_together, args=(tmp_path, STEM, NEW))
    with undisturbed(tmp_path, STEM):
        saving.start()
        saving.join(0.3)
        assert saving.is_alive()
        assert content(tmp_path) == OLD
    saving.join(10)
    with undisturbed(tmp_path, STEM):
        assert content(tmp_path) == NEW


def test_a_disk_that_turned_read_only_is_one_line(tmp_path, monkeypatch):
    """Not even what was begun can be removed then."""
    save_together(tmp_path, STEM, OLD)

    def fixed(*args, **kwargs):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(state, "_write", fixed)
    monkeypatch.setattr(state.Path, "unlink", fixed)
    with pytest.raises(state.NotSaved, match=r"Read-only file system.*the last save is intact"):
        save_together(tmp_path, STEM, NEW)
    monkeypatch.undo()
    assert content(tmp_path) == OLD
