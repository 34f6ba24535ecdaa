"""Which part of the mesh is swapped, and how much: weights per vertex, on a mesh whose eyes and mouth
interior have vertices of their own.

Weights at vertices are interpolated by the rasteriser, so the mask follows pose and expression
exactly and needs no polygon drawing.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from accel.faces import mesh

Array = npt.NDArray[Any]

BROW_TOP_CM = 5.1  # height of the brows in the canonical model
FOREHEAD_CM = 1.6  # the mask fades out over this much of the forehead, below the hairline
LID_REACH = 3  # edges around an eye that are its lids


class SwapMesh(NamedTuple):
    """The face mesh with the interiors of eyes and mouth cut loose, so they can fade by themselves.

    vertex: [V] which of the 468 landmarks each vertex follows.
    triangles: [F, 3] int32.
    base: [V] how much of the source each vertex takes on a frontal face, 0..1.
    eyes: for each eye [V] how much each vertex belongs to it: 1 inside and on the lids' edge, less
        over the lids, 0 elsewhere. mouth: the vertices between the lips.
    """

    vertex: Array
    triangles: Array
    base: Array
    eyes: tuple[Array, Array]
    mouth: Array


@lru_cache(maxsize=1)
def swap_mesh() -> SwapMesh:
    """Build the mesh once: 468 vertices, and copies of each eye ring and of the inner lips."""
    triangles = np.array(mesh.TRIANGLES)
    vertex = list(range(mesh.POINTS))
    base = list(_base_weights())
    interiors = []
    for ring in (*mesh.EYES, mesh.LIPS_INNER):
        copies = {v: len(vertex) + i for i, v in enumerate(ring)}
        vertex += list(ring)
        base += [base[v] for v in ring]
        inside = np.isin(triangles, list(ring)).all(axis=1)
        for face in np.flatnonzero(inside):
            triangles[face] = [copies[v] for v in triangles[face]]
        interiors.append(np.array(list(copies.values())))
    order = np.array(vertex)
    right, left = (_lids(ring)[order] for ring in mesh.EYES)
    right[interiors[0]] = left[interiors[1]] = 1
    return SwapMesh(
        order, triangles.astype(np.int32), np.array(base, np.float32), (right, left), interiors[2]
    )


def _base_weights() -> Array:  # [468] 0..1
    """1 over the face, falling to 0 at its outline and above the brows, where hair begins."""
    rings = edge_distance(mesh.OVAL)
    weights = np.clip(rings / 2.0, 0, 1)  # outline 0, next ring 1/2, the rest 1
    above = mesh.CANONICAL[:, 1] - BROW_TOP_CM
    forehead = 1 - np.clip(above / FOREHEAD_CM, 0, 1)
    result: Array = np.minimum(weights, forehead)
    return result


def _lids(ring: tuple[int, ...]) -> Array:  # [468] 1 on the ring, 0 from LID_REACH edges on
    weights = 1 - np.clip(edge_distance(ring) / LID_REACH, 0, 1)
    weights[list(mesh.BROWS)] = 0
    return weights


def edge_distance(start: tuple[int, ...]) -> Array:  # [468]
    """Return how many edges each vertex lies from the nearest of `start`."""
    distance = np.full(mesh.POINTS, np.inf)
    distance[list(start)] = 0
    edges = mesh.TRIANGLES[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    for _ in range(mesh.POINTS):
        before = distance.copy()
        for a, b in (edges.T, edges[:, ::-1].T):
            np.minimum.at(distance, a, before[b] + 1)
        if np.array_equal(before, distance):
            break
    return distance


def facing(landmarks: Array) -> Array:  # [468, 3] px, z smaller nearer -> [468] cosine, 1 head on
    """Cosine between each vertex's normal and the viewer's direction; below 0 it faces away."""
    triangles = mesh.TRIANGLES
    a, b, c = (landmarks[triangles[:, i]].astype(np.float64) for i in range(3))
    normals = np.cross(b - a, c - a)  # length: twice the area, which is the weight wanted
    total = np.zeros((mesh.POINTS, 3))
    for i in range(3):
        np.add.at(total, triangles[:, i], normals)
    length = np.linalg.norm(total, axis=1)
    cosine = total[:, 2] / np.maximum(length, 1e-9)
    # Which way round the triangles run depends on the model's axes; the nose tip faces the viewer
    # in every face that can be seen at all.
    result: Array = cosine * np.sign(cosine[list(mesh.NOSE[:6])].mean() or 1.0)
    return result


def fade(value: Array, low: float, high: float) -> Array:
    """0 below `low`, 1 above `high`, smooth between."""
    t = np.clip((value - low) / (high - low), 0, 1)
    result: Array = t * t * (3 - 2 * t)
    return result
