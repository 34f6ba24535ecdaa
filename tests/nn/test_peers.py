"""The networks against diffusers and transformers on equal random weights.

Our weights go through diffusers' own reader of single-file checkpoints, so that names and
arithmetic are judged together. Skipped where the two packages are not installed.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from accel.nn.control import ControlNet
from accel.nn.text import ClipText, OpenClipText, TextConfig
from accel.nn.tiny_vae import TinyDecoder, TinyEncoder
from accel.nn.unet import Unet, UnetConfig
from accel.nn.vae import Vae, VaeConfig

pytest.importorskip("diffusers", exc_type=ImportError)
pytest.importorskip("transformers", exc_type=ImportError)

LIMIT = 5e-5  # 1e-5 but for tile registers, where convolutions keep 16 bits of each factor
UNETS = {
    "sd1": UnetConfig(channels=32, context_width=24),
    "sd1-inpaint": UnetConfig(in_channels=9, channels=32, context_width=24),
    "sd2": UnetConfig(
        channels=32, context_width=40, heads=0, head_width=16, linear_projection=True
    ),
    "sdxl": UnetConfig(
        channels=32,
        channel_mult=(1, 2, 4),
        transformer_depth=(0, 1, 3),
        middle_depth=3,
        context_width=40,
        heads=0,
        head_width=16,
        linear_projection=True,
        vector_width=20 + 6 * 8,
    ),
    "sdxl-refiner": UnetConfig(
        channels=32,
        transformer_depth=(0, 2, 2, 0),
        middle_depth=2,
        context_width=24,
        heads=0,
        head_width=16,
        linear_projection=True,
        vector_width=20 + 5 * 8,
    ),
    "one block, two levels": UnetConfig(
        channels=32,
        channel_mult=(1, 2),
        res_blocks=1,
        transformer_depth=(1, 1),
        context_width=24,
        heads=4,
    ),
}


@pytest.mark.parametrize("size", [(16, 24), (15, 9), (5, 22)])  # levels that halve unevenly too
@pytest.mark.parametrize("name", UNETS)
def test_unet(name, size):
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    config = UNETS[name]
    ours, theirs = randomised(Unet(config)), diffusers_unet(config)
    named = {"model.diffusion_model." + k: v for k, v in ours.state_dict().items()}
    theirs.load_state_dict(convert_ldm_unet_checkpoint(named, theirs.config))

    x = torch.randn(2, config.in_channels, *size)
    t = torch.tensor([981.0, 3.0])
    context = torch.randn(2, 7, config.context_width)
    vector, extra = second_vector(config, theirs)
    with torch.no_grad():
        expected = theirs(x, t, context, **extra).sample
        assert_close(ours(x, t, context, vector), expected)


@pytest.mark.parametrize("name", ["sd1", "sdxl"])
def test_control_net(name):
    """The network's own results, and the UNet steered by them."""
    from diffusers import ControlNetModel
    from diffusers.loaders.single_file_utils import (
        convert_controlnet_checkpoint,
        convert_ldm_unet_checkpoint,
    )

    config = UNETS[name]
    ours, theirs = randomised(ControlNet(config)), diffusers_unet(config)
    peer = ControlNetModel.from_unet(theirs).eval()
    named = {"control_model." + k: v for k, v in ours.state_dict().items()}
    converted = convert_controlnet_checkpoint(named, peer.config)
    for ldm, name_there in (("0.0", "linear_1"), ("0.2", "linear_2")):  # it forgets these two
        for part in ("weight", "bias"):
            if config.vector_width:
                value = named[f"control_model.label_emb.{ldm}.{part}"]
                converted[f"add_embedding.{name_there}.{part}"] = value
    peer.load_state_dict(converted)
    unet = randomised(Unet(config))
    named = {"model.diffusion_model." + k: v for k, v in unet.state_dict().items()}
    theirs.load_state_dict(convert_ldm_unet_checkpoint(named, theirs.config))

    x, hint = torch.randn(2, 4, 8, 16), torch.rand(2, 3, 64, 128)
    t, context = torch.tensor([400.0, 30.0]), torch.randn(2, 7, config.context_width)
    vector, extra = second_vector(config, theirs)
    with torch.no_grad():
        down, middle = peer(x, t, context, hint, 0.7, return_dict=False, **extra)
        control = ours(x, hint, t, context, vector, scale=0.7)
        for got, expected in zip(control, [*down, middle], strict=True):
            assert_close(got, expected)
        expected = theirs(
            x,
            t,
            context,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
            **extra,
        ).sample
        assert_close(unet(x, t, context, vector, control), expected)


def second_vector(config: UnetConfig, theirs: nn.Module) -> tuple[Tensor | None, dict]:
    """SDXL's second vector for ours, and what theirs makes it from."""
    if not config.vector_width:
        return None, {}
    pooled = torch.randn(2, 20)
    numbers = torch.randint(0, 99, (2, (config.vector_width - 20) // 8))
    waves = theirs.add_time_proj(numbers.flatten()).view(2, -1)
    extra = {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": numbers}}
    return torch.cat([pooled, waves], -1), extra


def diffusers_unet(config: UnetConfig, size_width: int = 8) -> nn.Module:
    from diffusers import UNet2DConditionModel

    crossed = [depth > 0 for depth in config.transformer_depth]
    heads = tuple(config.heads or w // config.head_width for w in config.widths)
    extra = {}
    if config.vector_width:
        extra = {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": size_width,
            "projection_class_embeddings_input_dim": config.vector_width,
        }
    return UNet2DConditionModel(
        time_cond_proj_dim=config.guidance_width or None,
        in_channels=config.in_channels,
        block_out_channels=config.widths,
        layers_per_block=config.res_blocks,
        down_block_types=["CrossAttnDownBlock2D" if c else "DownBlock2D" for c in crossed],
        up_block_types=["CrossAttnUpBlock2D" if c else "UpBlock2D" for c in reversed(crossed)],
        transformer_layers_per_block=[d or config.middle_depth for d in config.transformer_depth],
        cross_attention_dim=config.context_width,
        attention_head_dim=heads,
        use_linear_projection=config.linear_projection,
        **extra,
    ).eval()


@pytest.mark.parametrize("mult", [(1, 2, 4, 4), (1, 2)])
def test_vae(mult):
    from diffusers import AutoencoderKL
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    config = VaeConfig(base_channels=32, channel_mult=mult, scale=0.5, shift=0.1)
    ours = randomised(Vae(config))
    theirs = AutoencoderKL(
        block_out_channels=config.channels,
        layers_per_block=config.res_blocks,
        down_block_types=["DownEncoderBlock2D"] * len(mult),
        up_block_types=["UpDecoderBlock2D"] * len(mult),
        latent_channels=config.latent_channels,
    ).eval()
    named = {"first_stage_model." + k: v for k, v in ours.state_dict().items()}
    theirs.load_state_dict(convert_ldm_vae_checkpoint(named, theirs.config))

    image = torch.rand(2, 3, 32, 48) * 2 - 1
    with torch.no_grad():
        posterior = theirs.encode(image).latent_dist
        mean, log_variance = ours.moments(image)
        assert_close(mean, posterior.mean)
        assert_close(log_variance, posterior.logvar)
        latent = (posterior.mean - config.shift) * config.scale
        assert_close(ours.encode(image), latent)
        assert_close(ours.decode(latent), theirs.decode(posterior.mean).sample)


def test_tiny_vae():
    """diffusers has no place for the squashing of latents, so it counts its decoder from there."""
    from diffusers import AutoencoderTiny

    encoder, decoder = randomised(TinyEncoder()), randomised(TinyDecoder())
    theirs = AutoencoderTiny().eval()
    named = {f"encoder.layers.{name}": t for name, t in encoder.state_dict().items()}
    for name, tensor in decoder.state_dict().items():
        index, _, rest = name.partition(".")
        named[f"decoder.layers.{int(index) - 1}.{rest}"] = tensor
    theirs.load_state_dict(named)
    image, latent = torch.rand(1, 3, 32, 16) * 2 - 1, torch.randn(1, 4, 4, 2) * 3
    with torch.no_grad():
        assert_close(encoder(image), theirs.encode(image).latents)
        assert_close(decoder(latent), theirs.decode(latent).sample)


@pytest.mark.parametrize("projection", [0, 20])
def test_clip_text(projection):
    """CLIP-L: the names are transformers' own."""
    import transformers

    config = TextConfig(
        vocabulary=99, width=32, layers=3, heads=4, end_token=98, projection=projection
    )
    ours = randomised(ClipText(config))
    kind = transformers.CLIPTextModelWithProjection if projection else transformers.CLIPTextModel
    theirs = kind(transformers_config(config)).eval()
    theirs.load_state_dict(ours.state_dict())
    assert_same_text(ours, theirs, projection)


@pytest.mark.parametrize("projection", [0, 20])
def test_open_clip_text(projection):
    """OpenCLIP's H (not projected in diffusers) and bigG."""
    import transformers
    from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint

    config = TextConfig(
        vocabulary=99,
        width=32,
        layers=3,
        heads=4,
        end_token=98,
        projection=projection or 32,
        quick_gelu=False,
    )
    ours = randomised(OpenClipText(config))
    kind = transformers.CLIPTextModelWithProjection if projection else transformers.CLIPTextModel
    theirs = kind(transformers_config(config)).eval()
    prefix = "conditioner.embedders.1.model."
    named = {prefix + k: v for k, v in ours.state_dict().items()}
    converted = convert_open_clip_checkpoint(theirs, named, prefix=prefix)
    if not projection:
        converted = {k: v for k, v in converted.items() if k != "text_projection.weight"}
    theirs.load_state_dict(converted)
    assert_same_text(ours, theirs, projection)


def transformers_config(config: TextConfig):
    import transformers

    return transformers.CLIPTextConfig(
        vocab_size=config.vocabulary,
        hidden_size=config.width,
        intermediate_size=4 * config.width,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        max_position_embeddings=config.length,
        hidden_act="quick_gelu" if config.quick_gelu else "gelu",
        projection_dim=config.projection or 512,
        eos_token_id=config.end_token,
    )


def assert_same_text(ours: nn.Module, theirs: nn.Module, projection: int) -> None:
    tokens = torch.randint(0, 98, (3, 77))
    tokens[0, 5:], tokens[1, 76], tokens[2, 40:] = 98, 98, 98
    with torch.no_grad():
        expected = theirs(tokens, output_hidden_states=True)
        encoded = ours(tokens)
    assert_close(encoded.final, expected.last_hidden_state)
    for hidden, wanted in zip(encoded.hidden, expected.hidden_states, strict=True):
        assert_close(hidden, wanted)
    if projection:
        assert_close(encoded.pooled, expected.text_embeds)


def randomised(network: nn.Module) -> nn.Module:
    """Norms and biases begin at 1 and 0: moved, so that two that are mixed up are noticed."""
    torch.manual_seed(0)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(torch.randn_like(p) * 0.05)
    return network.eval()


def assert_close(got: Tensor, expected: Tensor) -> None:
    assert got.shape == expected.shape
    error = (got - expected).abs().max() / expected.abs().max()
    assert error < LIMIT, f"relative error {error:.1e}"
