"""What a training looks like so far: faces side by side, and the losses' curve."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from accel.training.autoencoder import AutoencoderTrainer
from accel.training.faces import FaceSet, TrainFace

Bytes = npt.NDArray[np.uint8]

COLUMNS = (
    "src", "src > src", "dst", "dst > dst", "dst > src", "src mask", "dst mask", "swap mask",
)  # fmt: skip
ROWS = 6
HEADER = 22  # pixels
SMALLEST_TILE, LARGEST_TILE = 96, 256
PAPER, INK, FAINT = (255, 255, 255), (40, 40, 40), (225, 225, 225)
LINES = {"src": (200, 90, 20), "dst": (30, 120, 240)}  # BGR
CURVE = (960, 420)  # width, height
TICKS = 5  # of an axis, about
MARGIN = (64, 30, 16, 40)  # left, top, right, bottom


def chosen(faces: FaceSet, count: int = ROWS) -> list[TrainFace]:
    """Faces spread over the directions that people look in, the same every time."""
    by_yaw = sorted(faces.faces, key=lambda face: (face.yaw, face.name))
    places = np.linspace(0, len(by_yaw) - 1, 2 * min(count, len(by_yaw)) + 1)[1::2]
    return [by_yaw[round(place)] for place in places]


def preview_grid(
    trainer: AutoencoderTrainer, src: Sequence[TrainFace], dst: Sequence[TrainFace]
) -> Bytes:  # [H, W, 3] BGR
    """A row for each pair of faces, a column for each of COLUMNS."""
    rows = max(len(src), len(dst))
    pairs = [[faces[i % len(faces)].picture for i in range(rows)] for faces in (src, dst)]
    a, b = (torch.from_numpy(np.stack(p)).permute(0, 3, 1, 2).float() / 255 for p in pairs)
    (own_a, mask_a), (own_b, mask_b) = trainer.reconstructed(a, b)
    swap, mask_swap, _ = trainer.swapped(b)
    size = a.shape[-1]
    tile = min(max(size, SMALLEST_TILE), LARGEST_TILE)
    columns = [a, own_a, b, own_b, swap, mask_a, mask_b, mask_swap]
    strips = [np.concatenate([_tile(t, tile) for t in column]) for column in columns]
    return np.concatenate([_header(tile), np.concatenate(strips, 1)])


def _tile(picture: Tensor, size: int) -> Bytes:  # [C, S, S] -> [size, size, 3]
    array = picture.detach().cpu().clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).numpy()
    if array.shape[0] != size:
        array = cv2.resize(array, (size, size), interpolation=cv2.INTER_AREA)
    array = array.reshape(size, size, -1)
    return np.ascontiguousarray(np.broadcast_to(array, (size, size, 3)))


def _header(tile: int) -> Bytes:
    header: Bytes = np.full((HEADER, tile * len(COLUMNS), 3), 255, np.uint8)
    for i, name in enumerate(COLUMNS):
        _write(header, name, (i * tile + 4, HEADER - 7), 0.38)
    return header


def loss_curve(history: Sequence[Sequence[float]]) -> Bytes:  # [H, W, 3] BGR
    """Both losses over all steps: the mean of each stretch, and faintly its extremes."""
    width, height = CURVE
    picture: Bytes = np.full((height, width, 3), PAPER, np.uint8)
    losses = np.array([entry[:2] for entry in history if len(entry) >= 2], np.float64)
    left, top, right, bottom = MARGIN
    area = (left, top, width - left - right, height - top - bottom)
    losses = losses.reshape(-1, 2)
    high = _top(losses)
    _axes(picture, area, high, len(losses))
    for i, (name, color) in enumerate(LINES.items()):
        if len(losses):
            _curve(picture, area, losses[:, i], high, color)
            last = losses[-100:, i].mean()
            text = f"{name} {last:.4f}"
        else:
            text = name
        cv2.line(
            picture, (left + 8 + i * 150, 16), (left + 32 + i * 150, 16), color, 2, cv2.LINE_AA
        )
        _write(picture, text, (left + 38 + i * 150, 20), 0.42)
    return picture


def _top(losses: npt.NDArray[Any]) -> float:
    """Where the loss axis ends: the first steps may stick out."""
    finite = losses[np.isfinite(losses)]
    if not finite.size:
        return 1.0
    return max(float(np.quantile(finite, 0.995)) * 1.1, 1e-6)


def _axes(picture: Bytes, area: tuple[int, int, int, int], high: float, steps: int) -> None:
    left, top, width, height = area
    for value, text in ticks(high):
        y = top + height - round(height * value / high)
        cv2.line(picture, (left, y), (left + width, y), FAINT, 1)
        _write(picture, text, (8, y + 4), 0.38)
    for value, text in ticks(float(max(steps, 1)), least=1):
        x = left + round(width * value / max(steps, 1))
        _write(picture, text, (x - 12, top + height + 18), 0.38)
    cv2.rectangle(picture, (left, top), (left + width, top + height), INK, 1)
    _write(picture, "iterations", (left + width // 2 - 30, top + height + 34), 0.38)


def ticks(high: float, least: float = 0.0) -> list[tuple[float, str]]:
    """Some round numbers from 0 to `high`, `least` apart or more, as they are written."""
    rough = max(high / TICKS, least)
    power = math.floor(math.log10(rough))
    step = next(m * 10.0**power for m in (1, 2, 5, 10) if m * 10.0**power >= rough * (1 - 1e-9))
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    return [(i * step, f"{i * step:.{digits}f}") for i in range(int(high / step + 1e-9) + 1)]


def _curve(
    picture: Bytes,
    area: tuple[int, int, int, int],
    losses: npt.NDArray[Any],
    high: float,
    color: tuple[int, int, int],
) -> None:
    left, top, width, height = area
    parts = np.array_split(losses, min(len(losses), width))
    at = [left + (k + 0.5) / len(parts) * width for k in range(len(parts))]

    def y(value: float) -> float:
        share = value / high if np.isfinite(value) else 1.0
        return top + height * (1 - min(max(share, 0.0), 1.0))

    pale = tuple(int(255 - (255 - c) * 0.25) for c in color)
    for x, part in zip(at, parts):
        ends = (round(x), round(y(part.min()))), (round(x), round(y(part.max())))
        cv2.line(picture, *ends, pale, 1)
    line = np.array([[x, y(float(part.mean()))] for x, part in zip(at, parts)])
    fixed = np.round(line * 16).astype(np.int32)
    cv2.polylines(picture, [fixed], False, color, 2, cv2.LINE_AA, shift=4)


def _write(picture: Bytes, text: str, at: tuple[int, int], size: float) -> None:
    cv2.putText(picture, text, at, cv2.FONT_HERSHEY_SIMPLEX, size, INK, 1, cv2.LINE_AA)


def as_png(picture: Bytes) -> bytes:
    done, data = cv2.imencode(".png", picture)
    assert done  # a picture of 8 bit, three channels
    return data.tobytes()
