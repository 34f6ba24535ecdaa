"""Workspaces that the tests make: short films of the portrait in motion."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest

from accel import unfinished
from tests.pipelines.clips import write_clip

FRAMES = 9
UNEVEN = [0, 3, 4, 8, 9, 13, 20, 21, 22]  # presentation times of a film of varying rate


def workspace(folder: Path, *, sides: tuple[str, ...] = ("src", "dst"), **options) -> Path:
    for side in sides:
        name = options.get("name", "data_{side}.mp4").format(side=side)
        more = {key: value for key, value in options.items() if key != "name"}
        write_clip(folder / name, **({"frames": FRAMES} | more))
    return folder


def full_disk(monkeypatch: pytest.MonkeyPatch, after: int = 0) -> None:
    """From the `after`-th file on, writing fails as on a full disk, half way."""
    real, count = unfinished.put, [0]

    def put(path: Path, data: bytes) -> None:
        count[0] += 1
        if count[0] > after:
            real(path, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path, data)

    monkeypatch.setattr(unfinished, "put", put)


def rgb(frame) -> np.ndarray:
    return frame.picture.to_ndarray(format="rgb24").astype(int)
