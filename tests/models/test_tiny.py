"""TAESD files in all the forms in which they are kept."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from accel.core import InputError
from accel.models.tiny import load_tiny
from accel.nn.tiny_vae import TinyDecoder, TinyEncoder


@pytest.fixture(scope="module")
def sides():
    torch.manual_seed(0)
    return TinyEncoder().eval().requires_grad_(False), TinyDecoder().eval().requires_grad_(False)


def prefixed(network, prefix, move=0):
    named = {}
    for key, tensor in network.state_dict().items():
        first, rest = key.split(".", 1)
        named[f"{prefix}{int(first) + move}.{rest}"] = tensor.contiguous()
    return named


def check(loaded, sides):
    image, latent = torch.rand(1, 3, 16, 24) * 2 - 1, torch.randn(1, 4, 2, 3)
    assert torch.equal(loaded.encode(image), sides[0](image))
    assert torch.equal(loaded.decode(latent), sides[1](latent))


def test_its_own_two_files(sides, tmp_path):
    paths = tmp_path / "taesd_encoder.safetensors", tmp_path / "taesd_decoder.safetensors"
    for network, path in zip(sides, paths, strict=True):
        save_file(prefixed(network, ""), path)
    check(load_tiny(*paths), sides)
    torch.save(sides[1].state_dict(), tmp_path / "taesd_decoder.pth")
    check(load_tiny(paths[0], tmp_path / "taesd_decoder.pth"), sides)
    alone = load_tiny(paths[1])
    assert alone.decode(torch.randn(1, 4, 1, 1)).shape == (1, 3, 8, 8)
    with pytest.raises(InputError, match="this TAESD file has no encoder"):
        alone.encode(torch.zeros(1, 3, 8, 8))


@pytest.mark.parametrize(
    ("encoder", "decoder", "move"),
    [("encoder.layers.", "decoder.layers.", -1), ("taesd_encoder.", "taesd_decoder.", 0)],
)
def test_one_file_of_both(sides, encoder, decoder, move, tmp_path):
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    save_file(prefixed(sides[0], encoder) | prefixed(sides[1], decoder, move), path)
    check(load_tiny(path), sides)
    check(load_tiny(tmp_path), sides)


def test_folder_of_diffusers(tmp_path):
    diffusers = pytest.importorskip("diffusers", exc_type=ImportError)
    peer = diffusers.AutoencoderTiny().eval()
    peer.save_pretrained(tmp_path)
    ours = load_tiny(tmp_path)
    image, latent = torch.rand(1, 3, 16, 24) * 2 - 1, torch.randn(1, 4, 2, 3)
    with torch.no_grad():
        torch.testing.assert_close(ours.encode(image), peer.encode(image).latents)
        torch.testing.assert_close(ours.decode(latent), peer.decode(latent).sample)


def test_refuses_files_of_another_kind(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"x.alpha": torch.ones(1)}, path)
    with pytest.raises(InputError, match="must be a TAESD, got 1 tensors"):
        load_tiny(path)
    save_file({"0.weight": torch.ones(3)}, path)
    with pytest.raises(InputError, match="encoder must have a convolution"):
        load_tiny(path)
