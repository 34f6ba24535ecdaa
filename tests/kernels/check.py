"""What tests of operators share: every implementation against its reference, and numbers to try."""

from __future__ import annotations

import torch

TOLERANCE = {  # about one rounding step of a value near 1; near a hundred for float32
    torch.float32: {"rtol": 1e-5, "atol": 1e-5},
    torch.float16: {"rtol": 1e-3, "atol": 1e-3},
    torch.bfloat16: {"rtol": 8e-3, "atol": 8e-3},
}


def draw(*shape: int) -> torch.Tensor:
    """Normal numbers, the same for the same shape."""
    generator = torch.Generator().manual_seed(sum(shape) + len(shape))
    return torch.randn(shape, generator=generator)


def check_kernel(op, args, only=None, **tolerance) -> list[str]:
    """Run each implementation that takes `args`, compare with the reference; return their names.

    Floating inputs go to the reference in float32. `only` narrows the check to some names.
    """
    floats = [a.dtype for a in args if torch.is_tensor(a) and a.is_floating_point()]
    in_float32 = [a.float() if torch.is_tensor(a) and a.is_floating_point() else a for a in args]
    expected = op.reference(*in_float32).float()
    allowed = TOLERANCE[floats[0] if floats else torch.float32] | tolerance
    ran = []
    for implementation in op.implementations:
        if implementation.why_not(*args) or (only and implementation.name not in only):
            continue
        torch.testing.assert_close(
            implementation.run(*args).float(),
            expected,
            **allowed,
            equal_nan=True,
            msg=lambda text, name=implementation.name: f"{op.name}/{name}: {text}",
        )
        ran.append(implementation.name)
    return ran
