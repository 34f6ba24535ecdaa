"""A video frame: the planes the decoder gave, when it is shown, and what rides along.

Sources: ITU-T H.273 (matrix, range and chroma location codes); FFmpeg's pixel format names.
"""

from __future__ import annotations

import re
from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import torch
from torch import Tensor

from accel.core import InputError
from accel.kernels.planes import PlaneLayout, Planes, gbr_layout, yuv_layout

# Matrix codes of H.273 table 4, by the names our kernels know.
MATRICES = {1: "bt709", 4: "fcc", 5: "bt601", 6: "bt601", 7: "smpte240m", 9: "bt2020"}
FULL_RANGE = 2  # FFmpeg's AVCOL_RANGE_JPEG
# Chroma sample (0, 0) in half luma pixels right of and below luma sample (0, 0), by FFmpeg's names.
_SITES = {
    "left": (0, 1), "center": (1, 1), "topleft": (0, 0),
    "top": (1, 0), "bottomleft": (0, 2), "bottom": (1, 2),
}  # fmt: skip
_SHIFTS = {"444": (0, 0), "440": (0, 1), "422": (1, 0), "420": (1, 1), "411": (2, 0), "410": (2, 2)}
_PLANAR_YUV = re.compile(r"yuv([ja]?)(444|440|422|420|411|410)p(\d+)?(?:le)?$")
_PLANAR_RGB = re.compile(r"gbra?p(\d+)?(?:le)?$")
_TWINS = {
    "pal8": "gbrap", "rgba": "gbrap", "bgra": "gbrap", "argb": "gbrap", "abgr": "gbrap",
    "rgb48le": "gbrp16le", "rgb48be": "gbrp16le", "bgr48le": "gbrp16le", "bgr48be": "gbrp16le",
    "rgba64le": "gbrap16le", "rgba64be": "gbrap16le", "bgra64le": "gbrap16le",
    "x2rgb10le": "gbrp10le", "x2bgr10le": "gbrp10le",
    "gray": "yuv420p", "ya8": "yuva420p", "gray9le": "yuv420p9le", "gray10le": "yuv420p10le",
    "gray12le": "yuv420p12le", "gray14le": "yuv420p14le", "gray16le": "yuv420p16le",
    "gray16be": "yuv420p16le", "ya16le": "yuva420p16le", "ya16be": "yuva420p16le",
    "nv12": "yuv420p", "nv21": "yuv420p", "nv16": "yuv422p", "nv24": "yuv444p", "nv42": "yuv444p",
    "nv20le": "yuv422p10le", "p010le": "yuv420p10le", "p012le": "yuv420p12le",
    "p016le": "yuv420p16le", "p210le": "yuv422p10le", "p410le": "yuv444p10le",
    "yuyv422": "yuv422p", "uyvy422": "yuv422p", "yvyu422": "yuv422p", "uyyvyy411": "yuv411p",
    "y210le": "yuv422p10le", "y212le": "yuv422p12le", "xv30le": "yuv444p10le",
}  # fmt: skip
_PACKED_RGB = (
    "rgb24", "bgr24", "rgb0", "bgr0", "0rgb", "0bgr", "rgb8", "bgr8", "rgb4_byte", "bgr4_byte",
    "rgb565le", "bgr565le", "rgb555le", "bgr555le", "rgb444le", "bgr444le", "monow", "monob",
)  # fmt: skip


class Frame:
    """One picture of a stream, still in its planes.

    pts: presentation time in units of `time_base`, exactly as the file had it.
    index: 0 for the first frame that the reader gave.
    picture: owns the memory and carries colour tags and side data.
    planes: views on the memory of `picture`; writing into them changes the frame that is encoded.
        They are made when first asked for: if the decoder still needs the picture to predict others
        from, it is copied then, so that a frame nobody looks at costs nothing.
    """

    def __init__(
        self,
        planes: Planes | PlaneLayout,
        pts: int,
        time_base: Fraction,
        index: int,
        picture: av.VideoFrame,
    ) -> None:
        self._planes = planes if isinstance(planes, Planes) else None
        self.layout = planes.layout if isinstance(planes, Planes) else planes
        self.pts = pts
        self.time_base = time_base
        self.index = index
        self.picture = picture

    @property
    def planes(self) -> Planes:
        if self._planes is None:
            self.picture.make_writable()
            self._planes = view_planes(self.picture, self.layout)
        return self._planes

    def view(self) -> Planes:
        """The planes to look at, not to write into: nothing is copied, whoever else needs them."""
        return view_planes(self.picture, self.layout) if self._planes is None else self._planes

    @property
    def time_s(self) -> float:
        return float(self.pts * self.time_base)

    def __repr__(self) -> str:
        return f"<Frame {self.index} {self.picture.format.name} at {self.time_s:.3f} s>"


def twin_format(pixel_format: str) -> str:
    """Return the planar format that holds the same samples; `pixel_format` itself if it is planar.

    Raises InputError for a format without such a twin (Bayer, float, XYZ).
    """
    if _PLANAR_YUV.match(pixel_format) or _PLANAR_RGB.match(pixel_format):
        return pixel_format
    if pixel_format in _PACKED_RGB:
        return "gbrp"
    if pixel_format in _TWINS:
        return _TWINS[pixel_format]
    little = pixel_format.removesuffix("be") + "le"
    if little != pixel_format and pixel_format.endswith("be"):
        return twin_format(little)
    raise InputError(f"pixel format {pixel_format} cannot be read; planar YUV or RGB can")


def planar(picture: av.VideoFrame) -> av.VideoFrame:
    """Return `picture` in its planar twin: itself, or a copy with equal sample values."""
    twin = twin_format(picture.format.name)
    upright = all(plane.line_size > 0 for plane in picture.planes)  # bottom-up rows are negative
    if twin == picture.format.name and upright:
        return picture
    return reformat(picture, twin)


def reformat(picture: av.VideoFrame, pixel_format: str) -> av.VideoFrame:
    """Rearrange samples into another format of the same colour model, range and matrix."""
    # swscale rescales unless both sides name one range, and takes yuvj and grey for full range
    name = picture.format.name
    is_full = picture.color_range == FULL_RANGE or name.startswith(("yuvj", "gray", "ya"))
    side = "JPEG" if is_full else "MPEG"
    # One thread: swscale's vector code writes past the end of a row, over the first samples of the
    # next, which another thread may have finished already (seen with P010 of unaligned width).
    out = picture.reformat(
        format=pixel_format, src_color_range=side, dst_color_range=side, threads=1
    )
    out.color_range = picture.color_range
    out.colorspace = picture.colorspace
    return out


def choose_layout(
    pixel_format: str,
    *,
    width: int,
    height: int,
    matrix: int = 2,
    color_range: int = 0,
    chroma_location: str = "unspecified",
    is_jpeg: bool = False,
) -> PlaneLayout:
    """Return the layout of a planar format from colour tags; absent ones are guessed as usual.

    matrix, color_range: codes of H.273 and FFmpeg. Without a matrix, SD (up to 1024x576) is BT.601
    and anything larger BT.709. Without a chroma location, JPEG's is the centre, all others' left.
    """
    rgb = _PLANAR_RGB.match(pixel_format)
    if rgb:
        return gbr_layout(bits=int(rgb[1] or 8))
    yuv = _PLANAR_YUV.match(pixel_format)
    if not yuv:
        raise InputError(f"pixel format {pixel_format} has no planes")
    shift_x, shift_y = _SHIFTS[yuv[2]]
    guess = "bt601" if height <= 576 and width <= 1024 else "bt709"
    layout = yuv_layout(
        matrix="bt601" if is_jpeg and matrix == 2 else MATRICES.get(matrix, guess),
        full_range=yuv[1] == "j" or color_range == FULL_RANGE,
        bits=int(yuv[3] or 8),
        shift_x=shift_x,
        shift_y=shift_y,
        siting="center" if is_jpeg else "left",
    )
    if chroma_location not in _SITES:
        return layout
    right, down = _SITES[chroma_location]
    return replace(
        layout,
        site_x=right * ((1 << shift_x) - 1) / 2,
        site_y=down * ((1 << shift_y) - 1) / 2,
    )


def view_planes(picture: av.VideoFrame, layout: PlaneLayout) -> Planes:
    """View the first three planes of a planar picture as tensors, without a copy."""
    first, second, third = (_view(plane, layout.dtype) for plane in picture.planes[:3])
    return Planes(first, second, third, layout)


def _view(plane: av.video.plane.VideoPlane, dtype: torch.dtype) -> Tensor:  # [H, W]
    kind = np.uint8 if dtype == torch.uint8 else np.uint16
    rows = np.frombuffer(plane, kind).reshape(plane.height, -1)
    return torch.from_numpy(rows)[:, : plane.width]
