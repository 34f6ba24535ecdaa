"""Kernels on the shapes that swapping and sampling give them, each against its reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from accel.core import ConfigError
from accel.kernels import OPS
from accel.kernels._op import Implementation, Op
from accel.pipelines.bench.machine import Ceilings
from accel.pipelines.bench.measure import Row, difference, interleaved

# Of the largest value, before a kernel is timed at all; GPUs are given float16.
TOLERANCE = {torch.float32: 2e-5, torch.float16: 4e-3}
QUICK_FLOPS = 16e9  # the 3x3 convolutions of a UNet have 15e9


@dataclass(frozen=True)
class Case:
    """An operator, its arguments, and the work in them.

    bytes: read and written, of float32. products: of bfloat16 on tile registers, for each product
    of float32; 0 where the kernel keeps to vectors.
    """

    op: str
    label: str
    make: Callable[[Callable[..., Tensor]], tuple[Any, ...]]  # from a maker of random tensors
    flops: float = 0.0
    bytes: float = 0.0
    products: int = 0


def _conv(n: int, c_in: int, c_out: int, side: int, kernel: int = 3) -> Case:
    return Case(
        "conv2d",
        f"{kernel}x{kernel} {n}x{c_in}->{c_out} {side}x{side}",
        lambda t: (
            t(n, c_in, side, side), t(c_out, c_in, kernel, kernel, scale=0.05), t(c_out), None, 1,
            kernel // 2, 1, 1.0,
        ),
        flops=2.0 * n * c_in * c_out * side * side * kernel * kernel,
        products=3 if c_in * kernel * kernel > 128 else 6,
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
        products=6 if keys >= 128 else 0,
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


def _geglu_linear(rows: int, depth: int, width: int) -> Case:
    return Case(
        "geglu_linear",
        f"{rows}x{depth}->{width}",
        lambda t: (t(rows, depth), t(2 * width, depth, scale=depth**-0.5), t(2 * width)),
        flops=4.0 * rows * depth * width,
    )


CASES = (
    _conv(2, 320, 320, 64), _conv(2, 640, 640, 32), _conv(2, 1280, 1280, 16),
    _conv(1, 512, 512, 64), _conv(1, 128, 128, 256), _conv(2, 320, 320, 64, 1),
    _attention(1, 8, 4096, 4096, 40), _attention(2, 8, 1024, 1024, 80),
    _attention(2, 8, 4096, 77, 40),
    _norm(2, 320, 64), _norm(1, 128, 256), _geglu(8192, 1280), _geglu(2048, 2560),
)  # fmt: skip
GPU_CASES = (_geglu_linear(8192, 320, 1280), _geglu_linear(2048, 1280, 5120))


def bench_kernels(
    device: torch.device, ceilings: Ceilings, *, quick: bool = False
) -> Iterator[Row]:
    """Check, then time, every case: on one thread, and on all where the device is the CPU.

    A quick run leaves the largest shapes out, and takes one thread.
    """
    for case in CASES + (GPU_CASES if device.type == "cuda" else ()):
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
    dtype = torch.float16 if device.type == "cuda" else torch.float32

    def tensor(*shape: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(*shape, generator=draw) * scale).to(device, dtype)

    args = case.make(tensor)
    chosen = next(i for i in op.implementations if not i.why_not(*args))
    refuse_fallback(op.name, chosen.name, device)
    error = _error(op, case, chosen, args)
    calls = {"accel": lambda: chosen.run(*args)}
    if chosen.name != "reference":
        calls["torch"] = lambda: op.reference(*args)
    times = interleaved(calls, rounds=rounds, device=device, threads=threads)
    ours = times["accel"]
    work, unit = (case.flops, "GFLOP/s") if case.flops else (case.bytes, "GB/s")
    if not case.flops:
        work *= dtype.itemsize / torch.float32.itemsize
    rate = work / ours.seconds / 1e9
    limit = limit_of(case, chosen.name, ceilings, threads if device.type == "cpu" else 0)
    share = rate / limit.rate if limit.rate else None
    return Row(
        group="kernels", name=op.name, case=case.label, device=device.type,
        threads=threads, seconds=ours.seconds, spread=ours.spread, rate=rate, unit=unit,
        limit=limit.name, share=share, error=error, implementation=chosen.name,
        note=limit.why_above if share is not None and share > 1 else "",
        dtype=str(dtype).removeprefix("torch."),
        peers={k: v.seconds / ours.seconds for k, v in times.items() if k != "accel"},
    )  # fmt: skip


def _error(op: Op, case: Case, chosen: Implementation, args: tuple[Any, ...]) -> float:
    """Of the result, against the reference in float32; raises ConfigError where it is wrong."""
    dtype = args[0].dtype
    wide = [a.float() if isinstance(a, Tensor) else a for a in args]
    error = difference(chosen.run(*args), op.reference(*wide))
    if not error <= TOLERANCE[dtype]:
        raise ConfigError(
            f"bench: {op.name} {case.label}: {chosen.name}'s error must be at most"
            f" {TOLERANCE[dtype]}, got {error:.1e}"
        )
    return error


@dataclass(frozen=True)
class Limit:
    """What a kernel runs against: its name, its rate, and how one can be above it."""

    name: str
    rate: float | None
    why_above: str


def limit_of(case: Case, implementation: str, ceilings: Ceilings, threads: int) -> Limit:
    """threads: 0 on a GPU, whose ceilings are of the whole card."""
    one = threads == 1
    who = "one thread" if one else "all threads" if threads else "the card"
    if not case.flops:
        whole = ceilings.gbytes if one or not threads else ceilings.gbytes_all
        why = "kept in caches, or written past them, as plain copies are not"
        return Limit(f"memory copied by {who}", whole or ceilings.gbytes, why)
    tiles = ceilings.tiles_one if one else ceilings.tiles
    if tiles and case.products and implementation == "native":
        each = f"tile registers of {who}, {case.products} products each"
        return Limit(each, tiles / case.products, "fewer products where channels are few")
    flops = ceilings.gflops_one if one and ceilings.gflops_one else ceilings.gflops
    why = "Winograd's convolution needs less arithmetic than is counted"
    if case.op != "conv2d":
        why = "the clock was higher than when the limit was measured"
    return Limit(f"multiply-adds of {who}", flops, why)


def refuse_fallback(name: str, implementation: str, device: torch.device) -> None:
    """A GPU figure must come from a GPU kernel: a silent fall-back would be quoted as one."""
    if device.type == "cuda" and implementation not in ("triton", "reference"):
        raise ConfigError(f"bench: {name} on {device} must run a GPU kernel, got {implementation}")
