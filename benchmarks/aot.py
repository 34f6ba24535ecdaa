"""Compile every Triton kernel ahead of time for each GPU generation and read what it would use.

No GPU or driver is needed. Fails when a kernel that is launched stands in no `AOT` list, spills
registers to memory, or wants more shared memory than the architecture has. A module's `AOT` is a
list of dicts: name, kernel, signature, constexprs, num_warps, and perhaps options.

    python -m benchmarks.aot                  all architectures; writes benchmarks/results/aot.json
    python -m benchmarks.aot --arch 90 --json FILE     some of them, to another file

Limits: CUDA C++ Programming Guide 13.0, table "Technical Specifications per Compute Capability".
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import multiprocessing
import os
import pkgutil
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import ModuleType

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

import accel.kernels

REPORT = Path(__file__).parent / "results" / "aot.json"
SHARED_LIMIT_KB = {80: 163, 86: 99, 89: 99, 90: 227, 100: 227, 120: 99}  # one block may use


def modules() -> Iterator[ModuleType]:
    for found in pkgutil.iter_modules(accel.kernels.__path__):
        yield importlib.import_module(f"accel.kernels.{found.name}")


def variants() -> dict[str, dict]:
    """Every entry of every module's AOT list, by name."""
    by_name: dict[str, dict] = {}
    for module in modules():
        for entry in getattr(module, "AOT", ()):
            if by_name.setdefault(entry["name"], entry) is not entry:
                raise SystemExit(f"aot: two kernels are called {entry['name']}")
    return by_name


def unlisted() -> list[str]:
    """Kernels that some module launches (`kernel[grid](...)`) and no AOT list names."""
    listed = {entry["kernel"].fn for entry in variants().values()}
    return [
        f"{module.__name__}.{name}"
        for module in modules()
        for name, value in vars(module).items()
        if isinstance(value, JITFunction)
        and value.fn not in listed
        and re.search(rf"\b{name}\[", inspect.getsource(module))
    ]


def compile_one(name: str, arch: int) -> dict:
    """Registers per thread, stack bytes per thread (spills) and shared bytes per block."""
    entry = variants()[name]
    signature = entry["signature"]
    # What the launcher finds at run time: torch's pointers are multiples of 16 bytes.
    aligned = {
        (i,): [["tt.divisibility", 16]] for i, t in enumerate(signature.values()) if t[0] == "*"
    }
    source = ASTSource(entry["kernel"], signature, constexprs=entry["constexprs"], attrs=aligned)
    compiled = triton.compile(
        source,
        target=GPUTarget("cuda", arch, 32),
        options={"num_warps": entry["num_warps"], **entry.get("options", {})},
    )
    usage = resource_usage(compiled.asm["cubin"])
    return {
        "kernel": name,
        "arch": arch,
        "registers": usage["REG"],
        "stack_bytes": usage["STACK"] + usage["LOCAL"],
        "shared_bytes": compiled.metadata.shared,
    }


def resource_usage(cubin: bytes) -> dict[str, int]:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {key: int(value) for key, value in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", text)}


def faults(rows: list[dict]) -> list[str]:
    found = [f"{name} is launched but stands in no AOT list" for name in unlisted()]
    for row in rows:
        who = f"{row['kernel']} on sm_{row['arch']}"
        limit = SHARED_LIMIT_KB[row["arch"]] * 1024
        if row["stack_bytes"]:
            found.append(f"{who} must not spill, got {row['stack_bytes']} bytes of stack")
        if row["shared_bytes"] > limit:
            found.append(f"{who} may share {limit} bytes, got {row['shared_bytes']}")
    return found


def compile_all(names: list[str], archs: list[int], jobs: int) -> list[dict]:
    work = [(name, arch) for name in names for arch in archs]
    spawn = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    with ProcessPoolExecutor(jobs, mp_context=spawn) as pool:
        return list(pool.map(compile_one, *zip(*work)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--arch", type=int, nargs="+", choices=SHARED_LIMIT_KB)
    parser.add_argument("--json", type=Path, default=REPORT, help="where to write the report")
    parser.add_argument("--jobs", type=int, default=min(4, os.cpu_count() or 1))
    args = parser.parse_args()
    if os.environ.get("TRITON_INTERPRET"):
        raise SystemExit("aot: TRITON_INTERPRET must be unset, or there is nothing to compile")
    rows = compile_all(list(variants()), args.arch or list(SHARED_LIMIT_KB), args.jobs)
    found = faults(rows)
    report = {"triton": triton.__version__, "rows": rows}
    args.json.write_text(re.sub(r', (?={"kernel")', ",\n ", json.dumps(report)) + "\n")
    worst = max(rows, key=lambda row: row["registers"])
    print(
        f"{len(rows)} kernels compiled, {len(found)} faults; "
        f"most registers {worst['registers']} ({worst['kernel']} on sm_{worst['arch']})"
    )
    print(*found, sep="\n", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
