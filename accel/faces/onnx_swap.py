"""Swappers that are one network in one file: inswapper, SimSwap, GHOST, HyperSwap, DFM and kin.

The rows of `swap.SWAPPERS` say what each family takes and gives; here is what they share. Nothing
is learned about the source twice: its embedding or crop is made when the swapper is opened.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch

from accel.core import ConfigError, InputError, choose_device
from accel.faces.align import Array, transform
from accel.faces.crops import picture_planes, rgb_crops
from accel.faces.swap import (
    SWAPPERS,
    Job,
    Patch,
    SourceFace,
    Sources,
    SwapperSpec,
    source_faces,
)
from accel.faces.templates import TEMPLATES, template_matrix
from accel.kernels.crop import crop
from accel.weights.onnx import Network, last_initializer, open_onnx

Pixels = npt.NDArray[np.float32]

MAX_BATCH = 16  # faces in one run
EMBEDDING = 512
BOX_BLUR = 0.3  # softness of the crop's border, as a share of half its side
HULL_BLUR = 5 / 256  # softness of the face's outline, as a share of the crop's side
MORPH = 1.0  # DFM files that take a morph value: the whole of the face in the weights
SMALLEST_DFM_PX, LARGEST_DFM_PX = 32, 1024


class OnnxSwapper:
    """Swaps by a network; see the module and `swap.open_swapper`.

    name: the row of SWAPPERS in use. network: what runs.
    """

    def __init__(
        self,
        path: Path,
        sources: Sources,
        *,
        device: str = "cpu",
        recogniser: Path | None = None,
        converter: Path | None = None,
        spec: str | None = None,
    ) -> None:
        open_file = _Opener(device)
        self.network = open_file(path)
        self.name = recognise_signature(self.network, path.stem, spec)
        self.spec = SWAPPERS[self.name]
        self.template = self.spec.template
        if self.spec.source == "none":  # our own DFM files say how much of a head they show
            said = self.network.metadata.get("face_type", "")
            self.template = said if said in TEMPLATES else self.template
        self.size = self.spec.size or _dfm_size(self.network)
        self._device = choose_device(device)
        self._box = box_mask(self.size)
        self._target, self._source, self._morph = _ports(self.network, self.spec)
        self._latents = _latents(self.spec, path, sources, open_file, recogniser, converter)
        self._latents_there: list[torch.Tensor] = []  # on a GPU

    def swap(self, jobs: Sequence[Job]) -> list[Patch]:
        """Return one patch a job, in order."""
        patches: list[Patch] = []
        for start in range(0, len(jobs), MAX_BATCH):
            patches += self._swap(jobs[start : start + MAX_BATCH])
        return patches

    def _swap(self, jobs: Sequence[Job]) -> list[Patch]:
        spec = self.spec
        # Rounded before it is used: the crop is read by the very matrix that pastes it back.
        matrices = np.stack(
            [template_matrix(j.face.landmarks, self.template, self.size) for j in jobs]
        ).astype(np.float32)
        if self._stays_there(jobs):
            return self._swap_on_device(jobs, matrices)
        crops = np.concatenate(
            [rgb_crops(j.planes, m[None], self.size) for j, m in zip(jobs, matrices)]
        )
        feed = {self._target: self._prepared(crops)}
        if self._source:
            feed[self._source] = np.stack([self._latents[job.source] for job in jobs])
        if self._morph:
            feed[self._morph] = np.array([MORPH], np.float32)
        outputs = self.network(**feed)
        faces = self._faces(outputs[spec.face_output], len(jobs))
        masks = self._masks(outputs, jobs, matrices)
        return [
            # The matrix stays on the CPU, where `paste` needs it.
            Patch(self._sent(face), self._sent(mask), torch.from_numpy(matrix))
            for face, mask, matrix in zip(faces, masks, matrices)
        ]

    def _sent(self, array: Pixels) -> torch.Tensor:
        return torch.from_numpy(array).to(self._device)

    def _stays_there(self, jobs: Sequence[Job]) -> bool:
        """Whether crops can go through the network without leaving the GPU."""
        spec = self.spec
        plain = not (spec.channels_last or spec.mask_outputs or self._morph)
        return plain and self.network.binding is not None and all(j.planes.c0.is_cuda for j in jobs)

    def _swap_on_device(self, jobs: Sequence[Job], matrices: Pixels) -> list[Patch]:
        """As _swap; frames, crops and faces stay on the GPU and nothing is waited for.

        What goes there: the masks, and the sources once.
        """
        spec = self.spec
        crops = [
            crop(j.planes, torch.from_numpy(m)[None], self.size, mean=spec.mean_in,
                 scale=spec.scale_in, border="zero")
            for j, m in zip(jobs, matrices)
        ]  # fmt: skip
        if not self._latents_there:
            self._latents_there = [torch.from_numpy(v).to(self._device) for v in self._latents]
        feed = {self._target: torch.cat(crops)}
        if self._source:
            feed[self._source] = torch.stack([self._latents_there[job.source] for job in jobs])
        made = self.network.on_device(**feed)[spec.face_output]
        wanted = (len(jobs), 3, self.size, self.size)
        if tuple(made.shape) != wanted:
            raise InputError(
                f"{self.network.name}: a {self.name} network must give {list(wanted)}, "
                f"got {list(made.shape)}"
            )
        faces = made.float() * spec.scale_out + spec.mean_out
        faces = faces.nan_to_num_(0.0).clamp_(0, 1)  # whether they are finite is not asked: a wait
        masks = [
            np.minimum(face_mask(j.face.landmarks, m, self.size), self._box)
            for j, m in zip(jobs, matrices)
        ]
        there = torch.from_numpy(np.stack(masks)).to(self._device, non_blocking=True)
        return [Patch(*parts) for parts in zip(faces, there, torch.from_numpy(matrices))]

    def _prepared(self, crops: Pixels) -> Pixels:  # [N, S, S, 3] RGB 0..1 -> what the network sees
        spec = self.spec
        if spec.channels_last:
            return np.stack([_sharpened(crop) for crop in crops])[..., ::-1]
        return _normalised(crops, spec)

    def _faces(self, output: Pixels, count: int) -> Pixels:  # -> [N, 3, S, S] RGB 0..1
        spec = self.spec
        wanted = (count, 3, self.size, self.size)
        if spec.channels_last and output.ndim == 4:
            output = output[..., ::-1].transpose(0, 3, 1, 2)
        if output.shape != wanted:
            raise InputError(
                f"{self.network.name}: a {self.name} network must give {list(wanted)}, "
                f"got {list(output.shape)}"
            )
        faces = output.astype(np.float32) * np.float32(spec.scale_out) + np.float32(spec.mean_out)
        if not np.isfinite(faces).all():
            raise InputError(f"{self.network.name}: gave numbers that are not finite")
        return np.ascontiguousarray(faces.clip(0, 1))

    def _masks(self, outputs: list[Any], jobs: Sequence[Job], matrices: Pixels) -> list[Pixels]:
        """[S, S] each: soft at the crop's border, and no larger than the face."""
        if not self.spec.mask_outputs:
            shapes = (face_mask(j.face.landmarks, m, self.size) for j, m in zip(jobs, matrices))
        else:
            given = [self._given(outputs[i], len(jobs)) for i in self.spec.mask_outputs]
            shapes = (own_mask(mask) for mask in np.minimum.reduce(given).astype(np.float32))
        return [np.minimum(mask, self._box) for mask in shapes]

    def _given(self, mask: Pixels, count: int) -> Pixels:  # [N, S, S, 1] or so -> [N, S, S]
        wanted = (count, self.size, self.size)
        if mask.size != count * self.size * self.size:
            raise InputError(
                f"{self.network.name}: a mask must be {list(wanted)}, got {list(mask.shape)}"
            )
        return mask.reshape(wanted)


class _Opener:
    """Opens the files of one swapper alike."""

    def __init__(self, device: str) -> None:
        self.device = device

    def __call__(self, path: Path) -> Network:
        return open_onnx(path, device=self.device, threads=torch.get_num_threads())


def recognise_signature(network: Network, stem: str, spec: str | None = None) -> str:
    """Return the row of SWAPPERS that a network's inputs and outputs fit.

    Where several fit, the file's name decides, or `spec`. Raises InputError with what was found.
    """
    fitting = [name for name, row in SWAPPERS.items() if _fits(network, row)]
    if spec is not None and spec in fitting:
        return spec
    found = f"{_ports_text(network.inputs)} -> {_ports_text(network.outputs)}"
    if spec is not None:
        raise InputError(f"{network.name}: does not fit the signature {spec}: {found}")
    if not fitting:
        raise InputError(
            f"{network.name}: must have the inputs of one of {', '.join(SWAPPERS)}, got {found}"
        )
    named = [name for name in fitting if name.split("_")[0] in stem.lower()]
    if len(fitting) > 1 and len(named) != 1:
        raise InputError(
            f"{network.name}: may be any of {', '.join(fitting)}: give `spec`, "
            "or a file name that says which"
        )
    return named[0] if len(fitting) > 1 else fitting[0]


def _ports_text(ports: Sequence[Any]) -> str:
    return "; ".join(str(port) for port in ports)


def _fits(network: Network, spec: SwapperSpec) -> bool:
    shapes = {p.name: p.shape[1:] for p in network.inputs if len(p.shape) > 1}
    if spec.source == "none":
        pictures = [s for s in shapes.values() if len(s) == 3 and s[2] == 3 and s[0] == s[1]]
        return len(pictures) == len(shapes) == 1 and len(network.outputs) == 3
    target = (3, spec.size, spec.size)
    source: tuple[int, ...] = (EMBEDDING,)
    if spec.source == "image":
        source = (3, spec.image_size, spec.image_size)
    return (
        len(network.inputs) == 2
        and _matches(shapes.get("target"), target)
        and _matches(shapes.get("source"), source)
    )


def _matches(shape: tuple[int | str, ...] | None, wanted: tuple[int, ...]) -> bool:
    """Free sizes fit all."""
    return (
        shape is not None
        and len(shape) == len(wanted)
        and all(isinstance(a, str) or a == b for a, b in zip(shape, wanted))
    )


def _ports(network: Network, spec: SwapperSpec) -> tuple[str, str, str]:
    """Names of the inputs for the target, the source ("" if none) and the morph value ("" too)."""
    if spec.source != "none":
        return "target", "source", ""
    target = next(p.name for p in network.inputs if len(p.shape) == 4)
    morph = next((p.name for p in network.inputs if len(p.shape) == 1), "")
    return target, "", morph


def _dfm_size(network: Network) -> int:
    size = next(p.shape[1] for p in network.inputs if len(p.shape) == 4)
    if not isinstance(size, int) or not SMALLEST_DFM_PX <= size <= LARGEST_DFM_PX:
        raise InputError(
            f"{network.name}: a DFM's side must lie in {SMALLEST_DFM_PX}..{LARGEST_DFM_PX}, "
            f"got {size}"
        )
    return size


def _latents(
    spec: SwapperSpec,
    path: Path,
    sources: Sources,
    open_file: _Opener,
    recogniser: Path | None,
    converter: Path | None,
) -> list[Pixels]:
    """What the network is told of each identity."""
    if spec.source == "none":
        return []
    if spec.source == "image":
        return [_source_image(spec, pictures[0]) for pictures in source_faces(sources)]
    if recogniser is None:
        raise ConfigError(
            f"{path}: needs `recogniser`, the ONNX file of the ArcFace network it was trained with "
            "(input 1x3x112x112, output 512 numbers; often named w600k_r50.onnx)"
        )
    if spec.converter and converter is None:
        raise ConfigError(
            f"{path}: needs `converter`, the ONNX file that turns ArcFace's 512 numbers into those "
            "of the network it was trained with"
        )
    arcface = open_file(recogniser)
    convert = open_file(converter) if spec.converter and converter else None
    emap = _emap(path) if spec.source == "emap" else None
    latents = []
    for pictures in source_faces(sources):
        vectors = _embeddings(arcface, pictures)
        if convert is not None:
            vectors = convert(vectors)[0].reshape(len(pictures), -1)
        if vectors.shape[1] != EMBEDDING:
            raise InputError(f"{arcface.name}: must give {EMBEDDING} numbers, got {vectors.shape}")
        if spec.source == "raw":
            latents.append(vectors.mean(axis=0))
            continue
        mean = _unit(_unit(vectors).mean(axis=0))
        latents.append(mean if emap is None else _unit(mean @ emap))
    return latents


def _emap(path: Path) -> Pixels:
    matrix = last_initializer(path)
    if matrix is None or matrix.shape != (EMBEDDING, EMBEDDING):
        raise InputError(
            f"{path}: an inswapper's last initialiser must be a matrix {EMBEDDING}x{EMBEDDING}, "
            f"got {None if matrix is None else list(matrix.shape)}"
        )
    return matrix.astype(np.float32)


def _unit(vectors: Pixels) -> Pixels:
    length: Pixels = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return (vectors / np.maximum(length, np.float32(1e-12))).astype(np.float32)


def _embeddings(arcface: Network, pictures: Sequence[SourceFace]) -> Pixels:  # [P, 512]
    shape = arcface.inputs[0].shape[1:]
    if len(arcface.inputs) != 1 or not _matches(shape, (3, 112, 112)):
        raise InputError(
            f"{arcface.name}: a recogniser must take 1x3x112x112, got {_ports_text(arcface.inputs)}"
        )
    crops = np.stack([_cut(face, "arcface_112", 112) for face in pictures]) * 2 - 1
    vectors = arcface(crops.transpose(0, 3, 1, 2))[0]
    return vectors.reshape(len(pictures), -1).astype(np.float32)


def _source_image(spec: SwapperSpec, face: SourceFace) -> Pixels:  # [3, S, S]
    crop = _cut(face, spec.image_template, spec.image_size)
    (seen,) = _normalised(crop[None], spec)
    return np.asarray(seen, np.float32)


def _normalised(crops: Pixels, spec: SwapperSpec) -> Pixels:  # [N, S, S, 3] -> [N, 3, S, S]
    mean, scale = (np.array(v, np.float32) for v in (spec.mean_in, spec.scale_in))
    seen: Pixels = np.ascontiguousarray(((crops - mean) * scale).transpose(0, 3, 1, 2))
    return seen


def _cut(face: SourceFace, template: str, size: int) -> Pixels:  # [S, S, 3] RGB 0..1
    codes = (face.picture.cpu().clamp(0, 1) * 255).round().to(torch.uint8)
    planes = picture_planes(np.ascontiguousarray(codes.permute(1, 2, 0).numpy()))
    (crop,) = rgb_crops(planes, template_matrix(face.landmarks, template, size)[None], size)
    return np.asarray(crop, np.float32)


def _sharpened(crop: Pixels) -> Pixels:
    """What DFM networks are used to: crops of still pictures, sharper than video."""
    blurred: Pixels = cv2.GaussianBlur(crop, (0, 0), 2)
    sharp = np.asarray(1.75 * crop - 0.75 * blurred, np.float32)
    return np.minimum(np.maximum(sharp, 0), 1)


def box_mask(size: int) -> Pixels:  # [S, S]
    """One inside, falling to zero towards the border of the crop."""
    blur = BOX_BLUR * size / 2
    border = max(int(blur) // 2, 1)
    mask = np.zeros((size, size), np.float32)
    mask[border:-border, border:-border] = 1
    soft: Pixels = cv2.GaussianBlur(mask, (0, 0), max(blur / 4, 0.5))
    soft[[0, -1]] = soft[:, [0, -1]] = 0  # nothing shows where the crop ends
    return soft


def face_mask(landmarks: Any, matrix: Any, size: int) -> Pixels:  # [S, S]
    """One inside the outline of the landmarks, falling to zero before it ends."""
    points: Array = transform(matrix, np.asarray(landmarks)[:, :2])
    hull = cv2.convexHull(points.astype(np.float32))
    mask = np.zeros((size, size), np.float32)
    shift = 4  # bits of sub-pixel position
    cv2.fillConvexPoly(mask, np.round(hull * (1 << shift)).astype(np.int32), 1.0, 8, shift)
    soft: Pixels = cv2.GaussianBlur(mask, (0, 0), HULL_BLUR * size)
    return np.asarray((soft.clip(0.5, 1) - 0.5) * 2, np.float32)


def own_mask(mask: Pixels) -> Pixels:  # [S, S]
    """A mask that the network gave, drawn in and softened."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3))
    inner = cv2.erode(mask.clip(0, 1), kernel, iterations=2)
    soft: Pixels = cv2.GaussianBlur(inner, (0, 0), 6.25)
    return soft
