"""One operator, its reference, and the faster implementations that may stand in for it."""

from __future__ import annotations

import importlib
import importlib.util
import numbers
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from accel.kernels._direct import is_differentiated, may_run_at_once

LIBRARY = torch.library.Library("accel", "DEF")
CHOICES = ("", "reference", "numba", "native", "triton")
FORCED = os.environ.get("ACCEL_KERNELS", "")
if FORCED not in CHOICES:
    raise ImportError(f"ACCEL_KERNELS must be unset or one of {CHOICES[1:]}, got {FORCED!r}")
# Triton reads the variable when a kernel is decorated, so it is read once, here too.
INTERPRETED = os.environ.get("TRITON_INTERPRET", "") == "1"
TRITON = importlib.util.find_spec("triton") is not None  # it is published for Linux alone


def triton_kernels(name: str) -> Any:
    """The module of kernels of that name, loaded when asked for: Triton takes 70 MB and 0.2 s."""
    return importlib.import_module(f"accel.kernels._{name}_triton")


def in_triton(module: str, function: str) -> Callable:
    """A function of that module, which is loaded when the function is called."""
    return lambda *args: getattr(triton_kernels(module), function)(*args)


# What torch's kinds of arguments may be in Python; sizes that are traced are of its own classes.
KINDS: dict[str, Any] = {
    "Tensor": torch.Tensor,
    "Optional[Tensor]": (torch.Tensor, type(None)),
    "bool": (bool, torch.SymBool),
    "int": (numbers.Integral, torch.SymInt),
    "float": (numbers.Real, torch.SymInt, torch.SymFloat),
}


@dataclass(frozen=True)
class Implementation:
    name: str
    run: Callable
    why_not: Callable[..., str]  # "" when it can take these arguments, else the reason


class Op:
    """Registers `accel::<name>`; tests and benchmarks read the same list that calls do.

    The reference is the fallback, the shape rule (fake kernel) and the gradient. Pass `fake` where
    the reference looks at values, which a shape rule must not.
    """

    def __init__(
        self, schema: str, reference: Callable, fake: Callable | None = None, gradient: bool = True
    ):
        self.name = schema.split("(")[0]
        self.reference = reference
        self.implementations = [Implementation("reference", reference, lambda *args: "")]
        self.used: set[str] = set()  # names of the implementations that calls have chosen so far
        self._writes = "!" in schema
        LIBRARY.define(schema)
        for key in ("CPU", "CUDA"):
            LIBRARY.impl(self.name, self.run, key)
        torch.library.register_fake(f"accel::{self.name}", fake or reference, lib=LIBRARY)
        if gradient and not self._writes:  # an op that writes into its argument has none here
            torch.library.register_autograd(
                f"accel::{self.name}", self._backward, setup_context=self._save, lib=LIBRARY
            )
        OPS[self.name] = self

    def __call__(self, *args):
        """Run the operator: by torch's dispatcher, or past it where that has nothing to do.

        Under torch.func's gradients and forward ones, which operators of libraries do not know, it
        is its reference. Raises TypeError for an argument of the wrong kind.
        """
        try:
            if may_run_at_once(args):
                return self.run(*args)
            if is_differentiated() and not self._writes:
                return self.reference(*args)
            return getattr(torch.ops.accel, self.name)(*args)
        except (AttributeError, TypeError, RuntimeError):
            self._check_kinds(args)  # asked only now: every call would pay for it
            raise

    def _check_kinds(self, args) -> None:
        for wanted, got in zip(getattr(torch.ops.accel, self.name).default._schema.arguments, args):
            kind = KINDS.get(str(wanted.type), object)
            if not isinstance(got, kind):
                raise TypeError(
                    f"{self.name}: {wanted.name} must be {wanted.type}, got {type(got).__name__}"
                ) from None
            if isinstance(got, torch.Tensor) and got.layout is not torch.strided:
                raise TypeError(
                    f"{self.name}: {wanted.name} must be a dense tensor, got {got.layout}"
                ) from None

    def implement(self, name: str, run: Callable, why_not: Callable[..., str]) -> None:
        """Add a faster implementation; later additions are tried first.

        Kernels of Triton's, told by `name`, are left out where it is not installed.
        """
        if name != "triton" or TRITON:
            self.implementations.insert(0, Implementation(name, run, why_not))

    def run(self, *args):
        for implementation in self.implementations:
            if FORCED and implementation.name != FORCED:
                continue
            # The interpreter is there to check Triton kernels, never to do work unasked; without
            # it they are for GPUs.
            is_triton = implementation.name == "triton" and not FORCED
            if is_triton and (INTERPRETED or not args[0].is_cuda):
                continue
            if not implementation.why_not(*args):
                self.used.add(implementation.name)
                if implementation.name == "triton" and _is_elsewhere(args[0]):
                    with torch.cuda.device(args[0].device):
                        return implementation.run(*args)
                return implementation.run(*args)
        reasons = [i.why_not(*args) for i in self.implementations if i.name == FORCED]
        reason = reasons[0] if reasons else "not available here"
        raise RuntimeError(f"{self.name}: ACCEL_KERNELS={FORCED}: {reason}")

    @staticmethod
    def _save(ctx, inputs, output):
        ctx.save_for_backward(*[a for a in inputs if isinstance(a, torch.Tensor)])
        ctx.is_tensor = [isinstance(a, torch.Tensor) for a in inputs]
        ctx.rest = [a for a in inputs if not isinstance(a, torch.Tensor)]

    def _backward(self, ctx, grad):
        tensors, rest = iter(ctx.saved_tensors), iter(ctx.rest)
        again = torch.is_grad_enabled()  # the gradient will be differentiated too
        args = [
            _leaf(next(tensors), need, again) if is_tensor else next(rest)
            for is_tensor, need in zip(ctx.is_tensor, ctx.needs_input_grad)
        ]
        wanted = [a for a, need in zip(args, ctx.needs_input_grad) if need]
        with torch.enable_grad():
            made = self.reference(*args)
            grads = iter(torch.autograd.grad(made, wanted, grad, create_graph=again))
        return tuple(next(grads) if need else None for need in ctx.needs_input_grad)


def _is_elsewhere(tensor: torch.Tensor) -> bool:
    """Whether a tensor is on another GPU than the current one, on which Triton launches."""
    return tensor.is_cuda and tensor.device.index != torch.cuda.current_device()


def _leaf(tensor: torch.Tensor, need: bool, again: bool) -> torch.Tensor:
    """What to differentiate by; still joined to where the tensor comes from if that counts."""
    if again and need:
        return tensor.view_as(tensor)
    return tensor.detach().requires_grad_(need)


OPS: dict[str, Op] = {}  # every operator, by name, as its module is imported
