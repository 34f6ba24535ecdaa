"""Timing that a noisy machine cannot fool much: alternatives in turn, medians, spread."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

Call = Callable[[], object]


@dataclass(frozen=True)
class Timing:
    """Seconds of one call: the median of the rounds, and half their middle half over it."""

    seconds: float
    spread: float


@dataclass(kw_only=True)
class Row:
    """One figure of a report.

    group, name, case: what was measured. device: where it really ran.
    rate, unit: work a second. limit, share: the ceiling it runs against, and how much of it.
    note: why the share is above 1, where it is.
    implementation: which of an operator's was timed. dtype: what it was given.
    error: largest difference to the reference over the largest value, checked before timing.
    peers: the same work by others: name -> how many times our time they took.
    """

    group: str
    name: str
    case: str
    device: str
    threads: int
    seconds: float
    spread: float
    rate: float
    unit: str
    limit: str = ""
    share: float | None = None
    error: float | None = None
    peers: dict[str, float] = field(default_factory=dict)
    note: str = ""
    implementation: str = ""
    dtype: str = "float32"

    def json(self) -> dict[str, Any]:
        return {k: round(v, 9) if isinstance(v, float) else v for k, v in asdict(self).items()}


def interleaved(
    calls: Mapping[str, Call],
    *,
    rounds: int,
    device: torch.device,
    threads: int = 1,
    min_s: float = 0.01,
) -> dict[str, Timing]:
    """Time each call in turn, round after round: a drift of the clock hits all of them.

    On the CPU with one thread it is the process's CPU time, which preemption does not count in.
    """
    on_gpu = device.type == "cuda"

    def clock(of_work: bool = True) -> float:
        if on_gpu:  # a call returns before its work is done
            torch.cuda.synchronize(device)
        on_cpu = of_work and threads == 1 and not on_gpu
        return time.process_time() if on_cpu else time.perf_counter()

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        repeats, times = {}, {name: list[float]() for name in calls}
        for name, call in calls.items():
            call()
            start = clock(of_work=False)
            call()
            repeats[name] = max(1, int(min_s / max(clock(of_work=False) - start, 1e-7)))
        for _ in range(rounds):
            for name, call in calls.items():
                start = clock()
                for _ in range(repeats[name]):
                    call()
                times[name].append((clock() - start) / repeats[name])
    finally:
        torch.set_num_threads(before)
    return {name: timing(series) for name, series in times.items()}


def timing(series: list[float]) -> Timing:
    middle = statistics.median(series)
    if len(series) < 2 or not middle:
        return Timing(middle, 0.0)
    low, _, high = statistics.quantiles(series, n=4)
    return Timing(middle, (high - low) / 2 / middle)


def difference(got: torch.Tensor, want: torch.Tensor) -> float:
    """Largest absolute difference over the largest value of `want`.

    Infinite for another shape, and where one is NaN: no limit lets that pass.
    """
    if got.shape != want.shape:
        return math.inf
    if not want.numel():
        return 0.0
    most = float((got.double() - want.double()).abs().max())
    return math.inf if math.isnan(most) else most / max(float(want.abs().max()), 1e-12)
