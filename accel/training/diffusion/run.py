"""What the training programs share: a run's folder that survives kills, schedules, sheets."""

from __future__ import annotations

import math
import pickle
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

from accel.core import Cancel, ConfigError, InputError, Progress, ProgressCallback
from accel.unfinished import whole

SAVE_EVERY_S = 300.0
SHEET_COLUMNS = 24
M = TypeVar("M", bound=nn.Module)


def channels_last(module: M) -> M:
    """The module with its convolutions' weights in the order that training is fastest in."""
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return module


def composite(
    rgba: Tensor,  # [B, H, W, 4] uint8, premultiplied
    background: Tensor,  # [B, 3] or [3], 0..1
) -> Tensor:  # [B, 3, H, W] in -1..1, channels last in memory
    """Lay pictures on plain colours."""
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
    rows: Sequence[Tensor],  # each [N, 3, H, W] in -1..1, of one size
) -> None:
    """Write a contact sheet, one line for each row."""
    widest = min(SHEET_COLUMNS, max(len(row) for row in rows))
    lines = []
    for row in rows:
        shown = row[:widest].clamp(-1, 1)
        blank = shown.new_ones(widest - len(shown), *shown.shape[1:])
        lines.append(torch.cat(list(torch.cat([shown, blank])), dim=2))
    sheet = ((torch.cat(lines, dim=1) + 1) * 127.5).round().byte().permute(1, 2, 0)
    Image.fromarray(sheet.contiguous().numpy()).save(path)


def save_curve(path: Path, points: Sequence[tuple[float, float]], title: str) -> None:
    """Draw a loss curve (logarithmic upwards) with its first and last values."""
    width, height, edge = 720, 320, 40
    picture = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(picture)
    draw.text((edge, 12), title, "black")
    draw.rectangle((edge, edge, width - edge, height - edge), outline="grey")
    usable = [(x, math.log(y)) for x, y in points if y > 0 and math.isfinite(y)]
    if len(usable) > 1:
        xs, ys = np.array(usable).T
        low, high = ys.min(), max(ys.max(), ys.min() + 1e-3)
        across = edge + (xs - xs[0]) / max(xs[-1] - xs[0], 1e-9) * (width - 2 * edge)
        down = height - edge - (ys - low) / (high - low) * (height - 2 * edge)
        draw.line(list(zip(across.tolist(), down.tolist())), "#1a6", 2)
        for value, y in ((high, edge), (low, height - edge - 12)):
            draw.text((4, y), f"{math.exp(value):.3g}", "black")
        draw.text((width - 2 * edge, height - edge + 8), f"{xs[-1]:,.0f}", "black")
    picture.save(path)


class Run:
    """A folder with `NAME.log` and `NAME.ckpt`, saved every five minutes and when asked to stop.

    `cancel`, set by whoever runs the training, lets the step in hand finish, then saves.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        *,
        cancel: Cancel | None = None,
        progress: ProgressCallback | None = None,
        say: Callable[[str], None] | None = None,
    ):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.name = folder, name
        self.checkpoint = folder / f"{name}.ckpt"
        self.curve: list[tuple[float, float]] = []
        self._about: dict[str, int | float | bool] = {}
        self._cancel, self._progress, self._say = cancel or Cancel(), progress, say
        self._saved_at = self._began = time.monotonic()
        self._first: int | None = None

    @property
    def stopping(self) -> bool:
        return self._cancel.is_set

    def log(self, text: str) -> None:
        line = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}"
        if self._say:
            self._say(line)
        with (self.folder / f"{self.name}.log").open("a") as file:
            print(line, file=file)

    def tell(self, seen: int, total: int) -> None:
        """Report pictures seen, and their rate since this process began."""
        if self._first is None:
            self._first, self._began = seen, time.monotonic()
        if self._progress:
            rate = (seen - self._first) / max(time.monotonic() - self._began, 1e-6)
            self._progress(Progress(stage=self.name, done=seen, total=total, rate=rate))

    def plot(self, seen: int, loss: float) -> None:
        """Add a point to the loss curve and draw it again."""
        self.curve.append((float(seen), loss))
        save_curve(self.folder / f"{self.name}-loss.png", self.curve, f"{self.name}: loss")

    def load(self, **about: int | float | bool) -> dict[str, Any] | None:
        """The state of the last save; InputError where the file is damaged.

        about: what every save of this run must agree on; ConfigError where the last one does not.
        """
        self._about = about
        if not self.checkpoint.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(self.checkpoint, weights_only=True)
        except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError) as error:
            first = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
            raise InputError(f"{self.checkpoint}: is damaged ({first})") from None
        self.curve = [(float(x), float(y)) for x, y in state.pop("curve", [])]
        for name, was in state.pop("about", {}).items():
            if about.get(name, was) != was:
                raise ConfigError(
                    f"{self.checkpoint}: was begun with {name} {was}, got {about[name]};"
                    " begin another run elsewhere, or remove this one"
                )
        return state

    @property
    def should_save(self) -> bool:
        return self.stopping or time.monotonic() - self._saved_at > SAVE_EVERY_S

    def save(self, state: dict[str, Any]) -> None:
        """Write beside the old file, then rename: a kill in between loses nothing."""
        try:
            with whole(self.checkpoint) as partial:
                torch.save({**state, "curve": self.curve, "about": self._about}, partial)
        except (OSError, RuntimeError) as error:
            raise ConfigError(
                f"{self.checkpoint}: could not be saved ({str(error).splitlines()[0][:120]}); "
                "the last save is intact"
            ) from error
        self._saved_at = time.monotonic()
