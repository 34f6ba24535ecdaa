"""More attack files: films and pictures that fetch, swell, lie about time or size, or hide a bomb.

Sources: ISO 14496-12; the QuickTime file format (cmov); Matroska and EBML (RFC 8794); RIFF; the
JPEG, PNG, TIFF, GIF, WebP formats; C2PA 2.4 (JUMBF boxes, remote manifests); XMP part 3.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

from tests.hostile.attacks import (
    TRACK,
    Words,
    attack,
    bomb,
    boxes,
    film,
    header,
    png,
    still,
    swap,
)

# --- names that are addresses ---------------------------------------------------------------------

for _name, _address in {
    "data_address": "data:video/mp4;base64,AAAAIGZ0eXBpc29t",
    "lavfi_address": "lavfi:testsrc=size=100x100",
    "pipe_address": "pipe:0",
    "fd_address": "fd:0",
    "crypto_address": "crypto+file:/etc/passwd",
    "cache_address": "cache:http://127.0.0.1/",
    "async_address": "async:/etc/passwd",
    "unix_address": "unix:/tmp/socket",
    "tcp_address": "tcp://127.0.0.1:9?listen",
    "tee_address": "tee:a|b",
    "md5_address": "md5:",
    "ffrtmp_address": "rtmp://127.0.0.1/a",
    "gopher_address": "gopher://127.0.0.1/a",
    "extended_address": "ffmpeg://a",
    "share_address": "//127.0.0.1/share/a.mp4",
    "x11_address": ":0.0",
    "camera_address": "video=Camera",
    "percent_address": "%2e%2e%2fetc%2fpasswd",
    "null_address": "a.mp4\0.png",
    "long_address": "a" * 5000,
    "dots_address": "../" * 40 + "etc/passwd",
    "broken_address": os.fsdecode(b"\xff\xfe\x80.mp4"),
}.items():

    def _build(folder: Path, url: str, address=_address) -> Words:
        return swap(address)

    _build.__name__ = f"film_{_name}"
    attack()(_build)

    def _verify(folder: Path, url: str, address=_address) -> Words:
        return ["verify", address]

    _verify.__name__ = f"verify_{_name}"
    attack(statuses=(2, 4))(_verify)

    def _source(folder: Path, url: str, address=_address) -> Words:
        film(folder)
        return ["swap", "a.mp4", "out.mp4", "--source", address]

    _source.__name__ = f"source_{_name}"
    attack()(_source)


@attack(statuses=(2,))
def output_on_a_device(folder: Path, url: str) -> Words:
    film(folder)
    return ["swap", "a.mp4", "/dev/full", "--source", "portrait.png", "--overwrite"]


@attack(statuses=(0, 2))
def output_that_is_a_link(folder: Path, url: str) -> Words:
    film(folder)
    (folder / "theirs").write_text("kept")
    (folder / "link.mp4").symlink_to("theirs")
    return ["swap", "a.mp4", "link.mp4", "--source", "portrait.png"]


# --- boxes of films -------------------------------------------------------------------------------


def changed(folder: Path, path: tuple[bytes, ...], make) -> Words:
    at = film(folder)
    at.write_bytes(boxes(at.read_bytes(), path, make))
    return swap("a.mp4")


@attack(statuses=(0, 2))
def compressed_header_bomb(folder: Path, url: str) -> Words:
    """QuickTime may keep its table of contents compressed."""
    packed = struct.pack(">I", 0x7FFFFFF0) + bomb(1 << 29)
    body = struct.pack(">I4s4s", 12, b"dcom", b"zlib")
    body += struct.pack(">I4s", 8 + len(packed), b"cmvd") + packed
    body = struct.pack(">I4s", 8 + len(body), b"cmov") + body
    start = struct.pack(">I4s4sI", 16, b"ftyp", b"qt  ", 0)
    (folder / "a.mov").write_bytes(start + struct.pack(">I4s", 8 + len(body), b"moov") + body)
    return swap("a.mov")


for _box, _table in {
    "stsc": struct.pack(">II", 0, 3) + struct.pack(">III", 1, 0x7FFFFFFF, 1) * 3,
    "stco": struct.pack(">II", 0, 0x3FFFFFFF) + struct.pack(">I", 0) * 100,
    "stss": struct.pack(">II", 0, 0xFFFFFFFF) + struct.pack(">I", 1),
    "ctts": struct.pack(">IIIi", 0, 1, 0x7FFFFFFF, -(2**31)),
    "stsd": struct.pack(">II", 0, 5000) + struct.pack(">I4s", 16, b"avc1").ljust(16, b"\0") * 5000,
}.items():

    def _build(folder: Path, url: str, box=_box, table=_table) -> Words:
        return changed(folder, (*TRACK, b"stbl", box.encode()), lambda old: table)

    _build.__name__ = f"film_of_odd_{_box}"
    attack(statuses=(0, 2))(_build)


@attack(statuses=(0, 2))
def film_without_clock(folder: Path, url: str) -> Words:
    return changed(folder, (*TRACK[:3], b"mdhd"), lambda old: old[:12] + bytes(4) + old[16:])


@attack(statuses=(0, 2))
def film_of_the_fastest_clock(folder: Path, url: str) -> Words:
    return changed(folder, (*TRACK[:3], b"mdhd"), lambda old: old[:12] + b"\xff" * 4 + old[16:])


@attack(statuses=(0, 2))
def film_of_zero_durations(folder: Path, url: str) -> Words:
    table = struct.pack(">IIII", 0, 1, 4, 0)
    return changed(folder, (*TRACK, b"stbl", b"stts"), lambda old: table)


@attack(statuses=(0, 2))
def film_with_an_age_between_frames(folder: Path, url: str) -> Words:
    table = struct.pack(">II", 0, 2) + struct.pack(">IIII", 1, 0x7FFFFFFF, 3, 512)
    return changed(folder, (*TRACK, b"stbl", b"stts"), lambda old: table)


@attack(statuses=(0, 2))
def film_turned_by_an_odd_matrix(folder: Path, url: str) -> Words:
    odd = struct.pack(">9i", *[2**31 - 1, -(2**31)] * 4, 0)
    return changed(folder, (*TRACK[:2], b"tkhd"), lambda old: old[:40] + odd + old[76:])


@attack(statuses=(0, 2))
def film_of_other_size_outside(folder: Path, url: str) -> Words:
    return changed(folder, (*TRACK[:2], b"tkhd"), lambda old: old[:76] + b"\xff" * 8)


@attack(statuses=(0, 2))
def film_of_huge_entry(folder: Path, url: str) -> Words:
    def change(old: bytes) -> bytes:
        return old[: 8 + 8 + 24] + b"\xff\xff\xff\xff" + old[8 + 8 + 28 :]

    return changed(folder, (*TRACK, b"stbl", b"stsd"), change)


@attack(statuses=(0, 2))
def fragments_without_end(folder: Path, url: str) -> Words:
    start = film(folder).read_bytes()
    head = struct.pack(">I4sII", 16, b"mfhd", 0, 1)
    run = struct.pack(">I4sIII", 20, b"trun", 0x01, 0xFFFFFFFF, 0)
    track = struct.pack(">I4sII", 16, b"tfhd", 0x020000, 1) + run
    track = struct.pack(">I4s", 8 + len(track), b"traf") + track
    part = struct.pack(">I4s", 8 + len(head + track), b"moof") + head + track
    (folder / "a.mp4").write_bytes(start + part * 20_000)
    return swap("a.mp4")


@attack(statuses=(0, 2))
def index_that_points_at_itself(folder: Path, url: str) -> Words:
    data = film(folder).read_bytes()
    entries = struct.pack(">III", 0x80000000 | 0, 0xFFFFFFFF, 0) * 60_000
    body = struct.pack(">IIIIIHH", 0, 1, 1, 0, 0, 0, 60_000) + entries
    index = struct.pack(">I4s", 8 + len(body), b"sidx") + body
    (folder / "a.mp4").write_bytes(data[:32] + index * 5 + data[32:])
    return swap("a.mp4")


@attack(statuses=(0, 2))
def film_of_metadata(folder: Path, url: str) -> Words:
    words = b"\x1b[2J" * 100
    item = struct.pack(">I4s", 8 + len(words), b"\xa9nam") + words
    more = struct.pack(">I4s", 8 + len(item) * 20_000, b"udta") + item * 20_000
    return changed(folder, (b"moov",), lambda old: old + more)


def ebml(kind: bytes, body: bytes, size: int | None = None) -> bytes:
    length = len(body) if size is None else size
    return kind + struct.pack(">Q", length | 1 << 56) + body


HEAD = ebml(b"\x1a\x45\xdf\xa3", ebml(b"\x42\x82", b"matroska"))


@attack()
def matroska_nested(folder: Path, url: str) -> Words:
    body = b""
    for _ in range(3000):
        body = ebml(b"\xb6", body)  # chapters within chapters
    body = ebml(b"\x18\x53\x80\x67", ebml(b"\x10\x43\xa7\x70", ebml(b"\x45\xb9", body)))
    (folder / "a.mkv").write_bytes(HEAD + body)
    return swap("a.mkv")


@attack()
def matroska_of_huge_parts(folder: Path, url: str) -> Words:
    private = ebml(b"\x63\xa2", bytes(10), 1 << 40)
    track = ebml(b"\xae", ebml(b"\xd7", b"\1") + ebml(b"\x83", b"\1") + private)
    segment = ebml(b"\x18\x53\x80\x67", ebml(b"\x16\x54\xae\x6b", track))
    (folder / "a.mkv").write_bytes(HEAD + segment)
    return swap("a.mkv")


@attack()
def matroska_compressed_private(folder: Path, url: str) -> Words:
    """A track may say that its codec's data is compressed."""
    packing = ebml(b"\x50\x34", ebml(b"\x42\x54", b"\0"))
    how = ebml(b"\x6d\x80", ebml(b"\x62\x40", ebml(b"\x50\x32", b"\2") + packing))
    track = ebml(b"\xd7", b"\1") + ebml(b"\x83", b"\1") + ebml(b"\x86", b"V_MPEG4/ISO/AVC")
    track = ebml(b"\xae", track + how + ebml(b"\x63\xa2", bomb(1 << 29)))
    (folder / "a.mkv").write_bytes(
        HEAD + ebml(b"\x18\x53\x80\x67", ebml(b"\x16\x54\xae\x6b", track))
    )
    return swap("a.mkv")


@attack(statuses=(0, 2))
def matroska_of_many_tracks(folder: Path, url: str) -> Words:
    track = ebml(b"\xd7", b"\1") + ebml(b"\x83", b"\1") + ebml(b"\x86", b"V_VP9")
    tracks = ebml(b"\x16\x54\xae\x6b", ebml(b"\xae", track) * 50_000)
    (folder / "a.mkv").write_bytes(HEAD + ebml(b"\x18\x53\x80\x67", tracks))
    return swap("a.mkv")


@attack()
def matroska_of_empty_parts(folder: Path, url: str) -> Words:
    (folder / "a.mkv").write_bytes(HEAD + ebml(b"\x18\x53\x80\x67", b"\xec\x80" * 4_000_000))
    return swap("a.mkv")


@attack(statuses=(0, 2))
def avi_of_64k(folder: Path, url: str) -> Words:
    path = film(folder, "a.avi", codec="mpeg4")
    data = bytearray(path.read_bytes())
    at = data.index(b"strf") + 12
    data[at : at + 8] = struct.pack("<ii", 65535, 65535)
    at = data.index(b"avih") + 40
    data[at : at + 8] = struct.pack("<ii", 65535, 65535)
    path.write_bytes(data)
    return swap("a.avi")


@attack(statuses=(0, 2))
def avi_of_no_rate(folder: Path, url: str) -> Words:
    path = film(folder, "a.avi", codec="mpeg4")
    data = bytearray(path.read_bytes())
    at = data.index(b"strh") + 8 + 20
    data[at : at + 8] = struct.pack("<II", 0xFFFFFFFF, 0)
    path.write_bytes(data)
    return swap("a.avi")


@attack(statuses=(0, 2))
def avi_that_indexes_itself(folder: Path, url: str) -> Words:
    path = film(folder, "a.avi", codec="mpeg4")
    data = path.read_bytes()
    body = struct.pack("<HBBI4sQI", 4, 0, 0, 1000, b"00dc", 0, 0)
    body += struct.pack("<QII", 0, 0xFFFFFFFF, 1) * 1000
    chunk = b"indx" + struct.pack("<I", len(body)) + body
    at = data.index(b"strf")
    path.write_bytes(data[:at] + chunk + data[at:])
    return swap("a.avi")


@attack(statuses=(0, 2))
def transport_stream_of_all_programs(folder: Path, url: str) -> Words:
    packet = b"\x47\x40\x00\x10\0" + bytes(range(16)) * 12
    (folder / "a.ts").write_bytes(packet[:188] * 50_000)
    return swap("a.ts")


@attack(statuses=(0, 2))
def raw_film_of_long_lines(folder: Path, url: str) -> Words:
    (folder / "a.y4m").write_bytes(b"YUV4MPEG2 W16 H16 F25:1 X" + b"A" * 5_000_000 + b"\nFRAME\n")
    return swap("a.y4m")


@attack()
def raw_film_of_negative_size(folder: Path, url: str) -> Words:
    (folder / "a.y4m").write_bytes(b"YUV4MPEG2 W-16 H99999999999 F0:0\nFRAME\n")
    return swap("a.y4m")


@attack(statuses=(0, 2))
def film_that_is_a_column(folder: Path, url: str) -> Words:
    (folder / "a.y4m").write_bytes(b"YUV4MPEG2 W2 H30000 F25:1 C420\nFRAME\n" + bytes(90_000))
    return swap("a.y4m")


@attack()
def ivf_of_64k(folder: Path, url: str) -> Words:
    head = struct.pack("<4sHH4sHHIIII", b"DKIF", 0, 32, b"VP90", 65535, 65535, 25, 1, 9**9, 0)
    frame = b"\x82\x49\x83\x42\x00" + b"\xff" * 20
    (folder / "a.ivf").write_bytes(head + struct.pack("<IQ", len(frame), 0) + frame)
    return swap("a.ivf")


@attack()
def ivf_of_huge_frames(folder: Path, url: str) -> Words:
    head = struct.pack("<4sHH4sHHIIII", b"DKIF", 0, 32, b"AV01", 64, 64, 25, 1, 9, 0)
    (folder / "a.ivf").write_bytes(head + struct.pack("<IQ", 0x7FFFFFFF, 0) + bytes(100))
    return swap("a.ivf")


@attack()
def flash_film_of_lies(folder: Path, url: str) -> Words:
    tag = b"\x12" + b"\xff\xff\xff" + bytes(7) + b"\x02\0\x0aonMetaData\x08\xff\xff\xff\xff" * 100
    (folder / "a.flv").write_bytes(b"FLV\x01\x05\0\0\0\x09\0\0\0\0" + tag)
    return swap("a.flv")


@attack()
def sound_that_is_no_film(folder: Path, url: str) -> Words:
    import av

    with av.open(str(folder / "a.mp4"), "w") as file:
        stream = file.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 44100), np.float32), "fltp", "mono")
        frame.sample_rate = 44100
        file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return swap("a.mp4")


@attack(statuses=(0, 2))
def ogg_of_many_streams(folder: Path, url: str) -> Words:
    pages = b"".join(
        struct.pack("<4sBBqIIIB", b"OggS", 0, 2, 0, serial, 0, 0, 1) + b"\x07\x80theora"
        for serial in range(20_000)
    )
    (folder / "a.ogv").write_bytes(pages)
    return swap("a.ogv")


# --- pictures -------------------------------------------------------------------------------------


def seen(folder: Path, name: str, data: bytes) -> Words:
    return still(folder, name, data)


def plain_jpeg(side: int = 16, **options) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side, side)).save(file, "JPEG", **options)
    return file.getvalue()


@attack(statuses=(0, 2))
def jpeg_of_thousands_of_scans(folder: Path, url: str) -> Words:
    """Each scan of a progressive picture goes over all of it again."""
    data = plain_jpeg(4000, progressive=True)
    at = data.rindex(b"\xff\xda")
    return seen(folder, "a.jpg", data[:at] + data[at:-2] * 300 + b"\xff\xd9")


@attack(statuses=(0, 2))
def jpeg_of_many_profiles(folder: Path, url: str) -> Words:
    segment = b"\xff\xe2" + struct.pack(">H", 65535) + b"ICC_PROFILE\0\x01\xff".ljust(65533, b"\0")
    data = plain_jpeg()
    return seen(folder, "a.jpg", data[:2] + segment * 255 + data[2:])


@attack(statuses=(0, 2))
def jpeg_of_endless_comments(folder: Path, url: str) -> Words:
    data = plain_jpeg()
    return seen(folder, "a.jpg", data[:2] + (b"\xff\xfe\x00\x02") * 2_000_000 + data[2:])


@attack(statuses=(0, 2))
def jpeg_of_circular_exif(folder: Path, url: str) -> Words:
    body = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 1)
    body += struct.pack("<HHII", 0x8769, 4, 1, 8) + struct.pack("<I", 8)
    data = plain_jpeg()
    segment = b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body
    return seen(folder, "a.jpg", data[:2] + segment + data[2:])


def tiff(*tags: tuple[int, int, int, int], data: bytes = b"") -> bytes:
    body = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + body + bytes(4) + data


for _name, _tags in {
    "of_64k": ((256, 4, 1, 65535), (257, 4, 1, 65535), (259, 3, 1, 1), (273, 4, 1, 8)),
    "of_many_samples": ((256, 4, 1, 8), (257, 4, 1, 8), (277, 3, 1, 65535), (273, 4, 1, 8)),
    "of_endless_tags": ((256, 4, 0xFFFFFFFF, 8), (257, 4, 0xFFFFFFFF, 8)),
    "of_endless_strips": ((256, 4, 1, 8), (257, 4, 1, 8), (273, 4, 0x3FFFFFFF, 8),
                          (279, 4, 0x3FFFFFFF, 8)),
    "of_circular_parts": ((330, 4, 1, 8), (34665, 4, 1, 8), (34853, 4, 1, 8)),
    "of_odd_bits": ((256, 4, 1, 8), (257, 4, 1, 8), (258, 3, 1, 64), (273, 4, 1, 8)),
}.items():  # fmt: skip

    def _build(folder: Path, url: str, tags=_tags) -> Words:
        return seen(folder, "a.tif", tiff(*tags))

    _build.__name__ = f"tiff_{_name}"
    attack()(_build)


@attack()
def tiff_bomb(folder: Path, url: str) -> Words:
    packed = bomb(1 << 29)
    begin = 8 + 2 + 12 * 8 + 4
    tags = ((256, 4, 1, 20000), (257, 4, 1, 20000), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1),
            (273, 4, 1, begin), (278, 4, 1, 20000), (279, 4, 1, len(packed)))  # fmt: skip
    return seen(folder, "a.tif", tiff(*tags, data=packed))


@attack(statuses=(0, 2))
def png_of_many_chunks(folder: Path, url: str) -> Words:
    chunk = (b"tEXt", b"a\0b")
    end = [(b"IDAT", zlib.compress(bytes(200))), (b"IEND", b"")]
    return seen(folder, "a.png", png(header(8, 8), *[chunk] * 300_000, *end))


@attack(statuses=(0, 2))
def png_of_many_words(folder: Path, url: str) -> Words:
    words = [(b"iTXt", b"parameters\0\1\0\0\0" + bomb(60 << 20))] * 30
    end = [(b"IDAT", zlib.compress(bytes(200))), (b"IEND", b"")]
    return seen(folder, "a.png", png(header(8, 8), *words, *end))


@attack(statuses=(0, 2))
def animation_of_huge_frames(folder: Path, url: str) -> Words:
    control = (b"acTL", struct.pack(">II", 3, 0))
    frame = (b"fcTL", struct.pack(">IIIIIHHBB", 0, 2**31 - 1, 2**31 - 1, 2**31 - 1, 0, 1, 1, 0, 0))
    end = [(b"IDAT", zlib.compress(bytes(200))), (b"IEND", b"")]
    return seen(folder, "a.png", png(header(8, 8), control, frame, *end))


@attack(statuses=(0, 2))
def gif_of_huge_frames(folder: Path, url: str) -> Words:
    frame = b",\xff\xff\xff\xff" + struct.pack("<HH", 65535, 65535) + b"\0\x02\x02D\x01\0"
    start = b"GIF89a" + struct.pack("<HH", 8, 8) + b"\x80\0\0" + bytes(3) + b"\xff\xff\xff"
    (folder / "a.gif").write_bytes(start + frame * 50 + b";")
    return swap("a.gif")


@attack()
def gif_without_frames(folder: Path, url: str) -> Words:
    (folder / "a.gif").write_bytes(
        b"GIF89a" + struct.pack("<HH", 8, 8) + b"\0\0\0" + b"!\xfe\0" * 9
    )
    return swap("a.gif")


@attack(statuses=(0, 2))
def webp_of_lies(folder: Path, url: str) -> Words:
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "WEBP")
    data = file.getvalue()
    extended = b"VP8X" + struct.pack("<IIHBHB", 10, 0x2C, 0xFFFF, 0xFF, 0xFFFF, 0xFF)
    profile = b"ICCP" + struct.pack("<I", 0xFFFFFFF0) + bytes(16)
    return seen(folder, "a.webp", data[:12] + extended + profile + data[12:])


for _name, _data in {
    "a.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(canary) (w) file closefile\n",
    "a.pdf": b"%PDF-1.7\n1 0 obj<</OpenAction<</S/Launch/F(touch canary)>>>>endobj\n",
    "a.ps": b"%!PS\n(touch ../canary) %pipe% (w) file\n",
    "a.wmf": b"\xd7\xcd\xc6\x9a" + bytes(60),
    "a.mvg": b"push graphic-context\nimage over 0,0 0,0 'https://127.0.0.1/a.png'\n",
    "a.msl": b"<?xml version='1.0'?><image><read filename='/etc/passwd'/></image>",
    "a.svg": b"<?xml version='1.0'?><!DOCTYPE s [<!ENTITY x SYSTEM 'file:///etc/passwd'>]>"
    b"<svg>&x;</svg>",
    "a.xbm": b"#define a_width 99999\n#define a_height 99999\nstatic char a[] = {",
    "a.ppm": b"P3\n99999 99999\n255\n" + b"1 " * 100,
    "a.jp2": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(100),
    "a.psd": b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 30000, 30000, 8, 3),
    "a.ico": struct.pack("<HHHBBBBHHII", 0, 1, 1, 0, 0, 0, 0, 1, 32, 0xFFFFFFF, 22),
    "a.exr": b"v/1\x01\x02\0\0\0" + b"A" * 300,
    "a.heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100),
    "a.avif": b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf" + bytes(100),
    "a.docx": b"PK\x03\x04" + bytes(100),
    "a.html": b"<html><script src='http://127.0.0.1/x'></script></html>",
    "a.sh": b"#!/bin/sh\ntouch ../canary\n",
}.items():

    def _build(folder: Path, url: str, name=_name, data=_data) -> Words:
        return seen(folder, "a.png", data)

    _build.__name__ = f"picture_that_is_{_name[2:]}"
    attack()(_build)


# --- what verify reads ----------------------------------------------------------------------------


def verified(folder: Path, name: str, data: bytes, *more: str) -> Words:
    (folder / name).write_bytes(data)
    return ["verify", name, *more]


END = [(b"IDAT", zlib.compress(bytes(200))), (b"IEND", b"")]
ANY = (1, 2, 3, 4)


def box(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(body), kind) + body


def described(label: bytes = b"c2pa") -> bytes:
    return box(b"jumd", b"c2pa\0\x11\0\x10\x80\0\0\xaa\0\x38\x9b\x71\x03" + label + b"\0")


@attack(statuses=ANY)
def credential_of_nested_boxes(folder: Path, url: str) -> Words:
    body = described()
    for _ in range(20_000):
        body = box(b"jumb", described() + body)
    return verified(folder, "a.png", png(header(8, 8), (b"caBX", body), *END))


@attack(statuses=ANY)
def credential_of_nested_boxes_beside(folder: Path, url: str) -> Words:
    body = described()
    for _ in range(20_000):
        body = box(b"jumb", described() + body)
    (folder / "a.mkv").write_bytes(film(folder, "a.mkv", codec="ffv1").read_bytes())
    (folder / "a.mkv.c2pa").write_bytes(body)
    return ["verify", "a.mkv"]


@attack(statuses=ANY)
def credential_of_nested_cbor(folder: Path, url: str) -> Words:
    deep = box(b"cbor", b"\x81" * 200_000 + b"\0")
    part = box(b"jumb", described(b"c2pa.claim.v2") + deep)
    store = box(b"jumb", described() + box(b"jumb", described(b"urn:x") + part))
    return verified(folder, "a.png", png(header(8, 8), (b"caBX", store), *END))


@attack(statuses=ANY)
def credential_of_endless_cbor(folder: Path, url: str) -> Words:
    deep = box(b"cbor", b"\x9b" + b"\x7f" * 8 + b"\0" * 10)
    part = box(b"jumb", described(b"c2pa.claim") + deep)
    store = box(b"jumb", described() + box(b"jumb", described(b"urn:x") + part))
    return verified(folder, "a.png", png(header(8, 8), (b"caBX", store), *END))


@attack(statuses=ANY)
def credential_elsewhere(folder: Path, url: str) -> Words:
    text = PngImagePlugin.PngInfo()
    link = (
        f'<x:xmpmeta xmlns:dcterms="http://purl.org/dc/terms/" dcterms:provenance="{url}/a.c2pa"/>'
    )
    text.add_itxt("XML:com.adobe.xmp", link)
    Image.new("RGB", (64, 64)).save(folder / "a.png", pnginfo=text)
    return ["verify", "a.png"]


@attack(statuses=ANY)
def credential_in_many_segments(folder: Path, url: str) -> Words:
    segment = b"\xff\xeb" + struct.pack(">H", 65000) + b"JP\0\x01\0\0\0\x01" + bytes(64990)
    data = plain_jpeg()
    return verified(folder, "a.jpg", data[:2] + segment * 500 + data[2:])


@attack(statuses=ANY)
def credential_of_a_film_nested(folder: Path, url: str) -> Words:
    body = described()
    for _ in range(20_000):
        body = box(b"jumb", described() + body)
    kind = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")
    held = box(b"uuid", kind + bytes(4) + b"manifest\0" + bytes(8) + body)
    data = film(folder).read_bytes()
    return verified(folder, "a.mp4", data[:32] + held + data[32:])


@attack(statuses=ANY)
def words_of_a_thousand_million_laughs(folder: Path, url: str) -> Words:
    lines = ['<!DOCTYPE x [<!ENTITY a0 "ha">']
    lines += [f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 12)]
    text = "\n".join(lines) + "]><x:xmpmeta DigitalSourceType='&a11;'>&a11;</x:xmpmeta>"
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", text)
    Image.new("RGB", (64, 64)).save(folder / "a.png", pnginfo=info)
    return ["verify", "a.png"]


@attack(statuses=ANY)
def words_from_elsewhere(folder: Path, url: str) -> Words:
    info = PngImagePlugin.PngInfo()
    text = f"<!DOCTYPE x [<!ENTITY e SYSTEM '{url}/e'>]><x:xmpmeta>&e;"
    text += "<Iptc4xmpExt:DigitalSourceType>&e;</Iptc4xmpExt:DigitalSourceType></x:xmpmeta>"
    info.add_itxt("XML:com.adobe.xmp", text)
    Image.new("RGB", (64, 64)).save(folder / "a.png", pnginfo=info)
    return ["verify", "a.png"]


@attack(statuses=ANY)
def words_without_end(folder: Path, url: str) -> Words:
    words = b"<x:xmpmeta DigitalSourceType=" * 400_000
    return verified(folder, "a.jpg", plain_jpeg() + words)


@attack(statuses=ANY)
def words_of_blanks(folder: Path, url: str) -> Words:
    words = b"<x:xmpmeta" + b" " * 8_000_000 + b"DigitalSourceType" + b" " * 8_000_000 + b"="
    return verified(folder, "a.jpg", plain_jpeg() + words)


@attack(statuses=ANY)
def verify_of_a_page_in_a_name(folder: Path, url: str) -> Words:
    name = '<script>alert(1)</script>\n\x1b[31m\u202e".png'
    name = name.replace("/", "\u2215")
    Image.new("RGB", (64, 64)).save(folder / name, "PNG")
    return ["verify", name, "--report", "page.html", "--json", "-"]


@attack(statuses=ANY)
def verify_of_a_folder_of_everything(folder: Path, url: str) -> Words:
    place = folder / "many"
    place.mkdir()
    os.mkfifo(place / "pipe.png")
    (place / "link.png").symlink_to("/dev/zero")
    (place / "loop").symlink_to(".")
    (place / "secret").symlink_to("/etc/passwd")
    (place / os.fsdecode(b"\xff.png")).write_bytes(b"x")
    (place / "empty.mp4").write_bytes(b"")
    (place / "noread.png").write_bytes(png(header(8, 8), *END))
    return ["verify", "many", "--report", "page.html"]


@attack(statuses=(2,))
def verify_with_a_device_to_trust(folder: Path, url: str) -> Words:
    return ["verify", "portrait.png", "--trust", "/dev/zero"]


@attack(statuses=(2,))
def verify_with_a_pipe_to_trust(folder: Path, url: str) -> Words:
    os.mkfifo(folder / "root.pem")
    return ["verify", "portrait.png", "--trust", "root.pem"]


@attack(statuses=(1, 2, 3, 4))
def verify_with_nonsense_to_trust(folder: Path, url: str) -> Words:
    (folder / "root.pem").write_text("-----BEGIN CERTIFICATE-----\n" + "A" * 100_000)
    return ["verify", "portrait.png", "--trust", "root.pem"]


@attack(statuses=(2,))
def certificate_that_is_a_device(folder: Path, url: str) -> Words:
    return [*swap("portrait.png")[:2], "out.png", "--source", "portrait.png", "--certificate",
            "/dev/zero", "--key", "/dev/zero"]  # fmt: skip
