"""What a GPU could do at best: floors from arithmetic, bytes and launches, for cards not at hand.

Everything in this file is a prediction and says so. A time is the largest of what arithmetic,
memory and exponentials need, plus the launches that come one after another; real programs take
longer. A report of predictions has a schema of its own, so that it cannot be taken for a
measurement.

Sources: NVIDIA's data sheets (dense rates); 790 TFLOP/s and 3.0 TB/s are what was measured by
others on H100s; models' counts are of one forward on torch's meta device, two numbers for a
multiply-add.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from accel.core import ConfigError

SCHEMA = "accel-predict/1"
LAUNCH_S = 1e-6  # of one small kernel after another, replayed as a graph
HALF = 2  # bytes of float16 and bfloat16


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """Rates of one card.

    tflops: of half-precision matrix products, dense. gbytes: a second, of its memory.
    texps: 10^12 exponentials a second, 16 a clock and multiprocessor.
    encode_fps: of one NVENC session, 1080p H.264; 0 without such a unit, None where not known.
    """

    name: str
    tflops: float
    gbytes: float
    texps: float
    encode_fps: float | None = None


GPUS = {
    "h100": Gpu(name="H100 SXM", tflops=790, gbytes=3000, texps=3.7, encode_fps=0),
    "a100": Gpu(name="A100 SXM 80 GB", tflops=312, gbytes=2040, texps=2.4, encode_fps=0),
    "l4": Gpu(name="L4", tflops=121, gbytes=300, texps=1.9),
    # GeForce cards halve their rate where sums are kept in float32, as our kernels keep them.
    "rtx4090": Gpu(name="RTX 4090", tflops=165.2, gbytes=1008, texps=5.2, encode_fps=400),
    "rtx4090-fp16sum": Gpu(
        name="RTX 4090, float16 sums", tflops=330.3, gbytes=1008, texps=5.2, encode_fps=400
    ),
    "rtx3090": Gpu(name="RTX 3090", tflops=71, gbytes=936, texps=2.2),
    "rtx3090-fp16sum": Gpu(name="RTX 3090, float16 sums", tflops=142, gbytes=936, texps=2.2),
}


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The work in something: at least so many of each."""

    flops: float = 0.0
    bytes: float = 0.0
    exps: float = 0.0
    launches: int = 1

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            flops=self.flops + other.flops, bytes=self.bytes + other.bytes,
            exps=self.exps + other.exps, launches=self.launches + other.launches,
        )  # fmt: skip

    def __mul__(self, times: int) -> Cost:
        return Cost(
            flops=self.flops * times, bytes=self.bytes * times, exps=self.exps * times,
            launches=self.launches * times,
        )  # fmt: skip


def floor(cost: Cost, gpu: Gpu) -> tuple[float, str]:
    """Seconds that `cost` takes at least, and what decides: arithmetic, memory, ... or launches."""
    parts = {
        "arithmetic": cost.flops / (gpu.tflops * 1e12),
        "memory": cost.bytes / (gpu.gbytes * 1e9),
        "exponentials": cost.exps / (gpu.texps * 1e12),
    }
    launches = cost.launches * LAUNCH_S
    most = max(parts, key=lambda name: parts[name])
    return parts[most] + launches, "launches" if launches > parts[most] else most


def conv(n: int, c_in: int, c_out: int, side: int, kernel: int = 3) -> Cost:
    pixels, taps = n * side * side, kernel * kernel
    moved = pixels * (c_in + c_out) + c_in * c_out * taps
    return Cost(flops=2.0 * pixels * c_in * c_out * taps, bytes=HALF * moved)


def attention(batch: int, heads: int, queries: int, keys: int, size: int) -> Cost:
    """Head sizes as our kernels read them: 40 as 48, 80 and 160 as they are."""
    read = -(-size // 16) * 16
    pairs = float(batch * heads * queries * keys)
    moved = batch * heads * size * 2 * (queries + keys)
    return Cost(flops=4.0 * pairs * read, bytes=HALF * moved, exps=pairs)


def norm(n: int, channels: int, side: int) -> Cost:
    values = n * channels * side * side
    return Cost(bytes=2.0 * HALF * values, exps=values)


def geglu_linear(rows: int, depth: int, width: int) -> Cost:
    moved = rows * (depth + width) + 2 * width * depth
    return Cost(flops=4.0 * rows * depth * width, bytes=HALF * moved)


def guided_step(values: int) -> Cost:
    return Cost(bytes=4.0 * 4 * values)  # three read and one written, float32


def crop(faces: int, side: int, seen: float = 1.0) -> Cost:
    """seen: samples of luma that a crop's pixel averages."""
    pixels = faces * side * side
    return Cost(bytes=pixels * (1.5 * seen + 3 * HALF))


def paste(faces: int, side: int, covered: int) -> Cost:
    """covered: pixels of the frame under one face; luma and chroma are a launch each."""
    return Cost(bytes=faces * (2 * 1.5 * covered + 4.0 * HALF * side * side), launches=2 * faces)


def to_nv12(n: int, side: int) -> Cost:
    pixels = n * side * side
    return Cost(bytes=pixels * (3 * HALF * 2 + 1.5))  # luma and chroma each read the picture


KERNELS: dict[tuple[str, str], Cost] = {
    ("conv2d", "3x3 2x320->320 64x64"): conv(2, 320, 320, 64),
    ("conv2d", "3x3 2x1280->1280 8x8"): conv(2, 1280, 1280, 8),
    ("conv2d", "3x3 1x128->128 1024x1024"): conv(1, 128, 128, 1024),
    ("attention", "2x8 4096x4096 d=40"): attention(2, 8, 4096, 4096, 40),
    ("attention", "2x8 1024x1024 d=80"): attention(2, 8, 1024, 1024, 80),
    ("attention", "2x8 256x256 d=160"): attention(2, 8, 256, 256, 160),
    ("attention", "2x10 4096x4096 d=64"): attention(2, 10, 4096, 4096, 64),
    ("group_norm_silu", "2x320 64x64"): norm(2, 320, 64),
    ("group_norm_silu", "1x128 1024x1024"): norm(1, 128, 1024),
    ("geglu_linear", "8192x320->1280"): geglu_linear(8192, 320, 1280),
    ("geglu_linear", "2048x1280->5120"): geglu_linear(2048, 1280, 5120),
    ("guided_step", "SD 512"): guided_step(4 * 64 * 64),
    ("crop", "1 face of 400 px to 128"): crop(1, 128, 9.8),
    ("paste", "1 face of 400 px from 128"): paste(1, 128, 400 * 400),
    ("to_nv12", "1024x1024"): to_nv12(1, 1024),
}
# Multiply-adds counted twice, weights in half precision, launches of convolutions, products,
# attention, norms and large pointwise passes. Guidance is a batch of two.
NETWORKS: dict[tuple[str, str], Cost] = {
    ("SD 1.5 step", "512 px, guided"): Cost(flops=1.607e12, bytes=1.72e9, launches=693),
    ("SDXL step", "1024 px, guided"): Cost(flops=13.52e12, bytes=5.13e9, launches=1821),
    ("VAE decode", "512 px"): Cost(flops=2.515e12, bytes=0.17e9, launches=140),
    ("VAE decode", "1024 px"): Cost(flops=10.47e12, bytes=0.17e9, launches=140),
}
# A frame at 1080p with one face: SCRFD-10G, an IResNet-50 and inswapper_128 by their arithmetic,
# the largest one by its weights too, launches not counted; then our crops and paste. Then GFPGAN.
SWAP = Cost(flops=0.388e12, bytes=0.277e9, launches=0) + crop(3, 128, 9.8) + paste(1, 128, 160_000)
ENHANCED = SWAP + Cost(flops=0.395e12, launches=0) + crop(1, 512) + paste(1, 512, 160_000)


def predict(name: str) -> dict[str, Any]:
    """What one GPU could reach at best, as the JSON of `accel bench --predict`.

    Raises ConfigError for a name that is not in GPUS.
    """
    if name not in GPUS:
        raise ConfigError(f"predict must be one of {', '.join(GPUS)}, got {name!r}")
    gpu = GPUS[name]
    return {
        "schema": SCHEMA,
        "kind": "predicted",
        "gpu": vars(gpu),
        "launch_us": LAUNCH_S * 1e6,
        "rows": list(_rows(gpu)),
    }


def _rows(gpu: Gpu) -> Iterator[dict[str, Any]]:
    for group, costs in (("kernels", KERNELS), ("networks", NETWORKS)):
        for (name, case), cost in costs.items():
            seconds, bound = floor(cost, gpu)
            unit = "steps/s" if name.endswith("step") and group == "networks" else "calls/s"
            yield _row(group, name, case, seconds, 1 / seconds, unit, bound)
    for name, step, decode, steps in (
        ("SD 1.5 picture", "SD 1.5 step", "512 px", 20),
        ("SDXL picture", "SDXL step", "1024 px", 30),
    ):
        walk = next(cost for (of, _), cost in NETWORKS.items() if of == step) * steps
        seconds, bound = floor(walk + NETWORKS["VAE decode", decode], gpu)
        case = f"{decode}, {steps} steps"
        yield _row("generate", name, case, seconds, 1 / seconds, "pictures/s", bound)
    for name, cost in (("swap", SWAP), ("swap and enhance", ENHANCED)):
        seconds, bound = floor(cost, gpu)
        yield _row("swap", name, "1080p, 1 face", seconds, 1 / seconds, "frames/s", bound)
        if gpu.encode_fps:
            seconds, bound = max((seconds, bound), (1 / gpu.encode_fps, "encoder"))
            case = "1080p, 1 face, one NVENC session"
            yield _row("swap", name, case, seconds, 1 / seconds, "frames/s", bound)


def _row(
    group: str, name: str, case: str, seconds: float, rate: float, unit: str, bound: str
) -> dict[str, Any]:
    return {
        "kind": "predicted", "group": group, "name": name, "case": case, "seconds": seconds,
        "rate": rate, "unit": unit, "bound": bound,
    }  # fmt: skip
