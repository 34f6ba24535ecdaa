"""What a UNet's deep part gave at one call, used again at the calls after it (DeepCache).

Source: Ma et al. 2023 (arXiv:2312.00858), with even distances between the calls made in whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from accel.nn.unet import Cut

if TYPE_CHECKING:
    from accel.pipelines.generate.network import Told

Added = tuple[list[Tensor] | None, Mapping[int, Tensor] | None]  # for Unet's control and features


@dataclass(frozen=True)
class _Kept:
    told: Sequence[Told]
    deep: Tensor
    control: list[Tensor] | None  # of the skips outside the cut
    features: dict[int, Tensor] | None


class StepCache:
    """Of one pass over one picture.

    every: each so many calls, from the first, one is made in whole. branch: where the UNet is cut,
    see accel.nn.unet.Cut. Rows are known by what they are told: one that is told something new is
    computed in whole whenever it comes.
    """

    def __init__(self, every: int, branch: int):
        self.every, self.branch = every, branch
        self.call = 0
        self._kept: list[_Kept] = []

    def begin(self, whole: bool = False) -> None:
        """To be told of each call; `whole` asks for one in whole, from which is counted anew."""
        if whole:
            self.call = 0
        if self.call % self.every == 0:
            self._kept = []
        self.call += 1

    def recall(self, told: Sequence[Told]) -> tuple[Cut, Added] | None:
        """What the rows need for a call outside the cut alone; None where that is not known."""
        wanted = [identity(one) for one in told]
        for kept in self._kept:
            known = [identity(one) for one in kept.told]
            if all(one in known for one in wanted):
                rows = [known.index(one) for one in wanted]
                return Cut(self.branch, rows_of(kept.deep, rows)), (
                    None if kept.control is None else [rows_of(c, rows) for c in kept.control],
                    None
                    if kept.features is None
                    else {at: rows_of(f, rows) for at, f in kept.features.items()},
                )
        return None

    def keep(self, told: Sequence[Told], cut: Cut, added: Added) -> None:
        assert cut.deep is not None
        control, features = added
        outside = self.branch + 1
        self._kept.append(
            _Kept(
                tuple(told),
                cut.deep,
                None if control is None else control[:outside],
                None if features is None else {a: f for a, f in features.items() if a < outside},
            )
        )


def rows_of(x: Tensor, which: Sequence[int]) -> Tensor:
    """`x[which]`, whose list torch would send to the device, and wait for it, every step."""
    if list(which) == list(range(len(x))):
        return x
    return torch.cat([x[i : i + 1] for i in which])


def identity(told: Told) -> tuple[int, ...]:
    """Equal for rows that are told the very same objects."""
    parts = (told.conditioning, told.sizes, told.extra, *told.steers)
    return tuple(id(part) for part in parts)
