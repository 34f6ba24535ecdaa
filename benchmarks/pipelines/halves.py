"""Stable Diffusion 1.5's UNet with weights of 16 bits: as a file has them, and widened in memory.

    python -m benchmarks.pipelines.halves WORK_FOLDER [--sides 16 32 64] [--threads 1 2]

WORK_FOLDER keeps the checkpoint of random weights in float16 (2 GB). Both networks are in one
process (6 GB) and take turns; then with the same weights rounded to bfloat16. What they give is
compared byte by byte.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from accel.models.load import load
from accel.nn.conv import kept_in_halves
from benchmarks.harness import Call, conditions, interleaved, kept, save
from benchmarks.pipelines.sd_peers import CHECKPOINTS, step_inputs

ROUNDS = 7


def networks(path: Path) -> tuple[dict[str, Any], dict[str, float]]:
    """The UNet twice, and the seconds that loading the checkpoint and widening took."""
    load(path)  # brings the file to the system's cache
    began = time.perf_counter()
    mapped = load(path).model.unet
    loaded = time.perf_counter()
    wide = load(path).model.unet
    convert(wide, torch.float32)
    widened = time.perf_counter()
    seconds = {"as stored": loaded - began, "widened": widened - loaded}
    return {"as stored": mapped, "widened": wide}, seconds


def convert(network: nn.Module, dtype: torch.dtype) -> None:
    """Layers' weights, one by one."""
    for name in kept_in_halves(network):
        weight = network.get_parameter(name)
        weight.data = weight.data.to(dtype)


@torch.inference_mode()
def compare(found: dict[str, Any], kind: str, side: int, threads: int) -> dict[str, Any]:
    given = list(step_inputs(side).values())
    calls: dict[str, Call] = {name: partial(unet, *given) for name, unet in found.items()}
    first, second = (unet(*given) for unet in found.values())
    median = interleaved(calls, rounds=ROUNDS, threads=threads)
    row = {
        "case": f"UNet step, {side}x{side} latents x2",
        "weights": kind,
        "threads": threads,
        "median_s": {name: round(seconds, 3) for name, seconds in median.items()},
        "ratio": round(median["widened"] / median["as stored"], 3),
        "same_bytes": torch.equal(first, second),
    }
    print(f"  {row}", flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("work", type=Path)
    parser.add_argument("--sides", nargs="*", type=int, default=[16, 32, 64])
    parser.add_argument("--threads", nargs="*", type=int, default=[1, 2])
    args = parser.parse_args()
    path = args.work / CHECKPOINTS["F16"]
    if not path.exists():
        from tests.pipelines.generate.full_size import write_full_size

        args.work.mkdir(parents=True, exist_ok=True)
        write_full_size(path, kind="F16")
    found, seconds = networks(path)
    print(f"  loading: {seconds}", flush=True)
    rows = []
    for kind in (torch.float16, torch.bfloat16):
        for network, dtype in zip(found.values(), (kind, torch.float32)):
            convert(network, kind)
            convert(network, dtype)
        told = str(kind).removeprefix("torch.")
        rows += [compare(found, told, side, n) for n in args.threads for side in args.sides]
    rows = kept("unet_halves", rows, "case", "weights", "threads") + rows
    load_s = {name: round(value, 2) for name, value in seconds.items()}
    save("unet_halves", {"rows": rows, "load_s": load_s, **conditions(threads=1)})


if __name__ == "__main__":
    main()
