"""Token merging: self attention over fewer positions, alike ones taken together.

One position of each 2x2 stays; of all others those that are most like one of these are merged into
it by their mean, attended to as one, and given the same answer. Which ones depends on the picture
alone: nothing is drawn at random.

Source: Bolya & Hoffman 2023 (arXiv:2303.17604), with self attention merged and nothing else, and
the kept position in the upper left of its square.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from accel import kernels
from accel.nn.attention import TransformerBlock

STRIDE = 2  # one position of STRIDE x STRIDE stays
MOST = 1 - 1 / STRIDE**2  # share of the positions that can be merged


@dataclass(frozen=True)
class Matching:
    """Which positions are taken together; indices are of positions, row by row.

    kept: [B, M] positions in the order of the merged tokens: those left alone, then those merged
        into. place: [B, N] the merged token that stands for each position.
    order: [B, r] merged positions, those with one target side by side; counts: [B, T] how many each
        of the T targets takes.
    """

    kept: Tensor
    place: Tensor
    order: Tensor
    counts: Tensor

    def merge(
        self,
        x: Tensor,  # [B, N, C]
    ) -> Tensor:  # [B, M, C]
        rows = []
        for row in range(len(x)):
            tokens = x[row, self.kept[row]]
            counts = self.counts[row]
            targets = tokens[-len(counts) :]
            sums = torch.segment_reduce(x[row, self.order[row]], "sum", lengths=counts, unsafe=True)
            targets += sums
            targets /= (counts + 1)[:, None]
            rows.append(tokens)
        return torch.stack(rows)

    def undo(
        self,
        x: Tensor,  # [B, M, C]
        residual: Tensor,  # [B, N, C] added to the result
    ) -> Tensor:  # [B, N, C]
        index = self.place[..., None].expand(-1, -1, x.shape[2])
        return residual + x.gather(1, index)


def matching(
    x: Tensor,  # [B, N, C] tokens of a map, row by row
    size: tuple[int, int],  # height and width of the map; N is their product
    count: int,  # how many positions to merge; at most those that do not stay
) -> Matching:
    """Match by the cosine of the tokens; of equal ones the first is taken."""
    height, width = size
    length = x.shape[1]
    if length != height * width:
        raise ValueError(f"matching: x must have {height} * {width} tokens, got {length}")
    stays = torch.zeros(height, width, dtype=torch.uint8, device=x.device)
    stays[: height // STRIDE * STRIDE : STRIDE, : width // STRIDE * STRIDE : STRIDE] = 1
    # Sorting by what is known to be there waits for no count, as a mask would.
    others, targets = (
        stays.flatten().argsort(stable=True).split([length - kept_count(size), kept_count(size)])
    )
    count = min(count, len(others))
    unit = x / x.norm(dim=-1, keepdim=True)
    found = [_match(one, targets, others, count) for one in unit]
    kept, place, order, counts = (torch.stack(parts) for parts in zip(*found, strict=True))
    return Matching(kept, place, order, counts)


def kept_count(size: tuple[int, int]) -> int:
    return (size[0] // STRIDE) * (size[1] // STRIDE)


def _match(
    unit: Tensor, targets: Tensor, others: Tensor, count: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    # Our linear layer: its bits do not depend on the number of threads, and a matching hangs on
    # the last bit now and then.
    best, which = kernels.linear(unit[others], unit[targets]).max(dim=1)
    ranked = best.argsort(descending=True, stable=True)
    merged, alone = ranked[:count], ranked[count:].sort().values
    into = which[merged]
    kept = torch.cat([others[alone], targets])
    place = torch.empty(len(targets) + len(others), dtype=torch.long, device=unit.device)
    place[kept] = torch.arange(len(kept), device=unit.device)
    place[others[merged]] = len(alone) + into
    side_by_side = into.argsort(stable=True)
    counts = torch.zeros_like(targets).scatter_add_(0, into, torch.ones_like(into))
    return kept, place, others[merged][side_by_side], counts


class MergingBlock(nn.Module):
    """A transformer block whose self attention sees merged tokens; shares the block's layers.

    ratio: share of the tokens to merge, 0 to MOST. factor: latent pixels a token is wide.
    """

    def __init__(self, block: TransformerBlock, ratio: float, factor: int):
        super().__init__()
        self.block, self.ratio, self.factor = block, ratio, factor

    def forward(self, x: Tensor, call: Any) -> Tensor:  # call: accel.nn.reuse.Call
        block = self.block
        height, width = (-(-side // self.factor) for side in call.size)
        if not kept_count((height, width)):  # a single row or column
            return cast(Tensor, block(x, call))
        found = matching(x, (height, width), int(self.ratio * x.shape[1]))
        seen = block.attn1(found.merge(block.norm1(x)))
        x = found.undo(seen, x)
        x = block.attn2(block.norm2(x), call, residual=x)
        return cast(Tensor, block.ff(block.norm3(x), residual=x))
