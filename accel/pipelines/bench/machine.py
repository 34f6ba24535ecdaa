"""The machine's own ceilings: arithmetic, memory, codec. Everything else is a share of these."""

from __future__ import annotations

import os
import platform
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

import accel
from accel.kernels import _native
from accel.pipelines.bench.measure import interleaved
from accel.pipelines.demo import render_clip
from accel.video.encode import EncodeConfig
from accel.video.read import open_video
from accel.video.write import open_writer

COPY_BYTES = 256 << 20  # far more than any cache


@dataclass(frozen=True, kw_only=True)
class Ceilings:
    """What the hardware gives to code that does nothing else.

    gflops_one, gflops: float32 multiply-adds of one thread, and of all (of the GPU's tensor cores
        in float16 on CUDA). None without the native module.
    by_instructions: the same of one thread for each instruction set that this CPU has, and of its
        tile registers, which multiply bfloat16.
    tiles_one, tiles: the last of these, of one thread and of all; None where there are none.
    gbytes, gbytes_all: memory copied a second by one thread, and by all of them; read and written
        bytes added.
    transcode_fps: bare decoding and x264 veryfast at 1080p, frames a second; None when not run.
    """

    device: str
    threads: int
    gflops_one: float | None
    gflops: float | None
    gbytes: float
    transcode_fps: float | None
    gbytes_all: float | None = None
    by_instructions: dict[str, float] = field(default_factory=dict)
    tiles_one: float | None = None
    tiles: float | None = None

    def json(self) -> dict[str, Any]:
        whole = {k: round(v, 3) if isinstance(v, float) else v for k, v in asdict(self).items()}
        return whole | {
            "by_instructions": {k: round(v, 1) for k, v in self.by_instructions.items()}
        }


def measure_ceilings(device: torch.device, *, codec: bool = True) -> Ceilings:
    """Measure them; about five seconds, and ten more for the codec."""
    threads = torch.get_num_threads()
    if device.type == "cuda":
        every: float | None = _tensor_peak(device)
        one: float | None = None
    else:
        one, every = _multiply_adds(1), _multiply_adds(threads)
    tiles = device.type == "cpu" and _has_tiles()
    return Ceilings(
        device=hardware_name(device),
        threads=threads,
        gflops_one=one,
        gflops=every,
        gbytes=_copy(device),
        gbytes_all=_copy(device, threads) if device.type == "cpu" else None,
        by_instructions=_by_instructions() if device.type == "cpu" else {},
        tiles_one=_multiply_adds(1, tiles=True) if tiles else None,
        tiles=_multiply_adds(threads, tiles=True) if tiles else None,
        transcode_fps=transcode_fps() if codec else None,
    )


def hardware_name(device: torch.device) -> str:
    """What the maker calls the GPU or the CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def conditions(device: torch.device) -> dict[str, Any]:
    """What a reader needs to judge a figure."""
    native: Any = _native.module
    return {
        "device": hardware_name(device),
        "kind": device.type,
        "cores": os.cpu_count(),
        "vector_lanes": native.simd_lanes() if native else None,
        "instructions": native.conv_isa() if native else "none",
        **_processor(),
        "power_w": None,  # nothing here reads a meter
        "system": f"{platform.system()} {platform.machine()}",
        "accel": accel.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def _processor() -> dict[str, Any]:
    """What Linux says of the CPU and its memory; None for what it does not say."""
    cpu, index = Path("/sys/devices/system/cpu/cpu0"), "cache/index{}"
    caches = {}
    for i in range(5):
        level, kind, size = (
            _said(cpu / index.format(i) / name) for name in ("level", "type", "size")
        )
        if level and size and kind != "Instruction":
            caches[f"L{level}"] = size
    facts: dict[str, str] = {}
    for line in (_said(Path("/proc/cpuinfo")) or "").splitlines():
        name, _, value = line.partition(":")
        facts.setdefault(name.strip(), value.strip())
    memory = (_said(Path("/proc/meminfo")) or "").split()
    return {
        "microcode": facts.get("microcode"),
        "family_model_stepping": "-".join(
            facts.get(name, "?") for name in ("cpu family", "model", "stepping")
        ) if facts else None,
        "mhz": round(float(facts["cpu MHz"])) if facts.get("cpu MHz") else None,
        "governor": _said(cpu / "cpufreq/scaling_governor"),
        "virtual": "hypervisor" in facts.get("flags", "").split() if facts else None,
        "caches": caches,
        "memory_mb": int(memory[1]) >> 10 if memory[1:2] else None,
    }  # fmt: skip


def _said(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except (OSError, ValueError):
        return None


INSTRUCTIONS = {4: "four floats", 8: "avx2", 16: "avx512"}


def _by_instructions(rounds: int = 6_000_000) -> dict[str, float]:
    """GFLOP/s of one thread, best of three, by CPU time."""
    native: Any = _native.module
    if native is None:
        return {}

    def best(work: Callable[[int], float]) -> float:
        rates = []
        for _ in range(3):
            start = time.thread_time()
            rates.append(work(rounds) / (time.thread_time() - start) / 1e9)
        return max(rates)

    found = {
        name: best(lambda n, lanes=lanes: native.multiply_adds(n, lanes))  # type: ignore[misc]
        for lanes, name in INSTRUCTIONS.items()
        if lanes <= native.simd_lanes()
    }
    if _has_tiles():
        found["amx bf16"] = best(lambda n: native.tile_multiply_adds(n // 12))
    return found


def _has_tiles() -> bool:
    native: Any = _native.module
    return native is not None and native.conv_isa() == "amx"


def _multiply_adds(threads: int, rounds: int = 12_000_000, *, tiles: bool = False) -> float | None:
    """GFLOP/s of float32 multiply-adds in registers, or of tile registers'; best of three.

    Each thread's operations over its own CPU time: what others run meanwhile does not count.
    """
    native: Any = _native.module
    if native is None:
        return None
    best = 0.0
    for _ in range(3):
        done = [0.0] * threads

        def work(i: int, done: list[float] = done) -> None:
            start = time.thread_time()
            operations = (
                native.tile_multiply_adds(rounds // 12) if tiles else native.multiply_adds(rounds)
            )
            done[i] = operations / (time.thread_time() - start)

        team = [threading.Thread(target=work, args=(i,)) for i in range(threads)]
        for thread in team:
            thread.start()
        for thread in team:
            thread.join()
        best = max(best, sum(done) / 1e9)
    return best


def _tensor_peak(device: torch.device, size: int = 8192) -> float:
    a, b = (torch.randn(size, size, device=device, dtype=torch.float16) for _ in range(2))
    took = interleaved({"mm": lambda: a @ b}, rounds=9, device=device, threads=1)["mm"]
    return 2 * size**3 / took.seconds / 1e9


def _copy(device: torch.device, threads: int = 1) -> float:
    source = torch.full((COPY_BYTES // 4,), 0.5, device=device)
    target = torch.ones_like(source)
    call = {"copy": lambda: target.copy_(source)}
    took = interleaved(call, rounds=7, device=device, threads=threads)["copy"]
    return 2 * COPY_BYTES / took.seconds / 1e9


def transcode_fps(frames: int = 96) -> float:
    """Frames a second of decoding and encoding with nothing in between, at 1080p."""
    with tempfile.TemporaryDirectory() as folder:
        clip = render_clip(Path(folder) / "clip.mp4", frames, 1920, 1080)
        start = time.perf_counter()
        with open_video(clip) as reader:
            encode = EncodeConfig(codec="libx264", preset="veryfast")
            with open_writer(Path(folder) / "out.mp4", reader, encode) as writer:
                count = 0
                for frame in reader:
                    writer.write(frame)
                    count += 1
        return count / (time.perf_counter() - start)
