"""Test material: the embedded portrait as a still and as a short film that moves."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable

import av
import cv2
import numpy as np
import torch

from accel.kernels import Planes, yuv_layout
from accel.provenance.detector import weight_of
from accel.weights.assets import asset

HEIGHT, WIDTH = 360, 640


def portrait() -> np.ndarray:  # [512, 512, 3] uint8 RGB
    return cv2.cvtColor(cv2.imread(str(asset("astronaut.png"))), cv2.COLOR_BGR2RGB)


def gray(rgb: np.ndarray) -> np.ndarray:  # [H, W] uint8
    return cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)


def planes_of(height: int, width: int, step: int = 0) -> Planes:
    """Frame `step` of the film, as 4:2:0 planes."""
    scale = height / 300 * (1 + 0.1 * np.sin(step / 20))
    centre = (256 + 60 * np.sin(step / 25), 180 + 30 * np.cos(step / 18))
    matrix = cv2.getRotationMatrix2D(centre, 3 * np.sin(step / 15), scale)
    matrix[:, 2] += [width / 2 - 256, height / 2 - 180]
    rgb = cv2.warpAffine(
        portrait(), matrix, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT
    )
    noise = np.random.default_rng(step).normal(0, 1.5, rgb.shape)
    codes = np.clip(rgb + noise, 0, 255).astype(np.uint8)
    yuv = cv2.cvtColor(codes, cv2.COLOR_RGB2YUV_I420)
    chroma = yuv[height:].reshape(2, height // 2, width // 2)
    return Planes(*(torch.from_numpy(p.copy()) for p in (yuv[:height], *chroma)), yuv_layout())


def film(frames: int = 30, height: int = HEIGHT, width: int = WIDTH) -> list[Planes]:
    return [planes_of(height, width, 2 * step) for step in range(frames)]


def encode(
    frames: Iterable[Planes],
    *,
    crf: int = 23,
    codec: str = "libx264",
    size: tuple[int, int] | None = None,
    preset: str = "veryfast",
    container: str = "mp4",
    rate: int = 25,
) -> bytes:
    """Encode in `rate` frames a second, scaled to `size` (width, height) if given."""
    out = io.BytesIO()
    options = {"crf": str(crf), "preset": preset}
    os.environ.setdefault("SVT_LOG", "1")  # or SVT-AV1 prints its settings
    if codec == "libvpx-vp9":
        options = {"crf": str(crf), "b": "0", "cpu-used": "5"}
    if codec == "libx265":
        options["x265-params"] = "pools=1:frame-threads=1:log-level=none"
    with av.open(out, "w", format=container) as file:
        stream = None
        for planes in frames:
            height, width = planes.c0.shape
            whole = np.concatenate([p.numpy().reshape(-1, width) for p in planes[:3]])
            picture = av.VideoFrame.from_ndarray(whole, format="yuv420p")
            if stream is None:
                stream = file.add_stream(codec, rate=rate, options=options)
                stream.width, stream.height = size or (width, height)
                stream.pix_fmt = "yuv420p"
            if size:
                picture = picture.reformat(*size, interpolation="BICUBIC")
            file.mux(stream.encode(picture))
        file.mux(stream.encode())
    return out.getvalue()


def lumas(data: bytes) -> list[tuple[np.ndarray, float]]:
    """The decoded luma planes of a film, and what each counts for a detector."""
    with av.open(io.BytesIO(data)) as file:
        return [
            (f.to_ndarray(format="yuv420p")[: f.height], weight_of(f)) for f in file.decode(video=0)
        ]


def jpeg(picture: np.ndarray, quality: int) -> np.ndarray:  # [H, W] uint8
    packed = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return cv2.imdecode(packed, cv2.IMREAD_GRAYSCALE)
