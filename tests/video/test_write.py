"""What goes in comes out: times, samples, tags, and every stream beside the film."""

from __future__ import annotations

import struct
from dataclasses import replace
from fractions import Fraction

import av
import pytest
import torch

from accel.core import ConfigError
from accel.video.encode import EncodeConfig, encoder_options, offered
from accel.video.read import VideoReader
from accel.video.write import VideoWriter
from tests.video.clips import (
    BT2020_HLG,
    BT2020_PQ,
    FAST,
    HDR10,
    make_clip,
    packets,
    samples,
    times,
    transcode,
)

VFR = [0, 40, 47, 113, 120, 300, 301, 390]
QUICK = EncodeConfig(preset="ultrafast", codec="h264")
LOSSLESS = EncodeConfig(codec="ffv1")


@pytest.mark.parametrize(
    ("name", "clip"),
    [
        ("b_frames.mp4", {"time_base": Fraction(1, 12800), "stamps": range(0, 12 * 512, 512)}),
        ("ntsc.mp4", {"time_base": Fraction(1001, 30000)}),
        ("vfr.mp4", {"time_base": Fraction(1, 1000), "stamps": VFR}),
        ("late.mp4", {"time_base": Fraction(1, 90000), "stamps": range(45000, 90000, 3600)}),
        ("vfr.mkv", {"time_base": Fraction(1, 1000), "stamps": VFR}),
        ("vfr.webm", {"time_base": Fraction(1, 1000), "stamps": VFR, "codec": "libvpx-vp9"}),
        ("ten.mov", {"codec": "prores_ks", "pixel_format": "yuv422p10le"}),
        ("cfr.avi", {"codec": "mpeg4"}),
        ("jpeg.avi", {"codec": "mjpeg", "pixel_format": "yuvj420p"}),
        (
            "vfr.gif",
            {
                "codec": "gif",
                "pixel_format": "rgb8",
                "time_base": Fraction(1, 100),
                "stamps": [0, 3, 9],
            },
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_times_and_codec_are_kept(tmp_path, name, clip):
    source = make_clip(tmp_path / name, **clip)
    target = tmp_path / f"out_{name}"
    reader, writer = transcode(source, target)
    assert times(target) == times(source)
    assert len(times(target)) == writer.frames == len(clip.get("stamps", range(12)))
    assert writer.notes == []
    with VideoReader(target) as again:
        for fact in ("codec", "pixel_format", "color", "width", "height", "is_vfr"):
            assert getattr(again.info, fact) == getattr(reader.info, fact), fact


def test_coarser_ticks_are_told(tmp_path):
    source = make_clip(tmp_path / "a.mp4", time_base=Fraction(1001, 30000))
    _, writer = transcode(source, tmp_path / "b.mkv", QUICK)
    assert writer.notes == ["matroska rounds time stamps to 1 ms"]


@pytest.mark.parametrize(
    "pixel_format",
    ["yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv444p12le", "bgr0", "gbrp10le", "yuva420p"],
)
def test_ffv1_gives_back_every_sample(tmp_path, pixel_format):
    source = make_clip(tmp_path / "a.mkv", codec="ffv1", pixel_format=pixel_format)
    target = tmp_path / "b.mkv"
    transcode(source, target, change=lambda frame: frame.planes)
    assert samples(target) == samples(source)


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuvj420p", "yuv422p", "yuv444p"])
@pytest.mark.parametrize("codec", ["h264", "hevc", "ffv1"])
def test_lossless_encoders_give_back_every_sample(tmp_path, codec, pixel_format):
    source = make_clip(tmp_path / "a.mp4", pixel_format=pixel_format)
    target = tmp_path / "b.mkv"
    preset = None if codec == "ffv1" else "ultrafast"
    transcode(source, target, EncodeConfig(codec=codec, lossless=True, preset=preset))
    given, wanted = samples(target), samples(source)
    assert [raw for _, raw in given] == [raw for _, raw in wanted]
    with VideoReader(target) as after, VideoReader(source) as before:
        assert after.layout == before.layout


def test_odd_sizes_survive(tmp_path):
    source = make_clip(tmp_path / "a.mkv", codec="ffv1", size=(95, 61))
    transcode(source, tmp_path / "b.mkv", change=lambda frame: frame.planes)
    assert samples(tmp_path / "b.mkv") == samples(source)


def test_writing_into_planes_harms_no_later_frame(tmp_path):
    """The decoder predicts frames from those it gave out: these must be copies by then."""
    source = make_clip(tmp_path / "a.mp4", stamps=range(40), options={"bf": "3", "refs": "4"})
    with VideoReader(source) as reader:
        clean = [frame.planes.clone() for frame in reader]
    with VideoReader(source) as reader:
        for frame, expected in zip(reader, clean, strict=True):
            for plane, other in zip(frame.planes[:3], expected[:3]):
                assert torch.equal(plane, other), f"frame {frame.index}"
                plane.fill_(17)


def test_what_is_painted_is_what_is_encoded(tmp_path):
    source = make_clip(tmp_path / "a.mp4")
    target = tmp_path / "b.mkv"

    def paint(frame):
        frame.planes.c0[8:16, 8:16] = 200 + frame.index

    transcode(source, target, LOSSLESS, paint)
    with VideoReader(source) as before, VideoReader(target) as after:
        for old, new in zip(before, after, strict=True):
            paint(old)
            for plane, other in zip(old.planes[:3], new.planes[:3]):
                assert torch.equal(plane, other)


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv"])
def test_streams_beside_the_film_are_copied(tmp_path, name):
    subtitle = "subrip" if name.endswith("mkv") else "mov_text"
    source = make_clip(
        tmp_path / name, audio=("eng", "deu"), subtitle=subtitle, chapters=True,
        attachment=name.endswith("mkv"),
        metadata={"title": "A title", "creation_time": "2020-01-02T03:04:05.000000Z"},
    )  # fmt: skip
    target = tmp_path / f"out_{name}"
    reader, writer = transcode(source, target, QUICK)
    assert writer.notes == []
    for kind in ("audio", "subtitle"):
        assert packets(target, kind) == packets(source, kind)
    with VideoReader(target) as again:
        assert [vars(s) for s in again.info.streams] == [vars(s) for s in reader.info.streams]
        titles = [(c["start"] * c["time_base"], c["metadata"]) for c in again.info.chapters]
        assert titles == [
            (c["start"] * c["time_base"], c["metadata"]) for c in reader.info.chapters
        ]
        assert again.info.metadata["title"] == "A title"
        assert again.info.metadata["creation_time"] == "2020-01-02T03:04:05.000000Z"
    with av.open(str(source)) as before, av.open(str(target)) as after:
        assert [s.disposition for s in before.streams] == [s.disposition for s in after.streams]
        if name.endswith("mkv"):
            assert after.streams.attachments[0].data == before.streams.attachments[0].data


def test_unusual_tags_are_kept_in_mp4(tmp_path):
    source = make_clip(tmp_path / "a.mkv", metadata={"my.own.tag": "x", "title": "t"})
    transcode(source, tmp_path / "b.mp4", QUICK)
    with VideoReader(tmp_path / "b.mp4") as after:
        assert after.info.metadata["MY.OWN.TAG"] == "x"  # Matroska has capitals only


def test_a_stream_that_the_container_cannot_hold_is_told(tmp_path):
    source = make_clip(tmp_path / "a.mkv", audio=("eng",), subtitle="subrip", attachment=True)
    target = tmp_path / "b.mp4"
    _, writer = transcode(source, target, QUICK)
    assert [note for note in writer.notes if "subtitle stream 2 (fra) is left out" in note]
    assert [note for note in writer.notes if "attachment stream 3 is left out" in note]
    assert packets(target, "audio") == packets(source, "audio")


def test_sound_that_begins_before_0_delays_no_frame_of_an_avi(tmp_path):
    source = make_clip(tmp_path / "a.mp4", audio=("eng",))  # AAC, whose first samples are primers
    transcode(source, tmp_path / "b.avi", QUICK)
    with av.open(str(tmp_path / "b.avi")) as film:
        shown = [packet.dts for packet in film.demux(video=0) if packet.size]
    assert shown == list(range(12))


def test_pcm_in_avi_is_copied(tmp_path):
    source = make_clip(tmp_path / "a.avi", codec="mpeg4")
    with av.open(str(source)) as plain, av.open(str(tmp_path / "b.avi"), "w") as output:
        film = output.add_stream_from_template(plain.streams.video[0], opaque=True)
        sound = output.add_stream("pcm_s16le", rate=8000, layout="mono")
        for packet in plain.demux(video=0):
            if packet.size:
                packet.stream = film
                output.mux(packet)
        part = av.AudioFrame(format="s16", layout="mono", samples=3000)
        part.sample_rate, part.pts = 8000, 0
        output.mux(sound.encode(part))
        output.mux(sound.encode(None))
    transcode(tmp_path / "b.avi", tmp_path / "c.avi")
    before, after = packets(tmp_path / "b.avi", "audio"), packets(tmp_path / "c.avi", "audio")
    assert b"".join(d for d, _ in after[0]) == b"".join(d for d, _ in before[0]) != b""
    assert times(tmp_path / "c.avi") == times(tmp_path / "b.avi")


@pytest.mark.parametrize(
    "color", [BT2020_PQ, BT2020_HLG, (1, 1, 1, 1), (5, 6, 5, 1), (1, 13, 1, 2)]
)
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_colour_tags_are_kept(tmp_path, name, color):
    source = make_clip(tmp_path / name, color=color, stamps=range(3))
    reader, _ = transcode(source, tmp_path / f"out_{name}", QUICK)
    tags = reader.info.color
    assert (tags.primaries, tags.transfer, tags.matrix, tags.range) == color
    with VideoReader(tmp_path / f"out_{name}") as after:
        assert after.info.color == tags


@pytest.mark.parametrize("codec", ["hevc", "h264", "av1"])
def test_hdr10_is_kept(tmp_path, codec):
    source = make_clip(
        tmp_path / "a.mp4", codec="libx265", pixel_format="yuv420p10le", color=BT2020_PQ,
        options={"preset": "ultrafast", "x265-params": HDR10}, stamps=range(4), size=(128, 96),
    )  # fmt: skip
    preset = "12" if codec == "av1" else "ultrafast"
    reader, writer = transcode(source, tmp_path / "b.mp4", EncodeConfig(codec=codec, preset=preset))
    info = reader.info
    assert info.color.transfer == 16  # PQ
    assert info.content_light == (1000, 400)
    assert info.mastering_display.max_luminance == 1000
    assert info.mastering_display.green == (Fraction(265, 1000), Fraction(69, 100))
    assert info.color.chroma_location == "topleft"
    with VideoReader(tmp_path / "b.mp4") as after:
        assert after.info.content_light == info.content_light
        for name, value in vars(info.mastering_display).items():
            given = getattr(after.info.mastering_display, name)
            for x, y in zip(*((v if isinstance(v, tuple) else (v,)) for v in (given, value))):
                assert abs(x - y) < Fraction(1, 16384) + y / 10000, name
        assert after.info.pixel_format == "yuv420p10le"
        assert after.info.color == info.color
    assert writer.notes == []


def test_hdr_boxes_of_the_container_are_kept(tmp_path):
    """Mastering data that is in the MP4 alone, not in the stream, comes out in the MP4 again."""
    source = make_clip(
        tmp_path / "a.mp4", codec="libx265", pixel_format="yuv420p10le", color=BT2020_PQ
    )
    display = struct.pack(">8H2I", 13250, 34500, 7500, 3000, 34000, 16000, 15635, 16450, 10**7, 50)
    boxes = struct.pack(">I4s", 32, b"mdcv") + display
    boxes += struct.pack(">I4s2H", 12, b"clli", 900, 300)
    source.write_bytes(_insert(source.read_bytes(), b"colr", boxes))
    target = tmp_path / "b.mp4"
    transcode(source, target, EncodeConfig(preset="ultrafast"))
    with VideoReader(target) as after:
        assert after.info.content_light == (900, 300)
        assert after.info.mastering_display.red == (Fraction(17, 25), Fraction(8, 25))
    assert b"mdcv" in target.read_bytes()
    assert times(target) == times(source)


def _insert(mp4: bytes, before: bytes, boxes: bytes) -> bytes:
    """Put boxes into the sample entry, in front of another, and lengthen all that hold it."""
    data = bytearray(mp4)
    for kind in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd", b"hev1"):
        start = data.index(kind) - 4
        (size,) = struct.unpack_from(">I", data, start)
        struct.pack_into(">I", data, start, size + len(boxes))
    at = data.index(before) - 4
    return bytes(data[:at] + boxes + data[at:])


@pytest.mark.parametrize("rotation", [90, 180, -90])
@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv"])
def test_rotation_is_kept_and_planes_are_not_turned(tmp_path, name, rotation):
    source = make_clip(tmp_path / name, rotation=rotation, stamps=range(3))
    reader, _ = transcode(source, tmp_path / f"out_{name}", QUICK)
    assert reader.info.rotation == -rotation % 360
    assert (reader.info.width, reader.info.height) == (96, 64)
    with VideoReader(tmp_path / f"out_{name}") as after:
        assert after.info.rotation == reader.info.rotation
        assert after.info.display_matrix == reader.info.display_matrix


def test_pixel_aspect_is_kept(tmp_path):
    source = make_clip(tmp_path / "a.mp4", aspect=Fraction(16, 11))
    transcode(source, tmp_path / "b.mp4", QUICK)
    with VideoReader(tmp_path / "b.mp4") as after:
        assert after.info.sample_aspect_ratio == Fraction(16, 11)


def test_gif_becomes_video_and_back(tmp_path):
    source = make_clip(tmp_path / "a.gif", codec="gif", pixel_format="rgb8",
                       time_base=Fraction(1, 100), stamps=[0, 4, 9, 20])  # fmt: skip
    transcode(source, tmp_path / "b.mp4")
    assert times(tmp_path / "b.mp4") == times(source)
    transcode(tmp_path / "b.mp4", tmp_path / "c.gif")
    assert times(tmp_path / "c.gif") == times(source)
    with VideoReader(source) as a, VideoReader(tmp_path / "c.gif") as c:
        for old, new in zip(a, c, strict=True):
            off = (old.planes.c0.float() - new.planes.c0.float()).abs().mean()
            assert off < 12


def test_prores_takes_eight_bit_and_says_so(tmp_path):
    source = make_clip(tmp_path / "a.mp4")
    _, writer = transcode(source, tmp_path / "b.mov", EncodeConfig(codec="prores"))
    assert writer.notes == ["prores_ks does not take yuv420p: encoded as yuv422p10le"]
    assert times(tmp_path / "b.mov") == times(source)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"codec": "h266"}, "codec must be one of h264"),
        ({"codec": "h264", "crf": 99}, "crf must lie in 0..51 for libx264, got 99"),
        ({"codec": "h264", "preset": "warp"}, "preset must be one of ultrafast"),
        ({"codec": "ffv1", "crf": 3}, "crf must be left out for ffv1"),
        ({"codec": "prores", "lossless": True}, "lossless needs one of libx264"),
        ({"threads": -1}, "threads must be 0 or more, got -1"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(ConfigError, match=message):
        EncodeConfig(**settings)


def test_settings_are_checked_against_the_encoder_that_is_chosen(tmp_path):
    source = make_clip(tmp_path / "a.mp4")
    with VideoReader(source) as reader:
        with pytest.raises(ConfigError, match=r"crf must lie in 0\.\.51 for libx264, got 60"):
            VideoWriter(tmp_path / "b.mp4", reader, EncodeConfig(crf=60))
        with pytest.raises(ConfigError, match=r"codec must be one of .* in webm, got h264"):
            VideoWriter(tmp_path / "b.webm", reader, EncodeConfig(codec="h264"))
        with pytest.raises(ConfigError, match=r"must end in one of \.mp4"):
            VideoWriter(tmp_path / "b.xyz", reader)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.mp4"]


def test_crf_decides_the_size(tmp_path):
    source = make_clip(tmp_path / "a.mp4", stamps=range(20))
    sizes = []
    for crf in (5, 40):
        target = tmp_path / f"{crf}.mp4"
        transcode(source, target, EncodeConfig(codec="h264", crf=crf, preset="ultrafast"))
        sizes.append(target.stat().st_size)
    assert sizes[0] > 2 * sizes[1]


def test_an_encoder_that_needs_a_card_says_so(tmp_path):
    if "h264_nvenc" not in offered() or torch.cuda.is_available():
        pytest.skip("no such encoder in this build, or a card is there")
    source = make_clip(tmp_path / "a.mp4")
    with (
        VideoReader(source) as reader,
        pytest.raises(ConfigError, match=r"b\.mp4: .*h264_nvenc"),
    ):
        VideoWriter(tmp_path / "b.mp4", reader, EncodeConfig(codec="h264_nvenc"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.mp4"]


def test_writers_are_chosen_by_name(tmp_path):
    source = make_clip(tmp_path / "a.mp4", stamps=range(3))
    transcode(source, tmp_path / "frames")
    assert sorted(p.name for p in (tmp_path / "frames").iterdir()) == [
        "000000.png", "000001.png", "000002.png",
    ]  # fmt: skip
    transcode(tmp_path / "frames", tmp_path / "b.mp4", QUICK)
    assert len(times(tmp_path / "b.mp4")) == 3


def test_every_offered_software_encoder_works(tmp_path):
    source = make_clip(tmp_path / "a.mp4", stamps=range(4), size=(128, 96))
    for name in offered():
        if "nvenc" in name:
            continue
        suffix = ".gif" if name == "gif" else ".mkv"
        config = EncodeConfig(codec=name, preset={"libsvtav1": "12", "libvpx-vp9": "8"}.get(name))
        transcode(source, tmp_path / f"{name}{suffix}", config)
        assert len(times(tmp_path / f"{name}{suffix}")) == 4, name
    assert set(FAST) <= {"libx264", "libx265", "libvpx-vp9", "gif"}


def test_the_input_does_not_choose_the_key_frames(tmp_path):
    source = make_clip(tmp_path / "a.mp4", options={"preset": "ultrafast", "g": "1"})
    transcode(source, tmp_path / "b.mp4", QUICK)
    with av.open(str(tmp_path / "b.mp4")) as container:
        assert [p.is_keyframe for p in container.demux(video=0) if p.size] == [True] + [False] * 11


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_the_last_frame_is_shown_as_long_as_before(tmp_path, name):
    source = make_clip(tmp_path / name, stamps=VFR, time_base=Fraction(1, 1000), last=700,
                       options={"preset": "ultrafast", "bf": "0"})  # fmt: skip
    with VideoReader(source) as reader:
        assert list(reader)[-1].picture.duration * reader.info.time_base == Fraction(7, 10)
    transcode(source, tmp_path / f"out_{name}", QUICK)
    with VideoReader(tmp_path / f"out_{name}") as after:
        assert list(after)[-1].picture.duration * after.info.time_base == Fraction(7, 10)
        assert after.info.duration_s == pytest.approx(1.09)


@pytest.mark.parametrize("encoder", ["libx264", "libx265"])
def test_few_frames_wait_in_an_encoder_of_huge_ones(tmp_path, encoder):
    """At 8K those it looks ahead to by itself are gigabytes; what the user says still counts."""
    with VideoReader(make_clip(tmp_path / "small.mp4")) as reader:
        small = reader.info
    huge = replace(small, width=8192, height=4320)
    params = f"{encoder[3:]}-params"
    assert "rc-lookahead" not in encoder_options(encoder, small, EncodeConfig()).get(params, "")
    assert "rc-lookahead" in encoder_options(encoder, huge, EncodeConfig())[params]
    mine = EncodeConfig(options={params: "rc-lookahead=30"})
    assert encoder_options(encoder, huge, mine)[params].endswith(":rc-lookahead=30")
