"""Turned and mirrored planes against the same done to the RGB picture."""

from __future__ import annotations

from dataclasses import replace

import av
import numpy as np
import pytest

from accel.kernels import planes_to_rgb
from accel.video.read import open_video
from accel.video.upright import turned_picture, upright, upright_info
from tests.pipelines.clips import write_clip


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv444p", "yuv422p", "yuv420p10le"])
def test_looks_as_the_turned_rgb_picture(tmp_path, pix_fmt, rotation, mirrored):
    clip = write_clip(tmp_path / "a.mkv", 1, codec="ffv1", pix_fmt=pix_fmt)
    with open_video(clip) as reader:
        info = replace(reader.info, rotation=rotation, mirrored=mirrored)
        frame = next(iter(reader))
    plain = planes_to_rgb(frame.planes).numpy()
    wanted = np.rot90(plain[:, ::-1] if mirrored else plain, -rotation // 90)
    turned = upright(frame, info)
    got = planes_to_rgb(turned.planes).numpy()
    after = upright_info(info)
    assert got.shape == wanted.shape == (after.height, after.width, 3)
    assert turned.picture.format.name == after.pixel_format
    assert (turned.pts, turned.time_base) == (frame.pts, frame.time_base)
    apart = np.abs(got.astype(int) - wanted)
    assert apart.mean() < (1.0 if pix_fmt == "yuv422p" and rotation in (90, 270) else 0.05)
    assert (after.rotation, after.mirrored, after.display_matrix) == (0, False, None)


def test_what_is_upright_is_passed_on(tmp_path):
    with open_video(write_clip(tmp_path / "a.mp4", 1)) as reader:
        frame = next(iter(reader))
        assert upright(frame, reader.info) is frame
        assert upright_info(reader.info) is reader.info


def test_a_copy_shares_no_memory():
    picture = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), "rgb24").reformat(
        format="yuv420p"
    )
    copy = turned_picture(picture, 0, False)
    np.frombuffer(copy.planes[0], np.uint8)[:] = 77
    assert np.frombuffer(picture.planes[0], np.uint8)[0] != 77
