"""guided_step beside the same step written in torch: guidance, Euler and DPM++ 2M.

On a CPU either is nothing beside the network; what counts is the number of launches on a GPU, one
for ten to fifteen.

Run: python -m benchmarks.kernels.guided_step
"""

from __future__ import annotations

import torch
from torch import Tensor

from accel.kernels.guided_step import HEAD, NUMBERS, OUTPUTS, SLOTS, TERMS, op
from accel.sampling.steps import Line, blend
from benchmarks.harness import Args, Call, bench_kernel

LATENTS = {"SD 512": 4 * 64 * 64, "SDXL 1024": 4 * 128 * 128, "SDXL 1024 x8": 8 * 4 * 128 * 128}
SIGMA, FOLLOWING, BEFORE, SCALE = 3.0, 2.0, 4.4, 7.0


def case(n: int) -> Args:
    """The coefficients of one step of DPM++ 2M; values are x, what was denoised before, and now."""
    numbers, slots = torch.zeros(1, NUMBERS), torch.full((1, SLOTS), -1, dtype=torch.int32)
    share, change = FOLLOWING / SIGMA, 0.53
    numbers[0, :HEAD] = torch.tensor([SCALE, 1.0, -SIGMA, (FOLLOWING**2 + 1) ** -0.5])
    numbers[0, HEAD : HEAD + 4] = torch.tensor([(1 - share) * (1 + change), 0.0, share, -change])
    slots[0, :HEAD] = torch.tensor([0, 2, -1, 0])
    slots[0, HEAD : HEAD + 3] = torch.tensor([0, 0, 1])
    assert TERMS >= 2 <= OUTPUTS
    values, inputs = torch.randn(3, n), torch.empty(2, n)
    step = torch.zeros(1, dtype=torch.int32)
    return values, inputs, torch.randn(n), torch.randn(n), numbers, slots, step


def in_torch(
    values: torch.Tensor,
    inputs: torch.Tensor,
    cond: torch.Tensor,
    uncond: torch.Tensor,
    numbers: torch.Tensor,
    slots: torch.Tensor,
    step: torch.Tensor,
) -> dict[str, Call]:
    """What the samplers' own functions do, operation by operation."""
    x, before = values[0].clone(), values[1].clone()

    def run() -> Tensor:
        line = Line()
        line.before, line.length_before = before, 0.38
        predicted = uncond + SCALE * (cond - uncond)
        clean = x - SIGMA * predicted
        target = clean + line.extend(clean, 0.4)
        following = blend(target, x, FOLLOWING / SIGMA)
        inputs_next: torch.Tensor = (following / (FOLLOWING**2 + 1) ** 0.5).repeat(2)
        return inputs_next

    return {"operation by operation": run}


def main() -> None:
    torch.manual_seed(0)
    bench_kernel(
        op,
        [(label, case(n)) for label, n in LATENTS.items()],
        peers=in_torch,
        # Read: x, what was before, two predictions. Written: clean, x, the inputs twice.
        bytes_moved=lambda values, *rest: 8 * 4 * values.shape[1],
    )


if __name__ == "__main__":
    main()
