"""Training steps of Quick96 beside a plain PyTorch implementation of the same arithmetic.

Both take the same batches and weights and must give the same losses. The plain one is what the
description says, written with torch's functions: each person's faces on their own, structural
similarity by a square window, RMSprop as tensor expressions. Sample making is timed by itself: it
runs beside the steps.

    python -m benchmarks.pipelines.train          one thread (CPU time), then two (wall time)
    python -m benchmarks.pipelines.train 2        two threads alone
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from accel.faces.autoencoder import QUICK96, Autoencoder
from accel.training.augment import Augment, Sampler, Side
from accel.training.autoencoder import AutoencoderTrainer
from accel.training.faces import FaceSet, TrainFace
from accel.training.options import TrainOptions
from benchmarks.harness import RESULTS, Written, conditions, interleaved, save

BATCH, SIZE = 4, 96
ROUNDS = {1: 7, 2: 5}  # by number of threads


def faces(count: int = 16) -> FaceSet:
    rng = np.random.default_rng(0)
    made = []
    for i in range(count):
        picture = rng.integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8)
        mask = np.full((SIZE, SIZE, 1), 255, np.uint8)
        made.append(TrainFace(str(i), picture, mask, mask, 0.0))
    return FaceSet(None, tuple(made), ())  # type: ignore[arg-type]


class Plain:
    """Quick96's training, as plainly as PyTorch allows."""

    def __init__(self, model: Autoencoder) -> None:
        self.weights = {
            n: p.detach().clone(memory_format=torch.contiguous_format).requires_grad_()
            for n, p in model.named_parameters()
        }
        self.squares = {n: torch.zeros_like(p) for n, p in self.weights.items()}

    def conv(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        weight = self.weights[f"{name}.weight"]
        padding = weight.shape[-1] // 2
        return F.conv2d(x, weight, self.weights[f"{name}.bias"], stride, padding)

    def dense(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def up(self, name: str, x: Tensor) -> Tensor:
        return F.pixel_shuffle(F.leaky_relu(self.conv(f"{name}.conv1", x), 0.1), 2)

    def residual(self, name: str, x: Tensor) -> Tensor:
        inner = F.leaky_relu(self.conv(f"{name}.conv1", x), 0.2)
        return F.leaky_relu(x + self.conv(f"{name}.conv2", inner), 0.2)

    def rebuilt(self, x: Tensor, decoder: str) -> tuple[Tensor, Tensor]:
        for i in range(4):
            x = F.leaky_relu(self.conv(f"encoder.down1.downs_{i}.conv1", x, 2), 0.1)
        x = x.flatten(1)
        x = x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-6)
        x = self.dense("inter.dense2", self.dense("inter.dense1", x)).view(-1, 128, 3, 3)
        code = x = self.up("inter.upscale1", x)
        for i in range(3):
            x = self.residual(f"{decoder}.res{i}", self.up(f"{decoder}.upscale{i}", x))
        outs = [self.conv(f"{decoder}.out_conv{i or ''}", x) for i in range(4)]
        face = F.pixel_shuffle(torch.stack(outs, 2).flatten(1, 2), 2).sigmoid()
        for i in range(4):
            code = self.up(f"{decoder}.upscalem{i}", code)
        return face, self.conv(f"{decoder}.out_convm", code).sigmoid()

    def loss(self, side: Side, decoder: str) -> Tensor:
        face, mask = self.rebuilt(side.warped, decoder)
        soft = blurred(side.mask, SIZE // 32)
        seen, wanted = face * soft, side.target * soft
        loss = 10 * dssim(wanted, seen, int(SIZE / 11.6)).mean(1)
        loss = loss + 10 * (wanted - seen).square().mean((1, 2, 3))
        return loss + 10 * (side.mask - mask).square().mean((1, 2, 3))

    def step(self, src: Side, dst: Side) -> tuple[float, float]:
        losses = self.loss(src, "decoder_src"), self.loss(dst, "decoder_dst")
        (losses[0] + losses[1]).sum().backward()
        with torch.no_grad():
            for name, weight in self.weights.items():
                grad, square = weight.grad, self.squares[name]
                assert grad is not None
                square.mul_(0.9).addcmul_(grad, grad, value=0.1)
                move = 2e-4 * grad / (square.sqrt() + 1e-7)
                weight.sub_(move * torch.bernoulli(torch.full_like(move, 0.3)))
                weight.grad = None
        return losses[0].mean().item(), losses[1].mean().item()


def window(size: int, sigma: float, centre: float) -> Tensor:  # [size, size]
    at = torch.arange(size) - centre
    row = torch.exp(-(at**2) / (2 * sigma**2))
    square = row[:, None] * row[None]
    return square / square.sum()


def blurred(x: Tensor, sigma: int) -> Tensor:
    size = max(3, int(4 * sigma)) | 1
    kernel = window(size, sigma, size // 2)[None, None]
    return F.conv2d(x, kernel, padding=size // 2)


def dssim(a: Tensor, b: Tensor, size: int) -> Tensor:
    kernel = window(size, 1.5, (size - 1) / 2).expand(3, 1, -1, -1)

    def mean(x: Tensor) -> Tensor:
        return F.conv2d(x, kernel, groups=3)

    ma, mb = mean(a), mean(b)
    similar = (2 * ma * mb + 1e-4) / (ma**2 + mb**2 + 1e-4)
    both, each = mean(a * b) * 2 - 2 * ma * mb, mean(a * a + b * b) - ma**2 - mb**2
    return (1 - (similar * (both + 9e-4) / (each + 9e-4)).mean((2, 3))) / 2


def alternatives() -> tuple[dict[str, Callable[[], object]], float]:
    """Calls by name, and how far their losses of the first step are from each other."""
    cpu, options = torch.device("cpu"), TrainOptions(batch=BATCH)
    trainer = AutoencoderTrainer(options, cpu)
    half = AutoencoderTrainer(options, cpu, precision="bf16")
    plain = Plain(trainer.model)
    samplers = [Sampler(faces(), BATCH, Augment(), 0, side) for side in (0, 1)]
    batches = [sampler(0) for sampler in samplers]
    first = plain.step(*batches), trainer.step(*batches)

    def ours(which: AutoencoderTrainer) -> None:
        torch.set_flush_denormal(True)
        which.step(*batches)
        torch.set_flush_denormal(False)

    calls: dict[str, Callable[[], object]] = {
        "plain PyTorch": lambda: plain.step(*batches),
        "accel": lambda: ours(trainer),
        "accel, bf16": lambda: ours(half),
        "samples of both": lambda: [sampler(1) for sampler in samplers],
    }
    apart = max(abs(a - b) for a, b in zip(*first))
    if apart > 1e-4:
        sys.exit(f"train: losses must be equal, they are {apart:.2g} apart: {first}")
    return calls, apart


def main() -> None:
    calls, apart = alternatives()
    wanted = [int(word) for word in sys.argv[1:] if word.isdecimal()] or list(ROUNDS)
    rows = [row for row in kept() if row["threads"] not in wanted]
    for threads in wanted:
        medians = interleaved(calls, rounds=ROUNDS[threads], threads=threads)
        plain = medians["plain PyTorch"]
        for name, seconds in medians.items():
            row = {
                "case": f"Quick96, batch {BATCH}",
                "threads": threads,
                "clock": "process CPU time" if threads == 1 else "wall",
                "implementation": name,
                "median_s": round(seconds, 4),
                "steps_per_s": round(1 / seconds, 3),
                "times_plain": round(plain / seconds, 3),
            }
            rows.append(row)
            speed = f"{seconds:8.3f} s {row['times_plain']:6.2f} x"
            print(f"{row['case']}, threads {threads}  {name:18} {speed}", flush=True)
        # Kept at once: on a busy machine the next takes long.
        about = {"note": "one step of training", "model": QUICK96.archi, "losses_apart": apart}
        save("train", {**about, "rows": rows, **conditions(threads)})


def kept() -> list[Written]:
    """Rows of an earlier run, so that thread counts can be measured one at a time."""
    path = RESULTS / "train.json"
    return json.loads(path.read_text())["rows"] if path.exists() else []


if __name__ == "__main__":
    main()
