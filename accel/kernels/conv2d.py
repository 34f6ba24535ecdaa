"""Two-dimensional convolution and matrix products, with what follows them fused in.

Sources: Winograd 1980 and Lavin and Gray 2016 (arXiv:1509.09308) for 3x3 with stride 1; Barabasz et
al. 2020 (arXiv:1803.10986) on the choice of its points; Henry, Tang and Heinecke 2019
(arXiv:1904.06376) on float32 products of bfloat16 parts. See docs/kernels.md.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from accel.kernels import _native
from accel.kernels._layout import layout_of
from accel.kernels._op import FORCED, LIBRARY, Op
from accel.kernels._why_not import refuse_others

HALVES = (torch.float16, torch.bfloat16)
FLOPS_A_THREAD = 4e6  # less work is not worth waking a thread for
MOST_REACH = 1 << 12  # of a stride or padding: rows are copied with their zeros around them
READING = 16  # pixels, whose products take no longer than to bring and pack the weights


def conv2d(
    x: Tensor,  # [B, C, H, W] contiguous or channels-last
    weight: Tensor,  # [O, C / groups, kh, kw] of x's dtype, or 16 bits beside float32
    bias: Tensor | None = None,  # [O], or [B, O]: one for each image
    stride: int = 1,
    padding: int = 0,  # zeros on each side
    groups: int = 1,
    residual: Tensor | None = None,  # shaped like the result; added to it
    slope: float = 1.0,  # what is below zero is multiplied by it: 1 no activation, 0 ReLU
    packed: Tensor | None = None,  # what `pack` made of weight and stride
) -> Tensor:  # [B, O, H', W'] in the layout of x
    """Convolve, add bias and residual, and apply a (leaky) ReLU.

    The result's bytes do not depend on the batch around an image, the number of threads, the
    layout, or whether the weights were packed ahead. Weights of 16 bits are widened where they are
    used, in cache: the bytes are those of the same weights in float32.
    """
    refuse_others("conv2d", x=x, weight=weight)
    if x.ndim != 4 or weight.ndim != 4:
        raise ValueError(f"conv2d: x and weight must be 4-D, got {_say(x)} and {_say(weight)}")
    if stride < 1 or padding < 0 or groups < 1:
        raise ValueError(
            "conv2d: stride and groups must be at least 1 and padding at least 0,"
            f" got {stride}, {groups} and {padding}"
        )
    outputs = weight.shape[0]
    if x.shape[1] != weight.shape[1] * groups or outputs % groups:
        raise ValueError(
            f"conv2d: weight must be [O, {x.shape[1]} / groups, kh, kw] for x {_say(x)} in"
            f" {groups} groups, got {_say(weight)}"
        )
    shape = _shape(x, weight, stride, padding)
    if min(shape[2:]) < 1 or 0 in weight.shape:
        raise ValueError(f"conv2d: a kernel {_say(weight)} must fit into the padded x {_say(x)}")
    if bias is not None and bias.shape not in ((outputs,), (x.shape[0], outputs)):
        raise ValueError(
            f"conv2d: bias must be [{outputs}] or [{x.shape[0]}, {outputs}], got {_say(bias)}"
        )
    if residual is not None and tuple(residual.shape) != shape:
        raise ValueError(f"conv2d: residual must be {list(shape)}, got {_say(residual)}")
    if not slope >= 0:  # its gradient needs what was there before, which the result does not tell
        out = op(x, weight, bias, residual, stride, padding, groups, 1.0, packed)
        return F.leaky_relu(out, slope)
    return op(x, weight, bias, residual, stride, padding, groups, slope, packed)


def pack(
    weight: Tensor,  # [O, C, kh, kw] float32, float16 or bfloat16
    stride: int = 1,
) -> Tensor | None:  # [n] in an order of this processor's
    """Return a copy of the weights in the order in which `conv2d` reads them, to give it again.

    Without it every call packs them, a block at a time, in cache. The copy takes the memory of the
    weights in float32, up to four times that where they are few. It is not to be kept beyond the
    process, and void once the weights change. None where nothing is gained by it.
    """
    if weight.ndim != 4 or stride < 1:
        raise ValueError(
            f"pack: weight must be 4-D and stride at least 1, got {_say(weight)} and {stride}"
        )
    if 0 in weight.shape or _why_not_weight(weight) or _native.why_not(weight):
        return None
    weight = weight.detach().contiguous()
    floats = _native.module.conv_packed_floats(weight, stride)
    if not floats:
        return None
    packed = _native.empty(floats)
    _native.module.conv_pack(weight, stride, packed, torch.get_num_threads())
    return packed


def linear(
    x: Tensor,  # [..., K]
    weight: Tensor,  # [N, K] of x's dtype, or 16 bits beside float32
    bias: Tensor | None = None,  # [N]
    residual: Tensor | None = None,  # [..., N]; added to the result
    packed: Tensor | None = None,  # what `pack` made of weight[:, :, None, None]
) -> Tensor:  # [..., N]
    """Multiply by a matrix, as torch.nn.functional.linear does, and add bias and residual."""
    refuse_others("linear", x=x, weight=weight)
    if weight.ndim != 2 or x.ndim < 1 or x.shape[-1] != weight.shape[1]:
        raise ValueError(f"linear: x must be [..., K] for a [N, K], got {_say(x)}, {_say(weight)}")
    outputs = weight.shape[0]
    if bias is not None and bias.shape != (outputs,):
        raise ValueError(f"linear: bias must be [{outputs}], got {_say(bias)}")
    if residual is not None and residual.shape != (*x.shape[:-1], outputs):
        raise ValueError(
            f"linear: residual must be {[*x.shape[:-1], outputs]}, got {_say(residual)}"
        )
    if 0 in weight.shape or x.numel() == 0:
        out = F.linear(x, wide(weight, x), bias)
        return out if residual is None else out + residual
    # One picture of `rows` pixels, channels last.
    rows = x.numel() // x.shape[-1]
    as_picture = x.reshape(1, rows, 1, -1).permute(0, 3, 1, 2)
    if residual is not None:
        residual = residual.reshape(1, rows, 1, outputs).permute(0, 3, 1, 2)
    out = op(as_picture, weight[:, :, None, None], bias, residual, 1, 0, 1, 1.0, packed)
    return out.permute(0, 2, 3, 1).reshape(*x.shape[:-1], outputs)


def reads_halves() -> bool:
    """Whether this process reads weights of 16 bits as they are; else each call widens them all."""
    return FORCED in ("", "native") and not _native.why_not()


def wide(weight: Tensor, x: Tensor) -> Tensor:
    """The weight as torch's operators want it: beside a float32 x one of 16 bits is widened."""
    return weight.to(x.dtype) if weight.dtype in HALVES and x.dtype == torch.float32 else weight


def _say(tensor: Tensor) -> str:
    return str(list(tensor.shape))


def _shape(x, weight, stride, padding) -> tuple[int, int, int, int]:
    height, width = (
        (size + 2 * padding - kernel) // stride + 1
        for size, kernel in zip(x.shape[2:], weight.shape[2:])
    )
    return x.shape[0], weight.shape[0], height, width


def _reference(x, weight, bias, residual, stride, padding, groups, slope, packed=None):
    each = bias is not None and bias.ndim == 2
    out = F.conv2d(x, wide(weight, x), None if each else bias, stride, padding, 1, groups)
    if each:
        out = out + bias[:, :, None, None]
    if residual is not None:
        out = out + residual
    if slope != 1:
        out = F.leaky_relu(out, slope) if slope else F.relu(out)
    return out.contiguous(memory_format=layout_of(x))


def _fake(x, weight, bias, residual, stride, padding, groups, slope, packed=None):
    shape = _shape(x, weight, stride, padding)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout_of(x))


op = Op(
    "conv2d(Tensor x, Tensor weight, Tensor? bias, Tensor? residual, int stride, int padding,"
    " int groups, float slope, Tensor? packed=None) -> Tensor",
    _reference,
    fake=_fake,
    gradient=False,
)


def _why_not(x, weight, bias, residual, stride, padding, groups, slope, packed=None) -> str:
    given = [t for t in (x, bias, residual) if t is not None]
    for tensor in given:
        if tensor.dtype != torch.float32:
            return f"needs float32, got {tensor.dtype}"
    if groups != 1:
        return f"has one group, got {groups}"
    if max(stride, padding) > MOST_REACH:
        return f"needs a stride and padding of at most {MOST_REACH}, got {stride} and {padding}"
    return _why_not_weight(weight) or _native.why_not(weight, *given)


def _why_not_weight(weight) -> str:
    if weight.dtype == torch.float32 or weight.dtype in HALVES:
        return ""
    return f"needs weights of float32, float16 or bfloat16, got {weight.dtype}"


def _native_run(x, weight, bias, residual, stride, padding, groups, slope, packed=None):
    layout = layout_of(x)
    shape = _shape(x, weight, stride, padding)
    last = layout is torch.channels_last
    if last:
        batch, outputs, height, width = shape
        out = _native.empty(batch, height, width, outputs).permute(0, 3, 1, 2)
    else:
        out = _native.empty(*shape)

    is_strided_point = stride > 1 and not padding and weight.shape[2:] == (1, 1)
    if is_strided_point and not last and _native.module.conv_on_tiles(weight.contiguous(), stride):
        x, stride = x[:, :, ::stride, ::stride], 1  # the rest would only be turned in memory

    def view(t: Tensor) -> Tensor:
        t = t.contiguous(memory_format=layout)
        return t.permute(0, 2, 3, 1) if last else t

    pixels = out.numel() // weight.shape[0]
    flops = 2 * (pixels + READING) * weight.numel()
    threads = _native.threads(int(flops / FLOPS_A_THREAD))
    _native.module.conv2d(
        view(x),
        weight.contiguous(),
        None if bias is None else bias.contiguous(),
        None if residual is None else view(residual),
        out.permute(0, 2, 3, 1) if last else out,
        stride,
        padding,
        slope,
        last,
        threads,
        packed,
    )
    return out


op.implement("native", _native_run, _why_not)


def _save(ctx, inputs, output):
    x, weight, bias, _, *ctx.rest = inputs[:8]
    ctx.bias_dims = 0 if bias is None else bias.ndim
    slope = ctx.rest[-1]
    ctx.save_for_backward(x, weight, output if slope != 1 else None)


def _backward(ctx, grad):
    x, weight, output = ctx.saved_tensors
    stride, padding, groups, slope = ctx.rest
    wants_x, wants_weight, wants_bias, wants_residual = ctx.needs_input_grad[:4]
    if slope != 1:
        grad = torch.where(output > 0, grad, slope * grad)
    grad_x = grad_weight = grad_bias = None
    if wants_x:
        grad_x = _grad_input(grad, x, weight, stride, padding, groups)
    if wants_weight:
        grad_weight = _torch_backward(grad, x, weight, stride, padding, groups, 1).to(weight.dtype)
    if wants_bias:
        grad_bias = grad.sum((0, 2, 3) if ctx.bias_dims == 1 else (2, 3))
    return (grad_x, grad_weight, grad_bias, grad if wants_residual else None, *[None] * 5)


def _grad_input(grad, x, weight, stride, padding, groups):
    """With stride 1 a convolution by the same weights, turned round and from outputs to inputs."""
    kernel = weight.shape[2]
    square = kernel == weight.shape[3] and padding < kernel
    if stride != 1 or not square or _why_not(grad, weight, None, None, 1, 0, groups, 1.0):
        return _torch_backward(grad, x, weight, stride, padding, groups, 0)
    turned = weight.flip(2, 3).transpose(0, 1)
    return op(grad, turned, None, None, 1, kernel - 1 - padding, 1, 1.0)


def _torch_backward(grad, x, weight, stride, padding, groups, which):
    mask = [i == which for i in range(3)]
    weight = wide(weight, x)
    return torch.ops.aten.convolution_backward(
        grad, x, weight, None, [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], groups, mask
    )[which]


torch.library.register_autograd("accel::conv2d", _backward, setup_context=_save, lib=LIBRARY)
