"""Frames as the decoder gave them: layouts, formats, and a file that ends too early."""

from __future__ import annotations

import gc
from fractions import Fraction

import av
import numpy as np
import pytest
import torch

from accel.core import ConfigError, InputError
from accel.kernels.planes import check_planes
from accel.pipelines.dfl.timeline import read_timeline
from accel.video.frame import Frame, choose_layout, planar, twin_format, view_planes
from accel.video.info import display_matrix, orientation
from accel.video.read import Decoding, Limits, VideoReader, open_video
from tests.video.clips import make_clip, samples, times, transcode


@pytest.mark.parametrize(
    ("tags", "alike"),
    [
        ({"width": 1024, "height": 576}, {"matrix": 5, "color_range": 1}),
        ({"width": 1280, "height": 720}, {"matrix": 1, "color_range": 1}),
        ({"width": 576, "height": 1024}, {"matrix": 1, "color_range": 1}),
        ({"width": 64, "height": 64, "chroma_location": "left"}, {"matrix": 6, "color_range": 1}),
    ],
)
def test_absent_tags_are_guessed(tags, alike):
    guessed = choose_layout("yuv420p", **tags)
    size = {"width": tags["width"], "height": tags["height"]}
    assert guessed == choose_layout("yuv420p", **size, **alike)


def test_matrix_and_range_make_a_difference():
    size = {"width": 64, "height": 64}
    layouts = {
        choose_layout("yuv420p", matrix=matrix, color_range=span, **size)
        for matrix in (1, 4, 5, 7, 9)
        for span in (1, 2)
    }
    assert len(layouts) == 10
    jpeg = choose_layout("yuvj420p", matrix=5, **size)
    assert jpeg == choose_layout("yuv420p", matrix=5, color_range=2, **size)


@pytest.mark.parametrize(
    ("location", "site"),
    [
        ("unspecified", (0.0, 0.5)),
        ("left", (0.0, 0.5)),
        ("center", (0.5, 0.5)),
        ("topleft", (0.0, 0.0)),
        ("top", (0.5, 0.0)),
        ("bottomleft", (0.0, 1.0)),
        ("bottom", (0.5, 1.0)),
    ],
)
def test_chroma_location(location, site):
    layout = choose_layout("yuv420p", width=64, height=64, chroma_location=location)
    assert (layout.site_x, layout.site_y) == site
    flat = choose_layout("yuv444p", width=64, height=64, chroma_location=location)
    assert (flat.site_x, flat.site_y) == (0, 0)


def test_jpeg_chroma_lies_in_the_centre():
    layout = choose_layout("yuvj420p", width=64, height=64, is_jpeg=True)
    assert (layout.site_x, layout.site_y) == (0.5, 0.5)


@pytest.mark.parametrize("location", [1, 2])
def test_chroma_location_is_read_from_the_stream(tmp_path, location):
    clip = make_clip(
        tmp_path / "a.mp4",
        options={"preset": "ultrafast", "x264-params": f"chromaloc={location}"},
        stamps=range(3),
    )
    level = av.logging.get_level()
    with VideoReader(clip) as reader:
        assert reader.info.color.chroma_location == {1: "center", 2: "topleft"}[location]
        assert reader.layout.site_x == {1: 0.5, 2: 0.0}[location]
        assert reader.layout.site_y == {1: 0.5, 2: 0.0}[location]
    assert av.logging.get_level() == level


def _picture(name: str, width: int = 34, height: int = 18) -> av.VideoFrame:
    noise = np.random.default_rng(3).integers(0, 256, (height, width, 3), dtype=np.uint8)
    picture = av.VideoFrame.from_ndarray(noise, "rgb24").reformat(format=name, threads=1)
    picture.color_range = 1 if "yuv" in name or "gray" in name else 2
    return picture


def test_rows_are_not_overwritten_by_threads():
    """swscale's slice threads once spoiled a row's first samples, now and then."""
    start = _picture("yuv420p10le")
    odd = start.reformat(format="p010le", src_color_range="MPEG", dst_color_range="MPEG", threads=1)
    odd.color_range = 1
    layout = choose_layout("yuv420p10le", width=34, height=18)
    wanted = view_planes(start, layout)[:3]
    for _ in range(60):
        found = view_planes(planar(odd), layout)[:3]
        assert all(torch.equal(a.int(), b.int()) for a, b in zip(wanted, found))


@pytest.mark.parametrize("name", ["rgb24", "bgr24", "bgra", "rgba", "rgb0", "gbrp", "gbrap"])
def test_packed_rgb_becomes_planes_without_loss(name):
    picture = _picture(name)
    rgb = picture.to_ndarray(format="rgb24")
    twin = planar(picture)
    layout = choose_layout(twin.format.name, width=34, height=18)
    green, blue, red, _ = view_planes(twin, layout)
    assert np.array_equal(torch.stack([red, green, blue], -1).numpy(), rgb)


def test_palettes_become_planes_without_loss():
    indices = np.arange(64 * 4, dtype=np.uint8).reshape(4, 64)
    palette = np.random.default_rng(0).integers(0, 256, (256, 4), dtype=np.uint8)
    palette[:, 0] = 255  # alpha first
    picture = av.VideoFrame.from_ndarray((indices, palette), "pal8")
    green, blue, red, _ = view_planes(planar(picture), choose_layout("gbrap", width=64, height=4))
    given = torch.stack([red, green, blue], -1).numpy()
    assert np.array_equal(given, palette[indices][..., 1:])


@pytest.mark.parametrize(
    ("name", "twin"),
    [("nv12", "yuv420p"), ("nv16", "yuv422p"), ("yuyv422", "yuv422p"), ("uyvy422", "yuv422p"),
     ("p010le", "yuv420p10le"), ("yuv420p10be", "yuv420p10le"), ("yuv422p", "yuv422p")],
)  # fmt: skip
def test_interleaved_and_foreign_order_becomes_planes_without_loss(name, twin):
    start = _picture(twin)
    odd = start.reformat(format=name, src_color_range="MPEG", dst_color_range="MPEG", threads=1)
    odd.color_range = 1
    back = planar(odd)
    assert back.format.name == twin
    layout = choose_layout(twin, width=34, height=18)
    for plane, other in zip(view_planes(start, layout)[:3], view_planes(back, layout)[:3]):
        assert torch.equal(plane.to(torch.int32), other.to(torch.int32))


@pytest.mark.parametrize("span", [1, 2])
def test_grey_keeps_its_values(span):
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    picture = av.VideoFrame.from_ndarray(grey, "gray")
    picture.color_range = span
    luma, cb, cr, _ = view_planes(planar(picture), choose_layout("yuv420p", width=16, height=16))
    assert np.array_equal(luma.numpy(), grey)
    assert (cb == 128).all()
    assert (cr == 128).all()


def test_formats_without_planes_are_refused():
    with pytest.raises(InputError, match="pixel format bayer_rggb8 cannot be read"):
        twin_format("bayer_rggb8")


@pytest.mark.parametrize(
    ("codec", "pixel_format", "dtype"),
    [
        ("libx264", "yuv420p", torch.uint8),
        ("libx264", "yuv422p10le", torch.uint16),
        ("ffv1", "yuv444p16le", torch.uint16),
        ("ffv1", "yuv411p", torch.uint8),
        ("ffv1", "yuva444p10le", torch.uint16),
        ("ffv1", "gray", torch.uint8),
    ],
)
def test_planes_fit_their_layout(tmp_path, codec, pixel_format, dtype):
    clip = make_clip(tmp_path / "a.mkv", codec=codec, pixel_format=pixel_format, stamps=range(2))
    with VideoReader(clip) as reader:
        for frame in reader:
            check_planes("test", frame.planes)
            assert frame.planes.c0.dtype == dtype
            assert frame.planes.c0.data_ptr() == frame.picture.planes[0].buffer_ptr
            assert frame.planes.layout == reader.info.layout


def test_frames_that_are_looked_at_stay_as_they_were_and_are_not_copied(tmp_path):
    clip = make_clip(tmp_path / "a.mp4", stamps=range(40))
    with VideoReader(clip) as reader:
        held = []
        for frame in reader:
            where = frame.picture.planes[0].buffer_ptr
            held.append(frame.view())
            assert held[-1].c0.data_ptr() == where  # the decoder's own
    with VideoReader(clip) as reader:
        for seen, frame in zip(held, reader, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(seen[:3], frame.planes[:3]))
            assert frame.view() is frame.planes


def test_frames_can_be_read_twice(tmp_path):
    clip = make_clip(tmp_path / "a.mp4")
    with VideoReader(clip) as reader:
        first = [(f.index, f.pts, int(f.planes.c0.sum())) for f in reader]
        assert first == [(f.index, f.pts, int(f.planes.c0.sum())) for f in reader]
    assert len(first) == 12


def test_leaving_early_leaves_nothing_open(tmp_path):
    clip = make_clip(tmp_path / "a.mp4")
    with VideoReader(clip) as reader:
        for _ in reader:
            break
    assert isinstance(next(iter(VideoReader(clip))), Frame)


def test_no_log_is_turned_on_while_a_decoder_works(tmp_path, monkeypatch):
    """Its threads would wait for the interpreter, and whoever closes it for its threads: a hang."""
    clip = make_clip(tmp_path / "a.mp4")
    decoded, levels = [], []
    first = Decoding.first
    monkeypatch.setattr(Decoding, "first", lambda self: decoded.append(1) or first(self))
    turn = av.logging.set_level
    monkeypatch.setattr(
        av.logging, "set_level", lambda level: levels.append(len(decoded)) or turn(level)
    )
    with VideoReader(clip) as reader:
        next(iter(reader))
    assert levels == [0, 0]
    assert decoded


def test_a_film_that_was_read_leaves_no_picture_for_the_garbage_collector(tmp_path):
    clip = make_clip(tmp_path / "a.mp4", size=(94, 62))
    gc.collect()
    gc.disable()
    try:
        with VideoReader(clip) as reader:
            for frame in reader:
                frame.view()
        del frame
        alive = [found for found in gc.get_objects() if type(found) is av.VideoFrame]
    finally:
        gc.enable()
    # The decoder's memory is given back once none of its pictures is held.
    assert (94, 62) not in {(picture.width, picture.height) for picture in alive}


def test_is_vfr(tmp_path):
    steady = make_clip(tmp_path / "a.mp4", options={"bf": "0"})
    stamps = [0, 40, 47, 113, 120]
    uneven = make_clip(
        tmp_path / "b.mp4", stamps=stamps, time_base=Fraction(1, 1000), options={"bf": "0"}
    )
    with VideoReader(steady) as a, VideoReader(uneven) as b:
        assert not a.info.is_vfr
        assert b.info.is_vfr
        assert a.info.average_rate == 25
        assert a.info.frames == 12
        assert [f.pts * f.time_base for f in b] == times(uneven)


def test_a_truncated_file_gives_what_decodes_and_a_note(tmp_path):
    clip = make_clip(
        tmp_path / "a.mkv", stamps=range(60), options={"preset": "ultrafast", "g": "5"}
    )
    data = clip.read_bytes()
    clip.write_bytes(data[: len(data) * 2 // 3])
    with VideoReader(clip) as reader:
        count = sum(1 for _ in reader)
    assert 20 < count < 60

    fast = tmp_path / "b.mp4"  # with its index at the front
    transcode(make_clip(tmp_path / "c.mp4", stamps=range(60)), fast)
    data = fast.read_bytes()
    fast.write_bytes(data[: len(data) * 2 // 3])
    with VideoReader(fast) as reader:
        count = sum(1 for _ in reader)
    assert 20 < count < 60
    assert any(f"ends after frame {count} of 60" in note for note in reader.notes)


def test_damage_in_the_middle_is_told(tmp_path):
    clip = make_clip(tmp_path / "a.avi", codec="mjpeg", pixel_format="yuvj420p", stamps=range(30))
    data = bytearray(clip.read_bytes())
    with av.open(str(clip)) as container:
        spots = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    for position, size in spots[10:12]:
        data[position + 8 : position + 8 + size] = bytes(size)
    clip.write_bytes(data)
    with VideoReader(clip) as reader:
        count = sum(1 for _ in reader)
    assert 26 <= count < 30
    assert any(note.startswith("the stream is damaged near frame") for note in reader.notes)


def test_frames_that_an_edit_list_hides_are_not_missed(tmp_path):
    """A cut that does not start on a key frame is no damage."""
    whole = make_clip(tmp_path / "a.mp4", stamps=range(30), options={"g": "100", "bf": "0"})
    cut = tmp_path / "b.mp4"
    with av.open(str(whole)) as given, av.open(str(cut), "w") as made:
        film = made.add_stream_from_template(given.streams.video[0], opaque=True)
        for packet in given.demux(video=0):
            if packet.size:
                packet.pts, packet.dts = packet.pts - 5 * 512, packet.dts - 5 * 512
                packet.stream = film
                made.mux(packet)
    with VideoReader(cut) as reader:
        assert [f.pts * f.time_base * 25 for f in reader] == list(range(25))
        assert reader.notes == []


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
@pytest.mark.parametrize("mirrored", [False, True])
def test_orientation_survives_its_matrix(degrees, mirrored):
    assert orientation(display_matrix(degrees, mirrored)) == (degrees, mirrored)


def test_orientation_agrees_with_ffmpeg(tmp_path):
    clip = make_clip(tmp_path / "a.mp4", rotation=-90, stamps=range(2))
    with VideoReader(clip) as reader:
        assert reader.info.rotation == 90
        assert reader.info.display_matrix == display_matrix(90, False)
        assert next(iter(reader)).picture.rotation == -90


def test_limits(tmp_path):
    clip = make_clip(tmp_path / "a.mp4")
    with pytest.raises(InputError, match="a frame may have 6000 pixels, this one is 96x64"):
        VideoReader(clip, limits=Limits(max_pixels=6000))
    with pytest.raises(InputError, match="may have 5 frames, has more"):
        VideoReader(clip, limits=Limits(max_frames=5))
    with pytest.raises(InputError, match=r"may last 0\.1 s, lasts 0 s"):
        VideoReader(clip, limits=Limits(max_duration_s=0.1))
    with pytest.raises(ConfigError, match="max_pixels must be above 0"):
        Limits(max_pixels=0)


def test_frames_without_times_get_some(tmp_path):
    raw = tmp_path / "a.ivf"
    make_clip(raw, codec="libvpx-vp9", stamps=range(5), muxer="ivf")
    with open_video(raw) as reader:
        assert [f.index for f in reader] == list(range(5))


def test_a_stream_that_begins_later_is_passed_over(tmp_path):
    """An FLV names no streams; an hour into one a microphone may be switched on."""
    clip = make_clip(tmp_path / "late.flv", stamps=range(400), size=(320, 240))
    data = clip.read_bytes()
    sound = bytes([0x2E]) + b"\xff\xfb\x90\x64" + bytes(413)  # a frame of MP3
    head = b"\x08" + len(sound).to_bytes(3, "big") + (400 * 40).to_bytes(3, "big") + bytes(4)
    tag = head + sound + (len(sound) + 11).to_bytes(4, "big")
    middle = data.index(b"\x09", len(data) // 2)
    while not is_tag(data, middle):
        middle = data.index(b"\x09", middle + 1)
    clip.write_bytes(data[:middle] + tag + data[middle:])
    with VideoReader(clip) as reader:
        assert sum(1 for _ in reader) == 400
    with VideoReader(clip) as reader:
        assert len(read_timeline(reader).pts) == 400
    transcode(clip, tmp_path / "out.mkv")
    assert len(samples(tmp_path / "out.mkv")) == 400


def is_tag(data: bytes, at: int) -> bool:
    """Whether a tag of an FLV begins here: its length stands behind it again."""
    end = at + 11 + int.from_bytes(data[at + 1 : at + 4], "big")
    return int.from_bytes(data[end : end + 4], "big") == end - at
