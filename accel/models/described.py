"""Sizes of a diffusers folder that no known member of the family has, from its own config.json.

Small models for tests and experiments are kept so. Whatever a configuration asks for that these
networks cannot do is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from accel.core import ConfigError, InputError, read_file, read_json
from accel.models import stable_diffusion as sd
from accel.nn.text import TextConfig
from accel.nn.unet import UnetConfig
from accel.nn.vae import VaeConfig
from accel.text.bpe import END, END_TEXT, START_TEXT, BpeTokenizer

CONFIG = "config.json"
MOST_WIDE, MOST_LAYERS = 65535, 128
MOST_TRANSFORMERS = 2000  # of a UNet; SDXL has 70
MAX_MERGES_BYTES = 16 << 20
CROSSED, PLAIN = ("CrossAttnDownBlock2D", "CrossAttnUpBlock2D"), ("DownBlock2D", "UpBlock2D")
# What the networks here have; a file that says nothing of it means the same.
UNET_FIXED = {
    "act_fn": "silu", "norm_eps": 1e-5, "freq_shift": 0, "flip_sin_to_cos": True,
    "center_input_sample": False, "downsample_padding": 1, "mid_block_scale_factor": 1,
    "mid_block_type": "UNetMidBlock2DCrossAttn", "resnet_time_scale_shift": "default",
    "time_embedding_type": "positional", "conv_in_kernel": 3, "conv_out_kernel": 3,
    "only_cross_attention": False, "dual_cross_attention": False, "class_embed_type": None,
    "num_class_embeds": None, "encoder_hid_dim": None, "attention_type": "default",
}  # fmt: skip
VAE_FIXED = {
    "act_fn": "silu", "in_channels": 3, "out_channels": 3, "use_quant_conv": True,
    "use_post_quant_conv": True, "mid_block_add_attention": True,
}  # fmt: skip


def describe(path: Path) -> tuple[str, sd.Config]:
    """The nearest member's name and the configuration. Raises InputError for what cannot be run."""
    try:
        return _describe(path)
    except ConfigError as error:  # sizes that do not go together
        raise InputError(f"{path}: {error}") from None


def _describe(path: Path) -> tuple[str, sd.Config]:
    about, vae = read(path / "unet"), vae_config(path / "vae")
    folders = [name for name in ("text_encoder", "text_encoder_2") if (path / name).is_dir()]
    has_vector = about.get("addition_embed_type") == "text_time"
    unet = unet_config(path / "unet", about)
    towers, pooled = [], 0
    for name in folders:
        config = text_config(path / name)
        pooled = config.projection or config.width
        towers.append(
            sd.Tower(
                prefix=f"{name}.",
                config=config,
                from_last=2 if has_vector else 1,
                final_norm=not has_vector,
                padding=padding(path / name.replace("text_encoder", "tokenizer")),
            )
        )
    if not towers:
        raise InputError(f"{path}: must hold text_encoder or text_encoder_2, found neither")
    sizes = about.get("addition_time_embed_dim") or sd.SIZE_WIDTH
    width, numbers = one(path / "unet", {"size": sizes}, "size", 0), 0
    if has_vector:
        numbers, rest = divmod(unet.vector_width - pooled, width)
        if rest or numbers not in (5, 6):
            raise InputError(
                f"{path}: the UNet's second vector of {unet.vector_width} must be {pooled} of text"
                f" and 5 or 6 times {width}"
            )
    base = "sd2" if unet.linear_projection else "sd1"
    if has_vector:
        base = "sdxl" if numbers == 6 else "sdxl-refiner"
    suffix = sd.INPUT_CHANNELS.get(unet.in_channels)
    if suffix is None:
        raise InputError(
            f"{path}: the UNet's first layer must take {sorted(sd.INPUT_CHANNELS)} channels,"
            f" got {unet.in_channels}"
        )
    side = about.get("sample_size") or 64
    side = side if isinstance(side, int) else 64
    return base + suffix, sd.Config(
        unet=unet,
        towers=tuple(towers),
        vae=vae,
        size_numbers=numbers,
        size_width=width,
        side_px=side * vae.factor,
    )


def read(folder: Path) -> dict[str, Any]:
    about = read_json(folder / CONFIG) if (folder / CONFIG).is_file() else None
    if not isinstance(about, dict):
        raise InputError(f"{folder}: its sizes are of no known model, so it must hold {CONFIG}")
    return about


def refuse_others(folder: Path, about: Mapping[str, Any], fixed: Mapping[str, Any]) -> None:
    for name, value in fixed.items():
        if about.get(name, value) != value:
            raise InputError(f"{folder}: {name} must be {value!r}, got {about[name]!r:.80}")


def counts(folder: Path, about: Mapping[str, Any], name: str, default: Any, many: int) -> list[int]:
    """A list of `many` counts; one count stands for as many."""
    value, most = about.get(name, default), MOST_LAYERS if "layers" in name else MOST_WIDE
    found = value if isinstance(value, list) else [value] * many
    if len(found) != many or not all(type(n) is int and 0 < n <= most for n in found):
        raise InputError(f"{folder}: {name} must be {many} counts up to {most}, got {value!r:.80}")
    return found


def widths_of(folder: Path, about: Mapping[str, Any]) -> tuple[int, tuple[int, ...]]:
    """The first level's width, and all levels' in multiples of it."""
    value = about.get("block_out_channels")
    many = len(value) if isinstance(value, list) else 0
    if not 1 <= many <= 8:
        raise InputError(f"{folder}: block_out_channels must be counts, got {value!r:.80}")
    widths = counts(folder, about, "block_out_channels", None, many)
    if any(width % widths[0] for width in widths):
        raise InputError(
            f"{folder}: block_out_channels must be multiples of the first, got {widths}"
        )
    return widths[0], tuple(width // widths[0] for width in widths)


def one(folder: Path, about: Mapping[str, Any], name: str, default: int) -> int:
    return counts(folder, about, name, default, 1)[0]


def unet_config(folder: Path, about: Mapping[str, Any]) -> UnetConfig:
    """A UNet as diffusers' `config.json` describes it; InputError for what ours cannot be."""
    refuse_others(folder, about, UNET_FIXED)
    if about.get("addition_embed_type") not in (None, "text_time"):
        raise InputError(
            f"{folder}: addition_embed_type must be 'text_time' or none,"
            f" got {about['addition_embed_type']!r:.80}"
        )
    channels, mult = widths_of(folder, about)
    levels = len(mult)
    crossed = crossings(folder, about, levels)
    depth = counts(folder, about, "transformer_layers_per_block", 1, levels)
    heads_name = "num_attention_heads" if about.get("num_attention_heads") else "attention_head_dim"
    # diffusers' attention_head_dim is the number of heads.
    heads = counts(folder, about, heads_name, 8, levels)
    used = [i for i in range(levels) if crossed[i] or i == levels - 1]  # the middle is as the last
    head_widths = {channels * mult[i] // heads[i] for i in used}
    same = {heads[i] for i in used}
    if len(same) > 1 and len(head_widths) > 1:
        raise InputError(f"{folder}: heads must be one number or of one width, got {heads}")
    blocks = counts(folder, about, "layers_per_block", 2, levels)
    if len(set(blocks)) > 1:
        raise InputError(f"{folder}: layers_per_block must be one number, got {blocks}")
    if 2 * (blocks[0] + 1) * sum(depth) > MOST_TRANSFORMERS:
        raise InputError(
            f"{folder}: must have {MOST_TRANSFORMERS} transformers at most, got {depth} in each of"
            f" {blocks[0]} blocks a level"
        )
    has_vector = about.get("addition_embed_type") == "text_time"
    vector = one(folder, about, "projection_class_embeddings_input_dim", 0) if has_vector else 0
    told = one(folder, about, "time_cond_proj_dim", 0) if about.get("time_cond_proj_dim") else 0
    return UnetConfig(
        in_channels=one(folder, about, "in_channels", 4),
        out_channels=one(folder, about, "out_channels", 4),
        channels=channels,
        channel_mult=mult,
        res_blocks=blocks[0],
        transformer_depth=tuple(d if c else 0 for d, c in zip(depth, crossed, strict=True)),
        middle_depth=depth[-1],
        context_width=one(folder, about, "cross_attention_dim", 1280),
        heads=heads[used[0]] if len(same) == 1 else 0,
        head_width=0 if len(same) == 1 else next(iter(head_widths)),
        linear_projection=bool(about.get("use_linear_projection", False)),
        vector_width=vector,
        guidance_width=told,
        norm_groups=one(folder, about, "norm_num_groups", 32),
    )


def crossings(folder: Path, about: Mapping[str, Any], levels: int) -> list[bool]:
    """Which levels have transformers, the same on both ways."""
    default = [CROSSED[0]] * 3 + [PLAIN[0]], [PLAIN[1]] + [CROSSED[1]] * 3
    down = about.get("down_block_types", default[0])
    up = about.get("up_block_types", default[1])
    for name, types, at in (("down_block_types", down, 0), ("up_block_types", up, 1)):
        known = (CROSSED[at], PLAIN[at])
        if (
            not isinstance(types, list)
            or len(types) != levels
            or any(t not in known for t in types)
        ):
            raise InputError(
                f"{folder}: {name} must be {levels} of {' and '.join(known)}, got {types!r:.120}"
            )
    crossed = [kind == CROSSED[0] for kind in down]
    if crossed != [kind == CROSSED[1] for kind in reversed(up)]:
        raise InputError(f"{folder}: up_block_types must mirror down_block_types, got {up}")
    return crossed


def vae_config(folder: Path) -> VaeConfig:
    """An autoencoder as its folder describes it; InputError for what ours cannot be."""
    about = read(folder)
    refuse_others(folder, about, VAE_FIXED)
    channels, mult = widths_of(folder, about)
    scale, shift = about.get("scaling_factor", 0.18215), about.get("shift_factor") or 0.0
    if not all(isinstance(n, (int, float)) for n in (scale, shift)) or not scale > 0:
        raise InputError(f"{folder}: scaling_factor must be above 0, got {scale!r:.80}")
    return VaeConfig(
        latent_channels=one(folder, about, "latent_channels", 4),
        base_channels=channels,
        channel_mult=mult,
        res_blocks=one(folder, about, "layers_per_block", 1),
        norm_groups=one(folder, about, "norm_num_groups", 32),
        scale=scale,
        shift=shift,
    )


def text_config(folder: Path) -> TextConfig:
    """A text tower as its folder describes it; InputError for what ours cannot be."""
    about = read(folder)
    if about.get("layer_norm_eps", 1e-5) != 1e-5:
        raise InputError(f"{folder}: layer_norm_eps must be 1e-05, got {about['layer_norm_eps']}")
    activation = about.get("hidden_act", "quick_gelu")
    if activation not in ("quick_gelu", "gelu"):
        raise InputError(f"{folder}: hidden_act must be gelu or quick_gelu, got {activation!r:.80}")
    vocabulary, width = (
        one(folder, about, "vocab_size", 49408), one(folder, about, "hidden_size", 512),
    )  # fmt: skip
    end = about.get("eos_token_id", END)
    projected = "CLIPTextModelWithProjection" in str(about.get("architectures"))
    return TextConfig(
        vocabulary=vocabulary,
        length=one(folder, about, "max_position_embeddings", 77),
        width=width,
        layers=one(folder, about, "num_hidden_layers", 12),
        heads=one(folder, about, "num_attention_heads", 8),
        hidden_width=one(folder, about, "intermediate_size", 2048),
        # Configurations from before transformers 4.31 say 2 and mean the largest id.
        end_token=end if type(end) is int and end != 2 else vocabulary - 1,
        quick_gelu=activation == "quick_gelu",
        projection=one(folder, about, "projection_dim", 512) if projected else 0,
    )


def padding(folder: Path) -> int:
    """The token that fills a chunk, as a folder's tokenizer says; CLIP's own end without one."""
    pad: Any = None
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if pad is None and (folder / name).is_file():
            found = read_json(folder / name)
            pad = found.get("pad_token") if isinstance(found, dict) else None
    text = pad.get("content") if isinstance(pad, dict) else pad
    vocabulary = read_json(folder / "vocab.json") if (folder / "vocab.json").is_file() else {}
    for word in (text if isinstance(text, str) else None, END_TEXT):
        token = vocabulary.get(word) if isinstance(vocabulary, dict) else None
        if type(token) is int:
            return token
    return END


def own_tokenizer(path: Path) -> BpeTokenizer | None:
    """A folder's tokenizer where it is not CLIP's: its vocabulary is of another size."""
    for name in ("tokenizer", "tokenizer_2"):
        folder = path / name
        if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
            vocabulary = read_json(folder / "vocab.json")
            if not isinstance(vocabulary, dict) or not all(
                type(v) is int and 0 <= v < END - 1 for v in vocabulary.values()
            ):
                return None  # CLIP's has its own start and end there
            if not {START_TEXT, END_TEXT} <= set(vocabulary):
                raise InputError(f"{folder}: must have {START_TEXT} and {END_TEXT}")
            merges = read_file(folder / "merges.txt", MAX_MERGES_BYTES, "pairs of a tokenizer")
            text = merges.decode("utf-8", "replace")
            pairs = [line.split() for line in text.splitlines() if not line.startswith("#version")]
            return BpeTokenizer([(p[0], p[1]) for p in pairs if len(p) == 2], vocabulary)
    return None


def without_guidance(config: UnetConfig) -> UnetConfig:
    """What a ControlNet for this UNet has."""
    return replace(config, in_channels=4, guidance_width=0)
