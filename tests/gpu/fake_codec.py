"""NVDEC and NVENC of the counting device: surfaces are NV12 pictures that the host decoded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import av
import numpy as np
import torch

from accel.kernels.planes import PlaneLayout, Planes
from accel.video import device as video_device
from accel.video.device import DeviceFrame, DeviceReader, DeviceWriter
from accel.video.frame import reformat
from tests.gpu.fake_cuda import Device


@contextmanager
def fake_codec(device: Device, *, encodes: bool = True) -> Iterator[list[str]]:
    """Decode and encode "on the device"; gives a list that grows by each surface's way in and out.

    encodes: False for a card without NVENC.
    """
    seen: list[str] = []

    def is_surface(picture: av.VideoFrame) -> bool:
        return picture.format.name == "yuv420p"

    def frame(self: DeviceReader, picture: av.VideoFrame, pts: int, index: int) -> DeviceFrame:
        seen.append("in")
        surface = reformat(picture, "nv12")
        return DeviceFrame(self.layout, pts, self.info.time_base, index, surface)

    def surface_planes(picture: av.VideoFrame, layout: PlaneLayout) -> Planes:
        luma, pairs = (np.frombuffer(p, np.uint8).reshape(-1, p.line_size) for p in picture.planes)
        y = torch.from_numpy(luma)[:, : picture.width]
        uv = torch.from_numpy(pairs)[:, : picture.width].view(len(pairs), -1, 2)
        return Planes(*map(device.wrap, (y, uv[..., 0], uv[..., 1])), layout)

    def choose_format(self: DeviceWriter) -> tuple[str, list[str]]:
        if not encodes:
            raise video_device.ConfigError(f"{self.path}: no NVENC here")
        self.encoder = "libx264"
        return "yuv420p", []

    def fit(self: DeviceWriter, given: DeviceFrame) -> list[av.VideoFrame]:
        if given.picture.format.name != "nv12":
            raise ValueError("a surface must reach the encoder as it left the decoder")
        seen.append("out")
        picture = reformat(given.picture, "yuv420p")
        picture.pts, picture.time_base = given.pts, given.time_base
        return [picture]

    with (
        mock.patch.object(video_device, "accelerator", return_value=None),
        mock.patch.object(video_device, "is_surface", is_surface),
        mock.patch.object(video_device, "surface_planes", surface_planes),
        mock.patch.object(DeviceReader, "_frame", frame),
        mock.patch.object(DeviceWriter, "_choose_format", choose_format),
        mock.patch.object(DeviceWriter, "_prepare", return_value=None),
        mock.patch.object(DeviceWriter, "_fit", fit),
    ):
        yield seen
