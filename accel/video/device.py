"""Films that stay on the GPU: NVDEC's surfaces in, our kernels on them, NVENC's surfaces out.

A surface holds NV12: a plane of luma, below it one of blue and red in turn. Its planes are viewed
as tensors by DLPack, written in place, and the same surface goes to the encoder, so no picture
crosses the bus. Decoder, kernels and encoder order themselves by the device's default stream, on
which all three work in the primary context: nothing is waited for.

What does not fit (10 bits, other samplings, odd sizes, a codec or a card without such a unit) goes
by way of the host, and `notes` says so in one line.

Sources: FFmpeg's hwcontext_cuda and nvenc (a surface's planes lie one below the other, at one
pitch); the DLPack exchange of PyAV, which refuses a stream: its capsule is asked for without one.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import torch
from av.codec.hwaccel import HWAccel
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from accel.core import ConfigError, InputError
from accel.kernels.planes import PlaneLayout, Planes
from accel.video.encode import EncodeConfig, offered
from accel.video.frame import Frame
from accel.video.read import DEFAULT_LIMITS, Decoding, Limits, VideoReader, open_video
from accel.video.sniff import reason
from accel.video.stills import FolderReader, ImageReader
from accel.video.write import Finish, VideoWriter

SURFACE = "cuda"  # FFmpeg's name of a picture on the GPU
SAMPLES = "nv12"  # what our kernels read of one
DECODED = ("h264", "hevc", "av1", "vp8", "vp9", "mpeg2video", "mpeg4", "vc1")  # by NVDEC
ENCODED = {"h264": "h264_nvenc", "hevc": "hevc_nvenc", "av1": "av1_nvenc"}


class DeviceFrame(Frame):
    """A frame whose picture and planes lie on the GPU."""

    @property
    def planes(self) -> Planes:
        if self._planes is None:
            self._planes = surface_planes(self.picture, self.layout)
        return self._planes


class DeviceReader(VideoReader):
    """Gives a film's frames as they leave NVDEC.

    `info` and `layout` are those of the host's decoder: the same samples in planes of their own.
    Raises InputError, naming the reason, where the film must be decoded on the host.
    """

    def __init__(
        self, path: Path, device: torch.device, *, limits: Limits = DEFAULT_LIMITS
    ) -> None:
        self.device = device
        super().__init__(path, threads=1, limits=limits)
        self.close()  # the host's decoder has told what there is to know
        try:
            why = why_not_decoded(self)
            if why:
                raise InputError(f"{self.path}: {why}")
            self._opened = self._decoding()
            first = self._opened.first()
            if not is_surface(first):
                raise InputError(f"{self.path}: NVDEC does not take this {self.info.codec} stream")
        except BaseException:
            self.close()
            raise

    def _decoding(self) -> Decoding:
        if not hasattr(self, "info"):
            return super()._decoding()
        return Decoding(self.path, self.demuxer, 1, self.limits, accelerator(self.device))

    def _frame(self, picture: av.VideoFrame, pts: int, index: int) -> Frame:
        if not is_surface(picture):
            raise InputError(f"{self.path}: frame {index} left the GPU as {picture.format.name}")
        return DeviceFrame(self.layout, pts, self.info.time_base, index, picture)


class DeviceWriter(VideoWriter):
    """Hands surfaces to NVENC; otherwise as VideoWriter."""

    def _choose_format(self) -> tuple[str, list[str]]:
        return SURFACE, []

    def _accelerator(self) -> HWAccel | None:
        assert isinstance(self._like, DeviceReader)
        return accelerator(self._like.device)

    def _prepare(self, context: Any) -> None:
        context.sw_format = SAMPLES


def open_film(
    path: Path, device: torch.device, *, limits: Limits = DEFAULT_LIMITS
) -> VideoReader | ImageReader | FolderReader:
    """Open what `open_video` opens; a film on the GPU if `device` is one that can decode it.

    Where it cannot, the reader's notes say why.
    """
    reader = open_video(path, limits=limits)
    if device.type != "cuda" or not isinstance(reader, VideoReader):
        return reader
    try:
        on_device = DeviceReader(path, device, limits=limits)
    except (InputError, av.error.FFmpegError, OSError, NotImplementedError) as error:
        text = str(error) if isinstance(error, InputError) else reason(error)
        reader.notes.append(f"decoded on the host: {text.removeprefix(f'{path}: ')}")
        return reader
    reader.close()
    return on_device


def open_film_writer(
    path: Path, like: Any, config: EncodeConfig, *, finish: Finish | None = None
) -> VideoWriter | None:
    """A writer for surfaces, or None where the frames of `like` must be encoded on the host.

    A quality, speed or codec that was asked for in the words of a host's encoder is obeyed.
    """
    if not isinstance(like, DeviceReader):
        return None
    wanted = encoder_for(like.info.codec, config)
    if wanted is None:
        like.notes.append("encoded on the host, as its encoder's settings ask for")
        return None
    try:
        return DeviceWriter(path, like, replace(config, codec=wanted), finish=finish)
    except ConfigError as error:
        like.notes.append(f"encoded on the host: {str(error).removeprefix(f'{path}: ')}")
        return None


def encoder_for(codec: str, config: EncodeConfig) -> str | None:
    """NVENC's encoder for a film, None where the settings ask for another one."""
    name = config.encoder
    if name is None:
        asks = config.crf is not None or config.preset or config.lossless or config.options
        name = None if asks else ENCODED.get(codec, "h264_nvenc")
    return name if name in offered() and name in ENCODED.values() else None


def why_not_decoded(reader: VideoReader) -> str:
    """Why a film cannot be decoded on a GPU; "" if nothing known speaks against it."""
    info = reader.info
    if info.codec not in DECODED:
        return f"NVDEC decodes {', '.join(DECODED)}, got {info.codec}"
    if info.pixel_format not in ("yuv420p", "yuvj420p"):
        return f"surfaces are 8-bit 4:2:0, got {info.pixel_format}"
    if info.width % 2 or info.height % 2:
        return f"surfaces have even sides, got {info.width}x{info.height}"
    return ""


def accelerator(device: torch.device) -> HWAccel:
    """FFmpeg's access to a device, in the context that torch uses too."""
    return HWAccel(
        device_type=SURFACE, device=str(device.index or 0), allow_software_fallback=False,
        options={"primary_ctx": "1"}, is_hw_owned=True,
    )  # fmt: skip


def is_surface(picture: av.VideoFrame) -> bool:
    """Whether it is NV12 on the GPU."""
    samples = picture.sw_format
    return picture.format.name == SURFACE and samples is not None and samples.name == SAMPLES


def surface_planes(picture: av.VideoFrame, layout: PlaneLayout) -> Planes:
    """View a surface's luma, blue and red; writing into them changes what is encoded."""
    luma, pairs = (from_dlpack(plane.__dlpack__()) for plane in picture.planes)
    return Planes(luma, pairs[..., 0], pairs[..., 1], layout)


def surface_of(
    codes: Tensor,  # [3 * H / 2, W] uint8 on the GPU, as `to_nv12` gives: luma, then pairs
) -> av.VideoFrame:
    """A picture for NVENC out of a tensor, which it keeps alive and reads in place.

    Raises ValueError for another kind of tensor.
    """
    rows, width = codes.shape if codes.ndim == 2 else (0, 0)
    if codes.dtype != torch.uint8 or rows % 3 or width % 2 or not rows or not codes.is_contiguous():
        raise ValueError(
            "surface_of: codes must be [3 * H / 2, W] uint8, side by side in memory, got "
            f"{tuple(codes.shape)} {codes.dtype}"
        )
    height = rows // 3 * 2
    return av.VideoFrame.from_dlpack((codes[:height], codes[height:]), format=SAMPLES)
