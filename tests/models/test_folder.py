"""diffusers' folders: written from our names, and by diffusers itself where it is installed."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from accel.core import InputError
from accel.models import stable_diffusion as sd
from accel.models.diffusers_names import open_clip_module, unet_module, vae_module
from accel.models.load import load
from accel.nn.text import TextConfig
from accel.nn.vae import VaeConfig
from tests.models.small import UNET

TEXT = TextConfig(vocabulary=50, length=9, width=16, layers=3, heads=2, end_token=49)
SMALL = sd.Config(
    unet=UNET,
    towers=(sd.Tower(prefix="cond_stage_model.transformer.", config=TEXT),),
    vae=VaeConfig(base_channels=32, channel_mult=(1, 2)),
)
OPEN = replace(TEXT, quick_gelu=False, projection=12)
LARGE = replace(
    SMALL,
    unet=replace(
        SMALL.unet, context_width=32, vector_width=12 + 6 * sd.SIZE_WIDTH, linear_projection=True
    ),
    towers=(
        replace(SMALL.towers[0], from_last=2, final_norm=False),
        sd.Tower(prefix="b.", config=OPEN, open_clip=True, from_last=2, final_norm=False),
    ),
    size_numbers=6,
)
SECOND = replace(
    SMALL,
    unet=replace(SMALL.unet, channels=64, heads=0, head_width=16),
    towers=(
        sd.Tower(prefix="b.", config=replace(OPEN, projection=16), open_clip=True, from_last=2),
    ),
)
MEMBERS = {"small": SMALL, "large": LARGE, "second": SECOND}


@pytest.fixture(params=MEMBERS)
def member(request, monkeypatch):
    monkeypatch.setattr(sd, "CONFIGS", MEMBERS)
    torch.manual_seed(0)
    return request.param, sd.build(MEMBERS[request.param]).eval()


def write(folder, model: sd.StableDiffusion) -> None:
    config = model.config
    parts = {
        "unet": theirs(model.unet, lambda m: unet_module(m, config.unet)),
        "vae": theirs(model.vae, lambda m: vae_module(m, config.vae)),
    }
    for i, tower in enumerate(model.towers):
        name = "text_encoder_2" if i else "text_encoder"
        parts[name] = text(tower) if config.towers[i].open_clip else tower.state_dict()
    for name, tensors in parts.items():
        (folder / name).mkdir(parents=True)
        file = "model" if name.startswith("text") else "diffusion_pytorch_model"
        save_file(
            {k: t.contiguous() for k, t in tensors.items()}, folder / name / f"{file}.safetensors"
        )


def theirs(network, rename) -> dict[str, torch.Tensor]:
    named = {}
    for name, tensor in network.state_dict().items():
        module, _, last = name.rpartition(".")
        named[f"{rename(module)}.{last}"] = tensor
    return named


def text(tower) -> dict[str, torch.Tensor]:
    named = {}
    for name, tensor in tower.state_dict().items():
        module, _, last = name.rpartition(".")
        if last.startswith("in_proj_"):
            layer = module.split(".")[2]
            for part, rows in zip("qkv", tensor.chunk(3), strict=True):
                stem = f"text_model.encoder.layers.{layer}.self_attn.{part}_proj"
                named[f"{stem}.{last.removeprefix('in_proj_')}"] = rows
        elif not module:
            turned = tensor.t() if name == "text_projection" else tensor
            named[f"{open_clip_module(name)}.weight"] = turned
        else:
            named[f"{open_clip_module(module)}.{last}"] = tensor
    return named


def test_reads_every_tensor(tmp_path, member):
    name, model = member
    write(tmp_path, model)
    loaded = load(tmp_path)
    assert (loaded.name, loaded.prediction) == (name, "eps")
    for key, tensor in model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[key], tensor), key


def test_the_scheduler_tells_velocity(tmp_path, member):
    write(tmp_path, member[1])
    (tmp_path / "scheduler").mkdir()
    about = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps(about))
    loaded = load(tmp_path)
    assert (loaded.prediction, loaded.zero_terminal_snr) == ("v", True)


def test_names_a_network_that_is_missing(tmp_path, member):
    write(tmp_path, member[1])
    (tmp_path / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(InputError, match=r"vae: must hold one of diffusion_pytorch_model"):
        load(tmp_path)


def test_refuses_a_unet_of_another_family(tmp_path, member):
    write(tmp_path, member[1])
    save_file({"x": torch.ones(1)}, tmp_path / "unet" / "diffusion_pytorch_model.safetensors")
    with pytest.raises(InputError, match="its UNet must be of Stable Diffusion 1, 2 or XL"):
        load(tmp_path)


def test_names_tensors_that_are_missing(tmp_path, member):
    write(tmp_path, member[1])
    file = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    from safetensors.torch import load_file

    tensors = load_file(file)
    del tensors["conv_out.bias"]
    save_file(tensors, file)
    with pytest.raises(InputError, match=r"1 tensors must not be missing: unet\.out\.2\.bias"):
        load(tmp_path)


def test_text_of_sd2_without_its_last_layer_says_the_same(tmp_path, monkeypatch):
    """diffusers stores one layer less and takes the last; the original takes the last but one."""
    monkeypatch.setattr(sd, "CONFIGS", MEMBERS)
    model = sd.build(SECOND).eval()
    write(tmp_path, model)
    file = tmp_path / "text_encoder" / "model.safetensors"
    from safetensors.torch import load_file

    tensors = {k: t for k, t in load_file(file).items() if ".layers.2." not in k}
    del tensors["text_projection.weight"]
    save_file(tensors, file)
    tokens = torch.tensor([[48, 3, 4, 49, 0, 0, 0, 0, 0]])
    got = load(tmp_path).model.encode_text([tokens]).context
    torch.testing.assert_close(got, model.encode_text([tokens]).context)


def test_reads_what_diffusers_writes(tmp_path, monkeypatch):
    pytest.importorskip("diffusers", exc_type=ImportError)
    transformers = pytest.importorskip("transformers", exc_type=ImportError)
    import diffusers

    from tests.nn.test_peers import assert_close, diffusers_unet, transformers_config

    monkeypatch.setattr(sd, "CONFIGS", MEMBERS)
    torch.manual_seed(0)
    unet = diffusers_unet(SMALL.unet)
    vae = diffusers.AutoencoderKL(
        block_out_channels=SMALL.vae.channels,
        layers_per_block=2,
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
    ).eval()
    tower = transformers.CLIPTextModel(transformers_config(TEXT)).eval()
    for name, network in (("unet", unet), ("vae", vae), ("text_encoder", tower)):
        network.save_pretrained(tmp_path / name)
    model = load(tmp_path).model
    tokens = torch.tensor([[48, 3, 4, 49, 49, 49, 49, 49, 49]])
    x, t = torch.randn(1, 4, 8, 8), torch.tensor([500.0])
    with torch.no_grad():
        context = tower(tokens).last_hidden_state
        assert_close(model.encode_text([tokens]).context, context)
        assert_close(model.unet(x, t, context), unet(x, t, context).sample)
        assert_close(model.vae.decode(x * SMALL.vae.scale), vae.decode(x).sample)
