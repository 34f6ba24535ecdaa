"""Dense landmarks: 468 points of the face mesh, and five points of each iris.

Sources: Kartynnik et al. 2019 (arXiv:1907.06724), the mesh; Ablavatski et al. 2020
(arXiv:2006.11341), the iris. Both networks are MediaPipe's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from accel.faces.align import AnyArray, Array, enclosing_region, invert, region_matrix, transform
from accel.faces.crops import joined, network_crops
from accel.faces.detect import REGION_MARGIN
from accel.faces.mesh import EYE_CORNERS, POINTS
from accel.faces.network import open_network
from accel.kernels.planes import Planes
from accel.weights.assets import asset

MESH_PX, IRIS_PX = 192, 64
EYE_MARGIN = 2.3  # side of the eye's square by the distance of its corners


class MeshNet:
    """Landmarks of the faces in given regions, several regions and frames in one run."""

    def __init__(self, *, device: str = "cpu", threads: int = 1) -> None:
        source = asset("facemesh_468_192.fp16w.onnx")
        self._network = open_network(source, device=device, threads=threads)
        self.runs = 0  # crops looked at so far

    def __call__(
        self,
        frames: Sequence[Planes],
        regions: Sequence[AnyArray],  # for each frame [F, 4], squares as enclosing_region gives
    ) -> tuple[Array, Array]:  # [N, 468, 3] frame pixels; [N] presence 0..1; N over all frames
        """Run the network once over all regions.

        z has the unit of x and y, is 0 near the middle of the head and smaller when nearer.
        """
        cuts = [
            (planes, region_matrix(region, MESH_PX))
            for planes, region in zip(frames, regions)
            if len(np.atleast_1d(region))
        ]
        if not cuts:
            return np.zeros((0, POINTS, 3)), np.zeros(0)
        crops = joined([self.cut(planes, m) for planes, m in cuts])
        outputs = self._network(crops)
        self.runs += len(crops)
        points, logits = sorted(outputs, key=lambda a: -a[0].size)
        points = points.reshape(len(crops), POINTS, 3).astype(np.float64)
        points[..., :2] -= 0.5  # the network counts from the crop's edge
        back = invert(np.concatenate([m for _, m in cuts]))
        flags = np.clip(logits.reshape(-1).astype(np.float64), -50, 50)
        return transform(back, points), 1 / (1 + np.exp(-flags))

    def cut(self, planes: Planes, matrices: Array) -> Any:  # [N, MESH_PX, MESH_PX, 3] RGB 0..1
        """What the network is shown of a frame: an array, or a tensor of the frame's GPU."""
        return network_crops(planes, matrices, MESH_PX)


def face_region(landmarks: AnyArray) -> Array:  # [..., 468, 3] -> [..., 4]
    """Return the square the mesh network wants to see next: upright by the outer eye corners."""
    points = np.asarray(landmarks, np.float64)
    across = points[..., EYE_CORNERS[1][0], :2] - points[..., EYE_CORNERS[0][0], :2]
    angle = np.arctan2(across[..., 1], across[..., 0])
    return enclosing_region(points, angle, REGION_MARGIN)


def drift(seen: AnyArray, wanted: AnyArray) -> Array:  # [..., 4] each -> [...]
    """Return how far the region that was looked at lies from the one that should have been.

    The largest of: shift by side, change of side, turn in radians.
    """
    a, b = np.asarray(seen, np.float64), np.asarray(wanted, np.float64)
    shift = np.linalg.norm(a[..., :2] - b[..., :2], axis=-1) / b[..., 2]
    size = np.abs(np.log(a[..., 2] / b[..., 2]))
    turn = np.abs(wrap(a[..., 3] - b[..., 3]))
    result: Array = np.maximum(np.maximum(shift, size), turn)
    return result


def wrap(angle: AnyArray) -> Array:
    """Bring angles to -pi..pi."""
    result: Array = (np.asarray(angle, np.float64) + np.pi) % (2 * np.pi) - np.pi
    return result


class IrisNet:
    """Five points of each iris: its centre, then its rim on the right, top, left and bottom."""

    def __init__(self, *, device: str = "cpu", threads: int = 1) -> None:
        source = asset("iris_64.fp16w.onnx")
        self._network = open_network(source, device=device, threads=threads)
        self.runs = 0  # eyes looked at so far

    def __call__(
        self,
        frames: Sequence[Planes],
        landmarks: AnyArray,  # [N, 468, 3], one face for each of the frames
    ) -> Array:  # [N, 2, 5, 2] right eye, left eye; frame pixels
        """Run the network once over both eyes of N faces.

        It knows right eyes only, so left ones are shown to it in the mirror.
        """
        points = np.asarray(landmarks, np.float64)
        if not len(points):
            return np.zeros((0, 2, 5, 2))
        matrices = eye_matrices(points)
        crops = joined([network_crops(p, m, IRIS_PX) for p, m in zip(frames, matrices)])
        outputs = self._network(crops)
        self.runs += len(crops)
        iris = min(outputs, key=lambda a: a[0].size).reshape(len(points), 2, 5, 3)[..., :2]
        return transform(invert(matrices), iris.astype(np.float64) - 0.5)


def eye_matrices(landmarks: Array) -> Array:  # [N, 468, 3] -> [N, 2, 2, 3] frame to 64 px crop
    """Squares around both eyes, upright by the face; the left eye's is mirrored."""
    outer = landmarks[:, [EYE_CORNERS[0][0], EYE_CORNERS[1][0]], :2]
    inner = landmarks[:, [EYE_CORNERS[0][1], EYE_CORNERS[1][1]], :2]
    angle = face_region(landmarks)[:, 3]
    middle = (outer + inner) / 2
    side = np.linalg.norm(outer - inner, axis=-1) * EYE_MARGIN
    turn = np.broadcast_to(angle[:, None], side.shape)
    matrices = region_matrix(
        np.concatenate([middle, side[..., None], turn[..., None]], -1), IRIS_PX
    )
    matrices[:, 1, 0] *= -1
    matrices[:, 1, 0, 2] += IRIS_PX - 1
    return matrices
