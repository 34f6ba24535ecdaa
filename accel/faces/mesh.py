"""The face mesh: 468 points, 898 triangles, and names for the parts of a face.

Sides are the subject's: the right eye is the one on the left of a picture of someone who faces the
camera. Source: the canonical face model of MediaPipe (Apache-2.0), accel/assets/.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files
from typing import Any

import numpy as np
import numpy.typing as npt

POINTS = 468

# Closed rings, in order around the part.
OVAL = (
    10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377,
    152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109,
)  # fmt: skip
LIPS_OUTER = (
    61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291, 375, 321, 405, 314, 17, 84, 181, 91, 146,
)  # fmt: skip
LIPS_INNER = (
    78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308, 324, 318, 402, 317, 14, 87, 178, 88, 95,
)  # fmt: skip
EYE_RIGHT = (33, 246, 161, 160, 159, 158, 157, 173, 133, 155, 154, 153, 145, 144, 163, 7)
EYE_LEFT = (263, 466, 388, 387, 386, 385, 384, 398, 362, 382, 381, 380, 374, 373, 390, 249)
EYES = (EYE_RIGHT, EYE_LEFT)
BROW_RIGHT = (70, 63, 105, 66, 107, 55, 65, 52, 53, 46)
BROW_LEFT = (300, 293, 334, 296, 336, 285, 295, 282, 283, 276)
BROWS = BROW_RIGHT + BROW_LEFT
NOSE = (
    168,
    6,
    197,
    195,
    5,
    4,
    1,
    19,
    94,
    2,
    98,
    97,
    326,
    327,
    48,
    115,
    220,
    45,
    275,
    440,
    344,
    278,
)

EYE_CORNERS = ((33, 133), (263, 362))  # outer, inner; right eye, left eye
# Upper and lower lid over against each other: three places an eye.
LIDS = (((160, 144), (159, 145), (158, 153)), ((387, 373), (386, 374), (385, 380)))
MOUTH_CORNERS = (78, 308)
MOUTH_GAP = ((81, 178), (13, 14), (311, 402))  # upper and lower inner lip over against each other

# How much each point counts when the rigid pose of the head is sought: points that expressions
# hardly move. The numbers are those of MediaPipe's geometry pipeline.
PROCRUSTES = {
    4: 0.070909939706326, 6: 0.032100144773722, 10: 0.008446550928056, 33: 0.058724168688059,
    54: 0.007667080033571, 67: 0.009078059345484, 117: 0.009791937656701, 119: 0.014565368182957,
    121: 0.018591361120343, 127: 0.005197994410992, 129: 0.120625205338001, 132: 0.005560018587857,
    133: 0.053286183625460, 136: 0.066890455782413, 143: 0.014816547743976, 147: 0.014262833632529,
    198: 0.025462191551924, 205: 0.047252278774977, 263: 0.058724168688059, 284: 0.007667080033571,
    297: 0.009078059345484, 346: 0.009791937656701, 348: 0.014565368182957, 350: 0.018591361120343,
    356: 0.005197994410992, 358: 0.120625205338001, 361: 0.005560018587857, 362: 0.053286183625460,
    365: 0.066890455782413, 372: 0.014816547743976, 376: 0.014262833632529, 420: 0.025462191551924,
    425: 0.047252278774977,
}  # fmt: skip

# For each of the 68 points of the iBUG scheme, the mesh point nearest in meaning.
IBUG_68 = (
    162, 234, 93, 58, 172, 136, 149, 148, 152, 377, 378, 365, 397, 288, 323, 454, 389,
    71, 63, 105, 66, 107, 336, 296, 334, 293, 301,
    168, 197, 5, 4, 75, 97, 2, 326, 305,
    33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380,
    61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181, 78, 82, 13, 312, 308, 317, 14, 87,
)  # fmt: skip

_IBUG_68 = np.array(IBUG_68)

# Read from the asset on first use, so that importing opens no file.
CANONICAL: npt.NDArray[np.float32]  # [468, 3] centimetres; x to the subject's left, y up, z front
UV: npt.NDArray[np.float32]  # [468, 2] texture coordinates, origin at the top left
TRIANGLES: npt.NDArray[np.int32]  # [898, 3] counter-clockwise seen from outside with y up


def to_68(landmarks: npt.NDArray[Any]) -> npt.NDArray[Any]:  # [..., 468, D] -> [..., 68, D]
    """Pick the 68 points of the iBUG scheme (jaw, brows, nose, eyes, lips) from a mesh."""
    return landmarks.take(_IBUG_68, axis=-2)


def __getattr__(name: str) -> Any:
    if name in ("CANONICAL", "UV", "TRIANGLES"):
        return _model()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@lru_cache(maxsize=1)
def _model() -> dict[str, npt.NDArray[Any]]:
    """Read the Wavefront file: `v x y z`, `vt u v`, `f a/at b/bt c/ct` with counts from 1."""
    rows: dict[str, list[list[float]]] = {"v": [], "vt": [], "f": []}
    text = (files("accel") / "assets" / "canonical_face_model.obj").read_text()
    for line in text.splitlines():
        kind, *values = line.split()[:4] or [""]
        if kind == "f":
            rows["f"].append([int(v.split("/")[0]) - 1 for v in values])
        elif kind in rows:
            rows[kind].append([float(v) for v in values])
    uv = np.array(rows["vt"], np.float32)[:, :2]
    model: dict[str, npt.NDArray[Any]] = {
        "CANONICAL": np.array(rows["v"], np.float32),
        "UV": uv,
        "TRIANGLES": np.array(rows["f"], np.int32),
    }
    for array in model.values():
        array.setflags(write=False)  # one copy serves everybody
    return model
