"""The picture of a face to put in: read once, and no more of it kept than a swapper sees."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from accel.core import InputError
from accel.faces.crops import rgb_crops
from accel.faces.find import FaceModels, find_faces
from accel.faces.swap import SourceFace
from accel.kernels import planes_to_rgb
from accel.kernels.planes import Planes
from accel.video.read import open_video

AROUND = 1.0  # of a source's face, kept on each side of it
MOST_ASPECT = 30  # of a source picture
LARGEST_SOURCE_PX = 768  # of a source's face; those that are painted are smaller


def load_source(path: Path, *, device: str = "cpu", models: FaceModels | None = None) -> SourceFace:
    """Read the picture of a face to put in; the largest face in it is taken.

    models: networks that are open already, to be used again.
    Raises InputError for a file that holds no picture or no face, or is far longer than wide.
    """
    with open_video(path) as reader:
        frame = next(iter(reader), None)
    if frame is None:
        raise InputError(f"{path}: holds no picture")
    short, long = sorted((frame.planes.width, frame.planes.height))
    if long > MOST_ASPECT * short:  # searched tile by tile, of which a line has thousands
        raise InputError(
            f"{path}: a source's longer side may be {MOST_ASPECT} times the other, "
            f"this one is {frame.planes.width}x{frame.planes.height}"
        )
    faces = find_faces(frame.planes, models=models, device=device)
    if not faces:
        raise InputError(f"{path}: a source must show a face, but none was found")
    picture, landmarks = _surroundings(frame.planes, faces[0].landmarks)
    return SourceFace(picture, landmarks, faces[0].identity, len(faces))


def _surroundings(planes: Planes, landmarks: np.ndarray) -> tuple[torch.Tensor, np.ndarray]:
    """The part of a picture around a face as [3, H, W] in 0..1, and the landmarks in it.

    All of a large photograph would take a gigabyte as such numbers, and no swapper sees it.
    """
    low, high = landmarks[:, :2].min(axis=0), landmarks[:, :2].max(axis=0)
    size = float((high - low).max())
    if size > LARGEST_SOURCE_PX:
        share = LARGEST_SOURCE_PX / size
        side = round(LARGEST_SOURCE_PX * (1 + 2 * AROUND))
        shift = (side - 1) / 2 - share * (low + high) / 2
        matrix = np.array([[share, 0, shift[0]], [0, share, shift[1]]])
        rgb = torch.from_numpy(rgb_crops(planes, matrix[None], side)[0])
        placed = landmarks * share + np.array([*shift, 0])
        return rgb.permute(2, 0, 1).contiguous(), placed.astype(landmarks.dtype)
    across, down = 1 << planes.layout.shift_x, 1 << planes.layout.shift_y
    unit, ends = np.array([across, down]), np.array([planes.width, planes.height])
    x0, y0 = np.clip(np.floor(low - AROUND * size), 0, ends - 1).astype(int) // unit * unit
    x1, y1 = np.clip(np.ceil(high + AROUND * size), (x0 + 1, y0 + 1), ends).astype(int)
    chroma = (slice(y0 // down, -(-y1 // down)), slice(x0 // across, -(-x1 // across)))
    part = Planes(planes.c0[y0:y1, x0:x1], planes.c1[chroma], planes.c2[chroma], planes.layout)
    rgb = planes_to_rgb(part, dtype=torch.float32)
    return rgb.permute(2, 0, 1).contiguous(), landmarks - np.array([x0, y0, 0], landmarks.dtype)
