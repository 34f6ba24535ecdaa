"""What every package leans on."""

from __future__ import annotations

import gc
import os
import sys

import pytest

from accel.core import (
    Cancel,
    Cancelled,
    ConfigError,
    InputError,
    choose_device,
    light_collector,
    one_line,
    parse_json,
    read_file,
    write_text,
)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb\r\tc", "a b c"),
        ("\x1b[2J\x1b]0;owned\x07", "\\x1b[2J\\x1b]0;owned\\x07"),
        ("gpj\u202e.exe", "gpj\\u202e.exe"),
        ("딥페이크 \u3000é ✓", "딥페이크 é ✓"),
        ("\ud800", "\\ud800"),
    ],
)
def test_what_strangers_wrote_is_shown_on_one_line(text, shown):
    assert one_line(text) == shown
    assert str(InputError(text)) == shown


def test_escapes_do_not_make_a_text_longer():
    assert len(one_line("\U000e0001" * 900)) <= 1000


def test_a_long_text_keeps_its_ends():
    shown = one_line("start" + "x" * 10**6 + "end")
    assert shown.startswith("start")
    assert shown.endswith("end")
    assert len(shown) <= 1000


def test_reads_nothing_but_files(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (pipe, tmp_path, "/dev/zero"):
        with pytest.raises(InputError, match="must be a key, is a folder, pipe or device"):
            read_file(path, 100, "a key")
    if sys.platform == "linux":  # some of these wait for what the kernel will say next
        (tmp_path / "link").symlink_to("/proc/self/status")
        with pytest.raises(InputError, match="link: must be a key, is made up by the kernel"):
            read_file(tmp_path / "link", 100, "a key")
    file = tmp_path / "file"
    file.write_bytes(b"x" * 100)
    assert read_file(file, 100) == b"x" * 100
    with pytest.raises(InputError, match="of 99 bytes at most"):
        read_file(file, 99)
    with pytest.raises(InputError, match="no such file"):
        read_file(tmp_path / "none", 9)
    with pytest.raises(InputError, match="must be the name of a file"):
        read_file(tmp_path / "a\0b", 9)


def test_the_collector_is_left_as_it_was_found():
    with light_collector():
        assert gc.get_freeze_count() > 1000
        with light_collector():  # a second engine in the same process
            pass
        assert gc.get_freeze_count() > 1000
    assert gc.get_freeze_count() == 0
    with pytest.raises(RuntimeError), light_collector():
        raise RuntimeError
    assert gc.get_freeze_count() == 0


def test_rubbish_made_inside_is_collected():
    class Node:
        pass

    with light_collector():
        node = Node()
        node.itself = node
        del node
        assert gc.collect() > 0


def test_cancel_is_seen():
    cancel = Cancel()
    cancel.check()
    cancel.set()
    with pytest.raises(Cancelled):
        cancel.check()


@pytest.mark.parametrize("name", ["tpu", "cpu:1", "cuda:x", "", "cuda:99"])
def test_a_device_that_is_not_there_is_refused(name):
    with pytest.raises(ConfigError, match="device"):
        choose_device(name)


def test_auto_is_a_device():
    assert choose_device("auto").type in ("cpu", "cuda")


def test_a_pipe_that_nobody_reads_is_an_error(tmp_path):
    os.mkfifo(tmp_path / "p")
    with pytest.raises(OSError, match="No such device"):
        write_text(tmp_path / "p", "x")
    write_text(tmp_path / "a.json", "ä\n")
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == "ä\n"


@pytest.mark.parametrize("text", ["[" + "[]," * 2_100_000 + "[]]", b'{"a":' * 2_100_000])
def test_json_that_would_become_a_gigabyte_is_refused_unread(text):
    with pytest.raises(InputError, match="x: must be JSON of 4000000 items at most, has more"):
        parse_json(text, "x")
