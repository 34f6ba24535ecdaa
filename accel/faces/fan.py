"""68 landmarks by a 2DFAN-4 network that the user brings, in the two passes of DeepFaceLab.

Source: Bulat and Tzimiropoulos 2017 (arXiv:1703.07332).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from accel.core import InputError
from accel.faces.align import AnyArray, Array, invert, region_matrix, transform
from accel.faces.crops import rgb_crops
from accel.faces.face_types import FaceType, crop_matrix
from accel.faces.landmark import face_region
from accel.kernels.planes import Planes
from accel.weights.onnx import open_onnx

INPUT_PX, MAP_PX, POINTS = 256, 64, 68
BOX_SHARE = 200 / 195  # side of the first crop by half of the box's width and height
JITTER_PX = ((0, 0), (-2, -2), (2, -2), (-2, 2), (2, 2))  # of the second pass's crops


class FanNet:
    """Landmarks of one face at a time. Raises InputError for a file of another signature.

    file: ONNX; input [N, 3, 256, 256] RGB 0..1, among its outputs heatmaps [N, 68, 64, 64].
    """

    def __init__(self, file: Path, *, device: str = "cpu", threads: int = 1) -> None:
        self._network = open_onnx(file, device=device, threads=threads)
        inputs = [port.shape[1:] for port in self._network.inputs]
        maps = [
            i
            for i, port in enumerate(self._network.outputs)
            if len(port.shape) == 4 and port.shape[1] == POINTS
        ]
        if inputs != [(3, INPUT_PX, INPUT_PX)] or not maps:
            got = " and ".join(map(str, [*self._network.inputs, *self._network.outputs]))
            raise InputError(
                f"{file}: must be a 2DFAN-4 network, [N, 3, {INPUT_PX}, {INPUT_PX}] to heatmaps"
                f" [N, {POINTS}, {MAP_PX}, {MAP_PX}], got {got:.300}"
            )
        self._maps = maps[0]
        self.runs = 0  # crops looked at so far

    def __call__(
        self,
        planes: Planes,
        landmarks: AnyArray,  # [468, 3] of the mesh network, which say where and which way up
    ) -> Array:  # [68, 2] frame pixels
        """Look where the mesh is, then again at the aligned face, and average five looks."""
        points = np.asarray(landmarks, np.float64)[:, :2]
        low, high = points.min(0), points.max(0)
        angle = face_region(landmarks)[3]
        region = np.array([*(low + high) / 2, (high - low).sum() * BOX_SHARE, angle])
        first: Array = self._look(planes, region_matrix(region, INPUT_PX)[None])[0]
        aligned: Array = crop_matrix(first, FaceType.FULL, INPUT_PX)
        if not np.isfinite(aligned).all():
            return first
        shifted = np.repeat(aligned[None], len(JITTER_PX), 0)
        shifted[:, :, 2] += np.array(JITTER_PX)
        return np.asarray(self._look(planes, shifted).mean(0))

    def _look(self, planes: Planes, matrices: Array) -> Array:  # [N, 2, 3] -> [N, 68, 2]
        crops = rgb_crops(planes, matrices, INPUT_PX).transpose(0, 3, 1, 2)
        maps = self._network(np.ascontiguousarray(crops))[self._maps]
        self.runs += len(crops)
        scale = INPUT_PX / maps.shape[-1]
        # Cell i covers pixels 4 i to 4 i + 3, whose centres lie around 4 (i + 1/2) - 1/2.
        return transform(invert(matrices), peaks(maps) * scale - 0.5)


def peaks(
    maps: AnyArray,  # [..., H, W]
) -> Array:  # [..., 2] x, y in cells from the map's edge
    """Where a map is highest, moved a quarter of a cell towards the higher neighbour."""
    maps = np.asarray(maps, np.float64)
    *lead, height, width = maps.shape
    flat = maps.reshape(-1, height * width)
    best = flat.argmax(-1)
    y, x = np.divmod(best, width)
    rows = np.arange(len(flat))
    grid = flat.reshape(-1, height, width)

    def lean(low: Array, high: Array, is_inside: Array) -> Array:
        return np.asarray(np.where(is_inside, 0.25 * np.sign(high - low), 0.0))

    left, right = grid[rows, y, np.maximum(x - 1, 0)], grid[rows, y, np.minimum(x + 1, width - 1)]
    up, down = grid[rows, np.maximum(y - 1, 0), x], grid[rows, np.minimum(y + 1, height - 1), x]
    dx = lean(left, right, (x > 0) & (x < width - 1))
    dy = lean(up, down, (y > 0) & (y < height - 1))
    return np.stack([x + dx + 0.5, y + dy + 0.5], -1).reshape(*lead, 2)
