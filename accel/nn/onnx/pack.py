"""Weights as the native kernels read them: whole vectors of output channels, side by side."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class Packed:
    """Packed forms of tensors, made once and shared by the programs of all input sizes."""

    def __init__(self, lanes: int):
        self.lanes = lanes
        # With the tensor itself, so that its id stays its own.
        self._made: dict[tuple[int, str], tuple[Tensor, Tensor]] = {}

    def get(self, tensor: Tensor, form: str, make: Callable[[], Tensor]) -> Tensor:
        key = (id(tensor), form)
        if key not in self._made:
            self._made[key] = (tensor, make())
        return self._made[key][1]

    def product(self, weight: Tensor) -> Tensor:
        """[O, C, kh, kw], or [O, K] -> [vectors of O][kh, kw, C][lanes]"""
        return self.get(weight, "product", lambda: _panels(_rows(weight), self.lanes))

    def product_turned(self, weight: Tensor) -> Tensor:
        """[K, O] -> [vectors of O][K][lanes]"""
        return self.get(weight, "turned", lambda: _panels(weight.T, self.lanes))

    def taps(self, weight: Tensor) -> Tensor:
        """[C, 1, kh, kw] -> [kh, kw][C padded]"""

        def make() -> Tensor:
            taps = weight.reshape(weight.shape[0], -1).T
            return torch.nn.functional.pad(taps, (0, -taps.shape[1] % self.lanes)).contiguous()

        return self.get(weight, "taps", make)

    def vector(self, values: Tensor) -> Tensor:
        """[C] -> [C padded]"""

        def make() -> Tensor:
            flat = values.reshape(-1).float()
            return torch.nn.functional.pad(flat, (0, -len(flat) % self.lanes)).contiguous()

        return self.get(values, "vector", make)


def _rows(weight: Tensor) -> Tensor:
    if weight.ndim == 4:
        weight = weight.permute(0, 2, 3, 1)
    return weight.reshape(weight.shape[0], -1)


def _panels(rows: Tensor, lanes: int) -> Tensor:
    outputs, depth = rows.shape
    if outputs % lanes:
        rows = torch.nn.functional.pad(rows, (0, 0, 0, -outputs % lanes))
    return rows.view(-1, lanes, depth).transpose(1, 2).contiguous()
