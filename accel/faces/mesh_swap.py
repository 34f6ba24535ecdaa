"""The mesh swapper: pictures of one face painted over another by their meshes. Needs no weights.

The source picture is warped triangle by triangle onto the target's landmarks, given the target's
colours, light, sharpness and grain, and blended in under a mask that ends before hair and outline.
What lies in front of the face stays in front, the inside of the mouth stays the target's, and so
do eyes that are shut while the source's are open.

What it cannot do: the shape of the face and all that lies outside the mask (jaw line, hair, ears)
stay the target's, so likeness is limited by how alike the two heads are; expression follows through
the geometry alone, so the folds of a wide smile do not appear on a picture that does not smile; a
source lit hard from one side keeps some of its shadows; in profile little of the source is left;
glasses of the target are painted over where they lie within the mask. Several source pictures help
with all but the first.

Sources: Reinhard et al. 2001, doi:10.1109/38.946629 (colours); Burt & Adelson 1983,
doi:10.1145/245.247 (blending).
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from accel.faces.crops import picture_planes
from accel.faces.face import Face
from accel.faces.landmark import IrisNet
from accel.faces.mask import facing, fade, swap_mesh, with_irises
from accel.faces.match import DetailMatch, enlarge, shrink
from accel.faces.occlusion import OcclusionModel
from accel.faces.sources import Chooser, PreparedSource, prepare_source
from accel.faces.swap import Job, Patch, SourceFace
from accel.kernels.blend import blend_pyramid, feather
from accel.kernels.color import color_stats, illumination, relight
from accel.kernels.crop import crop
from accel.kernels.raster import raster

Array = npt.NDArray[Any]

SIZES = (128, 160, 192, 224, 256, 320, 384, 448, 512, 640, 768)  # sides of the crop, px
MARGIN = 1.12  # crop side over the larger side of what is swapped
MAX_CROP_PX = 512
SETTLED = 12  # frames of a track before any look at it is spared
OVERSAMPLED = 2.0  # crop pixels per pixel of the sharpest source: more would show nothing new
COLOR_PX = 96  # colours and light are looked at no larger than this
SMOOTHING = 0.15  # weight of a new frame in the running colour statistics
FRESH = 10  # frames over which a track's first statistics settle
CONTRAST = 1.6  # is multiplied or divided by no more than this
GRID = 16  # cells of the illumination grid
LIGHT = 0.65  # how much of the target's fall of light is taken over
TURNED = (0.06, 0.3)  # cosine to the viewer below which the target stays, above which it is swapped
UNSEEN = (0.08, 0.3)  # the same for what the source picture shows
SHUT = (0.51, 0.68)  # target's lids by the source's: below, the target's eyes stay; above they go
EYEBALL = 0.6  # of what lies between the lids is the source's: the rest keeps the eyes alive
TIGHTEN = 0.12  # the mask's outer part that is cut off, so that it ends before fringes
FEATHER = 0.008  # of the crop's side
COARSE = 0.95  # crops below this scale are blended where they are pasted
FORGET = 64  # tracks that are remembered


@dataclass
class _Track:
    """What is carried from frame to frame for one face."""

    chooser: Chooser
    detail: DetailMatch
    scene: int
    occlusion: OcclusionModel = field(default_factory=OcclusionModel)
    crop_px: int = 0
    frames: int = 0
    covered: bool = False  # something was in front of it when last looked at
    eyes: Array = field(default_factory=lambda: np.ones(2))  # how much of the source's eyes
    colors: dict[str, Tensor] = field(default_factory=dict)

    def blend(self, name: str, value: Tensor) -> Tensor:
        """Exponential mean over the track, quick at first."""
        weight = max(SMOOTHING, 1 / (1 + min(self.frames, FRESH)))
        before = self.colors.get(name)
        self.colors[name] = value if before is None else torch.lerp(before, value, weight)
        return self.colors[name]


@dataclass
class _View:
    """A target face in its crop."""

    matrix: Array  # [2, 3] float32, frame to upright crop
    side: int
    points: Array  # [474, 3] float32, landmarks and irises, crop px
    facing: Array  # [468]
    size: float  # of the face, crop px
    wanted_px: float  # side that a crop of the frame's own scale would have


class MeshSwapper:
    """Swaps by warping the mesh; see the module. Jobs of one track must come in order of time.

    sources: for each identity its pictures.
    max_crop_px: larger faces are swapped at this size and enlarged.
    occlusion: look for what lies in front of the face.
    """

    name = "mesh"

    def __init__(
        self,
        sources: Sequence[Sequence[SourceFace]],
        *,
        device: str = "cpu",
        max_crop_px: int = MAX_CROP_PX,
        occlusion: bool = True,
    ):
        if not sources or not all(sources):
            raise ValueError("MeshSwapper: each identity needs at least one source picture")
        if max_crop_px < SIZES[0]:
            raise ValueError(f"max_crop_px must be at least {SIZES[0]}, got {max_crop_px}")
        self._device = torch.device(device)
        irises = IrisNet()
        self._identities = [[self._prepare(s, irises) for s in pictures] for pictures in sources]
        self._max_crop_px = max_crop_px
        self._occlusion = occlusion
        self._mesh = swap_mesh()
        self._triangles = torch.from_numpy(self._mesh.triangles).to(self._device)
        self._which = torch.zeros(1, dtype=torch.int32, device=self._device)
        self._tracks: dict[tuple[int, int], _Track] = {}

    def apart(self) -> MeshSwapper:
        """The same faces to put in, with tracks of its own: for another film."""
        found = copy(self)
        found._tracks = {}
        return found

    def _prepare(self, source: SourceFace, irises: IrisNet) -> PreparedSource:
        rgb = (source.picture.permute(1, 2, 0).clamp(0, 1) * 255).round().byte().cpu().numpy()
        iris = irises([picture_planes(rgb)], source.landmarks[None])[0]
        return prepare_source(source.picture.to(self._device), source.landmarks, iris)

    def swap(self, jobs: Sequence[Job]) -> list[Patch]:
        """Return one patch a job, in order."""
        return [self._swap(job) for job in jobs]

    def _swap(self, job: Job) -> Patch:
        face, sources = job.face, self._identities[job.source]
        track = self._track(face, job.source)
        view = self._view(track, face, sources)
        target = crop(job.planes, torch.from_numpy(view.matrix)[None], view.side)
        front, mask = self._warp(track, face, sources, view)
        # While nothing is in front, every other look is spared: what comes is seen a frame later.
        if self._occlusion and (track.covered or track.frames < SETTLED or track.frames % 2 == 0):
            sight = fade(view.facing, 0.08, 0.3)
            hidden = track.occlusion.hidden(target, view.points[: len(sight)], sight)
            track.covered = hidden is not None
            if hidden is not None:
                mask = mask * (1 - hidden)
        front = self._recolor(track, front, target, mask)
        front = track.detail(front[0], target[0], mask[0])[None]
        soft = feather(mask, 0.0, FEATHER * view.side)
        track.frames += 1
        matrix = torch.from_numpy(view.matrix)  # stays on the CPU, where `paste` needs it
        if view.side < COARSE * view.wanted_px:
            # The crop is coarser than the frame: what stays of the target must not go through it.
            return Patch(front[0].clamp_(0, 1), soft[0], matrix)
        mixed = blend_pyramid(front, target, soft, 3)
        cover = (soft * 4).clamp_(max=1)  # whole wherever the blend differs from the target
        return Patch(mixed[0].clamp_(0, 1), cover[0], matrix)

    def _track(self, face: Face, source: int) -> _Track:
        key = (face.track, source)
        track = self._tracks.pop(key, None)
        if track is None or track.scene != face.scene:
            chooser = Chooser(self._identities[source])
            track = _Track(chooser, DetailMatch(100_003 * face.track), face.scene)
        self._tracks[key] = track  # last in the order: the oldest goes first
        while len(self._tracks) > FORGET:
            del self._tracks[next(iter(self._tracks))]
        return track

    def _view(self, track: _Track, face: Face, sources: Sequence[PreparedSource]) -> _View:
        """Choose the crop: upright, around all that can be swapped."""
        roll = float(face.pose[2])
        turn = np.array([[np.cos(roll), np.sin(roll)], [-np.sin(roll), np.cos(roll)]])
        points = with_irises(face.landmarks, face.iris)
        upright = points[:, :2] @ turn.T
        reach = upright[self._mesh.vertex[self._mesh.base > 0]]
        low, high = reach.min(axis=0), reach.max(axis=0)
        wanted = max(MARGIN * float((high - low).max()), 1.0)
        sharpest = max(source.original.size_px for source in sources)
        useful = OVERSAMPLED * sharpest * wanted / max(face.size, 1.0)
        track.crop_px = self._crop_px(track.crop_px, wanted, useful)
        scale = track.crop_px / wanted
        shift = (track.crop_px - 1) / 2 - scale * (low + high) / 2
        matrix = np.concatenate([scale * turn, shift[:, None]], axis=1).astype(np.float32)
        placed = np.concatenate([upright * scale + shift, points[:, 2:] * scale], axis=1)
        size = float(np.ptp(placed[:, :2], axis=0).max())
        turned = facing(face.landmarks)
        return _View(matrix, track.crop_px, placed.astype(np.float32), turned, size, wanted)

    def _crop_px(self, before: int, wanted: float, useful: float) -> int:
        """The next size up, held until the face has clearly outgrown or left it."""
        most = min(self._max_crop_px, next((s for s in SIZES if s >= useful), self._max_crop_px))
        if before and 0.6 * before <= min(wanted, most) <= before:
            return before
        return next((s for s in SIZES if wanted <= s <= most), most)

    def _warp(
        self, track: _Track, face: Face, sources: Sequence[PreparedSource], view: _View
    ) -> tuple[Tensor, Tensor]:  # [1, 3, S, S] the source on the target's mesh, [1, S, S] weight
        ratios = [face.lids / np.maximum(source.lids, 1e-3) for source in sources]
        drawn = torch.zeros(1, 4, 1, 1, device=self._device)
        places = self._send(view.points[self._mesh.vertex])
        for index, share in track.chooser.choose(face.landmarks):
            source = sources[index]
            texture = source.texture_for(view.size)
            # Both alike: under a hand the mesh often thinks one eye open that is not.
            open_eyes = np.full(2, fade(ratios[index], *SHUT).min())
            track.eyes = open_eyes if not track.frames else (track.eyes + open_eyes) / 2
            picture = raster(
                texture.picture,
                self._send(texture.points[self._mesh.vertex]),
                places,
                self._send(self._weights(track, view, source)),
                self._triangles,
                self._which,
                view.side,
            )
            drawn = picture if share == 1 else drawn + share * picture
        mask = ((drawn[:, 3] - TIGHTEN) / (1 - TIGHTEN)).clamp_(0, 1)
        return drawn[:, :3], mask

    def _weights(self, track: _Track, view: _View, source: PreparedSource) -> Array:  # [V]
        """How much of the source each vertex takes: mask, facing of both, eyes, no mouth interior.

        Where the target turns away, or the source did not show the place, the target stays: a
        texture stretched over it would look worse than another person's cheek.
        """
        seen = fade(view.facing, *TURNED) * fade(source.facing, *UNSEEN)
        weights = self._mesh.base * np.append(seen, np.ones(6))[self._mesh.vertex]
        for eye, inside, share in zip(self._mesh.eyes, self._mesh.inside, track.eyes):
            weights *= 1 - eye * (1 - share)
            # The ring keeps its weight, so that lashes stay the source's.
            weights[inside] *= _through_tightening(EYEBALL)
        weights[self._mesh.mouth] = 0
        result: Array = weights.astype(np.float32)
        return result

    def _recolor(self, track: _Track, front: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        """Give the source the target's colours and the fall of its light.

        Worked out on a small picture. What is finer than that is only scaled by the change of
        contrast, which is what the full calculation would do to it.
        """
        times = -(-front.shape[-1] // COLOR_PX)
        small, place = shrink(front[0], times)[None], shrink(target[0], times)[None]
        weight = shrink(mask, times)
        inner = (weight * 1.5 - 0.5).clamp_(0, 1)  # not the rim, where hair may show
        if not float(inner.sum()) > 4:  # waits on a GPU; nothing to go by
            return front
        own = track.blend("source", color_stats(small, inner))
        wanted = track.blend("target", color_stats(place, inner))
        own_light = track.blend("source light", illumination(small, inner, GRID))
        light = track.blend("target light", illumination(place, inner, GRID))
        gain = (wanted[:, 1, 0] / own[:, 1, 0].clamp(min=1e-3)).clamp(1 / CONTRAST, CONTRAST)
        lit = relight(small, own, wanted, own_light, light, LIGHT, CONTRAST) - gain * small
        added = enlarge(lit[0], times, front.shape[-1])[None]
        return torch.addcmul(added, front, gain.view(1, 1, 1, 1)).clamp_(0, 1)

    def _send(self, array: Array) -> Tensor:
        ready = torch.from_numpy(np.ascontiguousarray(array[None], np.float32))
        return ready.to(self._device, non_blocking=True)  # CUDA takes its own copy at once


def _through_tightening(share: float) -> float:
    """The weight that the mask's tightening turns into `share`."""
    return TIGHTEN + share * (1 - TIGHTEN)
