"""Find faces in a whole picture, roughly: a box, six key points and a score for each.

Sources: Bazarevsky et al. 2019, BlazeFace (arXiv:1907.05047); the models and their anchors are
those of MediaPipe's full-range and back-camera detectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from accel.faces.align import Array, invert, overlap, region_matrix, transform
from accel.faces.crops import network_crops
from accel.faces.network import open_network
from accel.kernels._native import limit_threads
from accel.kernels.decode_faces import decode_faces
from accel.kernels.planes import Planes
from accel.weights.assets import asset
from accel.weights.onnx import Network

REGION_MARGIN = 1.5  # the mesh wants a quarter of the box around the box
MIN_VIEW_PX = 128  # of the frame in a view; below it there is nothing finer to be seen
LEAST_SEEN_PX = 8  # of the frame's shorter side in what a network gets; no face is in less
SAME_FACE = 0.3  # boxes that overlap more than this show one face
MOST_ON_DEVICE = 32  # faces of one view that a GPU tells of


@dataclass(frozen=True)
class Anchors:
    """A detector and the grid its answers refer to.

    grids: (cells along a side, anchors in a cell), in the order of the network's outputs.
    """

    asset: str
    size: int
    grids: tuple[tuple[int, int], ...]

    def centres(self) -> Array:  # [A, 2] in the network's pixels, edges at 0 and size
        parts = []
        for cells, count in self.grids:
            at = (np.arange(cells) + 0.5) * self.size / cells
            x, y = np.meshgrid(at, at)
            parts.append(np.repeat(np.stack([x, y], -1).reshape(-1, 2), count, axis=0))
        return np.concatenate(parts)


FULL_RANGE = Anchors("blazeface_full_192.fp16w.onnx", 192, ((48, 1),))
NEAR = Anchors("blazeface_back_256.fp16w.onnx", 256, ((16, 2), (8, 6)))


@dataclass(frozen=True)
class Detection:
    """A face that was found.

    region: [4] centre x, centre y, side, angle of the square that the mesh network wants to see.
    keypoints: [6, 2] right eye, left eye, nose tip, mouth, right ear, left ear; frame pixels.
    score: 0..1.
    """

    region: Array
    keypoints: Array
    score: float

    @property
    def box(self) -> Array:  # [4] x0, y0, x1, y1 of the face itself
        x, y, side, _ = self.region
        half = side / REGION_MARGIN / 2
        return np.array([x - half, y - half, x + half, y + half])


class Detector:
    """One BlazeFace network, looking at square views of the frame."""

    def __init__(
        self, anchors: Anchors = FULL_RANGE, *, device: str = "cpu", threads: int = 1
    ) -> None:
        self._network = open_network(asset(anchors.asset), device=device, threads=threads)
        self._size = anchors.size
        self._centres = anchors.centres()
        self.runs = 0  # views looked at so far

    def find(
        self,
        planes: Planes,
        views: Array,  # [V, 4] centre x, centre y, side, angle of the squares to look at
        *,
        min_score: float = 0.5,
        threads: int = 1,
    ) -> list[Detection]:
        """Return the faces in any of the views, the surest first, each once.

        threads: on a CPU, how many share the views.
        """
        return find_all([(self, views)], planes, min_score=min_score, threads=threads)

    def worth_a_look(self, planes: Planes, views: Array) -> Array:
        """Those of the views in which there is something to be seen."""
        # Shrinking a strip of pixels by hundreds takes seconds and leaves nothing.
        seen = self._size / views[:, 2] * min(planes.height, planes.width)
        return np.asarray(views[seen >= LEAST_SEEN_PX])

    def look(self, planes: Planes, views: Array, min_score: float) -> list[Detection]:
        """What is found in each view, the same face perhaps several times."""
        matrices = region_matrix(views, self._size)
        crops = network_crops(planes, matrices, self._size, low=-1.0, high=1.0)
        if isinstance(crops, Tensor) and isinstance(self._network, Network):
            return self._find_on_device(self._network, crops, matrices, min_score)
        outputs = self._network(crops)
        boxes, logits = sorted(outputs, key=lambda a: -a.shape[-1])
        found: list[Detection] = []
        for view, back, box, logit in zip(views, invert(matrices), boxes, logits):
            found += self._decode(view, back, box, logit[:, 0], min_score)
        return found

    def _find_on_device(
        self, network: Network, crops: Tensor, matrices: Array, min_score: float
    ) -> list[Detection]:
        """Run, decode and place without a picture or an anchor leaving the GPU."""
        outputs = network.on_device(**{network.inputs[0].name: crops})
        boxes, logits = sorted(outputs, key=lambda a: -a.shape[-1])
        numbers = (invert(matrices), self._centres)
        back, centres = (
            torch.from_numpy(n.astype(np.float32)).to(crops.device, non_blocking=True)
            for n in numbers
        )
        found = decode_faces(
            boxes, logits[..., 0].contiguous(), centres, back,
            min_score=min_score, overlap=SAME_FACE, margin=REGION_MARGIN, most=MOST_ON_DEVICE,
        )  # fmt: skip
        rows = found.flatten(0, 1).cpu().numpy().astype(np.float64)  # waits: a tracker decides here
        return [
            Detection(row[1:5], row[5:].reshape(6, 2), float(row[0]))
            for row in rows[rows[:, 0] > 0]
        ]

    def _decode(
        self, view: Array, back: Array, boxes: Array, logits: Array, min_score: float
    ) -> list[Detection]:
        scores = 1 / (1 + np.exp(-np.clip(logits.astype(np.float64), -50, 50)))
        keep = np.flatnonzero(scores >= min_score)
        if not len(keep):
            return []
        points = boxes[keep].astype(np.float64).reshape(len(keep), 8, 2)
        points[:, [0, *range(2, 8)]] += self._centres[keep][:, None]  # row 1 is width and height
        found = []
        for group in _clusters(points, scores[keep]):
            weights = scores[keep][group]
            mean = np.average(points[group], axis=0, weights=weights)
            side = mean[1].max() * view[2] / self._size
            # The network counts from the crop's edge, the matrices from its first pixel's centre.
            spots = transform(back, mean[[0, *range(2, 8)]] - 0.5)
            eyes = spots[2] - spots[1]
            angle = np.arctan2(eyes[1], eyes[0])
            region = np.array([*spots[0], side * REGION_MARGIN, angle])
            found.append(Detection(region, spots[1:], float(weights.max())))
        return found


def find_all(
    looks: Sequence[tuple[Detector, Array]],  # which network looks at which views, [V, 4] each
    planes: Planes,
    *,
    min_score: float = 0.5,
    threads: int = 1,
) -> list[Detection]:
    """Return the faces that any of the looks at one frame finds, the surest first, each once.

    threads: on a CPU, how many share the views; what is found does not depend on them.
    """
    asked = [(detector, detector.worth_a_look(planes, views)) for detector, views in looks]
    for detector, views in asked:
        detector.runs += len(views)
    single = [(i, view[None]) for i, (_, views) in enumerate(asked) for view in views]
    threads = min(threads, len(single))
    found: list[list[Detection]] = [[] for _ in asked]
    if threads < 2 or planes.c0.device.type != "cpu":
        found = [d.look(planes, views, min_score) for d, views in asked if len(views)]
    else:
        with ThreadPoolExecutor(threads, initializer=limit_threads, initargs=(1,)) as pool:
            # From the end: the network named first is the smallest, and the threads end together.
            several = pool.map(
                lambda one: asked[one[0]][0].look(planes, one[1], min_score), single[::-1]
            )
            for (i, _), part in zip(single, list(several)[::-1]):
                found[i] += part
    return distinct([detection for part in found for detection in distinct(part)])


def distinct(found: Sequence[Detection]) -> list[Detection]:
    """Keep the surest of the detections that show one face; the surest first."""
    kept: list[Detection] = []
    for detection in sorted(found, key=lambda d: -d.score):
        if all(overlap(detection.box, other.box) < SAME_FACE for other in kept):
            kept.append(detection)
    return kept


def whole_view(planes: Planes, angle: float = 0.0, zoom: float = 1.0) -> Array:  # [1, 4]
    """The square around the whole frame; a zoom below 1 looks from further away."""
    side = max(planes.width, planes.height) / zoom
    return np.array([[(planes.width - 1) / 2, (planes.height - 1) / 2, side, angle]])


def near_views(planes: Planes, angle: float = 0.0) -> Array:  # [V, 4]
    """Overlapping squares as high (or wide) as the frame; for a small frame the whole of it."""
    side = float(min(planes.width, planes.height))
    if max(planes.width, planes.height) < 1.2 * side:
        side *= 0.8
    return _tiles(planes, side, angle) if side >= MIN_VIEW_PX else whole_view(planes, angle)


def fine_views(planes: Planes, angle: float = 0.0) -> Array:  # [V, 4]
    """Overlapping squares that show faces of a twentieth of the frame's height; none if small."""
    side = 0.6 * min(planes.width, planes.height)
    return _tiles(planes, side, angle) if side >= MIN_VIEW_PX else np.zeros((0, 4))


def _tiles(planes: Planes, side: float, angle: float) -> Array:
    """Squares that cover the frame and overlap by a quarter, so that no face lies on every edge."""

    def along(length: int) -> Array:
        count = int(np.ceil(max(length - side, 0) / (0.75 * side))) + 1
        return np.linspace(side / 2 - 0.5, length - side / 2 - 0.5, count)

    return np.array(
        [[x, y, side, angle] for y in along(planes.height) for x in along(planes.width)]
    )


def _clusters(points: Array, scores: Array) -> list[npt.NDArray[np.intp]]:
    """Group the anchors that answer for one face: those whose boxes overlap the best one's."""
    centre, half = points[:, 0], points[:, 1] / 2
    boxes = np.concatenate([centre - half, centre + half], axis=-1)
    groups, left = [], np.argsort(-scores)
    while len(left):
        together = overlap(boxes[left[0]], boxes[left]) >= SAME_FACE
        together[0] = True  # an empty box does not overlap itself
        groups.append(left[together])
        left = left[~together]
    return groups
