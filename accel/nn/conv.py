"""Convolution and linear layers that run on our kernels where those take the tensors.

They are torch's layers in every other way: parameters, state dict, initialisation, training. Where
a kernel does not apply (another dtype, device, dilation), torch computes.
"""

from __future__ import annotations

from torch import Tensor, nn

from accel.kernels.conv2d import conv2d, linear


class Conv2d(nn.Conv2d):
    """torch.nn.Conv2d with what follows it fused in."""

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
        return conv2d(x, self.weight, bias, stride, padding, self.groups, residual, slope)

    def _general(
        self, x: Tensor, bias: Tensor | None, residual: Tensor | None, slope: float
    ) -> Tensor:
        out = super().forward(x)
        if bias is not None:
            out = out + bias[:, :, None, None]
        if residual is not None:
            out = out + residual
        return out if slope == 1 else nn.functional.leaky_relu(out, slope)


class Linear(nn.Linear):
    """torch.nn.Linear that can add a residual."""

    def forward(  # type: ignore[override]
        self,
        x: Tensor,  # [..., in_features]
        residual: Tensor | None = None,  # [..., out_features]
    ) -> Tensor:  # [..., out_features]
        return linear(x, self.weight, self.bias, residual)
