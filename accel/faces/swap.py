"""What a swapper is, which ones there are, and how one is opened."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

from accel.core import ConfigError, InputError
from accel.faces.face import Face
from accel.kernels.planes import Planes

SUFFIXES = (".onnx", ".dfm")


@dataclass
class SourceFace:
    """One picture of a face to put in."""

    picture: Tensor  # [3, H, W] float RGB 0..1
    landmarks: npt.NDArray[np.float32]  # [468, 3] px
    embedding: npt.NDArray[np.float32] | None = None  # [128]
    shown: int = 1  # faces in the picture that it was taken from


@dataclass
class Job:
    """One face of one frame that is to be swapped."""

    planes: Planes  # the frame; read, not written
    face: Face
    source: int  # which of the identities that the swapper was opened with


@dataclass
class Patch:
    """A swapped face and how it goes back into its frame."""

    crop: Tensor  # [3, S, S] RGB 0..1
    mask: Tensor  # [S, S] how much of the crop is taken, 0..1
    matrix: Tensor  # [2, 3] frame -> crop, pixel centres at whole numbers
    gain: Tensor | None = None  # [3] the crop is multiplied by it
    bias: Tensor | None = None  # [3] and this is added


class Swapper(Protocol):
    """Puts faces in. Jobs of one track must come in order of time.

    One that remembers tracks has `apart()` too, which gives it without them: for another film.
    """

    @property
    def name(self) -> str: ...

    def swap(self, jobs: Sequence[Job]) -> list[Patch]:
        """Return one patch a job, in order."""
        ...


@dataclass(frozen=True, kw_only=True)
class SwapperSpec:
    """What a family of single-file networks takes and gives.

    size: side of the target's crop in pixels; 0 where the file says it.
    template: where the five points lie in it, see `templates`.
    mean_in, scale_in: the network sees (rgb - mean_in) · scale_in of rgb 0..1.
    mean_out, scale_out: rgb is what it gives · scale_out + mean_out.
    source: what it is told of the face to put in: `emap` (a recogniser's embedding times a matrix
        in the file, of length 1), `normed` (the embedding, of length 1), `raw` (as it is), `image`
        (a crop), or `none` (the face is in the weights).
    converter: the embedding first goes through a network of its own, a second file.
    image_size, image_template: the crop of the source picture, for `image`.
    channels_last: crops are NHWC with blue first, the order of OpenCV, instead of NCHW with red.
    face_output: which output is the face. mask_outputs: which ones are masks.
    """

    size: int
    template: str
    mean_in: tuple[float, float, float] = (0.0, 0.0, 0.0)
    scale_in: tuple[float, float, float] = (1.0, 1.0, 1.0)
    mean_out: float = 0.0
    scale_out: float = 1.0
    source: str = "normed"
    converter: bool = False
    image_size: int = 0
    image_template: str = ""
    channels_last: bool = False
    face_output: int = 0
    mask_outputs: tuple[int, ...] = ()


_SIGNED: dict[str, Any] = {  # -1..1 in and out
    "mean_in": (0.5,) * 3, "scale_in": (2.0,) * 3, "mean_out": 0.5, "scale_out": 0.5,
}  # fmt: skip
_IMAGENET: dict[str, Any] = {
    "mean_in": (0.485, 0.456, 0.406), "scale_in": (1 / 0.229, 1 / 0.224, 1 / 0.225),
}  # fmt: skip
_V1 = "arcface_112_v1"

SWAPPERS: dict[str, SwapperSpec] = {
    "inswapper": SwapperSpec(size=128, template="arcface_128", source="emap"),
    "hyperswap": SwapperSpec(size=256, template="arcface_128", **_SIGNED),
    "simswap_256": SwapperSpec(size=256, template=_V1, converter=True, **_IMAGENET),
    "simswap_512": SwapperSpec(size=512, template=_V1, converter=True),
    "ghost": SwapperSpec(size=256, template=_V1, source="raw", converter=True, **_SIGNED),
    "hififace": SwapperSpec(size=256, template="mtcnn", converter=True, **_SIGNED),
    "blendswap": SwapperSpec(
        size=256, template="ffhq", source="image", image_size=112, image_template="arcface_112"
    ),
    "uniface": SwapperSpec(
        size=256, template="ffhq", source="image", image_size=256, image_template="ffhq", **_SIGNED
    ),
    "dfm": SwapperSpec(
        size=0, template="whole_face", source="none", channels_last=True,
        face_output=1, mask_outputs=(0, 2),
    ),
}  # fmt: skip


Sources = Sequence[Sequence[SourceFace]] | Callable[[], Sequence[Sequence[SourceFace]]]


def open_swapper(
    name_or_path: str | Path,
    sources: Sources,
    *,
    device: str = "cpu",
    recogniser: Path | None = None,
    converter: Path | None = None,
    spec: str | None = None,
) -> Swapper:
    """Open a swapper: `mesh`, which needs no weights, or a network in one ONNX or DFM file.

    sources: for each identity its pictures; or what makes them, which is called once the networks
        are open, so that nothing is prepared for a file that cannot be used.

    recogniser: ONNX file of the identity network (ArcFace: 112 px, 512 numbers) that most networks
        want the source described by.
    converter: ONNX file that turns those numbers into the ones SimSwap, GHOST and HifiFace want.
    spec: a row of SWAPPERS, where the file's inputs fit several and its name does not tell.

    Raises ConfigError for a name or a missing companion file, InputError for a file that cannot be
    used.
    """
    if spec is not None and spec not in SWAPPERS:
        raise ConfigError(f"a swapper's kind must be one of {', '.join(SWAPPERS)}, got {spec!r}")
    if not callable(sources):
        source_faces(sources)
    path = Path(name_or_path)
    if str(name_or_path) == "mesh":
        from accel.faces.mesh_swap import MeshSwapper

        return MeshSwapper(source_faces(sources), device=device)
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"swapper must be mesh, FILE.onnx or FILE.dfm, got {str(name_or_path)!r}")
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    from accel.faces.onnx_swap import OnnxSwapper

    return OnnxSwapper(
        path, sources, device=device, recogniser=recogniser, converter=converter, spec=spec
    )


def source_faces(sources: Sources) -> Sequence[Sequence[SourceFace]]:
    """The pictures of each identity, made now if they are not there yet; ConfigError for none."""
    found = sources() if callable(sources) else sources
    if not found or not all(found):
        raise ConfigError("a swapper needs at least one source picture for each identity")
    return found
