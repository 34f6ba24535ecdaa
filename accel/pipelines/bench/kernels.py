"""Kernels on the shapes that swapping and sampling give them, each against its reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from accel.core import ConfigError
from accel.kernels import OPS
from accel.kernels._op import Op
from accel.pipelines.bench.machine import Ceilings
from accel.pipelines.bench.measure import Row, difference, interleaved

TOLERANCE = 2e-5  # of the largest value, before a kernel is timed at all
QUICK_FLOPS = 16e9  # the 3x3 convolutions of a UNet have 15e9


@dataclass(frozen=True)
class Case:
    """An operator, its arguments, and the work in them."""

    op: str
    label: str
    make: Callable[[Callable[..., Tensor]], tuple[Any, ...]]  # from a maker of random tensors
    flops: float = 0.0
    bytes: float = 0.0


def _conv(n: int, c_in: int, c_out: int, side: int, kernel: int = 3) -> Case:
    return Case(
        "conv2d",
        f"{kernel}x{kernel} {n}x{c_in}->{c_out} {side}x{side}",
        lambda t: (
            t(n, c_in, side, side), t(c_out, c_in, kernel, kernel, scale=0.05), t(c_out), None, 1,
            kernel // 2, 1, 1.0,
        ),
        flops=2.0 * n * c_in * c_out * side * side * kernel * kernel,
    )  # fmt: skip


def _attention(b: int, h: int, length: int, keys: int, dim: int) -> Case:
    return Case(
        "attention",
        f"{b}x{h} {length}x{keys} d={dim}",
        lambda t: (
            t(b, length, h, dim).transpose(1, 2), t(b, keys, h, dim).transpose(1, 2),
            t(b, keys, h, dim).transpose(1, 2), dim**-0.5, False,
        ),
        flops=4.0 * b * h * length * keys * dim,
    )  # fmt: skip


def _norm(n: int, c: int, side: int) -> Case:
    return Case(
        "group_norm_silu",
        f"{n}x{c} {side}x{side}",
        lambda t: (t(n, c, side, side), 32, t(c), t(c), 1e-5, True),
        bytes=8.0 * n * c * side * side,
    )


def _geglu(rows: int, width: int) -> Case:
    return Case(
        "geglu", f"{rows}x{width}", lambda t: (t(rows, 2 * width),), bytes=12.0 * rows * width
    )


CASES = (
    _conv(2, 320, 320, 64), _conv(2, 640, 640, 32), _conv(2, 1280, 1280, 16),
    _conv(1, 512, 512, 64), _conv(1, 128, 128, 256), _conv(2, 320, 320, 64, 1),
    _attention(1, 8, 4096, 4096, 40), _attention(2, 8, 1024, 1024, 80),
    _attention(2, 8, 4096, 77, 40),
    _norm(2, 320, 64), _norm(1, 128, 256), _geglu(8192, 1280), _geglu(2048, 2560),
)  # fmt: skip


def bench_kernels(
    device: torch.device, ceilings: Ceilings, *, quick: bool = False
) -> Iterator[Row]:
    """Check, then time, every case: on one thread, and on all where the device is the CPU.

    A quick run leaves the largest shapes out, and takes one thread.
    """
    for case in CASES:
        if quick and case.flops > QUICK_FLOPS:
            continue
        every = 1 if quick or device.type != "cpu" else torch.get_num_threads()
        for threads in sorted({1, every}):
            rounds = 5 if quick else 9
            yield bench_case(OPS[case.op], case, device, ceilings, rounds, threads)


def bench_case(
    op: Op, case: Case, device: torch.device, ceilings: Ceilings, rounds: int, threads: int = 1
) -> Row:
    """One row. With one thread the clock is the process's CPU time, with more the wall's."""
    draw = torch.Generator().manual_seed(0)

    def tensor(*shape: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(*shape, generator=draw) * scale).to(device)

    args = case.make(tensor)
    chosen = next(i for i in op.implementations if not i.why_not(*args))
    refuse_fallback(op.name, chosen.name, device)
    error = difference(chosen.run(*args), op.reference(*args))
    if error > TOLERANCE:
        raise ConfigError(f"bench: {op.name} {case.label}: error {error:.1e} is over {TOLERANCE}")
    calls = {"accel": lambda: chosen.run(*args)}
    if chosen.name != "reference":
        calls["torch"] = lambda: op.reference(*args)
    times = interleaved(calls, rounds=rounds, device=device, threads=threads)
    ours = times["accel"]
    if case.flops:
        rate, unit = case.flops / ours.seconds / 1e9, "GFLOP/s"
        one = threads == 1 and ceilings.gflops_one
        top = ceilings.gflops_one if one else ceilings.gflops
        limit = f"multiply-adds of {'one thread' if one else 'all threads'}"
    else:
        rate, unit, limit = case.bytes / ours.seconds / 1e9, "GB/s", "memory copied"
        top = ceilings.gbytes
    return Row(
        group="kernels", name=op.name, case=case.label, device=device.type,
        threads=threads, seconds=ours.seconds, spread=ours.spread, rate=rate, unit=unit,
        limit=limit, share=rate / top if top else None, error=error,
        peers={k: v.seconds / ours.seconds for k, v in times.items() if k != "accel"},
    )  # fmt: skip


def refuse_fallback(name: str, implementation: str, device: torch.device) -> None:
    """A GPU figure must come from a GPU kernel: a silent fall-back would be quoted as one."""
    if device.type == "cuda" and implementation not in ("triton", "reference"):
        raise ConfigError(f"bench: {name} on {device} must run a GPU kernel, got {implementation}")
