"""LoRA files on small models of every kind: names, effect, and the way back."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from accel.core import InputError
from accel.models import stable_diffusion as sd
from accel.models.diffusers_names import unet_module
from accel.models.lora import LoraSet, targets
from accel.nn.text import TextConfig
from accel.nn.vae import VaeConfig
from accel.weights.lora import parse
from tests.models.small import UNET

TEXT = TextConfig(vocabulary=20, length=9, width=16, layers=2, heads=2, end_token=19)
TOKENS = torch.tensor([[18, 3, 4, 5, 19, 19, 19, 19, 19]])


def model(large: bool) -> sd.StableDiffusion:
    """Like SD 1.x, or like SDXL with its second tower and vector."""
    torch.manual_seed(0)
    towers = (sd.Tower(prefix="a.", config=TEXT),)
    unet = UNET
    if large:
        second = replace(TEXT, projection=8, quick_gelu=False)
        towers += (sd.Tower(prefix="b.", config=second, open_clip=True),)
        unet = replace(UNET, context_width=32, vector_width=8 + 2 * sd.SIZE_WIDTH)
    vae = VaeConfig(base_channels=32, channel_mult=(1,), res_blocks=1)
    config = sd.Config(unet=unet, towers=towers, vae=vae, size_numbers=2 if large else 0)
    return sd.build(config).eval().requires_grad_(False)


def low_rank(name: str, outputs: int, inputs: int, ending=("lora_down", "lora_up")):
    down, up = torch.randn(2, inputs) * 0.1, torch.randn(outputs, 2) * 0.1
    tensors = {f"{name}.{ending[0]}.weight": down, f"{name}.{ending[1]}.weight": up}
    return parse(tensors), up @ down


ATTENTION = "input_blocks.1.1.transformer_blocks.0.attn1.to_q"
NAMES = [  # is it like SDXL, the module as a file calls it
    (False, "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"),
    (True, "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q"),
    (False, "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"),
    (False, "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora"),
    (False, "base_model.model.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"),
    (True, "lycoris_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"),
    (True, f"diffusion_model.{ATTENTION}"),
    (False, "down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora"),
]


@pytest.mark.parametrize(("large", "name"), NAMES)
def test_one_layer_under_all_its_names(large, name):
    network = model(large)
    adapters, delta = low_rank(name, 32, 32)
    before = network.unet.get_parameter(ATTENTION + ".weight").clone()
    LoraSet(network).set([("x", adapters, 0.5)])
    torch.testing.assert_close(
        network.unet.get_parameter(ATTENTION + ".weight"), before + 0.5 * delta
    )


@pytest.mark.parametrize(
    ("large", "name", "tower"),
    [
        (False, "lora_te_text_model_encoder_layers_1_self_attn_k_proj", 0),
        (False, "text_encoder.text_model.encoder.layers.1.self_attn.k_proj", 0),
        (False, "base_model.model.text_model.encoder.layers.1.self_attn.k_proj", 0),
        (True, "lora_te1_text_model_encoder_layers_1_self_attn_k_proj", 0),
        (True, "lora_te2_text_model_encoder_layers_1_self_attn_k_proj", 1),
        (True, "text_encoder_2.text_model.encoder.layers.1.self_attn.k_proj", 1),
    ],
)
def test_text_towers(large, name, tower):
    """The second tower keeps query, key and value in one matrix: only the key's rows may change."""
    network = model(large)
    part = network.towers[tower]
    path = "text_model.encoder.layers.1.self_attn.k_proj.weight"
    joint = "transformer.resblocks.1.attn.in_proj_weight"
    before = part.get_parameter(joint if tower else path).clone()
    adapters, delta = low_rank(name, 16, 16)
    LoraSet(network).set([("x", adapters, 1.0)])
    after = part.get_parameter(joint if tower else path)
    rows = slice(16, 32) if tower else slice(0, 16)
    torch.testing.assert_close(after[rows], before[rows] + delta)
    others = torch.ones(len(after), dtype=torch.bool)
    others[rows] = False
    assert torch.equal(after[others], before[others])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_the_way_back_is_exact(dtype):
    network = model(False).to(dtype)
    before = {name: p.clone() for name, p in network.named_parameters()}
    own, _ = low_rank("lora_unet_" + ATTENTION.replace(".", "_"), 32, 32)
    other, _ = low_rank("lora_te_text_model_encoder_layers_0_mlp_fc1", 64, 16)
    loras = LoraSet(network)
    for strength in (0.8, -3.0, 1e4):
        loras.set([("a", own, strength), ("b", other, 1.0)])
        assert not torch.equal(
            network.unet.get_parameter(ATTENTION + ".weight"),
            before["unet." + ATTENTION + ".weight"],
        )
    loras.set([("b", other, 0.5)])
    name = f"unet.{ATTENTION}.weight"
    assert torch.equal(network.get_parameter(name), before[name])
    loras.clear()
    for name, p in network.named_parameters():
        assert p.dtype == dtype
        assert torch.equal(p, before[name]), name


def test_several_add_up_and_order_does_not_matter():
    network = model(False)
    name = "lora_unet_" + ATTENTION.replace(".", "_")
    (a, da), (b, db) = low_rank(name, 32, 32), low_rank(name, 32, 32)
    before = network.unet.get_parameter(ATTENTION + ".weight").clone()
    LoraSet(network).set([("a", a, 0.5), ("b", b, 2.0)])
    after = network.unet.get_parameter(ATTENTION + ".weight")
    torch.testing.assert_close(after, before + 0.5 * da + 2 * db)


def test_biases_and_norms():
    network = model(False)
    shift = torch.ones(32)
    module = "lora_unet_input_blocks_1_0_in_layers_2"
    adapters = parse(
        {
            f"{module}.diff_b": shift,
            "lora_unet_out_0.w_norm": shift,
            "lora_unet_out_0.b_norm": shift,
        }
    )
    bias = network.unet.input_blocks[1][0].in_layers[2].bias.clone()
    LoraSet(network).set([("x", adapters, 0.5)])
    torch.testing.assert_close(network.unet.input_blocks[1][0].in_layers[2].bias, bias + 0.5)
    torch.testing.assert_close(network.unet.out[0].weight, torch.full((32,), 1.5))
    torch.testing.assert_close(network.unet.out[0].bias, torch.full((32,), 0.5))


def test_another_base_model_is_named_and_nothing_changes():
    network = model(False)
    good, _ = low_rank("lora_unet_" + ATTENTION.replace(".", "_"), 32, 32)
    bad, _ = low_rank("lora_te2_text_model_encoder_layers_0_mlp_fc1", 64, 16)
    before = network.unet.get_parameter(ATTENTION + ".weight").clone()
    loras = LoraSet(network)
    with pytest.raises(InputError, match=r"style\.safetensors: is for another base model: 1 of 1"):
        loras.set([("good", good, 1.0), ("style.safetensors", bad, 1.0)])
    wide, _ = low_rank("lora_unet_" + ATTENTION.replace(".", "_"), 64, 64)
    with pytest.raises(InputError, match="does not fit a weight of"):
        loras.set([("good", good, 1.0), ("wide", wide, 1.0)])
    assert torch.equal(network.unet.get_parameter(ATTENTION + ".weight"), before)


def test_a_lora_changes_what_the_networks_say():
    network = model(False)
    adapters, _ = low_rank("lora_te_text_model_encoder_layers_0_mlp_fc1", 64, 16)
    before = network.encode_text([TOKENS]).context
    loras = LoraSet(network)
    loras.set([("x", adapters, 1.0)])
    assert not torch.allclose(network.encode_text([TOKENS]).context, before)
    loras.clear()
    assert torch.equal(network.encode_text([TOKENS]).context, before)


KOHYA = {"sd1": 192, "sdxl": 722}  # modules of a UNet that its trainer adapts


@pytest.mark.parametrize("name", KOHYA)
def test_all_of_kohyas_names_resolve_at_full_size(name):
    """kohya trains the attention and feed-forward layers and the projections around them."""
    with torch.device("meta"):
        network = sd.build(sd.CONFIGS[name])
    table = targets(network)
    wanted = kohya_names(network, diffusers=name == "sd1")
    assert len(wanted) == KOHYA[name]
    assert not [n for n in wanted if n not in table]


def kohya_names(network: sd.StableDiffusion, diffusers: bool) -> list[str]:
    names = []
    for path, module in network.unet.named_modules():
        if "transformer_blocks" not in path and not path.endswith((".proj_in", ".proj_out")):
            continue
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
            shown = unet_module(path, network.config.unet) if diffusers else path
            names.append("lora_unet_" + shown.replace(".", "_"))
    return names


def test_peft_scales_outputs_with_their_bias_and_inputs_without():
    network = model(False)
    names = {"base_model.model.mid_block.attentions.0.transformer_blocks.0.ff.net.2": "net.2"}
    names |= {"text_encoder.text_model.encoder.layers.0.mlp.fc1": "fc1"}
    (inner, outer) = names
    gains = {inner: torch.rand(1, 256) + 0.5, outer: torch.rand(64, 1) + 0.5}
    adapters = parse({f"{name}.ia3_l": gain for name, gain in gains.items()})
    before = {name: p.clone() for name, p in network.named_parameters()}
    LoraSet(network).set([("x", adapters, 1.0)])
    after = dict(network.named_parameters())
    own = "unet.middle_block.1.transformer_blocks.0.ff.net.2"
    torch.testing.assert_close(after[f"{own}.weight"], before[f"{own}.weight"] * gains[inner])
    assert torch.equal(after[f"{own}.bias"], before[f"{own}.bias"])
    own = "towers.0.text_model.encoder.layers.0.mlp.fc1"
    torch.testing.assert_close(after[f"{own}.weight"], before[f"{own}.weight"] * gains[outer])
    torch.testing.assert_close(after[f"{own}.bias"], before[f"{own}.bias"] * gains[outer][:, 0])
