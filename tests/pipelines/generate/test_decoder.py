"""A TAESD in place of the autoencoder, and for previews."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from accel.cli import main
from accel.core import InputError
from accel.models import stable_diffusion as sd
from accel.models.tiny import load_tiny
from accel.pipelines.generate import load
from accel.pipelines.generate.infotext import parse
from accel.pipelines.generate.output import text_of
from tests.pipelines.generate.tiny import CONFIG, write_checkpoint, write_decoder


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.setattr(sd, "CONFIGS", {"sd1": CONFIG})
    checkpoint = write_checkpoint(tmp_path / "tiny.safetensors")
    return checkpoint, write_decoder(tmp_path / "taesd.safetensors")


def test_it_decodes_in_place_of_the_autoencoder(files):
    checkpoint, decoder = files
    model = load(checkpoint, decoder=decoder)
    options = {"steps": 2, "cfg": 1.0, "seed": 1}
    latent = model.sample("a", output="latent", **options)
    expected = load_tiny(decoder).decode(latent)
    assert torch.equal(model.sample("a", **options), expected)
    assert torch.equal(latent, load(checkpoint).sample("a", output="latent", **options))


def test_command_line(files, tmp_path, capsys):
    checkpoint, decoder = files
    out, seen = tmp_path / "a.png", tmp_path / "now.png"
    options = ["--model", checkpoint, "--steps", 2, "--seed", 1, "--device", "cpu"]
    both = ["--decoder", decoder, "--preview", seen, "--tiny-vae", decoder]
    assert main(["generate", "a", "-o", *map(str, [out, *options, *both])]) == 0
    assert parse(text_of(out)).pairs["VAE Decoder"] == "taesd.safetensors"
    preview = np.asarray(Image.open(seen)).astype(int)
    plain = tmp_path / "b.png"
    assert main(["generate", "a", "-o", *map(str, [plain, *options])]) == 0
    difference = [np.abs(preview - np.asarray(Image.open(p))).mean() for p in (out, plain)]
    assert difference[0] < 8 < difference[1]  # both are watermarked


def test_refuses_one_for_other_latents(files):
    with pytest.raises(InputError, match="must give 4 pixels a latent pixel, as nano, got 8"):
        load("nano", decoder=files[1])
    with pytest.raises(InputError, match="must be a TAESD"):
        load(files[0], decoder=files[0])
