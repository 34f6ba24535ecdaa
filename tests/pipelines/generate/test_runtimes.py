"""ONNX Runtime in the networks' place, and staying under a ceiling of memory."""

from __future__ import annotations

import pytest
import torch

import accel
from accel.core import ConfigError
from accel.models.export import export_model
from accel.pipelines.generate import memory
from accel.pipelines.generate.memory import Budget

FAST = {"steps": 2, "cfg": 3.0, "output": "latent"}


def test_onnx_runtime_gives_the_same_picture(nano, tmp_path):
    export_model(nano.loaded, tmp_path / "model")
    other = accel.load(tmp_path / "model")
    prompt = "a (red:1.3) apple"
    expected, got = nano.sample(prompt, **FAST), other.sample(prompt, **FAST)
    assert ((got - expected).norm() / expected.norm()).item() < 1e-4
    torch.testing.assert_close(other.decode(got), nano.decode(got), atol=1e-4, rtol=1e-4)
    for options in ({"tiling": True}, {"pag": 1.0}):
        with pytest.raises(ConfigError, match="not exported ones"):
            other.sample("a tree", **options)
    with pytest.raises(ConfigError, match="width must be a multiple of 16 pixels for this model"):
        other.sample("a tree", width=72)
    with pytest.raises(ConfigError, match="runtime must be one of"):
        accel.load("nano", runtime="tensorrt")


def test_a_ceiling_makes_smaller_pieces(nano, monkeypatch):
    vae, config = nano.loaded.model.vae, nano.loaded.model.config
    monkeypatch.setattr(memory, "resident_mb", lambda: 500.0)
    dtype = torch.float32
    assert Budget().tile(vae, 512, 512, dtype) is None
    assert Budget(4000).tile(vae, 512, 512, dtype) is None
    assert Budget(800).tile(vae, 512, 512, dtype) == 96
    assert Budget(600).tile(vae, 512, 512, dtype) == 32
    assert not Budget(4000).one_by_one(config, 128, 128, dtype)
    assert Budget(700).one_by_one(config, 128, 128, dtype)
    with pytest.raises(ConfigError, match=r"max_memory must be about .* MB or more for sampling"):
        Budget(600).one_by_one(config, 128, 128, dtype)
    with pytest.raises(ConfigError, match="for the autoencoder in tiles, got 565"):
        Budget(565).tile(vae, 512, 512, dtype)
    with pytest.raises(ConfigError, match="leave room for the weights"):
        Budget(570).check_weights(nano.path)
    with pytest.raises(ConfigError, match="max_memory must be above 0"):
        Budget(0)


def test_smaller_pieces_give_the_same_picture(nano, monkeypatch):
    wide = FAST | {"width": 512, "height": 64, "steps": 1}
    expected = nano.sample("a tree", **wide)
    image = nano.decode(expected)
    monkeypatch.setattr(nano, "budget", Budget(550))
    monkeypatch.setattr(memory, "resident_mb", lambda: 470.0)  # leaves 16 MB
    got = nano.sample("a tree", **wide)
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)
    assert nano.budget.tile(nano.loaded.model.vae, 16, 128, torch.float32) is not None
    assert (nano.decode(expected) - image).abs().mean() < 0.02
