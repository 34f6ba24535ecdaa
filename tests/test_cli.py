"""The command line: help, exit statuses, one line for bad input, nothing left behind."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time

import pytest

import accel.__main__
from accel.cli import COMMANDS, main
from accel.cli.shared import deliver
from accel.core import Cancelled, Refused
from accel.pipelines import doctor
from accel.pipelines.demo import PORTRAIT
from accel.pipelines.verify import Ledger
from accel.weights.assets import asset
from tests.pipelines.clips import write_clip

SOURCE = str(asset(PORTRAIT))


def swap(capsys, *args) -> tuple[int, str, str]:
    status = main(["swap", *map(str, args), "--source", SOURCE])
    out, err = capsys.readouterr()
    return status, out, err


def test_help_of_every_command_has_examples(capsys):
    for command in (name.replace("_", "-") for name in COMMANDS):
        with pytest.raises(SystemExit) as done:
            main([command, "--help"])
        assert done.value.code == 0
        assert "examples:" in capsys.readouterr().out


def test_no_command_prints_help(capsys):
    assert main([]) == 2
    assert "accel COMMAND --help" in capsys.readouterr().out
    assert main(["--version"]) == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("swap a.mp4", "accel: swap: the following arguments are required: output (`accel swap"),
        ("generate x --steps few", "accel: generate: argument --steps: "),
        ("generate x --bogus 3", "accel: generate: unrecognized arguments: --bogus 3 "),
        ("dfl sort ws", "accel: dfl sort: the following arguments are required: --side"),
        ("juggle", "accel: argument COMMAND: invalid choice: 'juggle' "),
    ],
)
def test_a_line_that_cannot_be_parsed_is_told_in_one(words, told, capsys):
    assert main(words.split()) == 2
    err = capsys.readouterr().err
    assert err.startswith(told)
    assert err.endswith("--help` explains)\n")
    assert err.count("\n") == 1


def test_a_shortened_untrusted_does_not_run_unconfined(capsys):
    assert main(["doctor", "--untrust"]) == 2
    assert "unrecognized arguments: --untrust" in capsys.readouterr().err


def test_swap_reports_json(tmp_path, capsys):
    clip = write_clip(tmp_path / "clip.mp4", 4)
    status, out, _ = swap(capsys, clip, tmp_path / "out.mp4", "--json", "-")
    report = json.loads(out)
    assert status == 0
    assert report["frames"] == 4
    assert report["stage_seconds"]["analyse"] > 0
    assert report["peak_memory_mb"] > 50
    assert re.fullmatch(r"cpu: \d+ threads|cuda: .+", report["device"])


def bad_inputs(folder):
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "text.mp4").write_text("this is no video, whatever its name says\n" * 50)
    whole = write_clip(folder / "whole.mp4", 6).read_bytes()
    (folder / "cut.mp4").write_bytes(whole[: len(whole) // 3])
    (folder / "nothing").mkdir()
    return {
        "no such file": folder / "missing.mp4",
        "empty": folder / "empty.mp4",
        "text": folder / "text.mp4",
        "truncated": folder / "cut.mp4",
        "folder": folder / "nothing",
    }


def test_bad_inputs_get_one_line_and_leave_nothing(tmp_path, capsys):
    inputs = bad_inputs(tmp_path)
    before = sorted(p.name for p in tmp_path.iterdir())
    for what, path in inputs.items():
        status, _, err = swap(capsys, path, tmp_path / "out.mp4")
        assert status == 2, what
        assert err.startswith("accel: "), what
        assert err.count("\n") == 1, f"{what}: {err}"
        assert path.name in err, f"{what}: {err}"
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_settings_that_cannot_be(tmp_path, capsys):
    clip = write_clip(tmp_path / "clip.mp4", 2)
    out = tmp_path / "out.mp4"
    for args, text in [
        (["--select", "few"], "select must be"),
        (["--select", "reference"], "reference picture"),
        (["--reference", SOURCE], "must go together, got select all"),
        (["--preview", "sheet.mp4"], "preview must end in .png"),
        (["--preview", tmp_path / "sheet.txt"], "preview must end in .png"),
        (["--swapper", "missing.onnx"], "missing.onnx"),
        (["--codec", "h266"], "h266"),
        (["--device", "tpu"], "device must be"),
        (["--max-distance", "0"], "max_distance must lie above 0"),
    ]:
        status, _, err = swap(capsys, clip, out, *args)
        assert (status, err.count("\n")) == (2, 1), err
        assert text in err
    assert swap(capsys, clip, clip)[0] == 2
    assert swap(capsys, clip, tmp_path / "nowhere" / "out.mp4")[0] == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["clip.mp4"]


@pytest.mark.slow
def test_interrupt_ends_with_130_and_no_file(tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", 300, width=640, height=360)
    process = subprocess.Popen(
        [sys.executable, "-m", "accel", "swap", clip, tmp_path / "out.mp4", "--source", SOURCE],
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and len(os.listdir(tmp_path)) < 2:
        time.sleep(0.05)  # until the temporary output appears
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert err.strip().splitlines()[-1].startswith("accel: cancelled")
    assert os.listdir(tmp_path) == ["clip.mp4"]


def test_doctor_says_what_works(capsys):
    assert main(["doctor", "--json", "-"]) == 0
    report = json.loads(capsys.readouterr().out)
    found = {(f["group"], f["name"]): f for f in report["findings"]}
    assert report["works"]
    assert found["onnx runtime", "CPU"]["works"]
    assert any(name == "  crop" for _, name in found)
    assert all(f["detail"] or f["works"] for f in report["findings"])


def test_doctor_ends_with_1_where_something_needed_is_missing(capsys, monkeypatch):
    missing = doctor.Finding("machine", "torch", False, "not installed", needed=True)
    monkeypatch.setattr(doctor, "_machine", lambda: iter([missing]))
    monkeypatch.setattr(doctor, "_codecs", lambda: iter([]))
    assert main(["doctor"]) == 1
    assert "something needed is missing" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["doctor", "verify x.png", "swap a.mp4 b.mp4 --source c.png"])
def test_a_report_that_cannot_be_written_is_told_before_the_work(command, tmp_path, capsys):
    for target in (tmp_path, tmp_path / "absent" / "report.json"):
        assert main([*command.split(), "--json", str(target)]) == 2
        told = capsys.readouterr()
        assert told.err.startswith(f"accel: {target}: must ")
        assert not told.out


def test_a_root_to_trust_must_be_one(tmp_path, capsys):
    (tmp_path / "root.pem").write_text("-----BEGIN CERTIFICATE-----\nnonsense")
    assert main(["verify", str(tmp_path), "--trust", str(tmp_path / "root.pem")]) == 2
    assert "root.pem: must hold certificates in PEM" in capsys.readouterr().err


def test_verify_says_what_is_known_and_ends_with_its_status(tmp_path, capsys):
    clip = write_clip(tmp_path / "clip.mp4", 26, width=640, height=360)
    status, out, _ = swap(capsys, clip, tmp_path / "out.mp4", "--consent", "fiction")
    assert status == 0
    assert sum(line.startswith("marked: invisible mark") for line in out.splitlines()) == 1
    assert main(["verify", str(tmp_path / "out.mp4"), "--explain", "--language", "en"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("out.mp4\nPROVEN")
    assert "INDICATED" in out
    assert "Where was it published first" in out
    assert main(["verify", str(tmp_path / "out.mp4"), "--language", "ko"]) == 0
    assert "증명됨" in capsys.readouterr().out
    assert main(["verify", str(tmp_path / "absent.mp4")]) == 4
    assert main(["verify", str(tmp_path), "--json", "-"]) == 2  # the clip looks like what was made
    out = capsys.readouterr().out
    told = json.loads(out[out.index("{") :])
    assert [one["status"] for one in told["files"]] == [2, 0]


def test_a_wrong_option_of_verify_is_told_before_anything_is_looked_at(tmp_path, capsys):
    absent = tmp_path / "absent" / "page.html"
    assert main(["verify", SOURCE, "--report", str(absent)]) == 2
    told = capsys.readouterr()
    assert told.err.startswith(f"accel: {absent}: must lie in a folder")
    assert not told.out


def test_what_ends_a_confined_verify_is_no_indication(capsys):
    assert main(["verify", SOURCE, "--untrusted-memory-mb", "30"]) == 4
    assert "accel verify: must work in 30 MB of memory" in capsys.readouterr().err


def test_ledger_lists_checks_and_exports(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("ACCEL_HOME", str(tmp_path))
    assert main(["ledger", "list"]) == 0
    assert "no entries" in capsys.readouterr().out
    ledger = Ledger()
    for number in range(3):
        ledger.add(task="edit", sha256=f"{number:064}")
    assert main(["ledger", "list", "--last", "2"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert main(["ledger", "verify"]) == 0
    assert "the chain of 3 entries holds" in capsys.readouterr().out
    assert main(["ledger", "export"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["number"] for line in lines] == [1, 2, 3]
    assert main(["ledger", "export", "--last", "1"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1
    assert main(["ledger", "export", "--json", str(tmp_path / "all.json")]) == 0
    assert capsys.readouterr().out == f"3 entries written to {tmp_path / 'all.json'}\n"
    assert len(json.loads((tmp_path / "all.json").read_text())["entries"]) == 3
    assert main(["ledger", "verify", "--file", str(tmp_path / "typo.sqlite")]) == 2
    assert "no such file" in capsys.readouterr().err
    assert main(["ledger", "list", "--last", "-1"]) == 2
    assert "--last must be at least 1" in capsys.readouterr().err
    with sqlite3.connect(ledger.path) as base:
        base.execute("UPDATE entries SET consent = 'own' WHERE number = 2")
    assert main(["ledger", "verify"]) == 1
    assert "entry 2 was altered" in capsys.readouterr().out
    with sqlite3.connect(ledger.path) as base:
        base.execute("UPDATE entries SET looks = 'none' WHERE number = 3")
    assert main(["ledger", "verify", "--json", "-"]) == 1
    assert len(json.loads(capsys.readouterr().out)["faults"]) == 2
    (tmp_path / "ledger.sqlite").write_text("not a ledger" * 100)
    assert main(["ledger", "list"]) == 2


@pytest.mark.parametrize(
    ("error", "status", "says"),
    [
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 2, "needs more memory"),
        (MemoryError(), 2, "needs more memory"),
        (Refused("no"), 3, "refused: no"),
        (Cancelled("cancelled"), 130, "cancelled; nothing half done was left behind"),
        (Cancelled("2 of 3 films are done"), 130, "cancelled; 2 of 3 films are done"),
    ],
)
def test_what_ends_a_command_is_one_line(error, status, says, monkeypatch, capsys):
    def fail(args):
        raise error

    monkeypatch.setattr("accel.cli.doctor.run", fail)
    assert main(["doctor"]) == status
    told = capsys.readouterr().err
    assert says in told
    assert told.count("\n") == 1


def test_a_bug_keeps_its_traceback(monkeypatch):
    def fail(args):
        raise RuntimeError("a bug")

    monkeypatch.setattr("accel.cli.doctor.run", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        main(["doctor"])


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCEL_HOME", str(tmp_path))
    for number in range(3):
        Ledger().add(task="edit", sha256=f"{number:064}")
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as closed:
        command = [sys.executable, "-m", "accel", "ledger", "list"]
        done = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 141
    assert done.stderr == b""


def test_an_interrupt_while_everything_loads_is_one_line(monkeypatch, capsys):
    class Interrupted:
        @staticmethod
        def find_spec(name, *_):
            if name == "accel.cli":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "accel.cli")
    monkeypatch.setattr(sys, "meta_path", [Interrupted(), *sys.meta_path])
    assert accel.__main__.main() == 130
    assert capsys.readouterr().err == "accel: cancelled; nothing was begun\n"


def test_a_terminal_without_the_letters_of_a_result_is_no_traceback(tmp_path):
    """`verify --language ko` where standard output takes ASCII alone ended in a traceback."""
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    words = [sys.executable, "-m", "accel", "verify", str(tmp_path), "--language", "ko"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (4, "")
    assert "\\uacb0\\ub860" in done.stdout  # CONCLUSION, in Korean


@pytest.mark.parametrize("name", ["\x1b[31mred", "a\u202eb", "a\udcffb", "a\rb"])
def test_a_name_does_not_write_to_the_terminal_when_a_result_is_told(
    tmp_path, capsys, monkeypatch, name
):
    """What was written was told by its name as it is, control characters and all."""
    monkeypatch.setenv("ACCEL_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("no picture")
    assert main(["ledger", "export", "--json", name]) == 0
    assert main(["verify", "a.txt", "--json", name]) == 4
    deliver({}, None, f"{name}.png: done\nand more")
    out, err = capsys.readouterr()
    assert (out + err).replace("\n", "").isprintable()
    assert "and more\n" in out


def test_a_link_that_leads_to_itself_is_an_error_of_one_line(tmp_path, capsys):
    (tmp_path / "in.png").write_bytes(b"no picture")
    (tmp_path / "out.png").symlink_to("out.png")
    words = ["swap", str(tmp_path / "in.png"), str(tmp_path / "out.png")]
    assert main([*words, "--source", str(tmp_path / "in.png")]) == 2
    assert capsys.readouterr().err == (
        "accel: a file that was named is a link that leads to itself\n"
    )
