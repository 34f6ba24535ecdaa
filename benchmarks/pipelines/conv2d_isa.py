"""Convolutions for each instruction set, beside torch held to the same one.

On a machine with tile registers or AVX-512 this says what one without them would get: our
convolutions are told by ACCEL_CONV_ISA, oneDNN by ONEDNN_MAX_CPU_ISA, torch's own loops by
ATEN_CPU_CAPABILITY, MKL, which multiplies for torch's 1x1, by MKL_ENABLE_INSTRUCTIONS. Weights are
packed once, as accel.nn.Conv2d does it; `unpacked` is a call with weights as torch keeps them.
MNN and ncnn cannot be told; where they are installed they stand beside AVX-512, the most that they
use for float32. Each set is a process of its own, for all variables are read once.

    python -m benchmarks.pipelines.conv2d_isa [--isa avx2] [--only 512]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys

import torch
import torch.nn.functional as F

from accel.kernels.conv2d import op, pack
from benchmarks.harness import Args, Call, Written, conditions, interleaved, kept, save
from benchmarks.kernels.conv2d import LAST, case, mnn, ncnn, packed

ISAS = {
    "avx2": {
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "ATEN_CPU_CAPABILITY": "avx2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    },
    "avx512": {
        "ONEDNN_MAX_CPU_ISA": "AVX512_CORE",
        "ATEN_CPU_CAPABILITY": "avx512",
        "MKL_ENABLE_INSTRUCTIONS": "AVX512",
    },
}
# batch, inputs, outputs, height, width, kernel, stride
SHAPES = {
    "3x3 320, 64x64": (1, 320, 320, 64, 64, 3, 1),
    "3x3 640, 32x32": (1, 640, 640, 32, 32, 3, 1),
    "3x3 640, 32x32 x2": (2, 640, 640, 32, 32, 3, 1),
    "3x3 1280, 16x16": (1, 1280, 1280, 16, 16, 3, 1),
    "3x3 1280, 16x16 x2": (2, 1280, 1280, 16, 16, 3, 1),
    "3x3 1280, 8x8 x2": (2, 1280, 1280, 8, 8, 3, 1),
    "3x3 320 to 640, 32x32 x2": (2, 320, 640, 32, 32, 3, 1),
    "3x3 512, 64x64": (1, 512, 512, 64, 64, 3, 1),
    "3x3 256, 128x128": (1, 256, 256, 128, 128, 3, 1),
    "3x3 128, 256x256": (1, 128, 128, 256, 256, 3, 1),
    "3x3 320, 17x23": (1, 320, 320, 17, 23, 3, 1),
    "3x3 96 to 200, 45x77": (1, 96, 200, 45, 77, 3, 1),
    "3x3 64, 112x112": (1, 64, 64, 112, 112, 3, 1),
    "3x3 16 to 32, 96x96": (1, 16, 32, 96, 96, 3, 1),
    "3x3 3 to 64, 256x256": (1, 3, 64, 256, 256, 3, 1),
    "3x3 3 to 32 stride 2, 320x320": (1, 3, 32, 320, 320, 3, 2),
    "3x3 4 to 320, 64x64 x2": (2, 4, 320, 64, 64, 3, 1),
    "3x3 320 to 4, 64x64 x2": (2, 320, 4, 64, 64, 3, 1),
    "3x3 128 to 3, 256x256": (1, 128, 3, 256, 256, 3, 1),
    "3x3 stride 2 320, 64x64": (1, 320, 320, 64, 64, 3, 2),
    "5x5 stride 2 128 to 256, 64x64": (1, 128, 256, 64, 64, 5, 2),
    "1x1 stride 2 256 to 512, 56x56": (1, 256, 512, 56, 56, 1, 2),
    "1x1 320, 64x64 x2": (2, 320, 320, 64, 64, 1, 1),
    "1x1 1280 to 640, 32x32 x2": (2, 1280, 640, 32, 32, 1, 1),
}
OURS = ("contiguous", "channels-last")


def calls_of(args: Args) -> dict[str, Call]:
    x, weight, bias, _, stride, padding, *_ = args
    last, weight_last = x.contiguous(memory_format=LAST), weight.contiguous(memory_format=LAST)
    ready = pack(weight, stride)
    calls: dict[str, Call] = {
        "contiguous": lambda: op.run(x, *args[1:], ready),
        "channels-last": lambda: op.run(last, *args[1:], ready),
        "contiguous, unpacked": lambda: op.run(x, *args[1:]),
        "channels-last, unpacked": lambda: op.run(last, *args[1:]),
        "torch, contiguous": lambda: F.conv2d(x, weight, bias, stride, padding),
        "torch, channels-last": lambda: F.conv2d(last, weight_last, bias, stride, padding),
        "torch, packed weights": packed(last, weight_last, bias, stride, padding),
    }
    return calls


def peers_of(args: Args) -> dict[str, Call]:
    """What is timed apart: threads of these still wait, at work, when the next call has begun."""
    x, weight, bias, _, stride, padding, *_ = args
    calls: dict[str, Call] = {}
    for name, make in (("MNN", mnn), ("ncnn", ncnn)):
        try:
            calls[name] = make(x, weight, bias, stride, padding)
        except ImportError:
            continue
    return calls


def error_of(args: Args, outputs: int = 16) -> float:
    """Largest difference from float64 over the largest value, in the first `outputs` channels."""
    x, weight, bias, _, stride, padding, *_ = args
    some = weight[:outputs].double(), bias[:outputs].double()
    expected = F.conv2d(x.double(), *some, stride, padding)
    scale = expected.abs().max()
    layouts = torch.contiguous_format, LAST
    results = [op.run(x.contiguous(memory_format=layout), *args[1:]) for layout in layouts]
    return max(float((got[:, :outputs] - expected).abs().max() / scale) for got in results)


def measure(isa: str, only: str, rounds: int) -> None:
    """Print a JSON row for each shape. Runs in a process whose variables are set."""
    torch.set_num_threads(1)  # other engines ask how many
    for label, shape in SHAPES.items():
        if only not in label:
            continue
        args = case(*shape)
        row: Written = {"isa": isa, "case": label, "error": float(f"{error_of(args):.2g}")}
        times = interleaved(calls_of(args), rounds=rounds)
        if isa == "avx512":
            times |= interleaved(peers_of(args), rounds=rounds)
        row["median_ms"] = {name: round(seconds * 1e3, 4) for name, seconds in times.items()}
        best = min(seconds for name, seconds in times.items() if name.startswith("torch"))
        row["best_torch_over"] = {name: round(best / times[name], 3) for name in OURS}
        outs, (ho, wo) = shape[2], op.run(*args).shape[2:]
        flops = 2 * shape[0] * shape[1] * outs * ho * wo * shape[5] ** 2
        row["direct_GFLOP_per_s"] = {n: round(flops / s / 1e9, 1) for n, s in times.items()}
        print(json.dumps(row), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--isa", choices=ISAS, action="append")
    parser.add_argument("--only", default="", help="cases with this in their name; keeps no file")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--inside", choices=ISAS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inside:
        with torch.no_grad():
            return measure(args.inside, args.only, args.rounds)
    rows = []
    for isa in args.isa or ISAS:
        command = [sys.executable, "-m", "benchmarks.pipelines.conv2d_isa", "--inside", isa]
        command += ["--only", args.only, "--rounds", str(args.rounds)]
        settings = os.environ | ISAS[isa] | {"ACCEL_CONV_ISA": isa}
        with subprocess.Popen(command, env=settings, stdout=subprocess.PIPE, text=True) as child:
            for line in child.stdout or ():
                if not line.startswith("{"):
                    continue
                row = json.loads(line)
                rows.append(row)
                over = row["best_torch_over"]
                print(
                    f"{isa:7} {row['case']:32} {over['contiguous']:6.2f}"
                    f" {over['channels-last']:6.2f}  error {row['error']:.1e}",
                    flush=True,
                )
        if child.returncode:
            raise SystemExit(f"{isa}: failed with status {child.returncode}")
    if args.only:
        return
    rows += kept("conv2d_isa", rows, "isa")
    rows.sort(key=lambda row: list(ISAS).index(row["isa"]))
    note = "best_torch_over: the best of torch's three times over ours, in each of our layouts"
    save("conv2d_isa", {"op": "conv2d", "note": note, "rows": rows, **conditions(1)})


if __name__ == "__main__":
    main()
