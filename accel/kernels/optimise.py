"""One step of the optimisers that train face autoencoders, in one pass over memory.

Written as tensor expressions, a step over tens of millions of weights reads and writes all of them
a dozen times; here each number is read once and written once.

Sources: Tieleman & Hinton 2012 (RMSprop, lecture 6.5e of "Neural Networks for Machine Learning");
Zhuang et al. 2020, arXiv:2010.07468 (AdaBelief), both without bias correction, as DeepFaceLab has
them; Lin et al. 2019, arXiv:1912.00144 (learning rate dropout); the random numbers are the 32-bit
mixing function that Wellons 2018 found by search ("lowbias32").
"""

from __future__ import annotations

import torch
from torch import Tensor

from accel.kernels import _native
from accel.kernels._op import Op, in_triton
from accel.kernels._why_not import not_contiguous, not_on_gpu

WORD = 0xFFFFFFFF
ALL = 1 << 32  # `limit` that keeps every weight's update


def rmsprop_step(
    weight: Tensor,  # [n] float32, written
    square: Tensor,  # [n] float32 running mean of squared gradients, written
    grad: Tensor,  # [n] float32
    *,
    lr: float,
    rho: float = 0.9,
    eps: float = 1e-7,
    scale: float = 1.0,  # what gradients are multiplied by first, to clip them
    keep: float = 1.0,  # share of weights that move at all in this step
    seed: int = 0,  # which ones, 0..2^32 - 1
) -> None:
    """square = rho·square + (1 - rho)·grad²; weight -= lr·grad / (sqrt(square) + eps).

    Raises ValueError if shapes differ or a number is out of range, TypeError for other dtypes.
    """
    _check("rmsprop_step", keep, seed, weight, square, grad)
    rmsprop_op(weight, square, grad, lr, rho, eps, scale, _limit(keep), seed)


def adabelief_step(
    weight: Tensor,  # [n] float32, written
    mean: Tensor,  # [n] float32 running mean of gradients, written
    spread: Tensor,  # [n] float32 running mean of their squared distance from it, written
    grad: Tensor,  # [n] float32
    *,
    lr: float,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-7,
    scale: float = 1.0,
    keep: float = 1.0,
    seed: int = 0,
) -> None:
    """mean = β1·mean + (1 - β1)·grad; spread = β2·spread + (1 - β2)·(grad - mean)²;
    weight -= lr·mean / (sqrt(spread) + eps). The rest as in `rmsprop_step`.
    """
    _check("adabelief_step", keep, seed, weight, mean, spread, grad)
    adabelief_op(weight, mean, spread, grad, lr, beta1, beta2, eps, scale, _limit(keep), seed)


def mix(*words: int) -> int:
    """One seed from several numbers, alike for like numbers and unrelated otherwise."""
    found = 0
    for word in words:
        found = _mix_word((found * 0x9E3779B9 + word) & WORD)
    return found


def _mix_word(x: int) -> int:
    x = ((x ^ x >> 16) * 0x7FEB352D) & WORD
    x = ((x ^ x >> 15) * 0x846CA68B) & WORD
    return x ^ x >> 16


def _limit(keep: float) -> int:
    return min(int(keep * ALL), ALL)


def _check(who: str, keep: float, seed: int, *tensors: Tensor) -> None:
    first = tensors[0]
    for tensor in tensors:
        if tensor.dtype != torch.float32:
            raise TypeError(f"{who}: tensors must be float32, got {tensor.dtype}")
        if tensor.ndim != 1 or tensor.shape != first.shape:
            shapes = ", ".join(str(tuple(t.shape)) for t in tensors)
            raise ValueError(f"{who}: tensors must be of one length, got {shapes}")
    if not 0 <= keep <= 1:
        raise ValueError(f"{who}: keep must lie in 0..1, got {keep}")
    if not 0 <= seed <= WORD:
        raise ValueError(f"{who}: seed must lie in 0..2^32 - 1, got {seed}")


def _kept(count: int, limit: int, seed: int, device: torch.device) -> Tensor:  # [n] bool
    x = (torch.arange(count, device=device) ^ seed) & WORD
    x = ((x ^ x >> 16) * 0x7FEB352D) & WORD
    x = ((x ^ x >> 15) * 0x846CA68B) & WORD
    return (x ^ x >> 16) < limit


def _rmsprop_reference(weight, square, grad, lr, rho, eps, scale, limit, seed):
    grad = grad * scale
    square.mul_(rho).add_(grad * grad * (1 - rho))
    move = lr * grad / (square.sqrt() + eps)
    weight.sub_(move * _kept(len(weight), limit, seed, weight.device))


def _adabelief_reference(weight, mean, spread, grad, lr, beta1, beta2, eps, scale, limit, seed):
    grad = grad * scale
    mean.mul_(beta1).add_(grad * (1 - beta1))
    spread.mul_(beta2).add_((grad - mean).square() * (1 - beta2))
    move = lr * mean / (spread.sqrt() + eps)
    weight.sub_(move * _kept(len(weight), limit, seed, weight.device))


rmsprop_op = Op(
    "rmsprop_step(Tensor(a!) weight, Tensor(b!) square, Tensor grad, float lr, float rho,"
    " float eps, float scale, int limit, int seed) -> ()",
    _rmsprop_reference,
    fake=lambda *args: None,
)
adabelief_op = Op(
    "adabelief_step(Tensor(a!) weight, Tensor(b!) mean, Tensor(c!) spread, Tensor grad, float lr,"
    " float beta1, float beta2, float eps, float scale, int limit, int seed) -> ()",
    _adabelief_reference,
    fake=lambda *args: None,
)


def _rmsprop_native(*args):
    _native.module.rmsprop_step(*(a.detach() if torch.is_tensor(a) else a for a in args))


def _adabelief_native(*args):
    _native.module.adabelief_step(*(a.detach() if torch.is_tensor(a) else a for a in args))


def _unfit(*tensors) -> str:
    return not_contiguous(*tensors) if tensors[0].numel() else "has nothing to do"


def _why_not_native(*args) -> str:
    tensors = [a for a in args if torch.is_tensor(a)]
    return _native.why_not(*tensors) or _unfit(*tensors)


def _why_not_triton(*args) -> str:
    tensors = [a for a in args if torch.is_tensor(a)]
    return not_on_gpu(*tensors) or _unfit(*tensors)


rmsprop_op.implement("native", _rmsprop_native, _why_not_native)
adabelief_op.implement("native", _adabelief_native, _why_not_native)
rmsprop_op.implement("triton", in_triton("optimise", "rmsprop"), _why_not_triton)
adabelief_op.implement("triton", in_triton("optimise", "adabelief"), _why_not_triton)
