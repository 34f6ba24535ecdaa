"""Whether an operator may run at once: nobody records, traces or transforms what it is given.

torch's dispatcher finds out the same for every call, and with operators in Python takes 5 to 10 us.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

try:  # torch's own, and none of them promised
    from torch._C import DispatchKey, DispatchKeySet, _len_torch_function_stack
    from torch._C import _dispatch_tls_local_include_set as included
    from torch._C._autograd import _profiler_enabled
    from torch._C._functorch import TransformType, get_interpreter_stack

    IS_KNOWN = True
except ImportError:
    IS_KNOWN = False

GRADIENTS = (TransformType.Grad, TransformType.Jvp) if IS_KNOWN else ()
TENSORS = (Tensor, torch.nn.Parameter)  # exactly these: others may be watched by their classes


def _usual() -> set[int]:
    """What the dispatcher has in store for every tensor, outside and inside of inference mode.

    Modes, traces, vmap and the like add to that.
    """
    if not IS_KNOWN:
        return set()
    least = DispatchKeySet(DispatchKey.BackendSelect)
    return {least.raw_repr(), least.add(DispatchKey.ADInplaceOrView).raw_repr()}


USUAL = _usual()


def is_differentiated() -> bool:
    """Whether torch.func's gradients (grad, vjp, jvp), or forward ones, are under way."""
    if torch.compiler.is_compiling():  # the compiler's own means are no transforms
        return False
    if forward_ad._current_level >= 0:
        return True
    levels = (get_interpreter_stack() if IS_KNOWN else None) or []
    return any(level.key() in GRADIENTS for level in levels)


def may_run_at_once(args: Iterable[Any]) -> bool:
    """Whether the dispatcher would do nothing with these arguments but call the operator."""
    if torch.compiler.is_compiling() or not USUAL:
        return False
    if (
        included().raw_repr() not in USUAL
        or _len_torch_function_stack()
        or _profiler_enabled()
        or forward_ad._current_level >= 0
    ):
        return False
    recording = torch.is_grad_enabled()
    for arg in args:
        if isinstance(arg, Tensor) and (
            type(arg) not in TENSORS
            or (recording and arg.requires_grad)
            or not (arg.is_cpu or arg.is_cuda)
            or arg.layout is not torch.strided
            or arg.is_neg()
        ):
            return False
    return True
