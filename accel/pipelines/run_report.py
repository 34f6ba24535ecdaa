"""What every run's report tells of the machine: memory, device, versions."""

from __future__ import annotations

import platform
import sys
import time
from pathlib import Path
from typing import Any

import torch

import accel


def end_of_report(started: float, device: torch.device | None = None) -> dict[str, Any]:
    """What every report ends with.

    started: `time.perf_counter()` at the begin. device: what did the work; the CPU by default.
    """
    return {
        "seconds": round(time.perf_counter() - started, 3),
        "peak_memory_mb": peak_memory_mb(),
        "device": device_name(device or torch.device("cpu")),
        "versions": versions(),
    }


def peak_memory_mb() -> float | None:
    """The largest resident set this process has had; None where the system does not tell."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux; what getrusage says there counts the process that started this one
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return round(int(line.split()[1]) / 2**10, 1)
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)


def versions() -> dict[str, str]:
    """Versions that a report needs to be repeated."""
    packages = ("torch", "onnxruntime", "av", "numpy")
    found = {"accel": accel.__version__, "python": platform.python_version()}
    for name in packages:
        module = sys.modules.get(name)
        if module is not None:
            found[name] = str(getattr(module, "__version__", "?"))
    return found


def device_name(device: torch.device, threads: int | None = None) -> str:
    """What did the work: `cpu: 8 threads`, `cuda: NVIDIA H100 PCIe`. threads: default torch's."""
    if device.type == "cuda":
        return f"cuda: {torch.cuda.get_device_name(device)}"
    return f"cpu: {threads or torch.get_num_threads()} threads"
