"""What both training programs share: pictures on backgrounds, schedules, a run's folder."""

from __future__ import annotations

import math
import os
import signal
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

SAVE_EVERY_S = 600.0


def composite(
    rgba: Tensor,  # [B, 64, 64, 4] uint8, premultiplied
    background: Tensor,  # [B, 3] or [3], 0..1
) -> Tensor:  # [B, 3, 64, 64] in -1..1, channels last in memory
    x = rgba.float() / 255
    rgb = x[..., :3] + (1 - x[..., 3:]) * background.expand(len(x), 3)[:, None, None, :]
    return (rgb * 2 - 1).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)


def cosine(done: float, total: float, warm_up: float, last: float) -> float:
    """Learning rate factor after `done` of `total` pictures: a ramp, then half a cosine."""
    decay = 0.5 * (1 + math.cos(math.pi * min(1.0, done / total)))
    return min(1.0, (done + 1) / warm_up) * (last + (1 - last) * decay)


def psnr(
    a: Tensor,  # [B, 3, H, W] in -1..1
    b: Tensor,
) -> Tensor:  # [B] decibels
    return -10 * ((a.clamp(-1, 1) - b) / 2).square().mean((1, 2, 3)).log10()


def save_sheet(
    path: Path,
    rows: list[Tensor],  # each [N, 3, 64, 64] in -1..1
) -> None:
    lines = [torch.cat(list(row.clamp(-1, 1)), dim=2) for row in rows]
    sheet = ((torch.cat(lines, dim=1) + 1) * 127.5).round().byte().permute(1, 2, 0)
    Image.fromarray(sheet.numpy()).save(path)


def load_pictures(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


class Run:
    """A folder with `NAME.log` and `NAME.ckpt`, saved every ten minutes and when asked to stop.

    SIGTERM and SIGINT let the step in hand finish, then save; SIGSTOP needs no help.
    """

    def __init__(self, folder: Path, name: str):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.name = folder, name
        self.checkpoint = folder / f"{name}.ckpt"
        self.stopping = False
        self._saved_at = time.monotonic()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)

    def _stop(self, number: int, frame: object) -> None:
        self.stopping = True

    def log(self, text: str) -> None:
        line = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}"
        print(line, flush=True)
        with (self.folder / f"{self.name}.log").open("a") as file:
            print(line, file=file)

    def load(self) -> dict | None:
        if not self.checkpoint.exists():
            return None
        return torch.load(self.checkpoint, weights_only=True)

    @property
    def should_save(self) -> bool:
        return self.stopping or time.monotonic() - self._saved_at > SAVE_EVERY_S

    def save(self, state: dict) -> None:
        """Write beside the old file, then rename: a kill in between loses nothing."""
        part = self.checkpoint.with_suffix(".part")
        torch.save(state, part)
        os.replace(part, self.checkpoint)
        self._saved_at = time.monotonic()
