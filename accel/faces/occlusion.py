"""What lies in front of a face: hands, hair, microphones. They stay in front of the swapped face.

The face is laid flat (the mesh's texture map), where it keeps still however the head moves, and is
compared with what the track showed there before: first brought to the reference's light, then
texel by texel in Lab, where the lightest and darkest reference nearby are both right (lids and
lips move), and edges that the reference does not have count by themselves. That is how a hand is
seen in spite of its skin colour. What lies in front is no longer learnt, nor is what lies around
it. Things of another colour than the face are seen from the first frame on.

What it cannot do: a hand that covers the face from the first frame on is taken for the face until
it moves, and one that keeps still for ten seconds becomes part of it.

Source: He et al. 2013, doi:10.1109/TPAMI.2012.213 (guided filter).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from accel.faces import mesh
from accel.faces.mask import fade
from accel.faces.match import enlarge, shrink
from accel.kernels.raster import raster

Array = npt.NDArray[Any]

SIDE = 80  # of the flat face, in texels
WORK_PX = 160  # the crop is made no larger than this for all that happens here
LIGHT_TOLERANCE, COLOR_TOLERANCE = 2.0, 1.0  # Lab units that are never held against a texel
LIGHT_UNIT, COLOR_UNIT, EDGE_UNIT = 5.0, 2.5, 3.0  # what counts as 1 beyond the tolerance
FOREIGN = (16.0, 4.0)  # distance from the face's own colour: tolerated, and what counts as 1
SEED, GROW = 0.85, 0.18  # evidence that starts an occluder, and that spreads it
GROW_AT_SIDES, INNER = 0.7, 1.2  # the latter: doubt below which it is not the sides
MIN_SEEDS, MIN_TEXELS = 4, 28
APPEARS, GOES = 0.85, 0.3  # share of the way that the mask goes in a frame
FIRST, LEARN, LEARN_COVERED = 0.2, 0.04, 0.006  # how fast the reference follows
FRESH = 8  # frames that it follows by FIRST
STILL_FRAMES = 240  # a thing that has kept still on the face so long is part of it
_NOSTRILS = (98, 97, 2, 326, 327, 19, 94, 64, 294, 240, 460, 75, 305)
_SMILE = (61, 291, 57, 287, 186, 410, 216, 436, 206, 426, 212, 432)  # where folds appear
_NEAR = np.ones((5, 5), np.uint8)
_NEXT = np.ones((3, 3), np.uint8)
_ROUND = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (7, 7))


class _Flat(NamedTuple):
    """The flat face, the same for all tracks."""

    points: Tensor  # [1, 468, 3] where each vertex lies on it, texels
    triangles: Tensor  # [898, 3]
    core: Array  # [G, G] bool, well inside the outline
    tolerance: Array  # [G, G] evidence is multiplied by this; less where a face moves or darkens
    skin: Array  # [G, G] bool, inside and neither brow, eye, nostril nor lip
    slopes: Array  # [2, G, G] x, y, -1..1
    doubt: Array  # [G, G] what starts an occluder must show more evidence by this factor


@lru_cache(maxsize=1)
def _flat() -> _Flat:
    uv = mesh.UV * SIDE - 0.5
    flat = np.concatenate([uv, np.zeros((mesh.POINTS, 1))], axis=1)
    points = torch.from_numpy(flat.astype(np.float32))[None].contiguous()
    triangles = torch.from_numpy(np.array(mesh.TRIANGLES))
    tolerance, skin = np.ones(mesh.POINTS), np.ones(mesh.POINTS)
    parts: tuple[tuple[tuple[int, ...], float, float], ...] = (
        (_NOSTRILS, 0.15, 0.06),
        (mesh.LIPS_OUTER, 0.6, 0.03),
        (_SMILE, 0.45, 0.07),
        (mesh.LIPS_INNER, 0.5, 0.04),
        ((*mesh.EYE_RIGHT, *mesh.EYE_LEFT), 0.6, 0.05),
        (mesh.BROWS, 0.6, 0.04),
    )
    for part, factor, reach in parts:
        near = _away(uv, part) < reach
        tolerance = np.minimum(tolerance, np.where(near, factor, 1))
        skin[near] = 0
    outline = _away(uv, mesh.OVAL)
    inside = np.clip(outline / 0.15, 0, 1)
    core, factors, plain = (_draw(points, triangles, v) for v in (inside, tolerance, skin))
    y, x = np.mgrid[:SIDE, :SIDE] * (2 / SIDE) - 1
    slopes = np.stack([x, y]).astype(np.float32)
    well_inside = core > 0.6
    # At the sides hair and background come and go as the head turns, and the mask fades anyway.
    doubt = 1 + 2.5 * fade(np.abs(x), 0.45, 0.75)
    skin_map = well_inside & (plain > 0.99)
    return _Flat(points, triangles, well_inside, factors, skin_map, slopes, doubt)


def _away(uv: Array, part: tuple[int, ...]) -> Array:  # [468] distance to a part, shares of SIDE
    distance: Array = np.linalg.norm(uv[:, None] - uv[None, list(part)], axis=2).min(axis=1) / SIDE
    return distance


def _draw(points: Tensor, triangles: Tensor, values: Array) -> Array:  # [468] -> [G, G]
    texture, which = torch.zeros(1, 3, 1, 1), torch.zeros(1, dtype=torch.int32)
    weights = torch.from_numpy(values.astype(np.float32))[None]
    drawn = raster(texture, points[..., :2].contiguous(), points, weights, triangles, which, SIDE)
    result: Array = drawn[0, 3].numpy()
    return result


@dataclass
class _Memory:
    """What a track's flat face usually looks like; all [G, G] or [G, G, 3] Lab."""

    reference: Array
    low: Array  # darkest and lightest values that its expressions have shown
    high: Array
    edge: Array  # slope of L
    before: Array  # a quick mean, to see whether something keeps still
    known: Array  # how well a texel has ever been seen, 0..1
    flag: Array  # bool, hidden in the last frame
    proof: Array  # smoothed evidence
    hidden: Array  # the mask, 0..1
    still: Array  # frames for which a hidden texel has not changed
    frames: int = 0

    @classmethod
    def start(cls, texels: Array, sight: Array) -> _Memory:
        empty = [np.zeros((SIDE, SIDE), np.float32) for _ in range(3)]
        copies = [texels.copy() for _ in range(3)]
        return cls(
            copies[0], copies[1], copies[2], _edges(texels), texels.copy(), sight.copy(),
            np.zeros((SIDE, SIDE), bool), empty[0], empty[1], empty[2],
        )  # fmt: skip

    def meet(self, texels: Array, sight: Array) -> None:
        """Take over texels that are seen well for the first time, as the head turns."""
        new = (sight > 0.5) & (self.known < 0.3)
        if new.any():
            for learnt in (self.reference, self.low, self.high):
                learnt[new] = texels[new]
            self.edge[new] = 50  # unknown: no edge there is held against the texel
        self.known = np.maximum(self.known, sight)

    def in_same_light(self, texels: Array, sight: Array) -> Array:
        """Remove the change of light since the reference: shift, contrast, and a slope of L.

        Least squares over texels near their reference, so that an occluder hardly counts.
        """
        flat = _flat()
        change = texels - self.reference
        near = np.exp(-((change[..., 0] / 10) ** 2)) * (flat.core & ~self.flag & (sight > 0.3))
        weights = near[::2, ::2].reshape(-1, 1).astype(np.float32)
        result = np.empty_like(texels)
        for channel, stiff in enumerate(((1, 50, 50, 20), (1, 20), (1, 20))):
            old = self.reference[..., channel]
            # The last column lets contrast change: a brighter light raises bright places more.
            columns = [np.ones_like(old), *flat.slopes][: len(stiff) - 1]
            columns.append((old - old.mean()) * 0.05)
            some = np.stack([c[::2, ::2].reshape(-1) for c in columns], axis=1)
            moved = change[::2, ::2, channel].reshape(-1)
            normal = (weights * some).T @ some + np.diag(stiff)
            fit = np.linalg.solve(normal, (weights * some).T @ moved).astype(np.float32)
            shift = sum(f * c for f, c in zip(fit[1:], columns[1:]))
            result[..., channel] = texels[..., channel] - fit[0] - shift
        return result

    def evidence(self, texels: Array, edges: Array) -> Array:
        flat = _flat()
        low, high = cv2.erode(self.low, _NEAR), cv2.dilate(self.high, _NEAR)
        beyond = np.maximum(np.maximum(texels - high, low - texels), 0)
        light = np.maximum(beyond[..., 0] - LIGHT_TOLERANCE, 0) / LIGHT_UNIT
        color = np.maximum(beyond[..., 1:] - COLOR_TOLERANCE, 0) / COLOR_UNIT
        change = np.sqrt(light**2 + color[..., 0] ** 2 + color[..., 1] ** 2)
        edge = np.maximum(edges - cv2.dilate(self.edge, _NEAR) - 2, 0) / EDGE_UNIT
        own = np.median(texels[flat.skin][::5, 1:], axis=0)
        away = np.hypot(texels[..., 1] - own[0], texels[..., 2] - own[1])
        foreign = np.maximum(away - FOREIGN[0], 0) / FOREIGN[1] * flat.skin
        result: Array = (change + edge) * flat.tolerance + foreign
        return result

    def learn(self, texels: Array, edges: Array, sight: Array) -> None:
        """Follow slow changes, but neither what hides the face nor what it may be hiding soon."""
        flag, core = self.flag, _flat().core
        keeps = np.abs(texels - self.before).sum(axis=2) < 8
        self.still = np.where(flag & keeps, self.still + 1, 0)
        self.before += 0.1 * (texels - self.before)
        covered = (flag & core).sum() > 0.05 * core.sum()
        around = cv2.dilate(flag.astype(np.uint8), _NEAR, iterations=3) > 0
        pace = FIRST if self.frames < FRESH else LEARN_COVERED if covered else LEARN
        rate = np.where(around, 0, pace * np.exp(-self.proof / 0.15) * sight)
        settled = self.still > STILL_FRAMES
        rate = np.where(flag, np.where(settled, 0.1, 0.001), rate).astype(np.float32)[..., None]
        self.reference += rate * (texels - self.reference)
        wide = np.minimum(2 * rate, 0.2) * ~flag[..., None] + rate * settled[..., None]
        for bound, further in ((self.low, np.minimum), (self.high, np.maximum)):
            bound += wide * further(texels - bound, 0) + 0.1 * wide * (self.reference - bound)
        self.edge += wide[..., 0] * (edges - self.edge)
        self.frames += 1


class OcclusionModel:
    """Remembers how one track's face looks, and says what hides it. Frames come in order."""

    def __init__(self) -> None:
        self._memory: _Memory | None = None

    def hidden(
        self,
        target: Tensor,  # [1, 3, S, S] the crop of the frame, RGB 0..1
        points: Array,  # [468, 3] landmarks in the crop, px
        sight: Array,  # [468] 0..1, how well each landmark is seen; 0 where it faces away
    ) -> Tensor | None:  # [1, S, S] 1 where something lies in front; None where nothing does
        """Compare this frame with the track so far, then learn from it."""
        side = target.shape[-1]
        times = -(-side // WORK_PX)
        small = shrink(target[0], times)[None].float().cpu()  # waits; too small for a GPU
        places = points.astype(np.float32)
        places[:, :2] = (places[:, :2] + 0.5) / times - 0.5
        mask = self._look(small, places, sight.astype(np.float32))
        if mask.max() < 0.02:
            return None
        return enlarge(_on_crop(mask, small, places)[None].to(target.device), times, side)

    def _look(self, small: Tensor, places: Array, seen: Array) -> Array:
        """Return [G, G] how hidden each texel is."""
        texels, sight = _unwrap(small, places, seen)
        if self._memory is None:
            self._memory = _Memory.start(texels, sight)
        memory = self._memory
        memory.meet(texels, sight)
        texels = memory.in_same_light(texels, sight)
        edges = _edges(texels)
        evidence = memory.evidence(texels, edges) * (sight * np.clip(2 * memory.known - 0.4, 0, 1))
        evidence = cv2.GaussianBlur(np.minimum(evidence, 4), (0, 0), 0.9)
        memory.proof += 0.75 * (guided(evidence, texels[..., 0], 3, 16.0) - memory.proof)
        memory.flag = _regions(memory.proof)
        memory.learn(texels, edges, sight)
        change = memory.flag - memory.hidden
        memory.hidden += np.where(change > 0, APPEARS, GOES).astype(np.float32) * change
        return memory.hidden


def _unwrap(small: Tensor, places: Array, seen: Array) -> tuple[Array, Array]:
    """Lay the face flat: [G, G, 3] Lab and [G, G] how well it is seen."""
    flat = _flat()
    drawn = raster(
        small,
        torch.from_numpy(np.ascontiguousarray(places[None, :, :2])),
        flat.points,
        torch.from_numpy(seen[None]),
        flat.triangles,
        torch.zeros(1, dtype=torch.int32),
        SIDE,
    )[0].numpy()
    rgb = np.ascontiguousarray(drawn[:3].transpose(1, 2, 0))
    return cv2.GaussianBlur(cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB), (0, 0), 0.8), drawn[3]


def _on_crop(hidden: Array, small: Tensor, places: Array) -> Tensor:  # [P, P]
    """Lay the flat mask on the face and let its edge snap to the edges of the picture."""
    flat, side = _flat(), small.shape[-1]
    grown = cv2.GaussianBlur(cv2.dilate(hidden, _NEXT), (0, 0), 0.8)
    drawn = raster(
        torch.from_numpy(np.ascontiguousarray(np.broadcast_to(grown, (1, 3, SIDE, SIDE)))),
        flat.points[..., :2].contiguous(),
        torch.from_numpy(places[None]),
        torch.ones(1, mesh.POINTS),
        flat.triangles,
        torch.zeros(1, dtype=torch.int32),
        side,
    )[0, 0].numpy()
    luma = small[0].mean(dim=0).numpy() * 100
    refined = guided(drawn, luma, max(2, round(side / 40)), 20.0)
    # Stretched, so that the filter's haze neither veils the face nor lets it shine through.
    return torch.from_numpy(np.clip(refined * 1.4 - 0.2, 0, 1).astype(np.float32))


def _edges(texels: Array) -> Array:  # [G, G, 3] -> [G, G] slope of L a texel
    light = np.ascontiguousarray(texels[..., 0])
    across, down = (cv2.Sobel(light, -1, dx, 1 - dx, scale=0.25) for dx in (1, 0))
    slope: Array = cv2.magnitude(across, down)
    return slope


def _regions(proof: Array) -> Array:  # [G, G] -> bool
    """Regions of some evidence that hold enough strong evidence; small ones are noise.

    What starts at the sides is most likely hair, whose edge is sharp: it does not spread inwards.
    """
    doubt = _flat().doubt
    some = (proof > GROW).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(some, connectivity=4)
    strong = proof > SEED * doubt
    large = stats[:, cv2.CC_STAT_AREA] >= MIN_TEXELS
    large[0] = False  # the background
    anywhere = large & (np.bincount(labels[strong], minlength=count) >= MIN_SEEDS)
    if not anywhere.any():
        return np.zeros(proof.shape, bool)
    inner = np.bincount(labels[strong & (doubt < INNER)], minlength=count) >= MIN_SEEDS
    found = (anywhere & inner)[labels] | (anywhere[labels] & (proof > GROW_AT_SIDES))
    closed = cv2.morphologyEx(found.astype(np.uint8), cv2.MORPH_CLOSE, _ROUND)
    result: Array = closed > 0
    return result


def guided(values: Array, guide: Array, radius: int, epsilon: float) -> Array:  # [H, W] each
    """Smooth `values` along, not across, the edges of `guide`; epsilon is in its units squared."""

    def mean(picture: Array) -> Array:
        average: Array = cv2.blur(picture, (2 * radius + 1,) * 2)
        return average

    guide = np.ascontiguousarray(guide)
    guide_mean, value_mean = mean(guide), mean(values)
    slope = (mean(guide * values) - guide_mean * value_mean) / (
        mean(guide * guide) - guide_mean * guide_mean + epsilon
    )
    result: Array = mean(slope) * guide + mean(value_mean - slope * guide_mean)
    return result
