"""Weights as the native kernels read them: whole vectors of output channels, side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from accel.kernels.conv2d import pack

CONVOLUTION_BYTES = 512 << 20  # of a graph's large convolutions that are kept packed, at most
HALVES_BYTES = 64 << 20  # likewise, of those whose weights take 16 bits: they are read as they lie


class Packed:
    """Packed forms of tensors, made once and shared by the programs of all input sizes."""

    def __init__(self, lanes: int):
        self.lanes = lanes
        self._zero = torch.zeros(1)
        # With the tensor itself, so that its id stays its own.
        self._made: dict[tuple[int, str], tuple[Tensor, Tensor]] = {}
        self._convolution_bytes = 0

    def get(self, tensor: Tensor, form: str, make: Callable[[], Tensor]) -> Tensor:
        key = (id(tensor), form)
        if key not in self._made:
            self._made[key] = (tensor, make())
        return self._made[key][1]

    def convolution(self, weight: Tensor, stride: int) -> Tensor | None:
        """[O, C, kh, kw] as `conv2d` reads it; None where that is no gain, or too much memory."""
        form = f"conv2d with stride {stride}"
        if (id(weight), form) not in self._made:
            most = CONVOLUTION_BYTES if weight.dtype == torch.float32 else HALVES_BYTES
            if self._convolution_bytes + 4 * weight.numel() > most:
                return None
            packed = pack(weight, stride)
            if packed is None:
                return None
            self._convolution_bytes += packed.nbytes
            self._made[id(weight), form] = weight, packed
        return self._made[id(weight), form][1]

    def product(self, weight: Tensor) -> Tensor:
        """[O, C, kh, kw], or [O, K] -> [vectors of O][kh, kw, C][lanes]"""
        return self.get(weight, "product", lambda: _panels(_rows(weight), self.lanes))

    def rows(self, weight: Tensor) -> Tensor:
        """[K, O] -> [O, K]"""
        return self.get(weight, "rows", lambda: weight.T.contiguous())

    def of_groups(self, weight: Tensor, first: int, count: int, outputs: int) -> Tensor:
        """[O, C, kh, kw] of `count` groups from `first` on: [count outputs, count C, kh, kw], zeros
        between different groups."""

        def make() -> Tensor:
            inputs = weight.shape[1]
            block = weight.new_zeros(count * outputs, count * inputs, *weight.shape[2:])
            for i in range(count):
                rows = slice(i * outputs, (i + 1) * outputs)
                block[rows, i * inputs : (i + 1) * inputs] = weight[first * outputs :][rows]
            return block

        return self.get(weight, f"groups {first} {count}", make)

    def spread_out(self, weight: Tensor) -> Tensor:
        """[C, O, kh, kw] of a transposed convolution -> [kh kw O, C, 1, 1]"""

        def make() -> Tensor:
            return weight.permute(2, 3, 1, 0).reshape(-1, weight.shape[0], 1, 1).contiguous()

        return self.get(weight, "spread out", make)

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

    def full(self, vector: Tensor | None, size: int, rest: float) -> Tensor:
        """A vector of `size` numbers: `rest` where none is given."""
        if vector is None:
            return torch.full((size,), rest)
        return vector.reshape(-1).expand(size).contiguous()

    def zero(self) -> Tensor:
        return self._zero

    def affine(self, vectors: Sequence[Tensor], epsilon: float) -> tuple[Tensor, Tensor]:
        """Of a batch norm's scale, shift, mean and variance: what to multiply by, and to add."""
        scale, shift, mean, variance = (v.double() for v in vectors)

        these = f"{epsilon} {[id(v) for v in vectors]}"

        def factor() -> Tensor:
            return (scale / (variance + epsilon).sqrt()).float().contiguous()

        def rest() -> Tensor:
            return (shift - mean * scale / (variance + epsilon).sqrt()).float().contiguous()

        return self.get(vectors[0], f"factor {these}", factor), self.get(
            vectors[1], f"rest {these}", rest
        )


def _rows(weight: Tensor) -> Tensor:
    if weight.ndim == 4:
        weight = weight.permute(0, 2, 3, 1)
    return weight.reshape(weight.shape[0], -1)


def _panels(rows: Tensor, lanes: int) -> Tensor:
    rows = rows.float()
    outputs, depth = rows.shape
    if outputs % lanes:
        rows = torch.nn.functional.pad(rows, (0, 0, 0, -outputs % lanes))
    return rows.view(-1, lanes, depth).transpose(1, 2).contiguous()
