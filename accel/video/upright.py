"""Frames turned the way a player shows them, still in planes."""

from __future__ import annotations

from dataclasses import replace

import av
import numpy as np

from accel.kernels.planes import PlaneLayout
from accel.video.frame import Frame, reformat
from accel.video.info import VideoInfo


def upright(frame: Frame, info: VideoInfo) -> Frame:
    """The frame as a player shows it: `frame` itself unless `info` says turned or mirrored."""
    if not (info.rotation or info.mirrored):
        return frame
    picture, layout = frame.picture, frame.layout
    if info.rotation in (90, 270) and layout.shift_x != layout.shift_y:
        # Turned 4:2:2 would be 4:4:0, which few encoders take.
        deep = f"{layout.bits}le" if layout.bits > 8 else ""
        picture = reformat(picture, f"yuv444p{deep}")
        layout = replace(layout, shift_x=0, shift_y=0, site_x=0.0, site_y=0.0)
    turned = turned_picture(picture, info.rotation, info.mirrored)
    layout = _turned_sites(layout, info.rotation, info.mirrored)
    return Frame(layout, frame.pts, frame.time_base, frame.index, turned)


def upright_info(info: VideoInfo) -> VideoInfo:
    """What `info` becomes for frames that went through `upright`."""
    if not (info.rotation or info.mirrored):
        return info
    is_lying = info.rotation in (90, 270)
    color, pixel_format = info.color, info.pixel_format
    if is_lying and info.layout.shift_x != info.layout.shift_y:
        deep = f"{info.layout.bits}le" if info.layout.bits > 8 else ""
        pixel_format = f"yuv444p{deep}"
    aspect = info.sample_aspect_ratio
    return replace(
        info,
        width=info.height if is_lying else info.width,
        height=info.width if is_lying else info.height,
        pixel_format=pixel_format,
        rotation=0,
        mirrored=False,
        display_matrix=None,
        sample_aspect_ratio=1 / aspect if aspect and is_lying else aspect,
        color=replace(color, chroma_location="unspecified"),
    )


def turned_picture(picture: av.VideoFrame, rotation: int, mirrored: bool) -> av.VideoFrame:
    """A copy of a planar picture, mirrored left to right first, then turned clockwise."""
    is_lying = rotation in (90, 270)
    size = (picture.height, picture.width) if is_lying else (picture.width, picture.height)
    out = av.VideoFrame(*size, picture.format.name)
    for source, target in zip(picture.planes, out.planes):
        bytes_each = 2 if picture.format.components[0].bits > 8 else 1
        kind = np.uint8 if bytes_each == 1 else np.uint16
        rows = np.frombuffer(source, kind).reshape(source.height, -1)[:, : source.width]
        if mirrored:
            rows = rows[:, ::-1]
        rows = np.rot90(rows, -rotation // 90)
        np.frombuffer(target, kind).reshape(target.height, -1)[:, : target.width] = rows
    out.colorspace, out.color_range = picture.colorspace, picture.color_range
    out.pts = picture.pts
    if picture.time_base is not None:
        out.time_base = picture.time_base
    return out


def _turned_sites(layout: PlaneLayout, rotation: int, mirrored: bool) -> PlaneLayout:
    """Where chroma samples lie after the turn, in luma samples from the block's first."""
    x, y = layout.site_x, layout.site_y
    width, height = (1 << layout.shift_x) - 1, (1 << layout.shift_y) - 1
    if mirrored:
        x = width - x
    for _ in range(rotation // 90):
        x, y = height - y, x
        width, height = height, width
    return replace(layout, site_x=x, site_y=y)
