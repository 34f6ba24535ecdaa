"""The text towers of Stable Diffusion: CLIP as OpenAI's and as OpenCLIP's checkpoints name it.

Both are causal transformers with the norm before each part; they differ in parameter names, in
the activation, and in the projection of the pooled vector. Source: Radford et al. 2021
(arXiv:2103.00020); Cherti et al. 2022 (arXiv:2212.07143).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from accel.core import ConfigError
from accel.kernels import linear
from accel.nn.conv import Linear
from accel.nn.layers import attention, quick_gelu


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """Sizes of one text tower.

    vocabulary: rows of the token table.
    length: tokens a chunk, start and end included.
    end_token: id at which the pooled vector is read: its first place in a chunk.
    quick_gelu: OpenAI's CLIP; OpenCLIP's towers use the exact GELU.
    projection: length of the pooled vector after its projection; 0 when there is none.
    hidden_width: of the feed-forward; 0 is four widths.
    """

    vocabulary: int = 49408
    length: int = 77
    width: int = 768
    layers: int = 12
    heads: int = 12
    end_token: int = 49407
    quick_gelu: bool = True
    projection: int = 0
    hidden_width: int = 0

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ConfigError(
                f"TextConfig: width must be a multiple of heads {self.heads}, got {self.width}"
            )


@dataclass(frozen=True)
class Encoded:
    """What a tower says about a chunk of tokens.

    hidden: one [B, tokens, width] per depth, before the final norm: the embedded tokens, then
        the output of every layer; hidden[-1] is the last.
    final: [B, tokens, width] hidden[-1] after the final norm.
    pooled: [B, width or projection] `final` at the end token, projected where the tower does so.
    """

    hidden: list[Tensor]
    final: Tensor
    pooled: Tensor


def at_end(
    x: Tensor,  # [B, tokens, width]
    tokens: Tensor,  # [B, tokens]
    end_token: int,
) -> Tensor:  # [B, width] at the first end token of each row
    first = (tokens == end_token).int().argmax(dim=-1)
    return x[torch.arange(x.shape[0], device=x.device), first]


class TextTower(nn.Module):
    """What both kinds share; a kind says how tokens are embedded and where its layers are."""

    def __init__(self, config: TextConfig):
        super().__init__()
        self.config = config

    def embed(self, tokens: Tensor) -> Tensor:  # [B, tokens] -> [B, tokens, width]
        """Token and position embeddings, added."""
        raise NotImplementedError

    def layers(self) -> nn.ModuleList:
        raise NotImplementedError

    def final_norm(self, hidden: Tensor) -> Tensor:
        raise NotImplementedError

    def project(self, pooled: Tensor) -> Tensor:  # [B, width] -> [B, projection]
        raise NotImplementedError

    def forward(
        self,
        tokens: Tensor,  # [B, tokens] int64, the end token among them
    ) -> Encoded:
        if tokens.ndim != 2 or tokens.shape[1] > self.config.length:
            raise ValueError(
                f"text tower: tokens must be [B, at most {self.config.length}],"
                f" got {tuple(tokens.shape)}"
            )
        return self.encode(self.embed(tokens), tokens)

    def encode(
        self,
        embedded: Tensor,  # [B, tokens, width] as `embed` makes it
        tokens: Tensor,  # [B, tokens] only to find the end
    ) -> Encoded:
        hidden = [embedded]
        for layer in self.layers():
            hidden.append(layer(hidden[-1]))
        final = self.final_norm(hidden[-1])
        pooled = at_end(final, tokens, self.config.end_token)
        return Encoded(hidden, final, self.project(pooled) if self.config.projection else pooled)


class ClipText(TextTower):
    """OpenAI's CLIP text tower (SD 1.x, SDXL's first); names as in transformers."""

    def __init__(self, config: TextConfig):
        super().__init__(config)
        self.text_model = ClipTransformer(config)
        if config.projection:
            self.text_projection = Linear(config.width, config.projection, bias=False)

    def embed(self, tokens: Tensor) -> Tensor:
        return self.text_model.embeddings(tokens)

    def layers(self) -> nn.ModuleList:
        return self.text_model.encoder.layers

    def final_norm(self, hidden: Tensor) -> Tensor:
        return self.text_model.final_layer_norm(hidden)

    def project(self, pooled: Tensor) -> Tensor:
        return self.text_projection(pooled)


class ClipTransformer(nn.Module):
    def __init__(self, config: TextConfig):
        super().__init__()
        self.embeddings = ClipEmbeddings(config)
        self.encoder = ClipLayers(config)
        self.final_layer_norm = nn.LayerNorm(config.width)


class ClipLayers(nn.Module):
    def __init__(self, config: TextConfig):
        super().__init__()
        self.layers = nn.ModuleList(ClipLayer(config) for _ in range(config.layers))


class ClipEmbeddings(nn.Module):
    may_be_halves = ("token_embedding.weight",)  # rows of it are added to positions, which are wide

    def __init__(self, config: TextConfig):
        super().__init__()
        self.token_embedding = nn.Embedding(config.vocabulary, config.width)
        self.position_embedding = nn.Embedding(config.length, config.width)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.token_embedding(tokens) + self.position_embedding.weight[: tokens.shape[1]]


class ClipLayer(nn.Module):
    def __init__(self, config: TextConfig):
        super().__init__()
        width = config.width
        self.self_attn = ClipAttention(width, config.heads)
        self.layer_norm1 = nn.LayerNorm(width)
        self.mlp = ClipMlp(config)
        self.layer_norm2 = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class ClipMlp(nn.Module):
    def __init__(self, config: TextConfig):
        super().__init__()
        self.activation = quick_gelu if config.quick_gelu else F.gelu
        hidden = config.hidden_width or 4 * config.width
        self.fc1 = Linear(config.width, hidden)
        self.fc2 = Linear(hidden, config.width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.activation(self.fc1(x)))


class ClipAttention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q_proj = Linear(width, width)
        self.k_proj = Linear(width, width)
        self.v_proj = Linear(width, width)
        self.out_proj = Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        return self.out_proj(attention(q, k, v, self.heads, causal=True))


class OpenClipText(TextTower):
    """OpenCLIP's text tower (SD 2.x: H; SDXL's second: bigG); names as in open_clip."""

    may_be_halves = ClipEmbeddings.may_be_halves

    def __init__(self, config: TextConfig):
        super().__init__(config)
        self.token_embedding = nn.Embedding(config.vocabulary, config.width)
        self.positional_embedding = nn.Parameter(torch.zeros(config.length, config.width))
        self.transformer = OpenClipLayers(config)
        self.ln_final = nn.LayerNorm(config.width)
        if config.projection:
            # Stored the other way round than a linear layer's weight.
            self.text_projection = nn.Parameter(torch.zeros(config.width, config.projection))

    def embed(self, tokens: Tensor) -> Tensor:
        return self.token_embedding(tokens) + self.positional_embedding[: tokens.shape[1]]

    def layers(self) -> nn.ModuleList:
        return self.transformer.resblocks

    def final_norm(self, hidden: Tensor) -> Tensor:
        return self.ln_final(hidden)

    def project(self, pooled: Tensor) -> Tensor:
        return pooled @ self.text_projection


class OpenClipLayers(nn.Module):
    def __init__(self, config: TextConfig):
        super().__init__()
        self.resblocks = nn.ModuleList(OpenClipLayer(config) for _ in range(config.layers))


class OpenClipLayer(nn.Module):
    def __init__(self, config: TextConfig):
        super().__init__()
        width = config.width
        self.ln_1 = nn.LayerNorm(width)
        self.attn = OpenClipAttention(width, config.heads)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = OpenClipMlp(config)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class OpenClipMlp(nn.Module):
    def __init__(self, config: TextConfig):
        super().__init__()
        self.activation = quick_gelu if config.quick_gelu else F.gelu
        self.c_fc = Linear(config.width, 4 * config.width)
        self.c_proj = Linear(4 * config.width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(self.activation(self.c_fc(x)))


class OpenClipAttention(nn.Module):
    """Query, key and value rows in one matrix, as torch's own attention layer keeps them."""

    may_be_halves = ("in_proj_weight",)

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.zeros(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = linear(x, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1)
        return self.out_proj(attention(q, k, v, self.heads, causal=True))
