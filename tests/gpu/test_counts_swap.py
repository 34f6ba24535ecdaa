"""Frames from NVDEC to NVENC on a device that counts: no picture crosses the bus."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch

from accel.kernels import crop, paste
from accel.pipelines.demo import PORTRAIT, render_clip
from accel.pipelines.provenance import ProvenanceConfig
from accel.pipelines.swap import swap_video
from accel.video.device import (
    DECODED,
    DeviceReader,
    encoder_for,
    open_film,
    surface_of,
    surface_planes,
    why_not_decoded,
)
from accel.video.encode import EncodeConfig
from accel.video.frame import choose_layout
from accel.video.read import VideoReader, open_video
from accel.video.write import VideoWriter, open_writer
from accel.weights.assets import asset
from tests.gpu.fake_codec import fake_codec
from tests.gpu.fake_cuda import fake_cuda
from tests.gpu.fake_onnx import fake_onnx

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="a real CUDA device is here")

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")
SIDE = 48
TURN = torch.tensor([[[0.8, 0.2, -10.0], [-0.2, 0.8, 12.0]]])


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return render_clip(tmp_path_factory.mktemp("film") / "clip.mp4", 3, 160, 96)


def lumas(path):
    with open_video(path) as reader:
        return [frame.planes.c0.numpy().astype(np.int16) for frame in reader]


def through(clip, out, device):
    """Cut a picture out of each frame, paste it back at half strength, write the frame."""
    mask = torch.full((1, SIDE, SIDE), 0.5).to(device)
    with open_film(clip, device) as reader, open_writer(out, reader) as writer:
        for frame in reader:
            picture = crop(frame.planes, TURN, SIDE)
            paste(frame.planes, 1 - picture, mask, TURN)
            yield frame
            writer.write(frame)
    yield writer


def test_a_frame_crosses_the_bus_neither_way(clip, tmp_path):
    with fake_cuda() as device, fake_codec(device) as seen:
        steps = through(clip, tmp_path / "far.mp4", CUDA)
        costs, before = [], None
        for _ in steps:
            if before is not None:
                costs.append(device.counts.since(before))
            before = device.counts.snapshot()
    assert Counter(seen) == {"in": 3, "out": 3}
    assert len(costs) == 3
    for cost in costs[:2]:  # from one frame to the next
        assert cost.waits == []
        assert max(c.nbytes for c in cost.copies) < 1024, cost.copies
        assert not cost.moved("down")
        ours = {name: n for name, n in cost.launches.items() if name.startswith("triton:")}
        assert ours == {"triton:_kernel": 1, "triton:paste_kernel": 2}  # luma, both chroma planes
    *_, writer = through(clip, tmp_path / "near.mp4", CPU)
    assert type(writer) is VideoWriter
    for near, far in zip(lumas(tmp_path / "near.mp4"), lumas(tmp_path / "far.mp4"), strict=True):
        assert np.abs(near - far).mean() < 1  # two lossy encodings of the same frames
    assert max(np.abs(a - b).max() for a, b in zip(lumas(clip), lumas(tmp_path / "far.mp4"))) > 40


def test_without_nvenc_surfaces_come_down_once_and_it_is_said(clip, tmp_path):
    with (
        fake_cuda() as device,
        fake_codec(device, encodes=False),
        open_film(clip, CUDA) as reader,
        open_writer(tmp_path / "o.mp4", reader) as writer,
    ):
        for frame in reader:
            writer.write(frame)
        assert type(writer) is VideoWriter
        assert reader.notes == ["encoded on the host: no NVENC here"]
    assert len(lumas(tmp_path / "o.mp4")) == 3


def test_settings_in_a_hosts_words_are_obeyed(clip, tmp_path):
    with fake_cuda() as device, fake_codec(device), open_film(clip, CUDA) as reader:
        wanted = EncodeConfig(codec="libx264", crf=30)
        with open_writer(tmp_path / "o.mp4", reader, wanted) as writer:
            assert (type(writer), writer.encoder) == (VideoWriter, "libx264")
            for frame in reader:
                writer.write(frame)
        assert reader.notes == ["encoded on the host, as its encoder's settings ask for"]
    assert encoder_for("hevc", EncodeConfig()) == "hevc_nvenc"
    assert encoder_for("vp9", EncodeConfig()) == "h264_nvenc"
    assert encoder_for("h264", EncodeConfig(codec="av1_nvenc", crf=30)) == "av1_nvenc"
    assert encoder_for("h264", EncodeConfig(lossless=True)) is None


def test_a_machine_without_nvdec_decodes_on_the_host_and_says_so(clip):
    """The real thing: FFmpeg is asked for a CUDA device, and there is none."""
    with fake_cuda(), open_film(clip, CUDA) as reader:
        assert type(reader) is VideoReader
        assert len(reader.notes) == 1
        assert reader.notes[0].startswith("decoded on the host: ")
        assert "\n" not in reader.notes[0]
        assert len(list(reader)) == 3
    with open_film(clip, CPU) as reader:
        assert reader.notes == []


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({}, ""),
        ({"codec": "gif"}, f"NVDEC decodes {', '.join(DECODED)}, got gif"),
        ({"pixel_format": "yuv420p10le"}, "surfaces are 8-bit 4:2:0, got yuv420p10le"),
        ({"width": 161}, "surfaces have even sides, got 161x96"),
    ],
)
def test_what_surfaces_cannot_hold(clip, change, why):
    with open_video(clip) as reader:
        reader.info = replace(reader.info, **change)
        assert why_not_decoded(reader) == why


def test_a_tensor_becomes_a_picture_and_its_planes_are_views():
    codes = torch.arange(48, dtype=torch.uint8).view(6, 8)
    picture = surface_of(codes)
    assert (picture.width, picture.height, picture.format.name) == (8, 4, "nv12")
    planes = surface_planes(picture, choose_layout("yuv420p", width=8, height=4))
    planes.c1[0, 0] = 200
    planes.c0[3, 7] = 100
    assert (codes[4, 0], codes[3, 7]) == (200, 100)
    assert planes.c2.tolist() == [[33, 35, 37, 39], [41, 43, 45, 47]]
    with pytest.raises(ValueError, match="surface_of: codes must be"):
        surface_of(codes[:5])
    with pytest.raises(ValueError, match="side by side"):
        surface_of(codes[:, ::2])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_swap_moves_no_picture(tmp_path):
    """Ceilings for the embedded swapper, whose tracker decides on the host: see docs/kernels.md."""
    clip = render_clip(tmp_path / "clip.mp4", 4, 480, 270)
    marks = ProvenanceConfig(watermark="off", label="off", ledger=False)
    options = {"sources": [asset(PORTRAIT)], "provenance": marks, "device": "cuda"}
    with fake_cuda() as device, fake_onnx(device), fake_codec(device) as seen:
        report = swap_video(clip, tmp_path / "out.mp4", **options)
        counts = device.counts
    assert Counter(seen) == {"in": 4, "out": 4}
    assert report["frames_swapped"] == 4
    assert not [c for c in counts.copies if c.where.startswith(("pipelines/swap", "video/"))]
    assert counts.launched / 4 <= 230, counts.launches
    with fake_cuda() as device, fake_onnx(device):
        report = swap_video(clip, tmp_path / "host.mp4", **options)
        mine = [c for c in device.counts.copies if c.where.startswith("pipelines/swap")]
    assert any(note.startswith("decoded on the host") for note in report["notes"])
    assert Counter(c.direction for c in mine) == {"up": 12, "down": 12}  # three planes each way
    assert sum(c.nbytes for c in mine) == 2 * 4 * 480 * 270 * Fraction(3, 2)
    pairs = zip(lumas(tmp_path / "out.mp4"), lumas(tmp_path / "host.mp4"), strict=True)
    assert max(np.abs(a - b).mean() for a, b in pairs) < 2.0  # two runs on the CPU differ by 1


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_further_frame_of_a_swap_waits_for_small_answers_alone(tmp_path):
    """Once networks have learned their sizes; the tracker decides on the host."""
    marks = ProvenanceConfig(watermark="off", label="off", ledger=False)
    runs = []
    for frames in (8, 16):
        clip = render_clip(tmp_path / f"{frames}.mp4", frames, 480, 270)
        with fake_cuda() as device, fake_onnx(device), fake_codec(device):
            swap_video(
                clip, tmp_path / f"o{frames}.mp4", sources=[asset(PORTRAIT)], provenance=marks,
                device="cuda",
            )  # fmt: skip
        runs.append(device.counts)
    short, long = runs
    assert (len(long.waits) - len(short.waits)) / 8 <= 8
    assert (long.launched - short.launched) / 8 <= 200
    down = [sum(c.nbytes for c in run.moved("down")) for run in runs]
    assert (down[1] - down[0]) / 8 <= 320 << 10  # a look at what hides a face is 192 KiB
    assert long.networks.count("by arrays") <= short.networks.count("by arrays") + 2


def test_a_reader_for_the_device_names_what_it_lacks(clip):
    with fake_cuda(), pytest.raises((OSError, NotImplementedError, ValueError)):
        DeviceReader(clip, CUDA)
