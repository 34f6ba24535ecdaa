"""A step of the optimisers over as many weights as a decoder has, beside tensor expressions."""

from __future__ import annotations

import torch

from accel.kernels.optimise import adabelief_op, rmsprop_op
from benchmarks.harness import Call, bench_kernel

WEIGHTS = {"512 x 512 x 3 x 3": 2_359_296, "a million": 1_000_000}


def tensors(n: int, count: int) -> list[torch.Tensor]:
    make = torch.Generator().manual_seed(0)
    return [torch.rand(n, generator=make) * 1e-3 for _ in range(count)]


def eager_rmsprop(
    weight: torch.Tensor, square: torch.Tensor, grad: torch.Tensor, lr: float, rho: float,
    eps: float, scale: float, limit: float, seed: int,
) -> dict[str, Call]:  # fmt: skip
    """With torch's own random numbers, as a plain training would have it."""
    weight, square = weight.clone(), square.clone()

    def run() -> None:
        square.mul_(rho).addcmul_(grad, grad, value=1 - rho)
        move = lr * grad / (square.sqrt() + eps)
        weight.sub_(move * torch.bernoulli(torch.full_like(move, limit / 2**32)))

    return {"torch expressions": run}


def eager_adabelief(
    weight: torch.Tensor, mean: torch.Tensor, spread: torch.Tensor, grad: torch.Tensor,
    lr: float, beta1: float, beta2: float, eps: float, scale: float, limit: float, seed: int,
) -> dict[str, Call]:  # fmt: skip
    weight, mean, spread = weight.clone(), mean.clone(), spread.clone()

    def run() -> None:
        mean.lerp_(grad, 1 - beta1)
        spread.mul_(beta2).add_((grad - mean).square_(), alpha=1 - beta2)
        move = lr * mean / (spread.sqrt() + eps)
        weight.sub_(move * torch.bernoulli(torch.full_like(move, limit / 2**32)))

    return {"torch expressions": run}


def main() -> None:
    kept = int(0.3 * 2**32)
    for op, count, numbers, peer in (
        (rmsprop_op, 3, (2e-4, 0.9, 1e-7, 1.0, kept, 7), eager_rmsprop),
        (adabelief_op, 4, (5e-5, 0.9, 0.999, 1e-7, 1.0, kept, 7), eager_adabelief),
    ):
        bench_kernel(
            op,
            [(label, (*tensors(n, count), *numbers)) for label, n in WEIGHTS.items()],
            peers=peer,
            rounds=7,
            note="30 % of the weights move",
        )


if __name__ == "__main__":
    main()
