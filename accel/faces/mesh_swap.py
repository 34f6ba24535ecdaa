"""The mesh swapper: one or several pictures of a face, painted over another by its mesh. No weights.

The source picture is warped triangle by triangle onto the target's 468 landmarks, given the target's
colours, light, sharpness and grain, and blended in under a mask that ends before hair and outline.

What it cannot do: the shape of the face and all that lies outside the mask (jaw line, hair, ears)
stay the target's, so likeness is limited by how alike the two heads are; expression follows through
the geometry alone, so the folds of a wide smile do not appear on a picture that does not smile; a
source lit hard from one side keeps some of its shadows; in profile little of the source is left.
Several source pictures help with all but the first.

Sources: Reinhard et al. 2001, doi:10.1109/38.946629 (colours); Burt & Adelson 1983,
doi:10.1145/245.247 (blending).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from accel.faces.face import Face
from accel.faces.mask import facing, fade, swap_mesh
from accel.faces.occlusion import OcclusionModel
from accel.faces.sources import Chooser, PreparedSource, prepare_source
from accel.faces.swap import Job, Patch, SourceFace
from accel.kernels import (
    blend_pyramid,
    color_stats,
    crop,
    feather,
    illumination,
    raster,
    relight,
)

Array = npt.NDArray[Any]

SIZES = (64, 96, 128, 192, 256, 320, 384, 448, 512, 640)  # sides of the crop, px
MARGIN = 1.25  # crop side over the larger side of the face
MAX_CROP_PX = 512
SMOOTHING = 0.15  # weight of a new frame in the running colour statistics
FRESH = 10  # frames over which a track's first statistics settle
GRID = 16  # cells of the illumination grid
SHUT = (
    0.5,
    0.75,
)  # target's lids against the source's: below, the target's eyes are kept; above not
FORGET = 64  # tracks that are remembered


@dataclass
class _Track:
    """What is carried from frame to frame for one face."""

    chooser: Chooser
    occlusion: OcclusionModel
    scene: int
    crop_px: int = 0
    frames: int = 0
    eyes: Array = field(default_factory=lambda: np.ones(2))  # how much of the source's eyes
    colors: dict[str, Tensor] = field(default_factory=dict)
    detail: float = 1.0  # the target's sharpness over the warped source's
    grain: float = 0.0

    def blend(self, name: str, value: Tensor) -> Tensor:
        """Exponential mean over the track, quick at first."""
        weight = max(SMOOTHING, 1 / (1 + min(self.frames, FRESH)))
        before = self.colors.get(name)
        self.colors[name] = value if before is None else torch.lerp(before, value, weight)
        return self.colors[name]


class MeshSwapper:
    """Swaps by warping the mesh; see the module. Jobs of one track must come in order of time."""

    name = "mesh"

    def __init__(
        self,
        sources: Sequence[Sequence[SourceFace]],  # for each identity its pictures
        *,
        device: str = "cpu",
        max_crop_px: int = MAX_CROP_PX,
    ):
        self._device = torch.device(device)
        self._identities = [
            [prepare_source(s.picture.to(self._device), s.landmarks) for s in pictures]
            for pictures in sources
        ]
        if not self._identities or not all(self._identities):
            raise ValueError("MeshSwapper: each identity needs at least one source picture")
        self._max_crop_px = max_crop_px
        self._mesh = swap_mesh()
        self._triangles = torch.from_numpy(self._mesh.triangles).to(self._device)
        self._tracks: dict[tuple[int, int], _Track] = {}

    def swap(self, jobs: Sequence[Job]) -> list[Patch]:
        """Return one patch a job, in order."""
        return [self._swap(job) for job in jobs]

    def _swap(self, job: Job) -> Patch:
        face, sources = job.face, self._identities[job.source]
        track = self._track(face, job.source)
        matrix, points = self._view(track, face)
        side = track.crop_px
        target = crop(job.planes, torch.from_numpy(matrix[None]), side)
        front, mask = self._warp(track, face, sources, points, side)
        hidden = track.occlusion.hidden(target, points, fade(facing(points), 0.08, 0.3))
        if hidden is not None:
            mask = mask * (1 - hidden)
        front = self._recolor(track, front, target, mask)
        front = self._match_detail(track, front, target, mask, job)
        soft = feather(mask, 0.0, 0.008 * side)
        mixed = blend_pyramid(front, target, soft, 3)
        cover = (soft * 4).clamp(max=1)  # whole wherever the blend differs from the target
        track.frames += 1
        return Patch(mixed[0], cover[0], torch.from_numpy(matrix), None, None)

    def _track(self, face: Face, source: int) -> _Track:
        key = (face.track, source)
        track = self._tracks.pop(key, None)
        if track is None or track.scene != face.scene:
            track = _Track(Chooser(self._identities[source]), OcclusionModel(), face.scene)
        self._tracks[key] = track  # last in the order: the oldest goes first
        while len(self._tracks) > FORGET:
            del self._tracks[next(iter(self._tracks))]
        return track

    def _view(self, track: _Track, face: Face) -> tuple[Array, Array]:
        """Return the matrix [2, 3] frame -> upright crop, and the landmarks [468, 3] in the crop."""
        roll = float(face.pose[2])
        turn = np.array([[np.cos(roll), np.sin(roll)], [-np.sin(roll), np.cos(roll)]])
        upright = face.landmarks[:, :2] @ turn.T
        low, high = upright.min(axis=0), upright.max(axis=0)
        size = float((high - low).max())
        track.crop_px = self._crop_px(track.crop_px, size * MARGIN)
        scale = track.crop_px / (size * MARGIN)
        shift = (track.crop_px - 1) / 2 - scale * (low + high) / 2
        matrix = np.concatenate([scale * turn, shift[:, None]], axis=1).astype(np.float32)
        points = np.concatenate([upright * scale + shift, face.landmarks[:, 2:] * scale], axis=1)
        return matrix, points.astype(np.float32)

    def _crop_px(self, before: int, wanted: float) -> int:
        """The next size up, held until the face has clearly outgrown or left it."""
        if before and 0.6 * before <= wanted <= 1.1 * before:
            return before
        fitting = [s for s in SIZES if s >= wanted and s <= self._max_crop_px]
        return fitting[0] if fitting else self._max_crop_px

    def _warp(
        self, track: _Track, face: Face, sources: Sequence[PreparedSource], points: Array, side: int
    ) -> tuple[Tensor, Tensor]:  # [1, 3, S, S] the source on the target's mesh, [1, S, S] weight
        here = facing(face.landmarks)
        size = float(np.ptp(points[:, :2], axis=0).max())
        rgb = mask = None
        for index, share in track.chooser.choose(face.landmarks):
            source = sources[index]
            texture = source.texture_for(size)
            weights = self._weights(track, face, source, here)
            picture = raster(
                texture.picture,
                self._send(texture.points[self._mesh.vertex][None]),
                self._send(points[self._mesh.vertex][None]),
                self._send(weights[None]),
                self._triangles,
                torch.zeros(1, dtype=torch.int32, device=self._device),
                side,
            )
            rgb = share * picture[:, :3] + (0 if rgb is None else rgb)
            mask = share * picture[:, 3] + (0 if mask is None else mask)
        assert rgb is not None and mask is not None
        return rgb, mask

    def _weights(
        self, track: _Track, face: Face, source: PreparedSource, here: Array
    ) -> Array:  # [V] float32
        """How much of the source each vertex takes: mask, facing of both, eyes, no mouth interior.

        Where the target turns away, or the source did not show the place, the target stays: a
        texture stretched over it would look worse than another person's cheek.
        """
        weights = self._mesh.base * fade(here, 0.12, 0.4)[self._mesh.vertex]
        weights *= (source.skin * fade(source.facing, 0.05, 0.3))[self._mesh.vertex]
        ratio = face.lids / np.maximum(source.lids, 1e-3)
        wanted = fade(ratio, *SHUT)
        track.eyes = wanted if not track.frames else track.eyes + 0.5 * (wanted - track.eyes)
        for eye, share in zip(self._mesh.eyes, track.eyes):
            weights *= 1 - eye * (1 - share)
        weights[self._mesh.mouth] = 0
        return weights.astype(np.float32)

    def _recolor(self, track: _Track, front: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        """Give the source the target's colours and the fall of its light."""
        inner = (mask * 1.5 - 0.5).clamp(0, 1)  # not the rim, where hair and background may show
        return relight(
            front.clamp(0, 1),
            track.blend("source", color_stats(front, inner)),
            track.blend("target", color_stats(target, inner)),
            track.blend("source light", illumination(front, inner, GRID)),
            track.blend("target light", illumination(target, inner, GRID)),
            0.75,
        )

    def _match_detail(
        self, track: _Track, front: Tensor, target: Tensor, mask: Tensor, job: Job
    ) -> Tensor:
        """Blur a source that is sharper than the target; add the grain that the target has."""
        sigma = 0.012 * track.crop_px
        source_fine, target_fine = front - _blur(front, sigma), target - _blur(target, sigma)
        weight = (mask[:, None] > 0.8).float()
        area = float(weight.sum()) * 3 + 1e-6
        own = float((source_fine.square() * weight).sum()) / area
        wanted = float((target_fine.square() * weight).sum()) / area
        ratio = min(max((wanted + 1e-7) / (own + 1e-7), 0.1), 1.6) ** 0.5
        step = max(SMOOTHING, 1 / (1 + track.frames))
        track.detail += step * (ratio - track.detail)
        grained = front + (track.detail - 1) * source_fine
        noise = (
            _noise_level(target_fine, weight) ** 2
            - (track.detail * _noise_level(source_fine, weight)) ** 2
        )
        track.grain += step * (max(noise, 0.0) ** 0.5 - track.grain)
        if track.grain > 0.004:  # one code value in 255
            generator = torch.Generator().manual_seed(job.face.track * 100_003 + track.frames)
            grain = torch.randn(1, 1, *front.shape[-2:], generator=generator).to(front.device)
            grained = grained + track.grain * grain
        return grained.clamp(0, 1)

    def _send(self, array: Array) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32)).to(self._device)


def _blur(picture: Tensor, sigma: float) -> Tensor:  # [1, 3, S, S]
    rows = np.ascontiguousarray(picture[0].permute(1, 2, 0).cpu().numpy())
    soft = torch.from_numpy(cv2.GaussianBlur(rows, (0, 0), max(sigma, 0.6)))
    return soft.permute(2, 0, 1)[None].to(picture.device)


def _noise_level(fine: Tensor, weight: Tensor) -> float:
    """Deviation of the noise in a high-pass picture: robust, so that edges do not count as noise."""
    values = fine.abs().mean(dim=1)[weight[:, 0] > 0]
    return float(values.median()) * 1.4826 if len(values) else 0.0
