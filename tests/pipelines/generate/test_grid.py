"""X/Y/Z grids: what axes mean, that cells are what they say, and bad ones."""

from __future__ import annotations

import json

import numpy as np
import pytest

import accel
from accel.cli import main
from accel.core import ConfigError
from accel.pipelines.generate import grid as grids
from accel.pipelines.generate.grid import Axis, axis_of, combined, grid, listed
from accel.pipelines.generate.infotext import parse


@pytest.mark.parametrize(
    ("text", "name", "values"),
    [
        ("steps=4,8", "steps", (4, 8)),
        ("CFG Scale=1-3", "cfg", (1.0, 2.0, 3.0)),
        ("cfg=1-7 [3]", "cfg", (1.0, 4.0, 7.0)),
        ("seed=1-9 (+4), 100", "seed", (1, 5, 9, 100)),
        ("strength=1-0 (-0.5)", "strength", (1.0, 0.5, 0.0)),
        ('prompt=cat, "a dog, old", 1-3', "prompt", ("cat", "a dog, old", "1-3")),
        ("sampler=euler,DPM++ 2M", "sampler", ("euler", "DPM++ 2M")),
        ("tiling=true,false", "tiling", (True, False)),
        ("lora_weight=0-1 (+0.5)", "lora_weight", (0.0, 0.5, 1.0)),
    ],
)
def test_axes(text, name, values):
    assert axis_of(text) == Axis(name, values)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("cfgg=1", "no axis is called 'cfgg'; near: cfg"),
        ("steps", "NAME=VALUE"),
        ("steps=few", "axis steps: 'few' is no value of it"),
        ("count=1,2", "no axis is called 'count'"),
    ],
)
def test_refuses(text, error):
    with pytest.raises(ConfigError, match=error):
        axis_of(text)


def test_replaces_words_and_lora_weights():
    axes = [axis_of("prompt=cat,dog"), axis_of("lora_weight=0.5"), Axis("", ("",))]
    jobs = list(combined("a cat <lora:x:1>", "no cat", {"loras": (("y", 1.0),)}, axes))
    assert [job[:2] for job in jobs] == [
        ("a cat <lora:x:0.5>", "no cat"),
        ("a dog <lora:x:0.5>", "no dog"),
    ]
    assert jobs[0][2]["loras"] == (("y", 0.5),)
    with pytest.raises(ConfigError, match="'cow' is not in the prompt"):
        list(combined("a cat", "", {}, [axis_of("prompt=cow,dog"), *axes[2:], *axes[2:]]))
    with pytest.raises(ConfigError, match="no LoRA is asked for"):
        list(combined("a cat", "", {}, [axis_of("lora_weight=1"), *axes[2:], *axes[2:]]))


def test_cells_are_the_pictures_that_they_say(nano):
    sampler = accel.Sampler(nano)
    made = grid(
        sampler, "a tree", x=axis_of("seed=3,4"), y=axis_of("cfg=1,3"), settings={"steps": 1}
    )
    assert len(made.cells) == 4
    alone = sampler("a tree", seed=4, cfg=3.0, steps=1)[0]
    assert np.array_equal(made.cells[3].rgb, alone.rgb)
    height, width = made.rgb.shape[:2]
    last = made.rgb[height - 64 - grids.GAP_PX : height - grids.GAP_PX]
    assert np.array_equal(last[:, width - 64 - grids.GAP_PX : width - grids.GAP_PX], alone.rgb)
    assert 'X Values: "3,4"' in made.infotext


def test_a_bad_value_is_found_before_any_work(nano, monkeypatch):
    sampler = accel.Sampler(nano)
    monkeypatch.setattr(nano, "use_loras", lambda *args: pytest.fail("began to work"))
    with pytest.raises(ConfigError, match="near: euler"):
        grid(sampler, "a tree", x=axis_of("sampler=heun,eulr"))
    with pytest.raises(ConfigError, match="at most 400 pictures"):
        grid(sampler, "a tree", x=axis_of("seed=1-401"))


def test_from_the_command_line(tmp_path, capsys):
    out = tmp_path / "grid.png"
    args = ["generate", "a tree", "-o", out, "--x", "cfg=1,2", "--steps", "1", "--json", "-"]
    assert main(list(map(str, args))) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["files"] == [str(out)]
    assert len(report["pictures"]) == 2


def test_values_are_quoted_as_the_text_wants_it():
    values = listed(["a", 'say "b", c'])
    text = f"a\nSteps: 1, Seed: 2, X Values: {values}, Version: x"
    assert parse(text).pairs["X Values"] == 'a,say "b", c'
