"""Compile every Triton kernel ahead of time for each GPU generation and read what it would use.

No GPU or driver is needed. Fails when a kernel that is launched stands in no `AOT` list, spills
registers to memory, wants more shared memory than the architecture has, or when its machine code
lacks what the list says it needs. A module's `AOT` is a list of dicts: name, kernel, signature,
constexprs, num_warps, and perhaps options and needs: "vector loads" (of 16 bytes) and "tensor
cores". The report is the manifest of all variants with what each of them takes.

    python -m benchmarks.aot                  all architectures; writes benchmarks/results/aot.json
    python -m benchmarks.aot --arch 90 --json FILE     some of them, to another file
    python -m benchmarks.aot --only warp               some kernels; the other rows are kept
    python -m benchmarks.aot --changed                 those whose source or compiler changed

A row's fingerprint is of the kernel's source, of all that it calls, of types, constants, options
and Triton's version: a row with the same one would come out the same again, so `--changed` takes it
as it stands.

Limits: CUDA C++ Programming Guide 13.0, table "Technical Specifications per Compute Capability".
"""

from __future__ import annotations

import argparse
import hashlib
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
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

import accel.kernels

Entry = dict[str, Any]  # of a module's AOT list: what `triton.compile` is told
Manifest = dict[str, Any]  # a row of the report: numbers, and lists of names
REPORT = Path(__file__).parent / "results" / "aot.json"
REGISTERS = 65536  # of one multiprocessor, in every generation here
THREADS = {80: 2048, 86: 1536, 89: 1536, 90: 2048, 100: 2048, 120: 1536}  # it can hold
# Instructions by what they show. Tensor cores: mma of sm_80 to 89 and 120, wgmma, tcgen05.
SIGNS = {
    "vector loads": r"\b(?:LDG|LDGSTS)\.\S*128\b|\bUTMALDG\b|\bUBLKCP\b",
    "tensor cores": r"\bHMMA\b|\bHGMMA\b|\bUTC\w*MMA\b",
}
SPILLS = r"\b(?:LDL|STL)\b"
SHARED_LIMIT_KB = {80: 163, 86: 99, 89: 99, 90: 227, 100: 227, 120: 99}  # one block may use


def modules() -> Iterator[ModuleType]:
    for found in pkgutil.iter_modules(accel.kernels.__path__):
        yield importlib.import_module(f"accel.kernels.{found.name}")


def variants() -> dict[str, Entry]:
    """Every entry of every module's AOT list, by name."""
    by_name: dict[str, Entry] = {}
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


def source_of(entry: Entry) -> tuple[ASTSource, Entry]:
    """What the compiler is given, and its options."""
    signature = entry["signature"]
    # What the launcher finds at run time: torch's pointers are multiples of 16 bytes.
    aligned = {
        (i,): [["tt.divisibility", 16]] for i, t in enumerate(signature.values()) if t[0] == "*"
    }
    source = ASTSource(entry["kernel"], signature, constexprs=entry["constexprs"], attrs=aligned)
    return source, {"num_warps": entry["num_warps"], **entry.get("options", {})}


def fingerprint(entry: Entry) -> str:
    """Of all that decides what the compiler makes for an architecture."""
    source, options = source_of(entry)
    looked_for = sorted(entry.get("needs", ())), sorted(SIGNS.items()), SPILLS
    text = f"{triton.__version__} {source.hash()} {sorted(options.items())} {looked_for}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def compile_one(name: str, arch: int) -> Manifest:
    """What one variant takes: registers, stack (spills), shared memory, telling instructions."""
    started = sum(os.times()[:4])
    entry = variants()[name]
    source, options = source_of(entry)
    compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    code = disassembled(compiled.asm["cubin"])
    usage = resource_usage(code)
    return {
        "kernel": name,
        "arch": arch,
        "fingerprint": fingerprint(entry),
        "warps": entry["num_warps"],
        "registers": usage["REG"],
        "stack_bytes": usage["STACK"] + usage["LOCAL"],
        "shared_bytes": compiled.metadata.shared,
        "occupancy": occupancy(arch, entry["num_warps"], usage["REG"], compiled.metadata.shared),
        "spills": len(re.findall(SPILLS, code)),
        "shows": {sign: len(re.findall(pattern, code)) for sign, pattern in SIGNS.items()},
        "needs": list(entry.get("needs", ())),
        "compile_s": round(sum(os.times()[:4]) - started, 2),  # of processors, tools included
    }


def occupancy(arch: int, warps: int, registers: int, shared_bytes: int) -> float:
    """Share of a multiprocessor's threads that can be there at once."""
    threads = 32 * warps
    a_block = -(-registers // 8) * 8 * threads  # registers are given out by eights
    blocks = min(THREADS[arch] // threads, REGISTERS // max(a_block, 1))
    if shared_bytes:
        blocks = min(blocks, SHARED_LIMIT_KB[arch] * 1024 // (shared_bytes + 1024))
    return round(blocks * threads / THREADS[arch], 2)


def disassembled(cubin: bytes) -> str:
    """Machine code, and before it what it takes."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, "-sass", "-res-usage", file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def resource_usage(code: str) -> dict[str, int]:
    return {key: int(value) for key, value in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", code)}


def faults(rows: list[Manifest]) -> list[str]:
    found = [f"{name} is launched but stands in no AOT list" for name in unlisted()]
    for row in rows:
        who = f"{row['kernel']} on sm_{row['arch']}"
        limit = SHARED_LIMIT_KB[row["arch"]] * 1024
        if row["stack_bytes"]:
            found.append(f"{who} must not spill, got {row['stack_bytes']} bytes of stack")
        if row["shared_bytes"] > limit:
            found.append(f"{who} may share {limit} bytes, got {row['shared_bytes']}")
        if row.get("spills"):
            found.append(f"{who} must not spill, has {row['spills']} local loads and stores")
        for sign in row.get("needs", ()):
            if not row["shows"][sign]:
                found.append(f"{who} must use {sign}, shows none")
    return found


def compile_all(work: list[tuple[str, int]], jobs: int) -> list[Manifest]:
    if not work:
        return []
    spawn = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    with ProcessPoolExecutor(jobs, mp_context=spawn) as pool:
        return list(pool.map(compile_one, *zip(*work)))


def recorded(file: Path) -> list[Manifest]:
    """Rows of an earlier report, of kernels that are still there."""
    rows = json.loads(file.read_text())["rows"] if file.exists() else []
    return [row for row in rows if row["kernel"] in variants()]


def unchanged(rows: list[Manifest]) -> list[Manifest]:
    """Those that would come out the same again."""
    now = {name: fingerprint(entry) for name, entry in variants().items()}
    return [row for row in rows if row.get("fingerprint") == now[row["kernel"]]]


def names(part: str) -> list[str]:
    found = [name for name in variants() if part in name]
    if not found:
        raise SystemExit(f"aot: no kernel has {part!r} in its name")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--arch", type=int, nargs="+", choices=SHARED_LIMIT_KB)
    parser.add_argument("--only", default="", help="kernels whose name has this in it")
    parser.add_argument("--changed", action="store_true", help="only what the report does not hold")
    parser.add_argument("--json", type=Path, default=REPORT, help="where to write the report")
    parser.add_argument("--jobs", type=int, default=min(4, os.cpu_count() or 1))
    args = parser.parse_args()
    if os.environ.get("TRITON_INTERPRET"):
        raise SystemExit("aot: TRITON_INTERPRET must be unset, or there is nothing to compile")
    os.environ["TRITON_ALWAYS_COMPILE"] = "1"  # what a cache holds took no time
    started = time.perf_counter()
    wanted = [(name, arch) for name in names(args.only) for arch in args.arch or SHARED_LIMIT_KB]
    same = unchanged(recorded(REPORT)) if args.changed else []
    held = {(row["kernel"], row["arch"]) for row in same}
    made = compile_all([each for each in wanted if each not in held], args.jobs)
    rows = made + [row for row in same if (row["kernel"], row["arch"]) in wanted]
    found = faults(rows)
    wall_s = round(time.perf_counter() - started)
    done = {(row["kernel"], row["arch"]) for row in rows}
    earlier = recorded(args.json) if args.only else []
    kept = [row for row in earlier if (row["kernel"], row["arch"]) not in done]
    report = {
        "triton": triton.__version__,
        "compile_s": round(sum(row["compile_s"] for row in [*rows, *kept])),  # of one processor
        "rows": sorted([*rows, *kept], key=lambda row: (row["kernel"], row["arch"])),
    }
    args.json.write_text(re.sub(r', (?={"kernel")', ",\n ", json.dumps(report)) + "\n")
    worst = max(rows, key=lambda row: row["registers"])
    print(
        f"{len(made)} kernels compiled in {wall_s} s, {len(rows) - len(made)} as recorded, "
        f"{len(found)} faults; "
        f"most registers {worst['registers']} ({worst['kernel']} on sm_{worst['arch']})"
    )
    print(*found, sep="\n", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
