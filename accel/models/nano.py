"""`nano`: the smallest member of the Stable Diffusion 1.x family, 64 x 64 pixels, built in.

The same networks as its large relatives with smaller numbers; how it is trained is told in
training/nano/README.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from accel.core import InputError, parse_json
from accel.models.stable_diffusion import Config, Tower
from accel.nn.text import TextConfig
from accel.nn.unet import UnetConfig
from accel.nn.vae import VaeConfig
from accel.text.rows import RowMap

NAME = "nano"  # also what the file's metadata gives as its family
SIDE_PX = 64

# scale 1: the latents' own mean and deviation are folded into the two 1x1 convolutions.
VAE = VaeConfig(base_channels=16, channel_mult=(1, 2, 4), res_blocks=1, norm_groups=8, scale=1.0)

UNET = UnetConfig(
    channels=48,
    channel_mult=(1, 2, 3),
    res_blocks=1,
    transformer_depth=(0, 1, 1),
    context_width=192,
    heads=4,
    feedforward_mult=2,
    norm_groups=8,
)

END_ROW, HASHED_ROWS = 1, 256  # row 0 begins a prompt


def text_config(kept_tokens: int) -> TextConfig:
    """The text tower; its table has a row for each kept token of CLIP's vocabulary.

    Rows: start, end (also padding), the kept tokens, then HASHED_ROWS shared by all others. The
    full table would be larger than the rest of the model.
    """
    rows = 2 + kept_tokens + HASHED_ROWS
    return TextConfig(vocabulary=rows, length=24, width=192, layers=2, heads=4, end_token=END_ROW)


def config(shapes: Mapping[str, Sequence[int]]) -> Config:
    """The member's configuration; only the token table's length varies from file to file."""
    prefix = "cond_stage_model.transformer."
    table = shapes.get(prefix + "text_model.embeddings.token_embedding.weight", (0,))
    kept = table[0] - HASHED_ROWS - 2
    if kept < 1:
        raise InputError(
            f"nano: the token table must have more than {HASHED_ROWS + 2} rows, got {table[0]}"
        )
    tower = Tower(prefix=prefix, config=text_config(kept), padding=END_ROW)
    return Config(unet=UNET, towers=(tower,), vae=VAE, side_px=SIDE_PX)


def row_map(metadata: Mapping[str, str]) -> RowMap:
    """Which row each token has, as the file's metadata tells."""
    about = parse_json(metadata.get(NAME, ""), "nano", "metadata in JSON")
    try:
        kept, hashed = about["kept_tokens"], about["hashed_rows"]
        is_whole = all(type(number) is int and 0 <= number < 1 << 31 for number in [*kept, hashed])
    except (KeyError, TypeError):
        is_whole = False
    if not is_whole:
        raise InputError("nano: its metadata must name kept_tokens and hashed_rows, whole numbers")
    return RowMap(tuple(kept), hashed)
