"""Networks of files of 16 bits that compute in float32: the same bytes as with wide weights."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from accel.core import InputError
from accel.kernels.conv2d import HALVES, reads_halves
from accel.models import load as loading
from accel.models import stable_diffusion as sd
from accel.models.export import export_text, export_unet
from accel.models.lora import LoraSet
from accel.models.unfilled import unfilled
from accel.nn.conv import Conv2d, Linear, computing_dtype, kept_in_halves
from accel.pipelines.generate.network import seamless
from accel.training.diffusion.lora import Adapters, LoraConfig
from accel.weights import files
from accel.weights.files import open_tensors
from tests.models.test_lora import ATTENTION, TOKENS, low_rank, model

pytestmark = pytest.mark.skipif(not reads_halves(), reason="needs the compiled module")


@pytest.fixture(params=HALVES, ids=str)
def two(request, tmp_path, monkeypatch):
    """A network like SDXL with weights as in its file, one with wide weights, and the file."""
    path = tmp_path / "model.safetensors"
    original = model(True)
    save_file({name: t.to(request.param) for name, t in original.state_dict().items()}, path)
    file = open_tensors(path)
    narrow = filled(original.config, file)
    monkeypatch.setattr(loading, "may_stay", lambda *_: False)
    return narrow, filled(original.config, file), file


def filled(config, file):
    with unfilled():
        network = sd.build(config)
    loading.fill(network, file, file.path, torch.float32, torch.device("cpu"), [file])
    return network.eval().requires_grad_(False)


@torch.no_grad()
def results(network):
    make = torch.Generator().manual_seed(1)
    image = torch.randn(1, 3, 16, 24, generator=make)
    x, context = (torch.randn(*shape, generator=make) for shape in ((2, 4, 9, 12), (2, 9, 32)))
    vector = torch.randn(2, network.config.unet.vector_width, generator=make)
    encoded = [tower(TOKENS) for tower in network.towers]
    return [
        network.unet(x, torch.tensor([500.0, 20.0]), context, vector),
        network.vae.encode(image),
        network.vae.decode(x[:, :, :4]),
        *(hidden for one in encoded for hidden in one.hidden),
        *(one.pooled for one in encoded if one.pooled is not None),
    ]


def same(narrow, wide):
    return all(torch.equal(a, b) for a, b in zip(results(narrow), results(wide), strict=True))


def test_layers_stay_as_stored_and_compute_the_same(two):
    narrow, wide, file = two
    stay = kept_in_halves(narrow)
    for name, tensor in narrow.named_parameters():
        stored = file[name]
        assert tensor.dtype == (stored.dtype if name in stay else torch.float32)
        assert (tensor.data_ptr() == stored.data_ptr()) == (name in stay)
    layers = [m for m in narrow.modules() if isinstance(m, (Conv2d, Linear))]
    towers = len(narrow.towers)
    # Words of each, and the joint matrices of one's two layers.
    assert len(stay) == len(layers) + towers + 2
    assert {t.dtype for t in wide.parameters()} == {torch.float32}
    assert computing_dtype(narrow) == torch.float32
    for _ in range(3):  # the third time with packed weights
        assert same(narrow, wide)
    with seamless(narrow.unet, narrow.vae), seamless(wide.unet, wide.vae):
        assert same(narrow, wide)


def test_lora_merges_from_the_stored_numbers(two):
    narrow, wide, _ = two
    before = dict(narrow.named_parameters())
    loras = [
        ("a", low_rank("lora_unet_" + ATTENTION.replace(".", "_"), 32, 32)[0], 0.7),
        ("b", low_rank("lora_te2_text_model_encoder_layers_1_self_attn_k_proj", 16, 16)[0], 1.3),
    ]
    sets = [LoraSet(network) for network in (narrow, wide)]
    for one in sets:
        one.set(loras)
    merged = narrow.unet.get_parameter(ATTENTION + ".weight")
    assert merged.dtype == torch.float32
    assert torch.equal(merged, wide.unet.get_parameter(ATTENTION + ".weight"))
    assert same(narrow, wide)
    sets[0].clear()
    assert all(one is before[name] for name, one in narrow.named_parameters())


def test_exports_the_same_file(two, tmp_path):
    narrow, wide, _ = two
    before = dict(narrow.named_parameters())
    for export, part in ((export_unet, "unet"), (export_text, "towers.1")):
        made = [
            export(network.get_submodule(part), tmp_path / name / "model.onnx").read_bytes()
            for name, network in (("narrow", narrow), ("wide", wide))
        ]
        assert made[0] == made[1]
    assert all(one is before[name] for name, one in narrow.named_parameters())


def test_adapters_are_trained_alike(two):
    found = []
    for network in two[:2]:
        adapters = Adapters(network, LoraConfig(rank=2))
        for module in adapters.modules.values():
            torch.nn.init.ones_(module.lora_up)
        unet, make = network.unet, torch.Generator().manual_seed(1)
        x, context = (torch.randn(*s, generator=make) for s in ((1, 4, 8, 8), (1, 9, 32)))
        vector = torch.randn(1, network.config.unet.vector_width, generator=make)
        unet(x, torch.tensor([500.0]), context, vector).square().mean().backward()
        found.append([one.grad for one in adapters.modules.parameters() if one.grad is not None])
        adapters.remove()
    assert len(found[0]) > 4
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_a_network_in_float32_takes_the_numbers_over(two):
    narrow, wide, _ = two
    network = sd.build(replace(narrow.config)).eval()
    network.load_state_dict(narrow.state_dict())
    assert {t.dtype for t in network.parameters()} == {torch.float32}
    assert same(network, wide)


def test_weights_let_go_come_back(two, monkeypatch):
    narrow, wide, file = two
    monkeypatch.setattr(files, "WORTH_RELEASING", 0)
    file.release(narrow.unet.parameters())
    assert same(narrow, wide)
    file.release()
    assert same(narrow, wide)


def test_what_is_not_finite_is_refused(tmp_path):
    original = model(True)
    tensors = {name: t.half() for name, t in original.state_dict().items()}
    tensors[f"unet.{ATTENTION}.weight"][3, 4] = float("inf")
    path = tmp_path / "model.safetensors"
    save_file(tensors, path)
    with pytest.raises(InputError, match=r"to_q\.weight must hold finite numbers"):
        filled(original.config, open_tensors(path))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_other_types_are_converted_to_as_ever(two, dtype):
    _, wide, file = two
    with unfilled():
        network = sd.build(wide.config)
    loading.fill(network, file, file.path, dtype, torch.device("cpu"), [file])
    assert {t.dtype for t in network.parameters()} == {dtype}
