"""Files that are missing, empty, damaged, hostile or of the wrong kind; disks that are full."""

from __future__ import annotations

import resource
import socket
import struct
import threading
import zlib

import av
import numpy as np
import pytest
from PIL import Image

from accel.core import ConfigError, InputError
from accel.video.encode import EncodeConfig
from accel.video.read import Limits, VideoReader, open_video
from accel.video.sniff import MAX_STREAMS, open_demuxer, sniff
from accel.video.write import VideoWriter, open_writer
from tests.video.clips import make_clip, tone, transcode

QUICK = EncodeConfig(preset="ultrafast", codec="h264")


def _refused(path, message):
    with pytest.raises(InputError, match=message) as caught:
        open_video(path)
    text = str(caught.value)
    assert "\n" not in text
    assert text.count(str(path)) == 1
    assert text.startswith(str(path))


def test_missing(tmp_path):
    _refused(tmp_path / "no.mp4", "no such file")


def test_empty(tmp_path):
    path = tmp_path / "a.mp4"
    path.touch()
    _refused(path, "the file is empty")


@pytest.mark.parametrize(
    "text",
    [
        "hello",
        "#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n",
        "ffconcat version 1.0\nfile /etc/passwd\n",
        "<?xml version='1.0'?><MPD></MPD>",
        "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\n",
    ],
)
def test_text_named_mp4(tmp_path, text):
    path = tmp_path / "a.mp4"
    path.write_text(text * 40)
    _refused(path, "its first bytes fit neither")


def test_folder_without_pictures(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    _refused(tmp_path, "the folder must hold pictures")


def test_audio_only(tmp_path):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as output:
        sound = output.add_stream("aac", rate=48000)
        for packet in tone(sound):
            output.mux(packet)
    _refused(path, "must hold a video stream, holds audio")


def test_index_missing(tmp_path):
    path = make_clip(tmp_path / "a.mp4")
    path.write_bytes(path.read_bytes()[:2000])
    _refused(path, "must be a whole mov file")


def test_no_frame_decodes(tmp_path):
    path = make_clip(tmp_path / "a.mp4", stamps=range(3))
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat") + 4
    end = data.index(b"moov") - 4
    data[start:end] = bytes(end - start)
    path.write_bytes(data)
    _refused(path, "not one frame of up to 35389440 pixels could be decoded")


def test_enormous_picture(tmp_path):
    path = tmp_path / "a.png"
    header = struct.pack(">2I5B", 16384, 16384, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes(1000))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            for kind, data in ((b"IHDR", header), (b"IDAT", body), (b"IEND", b""))
        )
    )
    _refused(path, "a frame may have 67108864 pixels")


def test_enormous_frame_in_a_video(tmp_path):
    """The size in the header is believed before anything of that size is made."""
    path = make_clip(tmp_path / "a.mkv", codec="ffv1", stamps=range(2))
    data = path.read_bytes()
    small = b"\xb0\x81\x60\xba\x81\x40"  # PixelWidth 96, PixelHeight 64
    assert small in data
    at = data.index(small)
    path.write_bytes(data[:at] + b"\xb0\x81\xff\xba\x81\xff" + data[at + len(small) :])
    with pytest.raises(InputError, match="not one frame of up to 60000 pixels could be decoded"):
        VideoReader(path, limits=Limits(max_pixels=60_000))


def test_damaged_picture(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (64, 64), (10, 200, 30)).save(path)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(InputError, match=r"a\.png: .*damaged"):
        open_video(path)


@pytest.mark.parametrize("good", [0, 3])
@pytest.mark.parametrize("bound", [("MAX_FRUITLESS", 20), ("MAX_FRUITLESS_BYTES", 60_000)])
def test_packets_without_end_that_hold_no_picture(tmp_path, monkeypatch, good, bound):
    """A file of 26 MB can hold millions of them, or thousands of nine megabytes each."""
    monkeypatch.setattr(f"accel.video.read.{bound[0]}", bound[1])
    whole, path = make_clip(tmp_path / "a.mkv", stamps=range(40)), tmp_path / "b.mkv"
    with av.open(str(whole)) as film, av.open(str(path), "w") as out:
        stream = out.add_stream_from_template(film.streams.video[0])
        for number, packet in enumerate(p for p in film.demux() if p.size):
            put = packet if number < good else av.Packet(bytes(4000))
            put.pts = put.dts = number
            put.time_base, put.stream = packet.time_base, stream
            out.mux(put)
    with pytest.raises(InputError, match=r"\d+ packets in a row near frame \d must hold"):
        list(VideoReader(path))


@pytest.mark.parametrize("name", ["a.ts", "a.m2ts"])
def test_transport_streams_that_are_damaged(tmp_path, name):
    """Packets that lie, are missing or say nothing: some frames or one clear line."""
    good = make_clip(tmp_path / name, stamps=range(8)).read_bytes()
    step = 192 if name == "a.m2ts" else 188
    assert good[step - 188 :: step] == b"G" * (len(good) // step)
    rng = np.random.default_rng(0)
    refused, frames = [], 0
    for number in range(40):
        data = np.frombuffer(good, np.uint8).copy()
        many = rng.integers(1, 60)
        data[rng.integers(3 * step, len(data), many)] = rng.integers(0, 256, many)
        if number % 2:  # whole packets are gone
            data = np.delete(data.reshape(-1, step), rng.integers(3, len(data) // step, 5), axis=0)
        path = tmp_path / f"{number}{name}"
        path.write_bytes(data.tobytes())
        try:
            with VideoReader(path) as reader:
                frames += sum(frame.layout == reader.layout for frame in reader)
        except InputError as error:
            refused.append(str(error).startswith(str(path)) and "\n" not in str(error))
    assert frames > 8
    assert all(refused)
    path.write_bytes((b"\0" * (step - 188) + b"G" + b"\xff" * 187) * 5000)
    _refused(path, "must be a whole mpegts file")


@pytest.mark.parametrize("step", [188, 192])
def test_a_transport_stream_of_thousands_of_streams(tmp_path, step):
    """The map of programs may announce more streams than are ever looked at."""
    path = tmp_path / "a.mts"
    path.write_bytes(b"".join(bytes(step - 188) + packet for packet in _many_streams(6000)))
    with open_demuxer(path, sniff(path), 1 << 26) as container:
        assert len(container.streams) == MAX_STREAMS
    _refused(path, "not one frame")


def _many_streams(count):
    """A table of one program each for every 200 streams, and the tables of those programs."""
    programs = range(1, count // 200 + 1)
    table = b"".join(struct.pack(">HH", n, 0xE000 | 0x100 + n) for n in programs)
    yield from _packets(0, b"\0" + _checked(0, 1, table))
    for n in programs:
        streams = b"".join(
            struct.pack(">BHH", 0x1B, 0xE400 + (200 * n + i) % 0x1800, 0xF000) for i in range(200)
        )
        body = struct.pack(">HH", 0xE100, 0xF000) + streams
        yield from _packets(0x100 + n, b"\0" + _checked(2, n, body))
    yield from _packets(0x1FFF, b"\xff" * 184 * 50)


def _checked(table, number, body):
    head = struct.pack(">BHHBBB", table, 0xB000 | len(body) + 9, number, 0xC1, 0, 0)
    crc = 0xFFFFFFFF
    for byte in head + body:
        crc ^= byte << 24
        for _ in range(8):
            crc = crc << 1 ^ (0x04C11DB7 if crc & 0x80000000 else 0)
        crc &= 0xFFFFFFFF
    return head + body + struct.pack(">I", crc)


def _packets(pid, data):
    for i, at in enumerate(range(0, len(data), 184)):
        start = 0x40 if i == 0 else 0
        head = struct.pack(">BBBB", 0x47, start | pid >> 8, pid & 255, 0x10 | i % 16)
        yield head + data[at : at + 184].ljust(184, b"\xff")


def test_no_network_whatever_a_file_says(tmp_path):
    """A playlist under any name must not make FFmpeg connect."""
    seen = []
    server = socket.create_server(("127.0.0.1", 0))
    server.settimeout(0.3)

    def listen():
        try:
            seen.append(server.accept())
        except TimeoutError:
            return

    thread = threading.Thread(target=listen)
    thread.start()
    port = server.getsockname()[1]
    for name in ("a.m3u8", "a.mp4", "a.mkv"):
        path = tmp_path / name
        path.write_text(
            f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:{port}/a.ts\n"
        )
        with pytest.raises(InputError):
            open_video(path)
    for url in (f"http://127.0.0.1:{port}/a.mp4", "concat:a.mp4|b.mp4", "subfile,,start,0,,:a"):
        with pytest.raises(InputError, match="no such file"):
            open_video(url)
    thread.join()
    server.close()
    assert not seen


def test_names_that_look_like_protocols_are_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_clip(tmp_path / "a.mp4").rename(tmp_path / "concat:a%03d.mp4")
    with open_video("concat:a%03d.mp4") as reader, open_writer("http:b.mkv", reader) as writer:
        for frame in reader:
            writer.write(frame)
    assert (tmp_path / "http:b.mkv").stat().st_size > 500


@pytest.mark.parametrize(
    ("head", "demuxer"),
    [
        (b"\x00\x00\x00\x20ftypisom", "mov"),
        (b"\x1a\x45\xdf\xa3", "matroska"),
        (b"RIFF\x00\x00\x00\x00AVI LIST", "avi"),
        (b"GIF89a", "gif"),
        (b"\x89PNG\r\n\x1a\n", "png_pipe"),
        (b"\xff\xd8\xff\xe0", "jpeg_pipe"),
        (b"RIFF\x00\x00\x00\x00WEBPVP8 ", "webp_pipe"),
    ],
)
def test_sniff(tmp_path, head, demuxer):
    path = tmp_path / "whatever"
    path.write_bytes(head + bytes(600))
    assert sniff(path) == demuxer


def _left(folder) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_output_is_input(tmp_path):
    source = make_clip(tmp_path / "a.mp4")
    before = source.read_bytes()
    (tmp_path / "link.mp4").symlink_to(source)
    with VideoReader(source) as reader:
        for name in ("a.mp4", "link.mp4"):
            with pytest.raises(ConfigError, match="the output must not be the input"):
                VideoWriter(tmp_path / name, reader, QUICK)
    assert source.read_bytes() == before


def test_output_folder_missing(tmp_path):
    source = make_clip(tmp_path / "a.mp4")
    with pytest.raises(ConfigError, match="the folder must exist"):
        transcode(source, tmp_path / "no" / "b.mp4", QUICK)


def test_output_folder_not_writable(tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda *args: False)  # for root everything is
    source = make_clip(tmp_path / "a.mp4")
    with pytest.raises(ConfigError, match="the folder must be writable"):
        transcode(source, tmp_path / "b.mp4", QUICK)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
def test_disk_that_fills_up(tmp_path, suffix):
    """A limit on file size fails the same writes that a full disk does."""
    source = make_clip(tmp_path / "a.mkv", codec="ffv1", stamps=range(200))
    target = tmp_path / f"b{suffix}"
    target.write_bytes(b"what was there before")
    config = EncodeConfig(codec="h264" if suffix == ".mp4" else "ffv1", lossless=True)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(ConfigError, match=r"b\.\w+: cannot be written: File too large"):
            transcode(source, target, config)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert _left(tmp_path) == ["a.mkv", f"b{suffix}"]
    assert target.read_bytes() == b"what was there before"


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_interruption_leaves_nothing_behind(tmp_path, error):
    source = make_clip(tmp_path / "a.mp4", audio=("eng",), stamps=range(60))

    def stop(frame):
        if frame.index == 40:
            raise error

    with pytest.raises(error):
        transcode(source, tmp_path / "b.mp4", QUICK, stop)
    assert _left(tmp_path) == ["a.mp4"]


def test_output_appears_only_when_complete(tmp_path):
    source = make_clip(tmp_path / "a.mp4")
    with VideoReader(source) as reader, VideoWriter(tmp_path / "b.mp4", reader, QUICK) as writer:
        for frame in reader:
            writer.write(frame)
        assert not (tmp_path / "b.mp4").exists()
    assert _left(tmp_path) == ["a.mp4", "b.mp4"]
    with pytest.raises(ValueError, match="write was called after close"):
        writer.write(frame)


def test_a_film_may_be_less_large_than_a_picture(tmp_path):
    path = make_clip(tmp_path / "a.mp4", stamps=range(3))
    with pytest.raises(InputError, match="a frame may have 600 pixels, this one is "):
        open_video(path, limits=Limits(max_film_pixels=600))
