"""ControlNets and T2I-Adapters in whole runs, on very small networks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import accel
from accel.cli import main
from accel.core import ConfigError, InputError
from accel.models import stable_diffusion as sd
from accel.pipelines.generate import load
from accel.pipelines.generate.controls import Control
from accel.pipelines.generate.infotext import parse
from accel.pipelines.generate.output import text_of
from tests.pipelines.generate.tiny import CONFIG, write_adapter, write_checkpoint, write_control

FAST = {"steps": 4, "cfg": 3.0, "output": "latent", "seed": 1}
OTHER = replace(CONFIG, unet=replace(CONFIG.unet, channels=64, heads=4))


@pytest.fixture(autouse=True)
def members(monkeypatch):
    monkeypatch.setattr(sd, "CONFIGS", {"sd1": CONFIG, "sd2": OTHER})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("controls")
    write_checkpoint(folder / "tiny.safetensors")
    write_control(folder / "edges.safetensors")
    write_control(folder / "other.safetensors", OTHER.unet)
    write_adapter(folder / "sketch.safetensors")
    noise = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)
    Image.fromarray(noise).save(folder / "hint.png")
    return folder


@pytest.fixture
def model(folder):
    return load(folder / "tiny.safetensors")


@pytest.mark.parametrize("name", ["edges", "sketch"])
def test_a_picture_steers(model, folder, name):
    def latent(*rest, **options):
        one = (folder / f"{name}.safetensors", folder / "hint.png", *rest)
        return model.sample("a", controls=[one], **(FAST | options))

    plain, steered = model.sample("a", **FAST), latent()
    assert (steered - plain).abs().max() > 1e-3
    assert torch.equal(steered, latent())
    assert torch.equal(latent(0.0), plain)
    assert torch.equal(latent(1.0, 0.9, 0.95), plain)  # no whole step lies between
    for other in (latent(0.5), latent(1.0, 0.5), latent(1.0, 0.0, 0.5)):
        assert not torch.equal(other, steered)
        assert not torch.equal(other, plain)
    modes = [latent(1.0, 0.0, 1.0, mode) for mode in ("balanced", "prompt", "control")]
    assert torch.equal(modes[0], steered)
    assert not torch.equal(modes[1], modes[0])
    assert not torch.equal(modes[2], modes[1])


@pytest.mark.parametrize("name", ["edges", "sketch"])
def test_sides_that_halve_unevenly(model, folder, name):
    one = (folder / f"{name}.safetensors", folder / "hint.png")
    assert model.sample("a", controls=[one], width=72, height=40, **FAST).shape == (1, 4, 5, 9)


def test_two_add_up(model, folder):
    picture = folder / "hint.png"
    half, whole = (Control(folder / "edges.safetensors", picture, w) for w in (0.5, 1.0))
    twice = model.sample("a", controls=[half, half], **FAST)
    torch.testing.assert_close(twice, model.sample("a", controls=[whole], **FAST))
    both = [whole, Control(folder / "sketch.safetensors", picture)]
    assert model.sample("a", controls=both, **FAST).isfinite().all()
    assert len(model.controls) == 2
    model.sample("a", **FAST)
    assert not model.controls


def test_in_every_kind_of_run(model, folder):
    init = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    mask = torch.zeros(64, 64)
    mask[16:40, 8:40] = 1
    controls = [(folder / f"{n}.safetensors", folder / "hint.png") for n in ("edges", "sketch")]
    for options in (
        {"init": init},
        {"init": init, "mask": mask},
        {"init": init, "mask": mask, "only_masked": True},
        {"hires_scale": 2.0},
        {"width": 96, "height": 32},
        {"pag": 2.0},
        {"skip_early": 0.4},
        {"tiling": True},
        {"prompt": "a AND b"},
        {"prompt": "word " * 80},
    ):
        asked = {"prompt": "a"} | FAST | options
        got, plain = model.sample(controls=controls, **asked), model.sample(**asked)
        assert got.isfinite().all()
        assert not torch.equal(got, plain), options


def test_a_picture_is_the_same_alone_and_in_a_batch(model, folder):
    controls = [(folder / "edges.safetensors", folder / "hint.png")]
    batch = model.sample("a", controls=controls, count=2, **FAST)
    alone = model.sample("a", controls=controls, **(FAST | {"seed": 2}))
    assert torch.equal(batch[1:], alone)


@pytest.mark.parametrize("channels", [8, 9])
def test_networks_that_see_more_than_the_latent(folder, tmp_path, channels):
    model = load(write_checkpoint(tmp_path / "more.safetensors", channels))
    assert model.name == {8: "sd1-edit", 9: "sd1-inpaint"}[channels]
    init = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    mask = torch.zeros(64, 64)
    mask[16:40, 8:40] = 1
    controls = [(folder / "edges.safetensors", folder / "hint.png")]
    runs = [{"init": init}, {"init": -init}]
    runs += [{"init": init, "image_cfg": 3.0}] if channels == 8 else [{"init": init, "mask": mask}]
    runs += [{"init": init, "controls": controls}]
    latents = [model.sample("a", **FAST, **options) for options in runs]
    for i, latent in enumerate(latents):
        assert latent.isfinite().all()
        assert all(not torch.equal(latent, other) for other in latents[:i])
    if channels == 8:
        with pytest.raises(ConfigError, match="edits pictures, so init must be given"):
            model.sample("a", **FAST)
    else:
        kept = latents[2][..., 6:, :]  # below the mask
        torch.testing.assert_close(kept, model.encode(init[None])[..., 6:, :])


def test_refuses_what_does_not_fit(model, folder, tmp_path):
    picture = folder / "hint.png"

    def sample(*control):
        model.sample("a", controls=[control], **FAST)

    with pytest.raises(InputError, match=r"is a ControlNet for sd2, but tiny\.safetensors is sd1"):
        sample(folder / "other.safetensors", picture)
    with pytest.raises(InputError, match="must be a ControlNet or T2I-Adapter"):
        sample(folder / "tiny.safetensors", picture)
    wide = write_adapter(tmp_path / "wide.safetensors", accel_adapter((64, 128)))
    with pytest.raises(InputError, match=r"T2I-Adapter for sd1 .* tiny\.safetensors is sd1"):
        sample(wide, picture)
    xl = write_adapter(tmp_path / "xl.safetensors", accel_adapter((32, 64), "full-xl", 16))
    with pytest.raises(InputError, match="T2I-Adapter for sdxl"):
        sample(xl, picture)
    for rest, text in (
        ((float("nan"),), "weight must lie in"),
        ((1.0, 0.8, 0.2), "start <= end"),
        ((1.0, 0.0, 1.0, "loud"), "mode must be one of"),
    ):
        with pytest.raises(ConfigError, match=text):
            sample(folder / "edges.safetensors", picture, *rest)
    with pytest.raises(ConfigError, match="controls must be"):
        sample(folder / "edges.safetensors")
    with pytest.raises(ConfigError, match="no control is called 'none'"):
        sample("none", picture)


def accel_adapter(channels, kind="full", factor=8):
    from accel.nn.adapter import AdapterConfig

    return AdapterConfig(kind=kind, channels=channels, blocks=1, factor=factor)


def test_command_line_text_and_repeating(folder, tmp_path, capsys):
    out, again = tmp_path / "a.png", tmp_path / "b.png"
    steer = ["--control", folder / "edges.safetensors", "--control-image", folder / "hint.png",
             "--control-weight", 0.5, "--control-end", 0.75]  # fmt: skip
    options = ["--model", folder / "tiny.safetensors", "--steps", 2, "--device", "cpu"]

    def run(*args):
        status = main(["generate", *map(str, args)])
        return status, capsys.readouterr()

    assert run("a", "-o", out, *options, *steer)[0] == 0
    entry = parse(text_of(out)).pairs["ControlNet 0"]
    assert entry.startswith("Module: None, Model: edges [")
    assert "Weight: 0.5, Resize Mode: Just Resize" in entry
    assert "Guidance Start: 0, Guidance End: 0.75" in entry
    status, said = run("--from", out, "-o", again, "--model", folder / "tiny.safetensors")
    assert (status, said.err.count("\n")) == (2, 1)
    assert "give it again with --control" in said.err
    repeated = ["--from", out, "-o", again, "--model", folder / "tiny.safetensors", *steer]
    status, said = run(*repeated, "--device", "cpu")
    assert status == 0, said.err
    assert "to the bit" in said.out
    status, said = run("a", "-o", tmp_path / "c.png", *options, *steer[:2])
    assert status == 2
    assert "must have its --control-image" in said.err


def test_is_public():
    assert accel.pipelines.generate.Control is Control
