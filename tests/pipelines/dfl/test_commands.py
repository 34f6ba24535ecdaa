"""`accel dfl` as it is typed: reports, prompts, exit statuses, one line for bad input."""

from __future__ import annotations

import io
import json
import sys

import pytest
from PIL import Image

from accel.cli import main
from accel.faces.faceset import faces_in, read_face
from tests.pipelines.dfl.clips import FRAMES, workspace
from tests.pipelines.dfl.test_encode import merge

EVERY_REPORT = {"command", "workspace", "notes", "seconds", "peak_memory_mb", "device", "versions"}
STEPS = ("clear", "frames", "extract", "sort", "pack", "unpack", "encode")


def run(capsys, *args) -> tuple[int, str, str]:
    status = main(["dfl", *map(str, args)])
    out, err = capsys.readouterr()
    return status, out, err


def answers(monkeypatch, *lines: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))


def test_every_step_explains_itself_with_examples(capsys):
    for step in STEPS:
        with pytest.raises(SystemExit) as done:
            main(["dfl", step, "--help"])
        assert done.value.code == 0
        text = capsys.readouterr().out
        assert "examples:" in text
        assert "--interactive" in text
    status, out, _ = run(capsys)
    assert status == 2
    assert all(step in out for step in STEPS)


def test_the_whole_chain_but_the_training(tmp_path, capsys):
    workspace(tmp_path, audio=True)
    for side in ("src", "dst"):
        status, out, err = run(
            capsys, "extract", tmp_path, "--side", side, "--size", 96, "--json", "-"
        )
        assert (status, err) == (0, "")
        report = json.loads(out)
        assert (report["faces"], report["face_type"]) == (FRAMES, "whole_face")
        assert {"seconds", "fps", "peak_memory_mb", "versions", "networks"} <= set(report)
    for step in (("sort", "--by", "blur"), ("pack",), ("unpack",), ("frames",)):
        status, out, err = run(capsys, *step, tmp_path, "--side", "src", "--json", "-")
        assert (status, err) == (0, "")
        assert set(json.loads(out)) >= EVERY_REPORT
    merge(tmp_path)
    status, out, _ = run(capsys, "encode", tmp_path, "--to", tmp_path / "out.mkv", "--crf", 30)
    assert status == 0
    assert "marked:" in out
    assert (tmp_path / "out.mkv").exists()
    for step in (("encode", tmp_path, "--crf", 30), ("clear", tmp_path, "--yes")):
        status, out, _ = run(capsys, *step, "--json", "-")
        assert status == 0
        assert set(json.loads(out)) >= EVERY_REPORT


def test_clear_asks_only_when_told_to(tmp_path, capsys, monkeypatch):
    workspace(tmp_path, sides=("src",), frames=3)
    run(capsys, "frames", tmp_path, "--side", "src")
    answers(monkeypatch, "y")
    status, out, _ = run(capsys, "clear", tmp_path)
    assert status == 2
    assert "4 files to be removed" in out
    assert "--yes" in out
    assert (tmp_path / "data_src" / "00001.png").exists()
    answers(monkeypatch, "n")
    status, _, err = run(capsys, "clear", tmp_path, "--interactive")
    assert "remove these" in err
    assert (tmp_path / "data_src" / "00001.png").exists()
    answers(monkeypatch, "y")
    assert run(capsys, "clear", tmp_path, "--interactive")[0] == 0
    assert not (tmp_path / "data_src").exists()
    assert run(capsys, "clear", tmp_path)[0] == 0


def test_yes_clears_without_a_word(tmp_path, capsys):
    workspace(tmp_path, sides=("src",), frames=3)
    run(capsys, "frames", tmp_path, "--side", "src")
    assert run(capsys, "clear", tmp_path, "--yes", "--only", "frames")[0] == 0
    assert [p.name for p in tmp_path.iterdir()] == ["data_src.mp4"]


def test_extract_asks_what_was_left_open(tmp_path, capsys, monkeypatch):
    workspace(tmp_path, sides=("src",), frames=2)
    answers(monkeypatch, "head", "", "128", "80", "n")
    status, _, err = run(capsys, "extract", tmp_path, "--side", "src", "--interactive")
    assert status == 0
    assert "face type" in err
    record = read_face(faces_in(tmp_path / "data_src" / "aligned")[0])
    assert record.face_type.value == "head"
    answers(monkeypatch, "head", "many")
    status, _, err = run(capsys, "extract", tmp_path, "--side", "src", "--interactive")
    assert status == 2
    assert "cannot be 'many'" in err


@pytest.mark.parametrize(
    ("args", "wanted"),
    [
        (("extract", "{0}/nowhere", "--side", "src"), "must be a folder"),
        (("extract", "{0}", "--side", "src"), "must hold a film data_src.*"),
        (("extract", "{0}", "--side", "src", "--face-type", "nose"), "face type must be one of"),
        (("extract", "{0}", "--side", "dst", "--fps", "5"), "fps thins out src alone"),
        (("frames", "{0}", "--side", "dst", "--fps", "-1"), "fps must lie in"),
        (("frames", "{0}", "--side", "dst", "--quality", "200"), "quality must lie in"),
        (("sort", "{0}", "--side", "src", "--by", "beauty"), "must be by one of"),
        (("sort", "{0}", "--side", "src"), "must hold aligned faces"),
        (("pack", "{0}", "--side", "dst"), "must hold aligned faces"),
        (("encode", "{0}"), "must hold merged frames"),
    ],
)
def test_bad_input_is_one_line(tmp_path, capsys, args, wanted):
    status, out, err = run(capsys, *[a.format(tmp_path) for a in args])
    assert (status, out) == (2, "")
    assert wanted in err
    assert err.startswith("accel: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("kind", ["half", "midfull"])
def test_next_step_trains_a_model_that_the_faces_are_large_enough_for(tmp_path, capsys, kind):
    workspace(tmp_path)
    for side in ("src", "dst"):
        status, out, _ = run(capsys, "extract", tmp_path, "--side", side, "--face-type", kind)
        assert status == 0
    wanted = f"next: accel dfl train {tmp_path} --model saehd --face-type {kind}"
    assert out.splitlines()[-1] == f"{wanted} --iterations 100000"
    run(capsys, "pack", tmp_path, "--side", "src")
    status, out, _ = run(capsys, "sort", tmp_path, "--side", "dst", "--by", "blur")
    assert (status, out.splitlines()[-1]) == (0, f"{wanted} --iterations 100000")


def test_extract_that_found_no_face_is_not_told_to_extract_again(tmp_path, capsys):
    for side in ("src", "dst"):
        (tmp_path / f"data_{side}").mkdir()
        Image.new("RGB", (64, 64), (90, 120, 60)).save(tmp_path / f"data_{side}" / "00001.png")
        status, out, _ = run(capsys, "extract", tmp_path, "--side", side)
        assert status == 0
        told = out.splitlines()[-1]
        if side == "src":
            assert told.startswith("next: a film or pictures that show a face, as ")
            assert "data_src" in told
        else:  # the other side's are missing too
            assert told == f"next: accel dfl extract {tmp_path} --side src"
