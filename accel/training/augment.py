"""Bent, turned, mirrored: the variations of a face that an autoencoder learns to see through.

Ranges are DeepFaceLab's. Each variation is a function of seed, batch and place in it, so a batch
is the same whoever makes it and whenever.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from accel.kernels.color_transfer import color_transfer
from accel.kernels.warp import straight_grid, warp
from accel.training.faces import FaceSet, Shuffled, UniformYaw

GRID = 9  # corners a side; coarser grids are drawn finer, which changes nothing
CELLS = (2, 4, 8)  # a side
BEND = 0.24  # of a cell, at most
CUT_OFF = 2.5  # deviations
TURN, SHIFT, FLIP = 10.0, 0.05, 0.4  # degrees either way, share of the side, probability
SCALE = {"quick96": 0.05, "saehd": 0.15}

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Augment:
    """How faces are varied. bend: the input, not the target, is bent by a grid.

    color: the way in which faces take on the colours of others, where there are others. hsv: how
    far hue (of half a circle), saturation and light of the input vary.
    """

    bend: bool = True
    flip: bool = False
    scale: float = SCALE["quick96"]
    uniform_yaw: bool = False
    color: str = "none"
    hsv: float = 0.0


@dataclass(frozen=True)
class Side:
    """What a step needs of one person. Float32, BGR 0..1."""

    warped: Tensor  # [B, 3, S, S] bent
    target: Tensor  # [B, 3, S, S] the same, not bent
    mask: Tensor  # [B, 1, S, S]
    details: Tensor  # [B, 1, S, S] 1 on eyes and mouth

    def to(self, device: torch.device) -> Side:
        fields = (self.warped, self.target, self.mask, self.details)
        return Side(*(t.to(device, non_blocking=True) for t in fields))


class Sampler:
    """Batches of one faceset, by number.

    seed: of the training; side: 0 source, 1 destination. others: faces to take colours from.
    """

    def __init__(
        self,
        faces: FaceSet,
        batch: int,
        augment: Augment,
        seed: int,
        side: int,
        others: FaceSet | None = None,
    ) -> None:
        self.faces, self.batch, self.augment = faces.faces, batch, augment
        self.others = others.faces if others and augment.color != "none" else ()
        self._seed = (seed, side)
        self._choose = (
            UniformYaw([f.yaw for f in self.faces], [*self._seed, 0])
            if augment.uniform_yaw
            else Shuffled(len(self.faces), [*self._seed, 0])
        )

    def __call__(self, number: int) -> Side:
        draws = range(number * self.batch, (number + 1) * self.batch)
        chosen = [self.faces[self._choose(draw)] for draw in draws]
        size = len(chosen[0].picture)
        pairs = [
            variation(np.random.default_rng([*self._seed, 1, draw]), size, self.augment)
            for draw in draws
        ]
        grids = torch.from_numpy(np.stack([grid for grid, _ in pairs]))
        matrices = torch.from_numpy(np.stack([matrix for _, matrix in pairs]))
        straight = straight_grid(size, size).expand(self.batch, -1, -1, -1).contiguous()
        pictures, masks, details = (
            torch.from_numpy(np.stack([getattr(face, name) for face in chosen]))
            for name in ("picture", "mask", "details")
        )
        if self.others:
            recolored = [self._recolored(p, draw) for p, draw in zip(pictures, draws)]
            pictures = torch.stack(recolored)
        target = warp(pictures, straight, matrices)
        warped = warp(pictures, grids, matrices) if self.augment.bend else target
        if self.augment.hsv:
            warped = torch.stack([self._tinted(p, draw) for p, draw in zip(warped, draws)])
        return Side(
            warped,
            target,
            warp(masks, straight, matrices, cubic=False),
            warp(details, straight, matrices, cubic=False),
        )

    def _recolored(self, picture: Tensor, draw: int) -> Tensor:  # [S, S, 3] uint8 BGR
        """A face in the colours of another's, which is drawn by lot."""
        rng = np.random.default_rng([*self._seed, 2, draw])
        other = torch.from_numpy(self.others[rng.integers(len(self.others))].picture)
        rgb, target = (t.permute(2, 0, 1).flip(0)[None].float() / 255 for t in (picture, other))
        everywhere = torch.ones(1, *rgb.shape[2:])
        found = color_transfer(rgb, target, everywhere, self.augment.color, seed=draw % (1 << 31))
        return (found[0].flip(0).permute(1, 2, 0) * 255).round().to(torch.uint8)

    def _tinted(self, picture: Tensor, draw: int) -> Tensor:  # [3, S, S] BGR 0..1
        """A face whose hue, saturation and light are shifted by lot."""
        rng, power = np.random.default_rng([*self._seed, 3, draw]), self.augment.hsv
        return tinted(picture, *hsv_shift(rng, power))


def hsv_shift(rng: np.random.Generator, power: float) -> tuple[int, float, float]:
    """Draw what to add to hue (whole degrees), saturation and value."""
    most = max(1, int(180 * power))
    hue = int(rng.integers(-most, most + 1))
    return hue, float(rng.random() - 0.5) * power, float(rng.random() - 0.5) * power


def tinted(picture: Tensor, hue: int, saturation: float, value: float) -> Tensor:
    """Shift hue (degrees, round the circle), saturation and value of [3, S, S] BGR 0..1."""
    hsv = cv2.cvtColor(picture.permute(1, 2, 0).contiguous().numpy(), cv2.COLOR_BGR2HSV)
    hsv[..., 0] = (hsv[..., 0] + hue) % 360
    hsv[..., 1] = np.clip(hsv[..., 1] + saturation, 0, 1)
    hsv[..., 2] = np.clip(hsv[..., 2] + value, 0, 1)
    bgr = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)
    return torch.from_numpy(np.clip(bgr, 0, 1)).permute(2, 0, 1)


def variation(
    rng: np.random.Generator, size: int, augment: Augment
) -> tuple[Floats, Floats]:  # [2, 9, 9] grid, [2, 3] output pixel to pixel of the bent picture
    """Draw how one face is bent, turned, scaled, shifted and mirrored."""
    angle = rng.uniform(-TURN, TURN)
    scale = rng.uniform(1 / (1 + augment.scale), 1 + augment.scale)
    shift = rng.uniform(-SHIFT, SHIFT, 2) * size
    mirrored = augment.flip and rng.random() < FLIP
    cells = CELLS[rng.integers(len(CELLS))]
    grid = bent_grid(rng, size, cells)
    turn = cv2.getRotationMatrix2D((size // 2, size // 2), angle, scale)
    turn[:, 2] += shift
    matrix = cv2.invertAffineTransform(turn)
    if mirrored:
        matrix[:, 2] += matrix[:, 0] * (size - 1)
        matrix[:, 0] *= -1
    return grid, matrix.astype(np.float32)


def bent_grid(rng: np.random.Generator, size: int, cells: int) -> Floats:  # [2, 9, 9]
    """A grid whose inner corners are moved by a normal distribution cut off at its ends.

    DeepFaceLab enlarges its grid in a way that moves all of it by half a pixel; here a grid that
    bends nothing leaves the picture where it is.
    """
    corners = np.linspace(0, size, cells + 1)
    grid = np.stack(np.meshgrid(corners, corners))  # x, y
    moved = _cut_normal(rng, (2, cells - 1, cells - 1)) * (BEND * size / cells)
    grid[:, 1:-1, 1:-1] += moved
    every = np.arange(GRID) * cells / (GRID - 1)
    low = np.minimum(every.astype(int), cells - 1)
    share = every - low
    for axis in (1, 2):
        near, far = np.take(grid, low, axis), np.take(grid, low + 1, axis)
        part = share[:, None] if axis == 1 else share
        grid = near + (far - near) * part
    return np.ascontiguousarray(grid, np.float32)


def _cut_normal(
    rng: np.random.Generator, shape: tuple[int, ...]
) -> npt.NDArray[np.float64]:  # -1..1
    values = rng.standard_normal(shape)
    while (far := np.abs(values) > CUT_OFF).any():
        values[far] = rng.standard_normal(int(far.sum()))
    return values / CUT_OFF
