"""Who is it: a vector of 128 numbers for a face; the same person's vectors lie near each other.

Source: King's dlib face recognition model (public domain), a ResNet of 29 convolutions; its chip is
the similarity of five points with a padding of a quarter.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from accel.faces.align import AnyArray, Array, similarity
from accel.faces.crops import joined, network_crops
from accel.faces.face import Face
from accel.kernels.planes import Planes
from accel.weights.assets import asset
from accel.weights.onnx import open_onnx

SAME_PERSON = 0.6  # vectors nearer than this (Euclidean) are of one person
CHIP_PX, PADDING = 150, 0.25
# Outer and inner corner of the left eye, of the right eye, base of the nose: mesh points, and
# where dlib's shape model has them in a unit square.
CHIP_POINTS = (263, 362, 33, 133, 2)
CHIP_TEMPLATE = (
    (0.8595674595992, 0.2134981538014),
    (0.6460604764104, 0.2289674387677),
    (0.1205750620789, 0.2137274526848),
    (0.3340850613712, 0.2290642403242),
    (0.4901123135679, 0.6277975316475),
)


class Recogniser:
    """Turns faces into identity vectors."""

    def __init__(self, *, device: str = "cpu", threads: int = 1) -> None:
        source = asset("dlib_face_embed_128.u8w.onnx")
        self._network = open_onnx(source, device=device, threads=threads)
        self.runs = 0  # faces looked at so far

    def __call__(
        self,
        frames: Sequence[Planes],
        landmarks: Sequence[AnyArray],  # for each frame [F, 468, 3]
    ) -> npt.NDArray[np.float32]:  # [N, 128], N over all frames
        """Run the network once over the faces of several frames."""
        crops = [
            network_crops(planes, chip_matrices(points), CHIP_PX, high=255.0)
            for planes, points in zip(frames, landmarks)
            if len(np.asarray(points))
        ]
        if not crops:
            return np.zeros((0, 128), np.float32)
        pictures = joined(crops)
        self.runs += len(pictures)
        vectors: npt.NDArray[np.float32] = self._network(pictures)[0].astype(np.float32)
        return vectors

    def embed(
        self,
        planes: Planes,
        faces: Sequence[Face],
    ) -> npt.NDArray[np.float32]:  # [F, 128]
        """Return the identity vectors of the faces in one picture."""
        return self([planes], [np.stack([face.raw for face in faces])] if faces else [[]])


def chip_matrices(landmarks: AnyArray) -> Array:  # [F, 468, 3] -> [F, 2, 3] frame to chip
    """Return where the network wants each face: never mirrored, eyes level."""
    points = np.asarray(landmarks, np.float64)[..., list(CHIP_POINTS), :2]
    template = (np.array(CHIP_TEMPLATE) + PADDING) / (1 + 2 * PADDING) * CHIP_PX
    return similarity(points, np.broadcast_to(template, points.shape))
