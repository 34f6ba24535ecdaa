"""Stable Diffusion 1.x, 2.x and SDXL: sizes, names in single-file checkpoints, conditioning.

Sources: Rombach et al. 2022 (arXiv:2112.10752); Podell et al. 2023 (arXiv:2307.01952).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import torch
from torch import Tensor, nn

from accel.core import ConfigError, InputError
from accel.nn.layers import sinusoids
from accel.nn.text import ClipText, OpenClipText, TextConfig, TextTower
from accel.nn.unet import Unet, UnetConfig
from accel.nn.vae import Vae, VaeConfig

UNET_PREFIX = "model.diffusion_model."
VAE_PREFIX = "first_stage_model."
GUIDANCE = "time_embed.cond_proj.weight"  # only in distilled networks, which are told the scale
SIZE_WIDTH = 256  # sinusoids per number of SDXL's size conditioning


@dataclass(frozen=True, kw_only=True)
class Tower:
    """One text tower and how its output is used.

    prefix: what its parameters' names begin with in a file.
    open_clip: named and shaped as OpenCLIP's, else as OpenAI's CLIP.
    from_last: the layer whose output is the context, counted from the end: 1 is the last.
    final_norm: whether that output goes through the final norm.
    padding: token that fills a chunk after its end token.
    """

    prefix: str
    config: TextConfig
    open_clip: bool = False
    from_last: int = 1
    final_norm: bool = True
    padding: int = 49407


@dataclass(frozen=True, kw_only=True)
class Config:
    """One member of the family.

    size_numbers: how many numbers follow the pooled text in the UNet's second vector: SDXL's
        heights, widths and crop offsets; 0 without such a vector.
    size_width: sinusoids for each of them.
    side_px: the side of the pictures it was trained on.
    """

    unet: UnetConfig
    towers: tuple[Tower, ...]
    vae: VaeConfig = field(default_factory=VaeConfig)
    size_numbers: int = 0
    size_width: int = SIZE_WIDTH
    side_px: int = 512


CLIP_L = TextConfig()
CLIP_H = TextConfig(width=1024, layers=24, heads=16, quick_gelu=False, projection=1024)
CLIP_BIG_G = TextConfig(width=1280, layers=32, heads=20, quick_gelu=False, projection=1280)

SD1 = Config(
    unet=UnetConfig(), towers=(Tower(prefix="cond_stage_model.transformer.", config=CLIP_L),)
)
SD2 = Config(
    unet=UnetConfig(context_width=1024, heads=0, head_width=64, linear_projection=True),
    towers=(
        Tower(
            prefix="cond_stage_model.model.",
            config=CLIP_H,
            open_clip=True,
            from_last=2,
            padding=0,
        ),
    ),
    side_px=768,
)
SDXL = Config(
    unet=UnetConfig(
        channel_mult=(1, 2, 4),
        transformer_depth=(0, 2, 10),
        middle_depth=10,
        context_width=2048,
        heads=0,
        head_width=64,
        linear_projection=True,
        vector_width=1280 + 6 * SIZE_WIDTH,
    ),
    towers=(
        Tower(
            prefix="conditioner.embedders.0.transformer.",
            config=CLIP_L,
            from_last=2,
            final_norm=False,
        ),
        Tower(
            prefix="conditioner.embedders.1.model.",
            config=CLIP_BIG_G,
            open_clip=True,
            from_last=2,
            final_norm=False,
            padding=0,
        ),
    ),
    vae=VaeConfig(scale=0.13025),
    size_numbers=6,  # original height and width, crop top and left, target height and width
    side_px=1024,
)
SDXL_REFINER = Config(
    unet=UnetConfig(
        channels=384,
        transformer_depth=(0, 4, 4, 0),
        middle_depth=4,
        context_width=1280,
        heads=0,
        head_width=64,
        linear_projection=True,
        vector_width=1280 + 5 * SIZE_WIDTH,
    ),
    towers=(replace(SDXL.towers[1], prefix="conditioner.embedders.0.model."),),
    vae=VaeConfig(scale=0.13025),
    size_numbers=5,  # as SDXL, but one aesthetic score in place of the target size
    side_px=1024,
)
CONFIGS = {"sd1": SD1, "sd2": SD2, "sdxl": SDXL, "sdxl-refiner": SDXL_REFINER}

# 4: a latent; 9: with a mask and a masked latent (inpainting); 8: with a latent to edit.
INPUT_CHANNELS = {4: "", 9: "-inpaint", 8: "-edit"}


@dataclass(frozen=True)
class Conditioning:
    """What the UNet is told of a prompt.

    context: [B, tokens, width].
    pooled: [B, width] of the last tower, for networks with a second vector; else None.
    """

    context: Tensor
    pooled: Tensor | None


def conditioning(
    config: Config,
    read: Callable[[int, int], tuple[Tensor, Tensor | None]],
    clip_skip: int,
    weigh: Callable[[Tensor], Tensor] | None,
) -> Conditioning:
    """Join what the towers say; see `StableDiffusion.encode_text`.

    read: of a tower's number, and of a layer's counted from the last: its result [B, length,
    width], after the final norm where the tower has it so, and the pooled one.
    """
    context, pooled = [], None
    for i, tower in enumerate(config.towers):
        from_last = tower.from_last + clip_skip - 1
        if not 1 <= from_last <= tower.config.layers:
            raise ConfigError(
                f"encode_text: clip_skip must lie in 1..{tower.config.layers}, got {clip_skip}"
            )
        hidden, pooled = read(i, from_last)
        context.append(hidden if weigh is None else weigh(hidden))
    has_vector = config.unet.vector_width > 0
    return Conditioning(torch.cat(context, dim=-1), pooled if has_vector else None)


class StableDiffusion(nn.Module):
    """The networks of one checkpoint, under the names `rename` gives."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.unet = Unet(config.unet)
        self.vae = Vae(config.vae)
        self.towers = nn.ModuleList(
            OpenClipText(t.config) if t.open_clip else ClipText(t.config) for t in config.towers
        )

    def encode_text(
        self,
        tokens: Sequence[Tensor],  # per tower [B, length]: one chunk with start and end
        clip_skip: int = 1,
        weigh: Callable[[Tensor], Tensor] | None = None,  # of each tower's [B, length, width]
        insert: Callable[[int, Tensor], Tensor] | None = None,  # tower, [B, length, width]
    ) -> Conditioning:
        """Text for the UNet; each step of `clip_skip` above 1 leaves out one more last layer.

        `weigh` is given each tower's part of the context (emphasis), `insert` its embedded tokens
        (textual inversion); both return what takes their place.
        """
        if len(tokens) != len(self.towers):
            raise ValueError(
                f"encode_text: tokens must be given for {len(self.towers)} towers,"
                f" got {len(tokens)}"
            )

        def read(i: int, from_last: int) -> tuple[Tensor, Tensor | None]:
            network, ids = cast(TextTower, self.towers[i]), tokens[i]
            if insert is None:
                encoded = network(ids)
            else:
                encoded = network.encode(insert(i, network.embed(ids)), ids)
            hidden = encoded.hidden[-from_last]
            if self.config.towers[i].final_norm:
                hidden = network.final_norm(hidden)
            return hidden, encoded.pooled

        return conditioning(self.config, read, clip_skip, weigh)

    def vector(
        self,
        pooled: Tensor,  # [B, width]
        numbers: Tensor,  # [B, config.size_numbers] pixels, and the score of a refiner
    ) -> Tensor:  # [B, config.unet.vector_width]
        """SDXL's second vector: the pooled text and sinusoids of each number."""
        wanted = (pooled.shape[0], self.config.size_numbers)
        if tuple(numbers.shape) != wanted:
            raise ValueError(f"vector: numbers must be {wanted}, got {tuple(numbers.shape)}")
        waves = sinusoids(numbers.flatten(), self.config.size_width).view(len(numbers), -1)
        return torch.cat([pooled, waves.to(pooled.dtype)], dim=-1)


def build(config: Config) -> StableDiffusion:
    return StableDiffusion(config)


def detect(shapes: Mapping[str, Sequence[int]]) -> str | None:
    """The name in CONFIGS, and what is added for its input channels, of a single-file checkpoint.

    `shapes` maps each tensor's name to its shape. None where the file is of another family.
    Raises InputError for a UNet of this family with a first layer that no known member has.
    """
    first = shapes.get(UNET_PREFIX + "input_blocks.0.0.weight")
    if first is None:
        return None
    bases = [name for name, config in CONFIGS.items() if _has_sizes(config.unet, shapes)]
    if not bases:
        return None
    if first[1] not in INPUT_CHANNELS:
        raise InputError(
            f"checkpoint: the UNet's first layer must take {sorted(INPUT_CHANNELS)} channels,"
            f" got {first[1]}"
        )
    return bases[0] + INPUT_CHANNELS[first[1]]


def config_of(name: str) -> Config:
    """The configuration of a name that `detect` gave, such as "sd1-inpaint"."""
    for channels, suffix in INPUT_CHANNELS.items():
        base = name.removesuffix(suffix)
        if name.endswith(suffix) and base in CONFIGS:
            config = CONFIGS[base]
            return replace(config, unet=replace(config.unet, in_channels=channels))
    raise InputError(f"model must be one of {sorted(CONFIGS)} and kin, got {name!r}")


def told_guidance(config: Config, shape: Sequence[int] | None) -> Config:
    """The configuration of a network that has GUIDANCE, of this shape (None: that has it not)."""
    if shape is None or len(shape) != 2:
        return config
    return replace(config, unet=replace(config.unet, guidance_width=shape[1]))


def telling_names(config: UnetConfig) -> list[str]:
    """The UNet's parameters by which a member is told from the others, if a file has them.

    The first layer, the key projection of every transformer block of the second level (the first at
    which all members have any), one more that must not be there, and the second vector's layer.
    """
    block = 1 + (config.res_blocks + 1)
    transformers = f"input_blocks.{block}.1.transformer_blocks."
    keys = [f"{transformers}{i}.attn2.to_k.weight" for i in range(config.transformer_depth[1] + 1)]
    return ["input_blocks.0.0.weight", *keys, "label_emb.0.0.weight"]


def _has_sizes(config: UnetConfig, shapes: Mapping[str, Sequence[int]]) -> bool:
    """Width, context, depth and second vector together tell the members apart."""
    found = [shapes.get(UNET_PREFIX + name) for name in telling_names(config)]
    first, *keys, beyond, label = found
    return (
        first is not None
        and first[0] == config.channels
        and all(key is not None and key[1] == config.context_width for key in keys)
        and beyond is None
        and (0 if label is None else label[1]) == config.vector_width
    )


def rename(key: str, config: Config) -> str | None:
    """The parameter of `StableDiffusion` that a file's tensor is for; None for what is not used.

    Not used: copies kept for training, schedules, CLIP's picture tower, buffers.
    """
    if key.startswith(UNET_PREFIX):
        return "unet." + key.removeprefix(UNET_PREFIX)
    if key.startswith(VAE_PREFIX):
        name = key.removeprefix(VAE_PREFIX)
        return None if name.startswith("loss.") else "vae." + name
    for i, tower in enumerate(config.towers):
        if key.startswith(tower.prefix):
            name = key.removeprefix(tower.prefix)
            if name.startswith("visual.") or name in UNUSED or name.endswith("position_ids"):
                return None
            if not tower.open_clip and not name.startswith(("text_model.", "text_projection.")):
                name = "text_model." + name
            return f"towers.{i}.{name}"
    return None


UNUSED = ("logit_scale", "attn_mask")
