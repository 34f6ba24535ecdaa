"""ControlNet files: both layouts, recognition, errors."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from accel.core import InputError
from accel.models import stable_diffusion as sd
from accel.models.control import (
    diffusers_name,
    load_control,
    recognise,
    soft_scales,
    summed,
)
from accel.nn.control import ControlNet
from accel.nn.unet import UnetConfig

SMALL = UnetConfig(
    channels=32,
    channel_mult=(1, 2),
    res_blocks=1,
    transformer_depth=(1, 1),
    context_width=16,
    heads=4,
)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return ControlNet(SMALL).eval().requires_grad_(False)


def inputs():
    torch.manual_seed(1)
    return (
        torch.randn(1, 4, 4, 4),
        torch.rand(1, 3, 32, 32),
        torch.tensor([9.0]),
        torch.randn(1, 5, 16),
    )


@pytest.mark.parametrize("layout", ["prefixed", "bare", "diffusers", "folder", "half"])
def test_all_layouts_give_the_same_network(network, layout, tmp_path):
    tensors = network.state_dict()
    if layout in ("prefixed", "half"):
        tensors = {"control_model." + k: v for k, v in tensors.items()}
    if layout == "half":
        tensors = {k: v.half() for k, v in tensors.items()}
    if layout in ("diffusers", "folder"):
        tensors = {diffusers_name(k, SMALL): v for k, v in tensors.items()}
        assert len(tensors) == len(network.state_dict())
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    save_file({k: v.contiguous() for k, v in tensors.items()}, path)
    loaded = load_control(tmp_path if layout == "folder" else path, config=SMALL)
    for got, expected in zip(loaded.network(*inputs()), network(*inputs()), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-2 if layout == "half" else 0, atol=1e-3)


@pytest.mark.parametrize("theirs", [False, True])
@pytest.mark.parametrize("name", ["sd1", "sd2", "sdxl"])
def test_the_member_is_found_from_shapes(name, theirs):
    config = sd.CONFIGS[name].unet
    with torch.device("meta"):
        network = ControlNet(config)
    shapes = {
        diffusers_name(key, config) if theirs else key: tuple(tensor.shape)
        for key, tensor in network.state_dict().items()
    }
    file = SimpleNamespace(shapes=shapes, path="file")
    assert recognise(file, "", theirs) == (name, config)


def test_folder_of_diffusers(tmp_path):
    diffusers = pytest.importorskip("diffusers", exc_type=ImportError)
    unet = diffusers.UNet2DConditionModel(
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        cross_attention_dim=16,
        attention_head_dim=4,
    )
    peer = diffusers.ControlNetModel.from_unet(unet).eval()
    with torch.no_grad():
        for parameter in peer.parameters():  # its last convolutions are zero to begin with
            parameter.normal_(0, 0.05)
    peer.save_pretrained(tmp_path)
    ours = load_control(tmp_path, config=SMALL).network
    x, hint, t, context = inputs()
    with torch.no_grad():
        down, middle = peer(x, t, context, hint, 1.0, return_dict=False)
    for got, expected in zip(ours(x, hint, t, context), [*down, middle], strict=True):
        assert (got - expected).abs().max() < 1e-4 * expected.abs().max()


def test_several_add_up_and_soft_scales_rise(network):
    one = network(*inputs())
    for total, part in zip(summed([one, one]), one, strict=True):
        torch.testing.assert_close(total, 2 * part)
    scales = soft_scales(13)
    assert scales[-1] == 1
    assert scales[0] == pytest.approx(0.825**12)


def test_refuses_files_of_another_kind(network, tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"lora_unet_x.alpha": torch.ones(1)}, path)
    with pytest.raises(InputError, match="must be a ControlNet, got 1 tensors"):
        load_control(path)
    save_file({"control_model." + k: v for k, v in network.state_dict().items()}, path)
    with pytest.raises(InputError, match="must be for Stable Diffusion 1, 2 or XL"):
        load_control(path)
    few = {k: v for k, v in network.state_dict().items() if not k.startswith("middle_block_out")}
    save_file(few, path)
    with pytest.raises(
        InputError, match=r"2 tensors must not be missing: middle_block_out\.0\.bias"
    ):
        load_control(path, config=SMALL)
