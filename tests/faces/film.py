"""Films made from the embedded portrait: it is moved by known maps, so the truth is known."""

from __future__ import annotations

import cv2
import numpy as np
import torch

from accel.faces.align import compose
from accel.kernels.planes import Planes, yuv_layout
from accel.weights.assets import asset

WIDTH, HEIGHT = 320, 240
HOME = np.array([[0.75, 0.0, -8.0], [0.0, 0.75, 25.0]])  # puts the face in the frame's middle


def portrait() -> np.ndarray:
    """The astronaut, [512, 512, 3] RGB."""
    return cv2.imread(str(asset("astronaut.png")))[:, :, ::-1].copy()


def move(dx: float = 0, dy: float = 0, zoom: float = 1, turn: float = 0) -> np.ndarray:
    """Portrait to frame: HOME, zoom and turn (degrees) about the middle, then a shift."""
    linear = cv2.getRotationMatrix2D((WIDTH / 2, HEIGHT / 2), -turn, zoom)
    linear[:, 2] += dx, dy
    return compose(linear, HOME)


def picture(
    *placed: np.ndarray,  # [2, 3] each, portrait to frame; later ones lie on top
    size: tuple[int, int] = (WIDTH, HEIGHT),
    back: int = 90,
    of: np.ndarray | None = None,
) -> np.ndarray:  # [H, W, 3] RGB
    """The portrait as often as maps are given, on grey."""
    source = portrait() if of is None else of
    frame = np.full((size[1], size[0], 3), back, np.uint8)
    for matrix in placed:
        small = cv2.GaussianBlur(source, (0, 0), 0.6)  # against aliasing at scale 0.75
        cv2.warpAffine(small, matrix, size, frame, cv2.INTER_LINEAR, cv2.BORDER_TRANSPARENT)
    return frame


def planes_of(rgb: np.ndarray, bits: int = 8) -> Planes:
    """4:2:0 planes of an RGB picture."""
    layout = yuv_layout(siting="center", bits=bits)
    rows = np.array(layout.from_rgb).reshape(3, 4)
    codes = rgb / 255.0 @ rows[:, :3].T + rows[:, 3]
    height, width = codes.shape[0] // 2 * 2, codes.shape[1] // 2 * 2
    codes = codes[:height, :width]
    small = codes.reshape(height // 2, 2, width // 2, 2, 3).mean(axis=(1, 3))
    dtype = np.uint8 if bits == 8 else np.uint16
    parts = [codes[..., 0], small[..., 1], small[..., 2]]
    return Planes(*(torch.from_numpy(p.round().astype(dtype)) for p in parts), layout)


def film(*rgb: np.ndarray) -> list[tuple[int, Planes]]:
    """Frames as an Analyser takes them, numbered from 0."""
    return [(index, planes_of(frame)) for index, frame in enumerate(rgb)]


def grey(seed: int = 0) -> np.ndarray:
    """A frame without a face: a soft random pattern."""
    noise = np.random.default_rng(seed).integers(0, 255, (12, 16, 3)).astype(np.uint8)
    return cv2.resize(noise, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
