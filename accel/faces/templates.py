"""Where networks want five points of a face in their crop, and those points of our mesh.

The points are the centres of the right and the left eye (the subject's: the right one is on the
left of the picture), the tip of the nose, and the right and the left corner of the mouth.
Coordinates are shares of the crop's side; times the side they are pixels with centres at whole
numbers, which is how the networks' authors cut their crops.
"""

from __future__ import annotations

import numpy as np

from accel.faces.align import AnyArray, Array, similarity
from accel.faces.face_types import FaceType
from accel.faces.mesh import EYE_LEFT, EYE_RIGHT

# The point between these two lies where the templates have the tip, half-way from eyes to mouth.
NOSE_TIP = (1, 4)
MOUTH_RIGHT, MOUTH_LEFT = 61, 291

Points = tuple[tuple[float, float], ...]


def _shares(side: float, *points: tuple[float, float]) -> Points:
    return tuple((x / side, y / side) for x, y in points)


TEMPLATES: dict[str, Points] = {
    # ArcFace's crop of 112, and the same within a margin of 8 on a side of 128.
    "arcface_112": _shares(
        112, (38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655),
        (70.7299, 92.2041),
    ),
    "arcface_128": (
        (0.36167656, 0.40387734), (0.63696719, 0.40235469), (0.50019687, 0.56044219),
        (0.38710391, 0.72160547), (0.61507734, 0.72034453),
    ),
    # The frontal one of SimSwap's five poses.
    "arcface_112_v1": (
        (0.35473214, 0.45658929), (0.64526786, 0.45658929), (0.5, 0.61154464),
        (0.37913393, 0.776875), (0.62086607, 0.776875),
    ),
    "ffhq": _shares(
        512, (192.9814, 239.9471), (318.9028, 240.1936), (256.6342, 314.0193),
        (201.2612, 371.4104), (313.0890, 371.1512),
    ),
    "mtcnn": (
        (0.36562865, 0.46733799), (0.63305391, 0.46585885), (0.50019127, 0.61942959),
        (0.39032951, 0.77598822), (0.61178945, 0.77476328),
    ),
    "whole_face": (
        (0.35342266, 0.39285716), (0.62797622, 0.39285716), (0.48660713, 0.54017860),
        (0.38839287, 0.68750011), (0.59821427, 0.68750011),
    ),
}  # fmt: skip

# How far up a crop's centre lies, in sides of the square that the mean face fills.
_RAISED = {FaceType.WHOLE: 0.07, FaceType.HEAD: 0.5}


def _cut_from_whole(kind: FaceType) -> Points:
    """Where the points lie in the crop of another face type, from where they lie in `whole_face`.

    Crops of heads are also shifted aside by DeepFaceLab as the head turns; here they are not.
    """
    points = (np.array(TEMPLATES["whole_face"]) - 0.5) * FaceType.WHOLE.side
    points[:, 1] += _RAISED.get(kind, 0.0) - _RAISED[FaceType.WHOLE]
    x, y = (points / kind.side + 0.5).T.tolist()
    return tuple(zip(x, y))


TEMPLATES |= {
    kind.value: _cut_from_whole(kind)
    for kind in (FaceType.HALF, FaceType.MID_FULL, FaceType.FULL, FaceType.HEAD)
}


def five_points(landmarks: AnyArray) -> Array:  # [..., 468, 2 or 3] -> [..., 5, 2]
    """Pick the five points out of a mesh."""
    mesh = np.asarray(landmarks, np.float64)[..., :2]
    groups = (EYE_RIGHT, EYE_LEFT, NOSE_TIP, (MOUTH_RIGHT,), (MOUTH_LEFT,))
    return np.stack([mesh[..., list(group), :].mean(axis=-2) for group in groups], axis=-2)


def template_matrix(landmarks: AnyArray, template: str, size: int) -> Array:  # [..., 2, 3]
    """Map the frame to a crop of `size` pixels where the face lies as the template says."""
    points = five_points(landmarks)
    wanted = np.array(TEMPLATES[template]) * size
    return similarity(points, np.broadcast_to(wanted, points.shape))
