"""The confined child: what it may not do, and that whatever it dies of becomes one clear error."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from accel.cli import main
from accel.cli.shared import take_untrusted
from accel.core import ConfigError, InputError
from accel.pipelines.untrusted import ChildLimits, run_command, run_untrusted
from accel.weights.assets import asset

HERE = "tests.hostile.jobs"
PICTURE = asset("astronaut.png")


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    root = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]))


def test_a_result_comes_back():
    assert run_untrusted(f"{HERE}:add", 2, 3) == 5


def test_what_the_job_says_no_with_is_raised():
    with pytest.raises(InputError, match="clip: must be a clip"):
        run_untrusted(f"{HERE}:refuse", "clip")
    with pytest.raises(ConfigError, match="crf must"):
        run_untrusted(f"{HERE}:misconfigured")


def test_a_crash_is_one_error():
    with pytest.raises(InputError, match=r"crash: the confined process was ended by SIG\w+; the"):
        run_untrusted(f"{HERE}:crash", "")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("job", "limits", "message"),
    [
        ("leave", {}, "leave: the confined process failed"),
        ("fail", {}, "fail: the confined process failed"),
        ("sleep", {"seconds": 3}, "must be done in 3 s"),
        ("eat_slowly", {"memory_mb": 600}, "must work in 600 MB of memory, needs more"),
        ("eat", {"data_mb": 2000, "memory_mb": 2000}, "needs more memory"),
        ("burn", {"cpu_s": 4}, "burn: the confined process was ended by SIG|cancelled"),
        ("shout", {}, "the answer must take"),
        ("write_much", {"file_mb": 1}, "File too large"),
        ("open_many", {"open_files": 30}, "Too many open files"),
    ],
)
def test_whatever_ends_a_job_is_one_error(job, limits, message, tmp_path):
    start = time.monotonic()
    with pytest.raises(InputError, match=message) as caught:
        run_untrusted(f"{HERE}:{job}", str(tmp_path), limits=ChildLimits(**limits))
    assert "\n" not in str(caught.value)
    assert time.monotonic() - start < 40


def test_no_socket_opens_in_the_child():
    with socket.create_server(("127.0.0.1", 0)) as server:
        found = run_untrusted(f"{HERE}:reach", server.getsockname()[1])
        server.settimeout(0.2)
        with pytest.raises(TimeoutError):
            server.accept()
    assert found == {
        "python": "PermissionError",
        "native": 13,
        "ring": 13,
        "look_up": "PermissionError",
    }


@pytest.mark.slow
def test_a_command_runs_as_it_would_alone(capfd):
    assert run_command(["--version"]) == 0
    assert capfd.readouterr().out[0].isdigit()


def test_the_option_may_stand_anywhere():
    assert take_untrusted(["swap", "a", "b"]) == (["swap", "a", "b"], None)
    assert take_untrusted(["--untrusted", "swap", "a"]) == (["swap", "a"], {})
    words = ["swap", "a", "--untrusted-seconds", "9", "--untrusted-memory-mb=50"]
    assert take_untrusted(words) == (["swap", "a"], {"seconds": 9, "memory_mb": 50})
    assert take_untrusted(["swap", "--", "--untrusted"]) == (["swap", "--", "--untrusted"], None)


def test_a_bad_number_is_one_line(capfd):
    assert main(["swap", "--untrusted-seconds", "soon"]) == 2
    assert capfd.readouterr().err.count("\n") == 1
    assert main(["swap", "--untrusted-seconds", "0"]) == 2
    assert "seconds must be above 0" in capfd.readouterr().err


@pytest.mark.slow
def test_a_command_that_is_stopped_leaves_one_line_and_no_file(tmp_path):
    from tests.pipelines.clips import write_clip

    clip = write_clip(tmp_path / "clip.mp4", 500, width=640, height=360)
    words = ["swap", clip, tmp_path / "out.mp4", "--source", "accel/assets/astronaut.png"]
    ran = subprocess.run(
        [sys.executable, "-m", "accel", *words, "--untrusted-memory-mb", "250"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 2
    assert ran.stderr == "accel: accel swap: must work in 250 MB of memory, needs more\n"
    assert os.listdir(tmp_path) == ["clip.mp4"]


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_who_asks_it_to_stop_hears_no_blame(tmp_path, name):
    """Neither is the input damaged, nor is it said twice that the run was cancelled."""
    folder = tmp_path / "in"
    folder.mkdir()
    for index in range(200):
        (folder / f"{index:03}.png").write_bytes(PICTURE.read_bytes())
    command = [sys.executable, "-m", "accel", "--untrusted", "swap", str(folder),
               str(tmp_path / "out"), "--source", str(PICTURE)]  # fmt: skip
    running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    children = Path(f"/proc/{running.pid}/task/{running.pid}/children")
    while running.poll() is None and not children.read_text():
        time.sleep(0.05)
    time.sleep(0.3)
    running.send_signal(getattr(signal, name))
    _, told = running.communicate(timeout=60)
    assert running.returncode == 130, told
    assert told.startswith("accel: cancelled; ")
    assert told.count("\n") == 1
    assert not (tmp_path / "out").exists()
