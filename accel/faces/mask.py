"""Which part of the mesh is swapped, and how much: weights per vertex.

Weights at vertices are interpolated by the rasteriser, so the mask follows pose and expression
exactly and needs no polygon drawing. The interiors of eyes and mouth have vertices of their own, so
that they can fade by themselves, and the eyes have irises, so that the gaze goes over.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from accel.faces import mesh

Array = npt.NDArray[Any]

BROW_TOP_CM = 5.1  # height of the brows in the canonical model
FOREHEAD_CM = 1.5  # the mask fades out over this much of the forehead, below the hairline
RIM = (0.0, 0.8)  # weight of the outline and of the next ring of vertices
LID_REACH = 3  # edges around an eye that are its lids
IRISES = mesh.POINTS  # index of the first of six points: both sides and centre of either iris


class SwapMesh(NamedTuple):
    """The face mesh with the interiors of eyes and mouth cut loose.

    vertex: [V] which of the 468 + 6 points of `with_irises` each vertex follows.
    triangles: [F, 3] int32.
    base: [V] how much of the source each vertex takes on a frontal face, 0..1.
    eyes: for each eye [V] how much each vertex belongs to it: 1 inside and on the lids' edge, less
        over the lids, 0 elsewhere.
    inside: for each eye the vertices between the lids. mouth: those between the lips.
    """

    vertex: Array
    triangles: Array
    base: Array
    eyes: tuple[Array, Array]
    inside: tuple[Array, Array]
    mouth: Array


@lru_cache(maxsize=1)
def swap_mesh() -> SwapMesh:
    """Build the mesh once: 468 vertices, copies of each eye's ring with irises, of inner lips."""
    triangles = np.array(mesh.TRIANGLES)
    vertex = list(range(mesh.POINTS))
    interiors, added = [], []
    for part, ring in enumerate((*mesh.EYES, mesh.LIPS_INNER)):
        inside = np.isin(triangles, list(ring)).all(axis=1)
        copies = {v: len(vertex) + i for i, v in enumerate(ring)}
        vertex += ring
        if part < 2:
            iris = [len(vertex) + i for i in range(3)]
            vertex += [IRISES + 3 * part + i for i in range(3)]
            triangles = triangles[~inside]
            added += _eye_triangles(list(copies.values()), iris)
            interiors.append(np.array([*copies.values(), *iris]))
        else:
            for face in np.flatnonzero(inside):
                triangles[face] = [copies[v] for v in triangles[face]]
            interiors.append(np.array(list(copies.values())))
    order = np.array(vertex)
    base = np.concatenate([_base_weights(), np.ones(len(order) - mesh.POINTS)])
    lids = []
    for ring, interior in zip(mesh.EYES, interiors):
        weights = np.append(_lids(ring), np.zeros(6))[order]
        weights[interior] = 1
        lids.append(weights)
    return SwapMesh(
        order, np.concatenate([triangles, added]).astype(np.int32), base.astype(np.float32),
        (lids[0], lids[1]), (interiors[0], interiors[1]), interiors[2],
    )  # fmt: skip


def _eye_triangles(ring: list[int], iris: list[int]) -> list[list[int]]:
    """Join both lids to the iris: ring from the outer corner over the upper lid, 16 vertices; iris
    its outer side, centre and inner side."""
    outer, center, inner = iris
    result = []
    for lid in (ring[:9], [ring[0], *ring[:7:-1]]):
        result += [[lid[i], lid[i + 1], outer] for i in range(3)]
        result += [[outer, lid[3], center], [lid[3], lid[4], center], [lid[4], lid[5], center]]
        result += [[center, lid[5], inner]]
        result += [[lid[i], lid[i + 1], inner] for i in range(5, 8)]
    return result


def with_irises(landmarks: Array, iris: Array) -> Array:  # [468, 3], [2, 5, 2] -> [474, 3]
    """Append the two sides and the centre of either iris, kept between the lids."""
    points = [landmarks]
    for ring, seen in zip(mesh.EYES, iris):
        corners = landmarks[[ring[0], ring[8]]]
        axis = (corners[1] - corners[0])[:2]
        width2 = max(float(axis @ axis), 1e-6)
        across = np.array([-axis[1], axis[0]])
        upper, lower = (
            landmarks[list(ring[2:7]), :2].mean(0),
            landmarks[list(ring[10:15]), :2].mean(0),
        )
        offset = seen[0] - corners[0, :2]
        along = np.clip(offset @ axis / width2, 0.28, 0.72) if np.isfinite(offset).all() else 0.5
        heights = [(p - corners[0, :2]) @ across / width2 for p in (upper, lower)]
        middle, half = (heights[0] + heights[1]) / 2, abs(heights[1] - heights[0]) / 2
        height = offset @ across / width2 if np.isfinite(offset).all() else middle
        height = np.clip(height, middle - 0.5 * half, middle + 0.5 * half)
        depth = landmarks[list(ring), 2].mean()
        for x in (along - 0.18, along, along + 0.18):
            place = corners[0, :2] + x * axis + height * across
            points.append(np.append(place, depth)[None])
    return np.concatenate(points)


def _base_weights() -> Array:  # [468] 0..1
    """1 over the face, falling to 0 at its outline and above the brows, where hair begins."""
    rings = edge_distance(mesh.OVAL)
    weights = np.interp(rings, (0, 1, 2), (*RIM, 1))
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
    corners = landmarks.astype(np.float32).T[:, mesh.TRIANGLES.T]  # [xyz, corner, F]
    ax, ay, az = corners[:, 1] - corners[:, 0]
    bx, by, bz = corners[:, 2] - corners[:, 0]
    # Written out: np.cross takes three times as long.
    normals = np.stack([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx], axis=1)
    triangle, start = _incidence()
    total = np.add.reduceat(
        normals[triangle], start
    )  # as long as twice the area: the weight wanted
    cosine = total[:, 2] / np.maximum(np.linalg.norm(total, axis=1), 1e-9)
    # Which way round the triangles run depends on the model's axes; the nose tip faces the viewer
    # in every face that can be seen at all.
    result: Array = cosine * np.sign(cosine[list(mesh.NOSE[:6])].mean() or 1.0)
    return result


@lru_cache(maxsize=1)
def _incidence() -> tuple[Array, Array]:
    """The triangles around vertex 0, then those around vertex 1, ...; and where each begins."""
    corners = mesh.TRIANGLES.ravel()
    order = np.argsort(corners, kind="stable")
    return order // 3, np.searchsorted(corners[order], np.arange(mesh.POINTS))


def fade(value: Array, low: float, high: float) -> Array:
    """0 below `low`, 1 above `high`, smooth between."""
    t = np.clip((value - low) / (high - low), 0, 1)
    result: Array = t * t * (3 - 2 * t)
    return result
