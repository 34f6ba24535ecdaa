"""Convolution and linear layers that run on our kernels where those take the tensors.

They are torch's layers in every other way: parameters, state dict, initialisation, training. Where
a kernel does not apply (another dtype, device, dilation), torch computes.

Weights that do not change are packed once, into the order in which the kernel reads them, and kept
beside the parameters: see `Packing` for when, and `choose_packing` for large networks.

A network that computes in float32 may keep these layers' weights in 16 bits, mapped to their file:
see `kept_in_halves`. Results are the same bytes.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from accel.kernels.conv2d import HALVES, conv2d, linear, pack, reads_halves, wide

PACKED_BYTES = 64 << 20  # of float32: weights of a network up to which it keeps them packed too


class Packing:
    """A layer's packed weights: made when it is called a second time with the same ones.

    They are void when the weights change. None are kept while the layer is trained, as every step
    changes them, nor while it is compiled or traced. Results are the same bytes either way.
    `keeps_packed = False` saves the memory: that of the weights again, for small 3x3 layers up to
    four times that.
    """

    keeps_packed = True
    _packed: tuple[weakref.ref[Tensor], tuple[int, int], Tensor | None] | None = None

    def packed(
        self,
        weight: Tensor,  # [O, C, kh, kw] or [O, C]
        stride: int = 1,
    ) -> Tensor | None:
        trained = torch.is_grad_enabled() and weight.requires_grad
        if not self.keeps_packed or trained or not _lasts(weight):
            return None
        # A version does not tell of changes through `.data`: the kernel looks at some values too.
        state = weight.data_ptr(), weight._version
        last = self._packed
        if last is None or last[0]() is not weight or last[1] != state:
            self._packed = weakref.ref(weight), state, None
            return None
        if last[2] is not None:
            return last[2]
        made = pack(weight if weight.ndim == 4 else weight[:, :, None, None], stride)
        self._packed = last[0], state, made
        return made

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles of a layer make their own."""
        return {name: value for name, value in self.__dict__.items() if name != "_packed"}


def _lasts(weight: Tensor) -> bool:
    """Whether a tensor is one whose changes can be seen, and none that a tracer stands in for."""
    return (
        not torch.compiler.is_compiling()  # first, for the compiler does not know is_inference
        and not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        and type(weight) in (nn.Parameter, Tensor)
        and weight.device.type == "cpu"
        and (weight.dtype == torch.float32 or weight.dtype in HALVES)
        and not weight.is_inference()
    )


def choose_packing(network: nn.Module, most_bytes: int = PACKED_BYTES) -> bool:
    """Let all layers of a network keep packed weights if those of all take up to `most_bytes`.

    Otherwise none does: weights of large networks may lie in a file, and their copies would not.
    Returns the choice.
    """
    layers = [one for one in network.modules() if isinstance(one, (Conv2d, Linear))]
    keeps = sum(4 * layer.weight.numel() for layer in layers) <= most_bytes
    for layer in layers:
        layer.keeps_packed = keeps
    return keeps


def kept_in_halves(network: nn.Module) -> set[str]:
    """Names of the parameters that may have 16 bits where the network computes in float32.

    They are given to our kernels alone, which widen what they need in cache, or widened row by row
    where they are looked up: a module names its own in `may_be_halves`.
    """
    return {
        f"{path}.{name}" if path else name
        for path, module in network.named_modules()
        for name in getattr(module, "may_be_halves", ())
    }


def may_stay(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether layers' weights of 16 bits need not be widened for computing in `dtype`."""
    return dtype == torch.float32 and device.type == "cpu" and reads_halves()


def computing_dtype(network: nn.Module) -> torch.dtype:
    """What a network computes in: the widest of its parameters' types."""
    return max((one.dtype for one in network.parameters()), key=lambda dtype: dtype.itemsize)


@contextmanager
def widened(network: nn.Module) -> Iterator[None]:
    """While the block runs, all weights have the type that the network computes in."""
    dtype, before = computing_dtype(network), {}
    for name in kept_in_halves(network):
        path, _, last = name.rpartition(".")
        module = network.get_submodule(path)
        old = getattr(module, last)
        if old.dtype != dtype:
            before[module, last] = old
            setattr(module, last, nn.Parameter(old.detach().to(dtype), old.requires_grad))
    try:
        yield
    finally:
        for (module, last), old in before.items():
            setattr(module, last, old)


class Conv2d(Packing, nn.Conv2d):
    """torch.nn.Conv2d with what follows it fused in."""

    may_be_halves = ("weight",)

    def forward(  # type: ignore[override]
        self,
        x: Tensor,  # [B, C, H, W]
        bias: Tensor | None = None,  # [B, O] added to the layer's own
        residual: Tensor | None = None,  # shaped like the result
        slope: float = 1.0,  # of a leaky ReLU; 0 is ReLU
    ) -> Tensor:  # [B, O, H', W']
        stride, padding = self.stride[0], self.padding[0]
        if (
            x.ndim != 4
            or isinstance(padding, str)
            or self.stride != (stride, stride)
            or self.padding != (padding, padding)
            or self.dilation != (1, 1)
            or self.padding_mode != "zeros"
        ):
            return self._general(x, bias, residual, slope)
        if bias is None:
            bias = self.bias
        elif self.bias is not None:
            bias = bias + self.bias
        weight = self.weight
        packed = self.packed(weight, stride) if self.groups == 1 else None
        return conv2d(x, weight, bias, stride, padding, self.groups, residual, slope, packed)

    def _general(
        self, x: Tensor, bias: Tensor | None, residual: Tensor | None, slope: float
    ) -> Tensor:
        out = self._conv_forward(x, wide(self.weight, x), self.bias)
        if bias is not None:
            out = out + bias[:, :, None, None]
        if residual is not None:
            out = out + residual
        return out if slope == 1 else nn.functional.leaky_relu(out, slope)


class Linear(Packing, nn.Linear):
    """torch.nn.Linear that can add a residual."""

    may_be_halves = ("weight",)

    def forward(  # type: ignore[override]
        self,
        x: Tensor,  # [..., in_features]
        residual: Tensor | None = None,  # [..., out_features]
    ) -> Tensor:  # [..., out_features]
        return linear(x, self.weight, self.bias, residual, self.packed(self.weight))
