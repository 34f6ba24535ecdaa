"""The swap from file to file: what must change changes, what must not stays bit-exact."""

from __future__ import annotations

import subprocess
import sys
import threading
from fractions import Fraction
from types import SimpleNamespace

import av
import numpy as np
import pytest
from PIL import Image

import accel
from accel.core import Cancel, Cancelled, ConfigError, InputError
from accel.faces.swap import open_swapper
from accel.kernels.paste import paste_rectangle
from accel.pipelines.demo import PORTRAIT, moving_portrait
from accel.pipelines.provenance import Marker, ProvenanceConfig
from accel.pipelines.swap import EncodeConfig, frames_ahead, swap_video
from accel.pipelines.swap_source import load_source
from accel.weights.assets import asset
from tests.pipelines.clips import audio_packets, decode, write_clip

LOSSLESS = EncodeConfig(codec="ffv1")
FACE_ALONE = ProvenanceConfig(watermark="face", label="off")
SOURCE = [str(asset(PORTRAIT))]


class Recording:
    """A swapper that notes each rectangle that may change, by frame."""

    name = "recording"

    def __init__(self):
        self.inner = open_swapper("mesh", [[load_source(asset(PORTRAIT))]], device="cpu")
        self.rectangles: dict[int, list[tuple[int, int, int, int]]] = {}

    def swap(self, jobs):
        patches = self.inner.swap(jobs)
        for job, patch in zip(jobs, patches):
            planes = job.planes
            box = paste_rectangle(patch.matrix, patch.mask.shape[-1], planes.height, planes.width)
            self.rectangles.setdefault(planes.c0.data_ptr(), []).append(box)
        return patches


FORMATS = {
    "constant rate": {},
    "variable rate": {"pts": [0, 40, 55, 130, 131, 200, 290, 400], "time_base": Fraction(1, 1000)},
    "10 bit": {"pix_fmt": "yuv420p10le"},
    "4:4:4": {"pix_fmt": "yuv444p"},
    "4:2:2 10 bit": {"pix_fmt": "yuv422p10le"},
    "odd size": {"width": 321, "height": 241, "pix_fmt": "yuv444p"},
}


@pytest.mark.parametrize("how", FORMATS.values(), ids=FORMATS.keys())
def test_only_the_face_rectangles_change(tmp_path, how):
    clip = write_clip(tmp_path / "clip.mkv", 8, codec="ffv1", audio=True, **how)
    swapper = Recording()
    report = swap_video(
        clip, tmp_path / "out.mkv", sources=SOURCE, encode=LOSSLESS, swapper=swapper,
        provenance=FACE_ALONE,
    )  # fmt: skip
    before, after = decode(clip), decode(tmp_path / "out.mkv")
    assert [t for t, _ in after] == [t for t, _ in before]
    assert audio_packets(tmp_path / "out.mkv") == audio_packets(clip)
    assert report["frames"] == report["frames_swapped"] == 8
    boxes = [b for per_frame in swapper.rectangles.values() for b in per_frame]
    assert len(boxes) == 8
    for (_, old), (_, new) in zip(before, after):
        changed = [np.argwhere(a != b) for a, b in zip(old, new)]
        assert len(changed[0]) > 500, "the luma of the face must change"
        allowed = [_inside(changed, old, box) for box in boxes]
        assert any(allowed), "a sample outside the face's rectangle changed"


def _inside(changed, planes, box) -> bool:
    x0, y0, x1, y1 = box
    height, width = planes[0].shape
    for points, plane in zip(changed, planes):
        sy, sx = height / plane.shape[0], width / plane.shape[1]
        if len(points) and not (
            (points[:, 0] >= y0 / sy - 1e-6).all()
            and (points[:, 0] < -(-y1 // sy)).all()
            and (points[:, 1] >= x0 / sx - 1e-6).all()
            and (points[:, 1] < -(-x1 // sx)).all()
        ):
            return False
    return True


def test_frames_without_a_face_leave_bit_exact(tmp_path):
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 255, (240, 320, 3), dtype=np.uint8) for _ in range(6)]
    clip = write_clip(tmp_path / "clip.mkv", codec="ffv1", pictures=noise)
    report = swap_video(clip, tmp_path / "out.mkv", sources=SOURCE, encode=LOSSLESS)
    for (_, old), (_, new) in zip(decode(clip), decode(tmp_path / "out.mkv")):
        assert all(np.array_equal(a, b) for a, b in zip(old, new))
    assert report["swapped"] == 0
    assert any("no face" in note for note in report["notes"])
    assert "nothing was altered" in report["marked"]["line"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["clip.mkv", "out.mkv"]


def test_the_result_wears_the_source_identity(tmp_path):
    """The portrait, tinted and mirrored, is no longer itself; the swap brings it nearer."""
    clip = write_clip(tmp_path / "clip.mp4", 6, width=640, height=360)
    sheet = tmp_path / "sheet.png"
    report = swap_video(clip, tmp_path / "out.mp4", sources=SOURCE, preview=sheet)
    assert report["frames_swapped"] == 6
    assert report["kernels"]["crop"]
    with Image.open(sheet) as picture:
        assert picture.height > 800
    with pytest.raises(ConfigError, match="exists"):
        swap_video(clip, tmp_path / "out.mp4", sources=SOURCE)


def test_a_preview_that_cannot_be_written_does_not_cost_the_film(tmp_path, monkeypatch):
    clip = write_clip(tmp_path / "clip.mp4", 3, width=640, height=360)

    def full(self, rgb, path, **more):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(Marker, "save", full)
    sheet, out = tmp_path / "sheet.png", tmp_path / "out.mp4"
    report = swap_video(clip, out, sources=SOURCE, preview=sheet)
    assert report["notes"] == [f"{sheet}: no preview was written: No space left on device"]
    assert out.exists()


def test_a_choice_that_takes_no_face_is_told(tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", 3, width=640, height=360)
    report = swap_video(clip, tmp_path / "out.mp4", sources=SOURCE, select="2")
    assert (report["frames_with_faces"], report["frames_swapped"]) == (3, 0)
    assert report["notes"] == ["no face was swapped: select 2 chose none"]
    assert "nothing was altered" in report["marked"]["line"]


def test_a_still_picture_and_a_folder_go_the_same_way(tmp_path):
    for index, picture in enumerate(moving_portrait(3, 400, 300)):
        folder = tmp_path / "in"
        folder.mkdir(exist_ok=True)
        Image.fromarray(picture).save(folder / f"{index:03}.png")
    report = swap_video(folder / "000.png", tmp_path / "out.png", sources=SOURCE)
    assert report["frames_swapped"] == 1
    old = np.asarray(Image.open(folder / "000.png"))
    new = np.asarray(Image.open(tmp_path / "out.png"))
    assert old.shape == new.shape
    changed = np.abs(old.astype(int) - new).max(axis=2) > 6  # more than the invisible mark
    assert 0.005 < changed.mean() < 0.6
    report = swap_video(folder, tmp_path / "out", sources=SOURCE)
    assert report["frames_swapped"] == 3
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["000.png", "001.png", "002.png"]


def test_progress_is_told_and_cancel_leaves_nothing(tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", 80)
    cancel, seen = Cancel(), []

    def progress(event):
        seen.append(event.done)
        if event.done == 3:
            cancel.set()

    threads = threading.active_count()
    with pytest.raises(Cancelled):
        swap_video(clip, tmp_path / "out.mp4", sources=SOURCE, progress=progress, cancel=cancel)
    assert seen == [1, 2, 3]
    assert [p.name for p in tmp_path.iterdir()] == ["clip.mp4"]
    assert threading.active_count() <= threads


def test_a_source_without_a_face_is_named(tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", 2)
    Image.new("RGB", (200, 200), (90, 120, 90)).save(tmp_path / "lawn.png")
    with pytest.raises(InputError, match=r"lawn\.png: a source must show a face"):
        swap_video(clip, tmp_path / "out.mp4", sources=[tmp_path / "lawn.png"])
    assert not (tmp_path / "out.mp4").exists()


def test_unknown_settings_are_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"SwapConfig has no crop_pixels; it has sources"):
        accel.swap_video("a", "b", sources=SOURCE, crop_pixels=3)


def test_a_failing_swapper_leaves_no_output(tmp_path):
    class Broken:
        name = "broken"

        def swap(self, jobs):
            raise RuntimeError("the network fell over")

    clip = write_clip(tmp_path / "clip.mp4", 60)  # more than the queues hold
    threads = threading.active_count()
    with pytest.raises(RuntimeError, match="fell over"):
        swap_video(clip, tmp_path / "out.mp4", sources=SOURCE, swapper=Broken())
    assert threading.active_count() <= threads
    assert [p.name for p in tmp_path.iterdir()] == ["clip.mp4"]


PEAK = """
import sys
from pathlib import Path
from accel.pipelines.swap import swap_video
print(swap_video(sys.argv[1], sys.argv[2], sources=[sys.argv[3]])["peak_memory_mb"])
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_length(tmp_path):
    """Ten times the frames, at most 1.05 times the peak."""
    peaks = []
    for frames in (50, 500):
        clip = write_clip(tmp_path / f"{frames}.mp4", frames)
        args = [sys.executable, "-c", PEAK, clip, tmp_path / f"out{frames}.mp4", SOURCE[0]]
        peaks.append(float(subprocess.run(args, capture_output=True, check=True).stdout))
    assert peaks[1] <= 1.05 * peaks[0], peaks


def test_a_rotated_video_is_swapped_where_it_lies(tmp_path):
    """A phone held upright stores sideways frames and a flag; both stay as they are."""
    sideways = [np.rot90(p).copy() for p in moving_portrait(6, 240, 320)]
    clip = write_clip(tmp_path / "phone.mp4", pictures=sideways, rotation=90)
    sheet = tmp_path / "sheet.png"
    report = swap_video(clip, tmp_path / "out.mp4", sources=SOURCE, preview=sheet)
    assert report["frames_swapped"] == 6
    with av.open(str(clip)) as a, av.open(str(tmp_path / "out.mp4")) as b:
        first, second = next(a.decode(video=0)), next(b.decode(video=0))
        assert (second.width, second.height) == (320, 240)
        assert second.rotation == first.rotation != 0


@pytest.mark.parametrize(
    ("width", "height", "ahead"),
    [(64, 48, 12), (3840, 2160, 12), (7680, 4320, 3), (8192, 8192, 1)],
)
def test_fewer_large_frames_wait(width, height, ahead):
    info = SimpleNamespace(width=width, height=height)
    assert frames_ahead(info, 12) == ahead
    assert frames_ahead(info, 1) == 1


def test_a_source_that_is_a_line_is_refused(tmp_path):
    """Its tiles would be searched for minutes."""
    Image.new("RGB", (3200, 100)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="longer side may be 30 times the other, this one is 3200"):
        load_source(tmp_path / "a.png")


def test_a_source_of_several_faces_is_told(tmp_path):
    """Whoever gives a group's picture must hear that one of them was chosen."""
    portrait = Image.open(asset(PORTRAIT)).convert("RGB").resize((256, 256))
    both = Image.new("RGB", (512, 256))
    both.paste(portrait, (0, 0))
    both.paste(portrait, (256, 0))
    both.save(tmp_path / "both.png")
    portrait.save(tmp_path / "target.png")
    for name, notes in (("both.png", 1), ("target.png", 0)):
        out = tmp_path / f"out_{name}"
        report = swap_video(tmp_path / "target.png", out, sources=[tmp_path / name])
        told = [note for note in report["notes"] if "shows 2 faces; the largest" in note]
        assert len(told) == notes


@pytest.mark.parametrize(
    ("name", "encode", "message"),
    [
        ("out.mp4", {"crf": 99}, r"crf must lie in 0..51 for libx264, got 99"),
        ("out.mp4", {"preset": "swift"}, "preset must be one of ultrafast, .*, got 'swift'"),
        ("out.xyz", {}, "output's name must end in one of .mp4, .*, ends in '.xyz'"),
        ("out.webm", {"codec": "h264"}, "codec must be one of .* in webm, got h264"),
    ],
)
def test_settings_of_the_encoder_are_told_before_networks_are_opened(
    tmp_path, monkeypatch, name, encode, message
):
    clip = write_clip(tmp_path / "clip.mp4", pictures=moving_portrait(2, 320, 240))

    def opened(**_):
        raise AssertionError("networks were opened")

    monkeypatch.setattr("accel.pipelines.swap.FaceModels", opened)
    with pytest.raises(ConfigError, match=message):
        swap_video(clip, tmp_path / name, sources=SOURCE, encode=EncodeConfig(**encode))
    assert not (tmp_path / name).exists()
