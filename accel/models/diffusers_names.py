"""What diffusers and transformers call our modules: their folders and most LoRA files use that."""

from __future__ import annotations

from accel.nn.unet import UnetConfig
from accel.nn.vae import VaeConfig

UNET_ENDS = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "time_embed.cond_proj": "time_embedding.cond_proj",
    "label_emb.0.0": "add_embedding.linear_1",
    "label_emb.0.2": "add_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
RES_BLOCK = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
MIDDLE = {"0": "resnets.0", "1": "attentions.0", "2": "resnets.1"}
OPEN_CLIP_ENDS = {
    "token_embedding": "text_model.embeddings.token_embedding",
    "positional_embedding": "text_model.embeddings.position_embedding",
    "ln_final": "text_model.final_layer_norm",
    "text_projection": "text_projection",
}
OPEN_CLIP_LAYER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}
VAE_ENDS = {"norm_out": "conv_norm_out"}
VAE_ATTENTION = {
    "norm": "group_norm",
    "q": "to_q",
    "k": "to_k",
    "v": "to_v",
    "proj_out": "to_out.0",
}
VAE_MIDDLE = {"block_1": "resnets.0", "attn_1": "attentions.0", "block_2": "resnets.1"}


def unet_module(module: str, config: UnetConfig) -> str:
    """diffusers' path of one of `Unet`'s modules that have parameters."""
    if module in UNET_ENDS:
        return UNET_ENDS[module]
    part, index, *rest = module.split(".")
    per_level = config.res_blocks + 1
    if part == "middle_block":
        return f"mid_block.{MIDDLE[index]}.{_inner(rest)}"
    if part == "input_blocks":
        level, at = divmod(int(index) - 1, per_level)
        if rest[1] == "op":
            return f"down_blocks.{level}.downsamplers.0.conv"
        return f"down_blocks.{level}.{_kind(rest)}.{at}.{_inner(rest[1:])}"
    level, at = divmod(int(index), per_level)
    if rest[1] == "conv":
        return f"up_blocks.{level}.upsamplers.0.conv"
    return f"up_blocks.{level}.{_kind(rest)}.{at}.{_inner(rest[1:])}"


def _kind(rest: list[str]) -> str:
    return "resnets" if rest[0] == "0" else "attentions"


def _inner(rest: list[str]) -> str:
    path = ".".join(rest)
    return RES_BLOCK.get(path, path)


def open_clip_module(module: str) -> str:
    """transformers' path of one of `OpenClipText`'s modules.

    The joint projection has no one counterpart: its rows are q_proj, k_proj and v_proj in turn.
    """
    if module in OPEN_CLIP_ENDS:
        return OPEN_CLIP_ENDS[module]
    _, _, layer, *rest = module.split(".")  # transformer.resblocks.N....
    return f"text_model.encoder.layers.{layer}.{OPEN_CLIP_LAYER['.'.join(rest)]}"


def vae_module(module: str, config: VaeConfig) -> str:
    """diffusers' path of one of `Vae`'s modules; its decoder counts levels from the other end."""
    side, _, path = module.partition(".")
    if not path:  # quant_conv, post_quant_conv
        return module
    part, *rest = path.split(".")
    if part == "mid":
        inner = rest[1] if rest[0] != "attn_1" else VAE_ATTENTION[rest[1]]
        return f"{side}.mid_block.{VAE_MIDDLE[rest[0]]}.{_vae_inner(inner)}"
    if part in ("down", "up"):
        level = int(rest[0])
        if part == "up":
            level = len(config.channel_mult) - 1 - level
        if rest[1] == "block":
            return f"{side}.{part}_blocks.{level}.resnets.{rest[2]}.{_vae_inner(rest[3])}"
        return f"{side}.{part}_blocks.{level}.{rest[1]}rs.0.conv"
    return f"{side}.{VAE_ENDS.get(path, path)}"


def _vae_inner(name: str) -> str:
    return "conv_shortcut" if name == "nin_shortcut" else name
