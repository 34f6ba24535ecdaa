"""A UNet, or a ControlNet, that looks up what it has made of a prompt or of a timestep before.

Keys and values of cross attention depend on the prompt alone, and what the timestep adds in each
residual block on the timestep (and SDXL's second vector) alone: both are computed once and give the
same bits as without. What is kept belongs to the objects that go through the network in place of
context and embedding, so that two runs share nothing but the weights.

Source of the frozen answers: Zhang et al. 2024 (arXiv:2404.02747), T-GATE.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from accel.nn.attention import CrossAttention, SpatialTransformer
from accel.nn.control import ControlNet
from accel.nn.layers import attention, sinusoids
from accel.nn.merge import MergingBlock
from accel.nn.perturb import with_children
from accel.nn.unet import Cut, ResBlock, Trunk, Unet

T = TypeVar("T", bound=Trunk)


@dataclass(eq=False)
class Prompts:
    """What the rows of a batch are told, and the keys and values that layers have made of it."""

    context: Tensor  # [B, tokens, context_width]
    vector: Tensor | None = None  # [B, vector_width]
    keys: dict[nn.Module, tuple[Tensor, Tensor]] = field(default_factory=dict)
    levels: dict[tuple[Together, nn.Module], Tensor] = field(default_factory=dict)


class Answers:
    """What cross attention added at one step of a run, to be added again at later ones.

    While `frozen` is False answers are gathered, from one call or several; then their mean over all
    rows stands for the attention.
    """

    def __init__(self) -> None:
        self.frozen = False
        self._sums: dict[nn.Module, tuple[Tensor, int]] = {}

    def clear(self) -> None:
        self.frozen = False
        self._sums.clear()

    def keep(self, layer: nn.Module, answer: Tensor) -> None:  # [B, N, width]
        total, rows = answer.sum(0, keepdim=True), len(answer)
        if layer in self._sums:
            before, count = self._sums[layer]
            total, rows = before + total, count + rows
        self._sums[layer] = total, rows

    def freeze(self) -> None:
        """From now on the answers are given. Raises ValueError where none were gathered."""
        if not self._sums:
            raise ValueError("Answers: a call must have been made before they are frozen")
        if not self.frozen:
            self._sums = {layer: (total / rows, 1) for layer, (total, rows) in self._sums.items()}
            self.frozen = True

    def of(self, layer: nn.Module) -> Tensor:  # [1, N, width]
        return self._sums[layer][0]


class Levels:
    """Embeddings of timesteps: those of a schedule in one batch, others as they are met.

    guidance: the scale, for networks that are told it.
    """

    def __init__(self, trunk: Trunk, dtype: torch.dtype, guidance: float | None = None):
        self.trunk, self.dtype, self.guidance = trunk, dtype, guidance
        self._where: dict[float, tuple[Together, int]] = {}

    def add(self, timesteps: Sequence[float]) -> None:
        """Timesteps that will be asked for; what is known already is left out."""
        rounded = torch.tensor(list(timesteps), dtype=torch.float32).tolist()
        fresh = [t for t in dict.fromkeys(rounded) if t not in self._where]
        if not fresh:
            return
        together = self.together(fresh)
        self._where |= {t: (together, row) for row, t in enumerate(fresh)}

    def together(self, timesteps: Sequence[float]) -> Together:
        """In this order, each as often as it is named."""
        embed, channels = self.trunk.time_embed, self.trunk.config.channels
        device = next(embed.parameters()).device
        waves = sinusoids(torch.tensor(timesteps, device=device), channels)
        return Together(embed(waves.to(self.dtype), self.guidance))

    def at(self, t: float) -> tuple[Together, int]:
        rounded = torch.tensor(t, dtype=torch.float32).item()
        if rounded not in self._where:
            self.add([t])
        return self._where[rounded]


@dataclass(eq=False)
class Together:
    """Timesteps embedded together, and what layers have made of them."""

    embedding: Tensor  # [T, time_width]
    known: dict[nn.Module, Tensor] = field(default_factory=dict)  # [T, 1, channels] by layer

    def projected(self, layer: nn.Module, project: nn.Module) -> Tensor:  # [T, 1, channels]
        if layer not in self.known:
            self.known[layer] = project(self.embedding[:, None])
        return self.known[layer]

    def projected_with(
        self, layer: nn.Module, project: nn.Module, prompts: Prompts, label: nn.Module
    ) -> Tensor:  # [T, B, channels]
        """For networks with a second vector; kept with the prompts it is of."""
        known = prompts.levels
        if (self, label) not in known:
            known[self, label] = self.embedding[:, None] + label(prompts.vector)
        if (self, layer) not in known:
            known[self, layer] = project(known[self, label])
        return known[self, layer]


Level = tuple[Together, int | Tensor]  # a row, or [1] a row that the device knows alone


@dataclass(frozen=True)
class Call:
    """What goes through the network in place of embedding and context."""

    prompts: Prompts
    level: Level
    label: nn.Module | None  # of the UNet, for a second vector
    size: tuple[int, int]  # height and width of the latent
    answers: Answers | None = None


class KnownPrompt(nn.Module):
    """Cross attention that looks up keys and values, or its whole answer."""

    def __init__(self, inner: CrossAttention):
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor, call: Call, residual: Tensor) -> Tensor:
        inner, answers = self.inner, call.answers
        if answers is not None and answers.frozen:
            return residual + answers.of(self)
        keys = call.prompts.keys
        if self not in keys:
            context = call.prompts.context
            keys[self] = inner.to_k(context), inner.to_v(context)
        seen = attention(inner.to_q(x), *keys[self], inner.heads)
        if answers is None:
            return cast(Tensor, inner.to_out[0](seen, residual))
        answer = inner.to_out[0](seen)
        answers.keep(self, answer)
        return cast(Tensor, residual + answer)


class KnownLevel(nn.Module):
    """A residual block's projection of the embedding, looked up."""

    def __init__(self, project: nn.Module):
        super().__init__()
        self.project = project

    def forward(self, call: Call) -> Tensor:  # [B, channels]
        together, row = call.level
        if call.label is not None:
            known = together.projected_with(self, self.project, call.prompts, call.label)
        else:
            known = together.projected(self, self.project)
        chosen = known[row] if isinstance(row, int) else known.index_select(0, row)[0]
        return chosen.expand(len(call.prompts.context), -1)


class ReusingUnet:
    """The same network, layer by layer the same objects, but for what it looks up.

    Nothing is copied and `unet` is left as it is. With weights that are changed, take new `Levels`
    and `Prompts`. merging: share of the tokens that self attention is spared, see accel.nn.merge.
    """

    def __init__(self, unet: Unet, merging: float = 0.0):
        self.config = unet.config
        self.unet = rebuilt(unet)
        if merging:
            _merge_tokens(self.unet, merging)

    def __call__(
        self,
        x: Tensor,  # [B, in_channels, H, W] scaled noisy latent
        t: float | Level,  # timestep of all rows
        prompts: Prompts,
        levels: Levels,
        control: Sequence[Tensor] | None = None,
        features: Mapping[int, Tensor] | None = None,
        *,
        cut: Cut | None = None,
        answers: Answers | None = None,
    ) -> Tensor:  # [B, out_channels, H, W]
        call: Any = call_of(self.unet, x, t, prompts, levels, answers)
        return self.unet.predict(x, call, call, control, features, cut)


class ReusingControl:
    """A ControlNet that looks up the same, and is given what it sees of its picture."""

    def __init__(self, network: ControlNet):
        self.network = rebuilt(network)

    def __call__(
        self,
        x: Tensor,  # [B, in_channels, H, W] scaled noisy latent
        seen: Tensor,  # [1, channels, H, W]: see ControlNet.seen
        t: float,  # timestep of all rows
        prompts: Prompts,
        levels: Levels,
        scale: float = 1.0,
    ) -> list[Tensor]:
        call: Any = call_of(self.network, x, t, prompts, levels)
        return self.network.steer(x, seen, call, call, scale)


def call_of(
    trunk: Trunk,
    x: Tensor,
    t: float | Level,
    prompts: Prompts,
    levels: Levels,
    answers: Answers | None = None,
) -> Call:
    trunk.check(x, x.new_empty(len(x)), prompts.context, prompts.vector)
    label = trunk.label_emb if trunk.config.vector_width else None
    level = t if isinstance(t, tuple) else levels.at(t)
    return Call(prompts, level, label, (x.shape[2], x.shape[3]), answers)


def rebuilt(trunk: T) -> T:
    """Shallow copies down to the layers that look something up."""
    children: dict[str, nn.Module] = {
        name: nn.ModuleList(_stage(stage) for stage in blocks)
        for name, blocks in trunk.named_children()
        if name in ("input_blocks", "output_blocks") and isinstance(blocks, nn.ModuleList)
    }
    return with_children(trunk, {**children, "middle_block": _stage(trunk.middle_block)})


def _stage(stage: nn.Module) -> nn.Module:
    changed: dict[str, nn.Module] = {}
    for name, module in stage.named_children():
        if isinstance(module, ResBlock):
            changed[name] = with_children(module, {"emb_layers": KnownLevel(module.emb_layers)})
        elif isinstance(module, SpatialTransformer):
            blocks = nn.ModuleList(
                with_children(block, {"attn2": KnownPrompt(block.attn2)})  # type: ignore[arg-type]
                for block in module.transformer_blocks
            )
            changed[name] = with_children(module, {"transformer_blocks": blocks})
    return with_children(stage, changed)


def _merge_tokens(unet: Unet, ratio: float) -> None:
    """At the first level that has transformers: the others have too few tokens to be worth it."""
    depth = unet.config.transformer_depth
    level = next((i for i, blocks in enumerate(depth) if blocks), None)
    if level is None:
        return
    each = unet.config.res_blocks
    first = 1 + level * (each + 1)
    last = len(unet.output_blocks) - level * (each + 1)
    stages = [*list(unet.input_blocks)[first : first + each]]
    stages += list(unet.output_blocks)[last - each - 1 : last]
    for stage in stages:
        for module in stage.children():
            if isinstance(module, SpatialTransformer):
                module._modules["transformer_blocks"] = _merging(module, ratio, 1 << level)


def _merging(transformer: SpatialTransformer, ratio: float, factor: int) -> nn.ModuleList:
    blocks: Any = transformer.transformer_blocks
    return nn.ModuleList(MergingBlock(block, ratio, factor) for block in blocks)
